"""The newest row of an entity, as the online store keeps it: ``[reference, [[time, arrival, sequence, values], …]]``.

Rows are ordered newest first by (event time, arrival, sequence, values). ``reference`` is the greatest arrival seen. Kept
are: all rows with an event time after the reference (they are not due yet), the newest one at or before it, and a few
older ones. Any request at or after the reference is answered exactly, in whatever order rows came, however often.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from holdfast.core.ports import Buffer

SPARE = 3
"""Older rows kept beyond what requests from now on need, for requests that are a little behind."""

MOST_TIES = 64
"""Rows of one event time kept where pushes may repeat them."""

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
    reference, kept = _decoder.decode(stored) if stored is not None else (-(1 << 63), [])
    every: dict[tuple[Any, ...], Sequence[Any]] = {}
    top, changed = reference, stored is None
    for old in kept:
        every[_identity(old, stamped)] = old
    for row in rows:
        key = _identity(row, stamped)
        known = every.get(key)
        if known is None or row[1] < known[1]:
            every[key] = row
            changed = True
        top = max(top, row[1])
    if not changed and top == reference:
        return None
    ordered = sorted(every.values(), key=order, reverse=True)
    due = next((i for i, r in enumerate(ordered) if r[0] <= top), len(ordered))
    end = due + 1 + SPARE
    while stamped and end < min(len(ordered), due + MOST_TIES) and ordered[end][0] == ordered[due][0]:
        end += 1  # any of these may be pushed again, and must then be known
    return _encode((top, ordered[:end]))


def _identity(row: Sequence[Any], stamped: bool) -> tuple[Any, ...]:
    place, values = order(row)[:3], order(row)[3]
    return (place[0], place[2], values) if stamped else (*place, values)


def first(row: Sequence[Any]) -> bytes:
    """The record of an entity that has one row: what ``merge(None, [row])`` gives."""
    return _encode((row[1], (row,)))


def read(stored: Buffer, at: int, ttl: int | None) -> list[Any] | None:
    """The values of the newest row known at ``at`` and not older than ``ttl`` (inclusive), or None."""
    for time, arrival, _, values in _decoder.decode(stored)[1]:
        if time <= at and arrival <= at:
            return values if ttl is None or time >= at - ttl else None
    return None


def read_static(stored: Buffer) -> list[Any]:
    """The values of the winning row of a source without time."""
    return _decoder.decode(stored)[1][0][3]


def time(stored: Buffer, at: int) -> int | None:
    """The event time of the newest row known at ``at``."""
    return next((t for t, a, _, _ in _decoder.decode(stored)[1] if t <= at and a <= at), None)
