"""Windows over sorted events for many (entity, time) questions at once. Vectorised; the meaning is in ``windows``.

Results do not depend on which other entities or older events are in the arrays: sums that are not exact are added up
over exactly the window's events in order, so a training set has the same bytes whichever plan computed it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.features.blocks import exact_sums

Ints = np.ndarray
CHUNK = 1 << 22
"""Events expanded at once: bounds memory to some 200 MB."""


@dataclass
class Events:
    """Sorted by (code, time, arrival, sequence). ``start``/``stop`` are each code's stretch."""

    start: Ints
    stop: Ints
    time: Ints
    arrival: Ints
    sequence: Ints


@dataclass
class Values:
    """One value column. ``data`` is float64, int64, or places in sorted ``text``; ``null`` marks nulls."""

    data: np.ndarray
    null: np.ndarray
    text: list[str] | None = None


def upper(events: Events, start: Ints, stop: Ints, at: Ints) -> Ints:
    """Per question the first position in [start, stop) with time > at."""
    time = events.time
    lo, hi = start.copy(), stop.copy()
    if len(time) == 0:
        return lo
    if len(at) * 8 >= len(time):  # packing walks over all events, which few questions do not need
        packed = _packed_upper(events, start, stop, at)
        if packed is not None:
            return packed
    active = np.flatnonzero(lo < hi)
    while len(active):
        a, b = lo[active], hi[active]
        mid = (a + b) >> 1
        right = time[mid] <= at[active]
        a = np.where(right, mid + 1, a)
        b = np.where(right, b, mid)
        lo[active], hi[active] = a, b
        active = active[a < b]
    return lo


def _packed_upper(events: Events, start: Ints, stop: Ints, at: Ints) -> Ints | None:
    """``upper`` by one search over (stretch, time) packed into an integer, where it fits; None where it does not.

    A stretch is one entity's events, and time ascends within each.
    """
    time = events.time
    first, last = int(time.min()), int(time.max())
    if first == np.iinfo(np.int64).min:
        return None
    span = last - first + 2
    edges = np.zeros(len(time) + 1, np.int64)
    edges[events.start[events.start < events.stop]] = 1  # of every entity, asked or not
    stretch = np.cumsum(edges[:-1])
    if span <= 0 or int(stretch[-1]) + 1 >= (1 << 62) // span:
        return None
    asked = np.where(start < stop, stretch[np.minimum(start, len(time) - 1)], 0)
    # −1 lies before every time of the stretch, span − 2 is its last
    clipped = np.clip(at, first - 1, last) - first
    place = np.searchsorted(stretch * span + (time - first), asked * span + clipped, side="right")
    return np.where(start < stop, np.clip(place, start, stop), start)


def before(at: Ints, span: int) -> Ints:
    """at − span without wrapping around."""
    low = np.iinfo(np.int64).min
    return np.where(at >= low + span, at - np.where(at >= low + span, span, 0), low)


def newest_known(events: Events, codes: Ints, at: Ints, late: bool) -> Ints:
    """Per question the position of the newest event with time ≤ at and arrival ≤ at; −1 where there is none."""
    start = np.where(codes >= 0, events.start[codes], 0) if len(events.start) else np.zeros(len(codes), np.int64)
    stop = np.where(codes >= 0, events.stop[codes], 0) if len(events.start) else np.zeros(len(codes), np.int64)
    place = upper(events, start, stop, at) - 1
    if late and len(events.time):
        place = _step_back(events.arrival, start, place, at)
    return np.where(place >= start, place, -1)


def _step_back(arrival: Ints, start: Ints, place: Ints, at: Ints) -> Ints:
    """From each place back to the nearest position whose arrival is ≤ at (start − 1 where there is none): a few single
    steps, then a search over blockwise minima for the stubborn ones."""
    place = place.copy()
    active = np.flatnonzero(place >= start)
    for _ in range(16):
        active = active[arrival[place[active]] > at[active]]
        if not len(active):
            return place
        place[active] -= 1
        active = active[place[active] >= start[active]]
    if not len(active):
        return place
    levels = [arrival]
    while len(levels[-1]) > 1:
        last = levels[-1]
        if len(last) % 2:
            last = np.append(last, np.iinfo(np.int64).max)
        levels.append(np.minimum(last[0::2], last[1::2]))
    p, when = place[active] + 1, at[active]  # look in [start, p)
    level = np.zeros(len(active), np.int64)
    node = p.copy()
    found = np.full(len(active), -1, np.int64)
    todo = np.arange(len(active))
    # climb: at each level, an odd node has a left sibling wholly before p
    for k, minima in enumerate(levels):
        if not len(todo):
            break
        odd = (node[todo] & 1) == 1
        here = todo[odd]
        sibling = node[here] - 1
        good = minima[sibling] <= when[here]
        found[here[good]] = sibling[good]
        level[here[good]] = k
        todo = np.concatenate([todo[~odd], here[~good]])
        node[todo] = node[todo] >> 1
    down = np.flatnonzero(found >= 0)
    for k in range(len(levels) - 1, 0, -1):
        here = down[level[down] == k]
        if len(here):
            right = found[here] * 2 + 1
            below = levels[k - 1]
            inside = right < len(below)
            take = np.zeros(len(here), bool)
            take[inside] = below[right[inside]] <= when[here[inside]]
            found[here] = np.where(take, right, right - 1)
            level[here] = k - 1
    found = np.where(found >= start[active], found, start[active] - 1)
    place[active] = found
    return place


def ranges(lo: Ints, hi: Ints) -> Iterator[tuple[slice, Ints, Ints]]:
    """The positions of [lo, hi) of all questions, in pieces: (questions, positions, question of each position)."""
    sizes = np.maximum(hi - lo, 0)
    ends = np.cumsum(sizes)
    first = 0
    while first < len(lo):
        done = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, done + CHUNK, side="right")), first + 1)
        part = slice(first, last)
        size = sizes[part]
        total = int(size.sum())
        question = np.repeat(np.arange(last - first), size)
        begin = np.cumsum(size) - size
        position = np.arange(total) - begin[question] + lo[part][question]
        yield part, position, question
        first = last


class Sliding:
    """Aggregates of one view's value columns for its questions (code per question, −1 for none; time)."""

    def __init__(self, events: Events, codes: Ints, at: Ints, *, late: bool) -> None:
        self.events = events
        self.at = at
        self.late = late and bool(len(events.time)) and bool((events.arrival > events.time).any())
        known = codes >= 0
        if len(events.start):
            self.start = np.where(known, events.start[codes], 0)
            self.stop = np.where(known, events.stop[codes], 0)
        else:
            self.start = self.stop = np.zeros(len(codes), np.int64)
        self.hi = upper(events, self.start, self.stop, at)
        self._lo: dict[int, Ints] = {}
        self._prepared: dict[tuple[int, str], Any] = {}
        if self.late:
            lag = int((events.arrival - events.time).max())
            self.settled = upper(events, self.start, self.stop, before(at, max(lag, 0)))
        else:
            self.settled = self.hi

    def lo(self, window: int) -> Ints:
        if window not in self._lo:
            self._lo[window] = upper(self.events, self.start, self.stop, before(self.at, window))
        return self._lo[window]

    def compute(self, key: int, values: Values, function: str, window: int) -> tuple[np.ndarray, np.ndarray]:
        """(results, null mask): int64 for counts, float64 for sum, mean and std, the column's own for the others (places
        for text). ``key`` names the column for what is prepared once."""
        lo, hi = self.lo(window), self.hi
        counts = self._counts(key, values, lo, hi)
        if function == "count":
            return counts, np.zeros(len(counts), bool)
        empty = counts == 0
        if function in ("distinct", "approx_distinct"):
            return self._distinct(key, values, lo, hi), np.zeros(len(counts), bool)
        if function in ("sum", "mean"):
            sums = self._sums(key, values, lo, hi)
            if function == "mean":
                with np.errstate(all="ignore"):
                    if sums.dtype == object:
                        sums = np.array(
                            [s / c if c else np.nan for s, c in zip(sums, counts.tolist(), strict=True)], np.float64
                        )
                    else:
                        sums = sums / counts
            result = sums.astype(np.float64)
            return result, empty | np.isnan(result)
        if function in ("min", "max"):
            return self._extreme(key, values, function, lo, hi), empty
        if function in ("last", "first"):
            return self._end(key, values, function, lo, hi), empty
        result = self._std(values, lo, hi)
        return result, np.isnan(result)

    def _counts(self, key: int, values: Values, lo: Ints, hi: Ints) -> Ints:
        prefix = self._once(key, "count", lambda: np.concatenate([[0], np.cumsum(~values.null)]))
        middle = np.clip(self.settled, lo, hi)
        counts: Ints = prefix[middle] - prefix[lo]
        if self.late:
            counts = counts + self._edge(middle, hi, lambda p: (~values.null[p]).astype(np.int64), np.int64)
        return counts

    def _edge(self, lo: Ints, hi: Ints, weight: Any, dtype: Any) -> np.ndarray:
        """Sums of ``weight`` over the arrived events of [lo, hi)."""
        out = np.zeros(len(lo), dtype)
        some = np.flatnonzero(lo < hi)
        for part, position, question in ranges(lo[some], hi[some]):
            asked = some[part]
            arrived = self.events.arrival[position] <= self.at[asked][question]
            position, question = position[arrived], question[arrived]
            np.add.at(out, asked[question], weight(position))
        return out

    def _sums(self, key: int, values: Values, lo: Ints, hi: Ints) -> np.ndarray:
        filled = self._once(key, "filled", lambda: np.where(values.null, values.data.dtype.type(0), values.data))
        kind = self._once(key, "kind", lambda: _exactness(filled))
        if kind == "direct":
            return self._add_up(filled, lo, hi)
        if kind == "object":
            filled = self._once(key, "object", lambda: filled.astype(object))
        prefix = self._once(key, "sum", lambda: np.concatenate([np.zeros(1, filled.dtype), np.cumsum(filled)]))
        middle = np.clip(self.settled, lo, hi)
        sums: np.ndarray = prefix[middle] - prefix[lo]
        if self.late:
            sums = sums + self._edge(middle, hi, lambda p: filled[p], filled.dtype)
        return sums

    def _add_up(self, filled: np.ndarray, lo: Ints, hi: Ints) -> np.ndarray:
        """Every window by itself, in order: the same result whatever else is in the arrays."""
        out = np.zeros(len(lo))
        with np.errstate(all="ignore"):
            for part, position, question in ranges(lo, hi):
                weights = filled[position]
                if self.late:
                    weights = np.where(self.events.arrival[position] <= self.at[part][question], weights, 0.0)
                out[part] = np.bincount(question, weights=weights, minlength=part.stop - part.start)
        return out

    def _extreme(self, key: int, values: Values, function: str, lo: Ints, hi: Ints) -> np.ndarray:
        op = np.minimum if function == "min" else np.maximum
        data = values.data
        if data.dtype == np.float64:
            nothing: Any = np.inf if function == "min" else -np.inf
        else:
            nothing = np.iinfo(np.int64).max if function == "min" else np.iinfo(np.int64).min
        filled = self._once(key, f"{function} filled", lambda: np.where(values.null, nothing, data))
        levels = self._once(key, function, lambda: _levels(filled, op, nothing))
        middle = np.clip(self.settled, lo, hi)
        out = _over_levels(levels, op, nothing, lo, middle)
        if self.late:
            some = np.flatnonzero(middle < hi)
            for part, position, question in ranges(middle[some], hi[some]):
                asked = some[part]
                arrived = self.events.arrival[position] <= self.at[asked][question]
                op.at(out, asked[question[arrived]], filled[position[arrived]])
        return out

    def _end(self, key: int, values: Values, function: str, lo: Ints, hi: Ints) -> np.ndarray:
        ordered = self._once(key, "ties", lambda: _ties_by_value(self.events, values))
        data, null = ordered
        n = len(data)
        if not n:
            return np.zeros(len(lo), values.data.dtype)
        if not self.late:
            if function == "last":
                place = self._once(key, "last", lambda: np.maximum.accumulate(np.where(null, -1, np.arange(n))))
                return np.asarray(data[np.maximum(place[np.maximum(hi - 1, 0)], 0)])
            place = self._once(key, "first", lambda: np.minimum.accumulate(np.where(null, n, np.arange(n))[::-1])[::-1])
            return np.asarray(data[np.minimum(place[np.minimum(lo, n - 1)], n - 1)])
        out = np.full(len(lo), -1 if function == "last" else n, np.int64)
        op = np.maximum if function == "last" else np.minimum
        for part, position, question in ranges(lo, hi):
            good = (self.events.arrival[position] <= self.at[part][question]) & ~null[position]
            op.at(out, question[good] + part.start, position[good])
        return np.asarray(data[np.clip(out, 0, n - 1)])

    def _distinct(self, key: int, values: Values, lo: Ints, hi: Ints) -> Ints:
        out = np.zeros(len(lo), np.int64)
        places = self._once(key, "places", lambda: np.unique(values.data, return_inverse=True)[1])
        if self.late:
            for part, position, question in ranges(lo, hi):
                good = (self.events.arrival[position] <= self.at[part][question]) & ~values.null[position]
                pairs = np.unique(question[good].astype(np.int64) * (len(places) + 1) + places[position[good]])
                out[part] = np.bincount(pairs // (len(places) + 1), minlength=part.stop - part.start)
            return out
        previous = self._once(key, "previous", lambda: _previous(places, values.null))
        for part, position, question in ranges(lo, hi):
            fresh = (previous[position] < lo[part][question]) & ~values.null[position]
            out[part] = np.bincount(question[fresh], minlength=part.stop - part.start)
        return out

    def _std(self, values: Values, lo: Ints, hi: Ints) -> np.ndarray:
        out = np.full(len(lo), np.nan)
        data = values.data.astype(np.float64)
        with np.errstate(all="ignore"):
            for part, position, question in ranges(lo, hi):
                good = ~values.null[position]
                if self.late:
                    good &= self.events.arrival[position] <= self.at[part][question]
                position, question = position[good], question[good]
                size = part.stop - part.start
                n = np.bincount(question, minlength=size)
                mean = np.bincount(question, weights=data[position], minlength=size) / n
                spread = np.bincount(question, weights=(data[position] - mean[question]) ** 2, minlength=size)
                out[part] = np.where(n > 1, np.sqrt(spread / (n - 1)), np.nan)
        return out

    def _once(self, key: int, what: str, make: Any) -> Any:
        if (key, what) not in self._prepared:
            self._prepared[key, what] = make()
        return self._prepared[key, what]


def _exactness(filled: np.ndarray) -> str:
    if filled.dtype == np.float64:
        return "prefix" if exact_sums(filled) else "direct"
    # per value below 2**62 / n the running sum cannot wrap around, and below 2**53 its rounding is none
    most = float(np.abs(filled.astype(np.float64)).sum()) if len(filled) else 0.0
    return "prefix" if most < 2.0**53 else "object"


def _levels(filled: np.ndarray, op: Any, nothing: Any) -> list[np.ndarray]:
    levels = [filled]
    while len(levels[-1]) > 1:
        last = levels[-1]
        if len(last) % 2:
            last = np.append(last, np.array([nothing], last.dtype))
        levels.append(op(last[0::2], last[1::2]))
    return levels


def _over_levels(levels: list[np.ndarray], op: Any, nothing: Any, lo: Ints, hi: Ints) -> np.ndarray:
    out = np.full(len(lo), nothing, levels[0].dtype)
    left, right = lo.copy(), hi.copy()
    active = np.flatnonzero(left < right)
    for level in levels:
        if not len(active):
            break
        a, b = left[active], right[active]
        odd = (a & 1) == 1
        out[active[odd]] = op(out[active[odd]], level[a[odd]])
        a = a + odd
        odd = ((b & 1) == 1) & (a < b)
        out[active[odd]] = op(out[active[odd]], level[b[odd] - 1])
        b = b - odd
        left[active], right[active] = a >> 1, b >> 1
        active = active[(a >> 1) < (b >> 1)]
    return out


def _ties_by_value(events: Events, values: Values) -> tuple[np.ndarray, np.ndarray]:
    """The column with the values of full ties in ascending order, nulls first."""
    n = len(values.data)
    if n < 2:
        return values.data, values.null
    same = np.zeros(n, bool)
    same[1:] = (
        (events.time[1:] == events.time[:-1])
        & (events.arrival[1:] == events.arrival[:-1])
        & (events.sequence[1:] == events.sequence[:-1])
    )
    edges = np.zeros(n + 1, np.int64)
    np.add.at(edges, events.start[events.start < events.stop], 1)
    same &= edges[:n] == 0
    if not same.any():
        return values.data, values.null
    group = np.cumsum(~same)
    order = np.lexsort((values.data, ~values.null, group))
    return values.data[order], values.null[order]


def _previous(places: Ints, null: np.ndarray) -> Ints:
    """Per position the previous position with the same value, −1 where there is none."""
    n = len(places)
    previous = np.full(n, -1, np.int64)
    order = np.lexsort((np.arange(n), places))
    order = order[~null[order]]
    same = places[order[1:]] == places[order[:-1]]
    previous[order[1:][same]] = order[:-1][same]
    return previous
