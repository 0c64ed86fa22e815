"""Column sketches kept per day and per calendar stratum, so that a window can be compared with days like its own.

A numeric column is counted into at most 512 quantile bins, a categorical one by its most frequent categories. Each is
counted per stratum (weekday x quarter of the day, 28 in all, UTC) at full resolution and per day at 64 bins: the first
gives the distribution to expect on such days, the second how much days differ without anything being wrong.
Instants are int64 microseconds UTC.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CUTS = 511
COARSE = 63
CATEGORIES = 512
SAMPLE = 200_000
STRATA = 28
_QUARTER = 6 * 3_600_000_000
_HOUR = 3_600_000_000
_DAY = 24 * _HOUR
TAIL = 0.001


def stratum_of(times: Array) -> Array:
    """Weekday (0 = Thursday, the epoch's) x quarter of the day, per instant."""
    quarters = times // _QUARTER
    return np.asarray((quarters // 4 % 7) * 4 + quarters % 4)


@dataclass(frozen=True)
class Calendar:
    """Which days a sketch covers: day numbers (R,) since the epoch, and rows per stratum (28,)."""

    days: Array
    rows: Array

    def exposure(self) -> Array:
        """How many quarters of days of each stratum the covered days hold, (28,)."""
        counts = np.bincount(self.days % 7, minlength=7)
        return np.repeat(counts, 4).astype(np.float64)


def window_exposure(start: int, end: int) -> Array:
    """Hours of [start, end) that fall into each stratum, (28,), hours being taken whole."""
    first, last = start // _HOUR, max(-(-end // _HOUR), start // _HOUR + 1)
    weeks, rest = divmod(last - first, 168)
    hours = np.arange(first, first + rest, dtype=np.int64) * _HOUR
    return np.asarray(np.bincount(stratum_of(hours), minlength=STRATA) + 6.0 * weeks)


def like_for_like(calendar: Calendar, start: int, end: int) -> Array:
    """Weights (28,), summing to 1, that make the reference's strata what a window over [start, end) would see if
    nothing changed: the hours covered times the reference's own traffic per hour. Strata on days that the reference
    lacks are taken to look like all of it."""
    exposure, covered, rows = window_exposure(start, end), calendar.exposure(), calendar.rows.astype(np.float64)
    weights = np.zeros(STRATA)
    lost = 0.0
    for stratum in np.flatnonzero(exposure):
        if covered[stratum]:
            weights[stratum] += exposure[stratum] * rows[stratum] / covered[stratum]
        else:
            lost += exposure[stratum]
    total = rows.sum()
    weights += rows * (lost / max(covered.sum(), 1.0))
    return np.asarray(weights / weights.sum() if weights.sum() else rows / max(total, 1.0))


@dataclass(frozen=True)
class Numeric:
    """``cuts`` (K,) ascending; ``strata`` (28, K + 1) counts per bin, bin i being (cuts[i-1], cuts[i]]; ``coarse``
    (63,) indices into ``cuts``; ``days`` (R, 64) counts between them; missing per stratum and day; ``low``/``high``
    the far tail's bounds; ``quantiles`` (5,, 25, 50, 75, 95 %)."""

    cuts: Array
    strata: Array
    coarse: Array
    days: Array
    missing_strata: Array
    missing_days: Array
    low: float
    high: float
    tails_strata: Array
    tails_days: Array
    quantiles: Array


@dataclass(frozen=True)
class Categorical:
    """``categories`` by falling count; the last column of ``strata`` (28, K + 1) is everything else. ``complete``:
    every category of the reference is in the list. ``novelty`` is the share of new categories to expect of any new
    day."""

    categories: list[str]
    complete: bool
    novelty: float
    strata: Array
    days: Array
    missing_strata: Array
    missing_days: Array


def numeric(values: Array, strata: Array, days: Array, day_count: int) -> tuple[Numeric, Array]:
    """Sketch a float column; NaN is missing. ``days`` are indices into the covered days. Beside it, the bin of each
    value (int16, -1 for missing). Above 200,000 rows cuts are quantiles of every k-th value; counts are of all."""
    missing = np.isnan(values)
    clean = values[~missing] if missing.any() else values
    sample = clean[:: max(1, len(clean) // SAMPLE)]
    ordered = np.sort(sample[np.isfinite(sample)])
    cuts = _cuts(ordered)
    codes = np.searchsorted(cuts, values, side="left").astype(np.int16)
    codes[missing] = -1
    width = len(cuts) + 1
    keep = ~missing
    coarse = (
        np.unique(np.linspace(0, len(cuts) - 1, min(COARSE, len(cuts))).round().astype(np.int64))
        if len(cuts)
        else np.zeros(0, np.int64)
    )
    coarse = np.concatenate([coarse, np.full(COARSE - len(coarse), len(cuts) - 1 if len(cuts) else 0, np.int64)])
    blocks = np.searchsorted(coarse, np.arange(width), side="left")[codes]
    low, high = (math.nan, math.nan)
    quantiles = np.full(5, math.nan)
    if len(ordered):
        hair = _hair(float(ordered[0]), float(ordered[-1]))
        low, high = float(_at(ordered, TAIL)) - hair, float(_at(ordered, 1 - TAIL)) + hair
        quantiles = np.array([_at(ordered, q) for q in (0.05, 0.25, 0.5, 0.75, 0.95)])
    tail = keep & ((values < low) | (values > high))
    sketched = Numeric(
        cuts=cuts,
        strata=_table(strata[keep], codes[keep], STRATA, width),
        coarse=coarse,
        days=_table(days[keep], blocks[keep], day_count, COARSE + 1),
        missing_strata=np.bincount(strata[missing], minlength=STRATA),
        missing_days=np.bincount(days[missing], minlength=day_count),
        low=low,
        high=high,
        tails_strata=np.bincount(strata[tail], minlength=STRATA),
        tails_days=np.bincount(days[tail], minlength=day_count),
        quantiles=quantiles,
    )
    return sketched, codes


def categorical(codes: Array, names: list[str], strata: Array, days: Array, day_count: int) -> Categorical:
    """Sketch a column of dictionary ``codes`` into ``names``; a negative code is missing."""
    missing = codes < 0
    keep = ~missing
    counts = np.bincount(codes[keep], minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    kept = order[:CATEGORIES]
    rank = np.full(len(names) + 1, len(kept), np.int64)
    rank[kept] = np.arange(len(kept))
    ranked = rank[codes]
    blocks = np.minimum(ranked, COARSE)
    return Categorical(
        categories=[names[i] for i in kept],
        complete=len(order) <= CATEGORIES,
        novelty=_novelty(codes[keep], days[keep], counts, day_count),
        strata=_table(strata[keep], ranked[keep], STRATA, len(kept) + 1),
        days=_table(days[keep], blocks[keep], day_count, COARSE + 1),
        missing_strata=np.bincount(strata[missing], minlength=STRATA),
        missing_days=np.bincount(days[missing], minlength=day_count),
    )


def _at(ordered: Array, q: float) -> Any:
    """The q-quantile of sorted values: the nearest one."""
    return ordered[round(q * (len(ordered) - 1))]


def _cuts(ordered: Array) -> Array:
    """Quantile cuts of sorted finite values, each moved up by a hair so that rounding noise is no change, and one
    below the least value so that a move downwards is seen even of a constant column."""
    if not len(ordered):
        return np.zeros(0)
    distinct = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) > 1 else ordered
    if len(distinct) > CUTS:
        positions = np.linspace(0, len(ordered) - 1, CUTS).round().astype(np.int64)
        picked = ordered[positions]
        distinct = picked[np.concatenate([[True], picked[1:] != picked[:-1]])]
    hair = _hair(float(distinct[0]), float(distinct[-1]))
    return np.concatenate([[distinct[0] - hair], distinct + hair])


def _hair(low: float, high: float) -> float:
    """What is less than rounding noise for values between these."""
    return 1e-9 * (high - low) if high > low else max(1e-6 * abs(low), 1e-9)


def _novelty(codes: Array, days: Array, counts: Array, day_count: int) -> float:
    """The larger of Good and Turing's estimate (singletons / n) and the share of the last quarter of days that the days
    before had never seen."""
    n = len(codes)
    if not n:
        return 0.0
    turing = float((counts == 1).sum()) / n
    if day_count < 4:
        return turing
    border = day_count - max(1, day_count // 4)
    early = np.zeros(len(counts), bool)
    early[codes[days < border]] = True
    late = codes[days >= border]
    return max(turing, float((~early[late]).mean()) if len(late) else 0.0)


def _table(rows: Array, columns: Array, height: int, width: int) -> Array:
    return np.bincount(rows * width + columns, minlength=height * width).reshape(height, width)
