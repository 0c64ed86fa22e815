"""What people declare about a model: its label, its split, its threshold, the function that fits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from holdfast.core.definition import Definition
from holdfast.core.errors import BadDefinition
from holdfast.core.feature_definitions import FeatureService, Source
from holdfast.core.gates import Duration
from holdfast.core.identity import check_name, duration_us, function_digest


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


MEASURED = {
    "binary": ("roc_auc", "average_precision", "log_loss", "brier"),
    "multiclass": ("accuracy", "log_loss"),
    "regression": ("rmse", "mae", "r2"),
}
"""What each candidate is measured by on the tune stretch, by task; the first is what is chosen by where nothing is said."""


@dataclass(frozen=True, eq=False)
class Model(Definition):
    """A training function and what it is fed. Called as ``function(data, params)`` with ``data.X`` (DataFrame or
    array), ``data.y``; returns a fitted estimator. None where the model is made elsewhere. ``candidates`` is a list of
    overrides of ``params``: each is trained, the best by ``select`` on the tune stretch is registered (by default roc_auc,
    accuracy or rmse, as the task asks). ``pickled``: where no
    safe format holds the estimator, keep a pickle, signed with the store's key; other stores will not load it."""

    name: str
    function: Callable[..., Any] | None = None
    features: FeatureService | None = None
    spine: Source | None = None
    label: Label | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    candidates: Sequence[Mapping[str, Any]] = ({},)
    split: TimeSplit = field(default_factory=TimeSplit)
    threshold: Threshold = field(default_factory=lambda: Threshold(at=0.5))
    select: str = ""
    task: Literal["binary", "multiclass", "regression"] = "binary"
    seed: int = 42
    group: str | None = None
    pickled: bool = False

    def __post_init__(self) -> None:
        check_name(self.name, "model")
        if self.spine is not None and self.spine.timestamp is None:
            raise BadDefinition(f"the spine of model {self.name!r} has no timestamp column")
        if self.task not in MEASURED:
            raise BadDefinition(
                f"model {self.name!r} has task {self.task!r}", hint=f"use one of: {', '.join(MEASURED)}"
            )
        if not self.select:
            object.__setattr__(self, "select", MEASURED[self.task][0])
        elif self.select not in MEASURED[self.task]:
            raise BadDefinition(
                f"a {self.task} model cannot be chosen by {self.select!r}",
                hint=f"use one of: {', '.join(MEASURED[self.task])}",
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.function is None:
            raise BadDefinition(f"model {self.name!r} has no training function", hint="give it one with @hf.model(…)")
        return self.function(*args, **kwargs)

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "model", "name": self.name, "function": function_digest(self.function) if self.function else None,
            "features": self.features.spec() if self.features else None, "spine": self.spine.spec() if self.spine else None,
            "label": self.label.spec() if self.label else None, "params": dict(self.params),
            "candidates": [dict(c) for c in self.candidates], "split": self.split.spec(), "threshold": self.threshold.spec(),
            "select": self.select, "task": self.task, "seed": self.seed, "group": self.group,
            **({"pickled": True} if self.pickled else {}),
        }  # fmt: skip


def model(name: str, **kwargs: Any) -> Callable[[Callable[..., Any]], Model]:
    """Decorator: make a training function a model. Keyword arguments as in ``Model``."""

    def wrap(function: Callable[..., Any]) -> Model:
        return Model(name, function, **kwargs)

    return wrap
