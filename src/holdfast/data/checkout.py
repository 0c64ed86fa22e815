"""Cache → workspace: exactly what the pointers say. Planned first, refused as a whole where something would be lost."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from holdfast.core.errors import Conflict, Damaged, NotFound
from holdfast.data import cache as caches
from holdfast.data import crew, hashing, snapshot, state, status
from holdfast.data.cache import Cache
from holdfast.data.pointers import Out
from holdfast.data.repository import Repository
from holdfast.data.tree import signature

if TYPE_CHECKING:
    from holdfast.core.ports import Progress

UNKNOWN = bytes(32)
_Placed = dict[str, tuple[tuple[int, int, int, int], bytes]]
"""path → (stat, raw SHA-256 or ``UNKNOWN``) of a file that was put there."""


class Done:
    """What a checkout did, as paths below the repository."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.modified: list[str] = []
        self.deleted: list[str] = []
        self.files = 0


class _Plan(NamedTuple):
    """One out: files to put (path, md5), files to take away; ``wanted`` is the whole it becomes."""

    out: Out
    wanted: dict[str, str]
    now: dict[str, str]
    put: list[tuple[str, str]]
    remove: list[str]
    partial: bool = False


def checkout(
    repo: Repository,
    targets: Sequence[Path] = (),
    *,
    force: bool = False,
    relink: bool = False,
    progress: Progress | None = None,
) -> Done:
    """Make the workspace what the pointers say. A target may be one file or folder inside a tracked folder.

    Raises:
        Conflict: a changed file would be lost (its bytes are in no cache) and ``force`` was not given.
        NotFound: an object is not in the cache; nothing was touched.
        Damaged: an object has other bytes than its name says; it is not placed.
    """
    with repo.lock():
        return place_outs(repo, status.tracked(repo, targets), targets, force=force, relink=relink, progress=progress)


def place_outs(
    repo: Repository,
    outs: Sequence[Out],
    targets: Sequence[Path] = (),
    *,
    force: bool = False,
    relink: bool = False,
    progress: Progress | None = None,
) -> Done:
    """As ``checkout``, for these outs, by a caller who holds the repository's lock."""
    cache = caches.of(repo)
    plans = [_plan(repo, cache, out, targets, relink) for out in outs if out.md5 and out.cache]
    _check(cache, plans, force)
    cache.sweep_aside()
    done = Done()
    for plan in plans:
        _apply(repo, cache, plan, done, progress)
    return done


def check_outs(repo: Repository, outs: Sequence[Out], *, force: bool = False) -> None:
    """Whether ``place_outs`` would go through, without touching anything.

    Raises:
        Conflict, NotFound: as ``checkout``.
    """
    cache = caches.of(repo)
    _check(cache, [_plan(repo, cache, out, (), False) for out in outs if out.md5 and out.cache], force)


def _plan(repo: Repository, cache: Cache, out: Out, targets: Sequence[Path], relink: bool) -> _Plan:
    assert out.md5 is not None
    chosen = below(out, targets) if out.is_folder else None
    exists = os.path.lexists(out.place)
    taken = (
        snapshot.take(out.place, repo=repo, md5_only=True)
        if exists and not out.legacy and os.path.exists(out.place)
        else None
    )
    if taken is not None and taken.md5 == out.md5 and not relink:
        if chosen is not None:
            refuse_strangers(out, targets, taken.members)
        return _Plan(out, taken.members, taken.members, [], [])
    try:
        wanted = cache.members(out.md5, legacy=out.legacy) if out.is_folder else {out.place.name: out.md5}
    except NotFound:
        raise NotFound(
            f"{out.path}: its version {out.md5[:8]} is not in the cache", hint="get it with `holdfast data pull`"
        ) from None
    if chosen is not None:
        refuse_strangers(out, targets, wanted)
    if taken is not None:
        now = taken.members if taken.is_folder == out.is_folder else {}
    elif exists and out.legacy and out.place.is_dir() == out.is_folder:
        from holdfast.data import legacy

        now = legacy.compare(repo, out)[1]
    else:
        now = {}
    put = [(path, md5) for path, md5 in wanted.items() if relink or now.get(path) != md5]
    remove = [path for path in now if path not in wanted]
    if chosen is not None:
        put = [(p, m) for p, m in put if chosen(p)]
        remove = [p for p in remove if chosen(p)]
    return _Plan(out, wanted, now, put, remove, chosen is not None)


def below(out: Out, targets: Sequence[Path]) -> Callable[[str], bool] | None:
    """Which members of a folder the targets name; None when the whole folder is meant."""
    inner = inner_names(out, targets)
    if not inner:
        return None
    return lambda path: any(path == name or path.startswith(name + "/") for name in inner)


def refuse_strangers(out: Out, targets: Sequence[Path], members: Iterable[str]) -> None:
    """A mistyped target is told, not passed over.

    Raises:
        NotFound: neither the version nor the workspace has what a target inside the folder names.
    """
    names = [name for name in inner_names(out, targets) if not os.path.lexists(out.place / name)]
    for name in names:
        if not any(path == name or path.startswith(name + "/") for path in members):
            raise NotFound(
                f"{name} is not in {out.path}", hint="check the path, or `holdfast data checkout` the whole folder"
            )


def inner_names(out: Out, targets: Sequence[Path]) -> list[str]:
    """Paths below a folder that targets name; none when the whole folder is meant."""
    inner = []
    for target in targets:
        place = Path(os.path.abspath(target))
        if out.place.is_relative_to(place) or place.suffix == ".dvc":
            return []
        if place.is_relative_to(out.place):
            inner.append(os.path.relpath(place, out.place))
    return inner


def _check(cache: Cache, plans: list[_Plan], force: bool) -> None:
    for plan in plans:
        missing = {md5 for _, md5 in plan.put} - cache.present((md5 for _, md5 in plan.put), legacy=plan.out.legacy)
        if missing:
            names = [path for path, md5 in plan.put if md5 in missing]
            raise NotFound(
                f"{plan.out.path}: {len(names)} file{'s are' if len(names) > 1 else ' is'} not in the cache, {names[0]!r} first",
                hint="get them with `holdfast data pull`",
            )
        if force:
            continue
        losing = {path: plan.now[path] for path in [*plan.remove, *(p for p, _ in plan.put)] if path in plan.now}
        kept = cache.present(losing.values()) | cache.present(losing.values(), legacy=True)
        lost = [path for path, md5 in losing.items() if md5 not in kept]
        if lost:
            raise Conflict(
                f"{plan.out.path}: {len(lost)} changed file{'s' if len(lost) > 1 else ''} would be lost, {lost[0]!r} first",
                hint="keep them with `holdfast data add`, or throw them away with --force",
            )
        if not plan.now and os.path.lexists(plan.out.place) and plan.out.place.is_dir() != plan.out.is_folder:
            raise Conflict(
                f"{plan.out.path} is in the way of what is to be placed", hint="move it away, or use --force"
            )


def _apply(repo: Repository, cache: Cache, plan: _Plan, done: Done, progress: Progress | None) -> None:
    out = plan.out
    name = os.path.relpath(out.place, repo.root)
    whole = out.is_folder
    existed = os.path.lexists(out.place)
    if whole and existed and (out.place.is_symlink() or not out.place.is_dir()):
        out.place.unlink()
    if not whole and out.place.is_dir() and not out.place.is_symlink():
        _remove_tree(out.place)
    if not plan.put and not plan.remove and os.path.lexists(out.place):
        return
    base = out.place if whole else out.place.parent
    base.mkdir(parents=True, exist_ok=True)
    made: set[str] = set()
    for path in plan.remove:
        _parents(base, path, made, create=False)
        (base / path).unlink(missing_ok=True)
    for path, _ in plan.put:
        _parents(base, path, made, create=True)
        target = base / path
        if target.is_dir() and not target.is_symlink():
            _remove_tree(target)
    placed: _Placed = {}
    links = repo.links
    isexec = out.isexec and not whole

    total = len(plan.put)
    where = (str(cache.root), cache.scratch, links, isexec, out.legacy)
    items = [(where, md5, f"{base}/{path}") for path, md5 in plan.put]
    little = hashing.is_little(total, lambda: _sizes(cache, plan))
    for at, ((path, _), one) in enumerate(
        zip(plan.put, map(put, items) if little else crew.in_processes(put, items), strict=True), 1
    ):
        placed[path] = one
        if progress is not None:
            progress(at, total, path)
    if whole:
        _drop_empty(base, {os.path.dirname(path) for path in plan.remove})
    if not out.legacy and not plan.partial:
        _remember(repo, plan, placed)
    done.files += len(plan.put) + len(plan.remove)
    (done.modified if existed else done.added).append(name)


def _sizes(cache: Cache, plan: _Plan) -> int:
    return sum(os.stat(cache.path(md5, legacy=plan.out.legacy)).st_size for _, md5 in plan.put)


def place(
    cache: Cache, md5: str, target: str, links: tuple[str, ...], *, executable: bool = False, legacy: bool = False
) -> tuple[tuple[int, int, int, int], bytes]:  # fmt: skip
    """Put one object at a workspace path. Copies are verified on the way; (stat, raw SHA-256 or ``UNKNOWN``).

    Raises:
        Damaged: the object has other bytes than its name says.
    """
    source = cache.path(md5, legacy=legacy)
    sha256 = UNKNOWN
    if not legacy and links and links[0] in ("copy", "reflink") and (size := os.stat(source).st_size) <= hashing.SMALL:
        # Small copies pass through memory anyway, so they are verified for the price of a hash.
        fd, _ = hashing.open_regular(source)
        try:
            data = os.read(fd, size + 1)
        finally:
            os.close(fd)
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
            raise Damaged(
                f"object {md5} has other bytes than its name says", hint="mend it with `holdfast data scrub --repair`"
            )
        sha256 = hashlib.sha256(data).digest()
        _write_over(cache.aside(target), target, data, executable)
    else:
        cache.link_into(source, target, links, executable=executable)
    return signature(os.stat(target)), sha256


_Where = tuple[str, str | None, tuple[str, ...], bool, bool]


@functools.lru_cache(maxsize=1)
def _cache_at(root: str, scratch: str | None) -> Cache:
    return Cache(Path(root), scratch)


def put(item: tuple[_Where, str, str]) -> tuple[tuple[int, int, int, int], bytes]:
    """``place`` for plain values: ((cache, scratch folder, links, executable, legacy), object, target)."""
    (root, scratch, links, executable, legacy), md5, target = item
    return place(_cache_at(root, scratch), md5, target, links, executable=executable, legacy=legacy)


def _write_over(temporary: str, target: str, data: bytes, executable: bool) -> None:
    """Replace a workspace file in one step; where nothing is there, a half written file is only ever a temporary one."""
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        hashing.write_all(fd, data)
        if executable:
            os.fchmod(fd, os.fstat(fd).st_mode | stat.S_IXUSR)
    finally:
        os.close(fd)
    os.rename(temporary, target)


def _parents(base: Path, path: str, made: set[str], *, create: bool) -> None:
    """Have the folders above a member as real folders: one that is a link would lead the write elsewhere.

    Raises:
        Conflict: one of them is a link or a file.
    """
    head = os.path.dirname(path)
    if not head or head in made:
        return
    at = base
    for part in head.split("/"):
        at = at / part
        try:
            mode = os.lstat(at).st_mode
        except FileNotFoundError:
            if not create:
                return
            at.mkdir()
            continue
        if not stat.S_ISDIR(mode):
            if create and stat.S_ISREG(mode):
                at.unlink()
                at.mkdir()
                continue
            raise Conflict(f"{at} is a link where a folder belongs", hint="remove the link")
    made.add(head)


def _remove_tree(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


def _drop_empty(base: Path, heads: set[str]) -> None:
    for head in sorted(heads, key=len, reverse=True):
        while head:
            try:
                os.rmdir(base / head)
            except OSError:
                break
            head = os.path.dirname(head)


def _remember(repo: Repository, plan: _Plan, placed: _Placed) -> None:
    """Keep what is known of the placed files, so that the next status reads none of them."""
    out = plan.out
    old = state.load(repo.state, out.place)
    known = {path: at for at, path in enumerate(old.paths)}
    if known.keys() == plan.wanted.keys():
        index = _patched(old, known, plan.wanted, placed)
    else:
        rebuilt = _rebuilt(old, known, plan.wanted, placed)
        if rebuilt is None:
            return
        index = rebuilt
    index.md5_dir = out.md5 or "" if out.is_folder else ""
    state.save(repo.state, out.place, index, looked_at=time.time_ns())


def _patched(old: state.Index, known: dict[str, int], wanted: dict[str, str], placed: _Placed) -> state.Index:
    """The index of the same files, some of them placed anew."""
    stats, sha256 = array("q", old.stats), bytearray(old.sha256)
    for path, (signed, sha) in placed.items():
        at = known[path]
        stats[4 * at : 4 * at + 4] = array("q", signed)
        sha256[32 * at : 32 * at + 32] = sha
    md5 = bytes.fromhex("".join([wanted[path] for path in old.paths]))
    return state.Index(old.paths, stats, md5, bytes(sha256))


def _rebuilt(old: state.Index, known: dict[str, int], wanted: dict[str, str], placed: _Placed) -> state.Index | None:
    """The index of the wanted files in their order; None when one of them is neither placed nor known."""
    index = state.Index()
    md5s, shas = [], []
    for path, md5 in wanted.items():
        if path in placed:
            stats, sha256 = placed[path]
        elif path in known:
            at = known[path]
            stats, sha256 = tuple(old.stats[4 * at : 4 * at + 4]), old.sha256[32 * at : 32 * at + 32]  # type: ignore[assignment]
        else:
            return None
        index.paths.append(path)
        index.stats.extend(stats)
        md5s.append(bytes.fromhex(md5))
        shas.append(sha256)
    index.md5, index.sha256 = b"".join(md5s), b"".join(shas)
    return index
