"""Has the data moved? A window of predictions against the reference profile of the training data.

A thing alarms when all of these hold:

1. like with like: the reference is weighted to the weekdays and hours that the window covers;
2. effect: the change is at least its family's floor;
3. chance: its p-value passes Benjamini-Hochberg within its family, at ``rate`` divided by the number of families, so
   that ``rate`` bounds false alarms of the whole check; rare counts are judged by exact binomials;
4. days: the p-value counts how much the reference's own days and blocks of days differ (a design effect, after Rao and
   Scott 1984, Ann. Stat. 12, and Student's t with the degrees of freedom those few blocks carry);
5. sample: at least ``minimum`` rows, otherwise nothing is said.

Families: shape (numeric distributions, KS), mix (categories, total variation), missing, unseen (new categories), tail
(beyond the reference's 0.1 and 99.9 %), dependence (rank correlations), prediction (the score).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from holdfast.core.definitions import Drift
from holdfast.core.errors import BadInput
from holdfast.core.identity import duration_us
from holdfast.core.records import Signal
from holdfast.monitoring import dayvariance as days
from holdfast.monitoring import families, reference
from holdfast.monitoring.families import Test, View
from holdfast.monitoring.reference import DAY, Profile
from holdfast.stats import distance, multiplicity, sketch

Array = npt.NDArray[Any]

SHOWN_PAIRS = 20
FAMILIES = ("shape", "mix", "missing", "unseen", "tail", "dependence", "prediction")


def profile(table: pa.Table, times: Array, *, columns: Sequence[str]) -> bytes:
    """The reference profile of a training table: ``columns`` sketched per day and calendar stratum.

    ``times`` (n,) are the rows' instants, microseconds UTC. Include the model's score as a column ``score``.

    Raises:
        BadInput: a column is missing or cannot be watched, or times do not fit.
    """
    return reference.build(table, times, columns=columns)


def compare(
    profile: bytes, window: pa.Table, *, drift: Drift, times: Array | None = None, score: str = "score"
) -> list[Signal]:
    """Judge a window of predictions; one Signal per feature and family, alarms first.

    Columns are found by their own name or as ``features.<name>`` / ``inputs.<name>``. ``times`` (n,) are the rows'
    instants (default: the column ``request_time``); without them the calendar is not matched.

    Raises:
        Damaged: the profile's bytes are broken.
        BadInput: ``drift.columns`` names what the profile does not hold.
    """
    ref = reference.load(profile)
    names = _watched(ref, drift, score)
    rows = window.num_rows
    if rows < drift.minimum:
        message = f"{rows} rows, {drift.minimum} are needed to say anything"
        return [
            Signal(
                name=n, family=_family(ref, n, score), statistic=_statistic(ref, n), value=None, n=rows, message=message
            )
            for n in names
        ]
    view = _view(ref, window, drift, times)
    found: list[Test] = []
    codes: dict[str, Array] = {}
    for name in names:
        if name in ref.numeric:
            found += families.numeric(ref, name, window, view, drift, score, codes)
        else:
            found += families.categorical(ref, name, window, view, drift)
    found += families.dependence(
        ref, view, codes, {t.signal.name for t in found if t.signal.family == "missing" and t.strong}
    )
    return _judge(found, drift.rate)


def naive_ks(reference: Mapping[str, Array], window: Mapping[str, Array]) -> dict[str, float]:
    """The everyday rule for comparison: a two-sample KS p-value per column, nothing else considered.

    Columns are 1-d float arrays; NaN is dropped. Columns without values get NaN.
    """
    result = {}
    for name in reference:
        if name in window:
            a, b = np.asarray(reference[name], float), np.asarray(window[name], float)
            n, m = int((~np.isnan(a)).sum()), int((~np.isnan(b)).sum())
            result[name] = distance.ks_pvalue(distance.ks_statistic(a, b), n, m)
    return result


def _watched(ref: Profile, drift: Drift, score: str) -> list[str]:
    known = [*ref.numeric, *ref.categorical]
    if drift.columns is None:
        return known
    missing = [c for c in drift.columns if c not in known]
    if missing:
        raise BadInput(
            f"drift watches {missing[0]!r}, which the reference profile does not hold",
            hint=f"it holds: {', '.join(known[:12])}",
        )
    return [*drift.columns, *([score] if score in ref.numeric and score not in drift.columns else [])]


def _view(ref: Profile, window: pa.Table, drift: Drift, times: Array | None) -> View:
    if times is None and "request_time" in window.column_names:
        column = window.column("request_time")
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us")).cast(pa.int64())
        times = np.asarray(column.to_numpy())
    calendar = ref.calendar
    if times is None or not len(times):
        weights, length = calendar.rows / calendar.rows.sum(), duration_us(drift.window) / DAY
    else:
        start, end = int(times.min()), int(times.max()) + 1
        weights, length = sketch.like_for_like(calendar, start, end), math.ceil((end - start) / DAY * 4) / 4
    at = None if times is None or not len(times) else np.unique(times // DAY, return_inverse=True)[1]
    return View(weights, length > 0.75, days.Days(calendar.days, length, weights, calendar.rows), at)


def _judge(tests: list[Test], rate: float) -> list[Signal]:
    """Benjamini-Hochberg within each family, the rate shared out over the families that have something to say."""
    families = {t.signal.family for t in tests if t.signal.p is not None}
    result: list[Signal] = []
    for family in FAMILIES:
        members = [t for t in tests if t.signal.family == family]
        spoken = [t for t in members if t.signal.p is not None and not math.isnan(t.signal.p)]
        passed = (
            multiplicity.benjamini_hochberg(np.array([t.signal.p for t in spoken]), rate / len(families))
            if spoken
            else np.zeros(0, bool)
        )
        judged = [_with(t.signal, bool(t.strong and ok)) for t, ok in zip(spoken, passed, strict=True)]
        if family == "dependence":
            judged = judged[: max(SHOWN_PAIRS, 0)] if any(s.alarm for s in judged) else judged[:1]
        result += judged + [t.signal for t in members if t.signal.p is None or math.isnan(t.signal.p)]
    return sorted(result, key=lambda s: (not s.alarm, FAMILIES.index(s.family)))


def _with(signal: Signal, alarm: bool) -> Signal:
    return msgspec.structs.replace(signal, alarm=alarm, message=signal.message if alarm else "")


def _family(ref: Profile, name: str, score: str) -> str:
    return "prediction" if name == score else "shape" if name in ref.numeric else "mix"


def _statistic(ref: Profile, name: str) -> str:
    return "ks" if name in ref.numeric else "tv"
