"""How far scores lie from what comes true: the binned calibration error, freed of its sampling bias.

The plain error over bins (ECE) is above zero for a perfectly calibrated model, the more so the fewer the rows. The squared
error per bin minus its sampling variance is unbiased (Kumar, Liang and Ma 2019, "Verified uncertainty calibration"); its
root is the figure. Rows within one bin may still err in opposite directions unseen: binning bounds the error from below.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from holdfast.core.records import Record
from holdfast.stats import intervals


class Bin(Record, frozen=True, kw_only=True):
    """Rows with like scores: their mean score, what came true of it on average with its interval, how many."""

    score: float
    share: float
    low: float
    high: float
    n: int


class Calibration(Record, frozen=True, kw_only=True):
    """``error`` with its interval; ``ece`` is the plain expected calibration error, biased upwards; ``offset`` is mean
    score minus mean truth with its interval."""

    error: float
    low: float
    high: float
    ece: float
    offset: float
    offset_low: float
    offset_high: float
    n: int
    bins: list[Bin]


def measure(y: Any, score: Any, *, bins: int = 10, confidence: float = 0.95) -> Calibration:
    """Calibration of ``score`` (n,) against ``y`` (n,): 0/1, or values for regression. Rows of one score share a bin.

    Raises:
        ValueError: no rows.
    """
    y, score = np.asarray(y, dtype=np.float64), np.asarray(score, dtype=np.float64)
    n = len(y)
    if not n:
        raise ValueError("no rows to calibrate on")
    binary = bool(np.isin(y, (0.0, 1.0)).all())
    edges = np.unique(np.quantile(score, np.linspace(0, 1, bins + 1)[1:-1]))
    codes = np.searchsorted(edges, score, side="right")
    counts = np.bincount(codes)
    used = np.flatnonzero(counts)
    counts = counts[used]
    mean_score = np.bincount(codes, weights=score)[used] / counts
    mean_truth = np.bincount(codes, weights=y)[used] / counts
    residual = y - score
    # Within a bin the error's variance is that of truth minus score, not of truth alone: scores vary inside a bin.
    gap = mean_truth - mean_score
    squares = np.bincount(codes, weights=residual**2)[used]
    spread = np.where(counts > 1, (squares - counts * gap**2) / np.maximum(counts - 1, 1), np.inf)
    variance = np.maximum(spread, 0.0) / counts
    known = np.isfinite(variance)
    weight = counts / counts[known].sum() if known.any() else counts / n
    squared = gap**2 - np.where(known, variance, 0.0)
    total = float((weight * squared)[known].sum())
    # Var(ĝ²) = 4 g² σ² + 2 σ⁴ for a normal ĝ; g² by its unbiased estimate, never below zero.
    parts = 4 * np.maximum(squared, 0) * np.where(known, variance, 0) + 2 * np.where(known, variance, 0) ** 2
    half = intervals.z(confidence) * math.sqrt(float((weight**2 * parts)[known].sum()))
    low, high = math.sqrt(max(total - half, 0.0)), math.sqrt(max(total + half, 0.0))
    offset = -residual
    offset_low, offset_high = intervals.mean(offset, confidence=confidence)
    found = []
    for i in range(len(used)):
        if binary:
            below, above = intervals.wilson(
                round(float(mean_truth[i] * counts[i])), int(counts[i]), confidence=confidence
            )
        else:
            reach = intervals.z(confidence) * math.sqrt(float(variance[i])) if known[i] else math.inf
            below, above = float(mean_truth[i]) - reach, float(mean_truth[i]) + reach
        found.append(
            Bin(score=float(mean_score[i]), share=float(mean_truth[i]), low=below, high=above, n=int(counts[i]))
        )
    return Calibration(
        error=math.sqrt(max(total, 0.0)), low=low, high=high if known.any() else math.inf,
        ece=float((counts / n * np.abs(gap)).sum()), offset=float(offset.mean()), offset_low=offset_low,
        offset_high=offset_high, n=n, bins=found,
    )  # fmt: skip
