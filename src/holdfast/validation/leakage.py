"""Suspicion of leakage: an input that tells the label by itself, or a model too good to be true."""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.core.definitions import Rule
from holdfast.core.records import Evidence
from holdfast.stats import intervals, metrics
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context
from holdfast.validation.performance import clean

ROWS = 100_000


def leakage(context: Context, rule: Rule) -> list[Evidence]:
    """Figure = the largest ROC AUC of any single input (either direction; null counts as a value), or the model's."""
    check = naming.key(rule)
    if context.task != "binary":
        return [Evidence(check=check, figure=None, details={"missing": "leakage is looked for in binary models"})]
    rows = (
        np.arange(len(context.y))
        if len(context.y) <= ROWS
        else np.linspace(0, len(context.y) - 1, ROWS).astype(np.int64)
    )
    y = context.y[rows]
    found: dict[str, float] = {}
    for j, name in enumerate(context.columns):
        found[name] = single_auc(y, context.X[rows, j])
    model = metrics.compute("roc_auc", y, context.scores[rows])
    worst = max(found, key=lambda k: np.nan_to_num(found[k]), default=None)
    figure = np.nan_to_num(found[worst]) if worst is not None else 0.0
    by_itself = worst is not None and figure >= (rule.maximum or 0.98)
    name = worst if worst is not None and (by_itself or not figure <= np.nan_to_num(model)) else "the model"
    figure = float(figure if name == worst else model)
    if not np.isfinite(figure):
        return [
            Evidence(check=check, figure=None, n=len(y), details={"missing": "one class only: nothing can be told"})
        ]
    _, low, high = intervals.auc(y, context.scores[rows]) if name == "the model" else (0.0, figure, figure)
    suspects = {k: round(v, 4) for k, v in sorted(found.items(), key=lambda kv: -np.nan_to_num(kv[1]))[:5]}
    details: dict[str, Any] = {"input": name, "model_auc": clean(model), "inputs": suspects}
    if rule.maximum is not None and figure > rule.maximum:
        details["fault"] = (
            f"{name} tells the label by itself: ROC AUC {figure:.4f}, over {rule.maximum:g}. A leak until explained"
        )
    return [
        Evidence(
            check=check,
            figure=figure,
            low=clean(low),
            high=clean(high),
            n=len(y),
            how="ROC AUC, folded to ≥ 0.5",
            compared=str(name),
            details=details,
        )
    ]


def single_auc(y: Any, values: Any) -> float:
    """ROC AUC of one column, folded to at least 0.5; nulls once as lowest, once as highest, and by themselves."""
    known = np.isfinite(values)
    tries = (
        [values]
        if known.all()
        else [np.where(known, values, -np.inf), np.where(known, values, np.inf), (~known).astype(np.float64)]
    )
    best = float("nan")
    for column in tries:
        auc = metrics.compute("roc_auc", y, column)
        folded = max(auc, 1 - auc)
        best = folded if not best >= folded else best
    return best
