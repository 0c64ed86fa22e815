"""Groups against each other: the four-fifths rule and equalised odds, by fairlearn's definitions.

Each figure compares the two groups that differ most. Which two is found out by looking, so their interval is as wide as
if every pair had been looked at (Šidák), and holds for all pairs together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.core.definitions import Rule
from holdfast.core.records import Evidence
from holdfast.stats import intervals, metrics, multiplicity
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context
from holdfast.validation.fairness import CONFIDENCE, encoded, large_enough
from holdfast.validation.performance import clean

RATES = {"true positive rate": "recall", "false positive rate": "false_positive_rate"}


def four_fifths(context: Context, rule: Rule) -> list[Evidence]:
    """The least selection rate of any group over the greatest. 0 / 0 (nobody is selected anywhere) is no evidence."""
    return _compared(context, rule, {"selection rate": "selection_rate"}, as_ratio=True)


def equalised_odds(context: Context, rule: Rule) -> list[Evidence]:
    """The greatest difference of true positive rates between any two groups, and of false positive rates."""
    return _compared(context, rule, RATES, as_ratio=False)


def _compared(context: Context, rule: Rule, rates: dict[str, str], *, as_ratio: bool) -> list[Evidence]:
    check = naming.key(rule)
    if context.task != "binary":
        missing = f"{rule.check} is defined for binary models"
        return [Evidence(check=check, figure=None, details={"missing": missing})]
    found = encoded(context, rule)
    if isinstance(found, Evidence):
        return [found]
    codes, names = found
    out: list[Evidence] = []
    for title, metric in rates.items():
        out += _rate(context, rule, check, title, metric, codes, names, looks=len(rates), as_ratio=as_ratio)
    return out


def _rate(
    context: Context, rule: Rule, check: str, title: str, metric: str, codes: Any, names: list[str], *, looks: int,
    as_ratio: bool,
) -> list[Evidence]:  # fmt: skip
    hit, base = metrics.rate_cells(metric, context.y, context.scores, threshold=context.served_threshold)
    counted = np.bincount(codes, weights=base, minlength=len(names)).astype(np.int64)
    what = {"recall": "positives", "false_positive_rate": "negatives"}.get(metric, "rows")
    judged, notes = large_enough(rule, codes, names, counted, what=what)
    if len(judged) < 2:
        missing = f"fewer than two groups have {rule.sample} {what}"
        return [Evidence(check=check, figure=None, group=title, details={"missing": missing}), *notes]
    table = [
        (label, int(np.count_nonzero(hit & base & member)), int(np.count_nonzero(base & member)))
        for label, member in judged
    ]
    shares = [h / n for _, h, n in table]
    low, high = int(np.argmin(shares)), int(np.argmax(shares))
    pairs = len(table) * (len(table) - 1) // 2 * looks
    confidence = multiplicity.sidak(CONFIDENCE, pairs)
    (_, hits_a, n_a), (_, hits_b, n_b) = table[low], table[high]
    if as_ratio:
        figure = shares[low] / shares[high] if shares[high] else float("nan")
        bounds = intervals.ratio(hits_a, n_a, hits_b, n_b, confidence=confidence)
        how = "least over greatest, MOVER-R, all pairs hold together"
    else:
        figure = shares[high] - shares[low]
        bounds = intervals.newcombe(hits_b, n_b, hits_a, n_a, confidence=confidence)
        how = "greatest minus least, Newcombe, all pairs hold together"
    groups = {label: {"value": share, "n": n} for (label, _, n), share in zip(table, shares, strict=True)}
    for label, (_, h, n) in zip(groups, table, strict=True):
        groups[label]["low"], groups[label]["high"] = intervals.wilson(h, n, confidence=confidence)
    versus = f"{table[low][0]} ({shares[low]:.4g}) with {table[high][0]} ({shares[high]:.4g})"
    return [
        Evidence(
            check=check, figure=clean(figure), low=clean(bounds[0]), high=clean(bounds[1]), n=min(n_a, n_b),
            confidence=confidence, group=title, how=how, compared=f"{title} of {versus}", details={"groups": groups},
        ),
        *notes,
    ]  # fmt: skip
