"""Whether the cache has all of a folder's version: as DVC, ``status`` says so when one member is lost.

Looking for each of many members costs more than the rest of ``status``. What was found whole is remembered with the modification
times of the cache's folders; while none of them changed, no name in them can have gone.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import cached_property

from holdfast.core.errors import HoldfastError
from holdfast.data import hashing
from holdfast.data.cache import Cache
from holdfast.data.pointers import Out
from holdfast.data.repository import Repository

SETTLED = 100_000_000
"""Nanoseconds after which a second change of a folder must show in its time."""


class Completeness:
    """One look at a cache; asked for many outs, its folders are read once."""

    def __init__(self, repo: Repository, cache: Cache) -> None:
        self._cache = cache
        self._memory = repo.state / "whole"

    def has(self, out: Out) -> bool:
        """Whether an out's object is here, and for a folder all its members."""
        assert out.md5 is not None
        if not self._cache.has(out.md5, legacy=out.legacy):
            return False
        if not out.is_folder:
            return True
        kept = self._memory / out.md5
        if not out.legacy and self._mark and _read(kept) == self._mark:
            return True
        try:
            members = set(self._cache.members(out.md5, legacy=out.legacy).values())
        except HoldfastError:
            return False
        if self._cache.present(members, legacy=out.legacy) != members:
            return False
        if not out.legacy and self._mark:
            with suppress(OSError):
                self._memory.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(self._mark)
        return True

    @cached_property
    def _mark(self) -> bytes:
        """The times of the cache's folders as one hash; empty while one is too young to be trusted."""
        times = []
        with suppress(FileNotFoundError), os.scandir(self._cache.root / "files" / "md5") as entries:
            times = sorted((entry.name, entry.stat().st_mtime_ns) for entry in entries)
        if not times or max(changed for _, changed in times) > time.time_ns() - SETTLED:
            return b""
        return hashing.md5_of(repr((str(self._cache.root), times)).encode()).encode()


def _read(file: os.PathLike[str]) -> bytes:
    try:
        with open(file, "rb") as f:
            return f.read(64)
    except OSError:
        return b""
