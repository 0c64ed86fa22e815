"""Slices found by themselves, and how much worse the metric is there than on all rows.

Every input gives its slices: each value where it has few, fifths where it has many, and its missing values; so does every
group column that came with the rows; declared slices come from functions of the project. The intervals of all slices hold
together (Šidák), so that looking at more of them raises no more alarms. Slices under the rule's sample are counted, and
judged by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from holdfast.core.definitions import Rule
from holdfast.core.errors import BadInput, NotFound
from holdfast.core.records import Evidence, Json
from holdfast.stats import intervals, metrics, multiplicity
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context
from holdfast.validation.performance import clean

CONFIDENCE = 0.95
FEW = 12
"""Up to so many values a column is taken by value, beyond that by fifths."""
FIFTHS = 5
LOOK = 50_000
"""Rows a column's values and cuts are found on, evenly spaced: a cut that is off by half a percent of the rows slices
as well."""
RANKED = 100_000
"""Rows on which metrics that must sort (ROC AUC) are computed per slice, evenly spaced: at that many the interval of a
fifth is already narrower than a hundredth."""
TOLD = 20


class Cut(NamedTuple):
    """Slices that do not overlap: ``codes`` (n,) index ``names``; −1 is in none of them."""

    codes: Any
    names: list[str]


def slices(context: Context, rule: Rule) -> list[Evidence]:
    """metric(everyone) − metric(slice), turned so that positive is worse: the worst slice, and all that surely break the
    rule. Every slice looked at is in ``details`` of the first."""
    check, metric = naming.key(rule), metrics.get(str(rule.metric or "accuracy"))
    rows = _rows(context, metric)
    found, small = [], 0
    whole = _Whole(context, metric, rows)
    for cut in cuts(context, rule, rows):
        for name, estimate in whole.gaps(cut, rule.sample):
            if estimate is None:
                small += 1
            else:
                found.append((name, *estimate))
    if not found:
        missing = f"none of the {small} slices has the {rule.sample} rows this rule asks for"
        return [Evidence(check=check, figure=None, n=len(context.y), details={"missing": missing})]
    confidence = multiplicity.sidak(CONFIDENCE, len(found))
    sign = 1.0 if metric.greater_is_better else -1.0
    table = []
    for name, n, measured in found:
        gap = measured(confidence)
        low, high = sorted((-sign * gap.low, -sign * gap.high))
        table.append((name, -sign * gap.figure, low, high, n, gap.how))
    table.sort(key=lambda t: -np.nan_to_num(t[1], nan=-np.inf))
    bar = rule.maximum if rule.maximum is not None else np.inf
    told = [t for i, t in enumerate(table) if i == 0 or t[2] > bar][:TOLD]
    details: Json = {
        "looked_at": len(found), "too_small": small, "whole": clean(whole.figure),
        "slices": [{"slice": t[0], "drop": clean(t[1]), "low": clean(t[2]), "high": clean(t[3]), "n": t[4]} for t in table[:TOLD]],
    }  # fmt: skip
    among = f"{metric.name} of everyone ({whole.figure:.4g}), {len(found)} slices looked at"
    return [
        Evidence(
            check=check, figure=clean(drop), low=clean(low), high=clean(high), n=n, confidence=confidence, group=name,
            how=f"{how}, all slices hold together", compared=among, details=details if i == 0 else {},
        )
        for i, (name, drop, low, high, n, how) in enumerate(told)
    ]  # fmt: skip


def _rows(context: Context, metric: metrics.Metric) -> Any:
    """The rows looked at: all, or, for a metric that must sort, at most ``RANKED``, in the order of their scores: what
    is sorted once is sorted in every slice."""
    if metric.cells is not None:
        return slice(None)
    rows = np.linspace(0, len(context.y) - 1, min(RANKED, len(context.y))).astype(np.int64)
    return rows if context.scores.ndim > 1 else rows[np.argsort(context.scores[rows], kind="stable")]


class _Whole:
    """Everyone's figure, and each slice's gap to it."""

    def __init__(self, context: Context, metric: metrics.Metric, rows: Any) -> None:
        self.y, self.score = context.y[rows], context.scores[rows]
        self.metric, self.threshold = metric, context.served_threshold
        self.hit: Any = None
        if metric.cells is not None:
            hit, base = metric.cells(self.y, self.score, self.threshold)
            self.hit, self.base = (hit & base).astype(np.float64), base.astype(np.float64)
            self.counts = int(self.hit.sum()), int(self.base.sum())
            self.figure = self.counts[0] / self.counts[1] if self.counts[1] else float("nan")
        else:
            self.effect = metrics.influence(metric.name, self.y, self.score, threshold=self.threshold)
            self.figure = self.effect[0]

    def gaps(self, cut: Cut, least: int) -> Iterator[tuple[str, Any]]:
        """(name, (rows it rests on, confidence → Estimate)) of each slice; None in place of those under ``least``."""
        k = len(cut.names)
        if self.hit is not None:
            # One pass for all slices of a column; −1 goes to a last bin of its own.
            codes = np.where(cut.codes < 0, k, cut.codes)
            hits = np.bincount(codes, weights=self.hit, minlength=k + 1).astype(np.int64)
            base = np.bincount(codes, weights=self.base, minlength=k + 1).astype(np.int64)
            for i, name in enumerate(cut.names):
                enough = least <= base[i] < self.counts[1]
                yield name, (int(base[i]), self._from_counts(int(hits[i]), int(base[i]))) if enough else None
            return
        for i, name in enumerate(cut.names):
            member = cut.codes == i
            n = int(np.count_nonzero(member))
            yield name, (n, self._from_rows(member)) if least <= n < len(self.y) else None

    def _from_counts(self, hits: int, base: int) -> Any:
        return lambda confidence: intervals.gap_from_counts(hits, base, *self.counts, confidence=confidence)

    def _from_rows(self, member: Any) -> Any:
        return lambda confidence: intervals.gap_from_influence(
            self.metric.name, self.y, self.score, member, self.effect, threshold=self.threshold, confidence=confidence
        )


def cuts(context: Context, rule: Rule, rows: Any = slice(None)) -> Iterator[Cut]:
    """Every way the rows are cut: inputs, group columns, declared slices.

    Raises:
        NotFound: the rule names an input the model does not have.
        BadInput: a declared slice is no boolean per row.
    """
    wanted = rule.options.get("columns")
    for name in wanted or ():
        if name not in context.columns:
            raise NotFound.among("input to slice by", name, context.columns)
    for j, name in enumerate(context.columns):
        if wanted is None or name in wanted:
            yield of_numbers(name, context.X[rows, j])
    for name in context.groups:
        codes, names = context.encoded(name)
        yield Cut(codes[rows], [f"{name} = {value}" for value in names])
    columns = {name: context.X[rows, j] for j, name in enumerate(context.columns)}
    columns |= {name: np.asarray(values)[rows] for name, values in context.groups.items()}
    for name, function in (rule.functions or {}).items():
        member = np.asarray(function(columns))
        if member.dtype != np.bool_ or member.shape != context.y[rows].shape:
            raise BadInput(
                f"slice {name!r} gave {member.dtype} of shape {member.shape}", hint="return one bool for each row"
            )
        yield Cut(np.where(member, 0, -1), [name])


def of_numbers(name: str, values: Any) -> Cut:
    """A column by value where it has few, by fifths where it has many; missing values (NaN) are a slice of their own."""
    missing = np.isnan(values)
    known = values[~missing] if missing.any() else values
    look = known if len(known) <= LOOK else known[np.linspace(0, len(known) - 1, LOOK).astype(np.int64)]
    distinct = np.unique(look)
    if len(distinct) <= FEW:
        at = np.clip(np.searchsorted(distinct, values), 0, max(len(distinct) - 1, 0))
        codes = np.where(distinct[at] == values, at, -1) if len(distinct) else np.full(len(values), -1)
        names = [f"{name} = {v:g}" for v in distinct]
    else:
        edges = np.unique(np.quantile(look, np.linspace(0, 1, FIFTHS + 1)[1:-1]))
        codes = np.searchsorted(edges, values, side="right")
        bounds = [f"{name} < {edges[0]:.4g}"]
        bounds += [f"{a:.4g} ≤ {name} < {b:.4g}" for a, b in pairwise(edges)]
        names = [*bounds, f"{name} ≥ {edges[-1]:.4g}"]
    codes = np.where(missing, len(names), codes)
    return Cut(codes, [*names, f"{name} is missing"])
