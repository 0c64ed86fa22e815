"""The real dvc beside us on generated repositories: each reads what the other wrote, byte for byte."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from tests.data.conftest import clean, content, fill, run

from holdfast.data import cache as caches
from holdfast.data import pointers, repository, repro, snapshot, stages, status, transfer
from holdfast.data.repository import Repository

pytestmark = pytest.mark.peer

NAMES = [
    "a",
    "B",
    "sub-1/x",
    "sub.x/y",
    "sub/z",
    "ü",
    "it's",
    "sp ace",
    "#hash",
    "!bang",
    "[x]",
    "*star",
    "back\\slash",
    ".hidden",
    "123",
    "true",
    "1e5",
    "a: b",
]


def generate(seed: int) -> dict[str, bytes]:
    rng = random.Random(seed)
    chosen = rng.sample(NAMES, 8)
    return {name: rng.randbytes(rng.choice([0, 1, 100, 5000])) for name in chosen}


@pytest.mark.parametrize("seed", [1, *(pytest.param(s, marks=pytest.mark.soak) for s in range(2, 30))])
def test_pointer_manifest_and_gitignore_are_dvcs_own(dvc: str, repo: Repository, seed: int) -> None:
    files = generate(seed)
    fill(repo.root / "data", files)
    single = random.Random(seed).choice([n for n in NAMES if "/" not in n])
    fill(repo.root, {single: b"single"})
    run(dvc, repo, "add", "-q", "data", single)
    written = [repo.root / "data.dvc", repo.root / f"{single}.dvc", repo.root / ".gitignore"]
    theirs = {p.name: p.read_bytes() for p in written}
    objects = {
        p.relative_to(repo.cache / "files"): p.read_bytes() for p in (repo.cache / "files").rglob("*") if p.is_file()
    }
    for path in written:
        path.unlink()
    shutil.rmtree(repo.cache)
    snapshot.add(repo.root, Path("data"))
    snapshot.add(repo.root, Path(single))
    assert {p.name: p.read_bytes() for p in written} == theirs
    assert {
        p.relative_to(repo.cache / "files"): p.read_bytes() for p in (repo.cache / "files").rglob("*") if p.is_file()
    } == objects
    assert all(p.stat().st_mode & 0o777 == 0o444 for p in (repo.cache / "files").rglob("*") if p.is_file())
    clean(dvc, repo)


def test_each_pulls_what_the_other_pushed(dvc: str, repo: Repository) -> None:
    files = generate(5)
    fill(repo.root / "data", files)
    snapshot.add(repo.root, Path("data"))
    transfer.push(repo)
    shutil.rmtree(repo.cache)
    shutil.rmtree(repo.root / "data")
    run(dvc, repo, "pull", "-q")
    assert content(repo.root / "data") == files
    clean(dvc, repo)

    changed = {**files, "new": b"from dvc"}
    fill(repo.root / "data", changed)
    run(dvc, repo, "add", "-q", "data")
    run(dvc, repo, "push", "-q")
    shutil.rmtree(repo.cache)
    shutil.rmtree(repo.root / "data")
    transfer.pull(repo)
    assert content(repo.root / "data") == changed
    assert status.outs(repo) == []


def test_comments_and_meta_survive_as_dvc_keeps_them(dvc: str, repo: Repository) -> None:
    fill(repo.root, {"f": b"one"})
    snapshot.add(repo.root, Path("f"))
    pointer = repo.root / "f.dvc"
    edited = "# about f\n" + pointer.read_text() + "  desc: ours\n  meta:\n    owner: me   # really\n"
    pointer.write_text(edited)
    fill(repo.root, {"f": b"two!"})
    run(dvc, repo, "add", "-q", "f")
    theirs = pointer.read_text()
    pointer.write_text(edited)
    snapshot.add(repo.root, Path("f"))
    assert pointer.read_text() == theirs


STAGES = """\
vars:
- greeting: hello
stages:
  make:
    cmd: echo ${greeting} > out.txt && mkdir -p many && echo 1 > many/a
    deps:
    - in.txt
    params:
    - train.rate
    outs:
    - out.txt
    - many
  each:
    foreach: [x, y]
    do:
      cmd: cat out.txt > ${item}.txt
      deps:
      - out.txt
      outs:
      - ${item}.txt:
          cache: false
"""


def test_lock_file_is_dvcs_own_and_dvc_finds_nothing_to_run(dvc: str, repo: Repository) -> None:
    fill(
        repo.root, {"in.txt": b"in", "params.yaml": b"train:\n  rate: 0.10\n  depth: 3\n", "dvc.yaml": STAGES.encode()}
    )
    run(dvc, repo, "repro", "-q")
    theirs = (repo.root / "dvc.lock").read_bytes()
    runs = {p.relative_to(repo.cache): p.read_bytes() for p in (repo.cache / "runs").rglob("*") if p.is_file()}
    assert repro.repro(repo) == []

    (repo.root / "dvc.lock").unlink()
    shutil.rmtree(repo.cache)
    for name in ("out.txt", "x.txt", "y.txt"):
        (repo.root / name).unlink()
    shutil.rmtree(repo.root / "many")
    assert set(repro.repro(repo)) == {"make", "each@x", "each@y"}
    assert (repo.root / "dvc.lock").read_bytes() == theirs
    ours = {p.relative_to(repo.cache): p.read_bytes() for p in (repo.cache / "runs").rglob("*") if p.is_file()}
    # dvc keeps no run of a stage whose only out is kept by git; ours of those are extra, the shared ones are the same bytes.
    assert runs and runs.items() <= ours.items()
    clean(dvc, repo)
    assert repro.repro(repo) == []

    (repo.root / "params.yaml").write_text("train:\n  rate: 0.2\n  depth: 3\n")
    lock = stages.read_lock(repo.root / "dvc.lock")
    found = {
        s.name: [c.what for c in repro.changes(repo, s, lock)] for s in stages.load(repo.root / "dvc.yaml", repo.root)
    }
    assert found == {"make": ["changed deps"], "each@x": [], "each@y": []}


def test_two_x_data_is_read_and_left_as_it_is(dvc: str, repo: Repository) -> None:
    """Text is named by its content with LF, and lies at the old place."""
    import hashlib

    text = b"a\r\nb\r\n"
    md5 = hashlib.md5(b"a\nb\n").hexdigest()
    pointer = f"outs:\n- md5: {md5}\n  size: {len(text)}\n  path: old.txt\n"
    fill(repo.root, {"old.txt.dvc": pointer.encode()})
    cache = caches.of(repo)
    fill(repo.cache, {f"{md5[:2]}/{md5[2:]}": text})
    os.chmod(cache.path(md5, legacy=True), 0o444)
    from holdfast.data import checkout

    checkout.checkout(repo)
    assert (repo.root / "old.txt").read_bytes() == text
    assert status.outs(repo) == []
    clean(dvc, repo)
    assert (repo.root / "old.txt.dvc").read_text() == pointer
    (repo.root / "old.txt").write_bytes(b"changed")
    assert [s.state for s in status.outs(repo)] == ["modified"]
    assert pointers.read(repo.root / "old.txt.dvc", repo.root).outs[0].legacy
    assert repository.open_at(repo.root).links == ("reflink", "copy")
