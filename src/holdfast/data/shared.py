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
    every object that differs: of each out, and of each file of a folder whose manifest is here.

    Raises:
        NotFound: no such remote, or a target is not tracked.
        Unavailable: the remote cannot be reached.
    """
    cache = caches.of(repo)
    by_remote: dict[str | None, dict[str, Name]] = {}
    for out in status.tracked(repo, targets):
        if out.md5 and out.cache and out.push and out.other is None:
            by_remote.setdefault(remote or out.remote, {}).update(_names(repo, cache, out))
    found: dict[str, str] = {}
    for where, named in by_remote.items():
        wanted = set(named.values())
        there = remotes.of(repo, where).present(wanted)
        here = {
            Name(md5, old)
            for old in (False, True)
            for md5 in cache.present([n.md5 for n in wanted if n.legacy == old], legacy=old)
        }
        for path, name in named.items():
            if name not in here or name not in there:
                found[path] = "new" if name in here else "deleted" if name in there else "missing"
    return found


def _names(repo: Repository, cache: caches.Cache, out: Out) -> dict[str, Name]:
    """Path → object: the out's own, and its members' where its manifest is here."""
    assert out.md5 is not None
    path = os.path.relpath(out.place, repo.root)
    named = {path: Name(out.md5, out.legacy)}
    if out.is_folder and cache.has(out.md5, legacy=out.legacy):
        members = cache.members(out.md5, legacy=out.legacy)
        named |= {f"{path}/{inner}": Name(md5, out.legacy) for inner, md5 in members.items()}
    return named
