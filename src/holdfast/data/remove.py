"""Ending the tracking of a path: the pointer and its line in ``.gitignore`` go; the data stays, unless it is to go too.

The bytes stay in the cache until ``gc`` finds that nobody needs them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from holdfast.core.errors import Conflict, NotFound
from holdfast.data import ignore, pointers, status
from holdfast.data.repository import Repository


def remove(repo: Repository, targets: Sequence[Path], *, outs: bool = False, force: bool = False) -> list[str]:
    """Remove the pointers of targets (a pointer or its data); with ``outs`` the data in the workspace too.

    Raises:
        NotFound: a target is not tracked.
        Conflict: data that is in no cache would be lost and ``force`` was not given. Nothing was removed then.
    """
    files: dict[Path, None] = {}
    for target in targets:
        place = Path(os.path.abspath(target))
        files[_pointer_of(repo, place, target)] = None
    with repo.lock():
        found = [pointers.read(file, repo.root) for file in files]
        for pointer in found if outs and not force else ():
            for out in pointer.outs:
                state = status.of_out(repo, pointer, out)
                if state is not None and state.state not in ("deleted",) and os.path.lexists(out.place):
                    raise Conflict(
                        f"{state.path} is {state.state}: its bytes are in no version, or in no cache, and would be lost",
                        hint="keep them with `holdfast data add`, or throw them away with --force",
                    )
        removed = []
        for pointer in found:
            # The pointer goes last: a kill before it leaves the path tracked, and a second call ends it.
            for out in pointer.outs:
                if outs:
                    _delete(out.place)
                ignore.remove_line(out.place.parent, out.place.name)
            pointer.file.unlink()
            removed.append(os.path.relpath(pointer.file, repo.root))
    return removed


def _pointer_of(repo: Repository, place: Path, target: Path) -> Path:
    """The pointer of a target.

    Raises:
        NotFound: it has none.
        Conflict: its pointer speaks of other paths too, and would take them along.
    """
    if place.suffix == ".dvc" and place.is_file():
        return place
    for pointer in pointers.read_all(repo):
        if any(out.place == place for out in pointer.outs):
            others = [out.path for out in pointer.outs if out.place != place]
            if others:
                name = os.path.relpath(pointer.file, repo.root)
                raise Conflict(
                    f"{name} tracks {others[0]} as well as {os.path.relpath(place, repo.root)}",
                    hint=f"remove {name} as a whole, or take the entry out of it and of .gitignore by hand",
                )
            return pointer.file
    raise NotFound(f"{target} has no pointer", hint="name tracked data, or its .dvc file")


def _delete(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
