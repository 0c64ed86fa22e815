"""Training features: for every spine row the features as known at its time, one row out per row in, in the same order.

Keys become codes, the engine reads the events of those keys sorted by (key, event time, arrival, sequence), and searches
in sorted columns answer all rows at once.
"""

from __future__ import annotations

import itertools
import sys
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
from holdfast.features import answers, candidates, ondemand, sorted_source
from holdfast.features.answers import ARROW as _ARROW
from holdfast.features.answers import INSTANT
from holdfast.features.lookup import compile_plan
from holdfast.features.source_sql import ViewQuery, quote

SourceTables: TypeAlias = pa.Table | Sequence[Path | str]
MOST_EVENTS = 10_000_000
"""Events of window views held at once."""


class Notice(UserWarning):
    """Something the caller should know; nothing is wrong."""


def _notice(text: str) -> None:
    """A notice at the caller's own line, the first one outside this package."""
    depth, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "holdfast":
        depth, frame = depth + 1, frame.f_back
    warnings.warn(text, Notice, stacklevel=depth - 1)


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
        BadInput: no view has all of the service's keys, or the service needs request values.
    """
    whole = [v for v in service.views if set(v.join_keys) == set(service.join_keys)]
    if not whole:
        raise BadInput(
            f"the views of {service.name!r} have different keys, so there is no one list of entities",
            hint="give a spine with the combinations you want",
        )
    plan = compile_plan(service)
    if sent := [name for name in plan["request"] if name not in plan["keys"]]:
        raise BadInput(
            f"{service.name!r} needs {', '.join(sent)} from each request, which a list of entities does not have",
            hint="give a spine with them, or ask for a service of views alone",
        )
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
            _notice(f"{name!r} has no time zone: read as UTC")
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
            _notice(f"{name!r} has no time zone: read as UTC")
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
    """One view's feature columns for all spine rows, by column name.

    The plan goes by size: a source that is not large for this spine is sorted and kept; otherwise latest values come from
    one walk over the source, and windows from the events of the spine's keys, a part of the keys at a time where they
    would not fit in memory.
    """
    query = ViewQuery(engine, view, tables)
    keys = encode_keys(spine, view["keys"], query.key_classes, view["name"])
    kept = None
    if cache is not None:
        kept = sorted_source.kept(
            engine, view, query, tables, cache, spine_rows=spine.num_rows,
            codes_of=lambda table, names: _own_codes(table, names, query, view),
        )  # fmt: skip
    codes = keys.codes
    if kept is not None:
        theirs = np.append(kept.codes(engine, keys.table), -1)  # the last stands for null keys, code −1
        codes = theirs[codes]
    # questions in the events' order: every search and gather then walks memory forwards
    order, _ = answers.by_code_and_time(codes, at)
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    asked, when = codes[order], at[order]
    if kept is not None:
        found = kept.answer(view, asked, when)
    elif view["aggregates"] or view["timestamp"] is None:
        found = _from_events(engine, view, query, keys.table, asked, when)
    else:
        found = _from_walk(engine, view, query, keys.table, asked, when)
    index = pa.array(back)
    return {name: column.take(index) for name, column in found.items()}


def _from_walk(
    engine: Engine, view: Json, query: ViewQuery, keys: pa.Table, asked: np.ndarray, at: np.ndarray
) -> dict[str, Any]:
    """Latest values in one walk over the source, in memory of the spine's size."""
    since, until = _bounds(view, at)
    tables = {**query.relation.tables, "__keys": keys}
    known = int(np.searchsorted(asked, 0))  # null keys come first and match nothing
    batches = engine.stream(query.select(since=since, until=until, keys=True), tables=tables)
    found = candidates.walk(batches, asked[known:], at[known:], keys.num_rows)
    if found:
        table = pa.Table.from_batches(found)
    else:
        table = engine.query(query.select(since=since, until=until, keys=True) + " LIMIT 0", tables=tables)
    return answers.compute(view, query.value_types, query.late, table, keys.num_rows, asked, at)


def _from_events(
    engine: Engine, view: Json, query: ViewQuery, keys: pa.Table, asked: np.ndarray, at: np.ndarray
) -> dict[str, Any]:
    """From all events of the spine's keys: ``MOST_EVENTS`` or so at a time."""
    since, until = _bounds(view, at)
    statement = query.select(since=since, until=until, keys=True)

    def part(first: int, last: int) -> dict[str, Any]:
        """Answers for the codes in [first, last)."""
        begin = int(np.searchsorted(asked, first)) if first else 0  # those without a code go with the first part
        end = int(np.searchsorted(asked, last))
        tables = {**query.relation.tables, "__keys": keys.slice(first, last - first)}
        return answers.compute(
            view, query.value_types, query.late, engine.query(statement, tables=tables), keys.num_rows,
            asked[begin:end], at[begin:end],
        )  # fmt: skip

    edges = _parts(engine, query, statement, keys)
    if len(edges) == 2:
        return part(*edges)
    parts = [part(first, last) for first, last in itertools.pairwise(edges)]
    return {name: pa.concat_arrays([_whole(p[name]) for p in parts]) for name in parts[0]}


def _parts(engine: Engine, query: ViewQuery, statement: str, keys: pa.Table) -> list[int]:
    """Edges of code ranges with at most ``MOST_EVENTS`` events each (more only where one entity alone has more)."""
    tables = query.relation.tables
    rows = int(engine.query(f"SELECT count(*) FROM ({query.relation.sql})", tables=tables)[0][0].as_py())
    if rows <= MOST_EVENTS:
        return [0, keys.num_rows]
    sizes = engine.query(
        f"SELECT __code, count(*) AS n FROM ({statement}) GROUP BY __code", tables={**tables, "__keys": keys}
    )
    per_code = np.zeros(keys.num_rows, np.int64)
    per_code[sizes.column("__code").to_numpy()] = sizes.column("n").to_numpy()
    edges, total = [0], 0
    for code, size in enumerate(per_code.tolist()):
        if total and total + size > MOST_EVENTS:
            edges.append(code)
            total = 0
        total += size
    return [*edges, keys.num_rows]


def _whole(column: Any) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _own_codes(table: pa.Table, names: Sequence[str], query: ViewQuery, view: Json) -> tuple[np.ndarray, pa.Table]:
    """Codes for the keys of a source itself."""
    classes = dict(zip(names, query.key_classes.values(), strict=True))
    found = encode_keys(table, names, classes, view["name"])
    return found.codes, found.table


def _bounds(view: Json, at: np.ndarray) -> tuple[int | None, int | None]:
    if not len(at):
        return 0, 0
    since: int | None = None
    if not view["fields"]:
        since = int(at.min()) - view["retention"]
    elif view["ttl"] is not None:
        since = int(at.min()) - max(view["ttl"], view["retention"])
    return since, int(at.max())


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
