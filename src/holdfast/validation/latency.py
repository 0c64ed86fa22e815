"""Latency: the mean of 1000 single-row calls, with the median and tail beside it."""

from __future__ import annotations

import time

import numpy as np

from holdfast.core.definitions import Rule
from holdfast.core.records import Evidence
from holdfast.stats import intervals
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context
from holdfast.validation.performance import clean

CALLS = 1000
WARM = 20
BUDGET = 30.0
"""Seconds after which calling stops; what was measured so far counts."""


def latency(context: Context, rule: Rule) -> list[Evidence]:
    """Seconds per single-row call in process, evidence for the mean and, where the rule bounds it, for p99."""
    check = naming.key(rule)
    rows = [np.ascontiguousarray(context.X[i : i + 1]) for i in range(min(CALLS, len(context.X)))]
    if not rows:
        return [Evidence(check=check, figure=None, details={"missing": "there are no rows to call the model with"})]
    score = context.predictor.scores
    for i in range(WARM):
        score(rows[i % len(rows)])
    spent = np.empty(CALLS)
    end = time.perf_counter() + BUDGET
    count = 0
    for count in range(1, CALLS + 1):
        row = rows[count % len(rows)]
        start = time.perf_counter()
        score(row)
        stop = time.perf_counter()
        spent[count - 1] = stop - start
        if stop > end:
            break
    spent = spent[:count]
    low, high = intervals.mean(spent)
    tails = {name: float(np.quantile(spent, q)) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
    how = f"{count} single-row calls in process"
    out = [
        Evidence(
            check=check,
            figure=float(spent.mean()),
            low=clean(max(low, 0.0)),
            high=clean(high),
            n=count,
            unit="s",
            how=how,
            details=dict(tails),
        )
    ]
    if "p99" in rule.options:
        p_low, p_high = intervals.quantile(spent, 0.99)
        out.append(
            Evidence(
                check=check,
                figure=tails["p99"],
                low=clean(p_low),
                high=clean(p_high),
                n=count,
                unit="s",
                group="p99",
                how=how,
            )
        )
    return out
