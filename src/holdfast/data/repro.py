"""Running what changed: which stages differ from their lock, in which order they go, and DVC's run cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.core.errors import BadInput, Conflict, NotFound, UsersTurn
from holdfast.data import cache as caches
from holdfast.data import checkout, ignore, manifest, pointers, snapshot, stages, text
from holdfast.data.pointers import Out, dump_yaml, load_yaml
from holdfast.data.repository import Repository
from holdfast.data.snapshot import Snapshot
from holdfast.data.stages import Stage, StageOut

Say = Callable[[str], None]


@dataclass(frozen=True)
class Change:
    """Why a stage has to run: ``changed command``, ``changed deps``, ``changed outs`` with the paths (for a parameters file
    its keys)."""

    what: str
    paths: dict[str, str | dict[str, str]]


def graph(found: Sequence[Stage]) -> dict[str, list[str]]:
    """Stage → the stages it needs, by paths that overlap.

    Raises:
        BadInput: two stages write one place.
    """
    writers: dict[Path, str] = {}
    for stage in found:
        for out in stage.outs:
            place = Path(os.path.normpath(stage.folder / out.path))
            if place in writers:
                raise BadInput(
                    f"stages {writers[place]!r} and {stage.address!r} both write {out.path}",
                    hint="let one of them write elsewhere",
                )
            writers[place] = stage.address
    needs: dict[str, list[str]] = {}
    for stage in found:
        mine = []
        for dep in stage.deps:
            place = Path(os.path.normpath(stage.folder / dep))
            mine += [
                name
                for out, name in writers.items()
                if (out == place or place in out.parents or out in place.parents) and name != stage.address
            ]
        needs[stage.address] = sorted(set(mine))
    return needs


def order(found: Sequence[Stage]) -> list[Stage]:
    """The stages so that each comes after those it needs, else in the file's order: the lock has them as dvc would run them.

    Raises:
        BadInput: they go in a circle.
    """
    import graphlib

    by_name, needs = {stage.address: stage for stage in found}, graph(found)
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        raise BadInput(
            f"the stages go in a circle: {' → '.join(error.args[1])}", hint="mend deps and outs in dvc.yaml"
        ) from None
    ordered: dict[str, Stage] = {}
    for stage in found:
        todo = [stage.address]
        while todo:
            unmet = next((name for name in needs[todo[-1]] if name not in ordered), None)
            if unmet is not None:
                todo.append(unmet)
            else:
                name = todo.pop()
                ordered.setdefault(name, by_name[name])
    return list(ordered.values())


def changes(repo: Repository, stage: Stage, lock: dict[str, Any]) -> list[Change]:
    """How a stage differs from its lock; empty when it need not run."""
    entry = lock.get(stage.name)
    known = entry is not None
    entry = entry or {}
    found = []
    deps: dict[str, str | dict[str, str]] = dict(_differ(repo, stage, list(stage.deps), entry.get("deps") or []))
    deps |= _params_differ(stage, entry.get("params") or {})
    if deps:
        found.append(Change("changed deps", deps))
    outs = _differ(repo, stage, [out.path for out in stage.outs], entry.get("outs") or [])
    cached = {out.path for out in stage.outs if out.cache}
    outs |= {p: s for p, s in _not_cached(repo, entry.get("outs") or [], cached).items() if p not in outs}
    if outs:
        found.append(Change("changed outs", dict(outs)))
    # As dvc: a stage that never ran is told by its paths.
    if (known and entry.get("cmd") != stage.cmd) or not (known or found):
        found.append(Change("changed command", {}))
    if stage.always_changed or not (stage.deps or stage.outs or stage.params):
        found.append(Change("always changed", {}))
    return found


def status(repo: Repository, targets: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Every stage (or the targets) that differs from its lock, in the shape of ``dvc status --json``. A frozen stage is
    asked for its outs only.

    Raises:
        BadInput: a stage file cannot be used.
    """
    found: dict[str, list[Any]] = {}
    for file in stages.files(repo):
        for stage in stages.load(file, repo.root):
            if targets and not any(_means(target, stage) for target in targets):
                continue
            why = changes(repo, stage, stages.read_lock(stages.lock_file(stage)))
            if stage.frozen:
                why = [change for change in why if change.what == "changed outs"]
            if why:
                found[stage.address] = [_shown(repo, stage, change) for change in why]
    return found


def _shown(repo: Repository, stage: Stage, change: Change) -> str | dict[str, Any]:
    """A change with its paths as seen from the repository's root; what lies outside of it as it is written."""
    if not change.paths:
        return change.what
    shown = {}
    for path, how in change.paths.items():
        place = Path(os.path.normpath(stage.folder / path))
        shown[os.path.relpath(place, repo.root) if place.is_relative_to(repo.root) else path] = how
    return {change.what: shown}


def is_stage(repo: Repository, target: str) -> bool:
    """Whether a target names a stage of the repository, or what one writes."""
    return any(_means(target, stage) for file in stages.files(repo) for stage in stages.load(file, repo.root))


def _means(target: str, stage: Stage) -> bool:
    """Whether a target names a stage: by its address, as all of a ``foreach``, or by a path it writes."""
    if target == stage.address or stage.address.startswith(f"{target}@"):
        return True
    place = Path(os.path.abspath(target))
    return place == stage.file or any(
        Path(os.path.normpath(stage.folder / out.path)).is_relative_to(place) for out in stage.outs
    )


def _differ(repo: Repository, stage: Stage, paths: list[str], locked: list[dict[str, Any]]) -> dict[str, str]:
    known = {entry["path"]: entry for entry in locked}
    found = {}
    for path in paths:
        place = stage.folder / path
        entry = known.get(path)
        if not os.path.lexists(place):
            found[path] = "deleted"
        elif entry is None or not _same(repo, place, entry):
            found[path] = "modified"
    return found


def _same(repo: Repository, place: Path, entry: dict[str, Any]) -> bool:
    if entry.get("hash") is None and entry.get("md5"):
        from holdfast.data import legacy

        out = Out(place, entry["path"], entry["md5"], legacy=True)
        return legacy.compare(repo, out)[0]
    return snapshot.take(place, repo=repo, md5_only=True).md5 == entry.get("md5")


def _not_cached(repo: Repository, locked: list[dict[str, Any]], cached: set[str]) -> dict[str, str]:
    cache = caches.of(repo)
    return {
        e["path"]: "not in cache"
        for e in locked
        if e["path"] in cached and not cache.has(e["md5"], legacy=e.get("hash") is None)
    }


def _params_differ(stage: Stage, locked: dict[str, Any]) -> dict[str, str | dict[str, str]]:
    """Parameters file → key → how it differs; a file that is gone is ``deleted``, one the lock does not know ``new``."""
    found: dict[str, str | dict[str, str]] = {}
    for name, keys in stage.params.items():
        known = locked.get(name) or {}
        try:
            values = stages.read_params_file(stage.folder / name)
        except NotFound:
            found[name] = "deleted"
            continue
        if name not in locked:
            found[name] = "new"
            continue
        now, absent = stages.pick(values, keys)
        differ = dict.fromkeys(absent, "deleted")
        differ |= {
            key: "new" if key not in known else "modified" for key in now if key not in known or known[key] != now[key]
        }
        if not keys:
            differ |= {key: "deleted" for key in known if key not in now}
        if differ:
            found[name] = dict(sorted(differ.items()))
    return found


# --- running ----------------------------------------------------------------------------------------------------------


def repro(
    repo: Repository,
    targets: Sequence[str] = (),
    *,
    force: bool = False,
    single: bool = False,
    dry: bool = False,
    say: Say = lambda line: None,
) -> list[str]:
    """Run every stage (or the targets and what they need) that differs from its lock; the names of those that ran or were
    restored.

    Raises:
        NotFound: no such stage, or a dependency is missing.
        UsersTurn: a command failed; what ran before it is locked.
        BadInput: the stages cannot be ordered.
    """
    found = [stage for file in stages.files(repo) for stage in stages.load(file, repo.root)]
    chosen = _choose(found, targets, single)
    done = []
    for stage in order(found):
        if stage.address not in chosen:
            continue
        with repo.lock():
            why = changes(repo, stage, stages.read_lock(stages.lock_file(stage)))
            absent = [out.path for out in stage.outs if not os.path.lexists(stage.folder / out.path)]
            if stage.frozen and absent:
                raise NotFound(
                    f"stage {stage.name!r} is frozen, and {absent[0]} does not exist",
                    hint="get it with `holdfast data pull`, or take `frozen` out of dvc.yaml",
                )
            if stage.frozen or not (force or why):
                say(f"{stage.address}: unchanged")
                continue
            done.append(stage.address)
            if dry:
                say(f"{stage.address}: would run ({', '.join(c.what for c in why) or 'forced'})")
                continue
            if not force and _restore(repo, stage, say):
                continue
        # As with dvc the repository is not locked meanwhile: the command may itself call either tool.
        _run(repo, stage, say)
        with repo.lock():
            _commit(repo, stage)
    return done


def named_from(repo: Repository, folder: Path, found: Sequence[Stage], targets: Sequence[str]) -> list[str]:
    """Targets as people name them in a folder → addresses. Without any: what the ``dvc.yaml`` of the folder declares (all
    stages where it has none), as dvc does."""
    here = folder / "dvc.yaml"
    mine = [stage.address for stage in found if stage.file == here]
    if not targets:
        return mine
    out: list[str] = []
    for target in targets:
        path, colon, name = target.rpartition(":")
        if target.endswith((".yaml", ".yml")) and not colon:
            path, name = target, ""
        file = Path(os.path.normpath(folder / path)) if path else here
        same = [
            s.address for s in found if s.file == file and (not name or s.name == name or s.name.startswith(f"{name}@"))
        ]
        whole = {s.address for s in found if s.file == file}
        grouped = f"{os.path.relpath(file, repo.root)}:{name}" if file != repo.root / "dvc.yaml" else name
        out += same if not name or grouped in whole else [grouped] if same else [target]
    return out


def _choose(found: list[Stage], targets: Sequence[str], single: bool) -> set[str]:
    names = {stage.address for stage in found}
    if not targets:
        return names
    chosen: set[str] = set()
    needs = graph(found)
    todo: list[str] = []
    for target in targets:
        matching = [name for name in names if name == target or name.startswith(f"{target}@")]
        if not matching:
            raise NotFound.among("stage", target, names)
        todo += matching
    while todo:
        name = todo.pop()
        if name not in chosen:
            chosen.add(name)
            todo += [] if single else needs[name]
    return chosen


def _run(repo: Repository, stage: Stage, say: Say) -> None:
    for dep in stage.deps:
        if not os.path.lexists(stage.folder / dep):
            raise NotFound(
                f"stage {stage.name!r}: dependency {dep} does not exist", hint="get it with `holdfast data pull`"
            )
    stage.folder.mkdir(parents=True, exist_ok=True)
    for out in stage.outs:
        place = stage.folder / out.path
        if not out.persist:
            _take_away(place)
        place.parent.mkdir(parents=True, exist_ok=True)
    shell = os.environ.get("SHELL") or "/bin/sh"
    quiet = {"bash": ["--noprofile", "--norc"], "zsh": ["--no-rcs"]}.get(Path(shell).name, [])
    environment = {**os.environ, "DVC_ROOT": str(repo.root), "DVC_STAGE": stage.address}
    for command in stage.cmd if isinstance(stage.cmd, list) else stage.cmd.splitlines():
        say(f"{stage.address}: {command}")
        # A stage's command is a shell line by DVC's definition, written by the project's own people.
        process = subprocess.Popen([shell, *quiet, "-c", command], cwd=stage.folder, env=environment)
        try:
            status = process.wait()
        except KeyboardInterrupt:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            process.wait()
            raise
        if status:
            raise UsersTurn(
                f"stage {stage.name!r}: the command ended with status {status}: {command}",
                hint="mend it and run again; finished stages stay",
            )
    missing = [out.path for out in stage.outs if not os.path.lexists(stage.folder / out.path)]
    if missing:
        raise UsersTurn(
            f"stage {stage.name!r} did not write {missing[0]}",
            hint="let the command write it, or mend outs in dvc.yaml",
        )


def _take_away(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _commit(repo: Repository, stage: Stage) -> None:
    """Keep the outs, write the lock, share the run."""
    taken = {out.path: _keep(repo, stage, out) for out in stage.outs}
    entry = _entry(repo, stage, taken)
    stages.write_lock(stages.lock_file(stage), stage.name, entry)
    _save_run(repo, stage, entry)


def _keep(repo: Repository, stage: Stage, out: StageOut) -> Snapshot:
    place = stage.folder / out.path
    cache = caches.of(repo)
    if not out.cache:
        return snapshot.take(place, repo=repo)
    taken = snapshot.take(place, repo=repo, keep=cache, links=repo.links)
    if taken.is_folder:
        cache.put(manifest.render(taken.members.items()), taken.md5)
    if repo.scm is not None:
        ignore.hide(repo.scm, place)
    return taken


def _entry(repo: Repository, stage: Stage, outs: dict[str, Snapshot]) -> dict[str, Any]:
    """A stage's part of the lock, in DVC's order."""
    entry: dict[str, Any] = {"cmd": stage.cmd}
    if stage.deps:
        entry["deps"] = [_line(dep, snapshot.take(stage.folder / dep, repo=repo)) for dep in stage.deps]
    params = stages.params_of(stage)
    if params:
        entry["params"] = params
    if outs:
        entry["outs"] = [_line(out.path, outs[out.path]) for out in stage.outs]
    return entry


def _line(path: str, taken: Snapshot) -> dict[str, Any]:
    line: dict[str, Any] = {"path": path, "hash": "md5", "md5": taken.md5, "size": taken.size}
    if taken.is_folder:
        line["nfiles"] = taken.files
    if taken.isexec:
        line["isexec"] = True
    return line


# --- the run cache ----------------------------------------------------------------------------------------------------


def _without(value: Any, keys: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {k: _without(v, keys) for k, v in value.items() if k not in keys}
    return [_without(v, keys) for v in value] if isinstance(value, list) else value


def _run_hash(entry: dict[str, Any]) -> str:
    """DVC's name of a run: SHA-256 over JSON with sorted keys, without sizes."""
    return hashlib.sha256(
        json.dumps(_without(entry, frozenset({"size", "nfiles"})), sort_keys=True).encode()
    ).hexdigest()


def _runs(repo: Repository, entry: dict[str, Any]) -> Path:
    key = _run_hash({**entry, "outs": [out["path"] for out in entry.get("outs", [])]})
    return repo.cache / "runs" / key[:2] / key


def _shareable(stage: Stage) -> bool:
    return (
        bool(stage.cmd and stage.deps and stage.outs)
        and not stage.always_changed
        and not any(out.persist for out in stage.outs)
    )


def _save_run(repo: Repository, stage: Stage, entry: dict[str, Any]) -> None:
    if not _shareable(stage):
        return
    file = _runs(repo, entry) / _run_hash(entry)
    if file.exists():
        return
    # What git keeps is kept here too, so that a run can be restored whole.
    for out in stage.outs:
        if not out.cache:
            place = stage.folder / out.path
            taken = snapshot.take(place, repo=repo, keep=caches.of(repo))
            if taken.is_folder:
                caches.of(repo).put(manifest.render(taken.members.items()), taken.md5)
    if repo.shared:
        caches.make_shared(str(file.parent))
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
    pointers.write(file, dump_yaml(entry))


def _restore(repo: Repository, stage: Stage, say: Say) -> bool:
    """Take a stage's outs from an earlier run with the same command, dependencies and parameters, if there is one."""
    if not _shareable(stage) or not all(os.path.lexists(stage.folder / dep) for dep in stage.deps):
        return False
    entry = _entry(repo, stage, {})
    entry["outs"] = [{"path": out.path} for out in stage.outs]
    folder = _runs(repo, entry)
    try:
        newest = max((f for f in folder.iterdir() if f.is_file()), key=lambda f: f.stat().st_mtime, default=None)
    except FileNotFoundError:
        return False
    if newest is None:
        return False
    try:
        run = load_yaml(text.read(newest), newest)
        outs = [pointers.out_from(raw, stage.folder, newest, repo.root) for raw in run["outs"]]
    except (BadInput, KeyError, TypeError, UnicodeDecodeError):
        return False
    if {out.path for out in outs} != {out.path for out in stage.outs}:
        return False
    try:
        checkout.place_outs(repo, outs, force=False)
    except (NotFound, Conflict):
        return False
    say(f"{stage.address}: restored from an earlier run")
    taken = {out.path: snapshot.take(out.place, repo=repo) for out in outs}
    for out in stage.outs:
        if out.cache and repo.scm is not None:
            ignore.hide(repo.scm, stage.folder / out.path)
    stages.write_lock(stages.lock_file(stage), stage.name, _entry(repo, stage, taken))
    return True
