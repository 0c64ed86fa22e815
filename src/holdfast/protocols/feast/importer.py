"""A Feast repository as a definitions module of ours. What cannot be carried is named, never dropped in silence.

The repository is read by ``read_repository.py`` in a child process, under a Python that has Feast; here only its answer is
translated, which is pure but for ``read`` and ``write``.
"""

from __future__ import annotations

import keyword
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from holdfast.core.errors import BadDefinition, BadInput, Conflict, NotFound, Unavailable
from holdfast.core.identity import check_name, duration_text
from holdfast.core.records import Json

TYPES = {
    "Int32": "int", "Int64": "int", "Float32": "float", "Float64": "float", "String": "str", "Bool": "bool",
    "UnixTimestamp": '"timestamp"',
}  # fmt: skip
"""Feast's types that are ours too; all others (Bytes, arrays, maps) are listed."""

SECONDS = 300
_REMOTE = ("s3://", "gs://", "gcs://", "az://", "abfs://", "abfss://", "http://", "https://")


class Imported(msgspec.Struct, frozen=True):
    """``text`` is the module; ``links`` are (path in our project, file of the repository) that it expects to find.

    ``left`` names what is to be done by hand, as (kind, name, why); ``notes`` what is carried and means something else.
    """

    text: str
    entities: list[str]
    sources: list[str]
    views: list[str]
    services: list[str]
    links: list[tuple[str, str]]
    left: list[tuple[str, str, str]]
    notes: list[tuple[str, str, str]]


def read(repository: Path, python: str, *, seconds: float = SECONDS) -> Json:
    """What the repository defines, as ``read_repository.py`` tells it.

    Raises:
        NotFound: there is no such repository or no such Python.
        BadInput: that Python has no Feast.
        BadDefinition: the repository's own code fails.
        Unavailable: it does not end.
    """
    if not (repository / "feature_store.yaml").is_file():
        raise NotFound(
            f"{repository} is no Feast repository: it has no feature_store.yaml",
            hint="name the folder that `feast apply` is run in",
        )
    script = Path(__file__).with_name("read_repository.py")
    with tempfile.TemporaryDirectory(prefix="holdfast-feast-") as folder:
        answer = Path(folder) / "answer.json"
        try:
            done = subprocess.run(
                [python, str(script), str(repository), str(answer)], stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds,
                check=False, env={**os.environ, "FEAST_USAGE": "False"},
            )  # fmt: skip
        except (FileNotFoundError, PermissionError, NotADirectoryError):
            raise NotFound(f"{python} is no Python that can be run", hint="--python /path/to/venv/bin/python") from None
        except subprocess.TimeoutExpired:
            raise Unavailable(
                f"reading {repository.name} did not end within {seconds:.0f} s", hint="does one of its modules wait for something?"
            ) from None  # fmt: skip
        try:
            found: Json = msgspec.json.decode(answer.read_bytes(), type=dict[str, Any])
        except (FileNotFoundError, msgspec.DecodeError):
            words = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise BadInput(
                f"{python} ended with {done.returncode}: {words[-1][:300] if words else 'it said nothing'}",
                hint="it must be a Python 3 with Feast installed",
            ) from None
    kind, text = found.get("error", ("", ""))
    if kind == "no feast":
        raise BadInput(
            f"{python} has no Feast: {text}", hint="--python names a Python that has: pip install feast there"
        )
    if kind:
        raise BadDefinition(f"the repository does not run: {text}", hint="mend it until `feast plan` works there")
    return found


def translate(found: Json, repository: Path, root: Path) -> Imported:
    """The module text for a project at ``root``, and what is left to do."""
    return _Translation(found, repository.resolve(), root.resolve()).run()


def write(imported: Imported, path: Path) -> None:
    """Put the module at ``path``, which must not exist; whole or not at all.

    Raises:
        Conflict: there is something already.
        BadDefinition: what was written would not load.
    """
    from holdfast.core.project import load_module

    vacant(path)
    temporary = path.with_name(f"holdfast_import_{os.getpid()}.py")
    try:
        temporary.write_text(imported.text, encoding="utf-8")
        load_module(temporary.parent, temporary.name)
        try:
            os.link(temporary, path)  # refuses where somebody was faster
        except FileExistsError:
            raise Conflict(
                f"{path.name} exists and is not overwritten", hint="name another file with --output"
            ) from None
    finally:
        temporary.unlink(missing_ok=True)


def vacant(path: Path) -> None:
    """Make sure that a module can be written at ``path``.

    Raises:
        Conflict: there is something already.
        NotFound: its folder is not there.
    """
    if path.exists() or path.is_symlink():
        raise Conflict(
            f"{path.name} exists and is not overwritten", hint="name another file: --output feast_definitions.py"
        )
    if not path.parent.is_dir():
        raise NotFound(f"there is no folder {path.parent}", hint="make it, or name a file in the project")


def link(imported: Imported, root: Path) -> list[str]:
    """Link the repository's data files to where the module expects them; the places that were linked.

    Raises:
        Conflict: a place is taken by something else.
    """
    done = []
    for place, file in imported.links:
        target = root / place
        if target.is_symlink() and target.readlink() == Path(file):
            done.append(place)
            continue
        if target.exists() or target.is_symlink():
            raise Conflict(f"{place} exists and is no link to {file}", hint="move it away, or copy the data yourself")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file)
        done.append(place)
    return done


class _Translation:
    def __init__(self, found: Json, repository: Path, root: Path) -> None:
        self.found, self.repository, self.root = found, repository, root
        self.left: list[tuple[str, str, str]] = []
        self.notes: list[tuple[str, str, str]] = []
        self.links: list[tuple[str, str]] = []
        self.names: dict[tuple[str, str], str] = {}  # (kind, name) to the module's variable
        self.taken = {"hf", "timedelta"}
        self.places: set[str] = set()  # our names of sources
        self.kept: dict[str, list[str]] = {}  # view to its carried features

    def run(self) -> Imported:
        parts: dict[str, list[str]] = {"entities": [], "sources": [], "views": [], "services": []}
        entities = {e["name"]: e for e in self.found["entities"] if not e["name"].startswith("__dummy")}
        for view in self.found["views"]:
            self._view(view, entities, parts)
        for service in self.found["services"]:
            self._service(service, parts["services"])
        ported = [self._on_demand(v) for v in self.found["on_demand"]]
        self.left += [("other", name, "Holdfast has no such thing") for name in self.found["others"]]
        lines = [
            f'"""Imported from the Feast repository {_plain(self.repository.name)} (Feast {_plain(self.found["feast"])})."""', "",
            "import holdfast as hf", "",
            *[line for kind in ("entities", "sources", "views", "services") if parts[kind] for line in (*parts[kind], "")],
        ]  # fmt: skip
        for text in ported:
            lines += [text, ""]
        listed = [("to do by hand", self.left), ("carried, with another meaning", self.notes)]
        for title, entries in listed:
            if entries:
                lines += [
                    f"# {title}:",
                    *(f"# - {kind} {_plain(name)}: {_plain(why)}" for kind, name, why in entries),
                    "",
                ]
        kinds = {"entities": "entity", "sources": "source", "views": "view", "services": "service"}
        carried = {plural: [n for k, n in self.names if k == kind] for plural, kind in kinds.items()}
        return Imported("\n".join(lines).rstrip() + "\n", **carried, links=self.links, left=self.left, notes=self.notes)

    # --- names ---

    def _variable(self, kind: str, name: str) -> str:
        key = (kind, name)
        if key not in self.names:
            stem = re.sub(r"\W", "_", name, flags=re.ASCII)
            stem = f"_{stem}" if not stem or stem[0].isdigit() or keyword.iskeyword(stem) else stem
            word = stem if stem not in self.taken else f"{stem}_{kind}"
            while word in self.taken:
                word += "_"
            self.taken.add(word)
            self.names[key] = word
        return self.names[key]

    @staticmethod
    def _bad_name(name: str, kind: str) -> str | None:
        try:
            check_name(name, kind)
        except BadInput as error:
            return error.message
        return None

    # --- kinds ---

    def _entity(self, entity: Json, out: list[str]) -> str:
        fresh = ("entity", entity["name"]) not in self.names
        variable = self._variable("entity", entity["name"])
        if fresh:
            words = [repr(entity["name"]), f"[{entity['join_key']!r}]"]
            words += [f"description={entity['description']!r}"] if entity["description"] else []
            out.append(f"{variable} = hf.Entity({', '.join(words)})")
        return variable

    def _source(self, name: str, out: list[str]) -> str | None:
        """The variable of a source, or None (and a line in the list) where it cannot be carried."""
        if ("source", name) in self.names:
            return self.names[("source", name)]
        source = self.found["sources"][name]
        ours = stem = _source_name(name)
        number = 1
        while ours in self.places:
            number += 1
            ours = f"{stem}_{number}"
        self.places.add(ours)
        words = [repr(ours)]
        path, query = source["path"], source["query"]
        if path and path.startswith(_REMOTE):
            base, _, key = path.rpartition("/")
            words += [f"url={base!r}", f"query={key!r}"]
        elif path:
            words.append(repr(self._place(ours, path)))
        elif query:
            variable = re.sub(r"\W", "_", ours, flags=re.ASCII).upper() + "_URL"
            words += [f"url={'${' + variable + '}'!r}", f"query={_statement(query)!r}"]
            self.left.append(
                ("source", name, f"was a {source['kind']}: put the database's SQLAlchemy URL into ${variable}")
            )
        else:
            return None
        if source["format"] not in ("", "NoneType", "ParquetFormat"):
            self.left.append(("source", name, f"its files are {source['format']}: Holdfast reads parquet and CSV"))
        if not source["timestamp"]:
            self.left.append(
                ("source", name, "Feast infers its event time column: write timestamp=… or it is read as static")
            )
        words += [
            f"{ours_}={source[theirs]!r}"
            for ours_, theirs in (("timestamp", "timestamp"), ("arrival", "created"))
            if source[theirs]
        ]
        words += [f"{word}={source[word]!r}" for word in ("owner", "description") if source[word]]
        if source["created"]:
            self.notes.append(("source", name, (
                f"{source['created']!r} is when a row was known, and rows not yet known are invisible; Feast does so only with "
                "filter_by_created_timestamp=True and breaks ties by it otherwise")))  # fmt: skip
        for kind, fed in source["fed_by"]:
            if kind == "PushSource":
                self.notes.append(("push source", fed, f"push to {ours!r} (or to a view of it) instead"))
            else:
                self.left.append(
                    ("stream", fed, f"a {kind}: Holdfast takes events by push; forward the stream to {ours!r}")
                )
        variable = self._variable("source", name)
        out.append(f"{variable} = hf.Source({', '.join(words)})")
        return variable

    def _place(self, ours: str, path: str) -> str:
        """A path inside our project; what lies elsewhere is to be linked or copied there."""
        file = Path(os.path.normpath(self.repository / path.removeprefix("file://")))
        if file.is_relative_to(self.root):
            return file.relative_to(self.root).as_posix()
        place = f"data/{ours}{''.join(file.suffixes[-1:])}"
        self.links.append((place, str(file)))
        return place

    def _view(self, view: Json, entities: Mapping[str, Json], parts: dict[str, list[str]]) -> None:
        why = self._cannot(view, entities)
        if why is not None:
            self.left.append(("feature view", view["name"], why))
            return
        source = self.found["sources"][view["source"]]
        columns = {new: old for old, new in source["mapping"].items()}
        fields = []
        for name, dtype, description in view["fields"]:
            reason = self._bad_name(name, "feature") or (
                None if dtype in TYPES else f"is {dtype}, a type that Holdfast does not keep"
            )
            if reason is not None:
                self.left.append(("feature", f"{view['name']}:{name}", reason))
                continue
            words = [repr(name), TYPES[dtype]]
            words += [f"column={columns[name]!r}"] if name in columns else []
            words += [f"description={description!r}"] if description else []
            fields.append(f"    hf.Field({', '.join(words)}),")
            self.kept.setdefault(view["name"], []).append(name)
        if not fields:
            self.left.append(("feature view", view["name"], "none of its features can be carried"))
            return
        variable_of_source = self._source(view["source"], parts["sources"])
        if variable_of_source is None:
            self.kept.pop(view["name"], None)
            self.left.append(("feature view", view["name"], f"its source is a {source['kind']}"))
            return
        keys = ", ".join(self._entity(entities[e], parts["entities"]) for e in view["entities"])
        more = [f", ttl={duration_text(round(view['ttl'] * 1_000_000))!r}"] if view["ttl"] else []
        more += [f", {word}={view[word]!r}" for word in ("owner", "description", "tags") if view[word]]
        variable = self._variable("view", view["name"])
        parts["views"] += [
            f"{variable} = hf.FeatureView({view['name']!r}, [{keys}], {variable_of_source}, [", *fields, f"]{''.join(more)})",
        ]  # fmt: skip

    def _cannot(self, view: Json, entities: Mapping[str, Json]) -> str | None:
        """Why a view cannot be carried, or None."""
        if view["views"]:
            return f"made of other views ({', '.join(view['views'])}): write its query as a Source"
        if view["aggregations"]:
            return f"aggregates ({'; '.join(view['aggregations'])}): write them as hf.Aggregation"
        if view["transformed"]:
            return "transforms its source by a function: write that as the source's query, or as on-demand features"
        if view["source"] is None:
            return "has no batch source"
        if not view["fields"]:
            return "has no schema: give it one, or run `feast apply` so that Feast infers it"
        if not view["entities"]:
            return "has no entity: a feature needs a key"
        missing = [e for e in view["entities"] if e not in entities]
        if missing:
            return f"its entity {missing[0]!r} is not defined in the repository"
        mapped = self.found["sources"][view["source"]]["mapping"]
        for name in view["entities"]:
            key = entities[name]["join_key"]
            if self._bad_name(key, "join key"):
                return f"its join key {key!r} cannot be a column name here: rename it"
            if key in mapped.values():
                return f"its join key {key!r} is renamed by the source's field_mapping: rename the column itself"
        return self._bad_name(view["name"], "feature view")

    def _service(self, service: Json, out: list[str]) -> None:
        on_demand = {v["name"] for v in self.found["on_demand"]}
        used, hidden, dropped = [], [], []
        for part in service["features"]:
            name = part["view"]
            if part["keys"] or part["alias"] not in (None, name):
                dropped.append(f"{name} under another name or key")
            elif name in on_demand:
                dropped.append(f"{name}, computed on demand: port it below and add it")
            elif name not in self.kept:
                dropped.append(f"{name}, which is not carried")
            else:
                chosen = part["fields"] or part["wanted"] or self.kept[name]
                dropped += [f"{name}:{f}, which is not carried" for f in chosen if f not in self.kept[name]]
                used.append(self.names[("view", name)])
                hidden += [f"{name}__{f}" for f in self.kept[name] if f not in chosen]
        bad = self._bad_name(service["name"], "feature service")
        if bad is not None or not used:
            self.left.append(
                ("feature service", service["name"], bad or f"nothing of it is carried: {'; '.join(dropped)}")
            )
            return
        if dropped:
            self.left.append(("feature service", service["name"], f"without {'; '.join(dropped)}"))
        words = [repr(service["name"]), f"[{', '.join(used)}]"]
        words += [f"hidden={hidden!r}"] if hidden else []
        words += [f"{word}={service[word]!r}" for word in ("owner", "description") if service[word]]
        out.append(f"{self._variable('service', service['name'])} = hf.FeatureService({', '.join(words)})")

    def _on_demand(self, view: Json) -> str:
        """An on-demand view as a comment with its source, to be ported by a person."""
        names = ", ".join(f[0] for f in view["fields"])
        self.left.append(
            ("on-demand view", view["name"], f"port by hand as hf.on_demand ({names}); its source is in the module")
        )
        needs = [f"{v}__<feature>" for v in view["views"]] + [f[0] for f in view["request"]]
        head = [
            f"# on-demand view {_plain(view['name'])} ({_plain(view['mode'])}): gives {_plain(names)}; write one hf.on_demand function per feature, whose",
            f"# arguments name what it needs ({_plain(', '.join(needs))}) and which takes and returns NumPy arrays.",
        ]  # fmt: skip
        request = {f[0]: TYPES.get(f[1], "float") for f in view["request"]}
        if request:
            shown = ", ".join(f"{k!r}: {v}" for k, v in request.items())
            head.append(f"# its service then says: request={{{_plain(shown)}}}")
        return "\n".join([*head, *(f"#     {line}".rstrip() for line in _lines(view["source"]))])


def _source_name(name: str) -> str:
    """Feast names a source without a name by its path; ours have names."""
    stem = Path(name).name.split(".")[0] if "/" in name or name.endswith((".parquet", ".csv")) else name
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", stem)[:128]
    return stem if re.match(r"[A-Za-z_]", stem) else f"s_{stem}"[:128]


def _statement(query: str) -> str:
    """Feast gives a query in parentheses, or a table's name."""
    text = query.strip()
    if not text.startswith("("):
        return text if re.match(r"(?i)(select|with)\b", text) else f"SELECT * FROM {text}"
    depth = 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return text[1:-1].strip() if at == len(text) - 1 else text
    return text


def _plain(text: object) -> str:
    """Text in a comment or docstring of the module: one line, and nothing that ends it."""
    return " ".join(str(text).split()).replace("\\", "/").replace('"""', "'''")


def _lines(text: str) -> Sequence[str]:
    return [line for line in text.splitlines() if "\r" not in line]
