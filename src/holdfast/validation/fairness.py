"""Fairness: how far each group's metric lies from the whole, with an interval on the gap.

The intervals of all groups hold together (Šidák): looking at more groups does not raise more alarms. Groups under the
rule's sample are pooled; the pool is judged if it reaches the sample, and otherwise noted, or, when it is more than
``ignore_share`` (5 %) of all rows, holds the rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from holdfast.core.definitions import Rule
from holdfast.core.errors import did_you_mean
from holdfast.core.records import Evidence
from holdfast.stats import intervals, metrics, multiplicity
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context
from holdfast.validation.performance import clean

SMALL = "(small groups together)"
CONFIDENCE = 0.95
IGNORE_SHARE = 0.05


def fairness(context: Context, rule: Rule) -> list[Evidence]:
    """|metric(group) − metric(whole)| for each group."""
    check = naming.key(rule)
    found = encoded(context, rule)
    if isinstance(found, Evidence):
        return [found]
    codes, names = found
    metric = str(rule.metric or "accuracy")
    judged, notes = large_enough(rule, codes, names, group_base(context, metric, codes, len(names)))
    confidence = multiplicity.sidak(CONFIDENCE, len(judged))
    whole = _Whole(context, metric)
    out = [_gap(whole, check, metric, label, member, confidence) for label, member in judged]
    return out + notes


def encoded(context: Context, rule: Rule) -> tuple[Any, list[str]] | Evidence:
    """(codes (n,), names) of the rule's group column, or evidence that there is nothing to compare."""
    name = str(rule.options.get("group"))
    values = context.groups.get(name)
    if values is None:
        hint = did_you_mean(name, context.groups, kind="group column")
        missing = f"no group column {name!r} came with the rows ({hint})"
        return Evidence(check=naming.key(rule), figure=None, details={"missing": missing})
    codes, names = context.encoded(name)
    if len(names) < 2:
        missing = f"{name!r} has one value only: nothing to compare"
        return Evidence(check=naming.key(rule), figure=None, n=len(codes), details={"missing": missing})
    return codes, names


def large_enough(
    rule: Rule, codes: Any, names: Sequence[str], base: Any, *, what: str = "rows"
) -> tuple[list[tuple[str, Any]], list[Evidence]]:
    """The groups to judge as (name, member (n,) bool), and evidence about those too small to be judged.

    Args:
        base: (k,) how much each group's figure rests on, counted in ``what``.
    """
    small = [g for g in range(len(names)) if base[g] < rule.sample]
    judged = [(names[g], codes == g) for g in range(len(names)) if g not in small]
    if not small:
        return judged, []
    member = np.isin(codes, small)
    pooled = int(sum(base[g] for g in small))
    who = ", ".join(names[g] for g in small[:10]) + (", …" if len(small) > 10 else "")
    if pooled >= rule.sample and len(small) > 1:
        return [*judged, (SMALL, member)], []
    share = float(member.mean())
    holds = share > float(rule.options.get("ignore_share", IGNORE_SHARE))
    text = f"{who}: {pooled} {what}, under the {rule.sample} this rule asks for"
    note = Evidence(
        check=naming.key(rule), figure=None, n=pooled, group=SMALL if len(small) > 1 else names[small[0]],
        details={"missing" if holds else "note": text, "share": share},
    )  # fmt: skip
    return judged, [note]


class _Whole:
    """What every group is compared with, computed once."""

    def __init__(self, context: Context, metric: str) -> None:
        self.y, self.score, self.metric = context.y, context.scores, metric
        self.threshold = context.served_threshold
        cells = metrics.get(metric).cells
        self.hit: Any = None
        if cells is not None:
            hit, self.base = cells(self.y, self.score, self.threshold)
            self.hit = hit & self.base
            self.counts = int(np.count_nonzero(self.hit)), int(np.count_nonzero(self.base))
            self.figure = self.counts[0] / self.counts[1] if self.counts[1] else float("nan")
        else:
            self.effect = metrics.influence(metric, self.y, self.score, threshold=self.threshold)
            self.figure = self.effect[0]

    def gap(self, member: Any, confidence: float) -> intervals.Estimate:
        if self.hit is None:
            return intervals.gap_from_influence(
                self.metric, self.y, self.score, member, self.effect, threshold=self.threshold, confidence=confidence
            )
        mine = int(np.count_nonzero(self.hit & member)), int(np.count_nonzero(self.base & member))
        return intervals.gap_from_counts(*mine, *self.counts, confidence=confidence)


def _gap(whole_of: _Whole, check: str, metric: str, label: str, member: Any, confidence: float) -> Evidence:
    found, whole = whole_of.gap(member, confidence), whole_of.figure
    low, high = fold(found.low, found.high)
    return Evidence(
        check=check, figure=clean(abs(found.figure)), low=clean(low), high=clean(high), n=found.n,
        confidence=confidence, group=label, how=f"{found.how}, all intervals hold together",
        compared=f"{metric} of everyone",
        details={"value": clean(whole + found.figure), "whole": clean(whole), "gap": clean(found.figure),
                 "gap_low": clean(found.low), "gap_high": clean(found.high)},
    )  # fmt: skip


def fold(low: float, high: float) -> tuple[float, float]:
    """The interval of |x| from an interval of x."""
    if low <= 0 <= high:
        return 0.0, max(-low, high)
    return min(abs(low), abs(high)), max(abs(low), abs(high))


def group_base(context: Context, metric: str, codes: Any, k: int) -> Any:
    """Rows each group's figure rests on: all its rows, or those a proportion counts among."""
    cells = metrics.get(metric).cells
    if cells is None:
        return np.bincount(codes, minlength=k)
    _, base = cells(context.y, context.scores, context.served_threshold)
    return np.bincount(codes, weights=base, minlength=k).astype(np.int64)
