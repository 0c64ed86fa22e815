"""An A/B test of a challenger: what each arm showed, key by key, and what the stop rule says. Nothing is moved here.

A key belongs to the arm that ``route.point`` gives it, whatever answered: a request the challenger failed and the champion
answered counts for the challenger (as assigned, not as treated), and a row whose arm was forced counts for nobody.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.identity import duration_text
from holdfast.core.records import ABTest, ABTestStatus, Json
from holdfast.serving import route
from holdfast.stats import sequential
from holdfast.stats.sequential import Arm, Look

INVALID = 1e-3
"""A p-value of the assignment below this ends the test: its arms are not what was assigned."""


class Counted(NamedTuple):
    """The rows of a test: (control, treatment) keys and rows seen, rows left out because their arm was forced, and for
    each metric asked for the two arms (of keys with a truth) and the rows with a truth."""

    keys: tuple[int, int]
    rows: tuple[int, int]
    forced: int
    arms: dict[str, tuple[Arm, Arm]]
    known: tuple[int, int]


class Move(NamedTuple):
    """What the stop rule says. ``status`` is the test's after the move."""

    action: Literal["hold", "promote", "stop"]
    status: ABTestStatus
    reason: str


def count(test: ABTest, predictions: pa.Table, labels: pa.Table) -> Counted:
    """The test's arms out of the prediction log and the truth known so far.

    Args:
        predictions: id, arm, version, key, score, output since the test began, as ``journal.read`` gives them.
        labels: prediction_id, value.
    """
    mine = pc.or_(
        pc.and_(pc.equal(predictions["arm"], "champion"), pc.equal(predictions["version"], test.control)),
        pc.and_(pc.equal(predictions["arm"], "challenger"), pc.equal(predictions["version"], test.version)),
    )
    table = predictions.filter(mine)
    if not table.num_rows:
        empty = np.empty(0)
        none = {m: (Arm.grouped(empty, empty), Arm.grouped(empty, empty)) for m in metrics(test)}
        return Counted((0, 0), (0, 0), 0, none, (0, 0))
    by_challenger = pc.equal(table["arm"], "challenger").to_numpy(zero_copy_only=False)
    ids = table["id"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    asked = np.zeros(ids.max() + 1, dtype=bool)
    asked[ids[by_challenger]] = True
    treated = asked[ids]
    # Where the challenger failed there are two rows of one id: the one with an answer is what the caller got.
    answered = table["output"].is_valid().to_numpy(zero_copy_only=False)
    keep = answered | ~_again(ids, answered)
    codes = table["key"].combine_chunks().dictionary_encode()
    keys = codes.indices.to_numpy(zero_copy_only=False)
    if test.plan.get("hashed"):
        assigned = treated  # the log has no routing keys to recompute the assignment from
    else:
        share = [route.point(test.service, test.id, k.as_py()) < test.weight for k in codes.dictionary]
        assigned = np.array(share, dtype=bool)[keys]
    honest = assigned == treated
    forced = int((keep & ~honest).sum())
    keep &= honest
    table, keys, treated = table.filter(pa.array(keep)), keys[keep], treated[keep]
    where = pc.index_in(table["id"], value_set=labels["prediction_id"].combine_chunks())
    truth = labels["value"].take(where) if labels.num_rows else pa.nulls(table.num_rows)
    arms, known = {}, (0, 0)
    for metric in metrics(test):
        values = _values(metric, table, truth)
        usable = np.isfinite(values)
        sides = []
        for side in (~treated, treated):
            rows = side & usable
            sides.append(_arm(keys[rows], values[rows]))
        arms[metric] = (sides[0], sides[1])
        if metric == test.plan["metric"]:
            known = (int((usable & ~treated).sum()), int((usable & treated).sum()))
    return Counted(
        (len(np.unique(keys[~treated])), len(np.unique(keys[treated]))),
        (int((~treated).sum()), int(treated.sum())), forced, arms, known,
    )  # fmt: skip


def metrics(test: ABTest) -> list[str]:
    """The metric that decides, then the guardrails."""
    return list(dict.fromkeys([str(test.plan["metric"]), *test.plan.get("guardrails", {})]))


def better_when_greater(metric: str) -> bool:
    """Whether more of a metric is better, where nothing else is declared."""
    return metric in ("label", "accuracy")


def look(test: ABTest, counted: Counted) -> Look:
    """The state of the deciding metric; may be taken after every row."""
    control, treatment = counted.arms[str(test.plan["metric"])]
    return sequential.look(
        control, treatment, effect=float(test.plan["effect"]), alpha=float(test.plan["alpha"]),
        greater_is_better=bool(test.plan["greater_is_better"]),
    )  # fmt: skip


def guardrails(test: ABTest, counted: Counted) -> list[str]:
    """The guardrail metrics that have got worse by more than allowed: their whole always-valid interval says so."""
    broken = []
    for metric, allowed in test.plan.get("guardrails", {}).items():
        control, treatment = counted.arms[metric]
        found = sequential.look(control, treatment, effect=float(allowed), alpha=float(test.plan["alpha"]))
        worst = -found.high if better_when_greater(metric) else found.low
        if worst > allowed:
            broken.append(
                f"{metric} is {abs(found.difference):.4g} worse, [{found.low:.4g}, {found.high:.4g}]; {allowed:g} is allowed"
            )
    return broken


def next(test: ABTest, found: Look, broken: list[str], p_assignment: float, now: int) -> Move:  # noqa: A001
    """The stop rule. Pure. Bad news ends a test at once; good news, and "no difference", not before ``at_least``."""
    waited = now - test.started
    if test.status != "running":
        return Move("hold", test.status, f"the test has ended: {test.status}")
    if broken:
        return Move("stop", "guardrail", f"a guardrail broke: {broken[0]}")
    if p_assignment < INVALID:
        return Move(
            "stop", "invalid",
            f"keys did not come in as assigned ({found.n_control} against {found.n_treatment} at {test.weight:g} %)",
        )  # fmt: skip
    told = f"{test.plan['metric']} {found.difference:+.4g} [{found.low:.4g}, {found.high:.4g}], p = {found.p:.2g}"
    if found.decision == "worse":
        return Move("stop", "worse", f"the challenger is worse: {told}")
    early = waited < int(test.plan["at_least"])
    if found.decision in ("better", "no relevant difference") and not early:
        if found.decision == "better":
            action: Literal["promote", "stop"] = "promote" if test.plan["on_better"] == "promote" else "stop"
            return Move(action, "better", f"the challenger is better: {told}")
        return Move("stop", "no relevant difference", f"no difference that matters: {told}")
    if waited >= int(test.plan["at_most"]):
        return Move("stop", "undecided", f"undecided after {duration_text(int(test.plan['at_most']))}: {told}")
    if early and found.decision in ("better", "no relevant difference"):
        return Move("hold", "running", f"{found.decision}, but not before {duration_text(int(test.plan['at_least']))}")
    return Move("hold", "running", str(found.decision))


def told(test: ABTest, counted: Counted, found: Look, broken: list[str], p_assignment: float) -> Json:
    """A look as it is shown and kept with the decision."""
    planned = test.plan.get("planned") or {}
    control, treatment = counted.arms[str(test.plan["metric"])]
    finite = {k: (v if np.isfinite(v) else None) for k, v in found.__dict__.items() if isinstance(v, float)}
    return {
        "decision": found.decision, **finite, "n_control": found.n_control, "n_treatment": found.n_treatment,
        "mean_control": None if np.isnan(control.mean) else control.mean,
        "mean_treatment": None if np.isnan(treatment.mean) else treatment.mean,
        "keys": list(counted.keys), "rows": list(counted.rows), "labelled": list(counted.known), "forced": counted.forced,
        "p_assignment": p_assignment, "guardrails": broken,
        "done": min(1.0, found.n_treatment / planned["treatment"]) if planned.get("treatment") else None,
    }  # fmt: skip


def _again(ids: Any, answered: Any) -> Any:
    """Which rows have no answer while another row of their id has one."""
    has = np.zeros(ids.max() + 1, dtype=bool)
    has[ids[answered]] = True
    return has[ids] & ~answered


def _arm(keys: Any, values: Any) -> Arm:
    if not len(keys):
        return Arm.grouped(np.empty(0), np.empty(0))
    _, group = np.unique(keys, return_inverse=True)
    return Arm.grouped(np.bincount(group, weights=values), np.bincount(group).astype(np.float64))


def _values(metric: str, table: pa.Table, truth: Any) -> Any:
    """(n,) float64 of one metric per row, NaN where it cannot be told."""
    if metric == "accuracy":
        both = pc.equal(_text(table["output"]), _text(truth))
        return pc.cast(both, pa.float64()).to_numpy(zero_copy_only=False)
    known = _numbers(truth)
    if metric == "label":
        return known
    score = table["score"]
    if not pa.types.is_floating(score.type):
        return np.full(table.num_rows, np.nan)
    error = score.to_numpy(zero_copy_only=False) - known
    return error * error if metric == "squared_error" else np.abs(error)


def _text(values: Any) -> Any:
    """Values as text, whole numbers alike however they were written."""
    if pa.types.is_boolean(values.type):
        values = pc.cast(values, pa.int64())
    if pa.types.is_integer(values.type):
        values = pc.cast(values, pa.float64())
    return pc.cast(values, pa.string())


def _numbers(values: Any) -> Any:
    if pa.types.is_boolean(values.type):
        values = pc.cast(values, pa.int64())
    if pa.types.is_null(values.type) or not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        try:
            values = pc.cast(values, pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return np.full(len(values), np.nan)
    return pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False)
