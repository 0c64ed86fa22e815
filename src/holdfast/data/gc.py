"""Removing objects nobody needs. What any branch, tag, the workspace or a record of the ledger needs stays, and who needs it
is said."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from holdfast.core.errors import Conflict, NotFound
from holdfast.data import cache as caches
from holdfast.data import history, pointers, remotes
from holdfast.data.cache import Cache
from holdfast.data.remotes import Name
from holdfast.data.repository import Repository

Referrers = Callable[[], Iterable[tuple[str, str]]]
"""Gives (md5 of a version or of a file, who needs it) for what is needed outside git: runs, models, releases."""


@dataclass
class Swept:
    """What was removed (or would be), and how much each referrer keeps."""

    removed: list[str] = field(default_factory=list)
    bytes: int = 0
    kept: int = 0
    needed_by: dict[str, int] = field(default_factory=dict)


def needed(repo: Repository, referrers: Sequence[Referrers] = (), *, all_commits: bool = False) -> dict[str, str]:
    """md5 → the first who needs it, for every object that must stay (3.x and 2.x names alike)."""
    cache = caches.of(repo)
    found: dict[str, str] = {}
    expanded: set[str] = set()

    def need(md5: str, who: str, legacy: bool) -> None:
        found.setdefault(md5, who)
        if md5.endswith(".dir") and md5 not in expanded:
            expanded.add(md5)
            for member in _members(cache, md5, legacy):
                found.setdefault(member, who)

    for pointer in pointers.read_all(repo):
        for out in pointer.outs:
            if out.md5:
                need(out.md5, f"the workspace ({os.path.relpath(pointer.file, repo.root)})", out.legacy)
    from holdfast.data import stages

    for out in stages.locked_outs(repo):
        if out.md5:
            need(out.md5, "the workspace (dvc.lock)", out.legacy)
    for reference in history.references(repo, all_commits=all_commits):
        if reference.out.md5:
            need(reference.out.md5, reference.who, reference.out.legacy)
    for referrer in referrers:
        for md5, who in referrer():
            need(md5, who, False)
    return found


def _members(cache: Cache, md5: str, legacy: bool) -> list[str]:
    try:
        return list(cache.members(md5, legacy=legacy).values())
    except NotFound:
        return []


def collect(
    repo: Repository,
    *,
    referrers: Sequence[Referrers] = (),
    all_commits: bool = False,
    dry_run: bool = False,
    remote: str | None = None,
    cloud: bool = False,
) -> Swept:
    """Remove every object of the cache that nobody needs; with ``cloud`` those of the remote too.

    Raises:
        BadInput: a pointer cannot be read; then nothing is removed, for it may need anything.
        Damaged: a manifest that is needed is damaged; then nothing is removed.
    """
    cache = caches.of(repo)
    with repo.lock():
        keep = needed(repo, referrers, all_commits=all_commits)
        swept = Swept()
        for who in keep.values():
            swept.needed_by[who] = swept.needed_by.get(who, 0) + 1
        if cloud:
            _sweep_remote(remotes.of(repo, remote), cache, keep, swept, dry_run)
        doomed = [md5 for md5 in cache.all() if md5 not in keep]
        # Manifests first: a kill in between leaves members without a manifest, never a manifest without members.
        for md5 in sorted(doomed, key=lambda name: not name.endswith(".dir")):
            path = cache.path(md5)
            with suppress(FileNotFoundError):
                swept.bytes += os.stat(path).st_size
                if not dry_run:
                    os.unlink(path)
                swept.removed.append(md5)
        swept.kept = len(cache.all()) - (len(swept.removed) if dry_run else 0)
        if not dry_run:
            _sweep_temporary(cache)
    return swept


def _sweep_remote(remote: remotes.Remote, cache: Cache, keep: dict[str, str], swept: Swept, dry_run: bool) -> None:
    there = sorted(remote.all(), key=lambda name: not name.md5.endswith(".dir"))
    held = {name.md5 for name in there}
    full = dict(keep)
    for md5, who in keep.items():
        if md5.endswith(".dir") and not cache.has(md5) and md5 in held:
            from holdfast.data import transfer

            # What its members are is only written on the remote.
            transfer.receive(cache, remote, Name(md5))
            full |= dict.fromkeys(_members(cache, md5, False), who)
    for name in there:
        if name.md5 not in full:
            if not dry_run:
                remote.delete(name)
            swept.removed.append(f"{remote.label}: {name.md5}")


def _sweep_temporary(cache: Cache) -> None:
    """What killed processes left. The repository's lock is held, so nobody is writing there now; another repository that
    shares the cache might, so only what is older than a day goes."""
    import time

    folder = cache.root / "holdfast-tmp"
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > 86_400:
                    os.unlink(entry.path)


def forget(
    repo: Repository, versions: Sequence[str], *, referrers: Sequence[Referrers] = (), all_commits: bool = False
) -> Swept:
    """Remove named versions (md5 or its first eight or more digits), if nobody needs them.

    Raises:
        NotFound: no such version is in the cache.
        Conflict: somebody needs one; the message names who. Nothing is removed then.
    """
    cache = caches.of(repo)
    with repo.lock():
        everything = cache.all()
        doomed = []
        keep = needed(repo, referrers, all_commits=all_commits)
        for version in versions:
            matching = [md5 for md5 in everything if md5.startswith(version)] if len(version) >= 8 else []
            if not matching:
                raise NotFound(
                    f"no version {version!r} is in the cache", hint="name it by at least its first eight digits"
                )
            for md5 in matching:
                if md5 in keep:
                    raise Conflict(f"version {md5[:8]} is needed by {keep[md5]}", hint="remove that first")
                doomed.append(md5)
        swept = Swept()
        for md5 in list(doomed):
            if md5.endswith(".dir"):
                doomed += [m for m in set(_members(cache, md5, False)) if m not in keep and cache.has(m)]
        for md5 in sorted(set(doomed), key=lambda name: not name.endswith(".dir")):
            swept.bytes += os.stat(cache.path(md5)).st_size
            os.unlink(cache.path(md5))
            swept.removed.append(md5)
        swept.kept = len(everything) - len(swept.removed)
    return swept
