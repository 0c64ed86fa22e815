"""Bytes on disk → a dataset version: hashed, kept in the cache, named by a pointer.

``take`` looks and hashes; ``add`` also keeps. The pointer is written last: a kill before it leaves the old version, after it
the new one.
"""

from __future__ import annotations

import os
import stat
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.core.errors import BadInput, Conflict, NotFound
from holdfast.data import cache as caches
from holdfast.data import crew, gitindex, hashing, ignore, manifest, pointers, repository, state, tree
from holdfast.data.cache import Cache
from holdfast.data.hashing import Digest
from holdfast.data.pointers import Pointer
from holdfast.data.repository import Repository

if TYPE_CHECKING:
    from holdfast.core.ports import Progress
    from holdfast.core.records import DatasetVersion


SMALL_EACH = 16 << 10
"""Bytes a file on average below which a thread spends more on its turn than on the hash."""


class CalledOff(Exception):
    """``take`` was called off by the one it showed the paths to."""


class Snapshot:
    """The content of a file or a folder at one moment, every byte named. ``fresh`` are the paths that had to be read."""

    def __init__(
        self, place: Path, is_folder: bool, index: state.Index, mode: int, fresh: tuple[str, ...] = ()
    ) -> None:
        self.place = place
        self.is_folder = is_folder
        self.index = index
        self.mode = mode
        self.fresh = fresh

    @cached_property
    def sizes(self) -> list[int]:
        return self.index.stats[0::4].tolist()

    @property
    def size(self) -> int:
        return sum(self.sizes)

    @property
    def files(self) -> int:
        return len(self.index.paths)

    @cached_property
    def members(self) -> dict[str, str]:
        """path → md5."""
        text = self.index.md5.hex()
        return {path: text[32 * at : 32 * at + 32] for at, path in enumerate(self.index.paths)}

    @cached_property
    def triples(self) -> list[tuple[str, str, int]]:
        """(path, sha256, size) of every file, sorted by path."""
        text = self.index.sha256.hex()
        return sorted(
            (path, text[64 * at : 64 * at + 64], size)
            for at, (path, size) in enumerate(zip(self.index.paths, self.sizes, strict=True))
        )

    @property
    def md5(self) -> str:
        return self.index.md5_dir if self.is_folder else self.index.md5.hex()

    @property
    def sha256(self) -> str:
        return self.index.tree if self.is_folder else self.index.sha256.hex()

    @property
    def isexec(self) -> bool:
        return not self.is_folder and bool(self.mode & stat.S_IXUSR)

    def version(
        self, name: str, path: str, *, at: int, rows: int | None = None, schema: str | None = None
    ) -> DatasetVersion:
        from holdfast.core.records import DatasetVersion

        return DatasetVersion(
            name=name, path=path, md5=self.md5, sha256=self.sha256, size=self.size, files=self.files, rows=rows, schema=schema, at=at,
        )  # fmt: skip


def assembled(place: Path, files: Iterable[tuple[str, str, str, int]]) -> Snapshot:
    """A folder's snapshot from (path, md5, sha256, size) of files whose bytes are in the cache already."""
    index = state.Index()
    md5s, shas = [], []
    for path, md5, sha256, size in sorted(files):
        index.paths.append(path)
        index.stats.extend((size, 0, 0, 0))
        md5s.append(bytes.fromhex(md5))
        shas.append(bytes.fromhex(sha256))
    index.md5, index.sha256 = b"".join(md5s), b"".join(shas)
    _name_whole(index)
    return Snapshot(place, True, index, 0o755)


def _name_whole(index: state.Index) -> None:
    """Work out the names of the whole. Both are over the members in order of path, which is found once."""
    paths, md5, sha256, sizes = index.paths, index.md5.hex(), index.sha256.hex(), index.stats[0::4]
    order = sorted(range(len(paths)), key=paths.__getitem__)
    names = [paths[at] for at in order]
    index.manifest = manifest.render(zip(names, [md5[32 * at : 32 * at + 32] for at in order], strict=True))
    index.md5_dir = manifest.name(index.manifest)
    index.tree = hashing.tree_sha256(
        zip(names, [sha256[64 * at : 64 * at + 64] for at in order], [sizes[at] for at in order], strict=True)
    )


def take(
    place: Path,
    *,
    repo: Repository | None = None,
    keep: Cache | None = None,
    links: tuple[str, ...] = ("copy",),
    md5_only: bool = False,
    progress: Progress | None = None,
    unless: Callable[[Sequence[str]], bool] | None = None,
) -> Snapshot:
    """Name every byte at ``place``; only what changed since the last look is read. With ``keep`` every file is also had in
    that cache afterwards. With ``md5_only`` a file whose SHA-256 is not known is left so. ``unless`` is shown the paths and may
    call it off.

    Raises:
        CalledOff: by ``unless``; no file was read.
        NotFound: nothing is there, or a link is broken.
        BadInput: something in it cannot be tracked.
        Conflict: a file changed while it was read.
    """
    looked = time.time_ns()
    try:
        status = os.stat(place)
    except FileNotFoundError:
        if place.is_symlink():
            raise NotFound(f"{place} is a broken link", hint="remove the link, or mend it") from None
        raise NotFound(f"{place} does not exist", hint="check the path") from None
    is_folder = stat.S_ISDIR(status.st_mode)
    where = repo.state if repo else None
    known = state.load(where, place)
    # A folder seen for the first time is all to be read: the disk may begin while it is walked.
    first = is_folder and not known.paths and keep is not None and links[0] in caches.LINKED
    settled = keep.make_settled() if keep is not None and first else None
    if is_folder:
        ignored = ignore.below(repo.root, place) if repo else None
        found = tree.listing(place, ignore=ignored, expected=len(known.paths))
    elif stat.S_ISREG(status.st_mode):
        linked = {place.name} if place.is_symlink() else None
        found = tree.Listing([place.name], array("q", tree.signature(status)), linked)
    else:
        raise BadInput(f"{place} is neither a file nor a folder", hint="pipes, sockets and devices cannot be tracked")
    if unless is not None and unless(found.paths):
        raise CalledOff
    if not md5_only:
        known.forget_half_known()
    # After a checkout the files are known and the SHA-256 of the whole is not.
    named = not is_folder or bool(known.md5_dir and (known.tree or md5_only))
    if known.same_as(found) and keep is None and named:
        return Snapshot(place, is_folder, known, status.st_mode)
    reuse = known.unchanged(found)
    absent = _absent(known, keep)
    todo = [at for at, old in enumerate(reuse) if old < 0 or (absent and known.digest(old)[0] in absent)]
    if not todo and known.same_as(found) and named:
        return Snapshot(place, is_folder, known, status.st_mode)

    base = str(place) + "/" if is_folder else str(place.parent) + "/"
    with keep.settling() if keep is not None else nullcontext():
        digests = _read(base, found, todo, keep, links, settled, progress or _silent)
    if keep is not None and links[0] in caches.LINKED:
        # Now that the objects have their names. What was a link already was seen to while it was read.
        for at, digest in digests.items():
            if found.paths[at] not in found.links:
                shown = keep.show(base + found.paths[at], digest, links[0])
                if status.st_mode & stat.S_IXUSR and not is_folder:
                    caches.make_executable(str(place))
                    shown = shown._replace(stat=tree.signature(os.stat(place)))
                digests[at] = shown
    index = _merge(found, known, reuse, digests)
    if is_folder:
        if named and (index.paths, index.md5, index.sha256) == (known.paths, known.md5, known.sha256):
            index.md5_dir, index.tree = known.md5_dir, known.tree
        else:
            _name_whole(index)
    fresh = tuple(found.paths[at] for at in todo if reuse[at] < 0)
    state.save(where, place, index, looked_at=looked)
    return Snapshot(place, is_folder, index, status.st_mode, fresh)


def _silent(done: int, total: int | None, what: str) -> None:
    return None


def _absent(known: state.Index, keep: Cache | None) -> set[str]:
    """Known objects that are not in the cache."""
    if keep is None:
        return set()
    text = known.md5.hex()
    names = {text[at : at + 32] for at in range(0, len(text), 32)}
    return names - keep.present(names)


def _read(
    base: str,
    found: tree.Listing,
    todo: list[int],
    keep: Cache | None,
    links: tuple[str, ...],
    settled: Callable[[], int] | None,
    progress: Progress,
) -> dict[int, Digest]:
    def work(at: int) -> Digest:
        path = base + found.paths[at]
        if keep is None:
            return hashing.digest(path)
        digest = keep.take_in(path, links if found.paths[at] not in found.links else ("copy",))
        if found.paths[at] in found.links and not _is_ours(path, keep):
            # DVC tracks what a link shows, as a file of its own.
            keep.settle()
            keep.link_into(keep.path(digest.md5), path, links, executable=bool(digest.mode & stat.S_IXUSR))
            digest = Digest(digest.md5, digest.sha256, tree.signature(os.stat(path)), digest.mode)
        return digest

    sizes = [found.stats[4 * at] for at in todo]
    total, largest = sum(sizes), max(sizes, default=0)
    done, out = 0, {}
    digests: Iterable[Digest]
    if total <= len(todo) * SMALL_EACH and largest <= hashing.SMALL and not found.links:
        paths = [base + found.paths[at] for at in todo]
        if keep is None:
            digests = (Digest(*names) for names in crew.in_processes(hashing.named, paths, turns=True))
        else:
            digests = keep.take_in_many(paths, links, settled=settled)
    else:
        digests = hashing.in_parallel(work, todo, alone=hashing.is_little(len(todo), lambda: total))
    for at, digest in zip(todo, digests, strict=True):
        out[at] = digest
        done += digest.size
        progress(done, total, found.paths[at])
    return out


def _is_ours(path: str, cache: Cache) -> bool:
    target = os.path.realpath(path)
    return target.startswith(os.path.realpath(cache.root) + os.sep)


def _merge(found: tree.Listing, known: state.Index, reuse: list[int], digests: dict[int, Digest]) -> state.Index:
    numbers = found.stats.tolist()
    for at, digest in digests.items():
        numbers[4 * at : 4 * at + 4] = digest.stat
    stats = array("q", numbers)
    if found.paths == known.paths:
        # The same files in the same order: only what was read is put in its place.
        md5, sha256 = bytearray(known.md5), bytearray(known.sha256)
        for at, digest in digests.items():
            md5[16 * at : 16 * at + 16] = bytes.fromhex(digest.md5)
            sha256[32 * at : 32 * at + 32] = bytes.fromhex(digest.sha256)
        return state.Index(found.paths, stats, bytes(md5), bytes(sha256))
    md5s, shas = [], []
    old_md5, old_sha256 = known.md5.hex(), known.sha256.hex()
    for at, old in enumerate(reuse):
        read = digests.get(at)
        md5s.append(old_md5[32 * old : 32 * old + 32] if read is None else read.md5)
        shas.append(old_sha256[64 * old : 64 * old + 64] if read is None else read.sha256)
    return state.Index(found.paths, stats, bytes.fromhex("".join(md5s)), bytes.fromhex("".join(shas)))


# --- the two verbs ----------------------------------------------------------------------------------------------------


def identify(path: Path, name: str | None = None, *, at: int = 0, progress: Progress | None = None) -> DatasetVersion:
    """The version of what lies at ``path``, without keeping anything. Inside a repository, unchanged bytes are not read
    again.

    Raises:
        NotFound, BadInput, Conflict: as ``take``.
    """
    place = Path(os.path.abspath(path))
    snapshot = take(place, repo=repository.find(place.parent), progress=progress)
    return snapshot.version(name or place.stem, place.name, at=at)


def add(
    root: Path, path: Path, *, progress: Progress | None = None, at: int = 0, name: str | None = None
) -> DatasetVersion:
    """``track``, and the version's record.

    Raises:
        NotFound, BadInput, Conflict: as ``track``.
    """
    snapshot = track(root, path, progress=progress)
    return snapshot.version(name or snapshot.place.stem, os.path.relpath(snapshot.place, root), at=at)


def track(
    root: Path,
    path: Path,
    *,
    progress: Progress | None = None,
    unless: Callable[[Sequence[str]], bool] | None = None,
) -> Snapshot:
    """Track a file or folder as ``dvc add`` does: objects in the cache, pointer beside it, a line in ``.gitignore``.
    ``unless`` is shown the paths of its files and may call it off.

    Raises:
        CalledOff: by ``unless``; nothing was done.
        NotFound: nothing is there.
        BadInput: outside the repository, or something in it cannot be tracked.
        Conflict: git tracks it already, it lies in a tracked folder, or it changed while it was read.
    """
    place = locate(root, path)
    repo = repository_for(place)
    owner = check_addable(repo, place)
    with repo.lock():
        snapshot = take(place, repo=repo, keep=caches.of(repo), links=repo.links, progress=progress, unless=unless)
        commit(repo, snapshot, owner)
    return snapshot


def locate(root: Path, path: Path) -> Path:
    """The absolute place of a path that is relative to ``root``; links in it stay."""
    return Path(os.path.normpath(Path(os.path.abspath(root)) / path))


def repository_for(place: Path) -> Repository:
    """The repository a path is tracked in, begun where there is none.

    Raises:
        BadInput: as ``refuse_top``.
    """
    refuse_top(place)
    return repository.ensure(place.parent)


def refuse_top(place: Path) -> None:
    """A repository that is begun for a path must not begin around the one that is there.

    Raises:
        BadInput: it would.
    """
    if repository.find(place.parent) is None and repository.is_top(place):
        raise BadInput(f"{place} is the top of a repository", hint="name the files or folders in it")


def check_addable(repo: Repository, place: Path) -> Pointer | None:
    """Whether a path may be tracked; the pointer that speaks of it already, or None.

    Raises:
    NotFound: nothing is there.
    BadInput: outside the repository, inside .dvc or .git, behind a link, or a pointer itself.
    Conflict: git tracks it already.
    """
    pointers.inside(place.parent, place.name, repo.root, place)
    if not os.path.lexists(place):
        raise NotFound(f"{place} does not exist", hint="check the path")
    if place.is_symlink() and place.is_dir():
        raise BadInput(f"{place} is a link to a folder", hint="add the folder itself")
    if place.suffix == ".dvc":
        raise BadInput(f"{place} is a pointer, not data", hint="commit it with git")
    pointers.refuse_behind_link(repo.root, place)
    if place.is_dir():
        ignore.refuse_inside(place)
    owner = _check_overlap(repo, place)
    refuse_ignored(repo, place)
    if repo.scm is not None:
        _refuse_tracked_by_git(repo.scm, place)
    return owner


def refuse_ignored(repo: Repository, place: Path) -> None:
    """What ``.dvcignore`` covers is not there for any command, and a pointer that git ignores reaches nobody.

    Raises:
        BadInput: one of the two is so.
    """
    if ignore.by_dvc(repo.root, place):
        raise BadInput(
            f"{os.path.relpath(place, repo.root)} is ignored by .dvcignore",
            hint="take the line out, or leave it untracked",
        )
    file = place.with_name(place.name + ".dvc")
    if repo.scm is not None and ignore.by_git(repo.scm, file):
        raise BadInput(
            f"its pointer {os.path.relpath(file, repo.root)} is ignored by .gitignore, and would reach nobody",
            hint="take the line out; `add` writes one for the data alone",
        )


def _refuse_tracked_by_git(top: Path, place: Path) -> None:
    if gitindex.surely_without(top, place):
        return
    import subprocess

    try:
        listed = subprocess.run(
            ["git", "-C", str(top), "ls-files", "-z", "--", str(place)], capture_output=True, check=False, timeout=60
        ).stdout
    except FileNotFoundError:
        return  # no git here
    if listed:
        inner = os.path.relpath(place, top)
        raise Conflict(
            f"git tracks {inner} already",
            hint=f"let go of it first: git rm -r --cached {inner!r} && git commit -m 'stop tracking'",
        )


def _check_overlap(repo: Repository, place: Path) -> Pointer | None:
    """Two pointers, or a pointer and a stage, that speak of one file would each overwrite what the other says. The pointer
    that speaks of just this place, which need not be named after it: one pointer may hold several outs."""
    owner = None
    tracked, files = pointers.read_all_beside(repo, "dvc.yaml")
    for pointer in tracked:
        for out in pointer.outs:
            if place == out.place:
                owner = pointer
            if place != out.place and place.is_relative_to(out.place):
                raise Conflict(f"{place.name} lies in {out.path}, which is tracked as a whole", hint="add that folder")
            if place != out.place and out.place.is_relative_to(place):
                raise Conflict(
                    f"{os.path.relpath(out.place, repo.root)} in it is tracked already",
                    hint=f"let go of it first: holdfast data remove {os.path.relpath(pointer.file, repo.root)}",
                )
    if not files:
        return owner
    from holdfast.data import stages

    for file in files:
        for stage in stages.load(file, repo.root):
            for written in stage.outs:
                there = Path(os.path.normpath(stage.folder / written.path))
                if place.is_relative_to(there) or there.is_relative_to(place):
                    raise Conflict(
                        f"stage {stage.name!r} writes {written.path}", hint="bring it up with `holdfast data repro`"
                    )
    return owner


def commit(repo: Repository, snapshot: Snapshot, owner: Pointer | None = None) -> None:
    """Make a snapshot whose files are in the cache the current version: manifest, then .gitignore, then the pointer, which is
    ``owner`` where one speaks of the place already."""
    place = snapshot.place
    if snapshot.is_folder:
        data = snapshot.index.manifest or manifest.render(snapshot.members.items())
        caches.of(repo).put(data, snapshot.md5)
    content = pointers.fields(
        md5=snapshot.md5,
        size=snapshot.size,
        nfiles=snapshot.files if snapshot.is_folder else None,
        isexec=snapshot.isexec,
    )
    if repo.scm is not None:
        ignore.hide(repo.scm, place)
    if owner is None:
        file, path = place.with_name(place.name + ".dvc"), place.name
    else:
        file, path = owner.file, next(out.path for out in owner.outs if out.place == place)
    point(repo, file, path, content)
    if repo.autostage and repo.scm is not None:
        import subprocess

        staged = [str(file), str(place.parent / ".gitignore")]
        subprocess.run(["git", "-C", str(repo.scm), "add", "--", *staged], check=False, capture_output=True, timeout=60)


def point(repo: Repository, file: Path, path: str, content: dict[str, object]) -> None:
    """Write the pointer, or change only what differs in the one that is there."""
    if not file.exists():
        pointers.write(file, pointers.render_new(path, content))
        return
    old = pointers.read(file, repo.root)
    mine = next((out for out in old.outs if out.path == path), None)
    if mine is None:
        raise Conflict(f"{file} tracks something else", hint="rename one of the two")
    if (
        mine.md5 == content["md5"]
        and not mine.legacy
        and bool(content.get("isexec")) == mine.isexec
        and mine.size == content["size"]
    ):
        return
    if mine.legacy:
        from holdfast.data import legacy

        if os.path.exists(mine.place) and legacy.compare(repo, mine)[0]:
            return  # as DVC: 2.x data that is as it was keeps its name
    text = file.read_text(encoding="utf-8")
    new = pointers.render_changed(text, file, {path: content})
    if new != text:
        pointers.write(file, new)
