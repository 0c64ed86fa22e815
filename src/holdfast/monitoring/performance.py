"""Realised performance: the metrics of predictions whose truth is known, each with its interval and what it rests
on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.errors import BadInput
from holdfast.core.records import Signal
from holdfast.stats import intervals
from holdfast.stats import metrics as catalogue

Array = npt.NDArray[Any]


def measure(
    joined: pa.Table,
    *,
    metrics: Sequence[str],
    threshold: float | None = None,
    positive: Any = 1,
    classes: Sequence[Any] | None = None,
    floors: Mapping[str, float] | None = None,
    confidence: float = 0.95,
) -> list[Signal]:
    """One signal per metric, then ``coverage``: the share of predictions whose truth is known, with Wilson's interval.

    Args:
        joined: predictions with ``label`` (``windows.join``); rows without a label or a score are left out.
        metrics: names as in ``stats.metrics``.
        threshold: the deployed one, for class metrics of a binary score (default 0.5).
        positive: the label that counts as 1 for a binary score.
        classes: labels in the order of a multiclass score's columns.
        floors: per metric, the level whose crossing by the whole interval is an alarm (a ceiling where lower is
        better).

    Raises:
        NotFound: an unknown metric.
        BadInput: labels or scores do not fit the metric.
    """
    definitions = [(name, catalogue.get(name)) for name in metrics]
    known = pc.is_valid(joined["label"])
    labelled = int(pc.sum(known).as_py() or 0)
    usable = joined.filter(pc.and_(known, pc.is_valid(joined["score"])))
    lost = labelled - usable.num_rows
    result = []
    for name, definition in definitions:
        y, score = _arrays(usable, definition.kind, positive, classes)
        if np.ndim(score) == 2 and "multiclass" not in definition.tasks:
            fits = ", ".join(n for n, d in catalogue.METRICS.items() if "multiclass" in d.tasks)
            raise BadInput(f"{name} is not defined for a score per class", hint=f"monitor one of: {fits}")
        result.append(
            _signal(
                name,
                definition,
                y,
                score,
                0.5 if threshold is None else threshold,
                (floors or {}).get(name),
                confidence,
                usable.num_rows,
            )
        )
    low, high = intervals.wilson(labelled, joined.num_rows, confidence=confidence)
    share = labelled / joined.num_rows if joined.num_rows else None
    note = f"{lost} labelled predictions have no score" if lost else ""
    result.append(
        Signal(
            name="coverage",
            family="labels",
            statistic="coverage",
            value=share,
            low=low,
            high=high,
            n=joined.num_rows,
            message=note,
        )
    )
    return result


def _signal(
    name: str,
    definition: catalogue.Metric,
    y: Array,
    score: Array,
    threshold: float,
    floor: float | None,
    confidence: float,
    rows: int,
) -> Signal:
    if not rows:
        return Signal(
            name=name, family="performance", statistic="metric", value=None, floor=floor, n=0, message="no labels yet"
        )
    found = intervals.metric(name, y, score, threshold=threshold, confidence=confidence)
    if math.isnan(found.figure):
        return Signal(
            name=name,
            family="performance",
            statistic="metric",
            value=None,
            floor=floor,
            n=found.n,
            message=f"{name} is undefined on these {rows} rows",
        )
    low, high = _bound(found.low), _bound(found.high)
    better = definition.greater_is_better
    alarm = floor is not None and (
        (better and high is not None and high < floor) or (not better and low is not None and low > floor)
    )
    message = f"{name} {found.figure:.4g} is wholly {'below' if better else 'above'} {floor:.4g}" if alarm else ""
    return Signal(
        name=name,
        family="performance",
        statistic="metric",
        value=found.figure,
        floor=floor,
        low=low,
        high=high,
        n=found.n,
        alarm=alarm,
        direction="worse" if alarm else "",
        message=message,
    )


def _arrays(table: pa.Table, kind: str, positive: Any, classes: Sequence[Any] | None) -> tuple[Array, Array]:
    label, score = table["label"], table["score"]
    if pa.types.is_list(score.type) or pa.types.is_large_list(score.type) or pa.types.is_fixed_size_list(score.type):
        if not classes:
            raise BadInput("a multiclass score needs the classes of its columns", hint="pass classes=package.classes")
        place = {_key(c): i for i, c in enumerate(classes)}
        y = np.array([place.get(_key(v), -1) for v in label.to_pylist()], np.int64)
        matrix = np.array(score.to_pylist(), np.float64).reshape(len(y), -1)
        return y[y >= 0], matrix[y >= 0]
    values = np.asarray(score.cast(pa.float64()).to_numpy(), np.float64)
    if kind == "value":
        if not pa.types.is_floating(label.type):
            raise BadInput(
                "these labels are text and cannot be measured as numbers", hint="a regression needs numeric labels"
            )
        return np.asarray(label.to_numpy(), np.float64), values
    if pa.types.is_floating(label.type):
        number = _number(positive)
        if number is None:
            raise BadInput(
                f"labels are numbers, but the positive class is {positive!r}", hint="send labels as the model's classes"
            )
        return np.asarray(label.to_numpy() == number, np.int64), values
    truth = np.array([_key(v) == _key(positive) for v in label.to_pylist()], np.int64)
    return truth, values


def _key(value: Any) -> Any:
    number = _number(value)
    return str(value) if number is None else number


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _bound(value: float) -> float | None:
    return value if math.isfinite(value) else None
