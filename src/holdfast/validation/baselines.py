"""Is it better than nearly nothing? A constant, and a logistic (or least-squares) regression on the same inputs.

The linear model is ours, so that the check needs no scikit-learn: columns imputed with the training median,
standardised, clipped at ±10 sd, with one extra column per input that has nulls; iteratively reweighted least squares
with a small ridge.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.core.definitions import Rule
from holdfast.core.records import Evidence
from holdfast.stats import intervals, metrics
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context
from holdfast.validation.performance import as_evidence, clean

RIDGE = 1.0
ROWS = 30_000
"""Training rows the linear model is fitted on, evenly spaced: plenty for a weight per column, and quick."""


def baseline(context: Context, rule: Rule) -> list[Evidence]:
    """Candidate minus baseline on the same rows, positive = the candidate is better."""
    kind = str(rule.options.get("baseline", "constant"))
    check = naming.key(rule)
    if context.task == "multiclass":
        return [
            Evidence(check=check, figure=None, details={"missing": "baselines are for binary and regression models"})
        ]
    if kind == "linear" and context.X_train is None:
        return [Evidence(check=check, figure=None, details={"missing": "the linear baseline needs the training rows"})]
    reference = context.y_train if context.y_train is not None else context.y
    if kind == "constant":
        scores = np.full(len(context.y), float(np.mean(reference)))
    else:
        scores = Linear.fit(context.X_train, context.y_train, logistic=context.task == "binary").scores(context.X)
    name = str(rule.metric)
    threshold = best_threshold(name, reference, kind, context, scores)
    found = intervals.paired(
        name, context.y, context.scores, scores, threshold_a=context.served_threshold, threshold_b=threshold
    )
    figures: dict[str, Any] = {
        "candidate": clean(metrics.compute(name, context.y, context.scores, threshold=context.served_threshold)),
        "baseline": clean(metrics.compute(name, context.y, scores, threshold=threshold)),
    }
    fitted = min(len(reference), ROWS) if kind == "linear" else len(reference)
    compared = f"a {kind} model (from {fitted} training rows) on the same {len(context.y)} rows"
    return [as_evidence(check, found, compared=compared, **figures)]


def best_threshold(name: str, reference: Any, kind: str, context: Context, scores: Any) -> float:
    """The baseline's threshold: its own majority class for accuracy, otherwise the same share of alarms as the model
    gives, so that a metric of classes compares like with like."""
    if metrics.get(name).kind not in ("proportion", "class"):
        return 0.5
    if name == "accuracy":
        return 0.5
    share = float(np.mean(context.scores >= context.served_threshold))
    return float(np.quantile(scores, min(max(1 - share, 0.0), 1.0)))


class Linear:
    """A small linear model of standardised, imputed columns."""

    def __init__(self, median: Any, centre: Any, scale: Any, holes: Any, weights: Any, logistic: bool) -> None:
        self.median, self.centre, self.scale, self.holes = median, centre, scale, holes
        self.weights, self.logistic = weights, logistic

    @classmethod
    def fit(cls, x: Any, y: Any, *, logistic: bool) -> Linear:
        """Fit on (n, d) with NaN for null. At most ``ROWS`` rows, evenly spaced, are used."""
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if len(x) > ROWS:
            rows = np.linspace(0, len(x) - 1, ROWS).astype(np.int64)
            x, y = x[rows], y[rows]
        known = np.isfinite(x)
        median = np.array([float(np.median(c[k])) if k.any() else 0.0 for c, k in zip(x.T, known.T, strict=True)])
        filled = np.where(known, x, median)
        centre, scale = filled.mean(axis=0), filled.std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        share = 1 - known.mean(axis=0)
        holes = np.flatnonzero((share > 0.001) & (share < 0.999))
        model = cls(median, centre, scale, holes, None, logistic)
        design = model._design(x)
        model.weights = _irls(design, y) if logistic else _least_squares(design, y)
        return model

    def _design(self, x: Any) -> Any:
        known = np.isfinite(x)
        z = np.clip((np.where(known, x, self.median) - self.centre) / self.scale, -10, 10)
        return np.column_stack([np.ones(len(x)), z, ~known[:, self.holes]])

    def scores(self, x: Any) -> Any:
        """P(1), or the value."""
        raw = self._design(np.asarray(x, dtype=np.float64)) @ self.weights
        return _sigmoid(raw) if self.logistic else raw


def _sigmoid(raw: Any) -> Any:
    return 0.5 * (1 + np.tanh(raw / 2))


def _penalty(width: int) -> Any:
    penalty = np.full(width, RIDGE)
    penalty[0] = 0.0
    return penalty


def _least_squares(design: Any, y: Any) -> Any:
    return np.linalg.solve(design.T @ design + np.diag(_penalty(design.shape[1]) + 1e-9), design.T @ y)


def _irls(design: Any, y: Any) -> Any:
    """Newton's method on the penalised log likelihood, steps halved until it grows."""
    penalty = _penalty(design.shape[1])
    weights = np.zeros(design.shape[1])
    share = float(np.clip(y.mean(), 1e-6, 1 - 1e-6))
    weights[0] = np.log(share / (1 - share))

    def loss(w: Any) -> float:
        raw = design @ w
        return float(np.sum(np.logaddexp(0, raw) - y * raw) + 0.5 * np.sum(penalty * w * w))

    current = loss(weights)
    for _ in range(50):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (p - y) + penalty * weights
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty + 1e-9)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-4 and (new := loss(weights - size * step)) > current:
            size /= 2
        if size <= 1e-4:
            break
        weights = weights - size * step
        if current - new < 1e-7 * max(abs(current), 1.0):
            break
        current = new
    return weights
