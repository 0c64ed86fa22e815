"""The contract of an object store, as tests. A backend's own test module makes a class of it:

    class TestMyObjects(ObjectsContract):
        @pytest.fixture
        def open_objects(self, tmp_path):     # a function that opens the same, at first empty, store again and again
            return lambda: MyObjects(tmp_path)

        def damage(self, objects, sha256, data): ...   # put other bytes in an object's place

Needs pytest; asks only for these two.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.core.errors import BadInput, Damaged, NotFound
from holdfast.core.ports import Objects

Opener = Callable[[], Objects]
ABSENT = "0" * 64


class ObjectsContract:
    """What every object store must do, whatever it stands on."""

    @pytest.fixture
    def objects(self, open_objects: Opener) -> Objects:
        return open_objects()

    def damage(self, objects: Objects, sha256: str, data: bytes) -> None:
        """Put other bytes in an object's place, past the store."""
        raise NotImplementedError

    @pytest.mark.parametrize("data", [b"", b"x", b"\0\r\n" * 1000, bytes(range(256)) * 20_000])
    def test_bytes_come_back(self, objects: Objects, data: bytes, tmp_path: Path) -> None:
        name = objects.put(data)
        assert name == hashlib.sha256(data).hexdigest()
        assert objects.get(name) == data
        assert objects.exists(name) and objects.size(name) == len(data)
        path = objects.fetch(name)
        assert path.read_bytes() == data
        assert not stat.S_IMODE(path.stat().st_mode) & 0o222

    def test_a_file_comes_back(self, objects: Objects, tmp_path: Path) -> None:
        data = os.urandom(3_000_000)
        source = tmp_path / "source"
        source.write_bytes(data)
        name = objects.put_file(source)
        assert name == hashlib.sha256(data).hexdigest()
        source.write_bytes(b"changed later")
        assert objects.get(name) == data
        assert objects.fetch(name).read_bytes() == data

    def test_storing_twice_is_storing_once(self, objects: Objects, open_objects: Opener, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"same")
        assert objects.put(b"same") == open_objects().put(b"same") == objects.put_file(source)
        assert list(objects.list()) == [hashlib.sha256(b"same").hexdigest()]

    def test_list_names_all(self, objects: Objects) -> None:
        assert list(objects.list()) == []
        names = {objects.put(bytes([i])) for i in range(20)}
        assert set(objects.list()) == names

    def test_absent(self, objects: Objects) -> None:
        assert not objects.exists(ABSENT)
        objects.delete(ABSENT)
        for call in (objects.get, objects.fetch, objects.size):
            with pytest.raises(NotFound):
                call(ABSENT)

    @pytest.mark.parametrize("name", ["", "abc", "../" * 21 + "x", "A" * 64, "0" * 63 + "/", "0" * 64 + "\n"])
    def test_names_that_are_no_hash_are_refused(self, objects: Objects, name: str) -> None:
        for call in (objects.get, objects.fetch, objects.size, objects.exists, objects.delete):
            with pytest.raises(BadInput):
                call(name)

    def test_delete(self, objects: Objects) -> None:
        name = objects.put(b"gone")
        objects.delete(name)
        assert not objects.exists(name)
        with pytest.raises(NotFound):
            objects.get(name)
        assert objects.put(b"gone") == name
        assert objects.get(name) == b"gone"

    @pytest.mark.parametrize("wrong", [b"", b"evil", b"god", b"good and more"])
    def test_damaged_bytes_are_never_returned(self, objects: Objects, open_objects: Opener, wrong: bytes) -> None:
        name = objects.put(b"good")
        self.damage(objects, name, wrong)
        for store in (objects, open_objects()):
            with pytest.raises(Damaged):
                store.get(name)
            with pytest.raises(Damaged):
                store.fetch(name)

    def test_damage_is_found_after_a_good_fetch(self, objects: Objects) -> None:
        name = objects.put(b"good")
        objects.fetch(name)
        self.damage(objects, name, b"evil")
        with pytest.raises(Damaged):
            objects.get(name)

    def test_many_writers_of_the_same_bytes(self, open_objects: Opener) -> None:
        data = os.urandom(200_000)
        names: list[str] = []
        failures: list[Exception] = []

        def put() -> None:
            try:
                names.append(open_objects().put(data))
            except Exception as error:  # noqa: BLE001 - a thread hands its failure over
                failures.append(error)

        threads = [threading.Thread(target=put) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert set(names) == {hashlib.sha256(data).hexdigest()}
        assert open_objects().get(names[0]) == data

    def test_a_missing_source_is_the_callers(self, objects: Objects, tmp_path: Path) -> None:
        with pytest.raises((OSError, NotFound)):
            objects.put_file(tmp_path / "absent")
        assert list(objects.list()) == []
