"""Single rows unlike anything in training: values far outside, categories never seen, combinations that did not occur.

Per column: a value further from the median than twice the reference's 0.1 or 99.9 % quantile is far outside; that
scales with the column's own tails, so heavy tails do not make outliers of everything. Per row: the squared
Mahalanobis distance of its reference ranks from the reference's rank correlations, beyond the chi-squared quantile of
one in a million, is an unseen combination. A row is an outlier, never an alarm: the share of such rows is a signal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from holdfast.core.records import Json, Signal
from holdfast.monitoring import dayvariance, reference
from holdfast.monitoring.reference import Profile
from holdfast.stats import tails

Array = npt.NDArray[Any]

FLOOR = 0.005
ONE_IN = 1e-6
SHOWN = 20


@dataclass(frozen=True)
class Outliers:
    """``rows`` (n,) bool: which rows are outliers; ``columns``: how many per column; ``joint``: how many combinations;
    ``examples``: the first few, with id where the window has one, column, value and the bounds."""

    rows: Array
    columns: dict[str, int]
    joint: int
    examples: list[Json]

    @property
    def count(self) -> int:
        return int(self.rows.sum())


def find(profile: bytes, window: pa.Table, *, skip: tuple[str, ...] = ("score",)) -> Outliers:
    """The outlying rows of a window of predictions, columns found as in ``drift.compare``.

    Raises:
        Damaged: the profile's bytes are broken.
    """
    ref = reference.load(profile)
    total = window.num_rows
    outlying = np.zeros(total, bool)
    columns: dict[str, int] = {}
    examples: list[Json] = []
    ids = window["id"] if "id" in window.column_names else None
    for name in (*ref.numeric, *ref.categorical):
        column = reference.find(window, name)
        if column is None or name in skip or not total:
            continue
        if name in ref.numeric:
            if reference.is_categorical(column.type) or pa.types.is_list(column.type):
                continue
            low, high = bounds(ref, name)
            values = reference.floats(column, name)
            far = (values < low) | (values > high)
            shown: Json = {"low": low, "high": high}
        else:
            base = ref.categorical[name]
            if not base.complete or not reference.is_categorical(column.type):
                continue
            codes, names = reference.encode(column)
            unseen = np.array([c not in set(base.categories) for c in names] + [False])
            far = unseen[codes]
            shown = {"known": len(base.categories)}
        count = int(far.sum())
        if count:
            columns[name] = count
            outlying |= far
            for i in np.flatnonzero(far)[: max(0, SHOWN - len(examples))]:
                examples.append(_example(ids, int(i), name, column[int(i)].as_py(), shown))
    joint = _joint(ref, window, skip) & ~outlying
    for i in np.flatnonzero(joint)[: max(0, SHOWN - len(examples))]:
        examples.append(_example(ids, int(i), "combination", None, {}))
    return Outliers(outlying | joint, columns, int(joint.sum()), examples)


def bounds(ref: Profile, name: str) -> tuple[float, float]:
    """Where a numeric column's values become outliers."""
    base = ref.numeric[name]
    middle = float(base.quantiles[2])
    return base.low - (middle - base.low), base.high + (base.high - middle)


def signals(found: Outliers) -> list[Signal]:
    """One signal for all rows and one per column that has outliers; above half a percent of rows, clearly so,
    alarms."""
    total = len(found.rows)
    result = [_signal("rows", found.count, total)]
    result += [_signal(name, count, total) for name, count in sorted(found.columns.items(), key=lambda c: -c[1])]
    if found.joint:
        result.append(_signal("combination", found.joint, total))
    return result


def _signal(name: str, count: int, total: int) -> Signal:
    p = tails.binomial_sf(count, total, FLOOR) if total else None
    alarm = p is not None and p < 0.001
    return Signal(
        name=name,
        family="outliers",
        statistic="rate",
        value=count / total if total else None,
        floor=FLOOR,
        p=p,
        n=total,
        alarm=alarm,
        message=f"{count} of {total} rows are unlike anything in training" if alarm else "",
    )


def _joint(ref: Profile, window: pa.Table, skip: tuple[str, ...]) -> Array:
    names = [n for n in ref.pair_names if n not in skip]
    columns = {n: reference.find(window, n) for n in names}
    names = [n for n in names if (c := columns[n]) is not None and not reference.is_categorical(c.type)]
    names = [n for n in names if len(ref.numeric[n].cuts) > 8]
    if len(names) < 2 or not len(ref.pair_n):
        return np.zeros(window.num_rows, bool)
    picked = np.array([ref.pair_names.index(n) for n in names])
    rows = np.array([ref.pair_n.sum()])
    sums = ref.pair_sums[:, picked].sum(axis=0)[None]
    products = ref.pair_products[:, picked][:, :, picked].sum(axis=0)[None]
    correlation = np.nan_to_num(dayvariance.correlation(rows, sums, products)[0])
    np.fill_diagonal(correlation, 1.0)
    scores = np.zeros((window.num_rows, len(names)))
    for j, name in enumerate(names):
        column = columns[name]
        assert column is not None
        values = reference.floats(column, name)
        codes = np.searchsorted(ref.numeric[name].cuts, values, side="left")
        scores[:, j] = reference.rank_scores(np.where(np.isnan(values), -1, codes), ref.numeric[name])
    deviation = np.sqrt(np.maximum(np.einsum("ii->i", products[0]) / rows[0] - (sums[0] / rows[0]) ** 2, 1e-6))
    scores = (scores - sums[0] / rows[0]) / deviation
    # A little ridge keeps copies of one column from making every rounding difference an outlier.
    inverse = np.linalg.inv(correlation + 0.05 * np.eye(len(names)))
    distance = np.einsum("ij,jk,ik->i", scores, inverse, scores)
    return np.asarray(distance > _quantile(len(names)))


def _quantile(df: int) -> float:
    """The chi-squared value that one in a million exceeds, by bisection."""
    low, high = float(df), 20.0 * df + 200.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if tails.chi2_sf(middle, df) > ONE_IN else (low, middle)
    return high


def _example(ids: pa.ChunkedArray | None, row: int, column: str, value: Any, more: Json) -> Json:
    return {"row": row, "id": ids[row].as_py() if ids is not None else None, "column": column, "value": value, **more}
