"""SIGKILL at random moments: the repository is usable at once, nothing acknowledged is lost, no object has another's bytes.

The long form is a soak: ``HOLDFAST_DATA_KILLS`` kills for each verb (100 without it).
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.data.conftest import commit, content, fill

from holdfast.core import files as durable
from holdfast.data import cache as caches
from holdfast.data import checkout, gc, pointers, repository, snapshot, status, transfer
from holdfast.data.repository import Repository

VICTIM = """
import os, random, shutil, sys
from pathlib import Path
from holdfast.data import crew, hashing, repository, snapshot, transfer, tree, twin, gc, checkout
if sys.argv.pop() == "several processes":
    crew.MANY = hashing.GROUP = tree.MANY = 8
    twin.processors = lambda: 2
repo = repository.open_at(Path.cwd())
told = os.open("../told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
versions = sys.argv[2:]
print("ready", flush=True)
while True:
    if sys.argv[1] == "add":
        (Path("data") / f"{random.randrange(50)}.bin").write_bytes(random.randbytes(3000))
        os.write(told, (snapshot.add(repo.root, Path("data")).md5 + "\\n").encode())
    elif sys.argv[1] == "link":
        shutil.rmtree(repo.cache, ignore_errors=True); shutil.rmtree(repo.state, ignore_errors=True)
        shutil.rmtree("data"); os.mkdir("data")
        for at in range(50):
            (Path("data") / f"{at}.bin").write_bytes(random.randbytes(3000))
        os.write(told, (snapshot.add(repo.root, Path("data")).md5 + "\\n").encode())
    elif sys.argv[1] == "push":
        os.ftruncate(told, 0)
        shutil.rmtree("../old", ignore_errors=True)
        if Path("../store").exists():
            os.rename("../store", "../old")
        transfer.push(repo)
        os.write(told, b"pushed\\n")
    elif sys.argv[1] == "pull":
        shutil.rmtree(repo.cache, ignore_errors=True); shutil.rmtree("data", ignore_errors=True)
        transfer.pull(repo)
    elif sys.argv[1] == "checkout":
        Path("data.dvc").write_text(Path(random.choice(versions)).read_text())
        checkout.checkout(repo)
    else:
        gc.collect(repo)
        transfer.fetch(repo)
"""
VERBS = ["add", "link", "push", "pull", "checkout", "gc"]
MANY = int(os.environ.get("HOLDFAST_DATA_KILLS", "100"))


def sound(cache: caches.Cache) -> None:
    """Every object has the bytes its name says, and DVC's mark of that."""
    for md5 in cache.all():
        path = Path(cache.path(md5))
        assert hashlib.md5(path.read_bytes()).hexdigest() == md5[:32], md5
        assert path.stat().st_mode & 0o777 == 0o444


def whole(cache: caches.Cache, md5: str) -> dict[str, str]:
    """A version of which everything is there."""
    members = cache.members(md5)
    assert cache.present(members.values()) == set(members.values())
    return members


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("by", ["one process", "several processes"])
@pytest.mark.parametrize("rounds", [2, pytest.param(MANY, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_killed_anywhere(repo: Repository, verb: str, by: str, rounds: int) -> None:
    rng = random.Random(f"{verb}{rounds}")
    root, cache, store = repo.root, caches.of(repo), caches.Cache(repo.root.parent / "store")
    fill(root / "data", {f"{i}.bin": rng.randbytes(3000) for i in range(50)})
    snapshot.add(root, Path("data"))
    commit(root, "one")
    shutil.copy(root / "data.dvc", root.parent / "one")
    fill(root / "data", {f"{i}.bin": rng.randbytes(3000) for i in range(0, 60, 2)})
    snapshot.add(root, Path("data"))
    commit(root, "two")
    shutil.copy(root / "data.dvc", root.parent / "two")
    transfer.push(repo)
    if verb == "link":
        with (repo.dvc / "config").open("a") as config:
            config.write("[cache]\n    type = hardlink\n")
        repo = repository.open_at(root)
        checkout.checkout(repo, relink=True)  # a victim that is killed early leaves what was there before
    versions = [str(root.parent / name) for name in ("one", "two")]
    landed = 0
    for _ in range(rounds):
        (root.parent / "told").unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", VICTIM, verb, *versions, by], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(rng.random() * 0.6)
        process.kill()
        process.wait()
        told = (root.parent / "told").read_text().split()
        landed += len(told)
        sound(cache)
        sound(store)
        out = pointers.read(root / "data.dvc", root).outs[0] if (root / "data.dvc").read_text() else None
        if verb == "add":
            assert out is not None and out.md5 is not None
            for acknowledged in told:
                whole(cache, acknowledged)
            # The pointer names the last acknowledged version, or the one that was about to be.
            whole(cache, out.md5)
            snapshot.add(root, Path("data"))
        if verb == "link":
            # The victim makes the folder anew and forgets the cache; it may be found doing so.
            (root / "data").mkdir(exist_ok=True)
            version = snapshot.add(root, Path("data"))
            whole(cache, str(version.md5))
            assert all(p.stat().st_nlink == 2 for p in (root / "data").iterdir() if p.stat().st_size)
        if verb == "push":
            assert out is not None
            if told:
                whole(store, str(out.md5))
            for md5 in store.all():
                if md5.endswith(".dir"):
                    whole(store, md5)
            transfer.push(repo, verify=True)
            whole(store, str(out.md5))
        if verb == "pull":
            transfer.pull(repo, force=True)
            assert len(content(root / "data")) == 55
        if verb == "checkout":
            # The victim writes the pointer as a user's editor would; it may be found half written.
            shutil.copy(rng.choice(versions), root / "data.dvc")
            checkout.checkout(repo)
        if verb == "gc":
            assert out is not None
            whole(cache, str(out.md5))
            gc.collect(repo)
        assert status.outs(repo) == []
    assert verb != "add" or rounds < 10 or landed


@pytest.mark.parametrize("verb", ["add", "add by link", "push", "fetch"])
@pytest.mark.parametrize("count", [3, 40])
def test_no_object_has_its_name_before_its_bytes_are_on_the_disk_and_the_pointer_comes_last(
    repo: Repository, verb: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill cannot show what a power cut would take: here each sync is watched instead."""
    if verb == "add by link":
        (repo.dvc / "config").write_text("[cache]\n    type = hardlink\n")
        repo = repository.open_at(repo.root)
    fill(repo.root / "data", {f"{i}.bin": os.urandom(100) for i in range(count)})
    if not verb.startswith("add"):
        snapshot.add(repo.root, Path("data"))
    if verb == "fetch":
        transfer.push(repo)
        shutil.rmtree(repo.cache)
    synced: set[int] = set()
    named: list[str] = []
    rename, link, sync = os.rename, os.link, durable.sync

    def watched_sync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def watched_file_system(folder: str) -> bool:
        synced.update(p.stat().st_ino for p in repo.root.parent.rglob("*") if p.exists())
        return True

    def watched_rename(source: str, target: str) -> None:
        if "files/md5" in str(target):
            assert os.stat(source).st_ino in synced, target
            named.append(str(target))
        rename(source, target)

    def watched_link(source: str, target: str) -> None:
        if "files/md5" in str(target) and os.path.exists(os.path.dirname(target)):
            assert os.stat(source).st_ino in synced, target
            named.append(str(target))
        link(source, target)

    def watched_replace(source: Path, target: Path) -> Path:
        if target.name == "data.dvc":
            # Objects and the folders that hold their names.
            for name in named:
                assert Path(name).parent.stat().st_ino in synced
            assert source.stat().st_ino in synced
            named.append("pointer")
        os.replace(source, target)
        return target

    monkeypatch.setattr(durable, "sync", watched_sync)
    monkeypatch.setattr(pointers, "sync", watched_sync)
    monkeypatch.setattr(durable, "sync_file_system", watched_file_system)
    monkeypatch.setattr(caches, "sync_file_system", watched_file_system)
    monkeypatch.setattr(os, "link", watched_link)
    monkeypatch.setattr(os, "rename", watched_rename)
    monkeypatch.setattr(Path, "replace", watched_replace)
    if verb.startswith("add"):
        snapshot.add(repo.root, Path("data"))
    elif verb == "push":
        transfer.push(repo)
    else:
        transfer.fetch(repo)
    objects = [name for name in named if name != "pointer"]
    assert len(objects) == count + 1 and objects[-1].endswith(".dir")
    assert (named[-1] == "pointer") == verb.startswith("add")


def test_what_was_complete_before_an_error_is_kept(repo: Repository) -> None:
    cache = caches.of(repo)

    def interrupted() -> None:
        with cache.settling():
            cache.put(b"a", hashlib.md5(b"a").hexdigest())
            assert not cache.has(hashlib.md5(b"a").hexdigest())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert cache.read(hashlib.md5(b"a").hexdigest()) == b"a"
