"""Which dataset version a file that was read belongs to: the bytes a run rests on, by name.

A tracked file is named by its pointer's version, and checked to be that version; a file git keeps is named by the commit;
anything else is hashed and told, and can be tracked on the spot, so that the run can be done again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from holdfast.core.errors import HoldfastError, NotFound
from holdfast.core.records import Record
from holdfast.data import cache as caches
from holdfast.data import hashing, pointers, repository, snapshot, stages, state, tree
from holdfast.data.pointers import Out
from holdfast.data.repository import Repository

How = Literal["tracked", "changed", "git", "untracked", "gone"]


class Read(Record, frozen=True):
    """One file that was read.

    Args:
        path: relative to the project where it lies inside, else absolute.
        how: ``tracked`` (the bytes are those of ``version``), ``changed`` (they are not, or not any more), ``git`` (git
            keeps it), ``untracked``, ``gone`` (it cannot be read any more, so it has no hashes).
        dataset: the tracked path, relative to the project, that the file is or lies in; ``version`` is its MD5 as the pointer
            says and ``pointer`` the pointer's (or ``dvc.lock``'s) path.
        notice: what people should be told; None where all is well.
    """

    path: str
    how: How
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None
    dataset: str | None = None
    version: str | None = None
    pointer: str | None = None
    notice: str | None = None


def bind(root: Path, paths: Iterable[Path], *, track: bool = False) -> list[Read]:
    """Name the bytes of files that were read, in order of path; each file once.

    Only files whose stat moved since they were last hashed are read. With ``track`` an untracked file inside the project
    that git does not keep is added as ``holdfast data add`` would (without looking into its table), and its notice says so.

    Args:
        root: the project's folder.
        paths: absolute or relative to ``root``; what is no regular file is passed over.
    """
    root = Path(os.path.abspath(root))
    places = sorted({Path(os.path.normpath(root / path)) for path in paths})
    repo = repository.find(root)
    outs = _outs(repo) if repo is not None else []
    kept = _kept_by_git(root, [p for p in places if p.is_relative_to(root)])
    known = _Known(repo)
    found = []
    for place in places:
        if place.exists() and not place.is_file():
            continue
        found.append(_bind(root, repo, place, _owner(place, outs), kept, known, track))
    return found


class _Known:
    """What was hashed before, and what versions name: each index and each manifest is opened once."""

    def __init__(self, repo: Repository | None) -> None:
        self._repo = repo
        self._indexes: dict[Path, tuple[state.Index, dict[str, int]]] = {}
        self._manifests: dict[str, dict[str, str]] = {}

    def _index(self, tracked: Path) -> tuple[state.Index, dict[str, int]]:
        if tracked not in self._indexes:
            index = state.load(self._repo.state if self._repo else None, tracked)
            self._indexes[tracked] = index, {path: at for at, path in enumerate(index.paths)}
        return self._indexes[tracked]

    def digest(self, place: Path, tracked: Path) -> tuple[str, str, int]:
        """Both names of a file and its size; from what was hashed before where its stat is still the same."""
        index, places = self._index(tracked)
        at = places.get(os.path.relpath(place, tracked) if place != tracked else place.name)
        if at is not None:
            stats = tree.signature(os.stat(place))
            md5, sha256 = index.digest(at)
            if tuple(index.stats[4 * at : 4 * at + 4]) == stats and sha256.strip("0"):
                return md5, sha256, stats[0]
        digest = hashing.digest(place)
        return digest.md5, digest.sha256, digest.size

    def member(self, repo: Repository, out: Out, place: Path) -> str | None:
        """The MD5 a folder's version gives this file.

        Raises:
            NotFound: the version's manifest is not in the cache.
        """
        assert out.md5 is not None
        if out.md5 not in self._manifests:
            self._manifests[out.md5] = caches.of(repo).members(out.md5, legacy=out.legacy)
        return self._manifests[out.md5].get(os.path.relpath(place, out.place))


def _outs(repo: Repository) -> list[tuple[Out, str]]:
    """Every tracked out, with the file that says so."""
    listed = [(out, str(pointer.file)) for pointer in pointers.read_all(repo) for out in pointer.outs]
    return listed + [(out, str(out.place.parent / "dvc.lock")) for out in stages.cached_outs(repo)]


def _owner(place: Path, outs: Sequence[tuple[Out, str]]) -> tuple[Out, str] | None:
    return next(((out, file) for out, file in outs if out.md5 is not None and place.is_relative_to(out.place)), None)


def _kept_by_git(root: Path, places: Sequence[Path]) -> set[Path]:
    if not places or shutil.which("git") is None or not repository.in_git(root):
        return set()
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--full-name", "--", *map(str, places)] if len(places) < 200 else
        ["git", "-C", str(root), "ls-files", "-z", "--full-name"],
        capture_output=True, check=False, timeout=60, env={**os.environ, "GIT_LITERAL_PATHSPECS": "1"},
    ).stdout  # fmt: skip
    top = repository.git_top(root)
    return {top / os.fsdecode(name) for name in listed.split(b"\0") if name} if top else set()


def _bind(
    root: Path,
    repo: Repository | None,
    place: Path,
    owner: tuple[Out, str] | None,
    kept: set[Path],
    known: _Known,
    track: bool,
) -> Read:
    path = os.path.relpath(place, root) if place.is_relative_to(root) else str(place)
    try:
        digest = known.digest(place, owner[0].place if owner else place)
    except (OSError, HoldfastError) as error:
        why = error.message if isinstance(error, HoldfastError) else error.strerror
        return Read(path=path, how="gone", notice=f"{path} was read and cannot be hashed now: {why}")
    md5, sha256, size = digest
    if owner is not None and repo is not None:
        return _tracked(root, repo, known, place, path, owner, digest)
    if place in kept:
        return Read(path=path, how="git", md5=md5, sha256=sha256, size=size)
    if not place.is_relative_to(root):
        notice = f"{path} was read; it lies outside the project, so only its hash is kept"
        return Read(path=path, how="untracked", md5=md5, sha256=sha256, size=size, notice=notice)
    if not track:
        notice = f"{path} was read and is not tracked; keep it with `holdfast data add {path}`"
        return Read(path=path, how="untracked", md5=md5, sha256=sha256, size=size, notice=notice)
    try:
        version = snapshot.add(root, place)
    except HoldfastError as error:
        notice = f"{path} was read and cannot be tracked: {error.message}"
        return Read(path=path, how="untracked", md5=md5, sha256=sha256, size=size, notice=notice)
    return Read(
        path=path, how="tracked", md5=version.md5, sha256=version.sha256, size=version.size, dataset=path, version=version.md5,
        pointer=f"{path}.dvc", notice=f"{path} was read and was not tracked; it is now: commit {path}.dvc",
    )  # fmt: skip


def _tracked(
    root: Path,
    repo: Repository,
    known: _Known,
    place: Path,
    path: str,
    owner: tuple[Out, str],
    digest: tuple[str, str, int],
) -> Read:
    (out, file), (md5, sha256, size) = owner, digest
    dataset = os.path.relpath(out.place, root)
    try:
        same = md5 == (known.member(repo, out, place) if out.is_folder else out.md5)
        notice = (
            None if same else f"{path} was read and is not as {dataset} was tracked; keep it with `holdfast data add {dataset}`"
        )  # fmt: skip
    except NotFound:
        same, notice = False, f"{path} was read; its version of {dataset} is not in the cache, so it cannot be compared"
    if out.legacy and not same:
        notice = (
            f"{path} was read; {dataset} has a 2.x pointer: bring it to 3.x with `holdfast data migrate --dvc-files`"
        )
    return Read(
        path=path, how="tracked" if same else "changed", md5=md5, sha256=sha256, size=size, dataset=dataset, version=out.md5,
        pointer=os.path.relpath(file, root), notice=notice,
    )  # fmt: skip
