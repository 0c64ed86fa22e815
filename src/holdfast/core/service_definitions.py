"""What people declare about a model that answers: rollout, monitoring, retraining, the service, services of several steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal

from holdfast.core.definition import Definition
from holdfast.core.errors import BadDefinition
from holdfast.core.gates import Duration, Gate
from holdfast.core.identity import check_name, duration_us, function_digest
from holdfast.core.model_definitions import MEASURED, Model
from holdfast.core.traffic import ABTest, PredictionLog, size_bytes


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
    """What is watched, how often, and who is told. ``window`` is the stretch performance is measured over, by ``metrics``
    (where none is named: roc_auc, accuracy or rmse, as the model's task asks). Every ``parity`` the features that were
    served since are recomputed (a sample of them) and compared; None leaves that out."""

    every: Duration = "1h"
    drift: Drift | None = field(default_factory=Drift)
    window: Duration = "7d"
    metrics: Sequence[str] = ()
    alerts: Sequence[str] = ()
    parity: Duration | None = "1d"

    def __post_init__(self) -> None:
        object.__setattr__(self, "parity", None if self.parity is None else duration_us(self.parity))
        object.__setattr__(self, "every", duration_us(self.every))
        object.__setattr__(self, "window", duration_us(self.window))

    def spec(self) -> dict[str, Any]:
        return {
            "every": self.every, "window": self.window, "metrics": list(self.metrics), "alerts": list(self.alerts),
            "drift": self.drift.spec() if self.drift else None, "parity": self.parity,
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
    """A model that answers traffic: its gate, rollout, monitor and retraining. ``log`` is durable, buffered, or a
    ``PredictionLog``. ``replicas`` and ``log`` left away are what ``[serve]`` sets, else one replica, buffered. ``memory``
    bounds what the model may take of each replica's memory, ``deadline`` its time."""

    name: str
    model: Model
    gate: Gate = field(default_factory=lambda: Gate(policy="off"))
    rollout: Rollout = field(default_factory=Rollout)
    monitor: Monitor = field(default_factory=Monitor)
    retrain: Retrain = field(default_factory=Retrain)
    replicas: int | None = None
    log: PredictionLog | Literal["durable", "buffered"] | None = None
    abtest: ABTest | None = None
    memory: str | None = None
    deadline: Duration = "30s"

    def __post_init__(self) -> None:
        check_name(self.name, "service")
        if self.replicas is not None and not 1 <= self.replicas <= 64:
            raise BadDefinition(f"service {self.name!r} asks for {self.replicas} replicas", hint="use 1 to 64")
        if not isinstance(self.log, PredictionLog) and self.log not in ("durable", "buffered", None):
            raise BadDefinition(f"service {self.name!r}: log is {self.log!r}", hint="use durable or buffered")
        if self.memory is not None:
            size_bytes(self.memory)
        object.__setattr__(self, "deadline", duration_us(self.deadline))
        if not self.deadline:
            raise BadDefinition(f"service {self.name!r} has no time to answer", hint="use a deadline such as 30s")
        if not self.monitor.metrics:
            monitor = copy(self.monitor)
            object.__setattr__(monitor, "metrics", MEASURED[self.model.task][:1])
            object.__setattr__(self, "monitor", monitor)

    @property
    def prediction_log(self) -> PredictionLog:
        """``log``, whichever way it was declared."""
        return self.log if isinstance(self.log, PredictionLog) else PredictionLog(self.log or "buffered")

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "service", "name": self.name, "model": self.model.spec(), "gate": self.gate.spec(),
            "rollout": self.rollout.spec(), "monitor": self.monitor.spec(), "retrain": self.retrain.spec(),
            "replicas": self.replicas or 1, "log": self.log.spec() if isinstance(self.log, PredictionLog) else self.log or "buffered",
            **({"abtest": self.abtest.spec()} if self.abtest is not None else {}),
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
