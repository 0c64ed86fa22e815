"""``dvc.yaml`` and ``dvc.lock``: the stages people declared, what they expand to, and what was run last."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.core.errors import BadInput, NotFound
from holdfast.data import pointers
from holdfast.data import text as text_files
from holdfast.data.pointers import Out, dump_yaml, load_yaml
from holdfast.data.repository import Repository

PARAMS = "params.yaml"
_REFERENCE = re.compile(r"\\?\$\{([^{}]*)\}")
_OUT_KEYS = ("outs", "metrics", "plots")


@dataclass(frozen=True)
class StageOut:
    """What a stage writes. ``cache`` False: hashed, but kept by git."""

    path: str
    cache: bool = True
    persist: bool = False
    push: bool = True
    remote: str | None = None


@dataclass(frozen=True)
class Stage:
    """One stage, expanded. Paths are relative to ``folder`` (the file's folder, or ``wdir``)."""

    name: str
    file: Path
    folder: Path
    cmd: str | list[str]
    deps: tuple[str, ...] = ()
    params: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    outs: tuple[StageOut, ...] = ()
    frozen: bool = False
    always_changed: bool = False
    root: Path | None = None

    @property
    def address(self) -> str:
        """The name by which a stage is called everywhere: one of another ``dvc.yaml`` than the top one carries its path."""
        where = os.path.relpath(self.file, self.root) if self.root is not None else self.file.name
        return self.name if where == "dvc.yaml" else f"{where}:{self.name}"


def files(repo: Repository) -> list[Path]:
    """Every ``dvc.yaml`` of the repository."""
    return pointers.find_named(repo, "dvc.yaml")


def load(file: Path, root: Path) -> list[Stage]:
    """The stages of one ``dvc.yaml``, expanded, in the file's order.

    Raises:
        BadInput: the file cannot be used; the message names the stage.
    """
    try:
        text = _text(file)
    except FileNotFoundError:
        raise BadInput(f"{file} is a link that leads nowhere", hint="remove it, or mend the link") from None
    if not text.strip():
        return []
    data = load_yaml(text, file, aliases=True)
    if not isinstance(data, dict):
        raise BadInput(f"{file} is not a mapping")
    declared = data.get("stages") or {}
    if not isinstance(declared, dict):
        raise BadInput(f"{file}: `stages` is not a mapping")
    scope = _variables(data.get("vars"), file)
    found = []
    for name, spec in declared.items():
        for expanded, body, inner in _expand(str(name), spec, scope, file):
            found.append(_stage(expanded, body, inner, file, root))
    return found


def _text(file: Path) -> str:
    return text_files.read(file)


def _variables(spec: Any, file: Path) -> dict[str, Any]:
    """``params.yaml`` where there is one, and what ``vars`` adds."""
    if spec is not None and not isinstance(spec, list):
        raise BadInput(f"{file}: `vars` is not a list", hint="one file name or mapping a line, each after a dash")
    scope: dict[str, Any] = {}
    default = file.parent / PARAMS
    if default.is_file():
        scope |= read_params_file(default)
    for entry in spec or []:
        if isinstance(entry, dict):
            scope |= entry
        else:
            name, _, keys = str(entry).partition(":")
            values = read_params_file(file.parent / name)
            scope |= {k: values[k] for k in keys.split(",") if k in values} if keys else values
    return scope


def _expand(
    name: str, spec: Any, scope: dict[str, Any], file: Path
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    if not isinstance(spec, dict):
        raise BadInput(f"{file}: stage {name!r} is not a mapping")
    if "foreach" in spec:
        raw = spec["foreach"]
        items = resolve(raw, scope, file)
        body = spec.get("do") or {}
        if isinstance(items, dict):
            for key, value in items.items():
                word = _label(raw, key)
                yield f"{name}@{word}", body, {**scope, "item": value, "key": word}
        elif isinstance(items, list):
            counted = any(isinstance(value, dict | list) for value in items)
            raws = raw if isinstance(raw, list) else [raw] * len(items)
            labels = [str(at) if counted else _label(raws[at], value) for at, value in enumerate(items)]
            for label, value in dict(zip(labels, items, strict=True)).items():
                yield f"{name}@{label}", body, {**scope, "item": value}
        else:
            raise BadInput(f"{file}: stage {name!r}: foreach is neither a list nor a mapping")
    elif "matrix" in spec:
        matrix = resolve(spec["matrix"], scope, file)
        if not isinstance(matrix, dict) or not all(isinstance(v, list) for v in matrix.values()):
            raise BadInput(f"{file}: stage {name!r}: matrix is not a mapping of lists")
        body = {k: v for k, v in spec.items() if k != "matrix"}
        made: dict[str, dict[str, Any]] = {}
        for choice in itertools.product(*(list(enumerate(values)) for values in matrix.values())):
            item = dict(zip(matrix, (value for _, value in choice), strict=True))
            words = [
                f"{axis}{at}" if isinstance(value, dict | list) else _label(_raw(spec["matrix"], axis, at), value)
                for axis, (at, value) in zip(matrix, choice, strict=True)
            ]
            made["-".join(words)] = item
        for label, item in made.items():
            yield f"{name}@{label}", body, {**scope, "item": item, "key": label}
    else:
        yield name, spec, scope


def _raw(matrix: Any, axis: str, at: int) -> Any:
    """What stands in the file for a value of a matrix."""
    values = matrix.get(axis, "") if isinstance(matrix, dict) else matrix
    return values[at] if isinstance(values, list) else values


def _label(raw: Any, value: Any) -> str:
    """A value in a stage's name. As dvc, a boolean that stands there is ``true``, one that a reference brought is ``True``."""
    return str(value) if isinstance(raw, str) else _word(value)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def resolve(value: Any, scope: Mapping[str, Any], file: Path) -> Any:
    """Replace ``${name.inner[0]}`` in strings; a string that is one reference becomes the value itself.

    Raises:
        BadInput: a reference names nothing.
    """
    if isinstance(value, dict):
        return {resolve(k, scope, file) if isinstance(k, str) else k: resolve(v, scope, file) for k, v in value.items()}
    if isinstance(value, list):
        return [resolve(v, scope, file) for v in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    whole = re.fullmatch(r"\$\{([^{}]*)\}", value.strip())
    if whole:
        return _look_up(whole[1], scope, file)

    def replace(match: re.Match[str]) -> str:
        if match[0].startswith("\\"):
            return match[0][1:]
        return _inline(_look_up(match[1], scope, file))

    return _REFERENCE.sub(replace, value)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(
            f"--{k} {_inline(v)}" if not isinstance(v, bool) else (f"--{k}" if v else "") for k, v in value.items()
        ).strip()
    if isinstance(value, list):
        return " ".join(_inline(v) for v in value)
    return _word(value)


def _look_up(path: str, scope: Mapping[str, Any], file: Path) -> Any:
    at: Any = scope
    for part in re.findall(r"[^.\[\]\s]+", path):
        try:
            at = at[int(part)] if isinstance(at, list) else at[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise BadInput(
                f"{file}: ${{{path}}} names nothing", hint="define it under `vars`, or in params.yaml"
            ) from None
    return at


def _stage(name: str, spec: dict[str, Any], scope: dict[str, Any], file: Path, root: Path) -> Stage:
    scope = {**scope, **_stage_variables(spec.get("vars"), file)}
    spec = {k: resolve(v, scope, file) for k, v in spec.items() if k not in ("vars", "meta", "desc")}
    cmd = spec.get("cmd")
    if not cmd or not isinstance(cmd, str | list):
        raise BadInput(f"{file}: stage {name!r} has no cmd", hint="give it the shell line to run")
    _check_shape(name, spec, file)
    folder = Path(os.path.normpath(file.parent / str(spec.get("wdir", "."))))
    outs = [out for key in _OUT_KEYS for out in _outs(spec.get(key))]
    for out in outs:
        pointers.inside(folder, out.path, root, file)
    deps = tuple(sorted(os.path.normpath(str(d)) for d in spec.get("deps") or []))
    return Stage(
        name, file, folder, [str(c) for c in cmd] if isinstance(cmd, list) else cmd, deps, _params(spec.get("params")),
        tuple(sorted(outs, key=lambda o: o.path)), bool(spec.get("frozen")), bool(spec.get("always_changed")), root,
    )  # fmt: skip


def _check_shape(name: str, spec: Mapping[str, Any], file: Path) -> None:
    for key in ("deps", "params", *_OUT_KEYS):
        entries = spec.get(key) or []
        if not isinstance(entries, list):
            raise BadInput(f"{file}: stage {name!r}: {key} is not a list", hint="one path a line, each after a dash")
        for entry in entries:
            options = next(iter(entry.values())) if isinstance(entry, dict) and len(entry) == 1 else None
            fine = not isinstance(entry, dict | list) and entry is not None
            if key != "deps" and isinstance(entry, dict) and entry:
                # params: file → keys, several to an entry; outs: one path → options
                fine = (
                    all(v is None or isinstance(v, list) for v in entry.values())
                    if key == "params"
                    else len(entry) == 1 and (options is None or isinstance(options, dict))
                )
            if not fine:
                raise BadInput(
                    f"{file}: stage {name!r}: {key} has {str(entry)[:80]!r}, which is no path", hint="write a path"
                )


def _stage_variables(spec: Any, file: Path) -> dict[str, Any]:
    if spec is not None and not isinstance(spec, list):
        raise BadInput(f"{file}: `vars` of a stage is not a list", hint="one mapping a line, each after a dash")
    return {} if not spec else {k: v for entry in spec if isinstance(entry, dict) for k, v in entry.items()}


def _outs(spec: Any) -> Iterator[StageOut]:
    for entry in spec or []:
        path, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
        options = options or {}
        yield StageOut(
            os.path.normpath(str(path)), options.get("cache", True) is not False, bool(options.get("persist")),
            options.get("push", True) is not False, options.get("remote"),
        )  # fmt: skip


def _params(spec: Any) -> dict[str, tuple[str, ...]]:
    """File → keys; no keys mean the whole file."""
    found: dict[str, list[str]] = {}
    for entry in spec or []:
        if isinstance(entry, dict):
            for file, keys in entry.items():
                found.setdefault(str(file), []).extend(str(k) for k in keys or [])
        else:
            found.setdefault(PARAMS, []).append(str(entry))
    ordered = sorted(found, key=lambda f: (f != PARAMS, f))
    return {file: tuple(sorted(set(found[file]))) for file in ordered}


def read_params_file(file: Path) -> dict[str, Any]:
    """A parameters file: YAML, JSON or TOML.

    Raises:
        NotFound: there is none.
        BadInput: it cannot be read.
    """
    try:
        text = _text(file)
    except FileNotFoundError:
        raise NotFound(f"parameters file {file} does not exist", hint="write it, or mend dvc.yaml") from None
    try:
        if file.suffix == ".json":
            data = json.loads(text)
        elif file.suffix == ".toml":
            import tomllib

            data = tomllib.loads(text)
        else:
            data = load_yaml(text, file, aliases=True)
    except ValueError as error:
        raise BadInput(f"{file} cannot be read: {error}") from None
    return data if isinstance(data, dict) else {}


def params_of(stage: Stage) -> dict[str, dict[str, Any]]:
    """File → key → value as they are now. Dotted keys stay dotted.

    Raises:
        NotFound: a file or a key is missing.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, keys in stage.params.items():
        found[name], absent = pick(read_params_file(stage.folder / name), keys)
        if absent:
            raise NotFound(
                f"stage {stage.name!r}: parameter {absent[0]!r} is not in {name}", hint="add it, or mend dvc.yaml"
            )
    return found


def pick(values: Mapping[str, Any], keys: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """(key → value, keys that are not there). Dotted keys lead into mappings; no keys mean all."""
    if not keys:
        return {k: values[k] for k in sorted(values)}, []
    found: dict[str, Any] = {}
    absent = []
    for key in keys:
        at: Any = values
        for part in [key] if key in values else key.split("."):
            if not isinstance(at, dict) or part not in at:
                absent.append(key)
                break
            at = at[part]
        else:
            found[key] = at
    return found, absent


# --- the lock file ----------------------------------------------------------------------------------------------------


def lock_file(stage: Stage) -> Path:
    return stage.file.with_name("dvc.lock")


def read_lock(file: Path) -> dict[str, Any]:
    """Stage name → what it was run with last.

    Raises:
        BadInput: it is not a lock file.
    """
    try:
        text = _text(file)
    except FileNotFoundError:
        return {}
    data = load_yaml(text, file)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise BadInput(f"{file} is not a lock file")
    found = data.get("stages") if "schema" in data else data
    if found is not None and not isinstance(found, dict):
        raise BadInput(f"{file}: `stages` is not a mapping")
    return dict(found or {})


def write_lock(file: Path, name: str, entry: dict[str, Any]) -> None:
    """Set one stage's entry; the others stay as they are, in their order."""
    from ruamel.yaml import YAML

    data = YAML().load(_text(file)) if file.exists() else None
    if not data:
        data = {"schema": "2.0"}
    if data.get("stages") is None:
        data["stages"] = {}
    data["stages"][name] = entry
    pointers.write(file, dump_yaml(data))


def outs_of_lock(text: str, file: Path, root: Path) -> list[Out]:
    """What a lock file's stages wrote, as outs."""
    data = load_yaml(text, file)
    entries = (data.get("stages") if "schema" in data else data) if isinstance(data, dict) else {}
    found = []
    for entry in (entries or {}).values():
        for out in entry.get("outs") or [] if isinstance(entry, dict) else []:
            if isinstance(out, dict) and out.get("md5"):
                # A lock has no wdir; only hashes matter to those who read it this way.
                body = {k: v for k, v in out.items() if k in ("md5", "size", "nfiles", "isexec", "hash", "path")}
                try:
                    found.append(pointers.out_from(body, file.parent, file, root))
                except BadInput:
                    continue
    return found


def locked_outs(repo: Repository) -> list[Out]:
    """What every ``dvc.lock`` of the workspace names."""
    found = []
    for file in pointers.find_named(repo, "dvc.lock"):
        found += outs_of_lock(_text(file), file, repo.root)
    return found


def cached_outs(repo: Repository) -> list[Out]:
    """What stages wrote last and keep in the cache, at its place: to push, fetch and check out."""
    found = []
    for file in files(repo):
        lock = read_lock(file.with_name("dvc.lock"))
        for stage in load(file, repo.root):
            entry = lock.get(stage.name)
            declared = {out.path: out for out in stage.outs}
            for raw in (entry or {}).get("outs") or []:
                out = declared.get(raw.get("path"))
                if out is not None and raw.get("md5"):
                    body = {k: v for k, v in raw.items() if k in ("md5", "size", "nfiles", "isexec", "hash", "path")}
                    body |= {"cache": out.cache, "push": out.push, "remote": out.remote}
                    found.append(pointers.out_from(body, stage.folder, file, repo.root))
    return found
