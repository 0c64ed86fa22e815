"""Events of one entity as one string of 8-byte little-endian cells, laid out for reading windows without decoding.

    0 magic · 1 n · 2 greatest arrival · 3 cells before the text · 4 columns · then per column: kind, offset, flags
    time[n] · arrival[n] · sequence[n] · id[n], ordered by (time, arrival, sequence, id)
    per column: value[n] · count[n+1] (non-null before i) · sum[n+1] · (distinct asked: previous[n])
    MessagePack: per text column its sorted distinct values

``kind`` is 0 float64 (NaN = null), 1 int64, 2 text (cells are places in the sorted values). ``sum`` holds running sums
where those are exact (integers within 2**53 and 2**62) and otherwise, for float64, the values with nulls as 0.
``previous`` is the position of the same value before i, or −1.

An entity has two blocks: a large *base*, rewritten rarely, and a small *tail*, rewritten by every push.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from holdfast.core.errors import Damaged
from holdfast.core.ports import Buffer

MAGIC = 0x31304B4C42464848
FLOAT, INT, TEXT = 0, 1, 2
EXACT, DISTINCT = 1, 2
HEADER = 5
TAIL_MOST = 96
"""Events in a tail before it is merged into the base (more where the base is large)."""

_text_decoder = msgspec.msgpack.Decoder(type=dict[int, list[str]])


class Event(NamedTuple):
    """One event of one entity; ``values`` are the view's value columns, None where null or filtered away."""

    time: int
    arrival: int
    sequence: int
    id: int
    values: tuple[Any, ...]


def build(events: Sequence[Event], distinct: Sequence[bool]) -> bytes:
    """The block of these events; their order here does not matter, and no two have the same (time, id)."""
    events = sorted(events, key=lambda e: e[:4])
    n, width = len(events), len(distinct)
    columns = [_column([e[4][c] for e in events], distinct[c]) for c in range(width)]
    offset = HEADER + 3 * width + 4 * n
    head = [MAGIC, n, max(e[1] for e in events), 0, width]
    body, texts = [], {}
    for c, (kind, flags, arrays, text) in enumerate(columns):
        head += [kind, offset, flags]
        offset += sum(len(a) for a in arrays)
        body += arrays
        if text is not None:
            texts[c] = text
    head[3] = offset
    spine = np.array([e[:4] for e in events], dtype=np.int64).T
    parts = [np.array(head, dtype=np.int64).tobytes(), spine.tobytes(), *(a.tobytes() for a in body)]
    if texts:
        packed = msgspec.msgpack.encode(texts)
        parts.append(packed + b"\xc1" * (-len(packed) % 8))
    return b"".join(parts)


def _column(values: list[Any], distinct: bool) -> tuple[int, int, list[np.ndarray], list[str] | None]:
    n = len(values)
    known = [v for v in values if v is not None]
    counts = np.zeros(n + 1, dtype=np.int64)
    np.cumsum([v is not None for v in values], out=counts[1:])
    text: list[str] | None = None
    flags = DISTINCT if distinct else 0
    if any(isinstance(v, str) for v in known):
        text = sorted(set(map(str, known)))
        place = {v: i for i, v in enumerate(text)}
        cells = np.array([-1 if v is None else place[str(v)] for v in values], dtype=np.int64)
        kind, arrays = TEXT, [cells, counts]
    elif all(type(v) is int for v in known) and known:
        kind = INT
        cells = np.array([0 if v is None else v for v in values], dtype=np.int64)
        sums = np.zeros(n + 1, dtype=np.int64)
        if sum(map(abs, known)) < 1 << 62:
            flags |= EXACT
            np.cumsum(cells, out=sums[1:])
        arrays = [cells, counts, sums]
    else:
        kind = FLOAT
        cells = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
        filled = np.where(np.isnan(cells), 0.0, cells)
        sums = np.zeros(n + 1, dtype=np.float64)
        if exact_sums(filled):
            flags |= EXACT
            np.cumsum(filled, out=sums[1:])
        else:
            sums[:n] = filled
        arrays = [cells, counts, sums]
    if distinct:
        seen: dict[Any, int] = {}
        previous = np.empty(n, dtype=np.int64)
        for i, v in enumerate(values):
            previous[i] = seen.get(v, -1) if v is not None else n
            seen[v] = i
        arrays.append(previous)
    return kind, flags, arrays, text


def exact_sums(filled: np.ndarray) -> bool:
    """Whether all running sums of these float64 are exact: whole numbers that add up to less than 2**53."""
    return bool(np.isfinite(filled).all() and np.abs(filled).sum() < 2.0**53 and (filled == np.floor(filled)).all())


def decode(block: Buffer) -> list[Event]:
    """The events of a block, in order."""
    view = Block(block)
    n, cells = view.n, view.cells
    spine = [cells[view.start + k * n : view.start + (k + 1) * n].tolist() for k in range(4)]
    columns = [view.column(c) for c in range(view.width)]
    values = zip(*columns, strict=True) if columns else [()] * n
    return [Event(t, a, s, i, tuple(v)) for t, a, s, i, v in zip(*spine, values, strict=True)]


class Block:
    """A block being read. Valid as long as its buffer."""

    __slots__ = ("_texts", "buffer", "cells", "floats", "n", "start", "width")

    def __init__(self, buffer: Buffer) -> None:
        memory = memoryview(buffer)
        self.buffer = memory
        self.cells = memory.cast("q")
        if self.cells[0] != MAGIC:
            raise Damaged("an online feature block is not readable", hint="run `holdfast features rebuild`")
        self.floats = memory.cast("d")
        self.n = self.cells[1]
        self.width = self.cells[4]
        self.start = HEADER + 3 * self.width
        self._texts: dict[int, list[str]] | None = None

    def text(self, column: int) -> list[str]:
        """The sorted distinct values of a text column."""
        if self._texts is None:
            self._texts = _text_decoder.decode(bytes(self.buffer[self.cells[3] * 8 :]).rstrip(b"\xc1"))
        return self._texts[column]

    def kind(self, column: int) -> int:
        kind: int = self.cells[HEADER + 3 * column]
        return kind

    def column(self, column: int, lo: int = 0, hi: int | None = None) -> list[Any]:
        """Values of a column between two positions, None where null."""
        hi = self.n if hi is None else hi
        kind, offset, _ = self.cells[HEADER + 3 * column : HEADER + 3 * column + 3].tolist()
        if kind == FLOAT:
            return [None if v != v else v for v in self.floats[offset + lo : offset + hi].tolist()]
        cells = self.cells[offset + lo : offset + hi].tolist()
        if kind == TEXT:
            text = self.text(column)
            return [None if v < 0 else text[v] for v in cells]
        counts = self.cells[offset + self.n + lo : offset + self.n + hi + 1].tolist()
        return [v if counts[i + 1] > counts[i] else None for i, v in enumerate(cells)]

    def after(self, time: int) -> int:
        """The position of the first event later than ``time``."""
        return bisect_right(self.cells, time, self.start, self.start + self.n) - self.start

    def find(self, time: int, id: int) -> int:
        """The position of an event, or −1."""
        start, n = self.start, self.n
        i = bisect_left(self.cells, time, start, start + n) - start
        while i < n and self.cells[start + i] == time:
            if self.cells[start + 3 * n + i] == id:
                return i
            i += 1
        return -1

    def count(self, column: int, lo: int, hi: int) -> int:
        base = self.cells[HEADER + 3 * column + 1] + self.n
        count: int = self.cells[base + hi] - self.cells[base + lo]
        return count

    def sum(self, column: int, lo: int, hi: int) -> int | float:
        """The sum of the non-null values between two positions; an int where all are."""
        kind, offset, flags = self.cells[HEADER + 3 * column : HEADER + 3 * column + 3].tolist()
        base = offset + 2 * self.n + 1
        if flags & EXACT:
            cells = self.cells if kind == INT else self.floats
            result: int | float = cells[base + hi] - cells[base + lo]
            return result
        if kind == INT:
            return sum(self.cells[offset + lo : offset + hi].tolist())
        return float(np.add.reduce(np.frombuffer(self.buffer, np.float64, hi - lo, (base + lo) * 8)))

    def array(self, column: int, lo: int, hi: int) -> np.ndarray:
        """Values between two positions without nulls (text as places)."""
        kind, offset, _ = self.cells[HEADER + 3 * column : HEADER + 3 * column + 3].tolist()
        if kind == FLOAT:
            values = np.frombuffer(self.buffer, np.float64, hi - lo, (offset + lo) * 8)
            return values if self.count(column, lo, hi) == hi - lo else values[~np.isnan(values)]
        values = np.frombuffer(self.buffer, np.int64, hi - lo, (offset + lo) * 8)
        if self.count(column, lo, hi) == hi - lo:
            return values
        counts = np.frombuffer(self.buffer, np.int64, hi - lo + 1, (offset + self.n + lo) * 8)
        return values[np.diff(counts) > 0]

    def distinct(self, column: int, lo: int, hi: int) -> int:
        kind, offset, _ = self.cells[HEADER + 3 * column : HEADER + 3 * column + 3].tolist()
        base = offset + (2 * self.n + 1 if kind == TEXT else 3 * self.n + 2)
        return int(np.count_nonzero(np.frombuffer(self.buffer, np.int64, hi - lo, (base + lo) * 8) < lo))


def merge(
    base: Buffer | None, tail: Buffer | None, events: Iterable[Event], distinct: Sequence[bool], retention: int
) -> tuple[bytes | None, bytes | None] | None:
    """(base, tail) with ``events`` taken in, or None when all are known already.

    An event known already stays as it is unless it now turns out to have arrived earlier. When the tail has grown, it is
    merged into the base, and events older than ``retention`` before the newest that is both past and arrived are dropped.
    """
    old_base = Block(base) if base is not None else None
    old_tail = Block(tail) if tail is not None else None
    fresh: dict[tuple[int, int], Event] = {}
    rebuild = False
    for event in events:
        key = (event.time, event.id)
        known = fresh.get(key)
        if known is not None:
            if event.arrival < known.arrival:
                fresh[key] = event
            continue
        earlier = False
        for block in (old_tail, old_base):
            if block is not None and (at := block.find(event.time, event.id)) >= 0:
                if block.cells[block.start + block.n + at] <= event.arrival:
                    earlier = True
                else:
                    rebuild = True  # known since earlier than we thought
                break
        if not earlier:
            fresh[key] = event
    if not fresh:
        return None
    in_tail = old_tail.n if old_tail is not None else 0
    in_base = old_base.n if old_base is not None else 0
    if not rebuild and in_tail + len(fresh) <= max(TAIL_MOST, in_base // 32):
        every = (decode(tail) if tail is not None else []) + list(fresh.values())
        return (bytes(base) if base is not None else None, build(every, distinct))
    known_all = {(e.time, e.id): e for block in (base, tail) if block is not None for e in decode(block)}
    known_all.update(fresh)
    horizon = max(min(e.time, e.arrival) for e in known_all.values()) - retention
    kept = [e for e in known_all.values() if e.time > horizon]
    return (build(kept, distinct), None)


def spare(retention: int) -> int:
    """How long events are kept: the longest window and a tenth more (at least an hour), for requests a little behind."""
    return retention + max(retention // 10, 3_600_000_000)


class Window:
    """The aggregates of one view's windows, read from (base, tail)."""

    __slots__ = ("_aggregates", "_windows")

    def __init__(self, aggregates: Sequence[tuple[str, int, str, int]]) -> None:
        """``aggregates`` are (column, value, function, window)."""
        windows = sorted({a[3] for a in aggregates})
        self._windows = windows
        self._aggregates = [
            (column, value, function, windows.index(window)) for column, value, function, window in aggregates
        ]

    def read(self, base: Buffer | None, tail: Buffer | None, at: int, into: dict[str, Any]) -> None:
        """Write every aggregate as known at ``at`` into ``into``, by column name."""
        spans: list[list[tuple[Block, int, int]]] = [[] for _ in self._windows]
        for buffer in (base, tail):
            if buffer is None:
                continue
            block = Block(buffer)
            if block.cells[2] > at:
                buffer_then = _arrived(block, at)
                if buffer_then is None:
                    continue
                block = Block(buffer_then)
            hi = block.after(at)
            for w, window in enumerate(self._windows):
                lo = block.after(at - window)
                if lo < hi:
                    spans[w].append((block, lo, hi))
        for column, value, function, w in self._aggregates:
            into[column] = _read(function, value, spans[w])


def _arrived(block: Block, at: int) -> bytes | None:
    """The part of a block that had arrived by ``at``: the rare case of a request behind the newest arrival."""
    events = [e for e in decode(block.buffer) if e.arrival <= at]
    if not events:
        return None
    flags = [block.cells[HEADER + 3 * c + 2] & DISTINCT > 0 for c in range(block.width)]
    return build(events, flags)


def _read(function: str, column: int, spans: Sequence[tuple[Block, int, int]]) -> Any:
    count = 0
    for block, lo, hi in spans:
        count += block.count(column, lo, hi)
    if function == "count":
        return count
    if not count:
        return 0 if function in ("distinct", "approx_distinct") else None
    if function == "mean" or function == "sum":
        total: int | float = 0
        for block, lo, hi in spans:
            total += block.sum(column, lo, hi)
        result = total / count if function == "mean" else float(total)
        return None if result != result else result
    spans = [s for s in spans if s[0].count(column, s[1], s[2])]
    if function == "min" or function == "max":
        reduce = np.minimum.reduce if function == "min" else np.maximum.reduce
        best: Any = None
        for block, lo, hi in spans:
            value = reduce(block.array(column, lo, hi)).item()
            if block.kind(column) == TEXT:
                value = block.text(column)[value]
            best = value if best is None else (min if function == "min" else max)(best, value)
        return best
    if function == "last" or function == "first":
        return _end(function, column, spans)
    if function == "std":
        return _std(column, spans, count)
    if len(spans) == 1:
        return spans[0][0].distinct(column, spans[0][1], spans[0][2])
    return len({v for block, lo, hi in spans for v in block.column(column, lo, hi) if v is not None})


def _end(function: str, column: int, spans: Sequence[tuple[Block, int, int]]) -> Any:
    """The last (first) non-null value; among rows equal in time, arrival and sequence the greatest (least)."""
    best: tuple[tuple[int, int, int], Any] | None = None
    sign = 1 if function == "last" else -1
    for block, lo, hi in spans:
        start, n, cells = block.start, block.n, block.cells
        at, stop = (hi - 1, lo - 1) if sign > 0 else (lo, hi)
        found: tuple[int, int, int] | None = None
        while at != stop:
            order = (cells[start + at], cells[start + n + at], cells[start + 2 * n + at])
            if found is not None and order != found:
                break
            if block.count(column, at, at + 1):
                found = order
                value = block.column(column, at, at + 1)[0]
                if (
                    best is None
                    or (order > best[0] if sign > 0 else order < best[0])
                    or (order == best[0] and (value > best[1] if sign > 0 else value < best[1]))
                ):
                    best = (order, value)
            at -= sign
    return best[1] if best is not None else None


def _std(column: int, spans: Sequence[tuple[Block, int, int]], count: int) -> float | None:
    if count < 2:
        return None
    values = [block.array(column, lo, hi).astype(np.float64) for block, lo, hi in spans]
    joined = values[0] if len(values) == 1 else np.concatenate(values)
    if not np.isfinite(joined).all():
        return None
    spread = joined - joined.mean()
    return math.sqrt(float(spread @ spread) / (count - 1))
