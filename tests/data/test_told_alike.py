"""Data that was disturbed in every way we could think of: both tools say the same of it, and mend it to the same."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.data.conftest import commit, content, fill, run

from holdfast.core.errors import BadInput, Conflict, HoldfastError
from holdfast.data import cache as caches
from holdfast.data import checkout, legacy, log, manifest, pointers, remove, shared, snapshot, status
from holdfast.data.pointers import Out
from holdfast.data.repository import Repository

NEW = {
    "data": {"a": b"a", "sub/b": b"b\r\n", "sub/empty": b"", "same": b"a"},
    "empty folder": {},
    "file": b"text",
    "nothing": b"",
}
OLD = {"old": {"x": b"one\r\ntwo\r\n", "y": b"\0\r\n", "in/z": b"plain\n"}, "old.txt": b"dos\r\n", "old.bin": b"\0\1\2"}
SEVERAL = {"s/one": b"1", "s/two": {"t": b"2", "u": b"3"}, "s/three": b"33"}


def keep_as_two_x(repo: Repository, name: str, value: dict[str, bytes] | bytes) -> None:
    """Objects and pointer as DVC 2.x left them."""

    def store(data: bytes, md5: str) -> str:
        place = Path(caches.of(repo).path(md5, legacy=True))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        place.chmod(0o444)
        return md5

    def two_x(data: bytes) -> str:
        named = data.replace(b"\r\n", b"\n") if legacy.looks_like_text(data) else data
        return store(data, hashlib.md5(named).hexdigest())

    if isinstance(value, bytes):
        md5, more = two_x(value), f"  size: {len(value)}\n"
    else:
        listing = manifest.render((path, two_x(data)) for path, data in value.items())
        md5 = store(listing, manifest.name(listing))
        more = f"  size: {sum(map(len, value.values()))}\n  nfiles: {len(value)}\n"
    fill(repo.root, {f"{name}.dvc": f"outs:\n- md5: {md5}\n{more}  path: {name}\n".encode()})
    put(repo, name, value)


def put(repo: Repository, name: str, value: dict[str, bytes] | bytes) -> None:
    if isinstance(value, bytes):
        fill(repo.root, {name: value})
    else:
        (repo.root / name).mkdir(parents=True)
        fill(repo.root / name, value)


def build(repo: Repository) -> None:
    """Plain data, data of 2.x, and a pointer with several outs."""
    for name, value in NEW.items():
        put(repo, name, value)
        snapshot.add(repo.root, Path(name))
    for name, value in OLD.items():
        keep_as_two_x(repo, name, value)
    (repo.root / "s").mkdir()
    (repo.root / "s" / "several.dvc").write_text("outs:\n- path: one\n- path: two\n  desc: a folder\n- path: three\n")
    for name, value in SEVERAL.items():
        put(repo, name, value)
        snapshot.add(repo.root, Path(name))


def some_file(out: Out, rng: random.Random) -> Path | None:
    files = sorted(p for p in out.place.rglob("*") if p.is_file()) if out.place.is_dir() else [out.place]
    return rng.choice(files) if files else None


def edit(repo: Repository, out: Out, rng: random.Random) -> None:
    file = some_file(out, rng)
    if file is not None:
        file.unlink()
        file.write_bytes(rng.randbytes(7))


def line_ends(repo: Repository, out: Out, rng: random.Random) -> None:
    """What 2.x took for the same."""
    file = some_file(out, rng)
    if file is not None:
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(data.replace(b"\r\n", b"\n") if b"\r\n" in data else data.replace(b"\n", b"\r\n"))


def touch(repo: Repository, out: Out, rng: random.Random) -> None:
    file = some_file(out, rng)
    if file is not None:
        os.utime(file, ns=(1, 1))
        file.chmod(0o755)


def one_more(repo: Repository, out: Out, rng: random.Random) -> None:
    if out.is_folder:
        fill(out.place, {"sub/more": b"more"})
    else:
        edit(repo, out, rng)


def one_less(repo: Repository, out: Out, rng: random.Random) -> None:
    file = some_file(out, rng)
    if file is not None:
        file.unlink()


def gone(repo: Repository, out: Out, rng: random.Random) -> None:
    shutil.rmtree(out.place) if out.place.is_dir() else out.place.unlink()


def uncached(repo: Repository, out: Out, rng: random.Random) -> None:
    Path(caches.of(repo).path(str(out.md5), legacy=out.legacy)).unlink(missing_ok=True)


def gone_and_uncached(repo: Repository, out: Out, rng: random.Random) -> None:
    gone(repo, out, rng)
    uncached(repo, out, rng)


def edited_and_uncached(repo: Repository, out: Out, rng: random.Random) -> None:
    edit(repo, out, rng)
    uncached(repo, out, rng)


def the_other_kind(repo: Repository, out: Out, rng: random.Random) -> None:
    """A file where a folder was, and the other way round."""
    folder = out.place.is_dir()
    gone(repo, out, rng)
    fill(out.place.parent, {out.place.name: b"a file now"} if folder else {f"{out.place.name}/inner": b"x"})


def nothing(repo: Repository, out: Out, rng: random.Random) -> None:
    return None


WAYS: list[Callable[[Repository, Out, random.Random], None]] = [
    nothing, touch, edit, line_ends, one_more, one_less, gone, uncached, gone_and_uncached, edited_and_uncached, the_other_kind,
]  # fmt: skip


@pytest.mark.peer
@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.soak) for s in range(1, 26))])
def test_what_was_disturbed_is_told_and_mended_as_dvc_does(dvc: str, repo: Repository, seed: int) -> None:
    build(repo)
    assert status.outs(repo) == []
    assert json.loads(run(dvc, repo, "status", "--json")) == {}
    rng = random.Random(seed)
    done = {}
    for pointer in pointers.read_all(repo):
        for out in pointer.outs:
            way = rng.choice(WAYS)
            way(repo, out, rng)
            done[os.path.relpath(out.place, repo.root)] = way.__name__
    assert status.as_dvc(status.outs(repo)) == json.loads(run(dvc, repo, "status", "--json")), done

    # Where nothing is lacking, both bring back the same.
    for pointer in pointers.read_all(repo):
        for out in pointer.outs:
            try:
                checkout.checkout(repo, [out.place], force=True)
            except HoldfastError:
                continue
            left = [state.state for state in status.outs(repo, [out.place])]
            assert left in ([], ["not in cache"]), (out.path, done)
            if out.legacy:
                continue  # text with other line ends is the same to 2.x
            wanted = {**NEW, **SEVERAL}[os.path.relpath(out.place, repo.root)]
            assert (content(out.place) if out.place.is_dir() else out.place.read_bytes()) == wanted, (out.path, done)
    assert status.as_dvc(status.outs(repo)) == json.loads(run(dvc, repo, "status", "--json")), done


@pytest.mark.peer
@pytest.mark.soak
@pytest.mark.parametrize("changed", [False, True])
def test_what_is_added_again_is_named_as_dvc_names_it(dvc: str, repo: Repository, changed: bool) -> None:
    """Unchanged data of 2.x keeps its pointer; changed data gets a 3.x entry in the place of the old one."""
    build(repo)
    singles = [*NEW, *OLD]
    if changed:
        for pointer in pointers.read_all(repo):
            for out in pointer.outs:
                one_more(repo, out, random.Random(out.path))
    files = [repo.root / f"{name}.dvc" for name in singles] + [repo.root / "s" / "several.dvc"]
    before = {file: file.read_bytes() for file in files}
    run(dvc, repo, "add", "-q", *singles)
    run(dvc, repo, "commit", "-q", "-f", "s/several.dvc")
    theirs = {file: file.read_bytes() for file in files}
    assert (theirs != before) == changed
    for file, data in before.items():
        file.write_bytes(data)
    for name in [*singles, *SEVERAL]:
        snapshot.add(repo.root, Path(name))
    assert {file: file.read_bytes() for file in files} == theirs
    assert status.outs(repo) == [] and json.loads(run(dvc, repo, "status", "--json")) == {}


@pytest.mark.peer
@pytest.mark.soak
def test_what_the_remote_lacks_is_told_as_dvc_does(dvc: str, repo: Repository) -> None:
    build(repo)

    def same() -> dict[str, str]:
        theirs = json.loads(run(dvc, repo, "status", "-c", "--json"))
        ours = shared.compare(repo)
        theirs = {path.rstrip("/"): state for path, state in theirs.items()}
        # dvc names each object once; these hold what another path holds too.
        again = {"data/a", "data/same", "data/sub/empty", "nothing"}
        assert theirs.items() <= ours.items() and ours.keys() - theirs.keys() <= again
        return ours

    assert set(same().values()) == {"new"}
    run(dvc, repo, "push", "-q")
    assert same() == {}
    for at, out in enumerate(out for pointer in pointers.read_all(repo) for out in pointer.outs):
        if at % 2:
            uncached(repo, out, random.Random(0))
        else:
            place = Path(caches.Cache(repo.root.parent / "store").path(str(out.md5), legacy=out.legacy))
            place.unlink(missing_ok=True)
    told = same()
    assert set(told.values()) >= {"new", "deleted"}


def test_one_out_of_several_is_meant_alone(repo: Repository) -> None:
    build(repo)
    for name in SEVERAL:
        gone(repo, Out(repo.root / name, name, None), random.Random(0))
    assert len(status.outs(repo, [Path("s/several.dvc")])) == len(status.outs(repo, [Path("s")])) == 3
    assert [s.path for s in status.outs(repo, [Path("s/two")])] == ["s/two"]
    checkout.checkout(repo, [Path("s/two/t")])
    assert content(repo.root / "s" / "two") == {"t": b"2"}
    checkout.checkout(repo, [Path("s/one"), Path("s/two")])
    assert content(repo.root / "s" / "two") == SEVERAL["s/two"] and (repo.root / "s" / "one").read_bytes() == b"1"
    assert not (repo.root / "s" / "three").exists()
    assert not (repo.root / "s" / "one.dvc").exists()
    commit(repo.root, "several")
    assert [e.md5 for e in log.versions(repo, repo.root / "s" / "one")] == [hashlib.md5(b"1").hexdigest()]
    with pytest.raises(BadInput, match="holds 3 outs"):
        log.versions(repo, repo.root / "s" / "several.dvc")
    with pytest.raises(Conflict, match=r"s/several\.dvc tracks two as well as s/one"):
        remove.remove(repo, [repo.root / "s" / "one"])
    assert remove.remove(repo, [repo.root / "s" / "several.dvc"]) == ["s/several.dvc"]
    assert not (repo.root / "s" / ".gitignore").exists() or (repo.root / "s" / ".gitignore").read_text() == ""
