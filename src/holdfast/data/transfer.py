"""Cache ↔ remote: push, fetch, pull. Parallel, verified, and resumed by running again: what has arrived stays.

A folder's manifest follows its members, on the remote and in the cache: who sees the manifest finds all of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.core.errors import NotFound
from holdfast.data import cache as caches
from holdfast.data import crew, hashing, manifest, remotes, status
from holdfast.data.cache import Cache
from holdfast.data.pointers import Out
from holdfast.data.remotes import Name, Remote
from holdfast.data.repository import Repository

if TYPE_CHECKING:
    from holdfast.core.ports import Progress
    from holdfast.data import checkout


class Moved:
    """What a transfer did. ``missing`` are versions neither side has."""

    def __init__(self) -> None:
        self.objects = 0
        self.bytes = 0
        self.already = 0
        self.missing: list[str] = []


def _quiet(done: int, total: int | None, what: str) -> None:
    return None


def push(
    repo: Repository,
    targets: Sequence[Path] = (),
    *,
    remote: str | None = None,
    outs: Sequence[Out] | None = None,
    verify: bool = False,
    progress: Progress = _quiet,
) -> Moved:
    """Bring objects of the targets (or of ``outs``) to a remote. With ``verify`` each is read back and hashed.

    Raises:
        NotFound: no such remote; or an object is in neither place.
        Damaged: an object in the cache has other bytes than its name says; it is not pushed.
        Unavailable: the remote cannot be reached; what has arrived stays.
    """
    cache = caches.of(repo)
    moved = Moved()
    with repo.lock():
        for where, mine in _by_remote(repo, _outs(repo, targets, outs), remote).items():
            _push(
                cache,
                remotes.of(repo, where),
                [out for out in mine if out.push and out.other is None],
                targets,
                verify,
                progress,
                moved,
            )
    if moved.missing:
        raise NotFound(
            f"{moved.missing[0]} is in neither the cache nor the remote", hint="somebody who has it must push it"
        )
    return moved


def _outs(repo: Repository, targets: Sequence[Path], outs: Sequence[Out] | None) -> list[Out]:
    if outs is None:
        outs = status.tracked(repo, targets)
    return [out for out in outs if out.md5 is not None and out.cache]


def _by_remote(repo: Repository, outs: Sequence[Out], remote: str | None) -> dict[str | None, list[Out]]:
    found: dict[str | None, list[Out]] = {}
    for out in outs:
        found.setdefault(remote or out.remote, []).append(out)
    return found


def _push(
    cache: Cache,
    remote: Remote,
    outs: list[Out],
    targets: Sequence[Path],
    verify: bool,
    progress: Progress,
    moved: Moved,
) -> None:
    files: set[Name] = set()
    manifests: set[Name] = set()
    folders: list[tuple[Out, dict[str, str]]] = []
    for out in outs:
        name = Name(str(out.md5), out.legacy)
        if not out.is_folder:
            files.add(name)
            continue
        if not cache.has(name.md5, legacy=name.legacy):
            if name not in remote.present([name]):
                moved.missing.append(f"{out.path} ({name.md5[:8]})")
            continue
        manifests.add(name)
        members = cache.members(name.md5, legacy=name.legacy)
        files.update(map(Name, set(members.values()), repeat(out.legacy)))
        folders.append((out, members))
    there = remote.present(files | manifests)
    todo = sorted(files - there)
    held = {
        legacy: cache.present([n.md5 for n in todo if n.legacy == legacy], legacy=legacy) for legacy in (False, True)
    }
    absent = [n for n in todo if n.md5 not in held[n.legacy]]
    if absent:
        described = {Name(md5, out.legacy): f"{out.path}/{path}" for out, m in folders for path, md5 in m.items()}
        described |= {Name(str(out.md5), out.legacy): out.path for out in outs}
        moved.missing += [f"{described[n]} ({n.md5[:8]})" for n in absent]
    moved.already += len(there)
    ready = [n for n in todo if n.md5 in held[n.legacy]]
    _send(cache, remote, ready, verify, progress, moved)
    if not absent:
        _send(cache, remote, sorted(manifests - there), verify, progress, moved)
    if verify:
        for name, md5 in zip(
            sorted(there), hashing.in_parallel(lambda n: read_back(cache, remote, n), sorted(there)), strict=True
        ):
            remotes.verify(name, md5, remote.label)


def _send(cache: Cache, remote: Remote, names: list[Name], verify: bool, progress: Progress, moved: Moved) -> None:
    def work(name: Name) -> int:
        file = cache.path(name.md5, legacy=name.legacy)
        remote.put(name, file)
        return os.stat(file).st_size

    # When this ends they are durable: the manifest that names them comes after.
    with remote.cache.settling() if isinstance(remote, remotes.FolderRemote) else nullcontext():
        sizes = (
            _copied(cache, remote.cache, names, "the cache")
            if isinstance(remote, remotes.FolderRemote) and len(names) >= crew.MANY
            else hashing.in_parallel(work, names)
        )
        _count(names, sizes, progress, moved)
    if verify:
        for name, md5 in zip(names, hashing.in_parallel(lambda n: read_back(cache, remote, n), names), strict=True):
            remotes.verify(name, md5, remote.label)


def read_back(cache: Cache, remote: Remote, name: Name) -> str:
    """The MD5 of an object's bytes as the remote gives them."""
    temporary = cache.temporary()
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        remote.get(name, fd)
        return hashing.copy_md5(temporary, None)
    finally:
        os.close(fd)
        os.unlink(temporary)


def fetch(
    repo: Repository,
    targets: Sequence[Path] = (),
    *,
    remote: str | None = None,
    outs: Sequence[Out] | None = None,
    progress: Progress = _quiet,
) -> Moved:
    """Bring objects of the targets into the cache. A target inside a tracked folder brings only its members.

    Raises:
        NotFound: no such remote, or an object is not there; all others are fetched.
        Damaged: an object arrived with other bytes; it is not kept.
        BadInput: a manifest names places it must not; nothing of it is kept.
        Unavailable: the remote cannot be reached; what has arrived stays.
    """
    if remote is not None:
        repo.remote_options(remote)  # a name that is none is told though nothing is missing
    with repo.lock():
        moved = _fetch(repo, targets, remote, outs, progress)
    _refuse_missing(moved)
    return moved


def _refuse_missing(moved: Moved) -> None:
    if moved.missing:
        more = f", and so {'are' if len(moved.missing) > 2 else 'is'} {len(moved.missing) - 1} more"
        raise NotFound(
            f"{moved.missing[0]} is in neither the cache nor the remote{more if len(moved.missing) > 1 else ''}",
            hint="somebody who has it must push it; what was there is fetched",
        )


def _fetch(
    repo: Repository, targets: Sequence[Path], remote: str | None, outs: Sequence[Out] | None, progress: Progress
) -> Moved:
    cache = caches.of(repo)
    moved = Moved()
    from holdfast.data import checkout

    wanted: dict[str | None, set[Name]] = {}
    later: list[tuple[Name, bytes, set[str]]] = []
    files: list[tuple[Out, dict[str, str]]] = []
    for where, mine in _by_remote(repo, _outs(repo, targets, outs), remote).items():
        for out in mine:
            name = Name(str(out.md5), out.legacy)
            if out.other is not None:
                _fetch_import(repo, cache, out, targets, moved)
                continue
            if not out.is_folder:
                wanted.setdefault(where, set()).add(name)
                files.append((out, {"": name.md5}))
                continue
            try:
                members, data = _manifest(repo, cache, where, name, out)
            except _Absent:
                moved.missing.append(_said(out, "", name.md5))
                continue
            files.append((out, members))
            inner = checkout.below(out, targets)
            if inner is not None:
                checkout.refuse_strangers(out, targets, members)
            wanted.setdefault(where, set()).update(
                Name(m, out.legacy) for p, m in members.items() if inner is None or inner(p)
            )
            if data is not None:
                later.append((name, data, set(members.values())))
    absent: set[Name] = set()
    for where, names in wanted.items():
        lacking = _lacking(cache, names)
        moved.already += len(names) - len(lacking)
        if lacking:
            absent |= _receive(cache, remotes.of(repo, where), sorted(lacking), progress, moved)
    if absent:
        moved.missing += [_said(o, p, md5) for o, m in files for p, md5 in m.items() if Name(md5, o.legacy) in absent]
    for name, data, named in later:
        if not any(one.legacy == name.legacy and one.md5 in named for one in absent):
            cache.put(data, name.md5, legacy=name.legacy)
            moved.objects += 1
    return moved


class _Absent(NotFound):
    """The remote does not have an object."""


def _said(out: Out, path: str, md5: str) -> str:
    return f"{out.path}/{path} ({md5[:8]})" if path else f"{out.path} ({md5[:8]})"


def _fetch_import(repo: Repository, cache: Cache, out: Out, targets: Sequence[Path], moved: Moved) -> None:
    """An import from another repository is kept there, not on our remotes."""
    from holdfast.data import checkout, imports

    name = Name(str(out.md5), out.legacy)
    inner = checkout.below(out, targets) if out.is_folder else None
    needed = {name}
    if out.is_folder and cache.has(name.md5, legacy=name.legacy):
        members = cache.members(name.md5, legacy=name.legacy)
        needed |= {Name(m, out.legacy) for p, m in members.items() if inner is None or inner(p)}
    lacking = _lacking(cache, needed)
    moved.already += len(needed) - len(lacking)
    if lacking:
        imports.bring(repo, out, only=None if inner is None else checkout.inner_names(out, targets))
        moved.objects += len(lacking)


def _lacking(cache: Cache, names: set[Name]) -> set[Name]:
    new = cache.present([n.md5 for n in names if not n.legacy])
    old = cache.present([n.md5 for n in names if n.legacy], legacy=True)
    return {n for n in names if n.md5 not in (old if n.legacy else new)}


def _manifest(
    repo: Repository, cache: Cache, where: str | None, name: Name, out: Out
) -> tuple[dict[str, str], bytes | None]:
    """A folder's members, and the manifest's bytes where they had to be fetched."""
    if cache.has(name.md5, legacy=name.legacy):
        return cache.members(name.md5, legacy=name.legacy), None
    source = remotes.of(repo, where)
    temporary = cache.temporary()
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            source.get(name, fd)
        except NotFound:
            raise _Absent(
                f"{out.path}: version {name.md5[:8]} is not on {source.label}", hint="somebody who has it must push it"
            ) from None
        data = Path(temporary).read_bytes()
    finally:
        os.close(fd)
        os.unlink(temporary)
    remotes.verify(Name(name.md5), hashing.md5_of(data), source.label)
    return manifest.parse(data, name.md5), data


def _receive(cache: Cache, remote: Remote, names: list[Name], progress: Progress, moved: Moved) -> set[Name]:
    """Bring objects into the cache; those the remote does not have."""
    absent: set[Name] = set()

    def work(name: Name) -> int:
        try:
            return receive(cache, remote, name)
        except NotFound:
            absent.add(name)
            return 0

    with cache.settling():
        sizes = (
            _copied(remote.cache, cache, names, remote.label, absent)
            if isinstance(remote, remotes.FolderRemote) and len(names) >= crew.MANY
            else hashing.in_parallel(work, names)
        )
        _count(names, sizes, progress, moved)
    moved.objects -= len(absent)
    return absent


def _count(names: list[Name], sizes: Iterable[int], progress: Progress, moved: Moved) -> None:
    for at, (name, size) in enumerate(zip(names, sizes, strict=True), 1):
        moved.objects += 1
        moved.bytes += size
        progress(at, len(names), name.md5[:8])


def _copied(
    source: Cache, target: Cache, names: list[Name], label: str, absent: set[Name] | None = None
) -> Iterator[int]:
    """Bring objects from one folder to the other, verified, and have each under its name; their sizes. Those that the source
    does not have are put into ``absent``.

    Raises:
        NotFound: the source, which messages call ``label``, does not have one, and there is no ``absent``.
        Damaged: the bytes of one have another name; they are not kept.
    """
    items = [(source.path(name.md5, legacy=name.legacy), target.temporary()) for name in names]
    with target.discarding([temporary for _, temporary in items]) as still:
        for name, found in zip(names, crew.in_processes(hashing.copied, items), strict=True):
            if found is None and absent is not None:
                absent.add(name)
                still.popleft()
                yield 0
                continue
            if found is None:
                raise NotFound(f"object {name.md5} is not on {label}", hint="somebody who has it must push it")
            md5, size = found
            remotes.verify(name, md5, label)
            target.place(still[0], name.md5, legacy=name.legacy)
            still.popleft()
            yield size


def receive(cache: Cache, remote: Remote, name: Name) -> int:
    """Bring one object into the cache under its name, verified; its size.

    Raises:
        NotFound: the remote does not have it.
        Damaged: its bytes have another name; they are not kept.
    """
    temporary = cache.temporary()
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if isinstance(remote, remotes.FolderRemote):
            try:
                md5 = hashing.copy_md5(remote.cache.path(name.md5, legacy=name.legacy), fd)
            except FileNotFoundError:
                raise NotFound(
                    f"object {name.md5} is not on {remote.label}", hint="somebody who has it must push it"
                ) from None
        else:
            remote.get(name, fd)
            md5 = hashing.copy_md5(temporary, None)
        remotes.verify(name, md5, remote.label)
        size = os.fstat(fd).st_size
        cache.place(temporary, name.md5, legacy=name.legacy)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    return size


def pull(
    repo: Repository,
    targets: Sequence[Path] = (),
    *,
    remote: str | None = None,
    force: bool = False,
    progress: Progress = _quiet,
) -> tuple[Moved, checkout.Done]:
    """``fetch``, then ``checkout``.

    Raises:
        NotFound: also where an object is missing; what is whole without it is placed.
        Damaged, BadInput, Unavailable, Conflict: as those two.
    """
    from holdfast.data import checkout

    _complete(repo, targets, progress)
    if remote is not None:
        repo.remote_options(remote)
    with repo.lock():
        moved = _fetch(repo, targets, remote, None, progress)
        outs = status.tracked(repo, targets)
        if moved.missing:
            cache = caches.of(repo)
            outs = [out for out in outs if _whole(cache, out, targets)]
        done = checkout.place_outs(repo, outs, targets, force=force, progress=progress)
    _refuse_missing(moved)
    return moved, done


def _whole(cache: Cache, out: Out, targets: Sequence[Path]) -> bool:
    """Whether the cache has all that the targets mean of an out."""
    from holdfast.data import checkout

    if out.md5 is None or not cache.has(out.md5, legacy=out.legacy):
        return False
    if not out.is_folder:
        return True
    inner = checkout.below(out, targets)
    members = cache.members(out.md5, legacy=out.legacy).items()
    wanted = {md5 for path, md5 in members if inner is None or inner(path)}
    return cache.present(wanted, legacy=out.legacy) == wanted


def _complete(repo: Repository, targets: Sequence[Path], progress: Progress) -> None:
    """Imports that were made without their data have no version yet, and get it now."""
    bare = []
    with suppress(NotFound):  # a target may be what a stage wrote
        bare = [p for p in status.choose(repo, targets) if p.origin is not None and p.outs[0].md5 is None]
    if not bare:
        return
    from holdfast.data import imports

    with repo.lock():
        for pointer in bare:
            imports.complete(repo, pointer, progress=progress)


def members_of(repo: Repository, out: Out) -> dict[str, str]:
    """path → md5 of a tracked folder; its manifest is fetched where it is not in the cache. The caller holds the lock.

    Raises:
        NotFound: neither cache nor remote has the manifest.
    """
    cache, name = caches.of(repo), Name(str(out.md5), out.legacy)
    members, data = _manifest(repo, cache, out.remote, name, out)
    if data is not None:
        cache.put(data, name.md5, legacy=name.legacy)
    return members
