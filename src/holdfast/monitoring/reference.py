"""The reference profile: one sketch a column and the calendar they share, as bytes that travel with the model package.

Layout: the four bytes ``HFP1``, then zlib of a MessagePack map; arrays are maps of dtype, shape and little-endian
bytes."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.errors import BadInput, Damaged
from holdfast.stats import sketch

Array = npt.NDArray[Any]
MAGIC = b"HFP1"
DAY = 86_400_000_000
RANKED = 64
PAIR_ROWS = 5_000


@dataclass(frozen=True)
class Profile:
    """Sketches by column name, in order. ``pair_names`` are the first 64 numeric columns; their centred rank scores
    have, per day with at least 30 rows, ``pair_n`` (R',) rows, ``pair_sums`` (R', d) and ``pair_products`` (R', d,
    d)."""

    rows: int
    calendar: sketch.Calendar
    day_rows: Array
    numeric: dict[str, sketch.Numeric]
    categorical: dict[str, sketch.Categorical]
    pair_names: list[str]
    pair_n: Array
    pair_sums: Array
    pair_products: Array


def build(table: pa.Table, times: Array, *, columns: Sequence[str]) -> bytes:
    """Sketch ``columns`` of a training table whose row i happened at ``times[i]`` (microseconds UTC).

    Raises:
        BadInput: a column is not there, has a type that cannot be watched, or times do not fit the table.
    """
    times = np.asarray(times, dtype=np.int64)
    if len(times) != table.num_rows:
        raise BadInput(f"{len(times)} times for a reference of {table.num_rows} rows", hint="give one instant per row")
    if not table.num_rows:
        raise BadInput("a reference profile of no rows says nothing", hint="build it from the training rows")
    strata = sketch.stratum_of(times)
    day_numbers, days = np.unique(times // DAY, return_inverse=True)
    calendar = sketch.Calendar(days=day_numbers, rows=np.bincount(strata, minlength=sketch.STRATA))
    numeric: dict[str, sketch.Numeric] = {}
    categorical: dict[str, sketch.Categorical] = {}
    coded: dict[str, Array] = {}
    for name in columns:
        column = find(table, name)
        if column is None:
            raise BadInput(
                f"the reference has no column {name!r}", hint=f"it has: {', '.join(table.column_names[:12])}"
            )
        if is_categorical(column.type):
            codes, names = encode(column)
            categorical[name] = sketch.categorical(codes, names, strata, days, len(day_numbers))
        else:
            numeric[name], coded[name] = sketch.numeric(floats(column, name), strata, days, len(day_numbers))
            if len(coded) > RANKED:
                del coded[name]
    names = list(numeric)[:RANKED]
    pair_n, pair_sums, pair_products = _pairs(numeric, coded, names, days, len(day_numbers))
    profile = Profile(
        rows=table.num_rows, calendar=calendar, day_rows=np.bincount(days, minlength=len(day_numbers)),
        numeric=numeric, categorical=categorical,
        pair_names=names, pair_n=pair_n, pair_sums=pair_sums, pair_products=pair_products,
    )  # fmt: skip
    return MAGIC + zlib.compress(msgspec.msgpack.encode(_plain(profile)), 1)


@functools.lru_cache(maxsize=4)
def load(data: bytes) -> Profile:
    """Read a profile back.

    Raises:
        Damaged: these bytes are not a whole profile.
    """
    if data[:4] != MAGIC:
        raise Damaged("these bytes are not a reference profile", hint="train again to write a new one")
    try:
        raw = _arrays(msgspec.msgpack.decode(zlib.decompress(data[4:])))
        raw["calendar"] = sketch.Calendar(**raw["calendar"])
        raw["numeric"] = {k: sketch.Numeric(**v) for k, v in raw["numeric"].items()}
        raw["categorical"] = {k: sketch.Categorical(**v) for k, v in raw["categorical"].items()}
        return Profile(**raw)
    except (zlib.error, msgspec.DecodeError, TypeError, KeyError, ValueError) as error:
        raise Damaged("the reference profile is damaged", hint="train again to write a new one") from error


def find(table: pa.Table, name: str) -> pa.ChunkedArray | None:
    """A watched column by its own name, or as the prediction log calls it."""
    for candidate in (name, f"features.{name}", f"inputs.{name}"):
        if candidate in table.column_names:
            return table.column(candidate)
    return None


def is_categorical(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(value)
        or pa.types.is_large_string(value)
        or pa.types.is_string_view(value)
        or pa.types.is_boolean(value)
    )


def floats(column: pa.ChunkedArray, name: str) -> Array:
    """A numeric Arrow column as float64, null as NaN; of a multiclass score the probability of the likeliest class.

    Raises:
        BadInput: the column is not numeric.
    """
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        tops = [None if v is None else max(v, default=None) for v in column.to_pylist()]
        column = pa.chunked_array([pa.array(tops, pa.float64())])
    kind = column.type
    if pa.types.is_timestamp(kind) or not (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    ):
        raise BadInput(
            f"column {name!r} of type {kind} cannot be watched",
            hint="watch numbers, text and booleans; name them with Drift(columns=…)",
        )
    column = column.cast(pa.float64())
    if column.null_count:
        column = pc.fill_null(column, float("nan"))
    return np.asarray(column.to_numpy(), dtype=np.float64)


def encode(column: pa.ChunkedArray) -> tuple[Array, list[str]]:
    """A categorical Arrow column as (codes, names), null as -1."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.string())
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.chunk(0) if whole.num_chunks else pa.array([], column.type)
    if not pa.types.is_dictionary(whole.type):
        whole = whole.dictionary_encode()
    codes = np.asarray(pc.fill_null(whole.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False), dtype=np.int64)
    return codes, [str(v) for v in whole.dictionary.to_pylist()]


def rank_scores(codes: Array, column: sketch.Numeric) -> Array:
    """Bin codes as centred reference ranks in [-0.5, 0.5]: the middle rank of the bin; a negative code (missing) as
    0."""
    counts = column.strata.sum(axis=0)
    upper = np.cumsum(counts)
    ranks = np.append((upper - counts / 2) / max(int(upper[-1]), 1) - 0.5, 0.0)
    return np.asarray(ranks[codes])


def moments(scores: Array) -> tuple[Array, Array, Array]:
    """Rows (1,), sums (1, d) and products (1, d, d) of rank scores (n, d)."""
    return np.array([float(len(scores))]), scores.sum(axis=0)[None], (scores.T @ scores)[None]


def pair_sample(rows: int) -> slice:
    """Every k-th row, so that at most about 5,000 carry the correlations."""
    return slice(None, None, max(1, -(-rows // PAIR_ROWS)))


def _pairs(
    numeric: dict[str, sketch.Numeric], coded: dict[str, Array], names: list[str], days: Array, day_count: int
) -> tuple[Array, Array, Array]:
    width = len(names)
    if width < 2:
        return np.zeros(0), np.zeros((0, width), np.float32), np.zeros((0, width, width), np.float32)
    order = np.argsort(days, kind="stable")
    counts, sums, products = [], [], []
    ranks = {name: rank_scores(np.arange(-1, len(numeric[name].cuts) + 1), numeric[name]) for name in names}
    for start, end in zip(*_runs(days[order], day_count), strict=True):
        if end - start >= 30:
            rows = order[start:end][pair_sample(end - start)]
            n, total, product = moments(np.column_stack([ranks[name][coded[name][rows] + 1] for name in names]))
            counts.append(n[0])
            sums.append(total[0])
            products.append(product[0])
    if not counts:
        return np.zeros(0), np.zeros((0, width), np.float32), np.zeros((0, width, width), np.float32)
    return np.array(counts), np.array(sums, np.float32), np.array(products, np.float32)


def _runs(sorted_days: Array, day_count: int) -> tuple[Array, Array]:
    edges = np.searchsorted(sorted_days, np.arange(day_count + 1))
    return edges[:-1], edges[1:]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "i":
            value = value.astype(np.int32) if not len(value.ravel()) or abs(value).max() < 2**31 else value
        return {"~": value.dtype.str, "s": list(value.shape), "b": np.ascontiguousarray(value).tobytes()}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        if "~" in value:
            return np.frombuffer(value["b"], dtype=np.dtype(value["~"])).reshape(value["s"])
        return {k: _arrays(v) for k, v in value.items()}
    return value
