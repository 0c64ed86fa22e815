"""Pointer files (``X.dvc``), byte for byte as DVC 3.x writes them.

The plain form is read and written here without a YAML library, because ``status`` reads many of them; anything else goes
through ``ruamel.yaml``, which keeps comments, key order and what people wrote under ``meta``.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.core.errors import BadInput
from holdfast.core.files import sync, sync_folder
from holdfast.data import ignore
from holdfast.data import text as text_files
from holdfast.data.repository import Repository
from holdfast.data.tree import SKIPPED

LARGEST = 4 << 20
DEEPEST = 32
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?\Z")
_PLAIN_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*\Z")
_NOT_TEXT = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"})
_LINE = re.compile(r"(- |  )(md5|size|nfiles|isexec|hash|path): ([^#\n]+)\Z")
_NO_POINTER = "give the file another ending than .dvc, or get the pointer back with git"
_TOP = frozenset({"outs", "deps", "md5", "frozen", "meta", "desc", "wdir", "always_changed"})
_CONTENT = ("md5", "size", "nfiles", "isexec", "hash", "path", "md5-dos2unix")
_WRITTEN_BY_PEOPLE = ("desc", "type", "labels", "meta", "remote", "cache", "push", "persist")
_SELDOM = ("files", "cloud", "fs_config", "metric", "plot", "etag", "checksum", "version_id")
_OUT = frozenset((*_CONTENT, *_WRITTEN_BY_PEOPLE, *_SELDOM))


class Out(NamedTuple):
    """One tracked path of a pointer. ``place`` is where it lies; ``md5`` None means it was never hashed."""

    place: Path
    path: str
    md5: str | None
    size: int | None = None
    nfiles: int | None = None
    isexec: bool = False
    legacy: bool = False
    cache: bool = True
    push: bool = True
    remote: str | None = None
    other: Mapping[str, Any] | None = None
    """The ``deps`` entry of an import from another repository: its bytes are kept there and not on our remotes."""

    @property
    def is_folder(self) -> bool:
        return self.md5 is not None and self.md5.endswith(".dir")


class Pointer(NamedTuple):
    """A pointer file: where it is, its outs, and what it was imported from, if it was."""

    file: Path
    outs: tuple[Out, ...]
    deps: tuple[dict[str, Any], ...]
    frozen: bool
    data: dict[str, Any]

    @property
    def origin(self) -> dict[str, Any] | None:
        """What was imported: the one ``deps`` entry of a pointer without a command."""
        return self.deps[0] if len(self.deps) == 1 and len(self.data.get("outs") or ()) == 1 else None


def read(file: Path, root: Path) -> Pointer:
    """Read and check a pointer.

    Raises:
        BadInput: it is too large, not what DVC accepts, or names a path outside the repository.
    """
    try:
        raw = text_files.read_bytes(file, LARGEST)
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}", hint="is it a link that leads nowhere?") from None
    try:
        text = raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise BadInput(f"{file} is not UTF-8 text; that is no pointer", hint=_NO_POINTER) from None
    return parse(text, file, root)


def parse(text: str, file: Path, root: Path) -> Pointer:
    """As ``read``, from text."""
    data = _parse_plain(text)
    if data is None:
        data = load_yaml(text, file)
    if not isinstance(data, dict):
        raise BadInput(f"{file} is not a pointer: a mapping with `outs` is expected", hint=_NO_POINTER)
    for key in data:
        if key not in _TOP:
            raise BadInput(f"{file} has a key DVC does not know: {key!r}", hint="free text belongs under `meta`")
    folder = file.parent
    wdir = data.get("wdir")
    if wdir is not None:
        folder = Path(os.path.normpath(folder / _text(wdir, "wdir", file)))
    outs = data.get("outs") or []
    if not isinstance(outs, list):
        raise BadInput(f"{file}: `outs` is not a list")
    deps = data.get("deps") or []
    if not isinstance(deps, list) or not all(isinstance(d, dict) and isinstance(d.get("path"), str) for d in deps):
        raise BadInput(f"{file}: `deps` is not a list of mappings with `path`")
    for dep in deps:
        if "repo" in dep and (not isinstance(dep["repo"], dict) or not isinstance(dep["repo"].get("url"), str)):
            raise BadInput(f"{file}: `repo` of a dependency has no url")
    found = [out_from(o, folder, file, root) for o in outs]
    if len(deps) == 1 and "repo" in deps[0]:
        found = [out._replace(other=deps[0]) for out in found]
    pointer = Pointer(file, tuple(found), tuple(deps), bool(data.get("frozen")), data)
    if len(found) > 1:
        _refuse_overlap([pointer])
    return pointer


def _parse_plain(text: str) -> dict[str, Any] | None:
    """The form DVC writes for added data; None when the text has anything beyond it."""
    lines = text.split("\n")
    if len(lines) < 3 or lines[0] != "outs:" or lines.pop() != "":
        return None
    outs: list[dict[str, Any]] = []
    for line in lines[1:]:
        match = _LINE.match(line)
        if match is None:
            return None
        head, key, value = match.groups()
        if head == "- ":
            outs.append({})
        elif not outs:
            return None
        if key in outs[-1]:
            return None
        if key in ("size", "nfiles"):
            if not value.isdecimal() or not value.isascii() or (value[0] == "0" and value != "0"):
                return None
            outs[-1][key] = int(value)
        elif key == "isexec":
            if value not in ("true", "false"):
                return None
            outs[-1][key] = value == "true"
        elif key == "md5":
            if not _MD5.match(value) or value.isdecimal() or re.fullmatch(r"[0-9]+e[0-9]+", value):
                return None
            outs[-1][key] = value
        else:
            if not _is_plain(value):
                return None
            outs[-1][key] = value
    return {"outs": outs}


def _is_plain(value: str) -> bool:
    return _PLAIN_PATH.match(value) is not None and value.lower() not in _NOT_TEXT


def load_yaml(text: str, where: Path, *, aliases: bool = False) -> Any:
    """YAML 1.2 as plain Python values. Without ``aliases`` an anchor is refused, which is how YAML bombs are built.

    Raises:
        BadInput: it is not YAML, is nested too deeply, or uses an anchor where none may be.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

    try:
        depth = 0
        uses = 0
        for event in YAML(typ="safe", pure=True).parse(text):
            depth += isinstance(event, CollectionStartEvent)
            depth -= isinstance(event, CollectionEndEvent)
            uses += isinstance(event, AliasEvent)
            if depth > DEEPEST:
                raise BadInput(f"{where} is nested deeper than {DEEPEST}")
            if uses and (not aliases or uses > 1000):
                raise BadInput(f"{where} uses YAML anchors", hint="write the values out")
        yaml = YAML(typ="safe", pure=True)
        return yaml.load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        line = str(getattr(error, "problem", None) or error).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        conflict = any(one.startswith("<<<<<<< ") for one in text.splitlines())
        raise BadInput(
            f"{where}{f':{mark.line + 1}' if mark else ''} is not YAML: {line}",
            hint="git left a merge conflict in it: keep one of the two sides" if conflict else "mend the line",
        ) from None


def _text(value: object, key: str, file: Path) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise BadInput(f"{file}: `{key}` is not text")
    return value


def out_from(raw: object, folder: Path, file: Path, root: Path) -> Out:
    """One entry of ``outs``, checked.

    Raises:
        BadInput: not what DVC accepts, or a path outside the repository.
    """
    if not isinstance(raw, dict):
        raise BadInput(f"{file}: an entry of `outs` is not a mapping")
    for key in raw:
        if key not in _OUT:
            raise BadInput(
                f"{file}: an out has a key DVC does not know: {key!r}", hint="free text belongs under `meta`"
            )
    path = _text(raw.get("path"), "path", file)
    md5 = raw.get("md5", raw.get("md5-dos2unix"))
    if md5 is not None and (not isinstance(md5, str) or not _MD5.match(md5)):
        raise BadInput(
            f"{file}: {md5!r} is not an md5", hint="32 hexadecimal digits, with .dir behind them for a folder"
        )
    for key in ("size", "nfiles"):
        if raw.get(key) is not None and (not isinstance(raw[key], int) or raw[key] < 0):
            raise BadInput(f"{file}: `{key}` is not a count")
    return Out(
        place=inside(folder, path, root, file),
        path=path,
        md5=md5,
        size=raw.get("size"),
        nfiles=raw.get("nfiles"),
        isexec=bool(raw.get("isexec")),
        legacy=md5 is not None and raw.get("hash") is None,
        cache=raw.get("cache", True) is not False,
        push=raw.get("push", True) is not False,
        remote=raw.get("remote") if isinstance(raw.get("remote"), str) else None,
    )


def inside(folder: Path, path: str, root: Path, file: Path) -> Path:
    """The place a pointer's path names.

    Raises:
        BadInput: it is absolute, leads out of the repository (by ``..`` or by a link), or into ``.dvc`` or ``.git``.
    """
    if os.path.isabs(path):
        raise BadInput(f"{file}: {path!r} is an absolute path", hint="only paths inside the repository are tracked")
    place = Path(os.path.normpath(folder / path))
    try:
        parts = place.relative_to(root).parts
    except ValueError:
        parts = ()
    if not parts or SKIPPED.intersection(parts):
        raise BadInput(
            f"{file}: {path!r} is not a place inside the repository",
            hint="only paths inside the repository are tracked, and none in .dvc, .git and .hg",
        )
    real = os.path.realpath(place.parent)
    top = os.path.realpath(root)
    if real != top and not real.startswith(top + os.sep):
        raise BadInput(f"{file}: {path!r} leads out of the repository by a link", hint="remove the link")
    return place


def refuse_behind_link(root: Path, place: Path) -> None:
    """What a link to a folder shows is tracked where it lies, or two pointers would speak of one file.

    Raises:
        BadInput: a folder above ``place`` is such a link.
    """
    real = os.path.realpath(place.parent)
    if real != os.path.normpath(os.path.join(os.path.realpath(root), os.path.relpath(place.parent, root))):
        raise BadInput(f"{place} lies behind a link", hint=f"name it where it is: {os.path.join(real, place.name)}")


# --- writing ----------------------------------------------------------------------------------------------------------


def fields(*, md5: str, size: int, nfiles: int | None = None, isexec: bool = False) -> dict[str, Any]:
    """What an out says about its content, in DVC's order (``path`` comes behind it)."""
    out: dict[str, Any] = {"md5": md5, "size": size}
    if nfiles is not None:
        out["nfiles"] = nfiles
    if isexec:
        out["isexec"] = True
    out["hash"] = "md5"
    return out


def render_new(path: str, content: dict[str, Any]) -> str:
    """The text of a fresh pointer with one out."""
    data = {"outs": [{**content, "path": path}]}
    return _render_plain(data["outs"]) or dump_yaml(data)


def _render_plain(outs: Sequence[Mapping[str, Any]]) -> str | None:
    """A pointer's text without a YAML library; None where one is needed to quote or to break a line."""
    lines = ["outs:"]
    for out in outs:
        for at, (key, value) in enumerate(out.items()):
            text = ("true" if value else "false") if isinstance(value, bool) else str(value)
            if (key == "md5" and _looks_numeric(text)) or (key == "path" and (not _is_plain(text) or len(text) > 60)):
                return None
            lines.append(f"{'  ' if at else '- '}{key}: {text}")
    return "\n".join(lines) + "\n"


def _looks_numeric(text: str) -> bool:
    return text.isdecimal() or re.fullmatch(r"[0-9]+e[0-9]+", text) is not None


def render_changed(text: str, file: Path, content: dict[str, dict[str, Any]]) -> str:
    """An existing pointer with new content for some of its outs (by ``path``); all else stays as people wrote it.

    As DVC does: existing keys keep their place, new keys go to the end, keys equal to their default are dropped.
    """
    data = _parse_plain(text)
    if data is not None:
        _change(data["outs"], content)
        plain = _render_plain(data["outs"])
        if plain is not None:
            return plain
    data = _round_trip().load(text)
    _change(data["outs"], content)
    if data.get("frozen") is False:
        del data["frozen"]
    return _dump(data)


def _change(outs: Iterable[Any], content: Mapping[str, Mapping[str, Any]]) -> None:
    for out in outs:
        new = content.get(out["path"])
        if new is None:
            continue
        for key in ("md5", "size", "nfiles", "isexec", "hash", "md5-dos2unix"):
            if key in out and key not in new:
                del out[key]
        for key, value in new.items():
            out[key] = value
        for key, default in (("cache", True), ("push", True), ("persist", False)):
            if out.get(key) is default:
                del out[key]


def dump_yaml(data: Any) -> str:
    """YAML in DVC's style: block, lists not indented, final newline."""
    return _dump(data)


def render_import(text: str | None, dep: Mapping[str, Any], out: Mapping[str, Any]) -> str:
    """The pointer of an import, fresh or over the ``text`` that is there, with DVC's own hash of the whole.

    ``dep`` and ``out`` hold all their keys but what people wrote under ``meta`` and the like.
    """
    data: Any = (
        _round_trip().load(text) if text is not None else {"md5": "", "frozen": True, "deps": [{}], "outs": [{}]}
    )
    for old, new in ((data["deps"][0], dep), (data["outs"][0], out)):
        for key in [k for k in old if k not in new and k not in _WRITTEN_BY_PEOPLE]:
            del old[key]
        for key, value in new.items():
            if isinstance(value, Mapping) and isinstance(old.get(key), dict):
                for k in [k for k in old[key] if k not in value]:
                    del old[key][k]
                old[key].update(value)
            else:
                old[key] = dict(value) if isinstance(value, Mapping) else value
    data["md5"] = stage_md5(data)
    return _dump(data)


_NOT_HASHED = frozenset(
    {"desc", "type", "labels", "meta", "locked", "frozen", "metric", "persist", "isexec", "size", "nfiles"}
)


def stage_md5(data: Mapping[str, Any]) -> str:
    """DVC's hash of a pointer: MD5 over JSON with sorted keys, without sizes and what people wrote."""
    import json

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items() if k not in _NOT_HASHED}
        if isinstance(value, list):
            return [plain(v) for v in value]
        return value

    body = {k: v for k, v in data.items() if k != "md5" and not (k == "wdir" and v == ".")}
    return hashlib.md5(json.dumps(plain(body), sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def _round_trip() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    return yaml


def _dump(data: Any) -> str:
    buffer = io.StringIO()
    _round_trip().dump(data, buffer)
    return buffer.getvalue()


def write(file: Path, text: str) -> None:
    """Replace a pointer in one step: a reader sees the old one or the new one."""
    # Not named after the pointer, whose name may be as long as names can be.
    temporary = file.with_name(f".hf-{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        os.write(fd, text.encode("utf-8"))
        sync(fd)
    finally:
        os.close(fd)
    temporary.replace(file)
    sync_folder(file.parent)


# --- finding ----------------------------------------------------------------------------------------------------------


def find(repo: Repository, *, outside: Path | None = None) -> Iterator[Path]:
    """All pointer files of a repository in order of path. Tracked folders, ignored ones and nested repositories are
    not entered, nor is the folder ``outside``."""
    yield from _pointers(_find(repo.root, ".dvc", [], str(outside)))


def find_named(repo: Repository, name: str) -> list[Path]:
    """All files of this name, found as pointers are."""
    return _called(name, _find(repo.root, name, []))


def _pointers(found: Iterable[Path]) -> list[Path]:
    return sorted(file for file in found if file.suffix == ".dvc")


def _called(name: str, found: Iterable[Path]) -> list[Path]:
    return sorted(file for file in found if file.name == name)


def _find(
    folder: Path,
    endings: str | tuple[str, ...],
    matchers: Sequence[tuple[str, ignore.Match]],
    outside: str = "",
    prefix: str = "",
) -> list[Path]:
    """Files whose names end so."""
    found: list[Path] = []
    with os.scandir(folder) as it:
        entries = list(it)
    names = {e.name for e in entries}
    if prefix and ".dvc" in names:
        return found
    chain = list(matchers)
    for name in (".gitignore", ".dvcignore"):
        matcher = ignore.read(folder / name) if name in names else None
        if matcher is not None:
            chain.append((prefix, matcher))
    for entry in entries:
        name = entry.name
        if not entry.is_dir(follow_symlinks=False):
            if name.endswith(endings):
                found.append(Path(entry.path))
        elif name not in SKIPPED and entry.path != outside:
            path = prefix + name
            if not _ignored(path, chain) and not (name + ".dvc" in names and _tracks(folder, name)):
                found += _find(Path(entry.path), endings, chain, outside, path + "/")
    return found


def _tracks(folder: Path, name: str) -> bool:
    """Whether ``name.dvc`` speaks of ``name``: then what is in it is data, never pointers."""
    try:
        return name in text_files.read(folder / f"{name}.dvc", errors="replace")
    except (OSError, BadInput):
        return False


def _ignored(path: str, chain: Sequence[tuple[str, ignore.Match]]) -> bool:
    for prefix, matcher in reversed(chain):
        verdict = matcher(path[len(prefix) :], True)
        if verdict is not None:
            return verdict
    return False


def read_all(repo: Repository, *, outside: Path | None = None) -> list[Pointer]:
    """Every pointer of the repository, but for those in the folder ``outside``.

    Raises:
        BadInput: one of them is not a pointer, or two speak of the same place.
    """
    return _read_each(repo, find(repo, outside=outside))


def read_all_beside(repo: Repository, name: str) -> tuple[list[Pointer], list[Path]]:
    """``read_all`` and ``find_named`` from one walk."""
    found = _find(repo.root, (".dvc", name), [])
    return _read_each(repo, _pointers(found)), _called(name, found)


def _read_each(repo: Repository, files: Iterable[Path]) -> list[Pointer]:
    found = [read(file, repo.root) for file in files]
    _refuse_overlap(found)
    return found


def _refuse_overlap(found: Iterable[Pointer]) -> None:
    """Of two outs in one place, or one inside the other, each would undo what the other says."""
    owners: dict[str, Path] = {}
    for pointer in found:
        for out in pointer.outs:
            place = os.fspath(out.place)
            if place in owners:
                _refuse_two(place, owners[place], pointer.file)
            owners[place] = pointer.file
    for place, file in owners.items():
        above = os.path.dirname(place)
        while above != os.path.dirname(above):
            if above in owners:
                _refuse_two(place, owners[above], file)
            above = os.path.dirname(above)


def _refuse_two(place: str, one: Path, other: Path) -> None:
    if one == other:
        raise BadInput(f"{one}: {os.path.basename(place)!r} is in it twice", hint="take one of the two entries out")
    raise BadInput(
        f"{one} and {other} both track {os.path.basename(place)!r}",
        hint=f"let go of one: holdfast data remove {other.name}",
    )
