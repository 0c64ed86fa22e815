"""The events that can be a question's latest value, found in one walk over a source of any size.

A question is (code, time). An event becomes known at u = max(event time, arrival), so it matters first to the first question
of its entity at or after u, and there only if no event already seen there is later. What is left is some rows per question,
whatever the source holds: the memory is that of the spine.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from holdfast.features.answers import ints
from holdfast.features.sliding import Ints

STEPS = 4
"""Questions of an entity looked at one by one before searching by halves."""
SPARE = 2_000_000
"""Rows held beyond those that can win, before the others are dropped."""


def walk(batches: Iterable[pa.RecordBatch], asked: Ints, at: Ints, codes: int) -> list[pa.RecordBatch]:
    """The rows of ``batches`` (with ``__code``, ``__t``, ``__a``) that can win; questions are sorted by (code, time).

    Among an entity's events of one event time all are kept, for what decides among them needs their values.
    """
    first = np.searchsorted(asked, np.arange(codes), side="left")
    last = np.searchsorted(asked, np.arange(codes), side="right")
    best = np.full(len(asked), np.iinfo(np.int64).min)
    kept: list[tuple[pa.RecordBatch, Ints, Ints]] = []
    held, least = 0, 0
    for batch in batches:
        code, time = ints(batch, "__code"), ints(batch, "__t")
        known = np.maximum(time, ints(batch, "__a"))
        question = first_after(at, first[code], last[code], known)
        inside = np.flatnonzero(question < last[code])
        question, time = question[inside], time[inside]
        np.maximum.at(best, question, time)
        wins = np.flatnonzero(time >= best[question])
        if not len(wins):
            continue
        kept.append((batch.take(pa.array(inside[wins])), question[wins], time[wins]))
        held += len(wins)
        if held > least + SPARE:
            kept = _still(kept, best)
            held = least = sum(len(k[1]) for k in kept)
    return [batch for batch, _, _ in _still(kept, best)]


def _still(kept: list[tuple[pa.RecordBatch, Ints, Ints]], best: Ints) -> list[tuple[pa.RecordBatch, Ints, Ints]]:
    out = []
    for batch, question, time in kept:
        wins = np.flatnonzero(time >= best[question])
        if len(wins) == len(time):
            out.append((batch, question, time))
        elif len(wins):
            out.append((batch.take(pa.array(wins)), question[wins], time[wins]))
    return out


def first_after(at: Ints, first: Ints, last: Ints, known: Ints) -> Ints:
    """Per event the first question in [first, last) whose time is ≥ ``known``; ``last`` where there is none."""
    if not len(at):
        return first
    place = first.copy()
    active = np.flatnonzero(place < last)
    for _ in range(STEPS):
        active = active[at[place[active]] < known[active]]
        if not len(active):
            return place
        place[active] += 1
        active = active[place[active] < last[active]]
    lo, hi = place[active], last[active]
    todo = np.arange(len(active))
    while len(todo):
        middle = (lo[todo] + hi[todo]) >> 1
        right = at[middle] < known[active[todo]]
        lo[todo] = np.where(right, middle + 1, lo[todo])
        hi[todo] = np.where(right, hi[todo], middle)
        todo = todo[lo[todo] < hi[todo]]
    place[active] = lo
    return place
