"""How much days differ while nothing is wrong, estimated from the reference itself.

A quantity's variance between windows of k days is the larger of (variance between days) / k and what rolling blocks of
k reference days show (which holds what days have in common with their neighbours: weather, campaigns), each less its
sampling noise. Weekday means are taken out first where three weeks of reference allow it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
LEAST_ROWS = 20


@dataclass(frozen=True)
class Spread:
    """Variance (K,) between windows, beyond sampling noise, and the degrees of freedom (K,) it is known with."""

    variance: Array
    freedom: Array


@dataclass(frozen=True)
class Blocks:
    """Correlations over blocks of days: mean ``level`` (d, d), ``variance`` (d, d) beyond sampling, its ``freedom``."""

    level: Array
    variance: Array
    freedom: float


class Days:
    """The reference's days seen by a window of ``length`` days: ``numbers`` (R,) since the epoch."""

    def __init__(self, numbers: Array, length: float, weights: Array, rows: Array) -> None:
        self.numbers = numbers
        self.length = max(1.0, length)
        used = weights > 0
        share = 1.0 / max((weights[used] ** 2 / np.maximum(rows[used], 1)).sum(), 1e-300) / max(rows.sum(), 1)
        # The days that the weighted reference rests on: all of them for whole weeks, a seventh for one weekday.
        self.effective = max(1.0, len(numbers) * min(1.0, share))

    def between(self, levels: Array, rows: Array) -> Spread:
        """``levels`` (R, K) are shares or cumulative shares per day, of ``rows`` (R,) each."""
        good = rows >= min(LEAST_ROWS, max(1, int(np.median(rows))) if len(rows) else 1)
        levels, rows, weekday = levels[good], rows[good].astype(np.float64), self.numbers[good] % 7
        count, width = levels.shape
        if count < 3:
            return Spread(np.zeros(width), np.full(width, math.inf))
        centre = rows @ levels / rows.sum()
        unit = centre * (1 - centre)
        residual, groups = _without_weekdays(levels, rows, weekday)
        freedom = count - groups
        daily = (residual**2).sum(axis=0) / freedom - unit * (1 / rows).mean()
        block = int(min(round(self.length), count // 4))
        variance = daily / self.length
        known = np.full(width, float(freedom))
        if block >= 2:
            sums, sizes = _rolling(residual * rows[:, None], block), _rolling(rows[:, None], block)
            rolled = ((sums / sizes) ** 2).mean(axis=0) * count / (count - block) - unit * (1 / sizes).mean()
            rolled *= block / max(self.length, block)
            known = np.where(rolled > variance, max(2.0, 1.5 * (count / block - 1)), known)
            variance = np.maximum(variance, rolled)
        variance = np.maximum(variance, 0.0)
        # What holds for the column as a whole holds at each cut at least: single cuts are estimated too noisily.
        pooled = max(0.0, float(variance.sum() / unit.sum())) if unit.sum() > 0 else 0.0
        variance = np.maximum(variance, pooled * unit)
        return Spread(variance * (1 + min(self.length, self.effective) / self.effective), known)

    def correlations(self, rows: Array, sums: Array, products: Array) -> Blocks:
        """From per-day moments of centred rank scores: ``rows`` (R,), ``sums`` (R, d), ``products`` (R, d, d)."""
        count = len(rows)
        block = int(max(1, min(round(self.length), count // 4)))
        n = _rolling(rows[:, None].astype(np.float64), block)[:, 0]
        each = correlation(n, _rolling(sums, block), _rolling(products, block))
        whole = correlation(
            rows.sum(keepdims=True), sums.sum(axis=0, keepdims=True), products.sum(axis=0, keepdims=True)
        )[0]
        if len(each) < 3:
            return Blocks(whole, np.zeros_like(whole), math.inf)
        with np.errstate(invalid="ignore"):
            level = np.nanmean(np.where(np.isfinite(each), each, np.nan), axis=0) if np.isfinite(each).any() else whole
            spread = np.nanmean((each - level) ** 2, axis=0) * (count / max(count - block, 1))
            noise = 1.06 * (1 - level**2) ** 2 * (1 / n).mean()
        variance = np.maximum(spread - noise, 0.0) * block / max(self.length, block)
        return Blocks(level, variance * (1 + min(self.length, count) / count), max(2.0, 1.5 * (count / block - 1)))


def correlation(n: Array, sums: Array, products: Array) -> Array:
    """Pearson correlations (B, d, d) from ``n`` (B,), ``sums`` (B, d) and ``products`` (B, d, d). NaN where
    constant."""
    scale = np.maximum(n, 1)[:, None, None]
    covariance = products / scale - (sums[:, :, None] * sums[:, None, :]) / scale**2
    variance = np.einsum("bii->bi", covariance)
    safe = np.where(variance > 1e-9, variance, np.nan)
    result: Array = np.clip(covariance / np.sqrt(safe[:, :, None] * safe[:, None, :]), -1, 1)
    return result


def satterthwaite(noise: float, extra: float, freedom: float) -> float:
    """Degrees of freedom of a variance that is known sampling ``noise`` plus an estimated ``extra``."""
    return math.inf if extra <= 0 or math.isinf(freedom) else freedom * ((noise + extra) / extra) ** 2


def _without_weekdays(levels: Array, rows: Array, weekday: Array) -> tuple[Array, int]:
    group = weekday if np.bincount(weekday, minlength=7).min() >= 3 else np.zeros_like(weekday)
    member = (group[:, None] == np.unique(group)[None, :]).astype(np.float64)
    weight = member * rows[:, None]
    means = (weight.T @ levels) / weight.sum(axis=0)[:, None]
    return levels - member @ means, member.shape[1]


def _rolling(values: Array, block: int) -> Array:
    total = np.cumsum(values, axis=0, dtype=np.float64)
    return np.concatenate([total[block - 1 : block], total[block:] - total[:-block]])
