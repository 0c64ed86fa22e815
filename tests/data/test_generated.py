"""Whole generated repositories worked on by both tools in turn: after every step each says clean of what the other did."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from tests.data.conftest import commit, content, fill, run

from holdfast.data import checkout, gc, pointers, remove, repository, scrub, snapshot, status, transfer
from holdfast.data.repository import Repository

NAMES = [
    "a", "B", "sub-1/x", "sub.x/y", "sub/z", "ü", "it's", "sp ace", "#hash", "!bang", "[x]", "*star", "q?mark", "yes",
    "back\\slash", ".hidden", "123", "true", "null", "1e5", "0x1f", "a: b", "- dash", "@at", "%pc", "&amp", "{curly}",
    "`tick`", '"quoted"', "~tilde", "deep/er/and/deeper/f", "tab\there", "日本", "e\u0301", "\u00e9", "long" * 40, "NaN",
    "x.dvc.txt", "com,ma", "=eq", "|pipe", ">gt", "1_000", "12:30:45", "2024-01-01",
]  # fmt: skip
SINGLE = [n for n in NAMES if "/" not in n]
SEVERAL = "group/several.dvc"
MEMBERS = ["one", "two", "in/ü three", "[four]"]
"""The outs of a pointer that people wrote by hand, as they are named in it; the second is a folder."""
LINKS = ["copy", "hardlink", "symlink", "reflink,copy"]


def blob(rng: random.Random) -> bytes:
    return rng.choice([b"", b"\n", b"text\r\nwith crlf\r\n", rng.randbytes(10), rng.randbytes(5000), b"same bytes"])


def folder(rng: random.Random, most: int = 12) -> dict[str, bytes]:
    return {name: blob(rng) for name in rng.sample(NAMES, rng.randint(0, most))}


class World:
    """A repository, and what every tracked path should hold."""

    def __init__(self, dvc: str, repo: Repository, seed: int) -> None:
        self.dvc, self.rng, self.seed = dvc, random.Random(seed), seed
        links = LINKS[seed % len(LINKS)]
        (repo.dvc / "config").write_text(
            f"[core]\n    remote = r\n[cache]\n    type = {links}\n"
            "['remote \"r\"']\n    url = ../../store\n['remote \"second\"']\n    url = ../../second\n"
        )
        self.repo = repository.open_at(repo.root)
        self.wanted: dict[str, dict[str, bytes] | bytes] = {}
        self.gone = 0

    def change(self) -> list[str]:
        """Make or change a few tracked paths in the workspace; which."""
        rng, changed = self.rng, []
        for name in rng.sample(SINGLE, 2):
            self.wanted[name] = blob(rng)
            changed.append(name)
        for name in rng.sample(["data", "d-2", "nested/ü folder"], 2):
            old = self.wanted.get(name)
            held = dict(old) if isinstance(old, dict) else folder(rng)
            for path in list(held):
                if rng.random() < 0.3:
                    del held[path]
                elif rng.random() < 0.3:
                    held[path] = blob(rng)
            held.update(folder(rng, 3))
            self.wanted[name] = held
            changed.append(name)
        for member in rng.sample(MEMBERS, 2) if (self.repo.root / SEVERAL).exists() else MEMBERS:
            self.wanted[f"group/{member}"] = folder(rng, 4) if member == "two" else blob(rng)
            changed.append(f"group/{member}")
        for name in changed:
            self.write(name)
        if not (self.repo.root / SEVERAL).exists():
            lines = "".join(f"- path: '{member}'\n  meta: {{by: hand}}\n" for member in MEMBERS)
            (self.repo.root / SEVERAL).write_text(f"# written by hand\nouts:\n{lines}")
        return changed

    def write(self, name: str) -> None:
        place, value = self.repo.root / name, self.wanted[name]
        if isinstance(value, bytes):
            if place.is_symlink() or place.exists():
                place.unlink()
            fill(self.repo.root, {name: value})
            return
        place.mkdir(parents=True, exist_ok=True)
        for path in content(place):
            if path not in value:
                (place / path).unlink()
        for path, data in value.items():
            file = place / path
            if file.is_symlink() or (file.exists() and file.read_bytes() != data):
                file.unlink()  # as a person must with linked files
            if not file.exists():
                fill(place, {path: data})
        if self.rng.random() < 0.5:
            (place / "an empty folder").mkdir(exist_ok=True)

    def add(self, names: list[str], by_dvc: bool) -> None:
        if by_dvc:
            run(self.dvc, self.repo, "add", "-q", *(f"./{name}" for name in names if not in_several(name)))
            run(self.dvc, self.repo, "commit", "-q", "-f", SEVERAL)
        else:
            for name in names:
                snapshot.add(self.repo.root, Path(name))

    def check(self) -> None:
        """Both tools say clean, and every path holds what it should."""
        assert json.loads(run(self.dvc, self.repo, "status", "--json")) == {}, self.seed
        assert status.outs(self.repo) == [], self.seed
        for name, value in self.wanted.items():
            place = self.repo.root / name
            assert (content(place) if place.is_dir() else place.read_bytes()) == value, (self.seed, name)

    def forget(self) -> None:
        """As somebody who has just cloned it."""
        shutil.rmtree(self.repo.cache, ignore_errors=True)
        for name in self.wanted:
            place = self.repo.root / name
            shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
        shutil.rmtree(self.repo.dvc / "tmp")


def in_several(name: str) -> bool:
    return name.removeprefix("group/") in MEMBERS


def same_pointers(world: World, names: list[str], by_hand: bytes) -> None:
    """What the other tool writes for the same data is the same bytes. ``by_hand`` is what there was of ``SEVERAL``."""
    single = [name for name in names if not in_several(name)]
    files = [world.repo.root / f"{name}.dvc" for name in single]
    several = world.repo.root / SEVERAL
    ignores = [p for p in world.repo.root.rglob(".gitignore") if ".dvc" not in p.parts]
    ours = {p: p.read_bytes() for p in [*files, several, *ignores]}
    for p in files:
        p.unlink()
    several.write_bytes(by_hand)
    run(world.dvc, world.repo, "add", "-q", *(f"./{name}" for name in single))
    run(world.dvc, world.repo, "commit", "-q", "-f", SEVERAL)
    assert {p: p.read_bytes() for p in ours} == ours, world.seed


@pytest.mark.peer
@pytest.mark.parametrize("seed", [-1, *(pytest.param(s, marks=pytest.mark.soak) for s in range(1, 41))])
@pytest.mark.timeout(900)
def test_both_tools_on_one_repository(dvc: str, repo: Repository, seed: int) -> None:
    """A negative seed is the short form: ours to dvc's and back, without the history."""
    world = World(dvc, repo, seed)
    fresh = world.change()
    by_hand = (repo.root / SEVERAL).read_bytes()
    world.add(fresh, by_dvc=False)
    same_pointers(world, fresh, by_hand)
    world.check()
    commit(world.repo.root, "one")
    first = {name: dict(v) if isinstance(v, dict) else v for name, v in world.wanted.items()}
    transfer.push(world.repo, verify=True)
    run(dvc, world.repo, "push", "-q", "-r", "second")
    assert objects(repo.root.parent / "store") == objects(repo.root.parent / "second")

    world.forget()
    run(dvc, world.repo, "pull", "-q")
    world.check()
    if seed < 0:
        return
    world.add(world.change(), by_dvc=True)
    world.check()
    commit(world.repo.root, "two")
    run(dvc, world.repo, "push", "-q")
    world.forget()
    transfer.pull(world.repo)
    world.check()
    assert scrub.scrub(world.repo).bad == []

    # Back to the first commit by one tool, forward by the other.
    second = world.wanted
    later = [name for name in second if name not in first]
    world.wanted = first
    checkout_pointers(world, "HEAD~1")
    transfer.fetch(world.repo)
    checkout.checkout(world.repo)
    for name in later:
        place = world.repo.root / name
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
    world.check()
    world.wanted = second
    checkout_pointers(world, "HEAD")
    run(dvc, world.repo, "checkout", "-q")
    world.check()

    # One path is let go of by us, and gc of either keeps the rest whole.
    name = world.rng.choice(sorted(name for name in world.wanted if not in_several(name)))
    remove.remove(world.repo, [world.repo.root / f"{name}.dvc"], outs=True)
    del world.wanted[name]
    gc.collect(world.repo)
    world.check()
    run(dvc, world.repo, "gc", "-q", "-w", "-f")
    world.check()


def checkout_pointers(world: World, commit_name: str) -> None:
    from tests.data.conftest import git

    for file in pointers.find(world.repo):
        file.unlink()
    git(world.repo.root, "checkout", "-q", commit_name, "--", ".")


def objects(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in (root / "files").rglob("*") if p.is_file()}


@pytest.mark.peer
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_thousand_files(dvc: str, repo: Repository) -> None:
    """Both ways: what either adds, pushes and pulls is clean for the other, and byte for byte the same."""
    rng = random.Random(50_000)
    root = repo.root / "data"
    for at in range(250):
        fill(root / f"p{at:03}", {f"f{n:03} ü.bin": rng.randbytes(100) for n in range(200)})
    snapshot.add(repo.root, Path("data"))
    pointer = (repo.root / "data.dvc").read_bytes()
    assert json.loads(run(dvc, repo, "status", "--json")) == {}
    (repo.root / "data.dvc").unlink()
    run(dvc, repo, "add", "-q", "data")
    assert (repo.root / "data.dvc").read_bytes() == pointer
    transfer.push(repo)
    shutil.rmtree(repo.cache)
    shutil.rmtree(root)
    run(dvc, repo, "pull", "-q")
    assert status.outs(repo) == []
    for at in range(0, 250, 10):
        os.unlink(root / f"p{at:03}" / "f000 ü.bin")
        fill(root / f"p{at:03}", {"f001 ü.bin": b"changed", "more": b"new"})
    run(dvc, repo, "add", "-q", "data")
    pointer = (repo.root / "data.dvc").read_bytes()
    snapshot.add(repo.root, Path("data"))
    assert (repo.root / "data.dvc").read_bytes() == pointer
    run(dvc, repo, "push", "-q")
    shutil.rmtree(repo.cache)
    shutil.rmtree(root)
    transfer.pull(repo)
    assert json.loads(run(dvc, repo, "status", "--json")) == {}
