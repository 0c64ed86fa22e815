"""What differs between pointers, cache and workspace. Reads only: no lock, no ledger, nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.core.errors import NotFound
from holdfast.data import cache as caches
from holdfast.data import pointers
from holdfast.data.complete import Completeness
from holdfast.data.pointers import Out, Pointer
from holdfast.data.repository import Repository


class OutState(NamedTuple):
    """One out that is not as its pointer says: ``modified``, ``deleted`` or ``not in cache``. The lists say which files of a folder."""

    pointer: str
    path: str
    state: str
    added: Sequence[str] = ()
    changed: Sequence[str] = ()
    removed: Sequence[str] = ()


class Quarantine(NamedTuple):
    """Files of a dataset that were kept out, and why."""

    name: str
    path: str
    why: list[str]


def outs(repo: Repository, targets: Sequence[Path] = (), *, granular: bool = False) -> list[OutState]:
    """Every out that differs, in order of pointer. ``targets`` are pointers or tracked paths.

    Raises:
        NotFound: a target is not tracked.
        BadInput: a pointer cannot be used.
    """
    found = []
    complete = Completeness(repo, caches.of(repo))
    for pointer in choose(repo, targets):
        for out in pointer.outs:
            state = of_out(repo, pointer, out, granular=granular, complete=complete)
            if state is not None:
                found.append(state)
    return found


def choose(repo: Repository, targets: Sequence[Path] = ()) -> list[Pointer]:
    """The pointers of the targets; all without any. Of a pointer with several outs only those that are meant.

    Raises:
        NotFound: a target is not tracked.
    """
    if not targets:
        return pointers.read_all(repo)
    chosen: dict[Path, Pointer] = {}

    def choose_also(pointer: Pointer) -> None:
        before = chosen.get(pointer.file)
        both = {out.place: out for out in (*(before.outs if before else ()), *pointer.outs)}
        chosen[pointer.file] = pointer._replace(outs=tuple(both.values()))

    everything: list[Pointer] | None = None
    for target in targets:
        place = Path(os.path.abspath(target))
        file = place if place.suffix == ".dvc" else place.with_name(place.name + ".dvc")
        if file.is_file():
            pointer = pointers.read(file, repo.root)
            if file == place or [out.place for out in pointer.outs] == [place]:
                choose_also(pointer)
                continue
        if everything is None:
            everything = pointers.read_all(repo)
        inside = [p for pointer in everything if (p := _meant(pointer, place)) is not None]
        if not inside:
            raise NotFound(f"{target} is not tracked", hint="track it with `holdfast data add`")
        for pointer in inside:
            choose_also(pointer)
    return list(chosen.values())


def _meant(pointer: Pointer, place: Path) -> Pointer | None:
    """A pointer with those of its outs that a path means: all that lie in it, or the one it lies in."""
    if pointer.file.is_relative_to(place):
        return pointer
    outs = [out for out in pointer.outs if place.is_relative_to(out.place) or out.place.is_relative_to(place)]
    return pointer._replace(outs=tuple(outs)) if outs else None


def tracked(repo: Repository, targets: Sequence[Path] = ()) -> list[Out]:
    """What pointers and stages keep in the cache, of the targets or of all.

    Raises:
        NotFound: a target is not tracked.
    """
    staged: list[Out] = []
    if pointers.find_named(repo, "dvc.yaml"):
        from holdfast.data import stages

        staged = stages.cached_outs(repo)
    if not targets:
        return [out for pointer in pointers.read_all(repo) for out in pointer.outs] + staged
    found: list[Out] = []
    for target in targets:
        place = Path(os.path.abspath(target))
        mine = [out for out in staged if place.is_relative_to(out.place) or out.place.is_relative_to(place)]
        if mine:
            found += mine
        else:
            found += [out for pointer in choose(repo, [target]) for out in pointer.outs]
    return found


def of_out(
    repo: Repository, pointer: Pointer, out: Out, *, granular: bool = False, complete: Completeness | None = None
) -> OutState | None:
    """How one out differs; None when it does not."""
    name, path = os.path.relpath(pointer.file, repo.root), os.path.relpath(out.place, repo.root)
    if out.md5 is None:
        # As DVC: whatever lies there is in no version.
        return OutState(name, path, "modified" if os.path.lexists(out.place) else "deleted")
    cache = caches.of(repo)
    if out.cache and not (complete or Completeness(repo, cache)).has(out):
        # As DVC: what could not be placed again is told first, whatever lies in the workspace.
        return OutState(name, path, "not in cache")
    if not os.path.lexists(out.place):
        return OutState(name, path, "deleted")
    if out.legacy:
        from holdfast.data import legacy

        same, now = legacy.compare(repo, out)
    else:
        from holdfast.data import snapshot

        taken = snapshot.take(out.place, repo=repo, md5_only=True)
        same = taken.md5 == out.md5
        now = {} if same else taken.members
    if same:
        return None
    if not granular or not out.is_folder or not out.cache:
        return OutState(name, path, "modified")
    then = cache.members(out.md5, legacy=out.legacy)
    added = sorted(now.keys() - then.keys())
    removed = sorted(then.keys() - now.keys())
    changed = sorted(path for path, md5 in now.items() if path in then and then[path] != md5)
    return OutState(name, path, "modified", added, changed, removed)


def as_dvc(states: Sequence[OutState]) -> dict[str, list[dict[str, dict[str, str]]]]:
    """The shape of ``dvc status --json``."""
    found: dict[str, dict[str, str]] = {}
    for state in states:
        found.setdefault(state.pointer, {})[state.path] = state.state
    return {pointer: [{"changed outs": changed}] for pointer, changed in found.items()}


def stages_of(repo: Repository, targets: Sequence[Path] = ()) -> tuple[dict[str, list[Any]], list[Path]]:
    """Stages of ``dvc.yaml`` that differ from their lock, in the shape of ``dvc status --json``, and the targets that are no
    stages.

    Raises:
        BadInput: a stage file cannot be used.
    """
    if not pointers.find_named(repo, "dvc.yaml"):
        return {}, list(targets)
    from holdfast.data import repro

    rest = [target for target in targets if not repro.is_stage(repo, str(target))]
    if targets and len(rest) == len(targets):
        return {}, rest
    return repro.status(repo, [str(target) for target in targets]), rest


def in_words(why: Sequence[Any]) -> list[str]:
    """What ``stages_of`` says of one stage, a line each."""
    lines = []
    for change in why:
        if isinstance(change, str):
            lines.append(change)
            continue
        for what, paths in change.items():
            for path, state in paths.items():
                inner = state.items() if isinstance(state, dict) else [("", state)]
                lines += [f"{what}: {path}{':' + key if key else ''}: {word}" for key, word in inner]
    return lines


def quarantined(root: Path) -> list[Quarantine]:
    """What the ledger keeps out, read from the notices beside it."""
    folder = root / ".holdfast" / "datasets"
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        return []
    import json

    found = []
    for file in files:
        try:
            notice = json.loads(file.read_bytes())
            found += [Quarantine(notice["name"], q["path"], q["why"]) for q in notice["quarantined"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
