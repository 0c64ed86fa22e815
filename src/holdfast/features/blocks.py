"""Events of one entity as one string of 8-byte little-endian cells, laid out for reading windows without decoding.

    0 magic · 1 n · 2 greatest arrival · 3 cells before the text · 4 columns · then per column: kind, offset, flags
    time[n] · arrival[n] · sequence[n] · id[n], ordered by (time, arrival, sequence, id)
    per column: value[n] · count[n+1] (non-null before i) · sum[n+1] · (distinct asked: previous[n])
    MessagePack: per text column its sorted distinct values

``kind`` is 0 float64 (NaN = null), 1 int64, 2 text (cells are places in the sorted values). ``flags`` say: running
sums are exact, distinct is asked, no sum leaves the finite floats. ``sum`` holds running sums where those are exact (integers
within 2**53 and 2**62) and otherwise, for float64, the values with nulls as 0. ``previous`` is the position of the same value
before i, or −1.

An entity has two blocks: a large *base*, rewritten rarely, and a small *tail*, rewritten by every push.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np

from holdfast.core.errors import Damaged
from holdfast.core.ports import Buffer

MAGIC = 0x31304B4C42464848
FLOAT, INT, TEXT = 0, 1, 2
EXACT, DISTINCT, FINITE = 1, 2, 4
HEADER = 5
TAIL_MOST = 96
"""Events in a tail before it is merged into the base (more where the base is large)."""

MOST_GAPS = 24
"""Events not yet arrived that a window is read around; with more of them the block is made anew without them."""

_text_decoder = msgspec.msgpack.Decoder(type=dict[int, list[str]])


Event = tuple[int, int, int, int, tuple[Any, ...]]
"""One event of one entity: (time, arrival, sequence, id, values). ``values`` are the view's value columns, None where null
or filtered away. Tuples, because pushes make many; they order as events do."""

_SMALL = 128


def build(events: Iterable[Event], distinct: Sequence[bool]) -> bytes:
    """The block of these events; their order here does not matter, and no two have the same (time, id)."""
    events = sorted(events)
    n, width = len(events), len(distinct)
    time, arrival, sequence, identity, rows = zip(*events, strict=True)
    offset = HEADER + 3 * width + 4 * n
    head = [MAGIC, n, max(arrival), 0, width]
    make = _small_column if n <= _SMALL else _column
    body: list[bytes] = []
    texts: dict[int, list[str]] = {}
    for c, values in enumerate(zip(*rows, strict=True)):
        kind, flags, cells, text = make(values, distinct[c])
        head += (kind, offset, flags)
        offset += sum(map(len, cells)) >> 3
        body += cells
        if text is not None:
            texts[c] = text
    head[3] = offset
    parts = [_cells([*head, *time, *arrival, *sequence, *identity]), *body]
    if texts:
        packed = msgspec.msgpack.encode(texts)
        parts.append(packed + b"\xc1" * (-len(packed) % 8))
    return b"".join(parts)


def _cells(values: Iterable[int]) -> bytes:
    return array("q", values).tobytes()


def _previous_places(values: Sequence[Any]) -> list[int]:
    """Per position the position of the same value before it, −1 where there is none; n (never fresh) for nulls."""
    seen: dict[Any, int] = {}
    out = []
    for i, value in enumerate(values):
        out.append(len(values) if value is None else seen.get(value, -1))
        seen[value] = i
    return out


def _as_text(values: Sequence[Any]) -> tuple[list[int], list[str]] | None:
    """(places, sorted distinct values) where the column holds text."""
    if not any(isinstance(v, str) for v in values):
        return None
    text = sorted({str(v) for v in values if v is not None})
    place = {v: i for i, v in enumerate(text)}
    return [-1 if v is None else place[str(v)] for v in values], text


def _small_column(values: Sequence[Any], distinct: bool) -> tuple[int, int, list[bytes], list[str] | None]:
    """A column of a few values, without NumPy's overhead."""
    flags = DISTINCT if distinct else 0
    counts = _cells(accumulate((v is not None for v in values), initial=0))
    last = [_cells(_previous_places(values))] if distinct else []
    known = [v for v in values if v is not None]
    kinds = set(map(type, known))
    if str in kinds:
        places, text = _as_text(values) or ([], [])
        return TEXT, flags, [_cells(places), counts, *last], text
    if kinds == {int}:
        filled = [v or 0 for v in values]
        if sum(map(abs, known)) < 1 << 62:
            return INT, flags | EXACT, [_cells(filled), counts, _cells(accumulate(filled, initial=0)), *last], None
        return INT, flags, [_cells(filled), counts, bytes(8 * len(values) + 8), *last], None
    floats = [math.nan if v is None else float(v) for v in values]
    zeros = [0.0 if v is None else float(v) for v in values]
    if max(map(abs, zeros), default=0.0) * len(zeros) < 1e300:
        flags |= FINITE
    if all(map(float.is_integer, zeros)) and sum(map(abs, zeros)) < 2.0**53:
        flags |= EXACT
        sums = array("d", accumulate(zeros, initial=0.0))
    else:
        sums = array("d", [*zeros, 0.0])
    return FLOAT, flags, [array("d", floats).tobytes(), counts, sums.tobytes(), *last], None


def _column(values: Sequence[Any], distinct: bool) -> tuple[int, int, list[bytes], list[str] | None]:
    n = len(values)
    known = [v for v in values if v is not None]
    counts = np.zeros(n + 1, dtype=np.int64)
    np.cumsum([v is not None for v in values], out=counts[1:])
    flags = DISTINCT if distinct else 0
    last = [_cells(_previous_places(values))] if distinct else []
    found = _as_text(values)
    if found is not None:
        return TEXT, flags, [_cells(found[0]), counts.tobytes(), *last], found[1]
    if known and all(type(v) is int for v in known):
        whole = np.array([0 if v is None else v for v in values], dtype=np.int64)
        running = np.zeros(n + 1, dtype=np.int64)
        if sum(map(abs, known)) < 1 << 62:
            flags |= EXACT
            np.cumsum(whole, out=running[1:])
        return INT, flags, [whole.tobytes(), counts.tobytes(), running.tobytes(), *last], None
    cells = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    filled = np.where(np.isnan(cells), 0.0, cells)
    sums = np.zeros(n + 1, dtype=np.float64)
    if float(np.abs(filled).max(initial=0.0)) * n < 1e300:
        flags |= FINITE
    if exact_sums(filled):
        flags |= EXACT
        np.cumsum(filled, out=sums[1:])
    else:
        sums[:n] = filled
    return FLOAT, flags, [cells.tobytes(), counts.tobytes(), sums.tobytes(), *last], None


def exact_sums(filled: np.ndarray) -> bool:
    """Whether all running sums of these float64 are exact: whole numbers that add up to less than 2**53."""
    return bool(np.isfinite(filled).all() and np.abs(filled).sum() < 2.0**53 and (filled == np.floor(filled)).all())


def decode(block: Buffer) -> list[Event]:
    """The events of a block, in order."""
    view = Block(block)
    n, cells = view.n, view.cells
    spine = cells[view.start : view.start + 4 * n].tolist()
    values = zip(*[view.column(c) for c in range(view.width)], strict=True) if view.width else [()] * n
    return list(zip(spine[:n], spine[n : 2 * n], spine[2 * n : 3 * n], spine[3 * n :], values, strict=True))


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

    def not_arrived(self, at: int, hi: int) -> list[int]:
        """The positions before ``hi`` whose arrival is later than ``at``."""
        arrivals = np.frombuffer(self.buffer, np.int64, hi, (self.start + self.n) * 8)
        found: list[int] = np.flatnonzero(arrivals > at).tolist()
        return found

    def find(self, time: int, identity: int) -> int:
        """The position of an event, or −1."""
        start, n = self.start, self.n
        i = bisect_left(self.cells, time, start, start + n) - start
        while i < n and self.cells[start + i] == time:
            if self.cells[start + 3 * n + i] == identity:
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
        values = np.frombuffer(self.buffer, np.float64, hi - lo, (base + lo) * 8)
        if flags & FINITE:
            return float(np.add.reduce(values))
        with np.errstate(all="ignore"):  # infinities of both signs: NaN, which is null
            return float(np.add.reduce(values))

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
) -> tuple[Buffer | None, bytes | None] | None:
    """(base, tail) with ``events`` taken in, or None when all are known already. A base that stays comes back as it is.

    An event known already stays as it is unless it now turns out to have arrived earlier. When the tail has grown, it is
    merged into the base, and events older than ``retention`` before the newest that is both past and arrived are dropped.
    """
    old_base = Block(base) if base is not None else None
    old_tail = Block(tail) if tail is not None else None
    fresh: dict[tuple[int, int], Event] = {}
    rebuild = False
    for event in events:
        time, arrival, _, identity, _ = event
        key = (time, identity)
        known = fresh.get(key)
        if known is not None:
            if arrival < known[1]:
                fresh[key] = event
            continue
        for block in (old_tail, old_base):
            if block is not None and (at := block.find(time, identity)) >= 0:
                if arrival < block.cells[block.start + block.n + at]:
                    rebuild = True  # known since earlier than we thought
                    fresh[key] = event
                break
        else:
            fresh[key] = event
    if not fresh:
        return None
    in_tail = old_tail.n if old_tail is not None else 0
    in_base = old_base.n if old_base is not None else 0
    if not rebuild and in_tail + len(fresh) <= max(TAIL_MOST, in_base // 32):
        every = (decode(tail) if tail is not None else []) + list(fresh.values())
        return (base, build(every, distinct))
    known_all = {(e[0], e[3]): e for block in (base, tail) if block is not None for e in decode(block)}
    known_all.update(fresh)
    horizon = max(min(e[0], e[1]) for e in known_all.values()) - retention
    return (build([e for e in known_all.values() if e[0] > horizon], distinct), None)


def spare(retention: int) -> int:
    """How long events are kept: the longest window and a tenth more (at least an hour), for requests a little behind."""
    return retention + max(retention // 10, 3_600_000_000)


Span = tuple[Block, int, int]
"""Positions [lo, hi) of a block."""


class Window:
    """The aggregates of one view's windows, read from (base, tail)."""

    __slots__ = ("_groups", "_windows")

    def __init__(self, aggregates: Sequence[tuple[str, int, str, int]]) -> None:
        """``aggregates`` are (column, value, function, window)."""
        windows = sorted({a[3] for a in aggregates})
        self._windows = windows
        groups: dict[tuple[int, int], list[tuple[str, str]]] = {}
        for column, value, function, window in aggregates:
            groups.setdefault((value, windows.index(window)), []).append((column, function))
        self._groups = [(value, w, some) for (value, w), some in groups.items()]

    def read(self, base: Buffer | None, tail: Buffer | None, at: int, into: dict[str, Any]) -> None:
        """Write every aggregate as known at ``at`` into ``into``, by column name."""
        spans: list[list[Span]] = [[] for _ in self._windows]
        for buffer in (base, tail):
            if buffer is None:
                continue
            block = Block(buffer)
            hi = block.after(at)
            gaps: list[int] = []
            if block.cells[2] > at:  # some of it had not arrived yet
                gaps = block.not_arrived(at, hi)
                if len(gaps) > MOST_GAPS:
                    then = _arrived(block, at)
                    if then is None:
                        continue
                    block, gaps = Block(then), []
                    hi = block.after(at)
            for w, window in enumerate(self._windows):
                lo = block.after(at - window)
                for gap in gaps:
                    if gap >= lo:
                        if lo < gap:
                            spans[w].append((block, lo, gap))
                        lo = gap + 1
                if lo < hi:
                    spans[w].append((block, lo, hi))
        for value, w, wanted in self._groups:
            _read(wanted, value, spans[w], into)


def _arrived(block: Block, at: int) -> bytes | None:
    """The part of a block that had arrived by ``at``: the rare case of a request behind the newest arrival."""
    events = [e for e in decode(block.buffer) if e[1] <= at]
    if not events:
        return None
    flags = [block.cells[HEADER + 3 * c + 2] & DISTINCT > 0 for c in range(block.width)]
    return build(events, flags)


def _read(wanted: Sequence[tuple[str, str]], column: int, spans: Sequence[Span], into: dict[str, Any]) -> None:
    """All functions of one value column over one window; what several of them need is looked up once."""
    counts = [block.count(column, lo, hi) for block, lo, hi in spans]
    count = sum(counts)
    if count:
        spans = [span for span, some in zip(spans, counts, strict=True) if some]
    total: int | float | None = None
    arrays: list[np.ndarray] | None = None
    for name, function in wanted:
        if function == "count":
            into[name] = count
        elif not count:
            into[name] = 0 if function in ("distinct", "approx_distinct") else None
        elif function == "sum" or function == "mean":
            if total is None:
                total = 0
                for block, lo, hi in spans:
                    total += block.sum(column, lo, hi)
            result = total / count if function == "mean" else float(total)
            into[name] = None if result != result else result
        elif function == "min" or function == "max":
            if arrays is None:
                arrays = [block.array(column, lo, hi) for block, lo, hi in spans]
            into[name] = _extreme(function, column, spans, arrays)
        elif function == "last" or function == "first":
            into[name] = _end(function, column, spans)
        elif function == "std":
            into[name] = _std(column, spans, count)
        elif len(spans) == 1:
            into[name] = spans[0][0].distinct(column, spans[0][1], spans[0][2])
        else:
            found = _distinct_of_two(column, *spans) if len(spans) == 2 else None
            if found is None:
                found = len({v for block, lo, hi in spans for v in block.column(column, lo, hi) if v is not None})
            into[name] = found


def _extreme(function: str, column: int, spans: Sequence[Span], arrays: Sequence[np.ndarray]) -> Any:
    reduce = np.minimum.reduce if function == "min" else np.maximum.reduce
    best: Any = None
    for (block, _, _), values in zip(spans, arrays, strict=True):
        value = reduce(values).item()
        if block.kind(column) == TEXT:
            value = block.text(column)[value]
        if best is None or (value < best if function == "min" else value > best):
            best = value
    return best


def _distinct_of_two(column: int, first: Span, second: Span) -> int | None:
    """The distinct values of a large stretch and a small one: those of the large by its own index, and of the small one what
    is not in the large. None where the two hold different kinds of number."""
    large, small = (first, second) if first[2] - first[1] >= second[2] - second[1] else (second, first)
    kind = large[0].kind(column)
    if kind != small[0].kind(column):
        return None
    few = np.unique(small[0].array(column, small[1], small[2]))
    missing = 0
    if kind == TEXT:
        words, known = small[0].text(column), large[0].text(column)
        places = []
        for word in (words[i] for i in few.tolist()):
            at = bisect_left(known, word)
            if at < len(known) and known[at] == word:
                places.append(at)
            else:
                missing += 1
        few = np.array(places, np.int64)  # of sorted words, so sorted
    if not len(few):
        return large[0].distinct(column, large[1], large[2]) + missing
    many = large[0].array(column, large[1], large[2])
    spots = np.minimum(np.searchsorted(few, many), len(few) - 1)
    seen = np.zeros(len(few), bool)
    seen[spots[few[spots] == many]] = True
    return large[0].distinct(column, large[1], large[2]) + missing + int(len(few) - seen.sum())


def _end(function: str, column: int, spans: Sequence[Span]) -> Any:
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


def _std(column: int, spans: Sequence[Span], count: int) -> float | None:
    if count < 2:
        return None
    values = [block.array(column, lo, hi).astype(np.float64) for block, lo, hi in spans]
    joined = values[0] if len(values) == 1 else np.concatenate(values)
    if not np.isfinite(joined).all():
        return None
    spread = joined - joined.mean()
    return math.sqrt(float(spread @ spread) / (count - 1))
