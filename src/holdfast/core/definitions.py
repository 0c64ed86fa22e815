"""The classes people write ``definitions.py`` with. Declarative, frozen, hashable; nothing runs here.

``spec()`` of each is plain JSON; ``version`` is its SHA-256, over normalised source tokens and values, never over layout.
Names follow Feast (Entity, FeatureView, FeatureService), MLflow (model), and the field.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from holdfast.core.errors import BadDefinition, did_you_mean
from holdfast.core.identity import check_name, digest, duration_text, duration_us, function_digest, function_source

Duration = str | int | timedelta
AGGREGATES = ("count", "sum", "mean", "min", "max", "last", "first", "std", "distinct", "approx_distinct")
DTYPES = {int: "int64", float: "float64", str: "string", bool: "bool"}


def _dtype(value: object) -> str:
    if isinstance(value, type) and value in DTYPES:
        return DTYPES[value]
    if isinstance(value, str) and value in {*DTYPES.values(), "timestamp"}:
        return value
    raise BadDefinition(f"{value!r} is not a column type", hint="use int, float, str, bool, or 'timestamp'")


class Definition:
    """Shared by all: a JSON ``spec`` and the ``version`` hashed from it."""

    name: str

    def spec(self) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def version(self) -> str:
        return digest(self.spec())


@dataclass(frozen=True, eq=False)
class Source(Definition):
    """Where rows come from: ``path`` (a parquet or CSV file, a folder of them, or a glob pattern, relative to the
    project), or ``url`` + ``query`` (SQL).

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
    url: str | None = None
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
            "kind": "source", "name": self.name, "path": self.path, "url": self.url, "query": self.query,
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
    A feature's column is named ``<view>__<feature>``.
    """

    name: str
    entities: Sequence[Entity]
    source: Source
    features: Sequence[Field | Aggregation]
    ttl: Duration | None = None
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name, "feature view")
        object.__setattr__(self, "entities", tuple(self.entities))
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "ttl", None if self.ttl is None else duration_us(self.ttl))
        if not self.features:
            raise BadDefinition(f"feature view {self.name!r} has no features")
        if any(isinstance(f, Aggregation) for f in self.features) and self.source.timestamp is None:
            raise BadDefinition(
                f"feature view {self.name!r} aggregates over windows but its source has no timestamp column"
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


@dataclass(frozen=True, eq=False)
class Label(Definition):
    """The truth: ``column`` of ``source``, joined to spine rows by ``key``. Known when the source's arrival (else its
    timestamp) says so; ``matures`` is how long to wait before a missing label is counted as never coming."""

    source: Source
    column: str
    key: str | Sequence[str] = "id"
    matures: Duration = "0s"
    name: str = "label"

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.key,) if isinstance(self.key, str) else tuple(self.key))
        object.__setattr__(self, "matures", duration_us(self.matures))

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "label",
            "source": self.source.spec(),
            "column": self.column,
            "key": list(self.key),
            "matures": self.matures,
        }


@dataclass(frozen=True, eq=False)
class TimeSplit:
    """Time-ordered split, as seen from the moment of training: ``test`` is the newest stretch of labelled rows, ``tune``
    the stretch before it (threshold), ``train`` what is before that, at most this long (None = everything).
    Each is a length of time or a share of rows in (0, 1)."""

    test: Duration | float = 0.2
    tune: Duration | float = 0.1
    train: Duration | None = None

    def spec(self) -> dict[str, Any]:
        def part(value: Duration | float | None) -> Any:
            return value if value is None or isinstance(value, float) else duration_us(value)

        return {"test": part(self.test), "tune": part(self.tune), "train": part(self.train)}


@dataclass(frozen=True, eq=False)
class Threshold:
    """How the deployed threshold is chosen, on rows the model was not fitted on: ``at`` fixes it; otherwise the one with
    the least expected cost, a miss costing ``miss`` and a false alarm ``false_alarm``."""

    at: float | None = None
    miss: float = 1.0
    false_alarm: float = 1.0

    def spec(self) -> dict[str, Any]:
        return {"at": self.at, "miss": self.miss, "false_alarm": self.false_alarm}


@dataclass(frozen=True, eq=False)
class Model(Definition):
    """A training function and what it is fed. Called as ``function(data, params)`` with ``data.X`` (DataFrame or
    array), ``data.y``; returns a fitted estimator. ``candidates`` is a list of overrides of ``params``: each is
    trained, the best by ``select`` on the tune stretch is registered."""

    name: str
    function: Callable[..., Any]
    features: FeatureService | None = None
    spine: Source | None = None
    label: Label | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    candidates: Sequence[Mapping[str, Any]] = ({},)
    split: TimeSplit = field(default_factory=TimeSplit)
    threshold: Threshold = field(default_factory=lambda: Threshold(at=0.5))
    select: str = "roc_auc"
    task: Literal["binary", "multiclass", "regression"] = "binary"
    seed: int = 42
    group: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "model")
        if self.spine is not None and self.spine.timestamp is None:
            raise BadDefinition(f"the spine of model {self.name!r} has no timestamp column")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "model", "name": self.name, "function": function_digest(self.function),
            "features": self.features.spec() if self.features else None, "spine": self.spine.spec() if self.spine else None,
            "label": self.label.spec() if self.label else None, "params": dict(self.params),
            "candidates": [dict(c) for c in self.candidates], "split": self.split.spec(), "threshold": self.threshold.spec(),
            "select": self.select, "task": self.task, "seed": self.seed, "group": self.group,
        }  # fmt: skip


def model(name: str, **kwargs: Any) -> Callable[[Callable[..., Any]], Model]:
    """Decorator: make a training function a model. Keyword arguments as in ``Model``."""

    def wrap(function: Callable[..., Any]) -> Model:
        return Model(name, function, **kwargs)

    return wrap


@dataclass(frozen=True)
class Rule:
    """One line of a gate: a check by name, and what it must show. Made by the functions below."""

    check: str
    metric: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    sample: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    function: Callable[..., Any] | None = field(default=None, compare=False, repr=False)

    def spec(self) -> dict[str, Any]:
        return {
            "check": self.check, "metric": self.metric, "minimum": self.minimum, "maximum": self.maximum,
            "sample": self.sample, "options": dict(self.options),
        }  # fmt: skip


def at_least(metric: str, value: float, *, sample: int = 100) -> Rule:
    """The metric on held-out rows is at least ``value``; ``sample`` is the fewest rows that may carry a pass."""
    return Rule("performance", metric=metric, minimum=float(value), sample=sample)


def at_most(metric: str, value: float, *, sample: int = 100) -> Rule:
    """The metric on held-out rows is at most ``value``."""
    return Rule("performance", metric=metric, maximum=float(value), sample=sample)


def fairness(group: str, *, metric: str = "accuracy", max_gap: float = 0.05, sample: int = 100) -> Rule:
    """Every group's metric lies within ``max_gap`` of the whole; groups under ``sample`` rows cannot pass or fail."""
    return Rule("fairness", metric=metric, maximum=float(max_gap), sample=sample, options={"group": group})


def deterministic(*, tolerance: float = 1e-6) -> Rule:
    """The same rows give the same predictions: twice, shuffled, one against many, saved and loaded."""
    return Rule("determinism", maximum=float(tolerance))


def latency(*, mean: Duration = "100ms", p99: Duration | None = None) -> Rule:
    """The mean of 1000 single-row calls (and p99, where given) stays at or under this."""
    options = {} if p99 is None else {"p99": duration_us(p99) / 1e6}
    return Rule("latency", maximum=duration_us(mean) / 1e6, options=options)


def not_worse_than_champion(metric: str, *, margin: float = 0.0, sample: int = 100) -> Rule:
    """Paired on the same rows, the candidate is not worse than the live champion by more than ``margin``."""
    return Rule("champion", metric=metric, minimum=-float(margin), sample=sample)


def better_than(baseline: Literal["constant", "linear"], metric: str, *, by: float = 0.0, sample: int = 100) -> Rule:
    """Better than a constant or a simple linear model on the same rows by at least ``by``."""
    return Rule("baseline", metric=metric, minimum=float(by), sample=sample, options={"baseline": baseline})


def no_leakage(*, max_auc: float = 0.98) -> Rule:
    """No single input tells the label by itself (its own ROC AUC on held-out rows stays under ``max_auc``), and neither
    does the model: a figure too good to be true is a leak until somebody explains it."""
    return Rule("leakage", maximum=float(max_auc))


def check(
    function: Callable[..., Any],
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    sample: int = 0,
    **options: Any,
) -> Rule:
    """A user's own check: a plain function of the check context. It returns a number, (number, low, high), True/False, or
    Evidence; ``minimum`` and ``maximum`` bound the number."""
    return Rule(
        "custom", metric=function.__name__, minimum=minimum, maximum=maximum, sample=sample,
        options={**options, "function": function_digest(function)}, function=function,
    )  # fmt: skip


@dataclass(frozen=True, eq=False, init=False)
class Gate:
    """All rules a version must satisfy. ``policy``: off | warn | enforce."""

    rules: tuple[Rule, ...]
    policy: str = "enforce"
    decision_record: bool = False

    def __init__(self, *rules: Rule, policy: str = "enforce", decision_record: bool = False) -> None:
        if policy not in ("off", "warn", "enforce"):
            raise BadDefinition(f"unknown gate policy {policy!r}", hint="use off, warn or enforce")
        object.__setattr__(self, "rules", tuple(rules))
        object.__setattr__(self, "policy", policy)
        object.__setattr__(self, "decision_record", decision_record)

    def spec(self) -> dict[str, Any]:
        return {"rules": [r.spec() for r in self.rules], "policy": self.policy, "decision_record": self.decision_record}


@dataclass(frozen=True, eq=False)
class Rollout:
    """Steps from challenger to champion: smoke always, ``shadow`` for this long, then each ``canary`` weight (percent)
    for ``bake``. ``minimum`` predictions per arm are needed to judge a step; too few holds. After ``give_up`` without
    enough evidence the rollout is aborted."""

    shadow: Duration = "0s"
    canary: Sequence[float] = (1, 5, 25)
    bake: Duration = "30m"
    minimum: int = 100
    max_error_rate: float = 0.01
    max_latency_ratio: float = 2.0
    max_disagreement: float | None = None
    max_metric_drop: float = 0.05
    give_up: Duration = "30d"

    def __post_init__(self) -> None:
        object.__setattr__(self, "canary", tuple(float(w) for w in self.canary))
        for name in ("shadow", "bake", "give_up"):
            object.__setattr__(self, name, duration_us(getattr(self, name)))
        if any(not 0 < w <= 100 for w in self.canary) or list(self.canary) != sorted(self.canary):
            raise BadDefinition(f"canary weights {list(self.canary)} must rise within (0, 100]")

    def spec(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}


@dataclass(frozen=True, eq=False)
class Drift:
    """How drift is judged. ``rate`` bounds the false alarms of a whole check; floors are the least effect that
    counts. ``columns`` limits which inputs are watched; ``minimum`` rows are needed to say anything."""

    rate: float = 0.01
    ks_floor: float = 0.05
    tv_floor: float = 0.05
    missing_floor: float = 0.02
    minimum: int = 200
    window: Duration = "7d"
    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", duration_us(self.window))

    def spec(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}


@dataclass(frozen=True, eq=False)
class Monitor:
    """What is watched, how often, and who is told. ``window`` is the stretch performance is measured over."""

    every: Duration = "1h"
    drift: Drift | None = field(default_factory=Drift)
    window: Duration = "7d"
    metrics: Sequence[str] = ("roc_auc",)
    alerts: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "every", duration_us(self.every))
        object.__setattr__(self, "window", duration_us(self.window))

    def spec(self) -> dict[str, Any]:
        return {
            "every": self.every, "window": self.window, "metrics": list(self.metrics), "alerts": list(self.alerts),
            "drift": self.drift.spec() if self.drift else None,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Retrain:
    """When to retrain: on a cron ``schedule`` (in ``zone``), on drift, or when a live metric's whole interval lies under
    a floor (``when_below``) or under the version's own figure by ``when_drops``. ``cooldown`` is the least time
    between orders, ``budget`` the most orders in ``budget_window``; after ``breaker`` failed cycles in a row it stops and
    alerts; ``freeze`` holds (from, to) stretches without retraining. Drift counts when ``persist`` reports in a row alarm about the
    same thing; each rejected candidate in a row multiplies the cooldown by ``backoff``, up to 8 times."""

    schedule: str | None = None
    zone: str = "UTC"
    on_drift: bool = False
    when_below: tuple[str, float] | None = None
    when_drops: tuple[str, float] | None = None
    cooldown: Duration = "1d"
    budget: int = 12
    budget_window: Duration = "365d"
    breaker: int = 3
    freeze: Sequence[tuple[str, str]] = ()
    persist: int = 2
    backoff: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "cooldown", duration_us(self.cooldown))
        object.__setattr__(self, "budget_window", duration_us(self.budget_window))

    def spec(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}


@dataclass(frozen=True, eq=False)
class Service(Definition):
    """A model that answers traffic: its gate, rollout, monitor and retraining. ``log`` is durable or buffered."""

    name: str
    model: Model
    gate: Gate = field(default_factory=lambda: Gate(policy="off"))
    rollout: Rollout = field(default_factory=Rollout)
    monitor: Monitor = field(default_factory=Monitor)
    retrain: Retrain = field(default_factory=Retrain)
    replicas: int = 1
    log: Literal["durable", "buffered"] = "buffered"

    def __post_init__(self) -> None:
        check_name(self.name, "service")
        if not 1 <= self.replicas <= 64:
            raise BadDefinition(f"service {self.name!r} asks for {self.replicas} replicas", hint="use 1 to 64")
        if self.log not in ("durable", "buffered"):
            raise BadDefinition(f"service {self.name!r}: log is {self.log!r}", hint="use durable or buffered")

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "service", "name": self.name, "model": self.model.spec(), "gate": self.gate.spec(),
            "rollout": self.rollout.spec(), "monitor": self.monitor.spec(), "retrain": self.retrain.spec(),
            "replicas": self.replicas, "log": self.log,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Steps(Definition):
    """A class whose typed methods answer for the service of that name, with its model as one step. Made by ``service``."""

    name: str
    target: type

    def __post_init__(self) -> None:
        check_name(self.name, "service")

    @property
    def apis(self) -> list[str]:
        """Names of the methods marked with ``api``."""
        return sorted(n for n, f in vars(self.target).items() if getattr(f, "holdfast_api", False))

    def spec(self) -> dict[str, Any]:
        methods = {n: function_digest(getattr(self.target, n)) for n in self.apis}
        return {"kind": "steps", "name": self.name, "methods": methods}


def service(name: str) -> Callable[[type], Steps]:
    """Class decorator: its ``@api`` methods become ``POST /api/<method>`` of the service ``name``. It is constructed with
    ``predict(rows) -> answers``, the whole path of a request."""

    def wrap(target: type) -> Steps:
        return Steps(name, target)

    return wrap


def api(method: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a method of a service class: JSON body in (validated against its annotation), JSON value out."""
    method.holdfast_api = True  # type: ignore[attr-defined]
    return method


class Project:
    """All definitions of one module, by kind and name.

    Raises:
        BadDefinition: two different definitions of one kind share a name.
    """

    def __init__(self, definitions: Iterable[object]) -> None:
        self.sources: dict[str, Source] = {}
        self.entities: dict[str, Entity] = {}
        self.views: dict[str, FeatureView] = {}
        self.on_demand: dict[str, OnDemand] = {}
        self.feature_services: dict[str, FeatureService] = {}
        self.models: dict[str, Model] = {}
        self.services: dict[str, Service] = {}
        self.steps: dict[str, Steps] = {}
        for definition in definitions:
            self._add(definition)

    def _add(self, item: object) -> None:
        homes: list[tuple[type, dict[str, Any]]] = [
            (Source, self.sources), (Entity, self.entities), (FeatureView, self.views), (OnDemand, self.on_demand),
            (FeatureService, self.feature_services), (Model, self.models), (Service, self.services), (Steps, self.steps),
        ]  # fmt: skip
        for kind, home in homes:
            if isinstance(item, kind):
                name = item.name  # type: ignore[attr-defined]
                known = home.get(name)
                if known is not None and known is not item and known.version != item.version:  # type: ignore[attr-defined]
                    raise BadDefinition(f"two different definitions are called {name!r}", hint="give each its own name")
                if known is None:
                    home[name] = item
                    for part in _parts(item):
                        self._add(part)


def _parts(item: object) -> Iterable[object]:
    match item:
        case FeatureView():
            return [item.source, *item.entities]
        case FeatureService():
            return list(item.features)
        case Model():
            return [p for p in (item.features, item.spine, item.label.source if item.label else None) if p is not None]
        case Service():
            return [item.model]
        case _:
            return []
