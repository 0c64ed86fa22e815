"""Spine + features + label → a training set under a hash of everything it came from.

Labels are as known at ``as_of``: a label whose arrival (else event time) lies after it does not exist yet. The split is
time-ordered: train | tune | test, the newest rows last, so that nothing is judged on rows older than it was fitted on.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from holdfast.core.definitions import Label, Model, TimeSplit
from holdfast.core.errors import BadData, BadDefinition, NotFound
from holdfast.core.identity import digest, duration_us, iso
from holdfast.core.records import TrainingSet

LABEL = "__label__"
Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Split:
    """Row numbers into the training table, each ascending in time."""

    train: Indices
    tune: Indices
    test: Indices


def times_us(column: pa.ChunkedArray | pa.Array) -> Indices:
    """A timestamp (any unit, zone; naive = UTC) or integer column as int64 µs. Nanoseconds are floored.

    Raises:
        BadData: nulls, or a type that is no instant.
    """
    if column.null_count:
        raise BadData(f"{column.null_count} rows have no timestamp", hint="drop or mend these rows")
    if pa.types.is_timestamp(column.type):
        values = column.cast(pa.int64()).to_numpy()
        per_us = {"s": 1_000_000, "ms": 1_000, "us": 1}.get(column.type.unit)
        return np.asarray(values * per_us if per_us else np.floor_divide(values, 1_000), dtype=np.int64)
    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy(), dtype=np.int64)
    raise BadData(f"a timestamp column has type {column.type}", hint="make it a timestamp, or int64 microseconds UTC")


def join_labels(table: pa.Table, labels: pa.Table, label: Label, *, as_of: int) -> pa.Table:
    """``table`` in its order with one more column, LABEL (float64, null where not known at ``as_of``).

    The newest of several labels for one key wins, by (event time, arrival).

    Raises:
        NotFound: a key or label column is missing on one side.
        BadData: a label is no number.
    """
    for side, where in ((table, "spine"), (labels, f"label source {label.source.name!r}")):
        for key in label.key:
            if key not in side.column_names:
                raise NotFound.among(f"column of the {where}", key, side.column_names)
    if label.column not in labels.column_names:
        raise NotFound.among(f"column of label source {label.source.name!r}", label.column, labels.column_names)
    known_column = label.source.arrival or label.source.timestamp
    if known_column is not None:
        known = times_us(labels[known_column])
        keep = known <= as_of
        labels = labels.filter(pa.array(keep))
        event = times_us(labels[label.source.timestamp]) if label.source.timestamp else known[keep]
        order = np.lexsort((known[keep], event))
        labels = labels.take(pa.array(order))
    try:
        values = np.asarray(labels[label.column].cast(pa.float64()).to_numpy(zero_copy_only=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        some = labels[label.column].drop_null().slice(0, 1).to_pylist()
        raise BadData(
            f"the label {label.column!r} of source {label.source.name!r} is no number: {some[0] if some else ''!r}",
            hint="give classes as numbers, 0, 1, 2 …: one more column of the source",
        ) from None
    index = _last_position(labels, table, label)
    found = np.where(index >= 0, values[index] if len(values) else np.nan, np.nan)
    return table.append_column(LABEL, pa.array(found, type=pa.float64(), from_pandas=True))


def _last_position(labels: pa.Table, table: pa.Table, label: Label) -> Indices:
    """For each row of ``table`` the last row of ``labels`` with the same key, -1 where there is none."""
    if len(label.key) == 1:
        left, right = table[label.key[0]].combine_chunks(), labels[label.key[0]].combine_chunks()
        right = right.cast(left.type) if right.type != left.type else right
    else:
        left, right = ([tuple(r.values()) for r in t.select(list(label.key)).to_pylist()] for t in (table, labels))
        codes: dict[object, int] = {}
        right = pa.array([codes.setdefault(r, len(codes)) for r in right], type=pa.int64())
        left = pa.array([codes.get(r, -1) for r in left], type=pa.int64())
    # index_in finds the first match, so the newest label goes first.
    reverse = right.take(pa.array(np.arange(len(right) - 1, -1, -1)))
    first = pc.index_in(left, value_set=reverse, skip_nulls=True).fill_null(-1).to_numpy(zero_copy_only=False)
    return np.where(first >= 0, len(right) - 1 - first, -1).astype(np.int64)


def split_by_time(times: Indices, labelled: np.ndarray[Any, Any], split: TimeSplit) -> Split:
    """Cut the labelled rows into train | tune | test along time. Rows of one instant never straddle a cut.

    Raises:
        BadData: a part comes out empty.
    """
    rows = np.flatnonzero(labelled)
    rows = rows[np.argsort(times[rows], kind="stable")]
    if len(rows) < 3:
        raise BadData(
            f"{len(rows)} labelled rows are too few to train, tune and test on",
            hint="wait for labels, or widen the window",
        )
    at = times[rows]

    def cut(part: Any, end: int) -> int:
        """First position of a part that ends at position ``end``."""
        if part is None:
            return 0
        if isinstance(part, float):
            start = max(end - round(part * len(rows)), 0)
            return int(np.searchsorted(at, at[min(start, len(at) - 1)], "left"))
        return int(np.searchsorted(at, at[end - 1] - duration_us(part), "right")) if end else 0

    test_from = cut(split.test, len(rows))
    tune_from = cut(split.tune, test_from)
    train_from = cut(split.train, tune_from)
    parts = Split(rows[train_from:tune_from], rows[tune_from:test_from], rows[test_from:])
    for name, part in (("train", parts.train), ("tune", parts.tune), ("test", parts.test)):
        if len(part) == 0:
            raise BadData(
                f"the time split leaves no labelled rows to {name} on (labelled rows from {iso(int(at[0]))} to {iso(int(at[-1]))})",
                hint="shorten the other parts of TimeSplit, or wait for more labels",
            )
    return parts


def matrix(table: pa.Table, columns: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The named columns as float64 (n, d) with NaN for null.

    Raises:
        NotFound: a column is missing.
        BadDefinition: a column is not numeric.
    """
    out = np.empty((table.num_rows, len(columns)), dtype=np.float64)
    for i, name in enumerate(columns):
        if name not in table.column_names:
            raise NotFound.among("feature column", name, table.column_names)
        column = table[name]
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        if not (
            pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)
        ):
            raise BadDefinition(
                f"feature {name!r} is {column.type}; a model takes numbers",
                hint=f"list it in FeatureService(hidden=[{name!r}]) and turn it into a number with @hf.on_demand",
            )
        out[:, i] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return out


def to_parquet(table: pa.Table) -> bytes:
    """The same table always gives the same bytes with the same writer version."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=131_072)
    return sink.getvalue()


def describe(
    model: Model,
    table: pa.Table,
    *,
    timestamp: str,
    columns: list[str],
    features: Mapping[str, str],
    datasets: Mapping[str, str],
    content: str,
) -> TrainingSet:
    """The record of a training set; its digest is over the definitions, the data it read and the bytes it became."""
    times = times_us(table[timestamp])
    labelled = int(table.num_rows - table[LABEL].null_count)
    identity = {
        "model": model.spec(), "features": dict(features), "datasets": dict(datasets), "content": content, "columns": columns,
    }  # fmt: skip
    return TrainingSet(
        digest=digest(identity), service=model.name, features=dict(features), datasets=dict(datasets), rows=table.num_rows,
        labelled=labelled, start=int(times.min()) if len(times) else 0, end=int(times.max()) if len(times) else 0,
        columns=columns, label=model.label.column if model.label else None, content=content,
    )  # fmt: skip
