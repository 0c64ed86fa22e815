"""Where things live and how they behave: one schema, one order of precedence, errors with file, line and mend.

    defaults  <  holdfast.toml  <  its [environments.NAME] table  <  HOLDFAST_… variables  <  command line

Every value remembers where it came from (``Loaded.origins``), and ``holdfast config`` prints that.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from holdfast.core.errors import BadConfig, did_you_mean

FILE = "holdfast.toml"
PREFIX = "HOLDFAST_"
# Variables that steer Holdfast without being settings.
OTHER_VARIABLES = frozenset(
    {
        "HOLDFAST_ENV",
        "HOLDFAST_TRACEBACK",
        "HOLDFAST_REQUIRE_SERVICES",
        "HOLDFAST_ACTOR",
        "HOLDFAST_RUN_ID",
        "HOLDFAST_SEED",
        "HOLDFAST_OBSERVE",
    }
)
SECRETS = frozenset({"server.token", "serve.token", "features.token", "alerts"})

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the tables of holdfast.toml."""


class LedgerSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``sqlite:///path`` or ``postgresql://user@host/database``; a relative path starts at the project."""

    url: str = "sqlite:///.holdfast/ledger.db"


class RunsSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Metric points, parameters, tags. ``synchronous = "full"`` waits for the disk at each acknowledged write."""

    url: str = "sqlite:///.holdfast/runs.db"
    synchronous: Literal["normal", "full"] = "normal"


class ObjectsSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A folder, or ``s3://bucket/prefix``, ``gs://…``, ``az://…``."""

    url: str = ".holdfast/objects"


class OnlineSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A folder (embedded store), or ``redis://host:6379/0``."""

    url: str = ".holdfast/online"


class ServerSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The control plane. ``url`` set: the CLI talks to that server instead of opening the store itself. ``hosts`` are
    names the Host check accepts beside loopback and the address it listens on."""

    url: str | None = None
    host: str = "127.0.0.1"
    port: Port = 5000
    token: str | None = None
    hosts: list[str] = []


class ServeSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The data plane. ``prediction_log = "durable"`` answers after the log's fsync, ``"buffered"`` before it. ``traces``
    is an OTLP/HTTP collector that gets a trace of each request; empty = none. ``environment = "auto"`` makes the environment a model was made in
    where this one differs; ``"here"`` refuses then."""

    host: str = "127.0.0.1"
    port: Port = 8080
    replicas: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 2
    token: str | None = None
    hosts: list[str] = []
    prediction_log: Literal["durable", "buffered"] = "durable"
    traces: str = ""
    environment: Literal["here", "auto"] = "here"


class FeaturesSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The feature server."""

    host: str = "127.0.0.1"
    port: Port = 6566
    token: str | None = None
    hosts: list[str] = []


class GateSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``policy`` unset: enforce for a model whose service declares a gate, off for others."""

    policy: Literal["off", "warn", "enforce"] | None = None
    protected_aliases: list[str] = msgspec.field(default_factory=lambda: ["champion"])


class Settings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of holdfast.toml. ``alerts`` are Apprise URLs; ``clock = "replay"`` only for replays of the past."""

    definitions: str = "definitions"
    clock: Literal["system", "replay"] = "system"
    alerts: list[str] = []
    ledger: LedgerSettings = LedgerSettings()
    runs: RunsSettings = RunsSettings()
    objects: ObjectsSettings = ObjectsSettings()
    online: OnlineSettings = OnlineSettings()
    server: ServerSettings = ServerSettings()
    serve: ServeSettings = ServeSettings()
    features: FeaturesSettings = FeaturesSettings()
    gate: GateSettings = GateSettings()


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """Settings, where each dotted key came from, and notices about what was ignored."""

    settings: Settings
    origins: dict[str, str]
    environment: str | None
    notices: list[str]


def load(
    root: Path,
    *,
    environment: str | None = None,
    variables: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read the settings of the project at ``root``.

    Args:
        environment: table of ``[environments]`` to lay over the file; HOLDFAST_ENV when None.
        variables: the process environment unless given.
        overrides: dotted key → value from the command line.

    Raises:
        BadConfig: broken TOML, an unknown key or environment, a value of the wrong kind; names file, line and mend.
    """
    variables = os.environ if variables is None else variables
    environment = environment or variables.get("HOLDFAST_ENV") or None
    values = {key: default for key, (_, default) in KEYS.items()}
    origins = dict.fromkeys(values, "default")
    text, document = _read(root / FILE)
    environments = document.pop("environments", {})
    if not isinstance(environments, dict) or not all(isinstance(t, dict) for t in environments.values()):
        raise BadConfig(
            f"{FILE}:{_line(text, ('environments',))}: environments is a group of tables",
            hint="write [environments.prod] and settings below it",
        )
    layers: list[tuple[tuple[str, ...], dict[str, Any]]] = [((), document)]
    for name, table in environments.items():
        # Every environment is checked, so that the one used in an emergency is not the one with the typing error.
        checked = dict(values)
        _overlay(checked, {}, table, ("environments", name), text)
        if name == environment:
            layers.append((("environments", name), table))
    if environment is not None and environment not in environments:
        raise BadConfig(
            f"there is no environment {environment!r} in {FILE}",
            hint=did_you_mean(environment, environments, kind="environment"),
        )
    for at, table in layers:
        _overlay(values, origins, table, at, text)
    notices = _from_variables(values, origins, variables)
    for key, value in (overrides or {}).items():
        if key not in KEYS:
            raise BadConfig(f"unknown setting {key!r}", hint=did_you_mean(key, KEYS, kind="setting"))
        values[key] = _checked(key, value, "command line")
        origins[key] = "command line"
    return Loaded(settings=_assemble(values), origins=origins, environment=environment, notices=notices)


def shown(key: str, value: Any) -> Any:
    """A setting as it may be printed: tokens, passwords in URLs and alert addresses masked."""
    if key == "alerts" and isinstance(value, list):
        return [f"{str(v).partition('://')[0]}://***" if "://" in str(v) else "***" for v in value]
    if key in SECRETS:
        return None if value is None else "***"
    if isinstance(value, str) and "://" in value:
        value = re.sub(r"(://[^/@]*?:)[^/]*@", r"\1***@", value)
        return re.sub(
            r"(?i)([?&](?:password|token|secret|key|sslpassword|[a-z_]*secret[a-z_]*)=)[^&]*", r"\1***", value
        )
    return value


def flat(settings: Settings) -> dict[str, Any]:
    """Dotted key → value, in the order of the schema."""
    result: dict[str, Any] = {}
    for key in KEYS:
        table, _, name = key.rpartition(".")
        result[key] = getattr(getattr(settings, table) if table else settings, name)
    return result


def variable(key: str) -> str:
    """The environment variable of a setting: ``server.port`` → ``HOLDFAST_SERVER_PORT``."""
    return PREFIX + key.replace(".", "_").upper()


def _keys() -> dict[str, tuple[Any, Any]]:
    """Dotted key → (type, default)."""
    keys: dict[str, tuple[Any, Any]] = {}
    defaults = Settings()
    for field in msgspec.structs.fields(Settings):
        default = getattr(defaults, field.name)
        if isinstance(default, _Table):
            for inner in msgspec.structs.fields(type(default)):
                keys[f"{field.name}.{inner.name}"] = (inner.type, getattr(default, inner.name))
        else:
            keys[field.name] = (field.type, default)
    return keys


KEYS = _keys()
_TABLES = frozenset(key.partition(".")[0] for key in KEYS if "." in key)
_VARIABLES = {variable(key): key for key in KEYS}


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return "", {}
    try:
        text = data.decode()
        return text, tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadConfig(f"{FILE}:{line}: this is not UTF-8 text", hint="save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        what = re.sub(r"\s*\(at .*\)\Z", "", str(error))
        where = f"{FILE}:{found[1]}" if found else f"{FILE}:{text.count(chr(10)) + 1}"
        raise BadConfig(
            f"{where}: {what}", hint='mend the line; text stands in quotes: port = 5000, host = "0.0.0.0"'
        ) from None


def _overlay(
    values: dict[str, Any], origins: dict[str, str], table: dict[str, Any], at: tuple[str, ...], text: str
) -> None:
    """Lay a table of the file over the values, checking each."""
    for name, value in table.items():
        if name in _TABLES:
            if not isinstance(value, dict):
                line = _line(text, (*at, name))
                raise BadConfig(
                    f"{FILE}:{line}: {name} is a table, not a value",
                    hint=f"write [{'.'.join((*at, name))}] and its settings below",
                )
            for inner, inner_value in value.items():
                _set(values, origins, f"{name}.{inner}", inner_value, (*at, name, inner), at, text)
        else:
            _set(values, origins, name, value, (*at, name), at, text)


def _set(
    values: dict[str, Any],
    origins: dict[str, str],
    key: str,
    value: Any,
    path: tuple[str, ...],
    at: tuple[str, ...],
    text: str,
) -> None:
    line = _line(text, path)
    if key not in KEYS:
        known = [*KEYS, *_TABLES] if "." not in key else [k for k in KEYS if k.startswith(key.partition(".")[0] + ".")]
        raise BadConfig(f"{FILE}:{line}: unknown setting {key!r}", hint=did_you_mean(key, known, kind="setting"))
    values[key] = _checked(key, value, f"{FILE}:{line}")
    origins[key] = f"{FILE}:{line}" + (f" [{'.'.join(at)}]" if at else "")


def _from_variables(values: dict[str, Any], origins: dict[str, str], variables: Mapping[str, str]) -> list[str]:
    notices = []
    for name, text in variables.items():
        if not name.startswith(PREFIX) or name in OTHER_VARIABLES:
            continue
        key = _VARIABLES.get(name)
        if key is None:
            notices.append(f"{name} is no setting and is ignored; {did_you_mean(name, _VARIABLES, kind='variable')}")
            continue
        values[key] = _checked(key, _typed(key, text), f"environment variable {name}")
        origins[key] = f"environment variable {name}"
    return notices


def _typed(key: str, text: str) -> Any:
    """The text of a variable in the kind its setting has."""
    default = KEYS[key][1]
    if isinstance(default, list):
        return [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(default, int):
        try:
            return int(text)
        except ValueError:
            return text
    if text == "" and default is None:
        return None
    return text


_DATABASE = r"(sqlite:///.+|(postgresql|postgres)(\+psycopg)?://.+)\Z"
_URLS = {
    "ledger.url": (_DATABASE, "sqlite:///.holdfast/ledger.db or postgresql://user@host/database"),
    "runs.url": (_DATABASE, "sqlite:///.holdfast/runs.db or postgresql://user@host/database"),
    "objects.url": (
        r"((s3|s3a|gs|az|azure|abfs|abfss|file)://.+|(?![a-z0-9+]+://).+)\Z",
        ".holdfast/objects, s3://bucket/prefix, gs://… or az://…",
    ),
    "online.url": (r"(rediss?://.+|file://.+|(?![a-z0-9+]+://).+)\Z", ".holdfast/online or redis://host:6379/0"),
    "server.url": (r"https?://.+\Z", "http://127.0.0.1:5000"),
}


def _checked(key: str, value: Any, origin: str) -> Any:
    kind, _ = KEYS[key]
    try:
        converted = msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise BadConfig(f"{origin}: {key} = {shown(key, value)!r}: {_plain(str(error))}", hint=_wanted(key)) from None
    if key in _URLS and converted is not None and not re.match(_URLS[key][0], converted):
        raise BadConfig(
            f"{origin}: {key} = {shown(key, converted)!r} is no address Holdfast knows",
            hint=f"write it like {_URLS[key][1]}",
        )
    if key == "definitions" and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\.py)?", converted):
        raise BadConfig(
            f"{origin}: {converted!r} is not a module name", hint='write it like definitions = "definitions"'
        )
    return converted


def _plain(text: str) -> str:
    return text[:1].lower() + text[1:].replace("`", "")


def _wanted(key: str) -> str:
    kind, default = KEYS[key]
    choices = _choices(kind)
    if choices:
        return f"one of: {', '.join(choices)}"
    if isinstance(default, list):
        return f'a list of text, like {key.rpartition(".")[2]} = ["…"]'
    if isinstance(default, int):
        return f"a whole number, like {default}"
    return "text in quotes" + (f", like {default!r}" if default else "")


def _choices(kind: Any) -> list[str]:
    arguments = getattr(kind, "__args__", ())
    if getattr(kind, "__origin__", None) is Literal:
        return [str(a) for a in arguments]
    return [choice for a in arguments for choice in _choices(a)]


def _assemble(values: Mapping[str, Any]) -> Settings:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        table, _, name = key.rpartition(".")
        (tree.setdefault(table, {}) if table else tree)[name] = value
    return msgspec.convert(tree, Settings)


_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?\Z")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")


def _line(text: str, path: tuple[str, ...]) -> int:
    """The line where a key stands, or where the nearest table above it does: 1 when neither is found."""
    table: tuple[str, ...] = ()
    best, depth = 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = here = _dotted(header[1])
        elif key := _KEY.match(line):
            here = (*table, *_dotted(key[1]))
        else:
            continue
        if here == path:
            return number
        if len(here) > depth and here == path[: len(here)]:
            best, depth = number, len(here)
    return best


def _dotted(text: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in text.split("."))
