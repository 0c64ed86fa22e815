"""Latency: the mean of 1000 single-row calls in process, its quantiles, and the same over HTTP through a real server."""

from __future__ import annotations

import time
from typing import Any

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
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def latency(context: Context, rule: Rule) -> list[Evidence]:
    """Seconds per single-row call: the mean, and each quantile the rule bounds, in process and served."""
    check = naming.key(rule)
    spent = _calls(context)
    if not len(spent):
        return [Evidence(check=check, figure=None, details={"missing": "there are no rows to call the model with"})]
    low, high = intervals.mean(spent)
    details: dict[str, Any] = _tails(spent)
    if context.served is not None and len(context.served.seconds):
        details["served"] = {"mean": float(context.served.seconds.mean()), **_tails(context.served.seconds)}
    how = f"{len(spent)} single-row calls in process"
    out = [
        Evidence(
            check=check, figure=float(spent.mean()), low=clean(max(low, 0.0)), high=clean(high), n=len(spent), unit="s",
            how=how, details=details,
        )
    ]  # fmt: skip
    out += [_quantile(check, name, spent, q, how) for name, q in QUANTILES.items() if name in rule.options]
    return out + _served(context, rule, check)


def _calls(context: Context) -> Any:
    """(n,) seconds of each call."""
    rows = [np.ascontiguousarray(context.X[i : i + 1]) for i in range(min(CALLS, len(context.X)))]
    if not rows:
        return np.empty(0)
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
    return spent[:count]


def _tails(spent: Any) -> dict[str, float]:
    return {name: float(np.quantile(spent, q)) for name, q in QUANTILES.items()}


def _quantile(check: str, group: str, spent: Any, q: float, how: str) -> Evidence:
    low, high = intervals.quantile(spent, q)
    return Evidence(
        check=check, figure=float(np.quantile(spent, q)), low=clean(low), high=clean(high), n=len(spent), unit="s",
        group=group, how=how,
    )  # fmt: skip


def _served(context: Context, rule: Rule, check: str) -> list[Evidence]:
    """The bounded quantiles through the server: none asked for, none measured."""
    asked = {f"served {name}": q for name, q in QUANTILES.items() if f"served {name}" in rule.options}
    served = context.served
    if not asked:
        return []
    if served is None or not len(served.seconds):
        missing = (
            "no server ran for this check: it takes a version trained here, or packaged (`holdfast models package`)"
        )
        return [Evidence(check=check, figure=None, group=name, details={"missing": missing}) for name in asked]
    if served.refused:
        fault = f"the server refused {served.refused} of the requests: {served.problems[0]}"
        return [Evidence(check=check, figure=None, group=name, details={"fault": fault}) for name in asked]
    how = f"{len(served.seconds)} single-row requests over HTTP, one connection"
    return [_quantile(check, name, served.seconds, q, how) for name, q in asked.items()]
