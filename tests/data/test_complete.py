"""A member that is lost from the cache is told, and what is remembered to save looking never hides it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from tests.data.conftest import fill

from holdfast.data import cache as caches
from holdfast.data import complete, hashing, pointers, snapshot, status
from holdfast.data.cache import Cache
from holdfast.data.repository import Repository


def states(repo: Repository) -> list[str]:
    return [state.state for state in status.outs(repo)]


def settle(cache: Cache, *, ago: int = 10 * complete.SETTLED) -> None:
    """As if the cache's folders had changed so many nanoseconds ago for the last time."""
    for folder in (cache.root / "files" / "md5").iterdir():
        os.utime(folder, ns=(1, time.time_ns() - ago))


@pytest.fixture
def cache(repo: Repository) -> Cache:
    fill(repo.root / "data", {f"{at}": b"%d" % at for at in range(300)})
    snapshot.add(repo.root, Path("data"))
    return caches.of(repo)


@pytest.mark.parametrize("remembered", [True, False])
def test_a_lost_member_is_told_also_after_it_was_seen(
    repo: Repository, cache: Cache, remembered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(cache, ago=10 * complete.SETTLED if remembered else -1000 * complete.SETTLED)
    assert states(repo) == []
    assert any((repo.state / "whole").glob("*")) == remembered
    looked: list[object] = []
    present = Cache.present
    monkeypatch.setattr(
        Cache, "present", lambda self, names, **more: looked.append(names) or present(self, names, **more)
    )
    assert states(repo) == [] and bool(looked) != remembered
    Path(cache.path(hashing.md5_of(b"7"))).unlink()
    assert states(repo) == ["not in cache"]
    snapshot.add(repo.root, Path("data"))
    assert states(repo) == []


def test_a_lost_or_damaged_manifest_is_told(repo: Repository, cache: Cache) -> None:
    settle(cache)
    assert states(repo) == []
    place = Path(cache.path(str(pointers.read(repo.root / "data.dvc", repo.root).outs[0].md5)))
    place.unlink()
    assert states(repo) == ["not in cache"]
    place.write_bytes(b"[]")
    assert states(repo) == ["not in cache"]
