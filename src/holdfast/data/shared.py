"""What the remote has of what is tracked: ``status --cloud``, in DVC's words. Reads names only, on both sides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from holdfast.data import cache as caches
from holdfast.data import remotes, status
from holdfast.data.pointers import Out
from holdfast.data.remotes import Name
from holdfast.data.repository import Repository


def compare(repo: Repository, targets: Sequence[Path] = (), *, remote: str | None = None) -> dict[str, str]:
    """Path → ``new`` (only here: push it), ``deleted`` (only on the remote: fetch it) or ``missing`` (on neither side), for
    every out of the targets that differs. A folder is where its manifest is; one that the remote has by halves is ``new``.

    Raises:
        NotFound: no such remote, or a target is not tracked.
        Unavailable: the remote cannot be reached.
    """
    cache = caches.of(repo)
    outs = [o for o in status.tracked(repo, targets) if o.md5 and o.cache and o.push and o.other is None]
    found: dict[str, str] = {}
    by_remote: dict[str | None, list[Out]] = {}
    for out in outs:
        by_remote.setdefault(remote or out.remote, []).append(out)
    for where, mine in by_remote.items():
        wanted = {out.place: _names(cache, out) for out in mine}
        there = remotes.of(repo, where).present({name for names in wanted.values() for name in names})
        for out in mine:
            state = _state(cache, Name(str(out.md5), out.legacy), wanted[out.place], there)
            if state is not None:
                found[os.path.relpath(out.place, repo.root)] = state
    return found


def _names(cache: caches.Cache, out: Out) -> set[Name]:
    """The out's own object, and its members where its manifest is here."""
    top = Name(str(out.md5), out.legacy)
    if not out.is_folder or not cache.has(top.md5, legacy=out.legacy):
        return {top}
    return {top, *(Name(md5, out.legacy) for md5 in cache.members(top.md5, legacy=out.legacy).values())}


def _state(cache: caches.Cache, top: Name, names: set[Name], there: set[Name]) -> str | None:
    if not cache.has(top.md5, legacy=top.legacy):
        return "deleted" if top in there else "missing"
    absent = names - there
    if not absent:
        return None
    here = cache.present([name.md5 for name in absent], legacy=top.legacy)
    return "new" if len(here) == len({name.md5 for name in absent}) else "missing"
