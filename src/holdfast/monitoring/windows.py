"""Stretches of the prediction log, and the truth joined to them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def cut(predictions: pa.Table, *, start: int, end: int, version: int | None = None, arm: str | None = None) -> pa.Table:
    """Predictions with start <= request_time < end (microseconds UTC), of one version and arm where given.

    Without ``arm``, shadow predictions are left out: they answered nobody, and share ids with those that did.
    """
    time = predictions["request_time"]
    keep = pc.and_(pc.greater_equal(time, start), pc.less(time, end))
    if version is not None:
        keep = pc.and_(keep, pc.equal(predictions["version"], version))
    if arm is not None:
        keep = pc.and_(keep, pc.equal(predictions["arm"], arm))
    elif "arm" in predictions.column_names:
        keep = pc.and_(keep, pc.not_equal(predictions["arm"], "shadow"))
    return predictions.filter(keep)


def join(predictions: pa.Table, labels: pa.Table) -> pa.Table:
    """The predictions in their order, with ``label`` and ``label_at`` (null where the truth is not known yet).

    ``labels`` is what ``LabelStore.read`` gives: one row per prediction id.
    """
    place = pc.index_in(predictions["id"].cast(pa.string()), value_set=labels["prediction_id"].combine_chunks())
    return predictions.append_column("label", labels["value"].take(place)).append_column(
        "label_at", labels["at"].take(place)
    )


def days(start: int, end: int, *, length: int, every: int) -> list[tuple[int, int]]:
    """The windows of ``length`` that end at each multiple of ``every`` in (start, end], oldest first; microseconds."""
    first = (start // every + 1) * every
    return [(tick - length, tick) for tick in range(first, end + 1, every)]
