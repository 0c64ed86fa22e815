"""Distances between two samples or two histograms, and the asymptotic Kolmogorov-Smirnov p-value.

Histograms are non-negative counts over the same bins. Samples are 1-d float arrays; NaN is dropped.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.stats.tails import kolmogorov_sf, normal_sf

Array = npt.NDArray[Any]


def ks_statistic(a: Array, b: Array) -> float:
    """max |F_a - F_b|, exact with ties. NaN when a sample is empty."""
    a, b = _clean(a), _clean(b)
    if not len(a) or not len(b):
        return math.nan
    a, b = np.sort(a), np.sort(b)
    points = np.concatenate([a, b])
    gap = np.searchsorted(a, points, side="right") / len(a) - np.searchsorted(b, points, side="right") / len(b)
    return float(np.abs(gap).max())


def ks_pvalue(statistic: float, n: float, m: float) -> float:
    """Asymptotic two-sample p-value with Stephens' small-sample correction; conservative where values tie.

    Source: Stephens 1970, J. R. Stat. Soc. B 32, p. 115: (sqrt(ne) + 0.12 + 0.11 / sqrt(ne)) D.
    """
    if math.isnan(statistic) or n <= 0 or m <= 0:
        return math.nan
    root = math.sqrt(n * m / (n + m))
    return kolmogorov_sf((root + 0.12 + 0.11 / root) * statistic)


def total_variation(p: Array, q: Array) -> float:
    """Half the sum of |p - q| of two histograms, in [0, 1]."""
    p, q = _share(p), _share(q)
    return float(0.5 * np.abs(p - q).sum())


def psi(reference: Array, current: Array, *, least: float = 1e-4) -> float:
    """Population stability index of two histograms; empty bins count as ``least``."""
    p, q = np.maximum(_share(reference), least), np.maximum(_share(current), least)
    return float(((q - p) * np.log(q / p)).sum())


def jensen_shannon(p: Array, q: Array) -> float:
    """Jensen-Shannon distance (root of the divergence, base 2) of two histograms, in [0, 1]."""
    p, q = _share(p), _share(q)
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(p > 0, p * np.log2(p / middle), 0.0).sum()
        right = np.where(q > 0, q * np.log2(q / middle), 0.0).sum()
    return float(math.sqrt(max(0.0, (left + right) / 2)))


def wasserstein(a: Array, b: Array) -> float:
    """First Wasserstein distance of two samples, in their unit."""
    a, b = np.sort(_clean(a)), np.sort(_clean(b))
    if not len(a) or not len(b):
        return math.nan
    points = np.sort(np.concatenate([a, b]))
    gap = np.searchsorted(a, points[:-1], side="right") / len(a) - np.searchsorted(b, points[:-1], side="right") / len(
        b
    )
    return float((np.abs(gap) * np.diff(points)).sum())


def rose_pvalue(before: Array, after: Array) -> float:
    """One-sided p-value of Mann and Whitney's test that ``after`` lies above ``before``; normal limit with correction
    for ties and continuity (Lehmann 1975, Nonparametrics, ch. 1). NaN when a sample is empty, 1 when all values are
    equal."""
    a, b = _clean(after), _clean(before)
    n, m = len(a), len(b)
    if not n or not m:
        return math.nan
    both = np.concatenate([a, b])
    values, place, ties = np.unique(both, return_inverse=True, return_counts=True)
    middle = np.cumsum(ties) - (ties - 1) / 2
    above = float(middle[place[:n]].sum()) - n * (n + 1) / 2
    total = n + m
    variance = n * m / 12 * (total + 1 - float((ties.astype(np.float64) ** 3 - ties).sum()) / (total * (total - 1)))
    if len(values) < 2 or variance <= 0:
        return 1.0
    return normal_sf((above - n * m / 2 - 0.5) / math.sqrt(variance))


def _clean(values: Array) -> Array:
    values = np.asarray(values, dtype=np.float64)
    return values[~np.isnan(values)]


def _share(counts: Array) -> Array:
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum()
    return counts / total if total > 0 else np.full(len(counts), math.nan)
