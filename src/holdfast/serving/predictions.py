"""Reading the prediction log: segments and Parquet parts of one service, as one Arrow table, each answer once.

Closed segments (their writer is gone or has rolled on: the file lock is free) are compacted to Parquet, one part per
segment under the segment's name, then small parts are merged; a crash between writing a part and removing what it came
from leaves both, and the name, or the list of sources in the part's metadata, says which one counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from holdfast.core.errors import Damaged
from holdfast.core.identity import new_id
from holdfast.serving import segments
from holdfast.serving.segments import Layout

_SOURCES = b"holdfast.sources"
_SMALL_ROWS = 200_000
_MERGE_AT = 8
_TYPES = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp": pa.int64(),
}
_UNREADABLE = (
    msgspec.MsgspecError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    RecursionError,
    pa.ArrowException,
)
BASE = pa.schema(
    [
        ("id", pa.string()), ("service", pa.string()), ("environment", pa.string()), ("version", pa.int64()),
        ("arm", pa.string()), ("key", pa.string()), ("request_time", pa.int64()), ("received", pa.int64()),
        ("score", pa.float64()), ("output", pa.null()), ("latency_us", pa.int64()), ("replica", pa.string()),
    ]
)  # fmt: skip


def read(
    folder: Path,
    *,
    since: int | None = None,
    until: int | None = None,
    environment: str | None = "production",
    ids: Sequence[str] | None = None,
    compacting: bool = True,
) -> pa.Table:
    """All answers with since <= request_time < until (µs), or only those with ``ids``, ordered by (request_time,
    received, id).

    Columns: id, service, environment, version, arm, key, request_time, received, score (double, or list for multiclass;
    null where the model failed), output, latency_us, replica, ``inputs.<name>``, ``features.<name>``. One row per
    (id, arm): a shadow's answer has the id of the prediction it shadows, so labels join to both.
    """
    if not folder.is_dir():
        return BASE.empty_table()
    if compacting:
        with contextlib.suppress(OSError):  # a log on a full or read-only disk can still be read
            compact(folder, merge=False)
    with _lock(folder, fcntl.LOCK_SH):
        parts, live = _listing(folder)
        tables = [t for p in parts if (t := _part(p, since, until, ids)) is not None]
        tables += [t for p in live for t in _live(p)]
    _forget(folder, live)
    tables = [t for t in (_narrow(t, since, until, environment, ids) for t in tables) if t.num_rows]
    if not tables:
        return BASE.empty_table()
    return _ordered(_once(concat(tables)))


def compact(folder: Path, *, merge: bool = True) -> int:
    """Turn every closed segment into a Parquet part and merge small parts; the number of segments turned.

    Readers do not merge: parts that the ledger has sealed are only merged by who checks the seal (``merge``).

    Returns 0 at once when somebody else is compacting.
    """
    if not folder.is_dir():
        return 0
    done = 0
    with _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
        if not held:
            return 0
        _sweep(folder)
        for path in sorted(folder.glob(f"*{segments.SUFFIX}")):
            with path.open("rb") as f:
                try:
                    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                tables = list(_tables(f.read())[0])
                if tables:
                    _write_part(concat(tables), path.with_suffix(".parquet"), [])
                path.unlink()
                done += 1
        if merge:
            _merge(folder, lambda target, sources: None)
    return done


def merge(folder: Path, *, before_removal: Callable[[Path, list[Path]], None]) -> None:
    """Merge small parts into one. ``before_removal(target, sources)`` is called when the merged part is durable and the
    sources are still there; when it raises, the merged part is taken away again."""
    with _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
        if held:
            _sweep(folder)
            _merge(folder, before_removal)


def whole_frames(data: bytes, start: int = 0) -> tuple[pa.Table | None, int]:
    """(rows, end) of a segment's bytes from offset ``start`` on, up to its last whole frame; None where there is no more.

    Raises:
        Damaged: these are no bytes of a prediction log.
    """
    if data[: len(segments.MAGIC)] != segments.MAGIC[: len(data)]:
        raise Damaged("it does not begin as a prediction log does")
    try:
        layouts: dict[int, Layout] = {}
        if start > len(segments.MAGIC):
            _, end, layouts = _tables(data[:start])
            if end != start:
                raise Damaged("it is not what it was when it was read before")
        else:
            start = 0
        tables, end, _ = _tables(data[start:], layouts=layouts, headless=start > 0)
    except _UNREADABLE as problem:
        raise Damaged(f"it cannot be read ({type(problem).__name__})") from None
    return (concat(tables) if tables else None), start + end


def take_in(folder: Path, name: str, table: pa.Table) -> None:
    """Add rows as a part of their own; nothing where a part of this name is there."""
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder, fcntl.LOCK_EX):
        if not (folder / name).exists():
            _write_part(table, folder / name, [])


def parts(folder: Path) -> list[Path]:
    """The Parquet parts that count, in order of name."""
    return _listing(folder)[0]


def unclosed(folder: Path) -> list[Path]:
    """The segments that count beside the parts: being written, or left by a replica that was killed."""
    return _listing(folder)[1]


def about(path: Path) -> dict[str, Any]:
    """Of one part: rows, first and last request time (µs), and the names of the parts merged into it."""
    file = pq.ParquetFile(path)
    column = file.schema_arrow.get_field_index("request_time")
    groups = [file.metadata.row_group(i).column(column).statistics for i in range(file.num_row_groups)]
    known = [g for g in groups if g is not None and g.has_min_max]
    return {
        "rows": file.metadata.num_rows,
        "first": min((g.min for g in known), default=None),
        "last": max((g.max for g in known), default=None),
        "sources": _sources(path),
    }


# --- files ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _lock(folder: Path, how: int) -> Iterator[bool]:
    """Readers share, the compactor excludes. A folder that cannot be written to is read without a lock."""
    try:
        f = (folder / ".lock").open("ab")
    except OSError:
        yield not how & fcntl.LOCK_EX
        return
    with f:
        try:
            fcntl.flock(f, how)
        except BlockingIOError:
            yield False
            return
        yield True


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """(Parquet parts that count, segments that count)."""
    parts = sorted(folder.glob("*.parquet"))
    covered = {name for p in parts for name in _sources(p)}
    parts = [p for p in parts if p.name not in covered]
    stems = {p.stem for p in parts} | {Path(name).stem for name in covered}
    return parts, [p for p in sorted(folder.glob(f"*{segments.SUFFIX}")) if p.stem not in stems]


def _sweep(folder: Path) -> None:
    """Remove what a crashed compaction left: sources already covered, temporary files."""
    parts = sorted(folder.glob("*.parquet"))
    covered = {name for p in parts for name in _sources(p)}
    stems = {p.stem for p in parts} | {Path(name).stem for name in covered}
    # Only what is known to be held elsewhere: a segment that a writer begins meanwhile is nobody's leftover.
    for path in folder.iterdir():
        left = path.name in covered or (path.suffix == segments.SUFFIX and path.stem in stems)
        if left or (path.name.startswith(".") and path.name.endswith(".parquet.tmp")):
            path.unlink(missing_ok=True)


def _sources(path: Path) -> list[str]:
    if not path.name.startswith("merged-"):
        return []
    metadata = pq.read_metadata(path).metadata or {}
    return msgspec.json.decode(metadata.get(_SOURCES, b"[]"), type=list[str])


def _write_part(table: pa.Table, target: Path, sources: Sequence[str]) -> None:
    table = _ordered(_once(table))
    table = table.replace_schema_metadata({_SOURCES: msgspec.json.encode(list(sources))})
    temporary = target.with_name(f".{target.name}.tmp")
    pq.write_table(table, temporary, compression="zstd", row_group_size=65_536)
    with temporary.open("rb") as f:
        os.fsync(f.fileno())
    temporary.rename(target)
    fd = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _merge(folder: Path, before_removal: Callable[[Path, list[Path]], None]) -> None:
    small = [p for p in sorted(folder.glob("*.parquet")) if pq.read_metadata(p).num_rows < _SMALL_ROWS]
    if len(small) < _MERGE_AT:
        return
    target = folder / f"merged-{new_id()}.parquet"
    _write_part(concat([pq.read_table(p) for p in small]), target, [p.name for p in small])
    try:
        before_removal(target, small)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    for path in small:
        path.unlink()


def _part(path: Path, since: int | None, until: int | None, ids: Sequence[str] | None) -> pa.Table | None:
    """A part's row groups that can hold rows of the stretch, by their statistics, or that hold one of ``ids``."""
    file = pq.ParquetFile(path)
    column = file.schema_arrow.get_field_index("request_time")
    wanted = []
    for i in range(file.num_row_groups):
        stats = file.metadata.row_group(i).column(column).statistics
        if stats is not None and stats.has_min_max:
            if since is not None and stats.max < since:
                continue
            if until is not None and stats.min >= until:
                continue
        if ids is not None:
            held = file.read_row_group(i, columns=["id"])["id"]
            if not pc.any(pc.is_in(held, value_set=pa.array(ids, pa.string()))).as_py():
                continue
        wanted.append(i)
    return file.read_row_groups(wanted) if wanted else None


# --- live segments --------------------------------------------------------------------------------------------------

_tails: dict[Path, tuple[int, int, dict[int, Layout], list[pa.Table]]] = {}


def _live(path: Path) -> list[pa.Table]:
    """A growing segment's whole frames; what was parsed before is kept, so reading again costs only what is new."""
    try:
        with path.open("rb") as f:
            inode = os.fstat(f.fileno()).st_ino
            known = _tails.get(path)
            offset, layouts, tables = (
                (known[1], known[2], known[3]) if known is not None and known[0] == inode else (0, {}, [])
            )
            f.seek(offset)
            data = f.read()
    except FileNotFoundError:
        return []
    fresh, end, layouts = _tables(data, layouts=layouts, headless=offset > 0)
    if len(tables) > 64:
        tables = [concat(tables)]
    tables = [*tables, *fresh]
    _tails[path] = (inode, offset + end, layouts, tables)
    return tables


def _forget(folder: Path, live: Sequence[Path]) -> None:
    for path in [p for p in list(_tails) if p.parent == folder and p not in live]:
        _tails.pop(path, None)


def _tables(
    data: bytes, *, layouts: dict[int, Layout] | None = None, headless: bool = False
) -> tuple[list[pa.Table], int, dict[int, Layout]]:
    """(tables, bytes of whole frames, layouts) of a segment's bytes."""
    layouts = dict(layouts or {})
    groups: dict[tuple[int, int], list[list[Any]]] = {}
    end = 0
    if headless:
        data, shift = segments.MAGIC + data, len(segments.MAGIC)
    else:
        shift = 0
    for at, value in segments.frames(data):
        end = at - shift
        if value[0] == "layout":
            layouts[value[1]] = segments.layout_of(value[2])
        elif value[0] == "rows":
            groups.setdefault((value[1], value[3]), []).append(value)
    return [_table(layouts[number], width, rows) for (number, width), rows in groups.items()], end, layouts


def _table(layout: Layout, width: int, rows: list[list[Any]]) -> pa.Table:
    n = sum(r[2] for r in rows)
    if n != sum(len(r[4]) for r in rows):
        raise ValueError("a frame that has not as many rows as it says")

    def joined(i: int, dtype: str) -> Any:
        return np.frombuffer(b"".join(r[i] for r in rows), dtype=dtype)

    def listed(i: int) -> list[Any]:
        return rows[0][i] if len(rows) == 1 else [v for r in rows for v in r[i]]

    def constant(value: str) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, dtype=np.int32)), pa.array([value])).cast(
            pa.string()
        )

    features = joined(13, "<f8").reshape(n, len(layout.features))
    columns: dict[str, Any] = {
        "id": pa.array(listed(4), pa.string()),
        "service": constant(layout.service),
        "environment": constant(layout.environment),
        "version": pa.array(np.full(n, layout.version, dtype=np.int64)),
        "arm": pa.array(listed(5), pa.string()),
        "key": pa.array(listed(6), pa.string()),
        "request_time": pa.array(joined(7, "<i8")),
        "received": pa.array(joined(8, "<i8")),
        "score": _scores(joined(10, "<f8"), width),
        "output": _outputs(listed(11)),
        "latency_us": pa.array(joined(9, "<i8")),
        "replica": constant(layout.replica),
    }
    served = {
        name: pa.array(np.ascontiguousarray(features[:, i]), from_pandas=True) for i, name in enumerate(layout.features)
    }
    if layout.same:
        for name, dtype in layout.inputs:
            columns[f"inputs.{name}"] = _typed(served[name], dtype) if name in served else pa.nulls(n, _TYPES[dtype])
    else:
        values = list(zip(*(v for r in rows for v in r[12]), strict=True)) or [()] * len(layout.inputs)
        for (name, dtype), column in zip(layout.inputs, values, strict=True):
            columns[f"inputs.{name}"] = pa.array(column, _TYPES[dtype])
    columns |= {f"features.{name}": column for name, column in served.items()}
    return pa.table(columns)


def _scores(values: Any, width: int) -> pa.Array:
    if width == 1:
        return pa.array(values, from_pandas=True)
    missing = np.isnan(values.reshape(-1, width)).all(axis=1)
    offsets = np.arange(0, values.size + 1, width, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=pa.array(missing))


def _outputs(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if v is None else str(v) for v in values])


def _typed(column: pa.Array, dtype: str) -> pa.Array:
    try:
        return column.cast(_TYPES[dtype])
    except pa.ArrowInvalid:
        return column


# --- tables ---------------------------------------------------------------------------------------------------------


def concat(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of all columns of all; where types disagree (classes renamed from numbers to text), text."""
    if len(tables) == 1:
        return tables[0]
    tables = [t.replace_schema_metadata(None) for t in tables]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        kinds: dict[str, set[Any]] = {}
        for table in tables:
            for f in table.schema:
                kinds.setdefault(f.name, set()).add(f.type)
        clash = {n for n, k in kinds.items() if len({t for t in k if not pa.types.is_null(t)}) > 1}
        out = []
        for table in tables:
            for name in clash & set(table.column_names):
                i = table.column_names.index(name)
                text = [None if v is None else str(v) for v in table.column(i).to_pylist()]
                table = table.set_column(i, name, pa.array(text, pa.string()))
            out.append(table)
        return pa.concat_tables(out, promote_options="permissive")


def _narrow(
    table: pa.Table, since: int | None, until: int | None, environment: str | None, ids: Sequence[str] | None
) -> pa.Table:
    mask = None
    conditions = []
    if ids is not None:
        conditions.append(pc.is_in(table["id"], value_set=pa.array(ids, pa.string())))
    if since is not None:
        conditions.append(pc.greater_equal(table["request_time"], since))
    if until is not None:
        conditions.append(pc.less(table["request_time"], until))
    if environment is not None:
        conditions.append(pc.equal(table["environment"], environment))
    for condition in conditions:
        mask = condition if mask is None else pc.and_(mask, condition)
    return table if mask is None or pc.all(mask).as_py() else table.filter(mask)


def _once(table: pa.Table) -> pa.Table:
    """The first answer of each (id, arm); a retry after a lost connection may have logged it again."""
    codes = table["id"].combine_chunks().dictionary_encode()
    if len(codes.dictionary) == table.num_rows:
        return table
    ids = codes.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    arms = table["arm"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    both = ids * 8 + arms
    if np.bincount(both).max(initial=0) <= 1:
        return table
    order = np.lexsort((table["received"].to_numpy(), both))
    first = np.ones(len(order), dtype=bool)
    first[1:] = both[order][1:] != both[order][:-1]
    return table.take(pa.array(np.sort(order[first])))


def _ordered(table: pa.Table) -> pa.Table:
    keys = table["request_time"].to_numpy()
    if len(keys) > 1 and not (np.diff(keys) > 0).all():
        table = table.take(
            pc.sort_indices(
                table, sort_keys=[("request_time", "ascending"), ("received", "ascending"), ("id", "ascending")]
            )
        )
    return table
