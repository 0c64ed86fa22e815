"""The families of drift: for each watched column, the statistics and p-values that ``drift`` judges.

Every p-value holds the sampling noise of both sides and what the reference's days differ by (``dayvariance``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from holdfast.core.definitions import Drift
from holdfast.core.records import Signal
from holdfast.monitoring import dayvariance as days
from holdfast.monitoring import reference
from holdfast.monitoring.reference import Profile
from holdfast.stats import distance, sketch, tails

Array = npt.NDArray[Any]

UNSEEN_FLOOR = 0.002
TAIL_FLOOR = 0.005
RHO_FLOOR = 0.10


@dataclass(frozen=True)
class View:
    """What all tests of one check share."""

    weights: Array
    whole_days: bool
    days: days.Days
    at: Array | None


@dataclass(frozen=True)
class Test:
    """A signal with what its verdict needs. ``strong``: the effect reaches the floor in the direction that counts."""

    signal: Signal
    strong: bool


def numeric(
    ref: Profile, name: str, window: pa.Table, view: View, drift: Drift, score: str, codes: dict[str, Array]
) -> list[Test]:
    """Shape (for the score: prediction), missing rate and far tail of a numeric column; its bins go to ``codes``."""
    column, base = reference.find(window, name), ref.numeric[name]
    values = _floats(column, name, window.num_rows)
    missing = np.isnan(values)
    n, total = int(len(values) - missing.sum()), len(values)
    tests = [_missing(ref, name, base, int(missing.sum()), total, view, drift, gone=column is None)]
    if name == score:
        tests = []
    if n < drift.minimum or not len(base.cuts):
        if n < drift.minimum and len(base.cuts):
            tests.append(_silent(name, "prediction" if name == score else "shape", "ks", n, drift.minimum))
        return tests
    coded = np.searchsorted(base.cuts, values, side="left")
    codes[name] = coded if not missing.any() else np.where(missing, -1, coded)
    counts = np.bincount(coded[~missing] if missing.any() else coded, minlength=len(base.cuts) + 1)
    expected, m = _expected(base.strata, view.weights)
    gap = (np.cumsum(counts) / n - np.cumsum(expected))[:-1]
    value = float(np.abs(gap).max())
    levels = np.cumsum(base.days, axis=1)[:, :-1]
    spread = view.days.between(levels / np.maximum(base.days.sum(axis=1, keepdims=True), 1), base.days.sum(axis=1))
    coarse_gap = gap[base.coarse]
    at = int(np.abs(coarse_gap).argmax())
    middle = float(np.cumsum(expected)[base.coarse][at] + coarse_gap[at] / 2)
    noise = max(middle * (1 - middle), 1e-9) * (1 / n + 1 / m)
    extra = float(spread.variance[at])
    p_days = tails.t_two_sided(
        float(coarse_gap[at]) / math.sqrt(noise + extra), days.satterthwaite(noise, extra, float(spread.freedom[at]))
    )
    effect = 1 + extra / noise
    p = max(distance.ks_pvalue(value, n / effect, m / effect), p_days)
    direction, message = "", ""
    if value >= drift.ks_floor:
        direction, message = _move(base, values, gap, value)
    family = "prediction" if name == score else "shape"
    signal = Signal(
        name=name,
        family=family,
        statistic="ks",
        value=value,
        floor=drift.ks_floor,
        p=p,
        n=n,
        direction=direction,
        message=message,
    )
    tests.append(Test(signal, value >= drift.ks_floor))
    if name != score and not math.isnan(base.low):
        tests.append(_tail(name, base, values, n, view))
    return tests


def categorical(ref: Profile, name: str, window: pa.Table, view: View, drift: Drift) -> list[Test]:
    """Mix, missing rate and unseen categories of a categorical column."""
    column, base = reference.find(window, name), ref.categorical[name]
    total, width = window.num_rows, len(base.categories)
    if column is None:
        return [_missing(ref, name, base, total, total, view, drift, gone=True)]
    if not reference.is_categorical(column.type):
        column = column.cast(pa.string())
    coded, names = reference.encode(column)
    place = {category: i for i, category in enumerate(base.categories)}
    rank = np.array([place.get(c, width) for c in names] + [-1], np.int64)[coded]
    present = rank >= 0
    n = int(present.sum())
    tests = [_missing(ref, name, base, total - n, total, view, drift, gone=False)]
    if n < drift.minimum or not width:
        if width:
            tests.append(_silent(name, "mix", "tv", n, drift.minimum))
        return tests
    counts = np.bincount(rank[present], minlength=width + 1)
    expected, m = _expected(base.strata, view.weights)
    value = distance.total_variation(counts, expected)
    p = _mix_p(counts, expected, n, m, base, view)
    gap = counts / n - expected
    top = int(np.abs(gap).argmax())
    label = base.categories[top] if top < width else "other"
    message = f"{label!r}: {expected[top]:.1%} → {counts[top] / n:.1%}" if value >= drift.tv_floor else ""
    direction = ("more " if gap[top] > 0 else "fewer ") + repr(label) if message else ""
    tests.append(
        Test(
            Signal(
                name=name,
                family="mix",
                statistic="tv",
                value=value,
                floor=drift.tv_floor,
                p=p,
                n=n,
                direction=direction,
                message=message,
            ),
            value >= drift.tv_floor,
        )
    )
    if base.complete:
        tests.append(_unseen(name, base, rank, coded, names, n, m))
    return tests


def _mix_p(counts: Array, expected: Array, n: int, m: float, base: sketch.Categorical, view: View) -> float:
    """Two-sample chi-squared over categories with enough rows, corrected for how days differ, as an F-test."""
    pooled = (counts + expected * m) / (n + m)
    big = pooled * min(n, m) >= 5
    observed, wanted = counts[big] / n, expected[big]
    if not big.all():
        observed, wanted = np.append(observed, counts[~big].sum() / n), np.append(wanted, expected[~big].sum())
    centre = (observed * n + wanted * m) / (n + m)
    keep = centre > 0
    observed, wanted, centre = observed[keep], wanted[keep], centre[keep]
    if len(observed) < 2:
        return 1.0
    scale = 1 / n + 1 / m
    chi2 = float((((observed - wanted) ** 2) / (centre * scale)).sum())
    per_day = base.days.sum(axis=1)
    share = base.days / np.maximum(per_day[:, None], 1)
    used = base.days.sum(axis=0) > 0
    spread = view.days.between(share[:, used], per_day)
    level = base.days[:, used].sum(axis=0) / max(base.days.sum(), 1)
    extra = float((spread.variance / np.maximum(level, 1e-12)).sum() / scale)
    # Days differ in few directions: all of that variance is put into one, beside df - 1 of pure sampling, and the
    # sum is taken for a scaled chi-squared with the same two moments (Satterthwaite).
    df = len(observed) - 1
    first, second = df + extra, (1 + extra) ** 2 + (df - 1)
    near = first**2 / second
    freedom = days.satterthwaite(1.0, extra, float(spread.freedom.min()) if len(spread.freedom) else math.inf)
    return tails.f_sf(chi2 * first / second / near, near, freedom)


def _missing(
    ref: Profile,
    name: str,
    base: sketch.Numeric | sketch.Categorical,
    count: int,
    total: int,
    view: View,
    drift: Drift,
    *,
    gone: bool,
) -> Test:
    if gone:
        message = "the column is not in the predictions at all"
        return Test(
            Signal(
                name=name,
                family="missing",
                statistic="rate",
                value=1.0,
                floor=drift.missing_floor,
                p=0.0,
                n=total,
                direction="higher",
                message=message,
            ),
            True,
        )
    expected, m = _rate(base.missing_strata, ref.calendar.rows, view.weights)
    value = count / total
    p = _rate_p(count, total, expected, m, base.missing_days, ref.day_rows, view)
    strong = value - expected >= drift.missing_floor
    message = f"missing in {value:.1%} of rows, {expected:.1%} in the reference" if strong else ""
    direction = "higher" if value > expected else "lower" if value < expected else ""
    return Test(
        Signal(
            name=name,
            family="missing",
            statistic="rate",
            value=value,
            floor=drift.missing_floor,
            p=p,
            reference=expected,
            n=total,
            direction=direction,
            message=message,
        ),
        strong,
    )


def _unseen(name: str, base: sketch.Categorical, rank: Array, coded: Array, names: list[str], n: int, m: float) -> Test:
    new = rank == len(base.categories)
    count = int(new.sum())
    floor = max(UNSEEN_FLOOR, 3 * base.novelty)
    examples = ", ".join(repr(names[i])[:40] for i in np.unique(coded[new])[:3]) if count else ""
    strong = count / n >= floor
    return Test(
        Signal(
            name=name,
            family="unseen",
            statistic="rate",
            value=count / n,
            floor=floor,
            p=tails.binomial_sf(count, n, min(1.0, base.novelty + 1 / m)),
            reference=base.novelty,
            n=n,
            direction="higher" if count else "",
            message=f"{count} rows of categories never seen in training: {examples}" if strong else "",
        ),
        strong,
    )


def _tail(name: str, base: sketch.Numeric, values: Array, n: int, view: View) -> Test:
    low, high = values < base.low, values > base.high
    below, above = int(low.sum()), int(high.sum())
    count = below + above
    expected, m = _rate(base.tails_strata, base.strata.sum(axis=1), view.weights)
    value = count / n
    p = _rate_p(count, n, expected, m, base.tails_days, base.days.sum(axis=1), view)
    if count and value - expected >= TAIL_FLOOR:
        p = max(p, _clustered(base, low | high, values, view))
    strong = value - expected >= TAIL_FLOOR
    message = (
        f"{value:.2%} of values outside [{base.low:.4g}, {base.high:.4g}], {expected:.2%} in the reference"
        if strong
        else ""
    )
    return Test(
        Signal(
            name=name, family="tail", statistic="rate", value=value, floor=TAIL_FLOOR, p=p, reference=expected, n=n,
            direction=("above" if above >= below else "below") if strong else "", message=message,
        ),
        strong,
    )  # fmt: skip


def _clustered(base: sketch.Numeric, far: Array, values: Array, view: View) -> float:
    """Extremes come in days (a storm is many rows and one event), so they must rise over the window's days, not only
    over its rows: Mann and Whitney on daily rates. A window of under three days cannot show that; it is trusted only
    where the reference's extremes are spread like chance."""
    rows = base.days.sum(axis=1)
    before = base.tails_days[rows > 0] / rows[rows > 0]
    if view.at is None or len(before) < 8:
        return 0.0
    if int(view.at.max()) < 2:
        mean = base.tails_days.sum() / max(rows.sum(), 1)
        chance = float((mean / rows[rows > 0]).mean())
        return 1.0 if before.var() > 2 * chance else 0.0
    present = ~np.isnan(values)
    each = np.bincount(view.at[present])
    after = np.bincount(view.at[far], minlength=len(each))[each > 0] / each[each > 0]
    return distance.rose_pvalue(before, after)


def _rate_p(count: int, n: int, expected: float, m: float, by_day: Array, day_rows: Array, view: View) -> float:
    """One-sided p-value for a rate that rose: exact and conditional where counts are rare, and never less than what the
    reference's own days allow."""
    other = expected * m
    if count <= n * expected:
        return 1.0
    if min(count, other) < 30:
        p = tails.binomial_sf(count, round(count + other), n / (n + m))
    else:
        pooled = (count + other) / (n + m)
        p = tails.normal_sf((count / n - expected) / math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m)))
    spread = view.days.between((by_day / np.maximum(day_rows, 1))[:, None], day_rows)
    extra = float(spread.variance[0])
    if extra > 0:
        centre = (count / n + expected) / 2
        noise = max(centre * (1 - centre), 1e-9) * (1 / n + 1 / m)
        freedom = days.satterthwaite(noise, extra, float(spread.freedom[0]))
        p = max(p, tails.t_two_sided((count / n - expected) / math.sqrt(noise + extra), freedom) / 2)
    return p


def dependence(ref: Profile, view: View, codes: dict[str, Array], skip: set[str]) -> list[Test]:
    """Rank correlations of all pairs of numeric columns that ``codes`` holds, largest change first, without
    ``skip``."""
    names = [n for n in ref.pair_names if n in codes and n not in skip and n != "score"]
    # Part of a day lacks what columns share over its hours, so it cannot be held against whole days.
    if len(names) < 2 or not len(ref.pair_n) or not view.whole_days:
        return []
    length = len(codes[names[0]])
    chosen = reference.pair_sample(length)
    scores = np.column_stack([reference.rank_scores(codes[n][chosen], ref.numeric[n]) for n in names])
    current = days.correlation(*reference.moments(scores))[0]
    picked = np.array([ref.pair_names.index(n) for n in names])
    base = view.days.correlations(ref.pair_n, ref.pair_sums[:, picked], ref.pair_products[:, picked][:, :, picked])
    upper = np.triu_indices(len(names), 1)
    r, expected = current[upper], base.level[upper]
    gap = r - expected
    noise = 1.06 * (1 - expected**2) ** 2 * (1 / len(scores) + 1 / max(ref.pair_n.sum(), 1)) + 1e-12
    extra = base.variance[upper]
    extra = np.maximum(extra, np.median(extra[np.isfinite(extra)]) if np.isfinite(extra).any() else 0.0)
    z = np.abs(gap) / np.sqrt(noise + extra)
    tests = []
    order = np.argsort(-np.where(np.isfinite(gap), np.abs(gap), -1))
    usable = np.isfinite(gap)
    for i in order:
        if not usable[i]:
            continue
        freedom = days.satterthwaite(float(noise[i]), float(extra[i]), base.freedom)
        # Small gaps cannot alarm; their p-values still count in the family, so they are kept but cheap.
        p = tails.t_two_sided(float(z[i]), freedom) if abs(gap[i]) >= RHO_FLOOR else 1.0
        name = f"{names[upper[0][i]]} × {names[upper[1][i]]}"
        strong = abs(gap[i]) >= RHO_FLOOR
        message = f"rank correlation {expected[i]:+.2f} → {r[i]:+.2f}" if strong else ""
        tests.append(
            Test(
                Signal(
                    name=name,
                    family="dependence",
                    statistic="spearman",
                    value=float(gap[i]),
                    floor=RHO_FLOOR,
                    p=p,
                    reference=float(expected[i]),
                    n=len(scores),
                    direction="higher" if gap[i] > 0 else "lower",
                    message=message,
                ),
                strong,
            )
        )
    return tests


def _expected(strata: Array, weights: Array) -> tuple[Array, float]:
    """The reference's bin shares under the window's calendar, and the rows that carries."""
    rows = strata.sum(axis=1)
    used = (rows > 0) & (weights > 0)
    w = weights[used] / max(weights[used].sum(), 1e-300)
    if not used.any():
        total = strata.sum(axis=0)
        return total / max(total.sum(), 1), float(max(rows.sum(), 1))
    return (w / rows[used]) @ strata[used], float(1 / (w**2 / rows[used]).sum())


def _rate(hits: Array, rows: Array, weights: Array) -> tuple[float, float]:
    shares, m = _expected(np.column_stack([hits, rows - hits]), weights)
    return float(shares[0]), m


def _floats(column: pa.ChunkedArray | None, name: str, rows: int) -> Array:
    if column is None:
        return np.full(rows, np.nan)
    if reference.is_categorical(column.type):
        # The type changed under us: what still reads as a number is one, the rest is missing, and missing alarms.
        return np.array([_number(v) for v in column.to_pylist()], np.float64)
    return reference.floats(column, name)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _move(base: sketch.Numeric, values: Array, gap: Array, value: float) -> tuple[str, str]:
    """Where it went: F of the window below the reference's means higher values."""
    up, down = float(-gap.min()), float(gap.max())
    direction = "higher" if down < value / 3 else "lower" if up < value / 3 else "reshaped"
    now = float(np.nanmedian(values))
    return direction, f"median {base.quantiles[2]:.4g} → {now:.4g} (KS {value:.3f})"


def _silent(name: str, family: str, statistic: str, n: int, minimum: int) -> Test:
    return Test(
        Signal(
            name=name, family=family, statistic=statistic, value=None, n=n, message=f"{n} values, {minimum} are needed"
        ),
        False,
    )
