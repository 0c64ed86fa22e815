"""What a version must show: rules, the functions that make them, and the gate that holds them. Declarative and frozen,
like every definition; measuring is ``validation``'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from holdfast.core.errors import BadDefinition
from holdfast.core.identity import digest, duration_us, function_digest
from holdfast.core.traffic import size_bytes

__all__ = [
    "Duration",
    "Gate",
    "Rule",
    "ablation",
    "at_least",
    "at_most",
    "better_than",
    "calibrated",
    "check",
    "deterministic",
    "digest_of",
    "equalised_odds",
    "fairness",
    "four_fifths",
    "latency",
    "no_leakage",
    "not_worse_than_champion",
    "pipeline",
    "ranking",
    "resources",
    "robust",
    "signature",
    "slices",
    "unit_tests",
]

Duration = str | int | timedelta


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
    functions: Mapping[str, Callable[..., Any]] | None = field(default=None, compare=False, repr=False)

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


def four_fifths(group: str, *, minimum: float = 0.8, sample: int = 100) -> Rule:
    """The least selection rate of any group is at least ``minimum`` of the greatest (fairlearn's
    ``demographic_parity_ratio``; the four-fifths rule of 29 CFR 1607.4 D). Groups under ``sample`` rows are pooled."""
    return Rule("four_fifths", metric="selection_rate", minimum=float(minimum), sample=sample, options={"group": group})


def equalised_odds(group: str, *, max_gap: float = 0.1, sample: int = 50) -> Rule:
    """True positive rates of any two groups, and false positive rates, lie within ``max_gap`` of each other (fairlearn's
    ``equalized_odds_difference``; Hardt, Price and Srebro 2016). ``sample`` counts a group's positives and negatives."""
    return Rule("equalised_odds", maximum=float(max_gap), sample=sample, options={"group": group})


def slices(
    metric: str = "accuracy",
    *,
    max_drop: float = 0.1,
    columns: Sequence[str] | None = None,
    declared: Mapping[str, Callable[..., Any]] | None = None,
    sample: int = 200,
) -> Rule:
    """On no slice of the rows is the metric worse than on all of them by more than ``max_drop``.

    Slices are found by themselves: every value of inputs with few values, fifths of the others, missing values, and
    the groups that came with the rows. ``columns`` limits the inputs looked at; ``declared`` adds slices of your own,
    ``name: function(columns) -> bool array``, where ``columns`` maps input names to arrays. The intervals of all
    slices hold together.
    """
    options: dict[str, Any] = {}
    if columns is not None:
        options["columns"] = sorted(columns)
    if declared:
        options["declared"] = {name: function_digest(function) for name, function in sorted(declared.items())}
    functions = None if not declared else dict(declared)
    return Rule("slices", metric=metric, maximum=float(max_drop), sample=sample, options=options, functions=functions)


def calibrated(*, max_error: float = 0.05, bins: int = 10, sample: int = 500) -> Rule:
    """Scores mean what they say: over ``bins`` groups of rows with like scores, the typical distance between the mean
    score and the share that came true (root mean square, freed of its sampling bias) is at most ``max_error``. For
    regression in units of the label: mean prediction against mean truth."""
    if bins < 2:
        raise BadDefinition(f"calibration over {bins} bins says nothing", hint="use at least 2")
    return Rule("calibration", maximum=float(max_error), sample=sample, options={"bins": int(bins)})


def robust(*, max_drop: float = 0.1, metric: str | None = None, share: float = 0.05, sample: int = 100) -> Rule:
    """Rows as the world sends them do not break the model: every input missing in turn, far out of range, a value never
    seen; scores stay finite. With ``share`` of all values missing at random the metric (accuracy, or r2 for regression)
    drops by at most ``max_drop``; where a server runs, the order of a request's fields changes nothing."""
    if not 0 < share < 1:
        raise BadDefinition(f"a share of {share:g} of the values cannot go missing", hint="use a number within (0, 1)")
    options = {"share": float(share)}
    return Rule("robustness", metric=metric, maximum=float(max_drop), sample=sample, options=options)


def resources(*, size: str = "500MB", memory: str = "2GB") -> Rule:
    """The package takes at most ``size`` on disk, and a process that loads it and scores a thousand rows at most
    ``memory`` at its peak, the interpreter included."""
    return Rule("resources", options={"size": size_bytes(size), "memory": size_bytes(memory)})


def signature() -> Rule:
    """The package states its inputs and types, carries example rows it still answers as recorded, answers with scores of
    the right shape, and refuses rows of another width."""
    return Rule("signature", maximum=1e-6)


def unit_tests(path: str = "tests", *, timeout: Duration = "10m") -> Rule:
    """The project's own tests under ``path`` pass, run with pytest in a process of their own: the unit layer. A run that
    collects no test holds the gate."""
    return Rule("unit", options={"path": path, "timeout": duration_us(timeout)})


def pipeline(*, sample: float = 0.01, least: int = 200) -> Rule:
    """The whole pipeline, from the spine to a loaded model that answers, runs on ``sample`` of the rows (at least
    ``least``): the integration layer."""
    if not 0 < sample <= 1:
        raise BadDefinition(f"a sample of {sample:g} of the rows cannot be drawn", hint="use a share within (0, 1]")
    return Rule("integration", options={"share": float(sample), "least": int(least)})


def ablation(metric: str = "roc_auc", *, max_harm: float = 0.0, sample: int = 100) -> Rule:
    """Every feature view, on-demand feature and request value earns its place: fitted again without it, the model is not
    better by more than ``max_harm``. What each is worth is kept in the decision record. Costs one training for each."""
    return Rule("ablation", metric=metric, minimum=-float(max_harm), sample=sample)


def ranking(metric: str, value: float, *, by: str, k: int | None = None, sample: int = 50) -> Rule:
    """A ranking metric (ndcg, mrr, map, precision, recall, hit_rate; at ``k`` where given), averaged over the queries
    named by column ``by``, is at least ``value``; ``sample`` counts queries."""
    if k is not None and k < 1:
        raise BadDefinition(f"the first {k} of a list hold nothing", hint="use k of at least 1")
    return Rule("ranking", metric=metric, minimum=float(value), sample=sample, options={"group": by, "k": k})


def deterministic(*, tolerance: float = 1e-6, served: bool = False) -> Rule:
    """The same rows give the same predictions: twice, shuffled, one against many, saved and loaded, in another process,
    and, with ``served`` (or where a server runs for another rule), over HTTP."""
    return Rule("determinism", maximum=float(tolerance), options={"served": True} if served else {})


def latency(
    *,
    mean: Duration = "100ms",
    p50: Duration | None = None,
    p95: Duration | None = None,
    p99: Duration | None = None,
    served_p50: Duration | None = None,
    served_p95: Duration | None = None,
    served_p99: Duration | None = None,
) -> Rule:
    """The mean of 1000 single-row calls stays at or under this, and the quantiles where given. ``served_…`` bound
    the same calls over HTTP through a real server of this version, features, prediction log and all."""
    given = {"p50": p50, "p95": p95, "p99": p99, "served p50": served_p50, "served p95": served_p95,
             "served p99": served_p99}  # fmt: skip
    options = {name: duration_us(bound) / 1e6 for name, bound in given.items() if bound is not None}
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


def digest_of(rules: Sequence[Rule]) -> str:
    """One hash for a set of rules, in their order."""
    return digest([r.spec() for r in rules])


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
