"""What people declare about data and features: sources, entities, views, on-demand functions, services of features."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.core.addresses import public
from holdfast.core.definition import Definition
from holdfast.core.errors import BadDefinition, did_you_mean
from holdfast.core.gates import Duration
from holdfast.core.identity import check_name, duration_text, duration_us, function_digest, function_source

AGGREGATES = ("count", "sum", "mean", "min", "max", "last", "first", "std", "distinct", "approx_distinct")
DTYPES = {int: "int64", float: "float64", str: "string", bool: "bool"}


def _dtype(value: object) -> str:
    if isinstance(value, type) and value in DTYPES:
        return DTYPES[value]
    if isinstance(value, str) and value in {*DTYPES.values(), "timestamp"}:
        return value
    raise BadDefinition(f"{value!r} is not a column type", hint="use int, float, str, bool, or 'timestamp'")


@dataclass(frozen=True, eq=False)
class Source(Definition):
    """Where rows come from: ``path`` (a parquet or CSV file, a folder of them, or a glob pattern, relative to the
    project), or ``url`` + ``query``: a SQLAlchemy URL and a SELECT, or a store (s3://…) and an object's key. Secrets
    belong in the environment: ``url="postgresql://app:${PASSWORD}@db/shop"`` or ``url="${SHOP_URL}"``; user, password and
    parameters of a URL are in no hash, record or message.

    ``timestamp`` is the event time column; without one the source is static. ``arrival`` is the column that says when a
    row was known; rows not yet known at a spine row's time are invisible to it. ``sequence`` breaks ties after both.
    ``schema`` maps columns to types, or is a pandera schema.
    """

    name: str
    path: str | None = None
    timestamp: str | None = None
    arrival: str | None = None
    sequence: str | None = None
    schema: Any = None
    url: str | None = field(default=None, repr=False)
    query: str | None = None
    owner: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "source")
        if (self.path is None) == (self.url is None):
            raise BadDefinition(f"source {self.name!r} needs exactly one of path and url")
        if self.url is not None and not self.query:
            raise BadDefinition(f"source {self.name!r} has a url but no query")
        if self.arrival and not self.timestamp:
            raise BadDefinition(f"source {self.name!r} has an arrival column but no timestamp column")

    def spec(self) -> dict[str, Any]:
        schema = {k: _dtype(v) for k, v in self.schema.items()} if isinstance(self.schema, Mapping) else None
        return {
            "kind": "source", "name": self.name, "path": self.path, "url": None if self.url is None else public(self.url), "query": self.query,
            "timestamp": self.timestamp, "arrival": self.arrival, "sequence": self.sequence, "schema": schema,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Entity(Definition):
    """What features are about: one or more key columns."""

    name: str
    join_keys: Sequence[str] = ()
    description: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "entity")
        object.__setattr__(self, "join_keys", tuple(self.join_keys) or (self.name,))
        for key in self.join_keys:
            check_name(key, "join key")

    def spec(self) -> dict[str, Any]:
        return {"kind": "entity", "name": self.name, "join_keys": list(self.join_keys)}


@dataclass(frozen=True, eq=False)
class Field:
    """The latest value of a source column, as a feature."""

    name: str
    dtype: Any = float
    column: str | None = None
    description: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "feature")
        object.__setattr__(self, "dtype", _dtype(self.dtype))

    @property
    def source_column(self) -> str:
        return self.column or self.name

    def spec(self) -> dict[str, Any]:
        return {"kind": "field", "name": self.name, "dtype": self.dtype, "column": self.source_column}


@dataclass(frozen=True, eq=False)
class Aggregation:
    """Functions of a source column over windows (t − w, t] that end at the request time.

    Each (function, window) is one feature, ``<column>_<function>_<window>``. ``where`` is a SQL expression over the
    source's columns that keeps the rows it is true for. An empty window counts 0; everything else is null.
    """

    column: str
    functions: Sequence[str]
    windows: Sequence[Duration]
    where: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name or self.column, "aggregation")
        functions = tuple([self.functions] if isinstance(self.functions, str) else self.functions)
        for function in functions:
            if function not in AGGREGATES:
                raise BadDefinition(
                    f"unknown aggregate {function!r}", hint=did_you_mean(function, AGGREGATES, kind="aggregate")
                )
        windows = tuple(duration_us(w) for w in ([self.windows] if isinstance(self.windows, str) else self.windows))
        if not functions or not windows or 0 in windows:
            raise BadDefinition(f"aggregation of {self.column!r} needs at least one function and one window above zero")
        object.__setattr__(self, "functions", functions)
        object.__setattr__(self, "windows", windows)

    def features(self) -> list[tuple[str, str, int]]:
        """(feature name, function, window in µs) of each feature, in declared order."""
        stem = self.name or self.column
        windows = [duration_us(w) for w in self.windows]
        return [(f"{stem}_{f}_{duration_text(w)}", f, w) for w in windows for f in self.functions]

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "aggregation", "column": self.column, "functions": list(self.functions),
            "windows": list(self.windows), "where": self.where, "name": self.name or self.column,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class FeatureView(Definition):
    """Features of one set of entities from one source: latest values (``Field``) and ``Aggregation``.

    ``ttl`` bounds how old a latest value may be, inclusive, offline and online alike; None = no bound.
    A feature's column is named ``<view>__<feature>``. ``keys`` are SQL expressions over the source's columns for join keys
    that are no column of it (``{"route": "origin || '-' || dest"}``). ``materialize`` is a cron schedule (in ``zone``) on which the loop
    brings the source in and the view online; ``fresh`` is how old the newest event may be before a monitor alarms. Neither
    is part of the view's version.
    """

    name: str
    entities: Sequence[Entity]
    source: Source
    features: Sequence[Field | Aggregation]
    ttl: Duration | None = None
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    materialize: str | None = None
    zone: str = "UTC"
    fresh: Duration | None = None
    keys: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name, "feature view")
        object.__setattr__(self, "keys", dict(self.keys))
        object.__setattr__(self, "fresh", None if self.fresh is None else duration_us(self.fresh))
        if self.fresh is not None and self.source.timestamp is None:
            raise BadDefinition(f"feature view {self.name!r} must be fresh but its source has no timestamp column")
        object.__setattr__(self, "entities", tuple(self.entities))
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "ttl", None if self.ttl is None else duration_us(self.ttl))
        if not self.features:
            raise BadDefinition(f"feature view {self.name!r} has no features")
        if any(isinstance(f, Aggregation) for f in self.features) and self.source.timestamp is None:
            raise BadDefinition(
                f"feature view {self.name!r} aggregates over windows but its source has no timestamp column"
            )
        expression: Any
        for key, expression in self.keys.items():
            if key not in self.join_keys:
                raise BadDefinition(
                    f"feature view {self.name!r} has an expression for {key!r}, which is none of its join keys",
                    hint=did_you_mean(key, self.join_keys, kind="join key"),
                )
            if not isinstance(expression, str) or not expression.strip():
                raise BadDefinition(
                    f"feature view {self.name!r}: the expression for key {key!r} is {expression!r}",
                    hint="write SQL over the source's columns, like \"origin || '-' || dest\"",
                )
        names = self.columns()
        twice = {n for n in names if names.count(n) > 1}
        if twice:
            raise BadDefinition(f"feature view {self.name!r} has {sorted(twice)[0]!r} twice")

    @property
    def join_keys(self) -> tuple[str, ...]:
        return tuple(k for e in self.entities for k in e.join_keys)

    def columns(self) -> list[str]:
        """Names of the feature columns, in declared order."""
        out: list[str] = []
        for f in self.features:
            out += (
                [f"{self.name}__{n}" for n, _, _ in f.features()]
                if isinstance(f, Aggregation)
                else [f"{self.name}__{f.name}"]
            )
        return out

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "feature view", "name": self.name, "entities": [e.spec() for e in self.entities],
            "source": self.source.spec(), "features": [f.spec() for f in self.features], "ttl": self.ttl,
            **({"keys": dict(self.keys)} if self.keys else {}),
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class OnDemand(Definition):
    """A feature computed at request time. The function's arguments name what it needs: request values, join keys, and
    ``<view>__<feature>`` columns. It gets NumPy arrays (float64 with NaN for null, or object for strings) of one length
    and returns one; the same function runs on the whole training set and on a request's rows."""

    name: str
    function: Callable[..., Any]
    dtype: str = "float64"
    description: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "on-demand feature")

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.function).parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "on demand", "name": self.name, "arguments": list(self.arguments), "dtype": self.dtype,
            "function": function_digest(self.function),
        }  # fmt: skip

    def source_text(self) -> str:
        return function_source(self.function)


def on_demand(function: Callable[..., Any] | None = None, *, dtype: Any = float, description: str = "") -> Any:
    """Decorator: make a plain function an on-demand feature of its own name."""

    def wrap(fn: Callable[..., Any]) -> OnDemand:
        return OnDemand(fn.__name__, fn, _dtype(dtype), description or (inspect.getdoc(fn) or ""))

    return wrap(function) if function is not None else wrap


@dataclass(frozen=True, eq=False)
class FeatureService(Definition):
    """The set of features one model uses, in order. ``request`` names and types the values a caller sends beside the
    entity keys; each is also a feature unless named in ``hidden`` (used by on-demand features only)."""

    name: str
    features: Sequence[FeatureView | OnDemand]
    request: Mapping[str, Any] = field(default_factory=dict)
    hidden: Sequence[str] = ()
    owner: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "feature service")
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(
            self, "request", {check_name(k, "request value"): _dtype(v) for k, v in self.request.items()}
        )
        object.__setattr__(self, "hidden", tuple(self.hidden))
        known = {
            *self.request,
            *(k for v in self.views for k in v.join_keys),
            *(c for v in self.views for c in v.columns()),
        }
        for feature in self.on_demand:
            for argument in feature.arguments:
                if argument not in known:
                    raise BadDefinition(
                        f"on-demand feature {feature.name!r} needs {argument!r}, which service {self.name!r} does not have",
                        hint=did_you_mean(argument, known, kind="feature"),
                    )
            known.add(feature.name)
        for name in self.hidden:
            if name not in known:
                raise BadDefinition(
                    f"service {self.name!r} hides {name!r}, which it does not have", hint=did_you_mean(name, known)
                )

    @property
    def views(self) -> tuple[FeatureView, ...]:
        return tuple(f for f in self.features if isinstance(f, FeatureView))

    @property
    def on_demand(self) -> tuple[OnDemand, ...]:
        return tuple(f for f in self.features if isinstance(f, OnDemand))

    @property
    def join_keys(self) -> tuple[str, ...]:
        """The join keys of all views, each once, in order of first appearance."""
        return tuple(dict.fromkeys(k for v in self.views for k in v.join_keys))

    def columns(self) -> list[str]:
        """The model's input columns in order: views' features, on-demand features, request values that are not hidden."""
        out = [c for v in self.views for c in v.columns()]
        out += [f.name for f in self.on_demand]
        out += [r for r in self.request if r not in self.join_keys]
        return [c for c in out if c not in self.hidden]

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "feature service", "name": self.name, "features": [f.spec() for f in self.features],
            "request": dict(self.request), "hidden": list(self.hidden),
        }  # fmt: skip
