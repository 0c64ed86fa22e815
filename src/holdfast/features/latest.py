"""The newest row of an entity, as the online store keeps it: ``[reference, [[time, arrival, sequence, values], …]]``.

Rows are ordered newest first by (event time, arrival, sequence, values). ``reference`` is the greatest arrival seen. Kept
are: all rows with an event time after the reference (they are not due yet), the newest one at or before it, and a few
older ones. Any request at or after the reference is answered exactly, in whatever order rows came, however often.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from holdfast.core.ports import Buffer

SPARE = 3
"""Older rows kept beyond what requests from now on need, for requests that are a little behind."""

MOST_TIES = 64
"""Rows of one event time kept where pushes may repeat them."""

FEW = 8
"""Rows taken in one by one; more are sorted together."""

_LOWEST = -(1 << 63)
_decoder = msgspec.msgpack.Decoder(type=tuple[int, list[tuple[int, int, int, list[Any]]]])
_encode = msgspec.msgpack.Encoder().encode


def _order(value: Any) -> tuple[int, Any]:
    if value is None:
        return (0, 0)
    return (2, value) if isinstance(value, str) else (1, value)


def order(row: Sequence[Any]) -> tuple[Any, ...]:
    """What decides between two rows of one entity: later wins, then among full ties the greater values."""
    return (row[0], row[1], row[2], tuple(map(_order, row[3])))


def merge(stored: Buffer | None, rows: Iterable[Sequence[Any]], *, stamped: bool) -> bytes | None:
    """The stored record with ``rows`` (time, arrival, sequence, values) taken in; None when nothing changes.

    ``stamped`` says that arrival is the time of the push and no column of the source: then a row of the same time,
    sequence and values is the same row pushed again, and counts from its first arrival.
    """
    rows = list(rows)
    reference, kept = _decoder.decode(stored) if stored is not None else (_LOWEST, [])
    ordered: list[Sequence[Any]] = list(kept)
    changed = stored is None
    if len(rows) > FEW:
        changed |= _take_many(ordered, rows, stamped)
    else:
        for row in rows:
            changed |= _take(ordered, row, stamped)
    top = max([reference, *(row[1] for row in rows)])
    if not changed and top == reference:
        return None
    due = bisect_left(ordered, -top, key=_newest_first)
    end = due + 1 + SPARE
    while stamped and end < min(len(ordered), due + MOST_TIES) and ordered[end][0] == ordered[due][0]:
        end += 1  # any of these may be pushed again, and must then be known
    return _encode((top, ordered[:end]))


def _newest_first(row: Sequence[Any]) -> int:
    return -int(row[0])


def _take(ordered: list[Sequence[Any]], row: Sequence[Any], stamped: bool) -> bool:
    """Put one row in its place, looking only at rows of its time; whether that changes anything."""
    time = row[0]
    first = last = bisect_left(ordered, -time, key=_newest_first)
    while last < len(ordered) and ordered[last][0] == time:
        last += 1
    if first < last:
        identity = _identity(row, stamped)
        for i in range(first, last):
            if _identity(ordered[i], stamped) == identity:
                if row[1] >= ordered[i][1]:
                    return False
                del ordered[i]
                last -= 1
                break
        mine = order(row)
        while first < last and order(ordered[first]) > mine:
            first += 1
    ordered.insert(first, row)
    return True


def _take_many(ordered: list[Sequence[Any]], rows: Sequence[Sequence[Any]], stamped: bool) -> bool:
    """As ``_take`` for each row, by one sort."""
    every: dict[tuple[Any, ...], Sequence[Any]] = {_identity(old, stamped): old for old in ordered}
    changed = False
    for row in rows:
        key = _identity(row, stamped)
        known = every.get(key)
        if known is None or row[1] < known[1]:
            every[key] = row
            changed = True
    if changed:
        ordered[:] = sorted(every.values(), key=order, reverse=True)
    return changed


def _identity(row: Sequence[Any], stamped: bool) -> tuple[Any, ...]:
    place, values = order(row)[:3], order(row)[3]
    return (place[0], place[2], values) if stamped else (*place, values)


def first(row: Sequence[Any]) -> bytes:
    """The record of an entity that has one row: what ``merge(None, [row])`` gives."""
    return _encode((row[1], (row,)))


def read_many(
    stored: Sequence[Buffer | None], base: int, step: int, places: Sequence[int], at: Sequence[int], ttl: int | None,
    nothing: list[Any],
) -> list[list[Any]]:  # fmt: skip
    """Per place the values of the newest row known at its time and not older than ``ttl`` (inclusive), or ``nothing``.
    The record of place p is ``stored[base + p × step]``; a negative place has none."""
    decode = _decoder.decode
    out = []
    for place, now in zip(places, at, strict=True):
        found = stored[base + place * step] if place >= 0 else None
        if found is None:
            out.append(nothing)
            continue
        for time, arrival, _, values in decode(found)[1]:
            if time <= now and arrival <= now:
                out.append(values if ttl is None or time >= now - ttl else nothing)
                break
        else:
            out.append(nothing)
    return out


def read(stored: Buffer, now: int, ttl: int | None, nothing: list[Any]) -> list[Any]:
    """``read_many`` of one record."""
    for time, arrival, _, values in _decoder.decode(stored)[1]:
        if time <= now and arrival <= now:
            return values if ttl is None or time >= now - ttl else nothing
    return nothing


def read_static(stored: Buffer) -> list[Any]:
    """The values of the winning row of a source without time."""
    return _decoder.decode(stored)[1][0][3]


def time(stored: Buffer, at: int) -> int | None:
    """The event time of the newest row known at ``at``."""
    return next((t for t, a, _, _ in _decoder.decode(stored)[1] if t <= at and a <= at), None)
