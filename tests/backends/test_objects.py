"""The contract of object stores over a local folder and S3 (moto), and what only these can go wrong with."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
import uuid

import pytest

from holdfast.backends.objects_local import LocalObjects
from holdfast.backends.objects_remote import RemoteObjects
from holdfast.core.errors import BadConfig, Damaged, NotFound, Unavailable
from holdfast.testing.objects import ObjectsContract


class TestLocal(ObjectsContract):
    @pytest.fixture
    def open_objects(self, tmp_path):
        return lambda: LocalObjects(tmp_path / "objects")

    def damage(self, objects, sha256, data):
        path = objects._root / sha256[:2] / sha256[2:]
        path.unlink()
        path.write_bytes(data)


@pytest.fixture(scope="module")
def s3():
    pytest.importorskip("moto.server")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, "moto did not start"
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait()


@pytest.fixture
def bucket(s3, monkeypatch):
    import urllib.request

    for name, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"holdfast-{uuid.uuid4().hex}"
    urllib.request.urlopen(urllib.request.Request(f"{s3}/{name}", method="PUT")).close()
    return name


class TestS3(ObjectsContract):
    @pytest.fixture
    def open_objects(self, bucket, tmp_path):
        # Each opening has a cache of its own, as on another machine.
        return lambda: RemoteObjects(f"s3://{bucket}/some/prefix", cache=tmp_path / "cache" / uuid.uuid4().hex)

    def damage(self, objects, sha256, data):
        import obstore

        obstore.put(objects._store, f"{sha256[:2]}/{sha256[2:]}", data)
        path = objects._cache._path(sha256)
        if path.exists():
            path.unlink()
            path.write_bytes(data)

    def test_damage_in_the_cache_alone_is_mended_from_the_store(self, objects):
        name = objects.put(b"good")
        path = objects.fetch(name)
        path.unlink()
        path.write_bytes(b"evil")
        assert objects.fetch(name).read_bytes() == b"good"

    def test_fetch_answers_from_the_cache_when_the_store_is_away(self, objects, monkeypatch):
        name = objects.put(b"kept")
        objects.fetch(name)
        monkeypatch.setattr(objects, "_store", None)
        assert objects.fetch(name).read_bytes() == b"kept"

    def test_a_big_file_goes_up_in_parts(self, objects, open_objects, tmp_path, monkeypatch):
        monkeypatch.setattr("holdfast.backends.objects_remote._ONE_REQUEST", 1 << 20)
        data = os.urandom(7 << 20)
        (tmp_path / "big").write_bytes(data)
        assert open_objects().get(objects.put_file(tmp_path / "big")) == data

    def test_a_bucket_that_is_not_there(self, s3, bucket, tmp_path):
        objects = RemoteObjects("s3://no-such-bucket-anywhere", cache=tmp_path / "c")
        with pytest.raises((NotFound, Unavailable)):
            objects.put(b"x")

    def test_an_endpoint_that_is_not_there(self, bucket, tmp_path, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        objects = RemoteObjects(f"s3://{bucket}", cache=tmp_path / "c", retries=0)
        with pytest.raises(Unavailable):
            objects.put(b"x")

    def test_a_url_that_leads_nowhere(self, tmp_path):
        with pytest.raises(BadConfig):
            RemoteObjects("nonsense://x", cache=tmp_path)


# --- the local folder's own -------------------------------------------------------------------------------------------


@pytest.fixture
def objects(tmp_path):
    return LocalObjects(tmp_path / "objects")


def contents(objects):
    return sorted(p for p in objects._root.rglob("*") if p.is_file()) if objects._root.exists() else []


def test_a_full_disk_leaves_nothing(objects, monkeypatch, tmp_path):
    objects.put(b"before")
    before = contents(objects)
    (tmp_path / "f").write_bytes(b"y" * 1000)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for put in (lambda: objects.put(b"x" * 1000), lambda: objects.put_file(tmp_path / "f")):
        with pytest.raises(OSError) as caught:
            put()
        assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert contents(objects) == before


def test_bytes_are_on_the_disk_before_they_have_their_name(objects, monkeypatch, tmp_path):
    """fsync of the file, then rename, then fsync of the folder; in this order for both ways of putting."""
    log = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def logged_fsync(descriptor):
        log.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def logged(real):
        def move(*arguments, **named):
            log.append("rename")
            return real(*arguments, **named)

        return move

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "rename", logged(rename))
    monkeypatch.setattr(os, "replace", logged(replace))
    (tmp_path / "f").write_bytes(b"from a file")
    for put in (lambda: objects.put(b"bytes"), lambda: objects.put_file(tmp_path / "f")):
        log.clear()
        put()
        moved = log.index("rename")
        assert "file" in log[:moved]
        assert "folder" in log[moved:]


def test_a_lying_disk_is_found_when_read(objects, tmp_path, monkeypatch):
    """A disk that acknowledges a write and keeps only half of it."""
    import builtins

    real = os.fsync

    def lying(descriptor):
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        if os.path.isfile(target):
            os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", lying)
    name = objects.put(b"x" * 10_000)
    monkeypatch.undo()
    assert builtins.len(contents(objects)) == 1
    with pytest.raises(Damaged):
        LocalObjects(objects._root).get(name)
    assert objects.put(b"x" * 10_000) == name
    assert objects.get(name) == b"x" * 10_000


def test_putting_the_original_again_mends(objects):
    name = objects.put(b"good")
    path = objects.fetch(name)
    path.unlink()
    path.write_bytes(b"evil")
    assert objects.put(b"good") == name
    assert objects.get(name) == b"good"


def test_a_link_in_an_objects_place_is_not_followed(objects, tmp_path):
    name = objects.put(b"good")
    path = objects.fetch(name)
    (tmp_path / "elsewhere").write_bytes(b"good")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    for call in (objects.get, objects.fetch):
        with pytest.raises(Damaged):
            call(name)


def test_left_over_temporary_files_are_swept(objects):
    objects.put(b"x")
    stale, young = objects._scratch / "stale", objects._scratch / "young"
    stale.write_bytes(b"")
    young.write_bytes(b"")
    os.utime(stale, (1, 1))
    LocalObjects(objects._root).put(b"y")
    assert not stale.exists() and young.exists()
