"""Robustness: rows as the world sends them. A score that is NaN, infinite or no probability, and a model that raises, are
faults named by what was done to the rows; what missing values cost is a figure with its interval.

Every input of a package is a number here (categories arrive as codes), so "never seen" is a code beyond all known ones,
and a negative and a fractional one. An input that is declared as never null is not tried without a value: serving refuses
such requests by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from holdfast.core.definitions import Rule
from holdfast.core.errors import HoldfastError
from holdfast.core.records import Evidence
from holdfast.stats import intervals, metrics
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context
from holdfast.validation.performance import as_evidence
from holdfast.validation.served import Served

ROWS = 200
"""Rows each disturbance is tried on: a fault shows on few, and there are several disturbances for each input."""
MANY = 20_000
"""Rows for the figure of missing values."""
EXTREMES = {"0": 0.0, "-1e9": -1e9, "1e9": 1e9, "-1e30": -1e30, "1e30": 1e30, "-1e300": -1e300, "1e300": 1e300}


def robustness(context: Context, rule: Rule) -> list[Evidence]:
    """Evidence per kind of disturbance: health for single inputs, the drop of the metric for scattered missing values."""
    check = naming.key(rule)
    index = np.linspace(0, len(context.X) - 1, min(ROWS, len(context.X))).astype(np.int64)
    out = []
    for kind, tries in {
        "missing values": _missing(context, context.X[index]),
        "extreme values": _extremes(context, context.X[index]),
        "values never seen": _unseen(context, context.X[index]),
    }.items():
        out.append(_health(context, check, kind, tries))
    out.append(_drop(context, rule, check))
    if context.served is not None:
        out.append(_order(context.served, check))
    return out


def _nullable(context: Context) -> list[int]:
    return [j for j, spec in enumerate(context.package.inputs) if spec.nullable]


def _changed(rows: Any, j: int, value: float) -> Any:
    out = rows.copy()
    out[:, j] = value
    return out


def _missing(context: Context, rows: Any) -> Iterator[tuple[str, Any]]:
    able = _nullable(context)
    for j in able:
        yield f"{context.columns[j]} missing", _changed(rows, j, np.nan)
    if len(able) == rows.shape[1] and len(able) > 1:
        yield "every input missing", np.full_like(rows, np.nan)


def _extremes(context: Context, rows: Any) -> Iterator[tuple[str, Any]]:
    for j, name in enumerate(context.columns):
        for text, value in EXTREMES.items():
            yield f"{name} = {text}", _changed(rows, j, value)
    for text, value in EXTREMES.items():
        yield f"every input = {text}", np.full_like(rows, value)


def _unseen(context: Context, rows: Any) -> Iterator[tuple[str, Any]]:
    for j, name in enumerate(context.columns):
        known = context.X[:, j]
        known = known[np.isfinite(known)]
        top = float(known.max()) if len(known) else 0.0
        for value in (top + 1, -1.0, float(np.floor(top)) + 0.5):
            yield f"{name} = {value:g}", _changed(rows, j, value)


def _health(context: Context, check: str, kind: str, tries: Iterator[tuple[str, Any]]) -> Evidence:
    faults, count, rows_tried = [], 0, 0
    for what, rows in tries:
        count += 1
        rows_tried += len(rows)
        problem = _problem(context, rows)
        if problem:
            faults.append(f"with {what} {problem}")
    if not count:
        note = f"no input can have {kind}" if kind == "missing values" else "there are no rows to try"
        return Evidence(check=check, figure=None, group=kind, details={"note": note})
    details: dict[str, Any] = {"tried": count, "faults": faults[:10]}
    if faults:
        more = f" ({len(faults)} of {count} disturbances)" if len(faults) > 1 else ""
        details["fault"] = faults[0] + more
    else:
        details["satisfied"] = f"{count} disturbances, every score finite" + (
            " and a probability" if context.task != "regression" else ""
        )
    how = "each input disturbed in turn"
    return Evidence(check=check, figure=float(len(faults)), n=rows_tried, group=kind, how=how, details=details)


def _problem(context: Context, rows: Any) -> str:
    """What is wrong with the scores of these rows; empty where nothing is."""
    try:
        scores = np.asarray(context.predictor.scores(rows), dtype=np.float64)
    except HoldfastError as error:
        return f"the model raises: {error.message}"
    except Exception as error:  # noqa: BLE001  any failure of the model is a finding, not our crash
        return f"the model raises {type(error).__name__}: {error}"
    if scores.shape[:1] != (len(rows),):
        return f"the scores have shape {scores.shape}"
    if not np.isfinite(scores).all():
        return "a score is NaN or infinite"
    if context.task != "regression" and (scores.min() < -1e-6 or scores.max() > 1 + 1e-6):
        return f"a score is {scores.max() if scores.max() > 1 else scores.min():.4g}, no probability"
    return ""


def _drop(context: Context, rule: Rule, check: str) -> Evidence:
    """The metric as it is, minus the metric with a share of all values missing: on the same rows, paired."""
    share, kind = float(rule.options.get("share", 0.05)), "scattered missing values"
    name = rule.metric or ("r2" if context.task == "regression" else "accuracy")
    able = _nullable(context)
    if not able:
        return Evidence(check=check, figure=None, group=kind, details={"note": "no input can have missing values"})
    index = np.linspace(0, len(context.X) - 1, min(MANY, len(context.X))).astype(np.int64)
    rows = context.X[index].copy()
    holes = np.zeros(rows.shape, dtype=bool)
    holes[:, able] = np.random.default_rng(17).random((len(rows), len(able))) < share
    rows[holes] = np.nan
    problem = _problem(context, rows)
    if problem:
        details = {"fault": f"with {share:.0%} of the values missing {problem}"}
        return Evidence(check=check, figure=None, n=len(rows), group=kind, details=details)
    threshold = context.served_threshold
    after = np.asarray(context.predictor.scores(rows), dtype=np.float64)
    found = intervals.paired(
        name, context.y[index], context.scores[index], after, threshold_a=threshold, threshold_b=threshold
    )
    figures = {
        "before": metrics.compute(name, context.y[index], context.scores[index], threshold=threshold),
        "after": metrics.compute(name, context.y[index], after, threshold=threshold),
    }
    compared = f"{name} on the same rows with {share:.0%} of all values missing"
    return as_evidence(check, found, compared=compared, group=kind, metric=name, **figures)


def _order(served: Served, check: str) -> Evidence:
    """A request is an object: the order of its fields changes nothing."""
    kind = "order of the fields"
    known = [(a, b) for a, b in zip(served.scores, served.reordered, strict=False) if a is not None and b is not None]
    if not known:
        return Evidence(
            check=check, figure=None, group=kind, details={"missing": "the server answered no such request"}
        )
    gaps = [float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in known]
    figure = max(gaps)
    evidence = Evidence(
        check=check, figure=figure, n=len(known), group=kind, how="the same requests with their fields turned round, over HTTP"
    )  # fmt: skip
    verdict = (
        {"fault": f"a score moves by {figure:.3g} when a request's fields come in another order"}
        if figure > 1e-9
        else {"satisfied": f"{len(known)} requests, the same scores"}
    )
    return msgspec.structs.replace(evidence, details=verdict)
