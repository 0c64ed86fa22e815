"""Questions answered from events sorted by (code, event time, arrival, sequence, values): latest values and windows.

What is the same row pushed again, and what decides among full ties, is settled here, for training sets and for kept events.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.records import Json
from holdfast.features.sliding import Events, Ints, Sliding, Values, before, newest_known
from holdfast.features.windows import aggregate_dtype

INSTANT = pa.timestamp("us", tz="UTC")
ARROW: dict[str, pa.DataType] = {
    "int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_(), "timestamp": INSTANT,
}  # fmt: skip
Fetch: TypeAlias = Callable[[Sequence[str], Ints], tuple[list[pa.Array], Ints]]
"""Columns of the given rows of a table, in whatever order is cheap, and where among them each row's values are."""
BLOCK = 1 << 17
"""Rows worked on at once where a column is gone through in pieces."""
SORTED_APART = 1 << 19
"""Rows that are worth a thread of their own when they are sorted."""
MOST_PARTS = 4


def compute(
    view: Json, value_types: Sequence[str], late: bool, table: pa.Table, codes: int, asked: Ints, at: Ints
) -> dict[str, Any]:
    """Feature columns from events in any order, with their ``__code``. ``asked`` is the code per question."""
    order = sort_order(table)
    code, time = ints(table, "__code")[order], ints(table, "__t")[order]
    arrival, sequence = ints(table, "__a")[order], ints(table, "__s")[order]
    events = stretches(code, codes, time, arrival, sequence)
    out: dict[str, Any] = {}
    if view["fields"]:
        rows = order
        events_then = events
        if late and view["arrival"] is None:
            where = tied(code, time)
            part = table.take(pa.array(order[where]))
            fields = [part.column(f"f{i}") for i in range(len(view["fields"]))]
            drop = pushed_again(where, code[where], time[where], arrival[where], sequence[where], fields)
            keep = without(len(code), drop)
            if keep is not None:
                rows = order[keep]
                events_then = stretches(code[keep], codes, time[keep], arrival[keep], sequence[keep])
        out |= latest_columns(view, late, events_then, rows, lambda names, at: take(table, names, at), asked, at)
    if view["aggregates"]:
        where = tied(code, time)
        content = table.column("__h").take(pa.array(order[where])).to_numpy()
        keep = without(len(code), same_events(where, code[where], time[where], arrival[where], content))
        rows = order
        if keep is not None:
            rows = order[keep]
            events = stretches(code[keep], codes, time[keep], arrival[keep], sequence[keep])
        columns = [table.column(f"v{i}").take(pa.array(rows)) for i in range(len(value_types))]
        out |= window_columns(view, value_types, late, events, columns, asked, at)
    return {c: out[c] for c, _ in view["columns"]}


def latest_columns(
    view: Json, late: bool, events: Events, rows: Ints, fetch: Fetch, asked: Ints, at: Ints
) -> dict[str, Any]:
    """The fields as known at each question's time. ``rows`` says where each event's values lie."""
    place = newest_known(events, asked, at, late)
    if view["ttl"] is not None and view["timestamp"] is not None and len(events.time):
        fresh = events.time[np.maximum(place, 0)] >= before(at, view["ttl"])
        place = np.where(fresh, place, -1)
    # values are fetched where they lie: only the winners' are ever moved
    known = np.flatnonzero(place >= 0)
    columns, slots = fetch(
        [f"f{i}" for i in range(len(view["fields"]))], np.asarray(rows[place[known]], dtype=np.int64)
    )
    answer = np.zeros(len(place), np.int64)
    answer[known] = slots
    index = pa.array(answer, mask=place < 0)
    out = {}
    for field, column in zip(view["fields"], columns, strict=True):
        if field["dtype"] == "timestamp":
            column = column.cast(INSTANT)
        out[field["column"]] = column.cast(ARROW[field["dtype"]]).take(index)
    return out


def window_columns(
    view: Json, value_types: Sequence[str], late: bool, events: Events, columns: Sequence[Any], asked: Ints, at: Ints
) -> dict[str, Any]:
    """The aggregates as known at each question's time; ``columns`` are the value columns in the events' order."""
    sliding = Sliding(events, asked, at, late=late)
    values = [_values(column, dtype) for column, dtype in zip(columns, value_types, strict=True)]
    out: dict[str, Any] = {}
    for aggregate in view["aggregates"]:
        v = aggregate["value"]
        result, null = sliding.compute(v, values[v], aggregate["function"], aggregate["window"])
        dtype = aggregate_dtype(aggregate["function"], value_types[v])
        if dtype == "string":
            words = pa.array(values[v].text or [""], pa.string())
            out[aggregate["column"]] = words.take(pa.array(np.where(null, 0, result), mask=null))
        else:
            out[aggregate["column"]] = pa.array(result, ARROW[dtype], mask=null)
    return out


def stretches(code: Ints, codes: int, time: Ints, arrival: Ints, sequence: Ints) -> Events:
    """Sorted events with each code's stretch."""
    edges = np.searchsorted(code, np.arange(codes + 1), side="left")
    return Events(edges[:-1], edges[1:], time, arrival, sequence)


def by_code_and_time(code: Ints, time: Ints) -> tuple[Ints, np.ndarray]:
    """(the order by code and time, whether each but the first has the code and time of the one before).

    One sort of integers that hold code, time as exactly as there is room, and the row; what they leave open is settled
    among the few rows it concerns. Codes are −1 and up.
    """
    n = len(code)
    if n < 2:
        return np.arange(n), np.zeros(0, bool)
    for_row, for_code = (n - 1).bit_length(), (int(code.max()) + 1).bit_length()
    room = 63 - for_row - for_code
    first, span = int(time.min()), int(time.max()) - int(time.min())
    if room < 12 or span >= 1 << 62:
        row = np.lexsort((time, code))
        return row, (code[row[1:]] == code[row[:-1]]) & (time[row[1:]] == time[row[:-1]])
    shift = max(span.bit_length() - room, 0)
    packed = np.empty(n, np.int64)

    def pack(start: int, stop: int) -> None:
        for a in range(start, stop, BLOCK):  # what lies between stays in the processor's cache
            b = min(a + BLOCK, stop)
            part = time[a:b] - first
            part >>= shift
            part <<= for_row
            shifted = code[a:b] + 1
            shifted <<= room + for_row
            part |= shifted
            np.bitwise_or(part, np.arange(a, b), out=packed[a:b])
        packed[start:stop].sort()

    if _in_parts(n, pack) > 1:
        packed.sort(kind="stable")  # which finds that it only has to merge them
    row, same = packed, np.empty(n - 1, bool)
    for a in range(0, n, BLOCK):
        part = packed[a : a + BLOCK + 1] >> for_row  # one more, which the last is compared with
        np.equal(part[1:], part[:-1], out=same[a : a + BLOCK])
        row[a : a + BLOCK] &= (1 << for_row) - 1  # in place: a large sort holds no more than it must
    if shift:
        where = members(same)
        if len(where):
            group = np.cumsum((where == 0) | ~same[np.maximum(where - 1, 0)])
            row[where] = row[where][np.lexsort((time[row[where]], group))]
            same[where[1:] - 1] &= time[row[where[1:]]] == time[row[where[1:] - 1]]
    return row, same


def _in_parts(n: int, work: Callable[[int, int], None]) -> int:
    """Do ``work(start, stop)`` for all of ``n`` rows, in as many parts as there are processors to take one; how many."""
    parts = min(n // SORTED_APART, MOST_PARTS, os.cpu_count() or 1)
    if parts < 2:
        work(0, n)
        return 1
    edges = [n * at // parts for at in range(parts + 1)]
    with ThreadPoolExecutor(parts) as pool:
        for done in [pool.submit(work, *stretch) for stretch in pairwise(edges)]:
            done.result()
    return parts


def sort_order(table: pa.Table) -> Ints:
    """The order by (code, time, arrival, sequence); full ties by value, so that sums are added in one order."""
    order, same = by_code_and_time(ints(table, "__code"), ints(table, "__t"))
    settle_ties(order, same, lambda rows: table.take(pa.array(rows)))
    return order


def settle_ties(order: Ints, same: np.ndarray, rows_of: Callable[[Ints], pa.Table]) -> None:
    """Put rows of one entity and event time in order, in place. ``rows_of`` gives ``__a``, ``__s`` and the values."""
    where = members(same)
    if len(where):
        group = np.cumsum((where == 0) | ~same[np.maximum(where - 1, 0)])
        order[where] = order[where][settle(rows_of(order[where]), group)]


def settle(part: pa.Table, group: Ints) -> Ints:
    """The order by (group, arrival, sequence, values), nulls first."""
    part = part.append_column("group", pa.array(group))
    names = ["group", "__a", "__s"]
    for name in [c for c in part.column_names if c[0] in "fv"]:
        part = part.append_column(f"{name} known", part.column(name).is_valid())
        names += [f"{name} known", name]
    return np.asarray(pc.sort_indices(part, sort_keys=[(name, "ascending") for name in names]).to_numpy())


def members(same: np.ndarray) -> Ints:
    """The positions in runs of more than one; ``same`` says of each but the first that it goes with the one before."""
    tie = np.zeros(len(same) + 1, bool)
    tie[1:] |= same
    tie[:-1] |= same
    return np.flatnonzero(tie)


def tied(code: Ints, time: Ints) -> Ints:
    """The positions of events that share entity and event time with another."""
    return members((code[1:] == code[:-1]) & (time[1:] == time[:-1])) if len(code) else np.zeros(0, np.int64)


def pushed_again(where: Ints, code: Ints, time: Ints, arrival: Ints, sequence: Ints, fields: Sequence[Any]) -> Ints:
    """Where arrival is the time of a push: those of the positions ``where`` whose row came before. The same time, sequence
    and values are the same row, which counts from its first arrival."""
    if not len(where):
        return where
    values = [encoded(column) for column in fields]
    keys = (*values, sequence, time, code)
    order = np.lexsort((arrival, *keys))
    again = np.ones(len(order) - 1, bool)
    for column in keys:
        again &= column[order][1:] == column[order][:-1]
    return where[order[1:][again]]


def same_events(where: Ints, code: Ints, time: Ints, arrival: Ints, content: np.ndarray) -> Ints:
    """Those of the positions ``where`` whose content came before: one event, known since its earliest arrival."""
    if not len(where):
        return where
    order = np.lexsort((arrival, content, time, code))
    again = np.ones(len(order) - 1, bool)
    for column in (code, time, content):
        again &= column[order][1:] == column[order][:-1]
    return where[order[1:][again]]


def encoded(column: Any) -> Ints:
    """Equal values as equal integers, null among them."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return np.asarray(column.dictionary_encode("encode").indices.to_numpy(zero_copy_only=False))


def without(n: int, drop: Ints) -> Ints | None:
    """The positions that are left, or None where all are."""
    if not len(drop):
        return None
    keep = np.ones(n, bool)
    keep[drop] = False
    return np.flatnonzero(keep)


def take(table: pa.Table, names: Sequence[str], rows: Ints) -> tuple[list[pa.Array], Ints]:
    """A ``Fetch`` from a table in memory."""
    index = pa.array(rows)
    return [table.column(name).combine_chunks().take(index) for name in names], np.arange(len(rows))


def ints(table: pa.Table | pa.RecordBatch, name: str) -> Ints:
    """An int64 column without nulls."""
    return np.asarray(table.column(name).to_numpy(), dtype=np.int64)


def _values(column: Any, dtype: str) -> Values:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    null = column.is_null().to_numpy(zero_copy_only=False)
    if dtype == "string":
        encoded = column.dictionary_encode()
        words = encoded.dictionary.to_pylist()
        order = sorted(range(len(words)), key=words.__getitem__)
        rank = np.empty(len(words), np.int64)
        rank[order] = np.arange(len(words))
        places = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
        data = rank[places] if len(words) else np.zeros(len(null), np.int64)
        return Values(np.where(null, 0, data), null, [words[i] for i in order])
    if dtype == "int64":
        return Values(column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64, copy=False), null)
    data = column.fill_null(np.nan).to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    return Values(data, null | np.isnan(data))
