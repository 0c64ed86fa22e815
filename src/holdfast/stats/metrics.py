"""Metrics on numpy arrays, and how much each row moves them.

Every metric is a smooth function of averages over rows, so each has an *influence* per row (its derivative with respect
to that row's weight, times n): the standard error is sd(influence) / sqrt(n), and of a difference between two models on
the same rows, sd(influence_a − influence_b) / sqrt(n). For ROC AUC these are the structural components of DeLong,
DeLong & Clarke-Pearson (1988), computed by midranks (Sun & Xu 2014). Definitions follow scikit-learn's; ties in scores
are handled as there.

Inputs: ``y`` (n,), ``score`` (n,) of P(1) for binary, (n, k) for multiclass, values for regression; ``threshold`` turns
a binary score into a class (score >= threshold). Undefined metrics are NaN, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from holdfast.core.errors import BadInput, NotFound

Array = Any
Kind = Literal["proportion", "class", "score", "value"]


@dataclass(frozen=True)
class Metric:
    """``parts``: (y, score, threshold) → (figure, influence (n,)). ``cells``, for proportions: boolean masks
    (hit, base) so that the figure is hits among base."""

    name: str
    kind: Kind
    greater_is_better: bool
    parts: Callable[[Array, Array, float], tuple[float, Array]]
    cells: Callable[[Array, Array, float], tuple[Array, Array]] | None = None
    tasks: tuple[str, ...] = ("binary",)


def get(name: str) -> Metric:
    """The metric of this name.

    Raises:
        NotFound: there is none; the hint has the nearest.
    """
    found = METRICS.get(ALIASES.get(name, name))
    if found is None:
        raise NotFound.among("metric", name, [*METRICS, *ALIASES])
    return found


def compute(name: str, y: Array, score: Array, *, threshold: float = 0.5) -> float:
    """The figure alone; NaN where undefined."""
    metric = get(name)
    y, score = np.asarray(y), np.asarray(score, dtype=np.float64)
    if metric.cells is not None:
        hit, base = metric.cells(y, score, threshold)
        return _share(int(np.count_nonzero(hit & base)), int(np.count_nonzero(base)))
    return metric.parts(y, score, threshold)[0]


def influence(name: str, y: Array, score: Array, *, threshold: float = 0.5) -> tuple[float, Array]:
    """(figure, influence per row). The influence sums to zero."""
    metric = get(name)
    return metric.parts(np.asarray(y), np.asarray(score, dtype=np.float64), threshold)


def counts(name: str, y: Array, score: Array, *, threshold: float = 0.5) -> tuple[int, int] | None:
    """(hits, base) of a metric that is a proportion of rows, else None."""
    metric = get(name)
    if metric.cells is None:
        return None
    hit, base = metric.cells(np.asarray(y), np.asarray(score, dtype=np.float64), threshold)
    return int(np.count_nonzero(hit & base)), int(np.count_nonzero(base))


def rate_cells(name: str, y: Array, score: Array, *, threshold: float = 0.5) -> tuple[Array, Array]:
    """(hit, base) masks (n,) of a metric that is a proportion of rows.

    Raises:
        BadInput: it is none.
    """
    metric = get(name)
    if metric.cells is None:
        raise BadInput(f"{name} is no proportion of rows", hint="use accuracy, recall, selection_rate …")
    return metric.cells(np.asarray(y), np.asarray(score, dtype=np.float64), threshold)


def confusion(y: Array, score: Array, *, threshold: float = 0.5) -> dict[str, int]:
    """tp, fp, fn, tn of a binary score at a threshold."""
    truth, said = np.asarray(y) == 1, np.asarray(score) >= threshold
    cells = np.bincount(truth.astype(np.int8) * 2 + said, minlength=4)
    return {"tp": int(cells[3]), "fn": int(cells[2]), "fp": int(cells[1]), "tn": int(cells[0])}


def predicted(score: Array, threshold: float) -> Array:
    """Class indices: score >= threshold for binary, the largest score for multiclass."""
    return np.argmax(score, axis=1) if np.ndim(score) == 2 else (score >= threshold).astype(np.int64)


# --- proportions ------------------------------------------------------------------------------------------------------


def _share(hits: float, base: float) -> float:
    return hits / base if base else float("nan")


def _proportion(
    name: str,
    cells: Callable[[Array, Array, float], tuple[Array, Array]],
    *,
    better: bool = True,
    tasks: Sequence[str] = ("binary",),
) -> Metric:
    def parts(y: Array, score: Array, threshold: float) -> tuple[float, Array]:
        hit, base = cells(y, score, threshold)
        total = int(np.count_nonzero(base))
        if not total:
            return float("nan"), np.full(len(y), np.nan)
        figure = np.count_nonzero(hit & base) / total
        return figure, base * (hit - figure) * (len(y) / total)

    return Metric(name, "proportion", better, parts, cells, tuple(tasks))


def _right(y: Array, score: Array, threshold: float) -> tuple[Array, Array]:
    return predicted(score, threshold) == y, np.ones(len(y), dtype=bool)


# --- ranking ----------------------------------------------------------------------------------------------------------


def _midranks(values: Array) -> Array:
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ends = np.r_[starts[1:], len(values)]
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((starts + ends + 1) / 2, ends - starts)
    return ranks


def _auc(y: Array, score: Array, threshold: float) -> tuple[float, Array]:
    truth = y == 1
    positives, negatives = int(truth.sum()), int(len(y) - truth.sum())
    out = np.full(len(y), np.nan)
    if not positives or not negatives or np.isnan(score).any():
        return float("nan"), out
    ranks = _midranks(score)
    # Structural components: share of the other class on the right side of this row.
    out[truth] = (ranks[truth] - _midranks(score[truth])) / negatives
    out[~truth] = 1 - (ranks[~truth] - _midranks(score[~truth])) / positives
    auc = float(out[truth].mean())
    n = len(y)
    out[truth] = (out[truth] - auc) * (n / positives)
    out[~truth] = (out[~truth] - auc) * (n / negatives)
    return auc, out


def _average_precision(y: Array, score: Array, threshold: float) -> tuple[float, Array]:
    truth = (y == 1).astype(np.float64)
    n, positives = len(y), float((y == 1).sum())
    if not positives or np.isnan(score).any():
        return float("nan"), np.full(n, np.nan)
    order = np.argsort(-score, kind="stable")
    ordered, hits = score[order], truth[order]
    last = np.r_[ordered[1:] != ordered[:-1], True]
    group = np.r_[0, np.cumsum(last[:-1])].astype(np.int64)
    above = np.cumsum(np.bincount(group))  # rows at or above this score
    true_above = np.cumsum(np.bincount(group, weights=hits))
    precision = true_above / above
    new = np.diff(np.r_[0.0, true_above])
    figure = float((precision * new).sum() / positives)
    # A row at score s enters the precision of every threshold at or below s.
    one = np.cumsum((new / above)[::-1])[::-1][group]
    two = np.cumsum((new * true_above / above**2)[::-1])[::-1][group]
    raw = hits * precision[group] + hits * one - two
    effect = (raw - figure * hits) * (n / positives)
    out = np.empty(n)
    out[order] = effect - effect.mean()
    return figure, out


# --- classes ----------------------------------------------------------------------------------------------------------


def _f1(y: Array, score: Array, threshold: float) -> tuple[float, Array]:
    truth, said = y == 1, score >= threshold
    hit = truth & said
    base = float(truth.sum() + said.sum())
    if not base:
        return float("nan"), np.full(len(y), np.nan)
    figure = 2 * float(hit.sum()) / base
    return figure, (2.0 * hit - figure * (truth.astype(np.float64) + said)) * (len(y) / base)


def _balanced(y: Array, score: Array, threshold: float) -> tuple[float, Array]:
    said = predicted(score, threshold)
    figures, total = [], np.zeros(len(y))
    classes = np.unique(y)
    for c in classes:
        base = y == c
        hit = (said == y) & base
        share = hit.sum() / base.sum()
        figures.append(share)
        total += base * (hit - share) * (len(y) / base.sum())
    if not figures:
        return float("nan"), np.full(len(y), np.nan)
    return float(np.mean(figures)), total / len(classes)


def _macro_f1(y: Array, score: Array, threshold: float) -> tuple[float, Array]:
    said = predicted(score, threshold)
    classes = np.union1d(np.unique(y), np.unique(said))
    pairs = [_f1((y == c).astype(int), (said == c).astype(float), 0.5) for c in classes]
    if not pairs:
        return float("nan"), np.full(len(y), np.nan)
    return float(np.mean([p[0] for p in pairs])), np.mean([p[1] for p in pairs], axis=0)


# --- averages of a per-row value --------------------------------------------------------------------------------------


def _mean_of(
    rows: Callable[[Array, Array], Array], *, root: bool = False
) -> Callable[[Array, Array, float], tuple[float, Array]]:
    def parts(y: Array, score: Array, threshold: float) -> tuple[float, Array]:
        values = rows(y.astype(np.float64), score)
        mean = float(values.mean()) if len(values) else float("nan")
        if not root:
            return mean, values - mean
        figure = float(np.sqrt(mean))
        return figure, (values - mean) / (2 * figure) if figure else np.zeros(len(y))

    return parts


def _log_loss_rows(y: Array, score: Array) -> Array:
    eps = np.finfo(np.float64).eps
    if np.ndim(score) == 2:
        chosen = score[np.arange(len(y)), y.astype(np.int64)] / score.sum(axis=1)
        return -np.log(np.clip(chosen, eps, 1 - eps))
    p = np.clip(score, eps, 1 - eps)
    return -(y * np.log(p) + (1 - y) * np.log1p(-p))


def _r2(y: Array, score: Array, threshold: float) -> tuple[float, Array]:
    y = y.astype(np.float64)
    residual, spread = (y - score) ** 2, (y - y.mean()) ** 2
    total = float(spread.mean()) if len(y) else 0.0
    if not total:
        return float("nan"), np.full(len(y), np.nan)
    ratio = float(residual.mean()) / total
    return 1 - ratio, -(residual - ratio * spread) / total


def _wape(y: Array, score: Array, threshold: float) -> tuple[float, Array]:
    """Σ|error| / Σ|truth|: a ratio of means."""
    error, size = np.abs(score - y), np.abs(y.astype(np.float64))
    total = float(size.mean()) if len(y) else 0.0
    if not total:
        return float("nan"), np.full(len(y), np.nan)
    figure = float(error.mean()) / total
    return figure, (error - figure * size) / total


def _median_error(y: Array, score: Array, threshold: float) -> tuple[float, Array]:
    """The median's influence is ± 1 / (2 density); the density from the spacing of order statistics (Siddiqui 1960),
    about as wide as the distribution-free interval."""
    error = np.abs(score - y)
    n = len(error)
    if not n:
        return float("nan"), np.empty(0)
    figure = float(np.median(error))
    h = min(1 / np.sqrt(n), 0.5)
    low, high = np.quantile(error, [0.5 - h, 0.5 + h])
    effect = np.where(error > figure, 0.5, np.where(error < figure, -0.5, 0.0)) * (high - low) / (2 * h)
    return figure, effect - effect.mean()


def _explained_variance(y: Array, score: Array, threshold: float) -> tuple[float, Array]:
    y = y.astype(np.float64)
    residual = y - score
    left, spread = (residual - residual.mean()) ** 2, (y - y.mean()) ** 2
    total = float(spread.mean()) if len(y) else 0.0
    if not total:
        return float("nan"), np.full(len(y), np.nan)
    ratio = float(left.mean()) / total
    return 1 - ratio, -(left - ratio * spread) / total


def _mcc_of(p: Array) -> float:
    """Matthews' correlation from the shares of (true negative, false positive, false negative, true positive)."""
    tn, fp, fn, tp = p
    under = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return float((tp * tn - fp * fn) / np.sqrt(under)) if under > 0 else float("nan")


def _kappa_of(p: Array) -> float:
    """Cohen's kappa from the same shares."""
    tn, fp, fn, tp = p
    chance = (tp + fp) * (tp + fn) + (tn + fp) * (tn + fn)
    return float((tp + tn - chance) / (1 - chance)) if chance < 1 else float("nan")


def _of_cells(function: Callable[[Array], float]) -> Callable[[Array, Array, float], tuple[float, Array]]:
    """A smooth function of the four cells of the confusion; its influence by central differences."""

    def parts(y: Array, score: Array, threshold: float) -> tuple[float, Array]:
        cell = (y == 1).astype(np.int64) * 2 + (score >= threshold)
        shares = np.bincount(cell, minlength=4) / max(len(y), 1)
        figure = function(shares)
        if not np.isfinite(figure):
            return float("nan"), np.full(len(y), np.nan)
        step = 1e-6
        nudge = np.eye(4) * step
        slope = np.array([(function(shares + d) - function(np.maximum(shares - d, 0))) / (2 * step) for d in nudge])
        slope = np.where(shares > 0, slope, 0.0)
        return figure, slope[cell] - float(slope @ shares)

    return parts


def _bias(y: Array, score: Array) -> Array:
    return score - y


def _relative(y: Array, score: Array) -> Array:
    """|error| / |truth|, a truth of 0 counting as the smallest number there is, as in scikit-learn."""
    return np.abs(score - y) / np.maximum(np.abs(y), np.finfo(np.float64).eps)


_BOTH = ("binary", "multiclass")

METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        _proportion("accuracy", _right, tasks=_BOTH),
        _proportion("precision", lambda y, s, t: (y == 1, s >= t)),
        _proportion("recall", lambda y, s, t: (s >= t, y == 1)),
        _proportion("specificity", lambda y, s, t: (s < t, y != 1)),
        _proportion("false_positive_rate", lambda y, s, t: (s >= t, y != 1), better=False),
        _proportion("false_negative_rate", lambda y, s, t: (s < t, y == 1), better=False),
        _proportion("selection_rate", lambda y, s, t: (s >= t, np.ones(len(y), dtype=bool))),
        Metric("f1", "class", True, _f1),
        Metric("macro_f1", "class", True, _macro_f1, tasks=_BOTH),
        Metric("balanced_accuracy", "class", True, _balanced, tasks=_BOTH),
        Metric("roc_auc", "score", True, _auc),
        Metric("average_precision", "score", True, _average_precision),
        Metric("log_loss", "score", False, _mean_of(_log_loss_rows), tasks=_BOTH),
        Metric("brier", "score", False, _mean_of(lambda y, s: (s - y) ** 2)),
        Metric("mae", "value", False, _mean_of(lambda y, s: np.abs(s - y)), tasks=("regression",)),
        Metric("mse", "value", False, _mean_of(lambda y, s: (s - y) ** 2), tasks=("regression",)),
        Metric("rmse", "value", False, _mean_of(lambda y, s: (s - y) ** 2, root=True), tasks=("regression",)),
        Metric("mean_error", "value", False, _mean_of(_bias), tasks=("regression", "binary")),
        Metric("r2", "value", True, _r2, tasks=("regression",)),
        Metric("mape", "value", False, _mean_of(_relative), tasks=("regression",)),
        Metric("wape", "value", False, _wape, tasks=("regression",)),
        Metric("median_error", "value", False, _median_error, tasks=("regression",)),
        Metric("explained_variance", "value", True, _explained_variance, tasks=("regression",)),
        Metric("mcc", "class", True, _of_cells(_mcc_of)),
        Metric("kappa", "class", True, _of_cells(_kappa_of)),
    )
}
ALIASES = {"auc": "roc_auc", "pr_auc": "average_precision", "brier_score": "brier", "tpr": "recall",
           "fpr": "false_positive_rate",
           "tnr": "specificity", "fnr": "false_negative_rate", "sensitivity": "recall"}  # fmt: skip
HIGHER_IS_BETTER = {name: m.greater_is_better for name, m in METRICS.items()}
