"""Modes of files that may be run, and of a cache that a group shares. Both are DVC's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.data.conftest import fill

from holdfast.data import cache as caches
from holdfast.data import checkout, repository, snapshot, status
from holdfast.data.repository import Repository


@pytest.mark.parametrize("kind", ["copy", "hardlink", "symlink"])
@pytest.mark.parametrize("size", [6, 5 << 20])
def test_a_script_can_be_run_after_add_and_after_checkout(repo: Repository, kind: str, size: int) -> None:
    (repo.root / ".dvc" / "config").write_text(f"[cache]\n    type = {kind}\n")
    repo = repository.open_at(repo.root)
    fill(repo.root, {"run.sh": b"exit 0"[:size].ljust(size)})
    place = repo.root / "run.sh"
    place.chmod(0o755)
    for _ in range(2):
        md5 = snapshot.add(repo.root, Path("run.sh")).md5
        assert place.stat().st_mode & 0o100
        assert "isexec: true" in (repo.root / "run.sh.dvc").read_text()
    object_mode = Path(caches.of(repo).path(md5)).stat().st_mode & 0o777
    assert object_mode == (0o444 if kind == "copy" else 0o544)
    place.unlink()
    checkout.checkout(repo)
    assert place.stat().st_mode & 0o777 == (0o744 if kind == "copy" else 0o544)
    assert not status.outs(repo)


@pytest.mark.parametrize("kind", ["copy", "hardlink"])
@pytest.mark.parametrize("count", [1, 600])
def test_a_groups_cache_is_the_groups_to_write_to(repo: Repository, kind: str, count: int) -> None:
    (repo.root / ".dvc" / "config").write_text(f"[cache]\n    type = {kind}\n    shared = group\n")
    fill(repo.root / "data", {f"f{at}": b"%d" % at for at in range(count)})
    before = os.umask(0o077)
    try:
        snapshot.add(repo.root, Path("data"))
    finally:
        os.umask(before)
    folders = [repo.cache, *(p for p in repo.cache.rglob("*") if p.is_dir())]
    assert {p.stat().st_mode & 0o7777 for p in folders} == {0o2775}
    assert {p.stat().st_mode & 0o777 for p in repo.cache.rglob("*") if p.is_file()} == {0o444}
