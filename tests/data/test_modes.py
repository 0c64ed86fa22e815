"""A single file that may be run stays so, however files are linked; its object gets the bit as DVC gives it."""

from __future__ import annotations

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
