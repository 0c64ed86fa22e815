from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from holdfast.core.errors import Conflict, Damaged
from holdfast.core.records import Arm, Release
from holdfast.serving import release_file

KEY = b"k" * 32


def release(sequence: int, version: int = 1) -> Release:
    return Release(
        service="svc",
        environment="production",
        model="m",
        sequence=sequence,
        champion=Arm(version=version, content="c"),
    )


def test_round_trip_and_nothing_there(tmp_path: Path) -> None:
    assert release_file.read(tmp_path, "svc", "production", KEY) is None
    release_file.write(tmp_path, release(1), KEY)
    release_file.write(tmp_path, release(1), KEY)
    found = release_file.read(tmp_path, "svc", "production", KEY)
    assert found is not None and found.sequence == 1 and found.signature
    assert release_file.read(tmp_path, "svc", "staging", KEY) is None


@pytest.mark.parametrize("sequence", [1, 2])
def test_lower_and_equal_sequences_are_refused(tmp_path: Path, sequence: int) -> None:
    release_file.write(tmp_path, release(2), KEY)
    with pytest.raises(Conflict):
        release_file.write(tmp_path, release(sequence, version=9), KEY)
    found = release_file.read(tmp_path, "svc", "production", KEY)
    assert found is not None and found.champion is not None and found.champion.version == 1


def test_an_edited_or_foreign_file_is_damaged(tmp_path: Path) -> None:
    release_file.write(tmp_path, release(1), KEY)
    path = release_file.path(tmp_path, "svc", "production")
    good = path.read_bytes()
    value = json.loads(good)
    value["champion"]["version"] = 2
    for data in (json.dumps(value).encode(), good[:40], b"[]"):
        path.write_bytes(data)
        with pytest.raises(Damaged):
            release_file.read(tmp_path, "svc", "production", KEY)
    path.write_bytes(good)
    with pytest.raises(Damaged):
        release_file.read(tmp_path, "svc", "production", b"o" * 32)
    release_file.path(tmp_path, "svc", "staging").write_bytes(good)
    with pytest.raises(Damaged):
        release_file.read(tmp_path, "svc", "staging", KEY)


def test_readers_only_ever_see_whole_releases_and_sequences_rise(tmp_path: Path) -> None:
    stop = threading.Event()
    problems: list[str] = []

    def reader() -> None:
        last = 0
        while not stop.is_set():
            found = release_file.read(tmp_path, "svc", "production", KEY)
            if found is not None:
                if found.sequence < last:
                    problems.append(f"{last} → {found.sequence}")
                last = found.sequence

    readers = [threading.Thread(target=reader) for _ in range(3)]
    for r in readers:
        r.start()
    for sequence in range(1, 60):
        release_file.write(tmp_path, release(sequence), KEY)
    stop.set()
    for r in readers:
        r.join()
    assert not problems
