"""Scoring a table of any size by the path of a request: the same signature, the same lookup, the same model.

Read, scored and written in parts, so memory stays bounded; the result appears whole under its name or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from holdfast.core.errors import BadData, BadInput, did_you_mean
from holdfast.core.ports import Progress
from holdfast.core.records import FieldSpec
from holdfast.serving.model import Loaded

PART_ROWS = 65_536
TEXT = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson")
_LOOKUP_ROWS = 4_096
_ARROW = {
    "int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", "UTC"),
}  # fmt: skip


class Scored(NamedTuple):
    rows: int
    path: Path


def score_file(
    model: Loaded,
    source: Path,
    target: Path,
    *,
    now: int,
    at: str | None = None,
    keep: bool = True,
    progress: Progress | None = None,
) -> Scored:
    """Score ``source`` (Parquet or CSV) into ``target`` (Parquet): columns ``score`` and ``output`` beside the input's.

    Args:
        now: the instant (µs) features are looked up for, unless ``at`` names the column with each row's own.
        keep: carry the input's columns over.

    Raises:
        BadData: a column is missing or of the wrong type, a value is null where it may not be or out of a strict range.
        BadInput: the file cannot be read, or the target's name says it is text.
    """
    if target.suffix.lower() in TEXT:
        raise BadInput(
            f"{target.name} would hold Parquet under the name of a text file", hint=f"name it {target.stem}.parquet"
        )
    report = progress or (lambda done, total, what: None)
    total, parts = _parts(source, model.package.request)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    writer: pq.ParquetWriter | None = None
    done = 0
    try:
        # One part is read and one written while the model scores the one between; no more than three are in memory.
        with ThreadPoolExecutor(2, thread_name_prefix="batch") as side:
            coming, writing = side.submit(next, parts, None), None
            while (part := coming.result()) is not None:
                coming = side.submit(next, parts, None)
                scored = score_part(model, part, first=done, now=now, at=at, keep=keep)
                if writing is not None:
                    writing.result()
                if writer is None:
                    writer = _writer(temporary, scored.schema)
                writing = side.submit(writer.write_table, scored)
                done += part.num_rows
                report(done, total, "rows")
            if writing is not None:
                writing.result()
        if writer is None:
            raise BadInput(f"{source.name} has no rows")
        writer.close()
        writer = None
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.replace(target)
    finally:
        if writer is not None:
            writer.close()
        temporary.unlink(missing_ok=True)
    return Scored(done, target)


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Cheap to write: numbers seldom repeat, so only text is tried as a dictionary; snappy is read everywhere."""
    text = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    return pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=text or False)


def score_part(model: Loaded, part: pa.Table, *, first: int, now: int, at: str | None, keep: bool) -> pa.Table:
    """One part of a table with its scores. ``first`` is the part's first row number, for messages."""
    columns = {f.name: _column(part, f, first) for f in model.package.request}
    if model.lookup is None:
        matrix = _matrix(columns, model.inputs)
        scores = model.score(matrix)
    else:
        scores = _looked_up(model, columns, _instants(part, at, now, first))
    width = scores.shape[1]
    score = pa.array(scores[:, 0]) if width == 1 else pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), width)
    base = part if keep else part.select([])
    for name, values in (("score", score), ("output", _outputs(model, scores))):
        base = base.drop_columns([name]) if name in base.column_names else base
        base = base.append_column(name, values)
    return base


def _outputs(model: Loaded, scores: Any) -> pa.Array:
    """As ``Loaded.outputs``, column-wise."""
    if model.package.task == "regression":
        return pa.array(scores[:, 0])
    chosen = (
        (scores[:, 0] >= model.threshold).astype(np.int32) if model.package.task == "binary" else scores.argmax(axis=1)
    )
    if not model.classes:
        return pa.array(chosen)
    return pa.array(model.classes).take(pa.array(chosen))


def _looked_up(model: Loaded, columns: dict[str, Any], at: Any) -> Any:
    names = tuple(columns)
    lists = [c.to_pylist() for c in columns.values()]
    rows = list(zip(*lists, strict=True))
    out = []
    for i in range(0, len(rows), _LOOKUP_ROWS):
        out.append(model.evaluate(rows[i : i + _LOOKUP_ROWS], names, at[i : i + _LOOKUP_ROWS])[1])
    return np.concatenate(out)


def _matrix(columns: dict[str, Any], inputs: list[str]) -> Any:
    """(n, d) float64, NaN for null, in the model's order."""
    n = len(next(iter(columns.values())))
    matrix = np.empty((n, len(inputs)), dtype=np.float64)
    for i, name in enumerate(inputs):
        if name not in columns:
            raise BadInput(f"the model needs {name!r}, which its signature does not ask for")
        matrix[:, i] = columns[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return matrix


def _column(part: pa.Table, f: FieldSpec, first: int) -> Any:
    """One field's values, of its type; instants as int64 µs."""
    if f.name not in part.column_names:
        if f.nullable:
            return pa.nulls(part.num_rows, _ARROW[f.dtype] if f.dtype != "timestamp" else pa.int64())
        raise BadData(
            f"column {f.name!r} is missing", hint=did_you_mean(f.name, part.column_names, kind="column"), number="HF131"
        )
    column = part[f.name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], type=column.type)
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if (f.dtype in ("int64", "float64", "bool") and text) or (
        pa.types.is_boolean(column.type) and f.dtype in ("int64", "float64")
    ):
        raise BadData(f"column {f.name!r} is {column.type}, not {f.dtype}", hint="cast it before", number="HF134")
    try:
        if f.dtype == "timestamp":
            column = column if pa.types.is_integer(column.type) else column.cast(pa.timestamp("us", "UTC"))
            column = column.cast(pa.int64())
        else:
            column = column.cast(_ARROW[f.dtype])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as problem:
        raise BadData(
            f"column {f.name!r} is {column.type}, not {f.dtype}: {problem}", hint="cast it before", number="HF134"
        ) from None
    if column.null_count and not f.nullable:
        row = first + int(pc.index(column.is_null(), True).as_py())
        raise BadData(f"row {row}: field {f.name!r} is null", hint="this field may not be null", number="HF133")
    if f.strict and f.dtype in ("int64", "float64"):
        _check_range(column, f, first)
    return column


def _check_range(column: Any, f: FieldSpec, first: int) -> None:
    for bound, beyond in ((f.low, pc.less), (f.high, pc.greater)):
        if bound is None:
            continue
        where = pc.index(pc.fill_null(beyond(column, bound), False), True).as_py()
        if where >= 0:
            raise BadData(
                f"row {first + where}: field {f.name!r} is {column[where].as_py():g}, outside its range",
                hint=f"the signature is strict: [{f.low}, {f.high}]", number="HF136",
            )  # fmt: skip


def _instants(part: pa.Table, at: str | None, now: int, first: int) -> Any:
    if at is None:
        return [now] * part.num_rows
    return _column(part, FieldSpec(name=at, dtype="timestamp", nullable=False), first).to_pylist()


def _parts(source: Path, fields: Sequence[FieldSpec]) -> tuple[int | None, Iterator[pa.Table]]:
    """(rows, where they are known beforehand; the parts). A CSV's columns are read as the signature says, not as its first
    lines look: whole numbers may be followed by others, and text may look like numbers."""
    try:
        if source.suffix == ".csv":
            kinds = {f.name: _ARROW[f.dtype] for f in fields if f.dtype in ("float64", "string")}
            convert = pyarrow.csv.ConvertOptions(column_types=kinds)
            return None, _read(source, pyarrow.csv.open_csv(source, convert_options=convert))
        file = pq.ParquetFile(source)
        return file.metadata.num_rows, _read(source, file.iter_batches(PART_ROWS))
    except pa.ArrowException as problem:
        raise _unreadable(source, problem) from None


def _read(source: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Raises BadInput where the file is damaged or changes its columns on the way."""
    try:
        for batch in batches:
            if batch.num_rows:
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as problem:
        raise _unreadable(source, problem) from None


def _unreadable(source: Path, problem: Exception) -> BadInput:
    said = (str(problem).strip().splitlines() or [type(problem).__name__])[0][:200]
    return BadInput(
        f"{source.name} cannot be read: {said}", hint="give a whole Parquet or CSV file, of the model's columns"
    )
