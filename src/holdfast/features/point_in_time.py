"""Training features: for every spine row the features as known at its time, one row out per row in, in the same order.

Keys become codes, the engine reads the events of those keys sorted by (key, event time, arrival, sequence), and searches
in sorted columns answer all rows at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.definitions import FeatureService
from holdfast.core.errors import BadData, BadInput, NotFound, did_you_mean
from holdfast.core.ports import Engine
from holdfast.core.records import Json
from holdfast.features import ondemand
from holdfast.features.lookup import compile_plan
from holdfast.features.sliding import Events, Sliding, Values, before, newest_known
from holdfast.features.sorted_source import sorted_events
from holdfast.features.source_sql import ViewQuery, quote
from holdfast.features.windows import aggregate_dtype

SourceTables: TypeAlias = pa.Table | Sequence[Path | str]
INSTANT = pa.timestamp("us", tz="UTC")
_ARROW: dict[str, pa.DataType] = {
    "int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_(), "timestamp": INSTANT,
}  # fmt: skip


class Notice(UserWarning):
    """Something the caller should know; nothing is wrong."""


def historical(
    engine: Engine, service: FeatureService, spine: pa.Table, *, timestamp: str | None, sources: Mapping[str, SourceTables],
    cache: Path | None = None,
) -> pa.Table:  # fmt: skip
    """The spine's columns as they are, then the service's columns that are not among them, as known at each row's time.

    ``sources`` holds per source name a pyarrow Table or files (parquet, CSV, landed pushes). ``cache`` is a folder for
    sorted copies of sources, which make the next call on the same bytes a fraction of this one.

    Raises:
        BadInput: the spine lacks a timestamp, key or request value, or has one of the wrong type.
        BadData: a source does not fit its definition.
        NotFound: ``sources`` has no entry for a source.
    """
    plan = compile_plan(service)
    return historical_from_plan(engine, plan, spine, timestamp=timestamp, sources=sources, cache=cache)


def historical_from_plan(
    engine: Engine, plan: Json, spine: pa.Table, *, timestamp: str | None, sources: Mapping[str, SourceTables], cache: Path | None = None,
) -> pa.Table:  # fmt: skip
    """As ``historical``, for a compiled plan: what a packaged model pins."""
    if timestamp is None or timestamp not in spine.column_names:
        raise BadInput(
            "the spine has no timestamp column" if timestamp is None else f"the spine has no column {timestamp!r}",
            hint="name the column that says when each row is asked, or use --as-of TIME for all entities at one time",
        )
    at = instants(spine.column(timestamp), timestamp)
    columns: dict[str, Any] = {}
    for view in plan["views"]:
        if view["source"] not in sources:
            raise NotFound(
                f"no data for source {view['source']!r}", hint=did_you_mean(view["source"], sources, kind="source")
            )
        columns.update(view_columns(engine, view, spine, at, sources[view["source"]], cache=cache))
    columns.update(_on_demand(plan, spine, columns))
    out = spine
    for name in plan["columns"]:
        if name in spine.column_names:
            continue
        if name not in columns:
            raise BadInput(
                f"the spine lacks the request value {name!r}",
                hint=did_you_mean(name, spine.column_names, kind="column"),
            )
        out = out.append_column(name, columns[name])
    return out


def as_of(engine: Engine, service: FeatureService, at: int, *, sources: Mapping[str, SourceTables]) -> pa.Table:
    """All entities the sources know, with their features as known at one instant (µs): a training set without a spine.

    Raises:
        BadInput: no view has all of the service's keys, or an on-demand feature needs a request value.
    """
    whole = [v for v in service.views if set(v.join_keys) == set(service.join_keys)]
    if not whole:
        raise BadInput(
            f"the views of {service.name!r} have different keys, so there is no one list of entities",
            hint="give a spine with the combinations you want",
        )
    plan = compile_plan(service)
    selects, tables = [], {}
    for i, view in enumerate(v for v in plan["views"] if set(v["keys"]) == set(service.join_keys)):
        if view["source"] not in sources:
            raise NotFound(f"no data for source {view['source']!r}", hint=did_you_mean(view["source"], sources))
        query = ViewQuery(engine, view, sources[view["source"]])
        inner = query.select(since=None, until=at if view["timestamp"] else None, keys=False)
        found = engine.query(f"SELECT DISTINCT {_named(view['keys'])} FROM ({inner})", tables=query.relation.tables)
        tables[f"__v{i}"] = found
        selects.append(f"SELECT {', '.join(map(quote, service.join_keys))} FROM __v{i}")
    keys = ", ".join(map(quote, service.join_keys))
    spine = engine.query(f"SELECT DISTINCT {keys} FROM ({' UNION ALL '.join(selects)}) ORDER BY {keys}", tables=tables)
    spine = spine.append_column("as_of", pa.array(np.full(spine.num_rows, at)).cast(INSTANT))
    return historical_from_plan(engine, plan, spine, timestamp="as_of", sources=sources)


def _named(keys: Sequence[str]) -> str:
    return ", ".join(f"__k{i} AS {quote(k)}" for i, k in enumerate(keys))


def instants(column: pa.ChunkedArray | pa.Array, name: str) -> np.ndarray:
    """A column of instants as int64 µs UTC. Nanoseconds are floored, naive ones are UTC (with a notice), integers are µs.

    Raises:
        BadInput: it holds nulls or is not a column of instants.
    """
    kind = column.type
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise BadInput(
            f"row {row} of the spine has no {name!r}", hint="every spine row needs its time; remove the row or fill it"
        )
    if pa.types.is_timestamp(kind):
        if kind.tz is None:
            warnings.warn(f"{name!r} has no time zone: read as UTC", Notice, stacklevel=3)
        raw = column.cast(pa.int64()).to_numpy()
        if kind.unit == "ns":
            return np.asarray(np.floor_divide(raw, 1000))
        return np.asarray(raw * {"s": 1_000_000, "ms": 1_000, "us": 1}[kind.unit], dtype=np.int64)
    if pa.types.is_date(kind):
        return instants(column.cast(pa.timestamp("us", tz="UTC")), name)
    if pa.types.is_integer(kind):
        return np.asarray(column.cast(pa.int64()).to_numpy())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        from holdfast.core.identity import to_us

        naive: list[bool] = []
        out = np.array([to_us(v, on_naive=lambda: naive.append(True)) for v in column.to_pylist()], dtype=np.int64)
        if naive:
            warnings.warn(f"{name!r} has no time zone: read as UTC", Notice, stacklevel=3)
        return out
    raise BadInput(
        f"{name!r} is a {kind}, not a column of instants", hint="use timestamps, or integers that count microseconds"
    )


@dataclass
class Keys:
    """The spine's distinct keys: ``codes`` per row (−1 where a key is null) and a table of ``__code``, ``k0…``."""

    codes: np.ndarray
    table: pa.Table


def encode_keys(spine: pa.Table, names: Sequence[str], classes: Mapping[str, str], view: str) -> Keys:
    """Give each distinct key of the spine a code.

    Raises:
        BadInput: a key column is missing or of another type than the source's.
    """
    codes = np.zeros(spine.num_rows, np.int64)
    null = np.zeros(spine.num_rows, bool)
    columns = []
    for name in names:
        if name not in spine.column_names:
            raise BadInput(
                f"the spine has no key column {name!r}, which view {view!r} needs",
                hint=did_you_mean(name, spine.column_names, kind="column"),
            )
        column = spine.column(name).combine_chunks()
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_dictionary(column.type):
            column = column.cast(kind)
        if pa.types.is_null(kind):
            column = column.cast(_ARROW.get(classes[name], pa.int64()))
            kind = column.type
        found = (
            "int64"
            if pa.types.is_integer(kind)
            else "string"
            if _is_text(kind)
            else "bool"
            if pa.types.is_boolean(kind)
            else str(kind)
        )
        if classes[name] not in (found, "nothing"):
            hint = (
                "make it Int64 (nullable): floats cannot hold 64-bit keys"
                if pa.types.is_floating(kind)
                else f"cast it to {classes[name]}"
            )
            raise BadInput(
                f"key {name!r} is {found} in the spine and {classes[name]} in the source of view {view!r}", hint=hint
            )
        encoded = column.dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        places = encoded.indices
        null |= places.is_null().to_numpy(zero_copy_only=False)
        place = places.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        columns.append((encoded.dictionary, place))
        codes = codes * max(len(encoded.dictionary), 1) + place
    if len(columns) == 1:
        dictionary = columns[0][0]
        table = pa.table({"__code": pa.array(np.arange(len(dictionary))), "k0": dictionary})
        return Keys(np.where(null, -1, codes), table)
    unique, first, inverse = np.unique(np.where(null, -1, codes), return_index=True, return_inverse=True)
    skip = int(len(unique) > 0 and unique[0] == -1)
    chosen = first[skip:]
    table = pa.table(
        {
            "__code": pa.array(np.arange(len(chosen))),
            **{f"k{i}": d.take(pa.array(p[chosen])) for i, (d, p) in enumerate(columns)},
        }
    )
    return Keys(inverse.reshape(-1) - skip, table)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view")


def view_columns(
    engine: Engine, view: Json, spine: pa.Table, at: np.ndarray, tables: Any, *, cache: Path | None = None
) -> dict[str, Any]:
    """One view's feature columns for all spine rows, by column name."""
    query = ViewQuery(engine, view, tables)
    keys = encode_keys(spine, view["keys"], query.key_classes, view["name"])
    kept = None
    if cache is not None:
        kept = sorted_events(
            engine, view, query, tables, cache, spine_rows=spine.num_rows, order_of=sort_order,
            codes_of=lambda table, names: _own_codes(table, names, query, view),
        )  # fmt: skip
    if kept is not None:
        table, known = kept
        keys = Keys(_codes_among(engine, keys, known), known)
    else:
        since, until = _bounds(view, at)
        statement = query.select(since=since, until=until, keys=True)
        table = engine.query(statement, tables={**query.relation.tables, "__keys": keys.table})
    # questions in the events' order: every search and gather then walks memory forwards
    order = np.lexsort((at, keys.codes))
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    found = compute(
        view, query.value_types, query.late, table, keys.table.num_rows, keys.codes[order], at[order],
        in_order=kept is not None,
    )  # fmt: skip
    return {name: column.take(pa.array(back)) for name, column in found.items()}


def _own_codes(table: pa.Table, names: Sequence[str], query: ViewQuery, view: Json) -> tuple[np.ndarray, pa.Table]:
    """Codes for the keys of a source itself."""
    classes = dict(zip(names, query.key_classes.values(), strict=True))
    found = encode_keys(table, names, classes, view["name"])
    return found.codes, found.table


def _codes_among(engine: Engine, asked: Keys, known: pa.Table) -> np.ndarray:
    """The spine's codes in the numbering of kept events; −1 for keys that are not there."""
    on = " AND ".join(f"a.{name} = b.{name}" for name in asked.table.column_names if name != "__code")
    pairs = engine.query(
        f"SELECT a.__code AS mine, b.__code AS theirs FROM __asked AS a JOIN __known AS b ON {on}",
        tables={"__asked": asked.table, "__known": known},
    )
    theirs = np.full(asked.table.num_rows + 1, -1, np.int64)  # the last stands for null keys, code −1
    theirs[_ints(pairs, "mine")] = _ints(pairs, "theirs")
    return np.asarray(theirs[asked.codes])


def _bounds(view: Json, at: np.ndarray) -> tuple[int | None, int | None]:
    if not len(at):
        return 0, 0
    since: int | None = None
    if not view["fields"]:
        since = int(at.min()) - view["retention"]
    elif view["ttl"] is not None:
        since = int(at.min()) - max(view["ttl"], view["retention"])
    return since, int(at.max())


def compute(
    view: Json,
    value_types: Sequence[str],
    late: bool,
    table: pa.Table,
    codes: int,
    asked: np.ndarray,
    at: np.ndarray,
    *,
    in_order: bool = False,
) -> dict[str, Any]:
    """Feature columns from events in any order, with their ``__code``. ``asked`` is the code per question."""
    order = np.arange(table.num_rows) if in_order else sort_order(table)
    code, time = _ints(table, "__code")[order], _ints(table, "__t")[order]
    arrival, sequence = _ints(table, "__a")[order], _ints(table, "__s")[order]
    start = np.searchsorted(code, np.arange(codes), side="left")
    stop = np.searchsorted(code, np.arange(codes), side="right")
    events = Events(start, stop, time, arrival, sequence)
    out: dict[str, Any] = {}
    if view["fields"]:
        stamped = late and view["arrival"] is None
        rows, events_then = (
            _first_arrivals(table, order, events, code, codes, len(view["fields"])) if stamped else (None, events)
        )
        place = newest_known(events_then, asked, at, late)
        if view["ttl"] is not None and view["timestamp"] is not None and len(time):
            fresh = events_then.time[np.maximum(place, 0)] >= before(at, view["ttl"])
            place = np.where(fresh, place, -1)
        if rows is not None and len(rows):
            place = np.where(place < 0, -1, rows[np.maximum(place, 0)])
        # values are fetched where they lie: only the winners' are ever moved
        index = pa.array(order[np.maximum(place, 0)] if len(order) else place, mask=place < 0)
        for i, field in enumerate(view["fields"]):
            column = table.column(f"f{i}").combine_chunks()
            if field["dtype"] == "timestamp":
                column = column.cast(INSTANT)
            out[field["column"]] = column.take(index).cast(_ARROW[field["dtype"]])
    if view["aggregates"]:
        needed = ["__h", *(f"v{i}" for i in range(len(value_types)))]
        table, events = _once_each(table.select(needed).take(pa.array(order)), events, code, codes)
        sliding = Sliding(events, asked, at, late=late)
        values = [_values(table.column(f"v{i}"), dtype) for i, dtype in enumerate(value_types)]
        for aggregate in view["aggregates"]:
            v = aggregate["value"]
            result, null = sliding.compute(v, values[v], aggregate["function"], aggregate["window"])
            dtype = aggregate_dtype(aggregate["function"], value_types[v])
            text = values[v].text
            if dtype == "string":
                words = pa.array(text or [""], pa.string())
                out[aggregate["column"]] = words.take(pa.array(np.where(null, 0, result), mask=null))
            else:
                out[aggregate["column"]] = pa.array(result, _ARROW[dtype], mask=null)
    return {c: out[c] for c, _ in view["columns"]}


def sort_order(table: pa.Table) -> np.ndarray:
    """The order by (code, time, arrival, sequence); full ties by value, so that sums are added in one order."""
    code, time = _ints(table, "__code"), _ints(table, "__t")
    n = len(code)
    if n < 2:
        return np.arange(n)
    first, last = int(time.min()), int(time.max())
    span = last - first + 1
    if (int(code.max()) + 1) * span < 1 << 62:
        order = np.argsort(code * span + (time - first), kind="stable")
    else:
        order = np.lexsort((time, code))
    same = (code[order[1:]] == code[order[:-1]]) & (time[order[1:]] == time[order[:-1]])
    tied = np.zeros(n, bool)
    tied[1:] |= same
    tied[:-1] |= same
    where = np.flatnonzero(tied)
    if len(where):
        group = np.concatenate([[0], np.cumsum(~same)])[where]
        part = table.take(pa.array(order[where])).append_column("group", pa.array(group))
        names = ["group", "__a", "__s"]
        for name in [c for c in table.column_names if c[0] in "fv"]:
            part = part.append_column(f"{name} known", part.column(name).is_valid())  # nulls first
            names += [f"{name} known", name]
        keys = [(name, "ascending") for name in names]
        order[where] = order[where][pc.sort_indices(part, sort_keys=keys).to_numpy()]
    return order


def _first_arrivals(
    table: pa.Table, order: np.ndarray, events: Events, code: np.ndarray, codes: int, fields: int
) -> tuple[np.ndarray | None, Events]:
    """Where arrival is the time of a push: without rows pushed again. (Their positions, the events that are left.)"""
    n = len(code)
    tied = np.zeros(n, bool)
    same = (code[1:] == code[:-1]) & (events.time[1:] == events.time[:-1])
    tied[1:] |= same
    tied[:-1] |= same
    where = np.flatnonzero(tied)
    if not len(where):
        return None, events
    part = table.take(pa.array(order[where]))
    values = [
        part.column(f"f{i}").combine_chunks().dictionary_encode("encode").indices.to_numpy(zero_copy_only=False)
        for i in range(fields)
    ]
    spine = [events.sequence[where], events.time[where], code[where]]
    sorting = np.lexsort((events.arrival[where], *values, *spine))
    again = np.ones(len(sorting) - 1, bool)
    for column in (*values, *spine):
        again &= column[sorting][1:] == column[sorting][:-1]
    keep = np.ones(n, bool)
    keep[where[sorting[1:][again]]] = False
    index = np.flatnonzero(keep)
    left = code[index]
    start = np.searchsorted(left, np.arange(codes), side="left")
    stop = np.searchsorted(left, np.arange(codes), side="right")
    return index, Events(start, stop, events.time[index], events.arrival[index], events.sequence[index])


def _once_each(table: pa.Table, events: Events, code: np.ndarray, codes: int) -> tuple[pa.Table, Events]:
    """Without repeats: rows with the same content are one event, known since its earliest arrival."""
    n = len(code)
    if n < 2:
        return table, events
    tied = np.zeros(n, bool)
    same = (code[1:] == code[:-1]) & (events.time[1:] == events.time[:-1])
    tied[1:] |= same
    tied[:-1] |= same
    where = np.flatnonzero(tied)
    if not len(where):
        return table, events
    content = table.column("__h").to_numpy()[where]
    order = np.lexsort((events.arrival[where], content, events.time[where], code[where]))
    ordered = where[order]
    again = (code[ordered[1:]] == code[ordered[:-1]]) & (events.time[ordered[1:]] == events.time[ordered[:-1]])
    again &= content[order][1:] == content[order][:-1]
    if not again.any():
        return table, events
    keep = np.ones(n, bool)
    keep[ordered[1:][again]] = False
    index = np.flatnonzero(keep)
    code = code[index]
    start = np.searchsorted(code, np.arange(codes), side="left")
    stop = np.searchsorted(code, np.arange(codes), side="right")
    return table.take(pa.array(index)), Events(
        start, stop, events.time[index], events.arrival[index], events.sequence[index]
    )


def _ints(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table.column(name).to_numpy(), dtype=np.int64)


def _values(column: pa.ChunkedArray, dtype: str) -> Values:
    null = column.is_null().to_numpy()
    if dtype == "string":
        encoded = column.combine_chunks().dictionary_encode()
        words = encoded.dictionary.to_pylist()
        order = sorted(range(len(words)), key=words.__getitem__)
        rank = np.empty(len(words), np.int64)
        rank[order] = np.arange(len(words))
        places = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
        data = rank[places] if len(words) else np.zeros(len(null), np.int64)
        return Values(np.where(null, 0, data), null, [words[i] for i in order])
    if dtype == "int64":
        return Values(column.fill_null(0).to_numpy().astype(np.int64, copy=False), null)
    data = column.fill_null(np.nan).to_numpy().astype(np.float64, copy=False)
    return Values(data, null | np.isnan(data))


def _on_demand(plan: Json, spine: pa.Table, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The on-demand features of all rows, by the source text that serving runs."""
    n = spine.num_rows
    functions = [ondemand.Function(f) for f in plan["on_demand"]]
    arrays: dict[str, np.ndarray] = {}
    out: dict[str, Any] = {}
    for name in dict.fromkeys(a for f in functions for a in f.arguments):
        if name in columns:
            arrays[name] = _array(columns[name])
        elif name in spine.column_names:
            arrays[name] = _array(spine.column(name))
        elif name not in {f.name for f in functions}:
            raise BadInput(
                f"the spine lacks the request value {name!r}",
                hint=did_you_mean(name, spine.column_names, kind="column"),
            )
    for function in functions:
        if n:
            result = function(arrays, n)
        else:
            result = np.array([], dtype=object if function.dtype == "string" else np.float64)
        arrays[function.name] = result
        out[function.name] = pa.array(ondemand.to_plain(result, function.dtype), _ARROW[function.dtype])
    return out


def _array(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if _is_text(kind) or pa.types.is_null(kind):
        return ondemand.to_array(column.to_pylist(), "string")
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        column = column.cast(INSTANT if pa.types.is_date(kind) or kind.unit != "ns" else pa.timestamp("ns", tz="UTC"))
        column = (
            pc.floor(pc.divide(column.cast(pa.int64()).cast(pa.float64(), safe=False), 1000.0))
            if pa.types.is_timestamp(kind) and kind.unit == "ns"
            else column.cast(pa.int64())
        )
    elif pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise BadData(f"a column of type {kind} cannot be given to an on-demand feature")
    return np.asarray(
        pc.cast(column, pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
        if isinstance(column, pa.Array)
        else pc.cast(column, pa.float64(), safe=False).fill_null(np.nan).to_numpy()
    )
