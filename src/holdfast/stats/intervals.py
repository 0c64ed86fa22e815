"""Intervals around a figure: Wilson for proportions, Newcombe for differences of independent proportions, Bonett &
Price for paired ones, influence (DeLong for ROC AUC) for the rest, order statistics for quantiles.

All return (low, high) at the two-sided ``confidence``. Too little data gives the widest interval, never an exception.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from holdfast.stats import metrics

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval and the rows it rests on."""

    figure: float
    low: float
    high: float
    n: int
    how: str


def z(confidence: float) -> float:
    """The two-sided normal quantile: 1.96 at 0.95."""
    return _NORMAL.inv_cdf(0.5 + confidence / 2)


def wilson(hits: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927). No rows: (0, 1)."""
    if n <= 0:
        return 0.0, 1.0
    q = z(confidence)
    p = hits / n
    centre = (p + q * q / (2 * n)) / (1 + q * q / n)
    half = q / (1 + q * q / n) * math.sqrt(p * (1 - p) / n + q * q / (4 * n * n))
    # At 0 and n the bound is exact; floating point must not move the figure out of its own interval.
    return (0.0 if hits == 0 else max(0.0, centre - half)), (1.0 if hits == n else min(1.0, centre + half))


def newcombe(hits_a: int, n_a: int, hits_b: int, n_b: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """p_a − p_b of independent samples, from the two Wilson intervals (Newcombe 1998, method 10)."""
    if n_a <= 0 or n_b <= 0:
        return -1.0, 1.0
    a, b = hits_a / n_a, hits_b / n_b
    la, ua = wilson(hits_a, n_a, confidence=confidence)
    lb, ub = wilson(hits_b, n_b, confidence=confidence)
    return a - b - math.hypot(a - la, ub - b), a - b + math.hypot(ua - a, b - lb)


def ratio(hits_a: int, n_a: int, hits_b: int, n_b: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """p_a / p_b of independent samples, from the two Wilson intervals (MOVER-R, Donner & Zou 2012). Where b may be
    nothing there is no upper bound."""
    if n_a <= 0 or n_b <= 0:
        return 0.0, math.inf
    a, b = hits_a / n_a, hits_b / n_b
    la, ua = wilson(hits_a, n_a, confidence=confidence)
    lb, ub = wilson(hits_b, n_b, confidence=confidence)
    low = (a * b - math.sqrt(max((a * b) ** 2 - la * ub * (2 * a - la) * (2 * b - ub), 0.0))) / (
        ub * (2 * b - ub) or math.inf
    )
    below = lb * (2 * b - lb)
    if below <= 0:
        return max(low, 0.0), math.inf
    return max(low, 0.0), (a * b + math.sqrt(max((a * b) ** 2 - ua * lb * (2 * a - ua) * (2 * b - lb), 0.0))) / below


def paired_proportions(only_a: int, only_b: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """p_a − p_b on the same n rows, from the rows only one got right (Bonett & Price 2012: one row added to each)."""
    if n <= 0:
        return -1.0, 1.0
    m = n + 2
    a, b = (only_a + 1) / m, (only_b + 1) / m
    half = z(confidence) * math.sqrt(max(a + b - (a - b) ** 2, 0) / m)
    return max(-1.0, a - b - half), min(1.0, a - b + half)


def mean(values: Any, *, confidence: float = 0.95) -> tuple[float, float]:
    """The mean of values, by Student's t (normal quantile with the Cornish-Fisher correction for few rows)."""
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n < 2:
        return -math.inf, math.inf
    half = t(confidence, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    centre = float(values.mean())
    return centre - half, centre + half


def t(confidence: float, df: int) -> float:
    """Two-sided quantile of Student's t by the expansion in 1/df (Abramowitz & Stegun 26.7.5); exact for df 1 and 2."""
    p = 0.5 + confidence / 2
    if df == 1:
        return math.tan(math.pi * (p - 0.5))
    if df == 2:
        return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    x = _NORMAL.inv_cdf(p)
    g1 = (x**3 + x) / 4
    g2 = (5 * x**5 + 16 * x**3 + 3 * x) / 96
    g3 = (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384
    g4 = (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160
    return x + g1 / df + g2 / df**2 + g3 / df**3 + g4 / df**4


def quantile(values: Any, q: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """The q-quantile, by order statistics (binomial, normal approximation with continuity)."""
    values = np.sort(np.asarray(values, dtype=np.float64))
    n = len(values)
    if not n:
        return -math.inf, math.inf
    half = z(confidence) * math.sqrt(n * q * (1 - q))
    low, high = math.floor(n * q - half), math.ceil(n * q + half)
    return (float(values[low - 1]) if low >= 1 else -math.inf), (float(values[high - 1]) if high <= n else math.inf)


def metric(name: str, y: Any, score: Any, *, threshold: float = 0.5, confidence: float = 0.95) -> Estimate:
    """A metric with its interval. NaN figure with an unbounded interval where it is undefined."""
    definition = metrics.get(name)
    cells = metrics.counts(name, y, score, threshold=threshold)
    if cells is not None:
        hits, base = cells
        low, high = wilson(hits, base, confidence=confidence)
        return Estimate(hits / base if base else math.nan, low, high, base, "Wilson")
    figure, effect = metrics.influence(name, y, score, threshold=threshold)
    n = len(effect)
    if math.isnan(figure):
        return Estimate(math.nan, -math.inf, math.inf, n, "undefined")
    half = z(confidence) * standard_error(effect)
    bounded = definition.name in ("roc_auc", "average_precision", "f1", "macro_f1", "balanced_accuracy")
    if bounded:
        low, high = _bounded(figure, half, effective_rows(name, y), confidence)
        return Estimate(figure, low, high, n, "DeLong, logit scale" if name == "roc_auc" else "influence, logit scale")
    low = figure - half
    if definition.name in ("log_loss", "brier", "mae", "mse", "rmse", "mape", "wape", "median_error"):
        low = max(low, 0.0)
    return Estimate(figure, low, figure + half, n, "influence")


def standard_error(effect: Any) -> float:
    """sd(influence) / sqrt(n); infinite for fewer than two rows."""
    n = len(effect)
    return float(np.sqrt(np.dot(effect, effect) / (n - 1) / n)) if n > 1 else math.inf


def effective_rows(name: str, y: Any) -> int:
    """The rows of the rarer class: what a ranking metric rests on."""
    positives = int(np.count_nonzero(np.asarray(y) == 1))
    return (
        max(1, min(positives, len(y) - positives))
        if metrics.get(name).name in ("roc_auc", "average_precision")
        else max(1, len(y))
    )


def _bounded(figure: float, half: float, n: int, confidence: float) -> tuple[float, float]:
    """An interval that stays in [0, 1]: on the logit scale; at 0 and 1, where that has no width, Wilson's."""
    if not 0 < figure < 1 or half == 0:
        low, high = wilson(round(figure * n), n, confidence=confidence)
        return min(low, figure), max(high, figure)
    centre = math.log(figure / (1 - figure))
    spread = half / (figure * (1 - figure))
    return 1 / (1 + math.exp(min(spread - centre, 700))), 1 / (1 + math.exp(max(-spread - centre, -700)))


def paired(
    name: str, y: Any, a: Any, b: Any, *, threshold_a: float = 0.5, threshold_b: float = 0.5, confidence: float = 0.95
) -> Estimate:
    """metric(a) − metric(b) on the same rows, turned so that positive means a is better."""
    definition = metrics.get(name)
    sign = 1.0 if definition.greater_is_better else -1.0
    y = np.asarray(y)
    if definition.name == "accuracy":
        right_a = metrics.predicted(np.asarray(a), threshold_a) == y
        right_b = metrics.predicted(np.asarray(b), threshold_b) == y
        only_a, only_b = int(np.count_nonzero(right_a & ~right_b)), int(np.count_nonzero(right_b & ~right_a))
        figure = (only_a - only_b) / len(y) if len(y) else math.nan
        low, high = paired_proportions(only_a, only_b, len(y), confidence=confidence)
        return Estimate(figure, min(low, figure), max(high, figure), len(y), "paired, Bonett-Price")
    figure_a, effect_a = metrics.influence(name, y, a, threshold=threshold_a)
    figure_b, effect_b = metrics.influence(name, y, b, threshold=threshold_b)
    figure = sign * (figure_a - figure_b)
    if math.isnan(figure):
        return Estimate(math.nan, -math.inf, math.inf, len(y), "undefined")
    half = z(confidence) * standard_error(effect_a - effect_b)
    how = "paired DeLong" if definition.name == "roc_auc" else "paired influence"
    return Estimate(figure, figure - half, figure + half, len(y), how)


def two_sample(
    name: str,
    y_a: Any,
    a: Any,
    y_b: Any,
    b: Any,
    *,
    threshold_a: float = 0.5,
    threshold_b: float = 0.5,
    confidence: float = 0.95,
) -> Estimate:
    """metric(a) − metric(b) on different rows, turned so that positive means a is better."""
    definition = metrics.get(name)
    sign = 1.0 if definition.greater_is_better else -1.0
    n = min(len(y_a), len(y_b))
    cells_a, cells_b = (
        metrics.counts(name, y_a, a, threshold=threshold_a),
        metrics.counts(name, y_b, b, threshold=threshold_b),
    )
    if cells_a is not None and cells_b is not None:
        if not cells_a[1] or not cells_b[1]:
            return Estimate(math.nan, -1.0, 1.0, min(cells_a[1], cells_b[1]), "undefined")
        figure = sign * (cells_a[0] / cells_a[1] - cells_b[0] / cells_b[1])
        low, high = newcombe(*cells_a, *cells_b, confidence=confidence)
        low, high = (low, high) if sign > 0 else (-high, -low)
        return Estimate(figure, low, high, min(cells_a[1], cells_b[1]), "Newcombe")
    figure_a, effect_a = metrics.influence(name, y_a, a, threshold=threshold_a)
    figure_b, effect_b = metrics.influence(name, y_b, b, threshold=threshold_b)
    figure = sign * (figure_a - figure_b)
    if math.isnan(figure):
        return Estimate(math.nan, -math.inf, math.inf, n, "undefined")
    half = z(confidence) * math.hypot(standard_error(effect_a), standard_error(effect_b))
    return Estimate(figure, figure - half, figure + half, n, "two-sample influence")


def group_gap(
    name: str, y: Any, score: Any, member: Any, *, threshold: float = 0.5, confidence: float = 0.95
) -> Estimate:
    """metric(group) − metric(everyone), ``member`` (n,) bool saying who is in the group.

    The group is part of everyone. For a proportion with base b, gap = (1 − b_group / b) × (p_group − p_rest), a
    difference of independent proportions; otherwise the influences of group and whole are subtracted row by row.
    """
    y, score, member = np.asarray(y), np.asarray(score, dtype=np.float64), np.asarray(member, dtype=bool)
    definition = metrics.get(name)
    if definition.cells is not None:
        hit, base = definition.cells(y, score, threshold)
        hit = hit & base
        return gap_from_counts(
            int(np.count_nonzero(hit & member)), int(np.count_nonzero(base & member)),
            int(np.count_nonzero(hit)), int(np.count_nonzero(base)), confidence=confidence,
        )  # fmt: skip
    whole = metrics.influence(name, y, score, threshold=threshold)
    return gap_from_influence(name, y, score, member, whole, threshold=threshold, confidence=confidence)


def gap_from_influence(
    name: str,
    y: Any,
    score: Any,
    member: Any,
    whole: tuple[float, Any],
    *,
    threshold: float = 0.5,
    confidence: float = 0.95,
) -> Estimate:
    """As ``group_gap``, the (figure, influence) of everyone being known already: computed once for many groups."""
    figure, effect = whole
    inside = int(np.count_nonzero(member))
    part, effect_part = metrics.influence(name, y[member], score[member], threshold=threshold)
    if math.isnan(figure) or math.isnan(part):
        return Estimate(math.nan, -math.inf, math.inf, inside, "undefined")
    own = effect[member]
    moved = effect_part * (len(y) / inside) - own
    squares = float(np.dot(effect, effect) - np.dot(own, own) + np.dot(moved, moved))
    n = len(y)
    half = z(confidence) * math.sqrt(max(squares, 0.0) / (n - 1) / n) if n > 1 else math.inf
    return Estimate(part - figure, part - figure - half, part - figure + half, inside, "influence")


def gap_from_counts(hits: int, base: int, all_hits: int, all_base: int, *, confidence: float = 0.95) -> Estimate:
    """As ``group_gap`` for a proportion, from counts: hits among base in the group and in everyone."""
    if not base or not all_base:
        return Estimate(math.nan, -1.0, 1.0, base, "undefined")
    share = 1 - base / all_base
    figure = hits / base - all_hits / all_base
    if base == all_base:
        return Estimate(0.0, 0.0, 0.0, base, "Newcombe")
    low, high = newcombe(hits, base, all_hits - hits, all_base - base, confidence=confidence)
    return Estimate(figure, min(share * low, figure), max(share * high, figure), base, "Newcombe")


def auc(y: Any, scores: Any, confidence: float = 0.95) -> tuple[float, float, float]:
    """(ROC AUC, low, high) by DeLong on the logit scale."""
    found = metric("roc_auc", y, scores, confidence=confidence)
    return found.figure, found.low, found.high


def bootstrap(
    statistic: Callable[[Any, Any], float],
    y: Any,
    scores: Any,
    *,
    confidence: float = 0.95,
    rounds: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of any statistic of (y, scores), rows drawn with replacement (Efron 1979). Rounds in which it
    is undefined are left out."""
    y, scores = np.asarray(y), np.asarray(scores)
    if not len(y):
        return -math.inf, math.inf
    rng = np.random.default_rng(seed)
    values = np.empty(rounds)
    for i in range(rounds):
        rows = rng.integers(0, len(y), size=len(y))
        values[i] = statistic(y[rows], scores[rows])
    values = values[np.isfinite(values)]
    if not len(values):
        return -math.inf, math.inf
    return float(np.quantile(values, 0.5 - confidence / 2)), float(np.quantile(values, 0.5 + confidence / 2))
