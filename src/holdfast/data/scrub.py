"""Reading every stored byte and comparing it with its name; mending what is damaged from the remote or from the workspace."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.core.errors import BadInput, Damaged, NotFound, Unavailable
from holdfast.core.ports import Progress
from holdfast.data import cache as caches
from holdfast.data import hashing, history, pointers, remotes, state, transfer
from holdfast.data.cache import Cache
from holdfast.data.pointers import Out
from holdfast.data.remotes import Name, Remote
from holdfast.data.repository import Repository


@dataclass(frozen=True)
class Bad:
    """One damaged object, the versions that need it, and where good bytes came from, if they did."""

    md5: str
    affects: list[str]
    repaired_from: str | None = None


@dataclass
class Scrubbed:
    """What a scrub read and found."""

    objects: int = 0
    bytes: int = 0
    bad: list[Bad] = field(default_factory=list)


def _quiet(done: int, total: int | None, what: str) -> None:
    return None


def scrub(
    repo: Repository,
    *,
    repair: bool = False,
    remote: str | None = None,
    also_remote: bool = False,
    progress: Progress = _quiet,
) -> Scrubbed:
    """Hash every object of the cache, and with ``also_remote`` of the remote. With ``repair`` a damaged one is set aside and
    replaced by bytes that do have its name: from the remote, a file of the workspace, or (for the remote) the cache.

    Raises:
        NotFound: the named remote is not configured.
    """
    cache = caches.of(repo)
    done = Scrubbed()
    with repo.lock():
        source = _remote(repo, remote, needed=also_remote)
        bad = _read_all(cache, done, progress)
        affects = _affected(repo, set(bad)) if bad else {}
        for md5 in bad:
            mended = _repair(repo, cache, source, md5) if repair else None
            done.bad.append(Bad(md5, affects.get(md5, []), mended))
        if also_remote and source is not None:
            _scrub_remote(repo, cache, source, done, repair, progress)
    return done


def _remote(repo: Repository, name: str | None, *, needed: bool) -> Remote | None:
    try:
        return remotes.of(repo, name)
    except NotFound:
        if needed or name is not None:
            raise
        return None


def _read_all(cache: Cache, done: Scrubbed, progress: Progress) -> list[str]:
    names = cache.all()

    def work(md5: str) -> tuple[bool, int]:
        path = cache.path(md5)
        try:
            return hashing.copy_md5(path, None) == md5[:32], os.stat(path).st_size
        except (BadInput, OSError):
            return False, 0

    bad = []
    for at, (md5, (sound, size)) in enumerate(zip(names, hashing.in_parallel(work, names), strict=True), 1):
        done.objects += 1
        done.bytes += size
        if not sound:
            bad.append(md5)
        progress(at, len(names), md5[:8])
    return bad


def _affected(repo: Repository, bad: set[str]) -> dict[str, list[str]]:
    """Which versions of what need each damaged object: in the workspace, and in every commit git can reach."""
    cache = caches.of(repo)
    found: dict[str, list[str]] = {}
    seen: dict[str, set[str]] = {}

    def note(who: str, out: Out) -> None:
        if out.md5 is None:
            return
        label = f"{out.path} in {who}"
        if out.md5 in bad:
            found.setdefault(out.md5, []).append(label)
        if out.is_folder and out.md5 not in bad:
            if out.md5 not in seen:
                try:
                    seen[out.md5] = bad.intersection(cache.members(out.md5, legacy=out.legacy).values())
                except (NotFound, Damaged, BadInput):
                    seen[out.md5] = set()
            for md5 in seen[out.md5]:
                found.setdefault(md5, []).append(label)

    for pointer in pointers.read_all(repo):
        for out in pointer.outs:
            note("the workspace", out)
    for reference in history.references(repo, all_commits=True):
        note(reference.who, reference.out)
    return {md5: list(dict.fromkeys(labels)) for md5, labels in found.items()}


def _repair(repo: Repository, cache: Cache, source: Remote | None, md5: str) -> str | None:
    """Put good bytes under the name; where they came from, or None when nobody has them."""
    if source is not None:
        with suppress(NotFound, Damaged, Unavailable):
            transfer.receive(cache, source, Name(md5))
            return source.label
    for file in _workspace_copies(repo, md5):
        temporary = cache.temporary()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            same = hashing.copy_md5(str(file), fd) == md5[:32]
        finally:
            os.close(fd)
        if same:
            cache.place(temporary, md5)
            return os.path.relpath(file, repo.root)
        os.unlink(temporary)
    if md5.endswith(".dir"):
        return _rebuild_manifest(repo, cache, md5)
    # Out of its place, so that nothing is ever made from it; its bytes stay for who wants to look.
    with suppress(FileNotFoundError):
        os.rename(cache.path(md5), f"{os.path.dirname(cache.temporary())}/damaged-{md5}")
    return None


def _workspace_copies(repo: Repository, md5: str) -> list[Path]:
    """Files of the workspace that had these bytes when they were last hashed."""
    found = []
    for pointer in pointers.read_all(repo):
        for out in pointer.outs:
            if out.md5 == md5 and not out.is_folder:
                found.append(out.place)
            if out.is_folder:
                index = state.load(repo.state, out.place)
                text = index.md5.hex()
                found += [out.place / p for at, p in enumerate(index.paths) if text[32 * at : 32 * at + 32] == md5]
    return [file for file in found if file.is_file()]


def _rebuild_manifest(repo: Repository, cache: Cache, md5: str) -> str | None:
    """A folder that is in the workspace as it was gives its manifest again."""
    from holdfast.data import manifest, snapshot

    for pointer in pointers.read_all(repo):
        for out in pointer.outs:
            if out.md5 == md5 and out.place.is_dir() and not out.legacy:
                taken = snapshot.take(out.place, repo=repo, md5_only=True)
                if taken.md5 == md5:
                    os.unlink(cache.path(md5))
                    cache.put(manifest.render(taken.members.items()), md5)
                    return os.path.relpath(out.place, repo.root)
    return None


def _scrub_remote(
    repo: Repository, cache: Cache, source: Remote, done: Scrubbed, repair: bool, progress: Progress
) -> None:
    names: Sequence[Name] = sorted(source.all())

    def work(name: Name) -> bool:
        try:
            return transfer.read_back(cache, source, name) == name.md5[:32]
        except BadInput:
            return False

    bad = []
    for at, (name, sound) in enumerate(zip(names, hashing.in_parallel(work, names), strict=True), 1):
        done.objects += 1
        if not sound:
            bad.append(name)
        progress(at, len(names), name.md5[:8])
    affects = _affected(repo, {name.md5 for name in bad}) if bad else {}
    for name in bad:
        mended = None
        if repair and cache.has(name.md5) and hashing.copy_md5(cache.path(name.md5), None) == name.md5[:32]:
            source.put(name, cache.path(name.md5))
            mended = "the cache"
        done.bad.append(Bad(f"{source.label}: {name.md5}", affects.get(name.md5, []), mended))
