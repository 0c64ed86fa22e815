"""Features as they were served: how often null, how often beyond the range seen in training, how fresh their source
is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.identity import SECOND, duration_text, iso
from holdfast.core.records import FieldSpec, Signal
from holdfast.monitoring import reference
from holdfast.stats import intervals

RANGE_FLOOR = 0.01
PARITY_FLOOR = 0.01
LEAST_ROWS = 30


def served(window: pa.Table, inputs: Sequence[FieldSpec]) -> list[Signal]:
    """Null rate and out-of-range rate per model input over a window of predictions, each with Wilson's interval.

    A null in an input that may not be null alarms; so does a range left by clearly more than 1 % of values.
    """
    result = []
    for spec in inputs:
        column = reference.find(window, spec.name)
        total = window.num_rows
        if column is None or total < LEAST_ROWS:
            continue
        nulls = column.null_count
        if pa.types.is_floating(column.type):
            nulls += int(pc.sum(pc.is_nan(column)).as_py() or 0)
        low, high = intervals.wilson(nulls, total)
        broken = nulls > 0 and not spec.nullable
        result.append(
            Signal(
                name=spec.name,
                family="nulls",
                statistic="rate",
                value=nulls / total,
                low=low,
                high=high,
                n=total,
                alarm=broken,
                direction="higher" if broken else "",
                message=f"{nulls} nulls in an input that may not be null" if broken else "",
            )
        )
        if (spec.low is None and spec.high is None) or reference.is_categorical(column.type):
            continue
        numbers = pc.drop_null(column.cast(pa.float64()))
        n = len(numbers)
        if not n:
            continue
        outside = 0
        if spec.low is not None:
            outside += int(pc.sum(pc.less(numbers, spec.low)).as_py() or 0)
        if spec.high is not None:
            outside += int(pc.sum(pc.greater(numbers, spec.high)).as_py() or 0)
        low, high = intervals.wilson(outside, n)
        alarm = low > RANGE_FLOOR
        result.append(
            Signal(
                name=spec.name,
                family="range",
                statistic="rate",
                value=outside / n,
                floor=RANGE_FLOOR,
                low=low,
                high=high,
                n=n,
                alarm=alarm,
                direction="outside" if alarm else "",
                message=f"{outside / n:.1%} of values beyond [{spec.low}, {spec.high}]" if alarm else "",
            )
        )
    return result


def freshness(newest: Mapping[str, int | None], *, now: int, limits: Mapping[str, int]) -> list[Signal]:
    """The age of each source's newest event, in seconds, against its limit (µs) where one is given.

    ``newest`` is the event time of the newest row by source, None where nothing ever came.
    """
    result = []
    for name, at in sorted(newest.items()):
        limit = limits.get(name)
        age = None if at is None else max(0, now - at)
        alarm = limit is not None and (age is None or age > limit)
        message = ""
        if alarm and limit is not None:
            last = "nothing ever came" if at is None else f"the newest row is of {iso(at)}"
            message = f"{last}; at most {duration_text(limit)} old is expected"
        result.append(
            Signal(
                name=name,
                family="freshness",
                statistic="age",
                value=None if age is None else age / SECOND,
                floor=None if limit is None else limit / SECOND,
                n=0 if at is None else 1,
                alarm=alarm,
                direction="late" if alarm else "",
                message=message,
            )
        )
    return result


def parity(entries: Sequence[Mapping[str, Any]]) -> list[Signal]:
    """Per feature the share of served values that recomputing does not give, from ``features.parity.verify``.

    An unequal value alarms at once; stale and missing ones when Wilson's interval of their share lies above 1 %.
    """
    result = []
    for entry in entries:
        rows, behind = int(entry["rows"]), int(entry["stale"]) + int(entry["missing"])
        if not rows:
            continue
        low, high = intervals.wilson(behind, rows)
        alarm = entry["unequal"] > 0 or low > PARITY_FLOOR
        message = ""
        if entry["unequal"] or behind:
            message = f"{entry['unequal']} unequal, {entry['stale']} stale, {entry['missing']} missing of {rows}"
            for example in entry["examples"][:1]:
                message += f"; {example['id']} was served {example['served']}, wanted {example['wanted']}"
        result.append(
            Signal(
                name=str(entry["feature"]),
                family="parity",
                statistic="rate",
                value=(entry["unequal"] + behind) / rows,
                floor=PARITY_FLOOR,
                low=low,
                high=high,
                n=rows,
                alarm=alarm,
                direction="skewed" if alarm else "",
                message=message,
            )
        )
    return result
