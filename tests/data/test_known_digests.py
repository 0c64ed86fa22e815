"""What is remembered of files is believed only where nothing can have changed unseen."""

from __future__ import annotations

import errno
import os
import time
from array import array
from pathlib import Path
from typing import Any

import pytest
from tests.data.conftest import fill

from holdfast.core.errors import BadInput, Conflict, NotFound
from holdfast.data import cache as caches
from holdfast.data import checkout, hashing, repository, snapshot, state, status, tree
from holdfast.data.repository import Repository

OLD = 1_000_000_000


def _old(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            os.utime(file, (OLD, OLD))
    time.sleep(2 * state.RACY_NS / 1e9)  # ctime cannot be set


def _reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed from now on."""
    read: list[str] = []
    digest = hashing.digest

    def seen(path: str | os.PathLike[str], **options: object) -> hashing.Digest:
        read.append(os.path.basename(path))
        return digest(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(hashing, "digest", seen)
    return read


def test_only_files_changed_just_before_the_look_are_kept_as_unknown(tmp_path: Path) -> None:
    now = 10**18
    times = [(now - 10**9, now - 10**9), (now, 5), (5, now - 1000), (now + 10**12, 5)]
    stats = array("q", [number for at, (mtime, ctime) in enumerate(times) for number in (at, mtime, ctime, at)])
    index = state.Index(list("abcd"), stats, bytes(64), bytes(128), "m", "t")
    state.save(tmp_path, tmp_path / "data", index, looked_at=now)
    kept = state.load(tmp_path, tmp_path / "data")
    assert kept.stats[0::4].tolist() == [0, -1, -1, -1]
    assert index.stats[0::4].tolist() == [0, 1, 2, 3]
    assert (kept.paths, kept.md5_dir, kept.tree) == (list("abcd"), "m", "t")


def test_a_file_written_within_the_tick_is_read_again(repo: Repository) -> None:
    data = repo.root / "data"
    fill(data, {"a": b"one", "b": b"two"})
    snapshot.add(repo.root, data)
    before = (data / "a").stat()
    (data / "a").write_bytes(b"six")  # same size, perhaps the same tick
    os.utime(data / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [found.state for found in status.outs(repo)] == ["modified"]


def test_after_a_checkout_only_placed_files_are_read(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    data = repo.root / "data"
    fill(data, {f"{at % 3}/{at}": str(at).encode() for at in range(30)})
    _old(data)
    snapshot.add(repo.root, data)
    pointer = (repo.root / "data.dvc").read_text()
    fill(data, {"0/3": b"changed", "2/5": b"as well"})
    snapshot.add(repo.root, data)
    (repo.root / "data.dvc").write_text(pointer)
    assert checkout.checkout(repo).files == 2
    read = _reads(monkeypatch)
    assert status.outs(repo) == []
    assert set(read) <= {"3", "5"}
    # Those two were placed within the tick; once it is over they are known as well.
    time.sleep(2 * state.RACY_NS / 1e9)
    assert status.outs(repo) == []
    read.clear()
    assert status.outs(repo) == []
    assert read == []


def test_a_checkout_that_adds_and_removes_remembers_the_rest(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    data = repo.root / "data"
    fill(data, {name: name.encode() for name in "abcd"})
    _old(data)
    snapshot.add(repo.root, data)
    pointer = (repo.root / "data.dvc").read_text()
    (data / "a").unlink()
    fill(data, {"e": b"new"})
    snapshot.add(repo.root, data)
    (repo.root / "data.dvc").write_text(pointer)
    checkout.checkout(repo)
    read = _reads(monkeypatch)
    assert status.outs(repo) == []
    assert set(read) <= {"a"}


def test_a_walk_names_what_cannot_be_tracked_by_its_whole_path(tmp_path: Path) -> None:
    fill(tmp_path, {"data/sub/file": b"x"})
    (tmp_path / "data" / "sub" / "link").symlink_to("nowhere")
    with pytest.raises(NotFound, match=str(tmp_path / "data" / "sub" / "link")):
        tree.listing(tmp_path / "data")
    (tmp_path / "data" / "sub" / "link").unlink()
    os.mkfifo(tmp_path / "data" / "sub" / "pipe")
    with pytest.raises(BadInput, match=str(tmp_path / "data" / "sub" / "pipe")):
        tree.listing(tmp_path / "data")
    with pytest.raises(NotFound, match="is not a folder"):
        tree.listing(tmp_path / "data" / "sub" / "file")


def test_a_walk_leaves_no_descriptor_open(tmp_path: Path) -> None:
    fill(tmp_path, {f"{at}/{at}/file": b"x" for at in range(50)})
    (tmp_path / "7" / "7" / "link").symlink_to("nowhere")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        with pytest.raises(NotFound):
            tree.listing(tmp_path)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before


@pytest.mark.parametrize("links", ["hardlink", "symlink"])
def test_linked_data_is_known_after_it_was_added(repo: Repository, links: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (repo.dvc / "config").write_text(f"[cache]\n    type = {links}\n")
    repo = repository.open_at(repo.root)
    data = repo.root / "data"
    fill(data, {f"{at % 3}/{at}": str(at % 20).encode() for at in range(30)} | {"empty": b"", "other": b""})
    _old(data)
    snapshot.add(repo.root, data)
    cache = caches.of(repo)
    for file in data.rglob("*"):
        if file.is_file() and file.stat().st_size:
            stored = cache.path(hashing.md5_of(file.read_bytes()))
            assert os.path.samefile(file, stored), "twins as well are one with their object"
            assert file.is_symlink() == (links == "symlink")
            assert os.stat(stored).st_mode & 0o777 == 0o444
    assert not os.listdir(repo.cache / "holdfast-tmp")
    time.sleep(2 * state.RACY_NS / 1e9)
    assert status.outs(repo) == []
    read = _reads(monkeypatch)
    assert status.outs(repo) == []
    assert read == []


@pytest.mark.parametrize("links", ["hardlink", "symlink"])
@pytest.mark.parametrize("when", ["while it waits for its name", "just before it gets it"])
@pytest.mark.parametrize("how", ["written to", "replaced"])
def test_a_file_changed_between_its_hash_and_its_name_never_becomes_an_object(
    repo: Repository, links: str, when: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repo.dvc / "config").write_text(f"[cache]\n    type = {links}\n")
    repo = repository.open_at(repo.root)
    data = repo.root / "data"
    fill(data, {f"{at}": b"%d" % at for at in range(12)})
    _old(data)
    time.sleep(0.02)
    settle, link = caches.Cache._settle, os.link

    def change() -> None:
        if how == "written to":
            (data / "3").write_bytes(b"written late")
        else:
            other = data.parent / "other"
            other.write_bytes(b"!")  # of the same size
            os.utime(other, ns=(0, (data / "3").stat().st_mtime_ns))
            other.replace(data / "3")

    def late(cache: caches.Cache, waiting: list[Any]) -> None:
        if waiting:
            change()
        settle(cache, waiting)

    def late_link(source: str, target: str) -> None:
        if source == str(data / "3"):
            change()
        link(source, target)

    if when == "while it waits for its name":
        monkeypatch.setattr(caches.Cache, "make_settled", lambda _: lambda: 0)
        monkeypatch.setattr(caches.Cache, "_settle", late)
    else:
        monkeypatch.setattr(os, "link", late_link)
    with pytest.raises(Conflict, match="data/3 changed"):
        snapshot.add(repo.root, data)
    monkeypatch.undo()
    cache = caches.of(repo)
    assert (data / "3").read_bytes() == (b"written late" if how == "written to" else b"!")
    assert not (repo.root / "data.dvc").exists()
    assert len(cache.all()) == 11
    assert all(hashing.md5_of(Path(cache.path(md5)).read_bytes()) == md5 for md5 in cache.all())
    snapshot.add(repo.root, data)
    assert status.outs(repo) == []


@pytest.mark.parametrize("call", ["link", "fchmod"])
def test_where_files_cannot_be_linked_the_object_is_a_verified_copy(
    repo: Repository, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repo.dvc / "config").write_text("[cache]\n    type = hardlink,copy\n")
    repo = repository.open_at(repo.root)
    data = repo.root / "data"
    fill(data, {f"{at}": b"%d" % at for at in range(12)})

    def refused(*args: object, **options: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    time.sleep(0.02)
    monkeypatch.setattr(os, call, refused)
    version = snapshot.add(repo.root, data)
    cache = caches.of(repo)
    assert version.files == 12
    assert len(cache.all()) == 13
    for at in range(12):
        stored = Path(cache.path(hashing.md5_of(b"%d" % at)))
        assert stored.read_bytes() == b"%d" % at
        assert stored.stat().st_mode & 0o777 == 0o444
    assert not os.listdir(repo.cache / "holdfast-tmp")
    assert status.outs(repo) == []


def test_a_disk_that_refuses_a_name_is_told_of_as_it_said(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    data = repo.root / "data"
    fill(data, {f"{at}": b"%d" % at for at in range(12)})
    rename = os.rename
    done: list[str] = []

    def full(source: str, target: str) -> None:
        if "/files/md5/" in str(target):
            if len(done) == 5:
                raise OSError(errno.ENOSPC, "full", target)
            done.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="full") as told:
        snapshot.add(repo.root, data)
    assert told.value.errno == errno.ENOSPC
    monkeypatch.undo()
    cache = caches.of(repo)
    assert len(cache.all()) == 5
    assert not (repo.root / "data.dvc").exists()
    snapshot.add(repo.root, data)
    assert len(cache.all()) == 13
    assert status.outs(repo) == []
