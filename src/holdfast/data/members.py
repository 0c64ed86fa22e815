"""One file of a tracked folder, added, replaced or dropped without having the rest of the folder: only its manifest is read.

The pointer is what DVC writes then: ``size`` stays exact where files were only appended and is left out where it is not known.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from holdfast.core.errors import BadInput, Conflict, NotFound
from holdfast.data import cache as caches
from holdfast.data import hashing, ignore, manifest, pointers, tree
from holdfast.data.pointers import Out, Pointer
from holdfast.data.repository import Repository

if TYPE_CHECKING:
    from holdfast.core.ports import Progress


class Changed(NamedTuple):
    """A folder's new version: what was added or replaced, and dropped, as paths below the folder."""

    path: str
    md5: str
    files: int
    size: int | None
    added: list[str]
    removed: list[str]


def folder_of(repo: Repository, place: Path) -> tuple[Pointer, Out] | None:
    """The tracked folder a path lies in, or None."""
    for pointer in pointers.read_all(repo, outside=place):
        for out in pointer.outs:
            if place != out.place and place.is_relative_to(out.place):
                if not out.is_folder:
                    raise Conflict(f"{out.path} is tracked as a file", hint="add the folder's new content as a whole")
                return pointer, out
    return None


def add(repo: Repository, place: Path, *, progress: Progress | None = None) -> Changed:
    """Put a file or a folder that lies in a tracked folder into that folder's next version; one that is gone is dropped.

    Raises:
        NotFound: it lies in no tracked folder, or neither the disk nor the version has it.
        BadInput: something in it cannot be tracked.
        Conflict: a file changed while it was read.
    """
    with repo.lock():
        pointer, out, members = _open(repo, place)
        inner = os.path.relpath(place, out.place)
        if not os.path.lexists(place):
            if not _below(members, inner):
                raise NotFound(f"{place} does not exist", hint="check the path")
            return _drop(repo, pointer, out, members, [inner])
        if place.is_symlink() and place.is_dir():
            raise BadInput(f"{place} is a link to a folder", hint="add the folder itself")
        if ignore.by_dvc(repo.root, place):
            raise BadInput(f"{inner} is ignored by .dvcignore", hint="take the line out, or leave it untracked")
        skip = ignore.below(repo.root, place)
        cache = caches.of(repo)
        if place.is_dir():
            found = tree.listing(place, ignore=skip)
            names = {path: f"{inner}/{path}" for path in found.paths}
        else:
            names = {"": inner}
        sizes: dict[str, int] = {}
        fresh: dict[str, str] = {}
        ordered = list(names)

        def work(path: str) -> hashing.Digest:
            return cache.take_in(str(place / path) if path else str(place), ("copy",))

        with cache.settling():
            for at, (path, digest) in enumerate(zip(ordered, hashing.in_parallel(work, ordered), strict=True), 1):
                fresh[names[path]], sizes[names[path]] = digest.md5, digest.size
                if progress is not None:
                    progress(at, len(ordered), names[path])
        gone = _below(members, inner)
        kept = {path: md5 for path, md5 in members.items() if path not in gone}
        size = out.size + sum(sizes.values()) if out.size is not None and not gone else None
        return _settle(repo, pointer, out, {**kept, **fresh}, size, sorted(fresh), sorted(gone - fresh.keys()))


def drop(repo: Repository, places: Sequence[Path]) -> list[Changed]:
    """Take files or folders out of the next version of the tracked folder they lie in, and out of the workspace.

    Raises:
        NotFound: one lies in no tracked folder, or its version does not have it.
        Conflict: a file's bytes are in no cache and would be lost.
    """
    changed = []
    with repo.lock():
        for place in places:
            pointer, out, members = _open(repo, place)
            inner = os.path.relpath(place, out.place)
            gone = _below(members, inner)
            if not gone:
                raise NotFound(
                    f"{inner} is not in {out.path}", hint="see its files with `holdfast data status --files`"
                )
            cache = caches.of(repo)
            for path in sorted(gone):
                file = out.place / path
                if not file.is_file() or hashing.same_bytes(file, members[path]):
                    continue
                if not cache.has(hashing.copy_md5(str(file), None)):
                    raise Conflict(
                        f"{path} was changed, and its bytes are in no cache",
                        hint="keep them with `holdfast data add`, or delete the file yourself first",
                    )
            changed.append(_drop(repo, pointer, out, members, [inner]))
            if place.is_dir() and not place.is_symlink():
                import shutil

                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
    return changed


def _drop(repo: Repository, pointer: Pointer, out: Out, members: dict[str, str], inner: list[str]) -> Changed:
    gone = {path for name in inner for path in _below(members, name)}
    kept = {path: md5 for path, md5 in members.items() if path not in gone}
    return _settle(repo, pointer, out, kept, None, [], sorted(gone))


def _below(members: dict[str, str], inner: str) -> set[str]:
    return {path for path in members if path == inner or path.startswith(inner + "/")}


def _open(repo: Repository, place: Path) -> tuple[Pointer, Out, dict[str, str]]:
    found = folder_of(repo, place)
    if found is None:
        raise NotFound(f"{place} lies in no tracked folder", hint="track it with `holdfast data add`")
    pointer, out = found
    pointers.inside(place.parent, place.name, repo.root, place)
    pointers.refuse_behind_link(repo.root, place)
    if out.legacy:
        raise BadInput(
            f"{out.path} is data of DVC 2.x", hint="bring it to 3.x with `holdfast data migrate --dvc-files`"
        )
    if pointer.origin is not None:
        raise BadInput(f"{out.path} is an import", hint="change it at its origin, then `holdfast data update`")
    assert out.md5 is not None
    from holdfast.data import transfer

    return pointer, out, transfer.members_of(repo, out)


def _settle(
    repo: Repository,
    pointer: Pointer,
    out: Out,
    members: dict[str, str],
    size: int | None,
    added: list[str],
    removed: list[str],
) -> Changed:
    data = manifest.render(members.items())
    md5 = manifest.name(data)
    manifest.parse(data, md5)
    if md5 == out.md5:
        return Changed(out.path, md5, len(members), out.size, [], [])
    caches.of(repo).put(data, md5)
    content = {"md5": md5, **({"size": size} if size is not None else {}), "nfiles": len(members), "hash": "md5"}
    text = pointer.file.read_text(encoding="utf-8")
    pointers.write(pointer.file, pointers.render_changed(text, pointer.file, {out.path: content}))
    return Changed(out.path, md5, len(members), size, added, removed)
