"""What a version is measured on, and the measuring: rules in, evidence out. No verdict is made here.

Each check is a plain function ``(context, rule) -> list[Evidence]``. Built-in ones are in the table below; others
come as functions of the project (``hf.check``) or by entry point (group ``holdfast.checks``). A check that raises
yields evidence of its own breaking, which fails the rule by name; it never takes the others down.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from holdfast.core.definitions import Rule
from holdfast.core.errors import BadInput, HoldfastError, did_you_mean
from holdfast.core.ports import Predictor
from holdfast.core.records import Evidence, Package
from holdfast.validation import rules as naming
from holdfast.validation.served import Served

MISSING = "(missing)"
Check = Callable[["Context", Rule], list[Evidence]]
Layer = Callable[[Rule], list[Evidence]]


@dataclass(frozen=True)
class Context:
    """A version and the rows it is measured on.

    Args:
        X: (n, d) float64, the package's inputs in order, NaN for null; rows the model was not fitted on.
        y: (n,) the truth: 0/1 for binary (or the package's own two classes), class indices or classes for multiclass,
            values for regression.
        groups: (n,) per name, for fairness; never fed to the model. None and "" are the group "(missing)".
        champion_scores: (n,) scores of the live champion on the same rows; None where there is no champion.
        champion: who that is (``name@version``). Named without scores, the comparison cannot be made, which holds.
        X_train, y_train: what the model was fitted on; the linear baseline is fitted on it too.
        times: (n,) µs UTC. folder: the unpacked package. original: the model as fitted, where a compiled one serves.
        served: what a real server of this version answered; None where none was asked.
        threshold: the served one; the package's where None.
        trusted: whether bytes of a hash may run code when the package is loaded again; None vouches for none.
        layers: how what needs a project is run, by check: its tests, its pipeline, fits without a feature.
    """

    predictor: Predictor
    package: Package
    X: Any
    y: Any
    groups: Mapping[str, Any] = field(default_factory=dict)
    champion_scores: Any = None
    champion_threshold: float | None = None
    X_train: Any = None
    y_train: Any = None
    times: Any = None
    folder: Path | None = None
    original: Predictor | None = None
    champion: str = ""
    threshold: float | None = None
    served: Served | None = None
    layers: Mapping[str, Layer] = field(default_factory=dict)
    trusted: Callable[[str], bool] | None = None

    def __post_init__(self) -> None:
        x = np.asarray(self.X, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != len(self.package.inputs):
            raise BadInput(
                f"the rows have shape {x.shape}, package {self.package.name} has {len(self.package.inputs)} inputs"
            )
        object.__setattr__(self, "X", x)
        object.__setattr__(self, "y", _truth(self.y, self.package))
        if self.X_train is not None:
            object.__setattr__(self, "X_train", np.asarray(self.X_train, dtype=np.float64))
            object.__setattr__(self, "y_train", _truth(self.y_train, self.package))
        sizes = {"y": self.y, "times": self.times, "champion_scores": self.champion_scores, **self.groups}
        for name, values in sizes.items():
            if values is not None and len(values) != len(x):
                raise BadInput(f"{name} has {len(values)} values for {len(x)} rows")

    @property
    def task(self) -> str:
        return self.package.task

    @property
    def served_threshold(self) -> float:
        """The threshold that will be served; 0.5 where the package states none."""
        if self.threshold is not None:
            return self.threshold
        return 0.5 if self.package.threshold is None else self.package.threshold

    @cached_property
    def scores(self) -> Any:
        """The model's scores on X, computed once."""
        return np.asarray(self.predictor.scores(self.X), dtype=np.float64)

    def encoded(self, name: str) -> tuple[Any, list[str]]:
        """(codes (n,), names) of a group column, computed once."""
        if name not in self._encoded:
            self._encoded[name] = encode(self.groups[name])
        return self._encoded[name]

    @cached_property
    def _encoded(self) -> dict[str, tuple[Any, list[str]]]:
        return {}

    @property
    def columns(self) -> list[str]:
        return [f.name for f in self.package.inputs]


def encode(values: Any) -> tuple[Any, list[str]]:
    """(codes (n,), names): groups in order of their names; null, NaN and "" are ``(missing)``."""
    array = np.asarray(values)
    if array.dtype.kind in "iub":
        unique, codes = np.unique(array, return_inverse=True)
        return codes, [str(u) for u in unique]
    if array.dtype.kind == "f":
        text = np.where(np.isnan(array), MISSING, array.astype(str))
    else:
        text = np.array(
            [MISSING if v is None or v != v or v == "" else str(v) for v in array.tolist()], dtype=object
        ).astype(str)
    unique, codes = np.unique(text, return_inverse=True)
    return codes, [str(u) for u in unique]


def _truth(y: Any, package: Package) -> Any:
    """Labels as numbers: classes become their index.

    Raises:
        BadInput: a label is missing or of no known class.
    """
    values = np.asarray(y)
    if package.task == "regression":
        numbers = values.astype(np.float64)
        if np.isnan(numbers).any():
            raise BadInput("a label is missing", hint="leave unlabelled rows out")
        return numbers
    classes = package.classes or sorted({v.item() if hasattr(v, "item") else v for v in values})
    out = np.full(len(values), -1, dtype=np.int64)
    for index, label in enumerate(classes):
        out[values == label] = index
    if not package.classes and package.task == "binary" and set(classes) <= {0, 1}:
        out = values.astype(np.int64)
    if (out < 0).any():
        raise BadInput(
            f"label {values[out < 0][0]!r} is none of the model's classes {classes}", hint="leave unlabelled rows out"
        )
    return out


# check: (module in holdfast.validation, function)
CHECKS: dict[str, tuple[str, str]] = {
    "performance": ("performance", "performance"),
    "champion": ("performance", "champion"),
    "ranking": ("ranking", "ranking"),
    "calibration": ("calibration", "calibration"),
    "slices": ("slices", "slices"),
    "fairness": ("fairness", "fairness"),
    "four_fifths": ("parity", "four_fifths"),
    "equalised_odds": ("parity", "equalised_odds"),
    "determinism": ("determinism", "determinism"),
    "latency": ("latency", "latency"),
    "baseline": ("baselines", "baseline"),
    "leakage": ("leakage", "leakage"),
    "robustness": ("robustness", "robustness"),
    "resources": ("resources", "resources"),
    "signature": ("signature", "signature"),
    "custom": ("custom", "custom"),
    "unit": ("evidence", "layer"),
    "integration": ("evidence", "layer"),
    "ablation": ("evidence", "layer"),
}


def measure(context: Context, rules: Sequence[Rule]) -> list[Evidence]:
    """Evidence for every rule, in their order. Rules that ask for the same thing are measured once."""
    out: list[Evidence] = []
    seen: set[tuple[str, str]] = set()
    broken = _broken_scores(context)
    for rule in rules:
        mark = (naming.key(rule), repr(sorted(rule.options.items(), key=str)))
        if mark in seen:
            continue
        seen.add(mark)
        if isinstance(broken, Evidence):
            out.append(msgspec.structs.replace(broken, check=naming.key(rule)))
            continue
        out += _measure_one(context, rule)
    return out


def always(context: Context, rules: Sequence[Rule]) -> list[Evidence]:
    """What every version is looked at for, asked or not: its signature, slices, groups, and the curves of the card.
    Kept with the evidence, judged by nobody unless a rule asks."""
    from holdfast.validation import curves

    asked = {(rule.check, rule.options.get("group")) for rule in rules}
    metric = "mae" if context.task == "regression" else "accuracy"
    plain = [Rule("signature"), Rule("slices", metric=metric, sample=200)]
    plain += [Rule("fairness", metric=metric, sample=100, options={"group": name}) for name in context.groups]
    found: list[Evidence] = []
    if _broken_scores(context) is None:
        for rule in plain:
            if (rule.check, rule.options.get("group")) not in asked:
                found += _measure_one(context, rule)
        found.append(curves.describe(context))
    return found


def _measure_one(context: Context, rule: Rule) -> list[Evidence]:
    try:
        found = find(rule)(context, rule)
    except HoldfastError as error:
        return [
            Evidence(
                check=naming.key(rule), figure=None, details={"fault": f"the check could not run: {error.message}"}
            )
        ]
    except Exception as error:  # noqa: BLE001  a broken check must fail its own rule and leave the others alone
        return [
            Evidence(
                check=naming.key(rule),
                figure=None,
                details={"fault": f"the check broke: {type(error).__name__}: {error}"},
            )
        ]
    return [msgspec.structs.replace(e, check=naming.key(rule)) if e.check != naming.key(rule) else e for e in found]


def find(rule: Rule) -> Check:
    """The function that measures a rule.

    Raises:
        BadInput: no check of that name is built in or installed.
    """
    if rule.check in CHECKS:
        module, name = CHECKS[rule.check]
        check: Check = getattr(importlib.import_module(f"holdfast.validation.{module}"), name)
        return check
    from importlib.metadata import entry_points

    for point in entry_points(group="holdfast.checks", name=rule.check):
        plugged: Check = point.load()
        return plugged
    raise BadInput(f"unknown check {rule.check!r}", hint=did_you_mean(rule.check, CHECKS, kind="check"))


def layer(context: Context, rule: Rule) -> list[Evidence]:
    """What only a project can run (its tests, its pipeline, another fit), run by whoever handed the context in."""
    run = context.layers.get(rule.check)
    if run is None:
        missing = f"{rule.check} runs in the project that defines the model, on a version trained there"
        return [Evidence(check=naming.key(rule), figure=None, details={"missing": missing})]
    return run(rule)


def _broken_scores(context: Context) -> Evidence | None:
    """Scores that are no numbers make every figure meaningless: said once, for every rule."""
    try:
        scores = context.scores
    except HoldfastError as error:
        return Evidence(
            check="health", figure=None, details={"fault": f"the model does not score these rows: {error.message}"}
        )
    except Exception as error:  # noqa: BLE001  any failure of the model is a finding, not our crash
        return Evidence(
            check="health",
            figure=None,
            details={"fault": f"the model does not score these rows: {type(error).__name__}: {error}"},
        )
    wanted = (len(context.X), len(context.package.classes)) if context.task == "multiclass" else (len(context.X),)
    if scores.shape != wanted and not (
        context.task == "multiclass" and scores.shape[:1] == wanted[:1] and not context.package.classes
    ):
        return Evidence(
            check="health", figure=None, details={"fault": f"scores have shape {scores.shape}, not {wanted}"}
        )
    bad = int(np.count_nonzero(~np.isfinite(scores).reshape(len(scores), -1).all(axis=1)))
    if bad:
        return Evidence(
            check="health",
            figure=None,
            n=len(scores),
            details={"fault": f"the model gave NaN or infinity for {bad} of {len(scores)} rows"},
        )
    return None
