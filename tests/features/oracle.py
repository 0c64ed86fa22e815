"""The definition, by brute force and nothing else: for one question, look at every row.

Known at t: event time ≤ t and arrival ≤ t. Latest value: the greatest (event time, arrival, sequence, values), not older
than ttl, inclusive. Window: (t − w, t]; non-null values (NaN is null) of rows that the filter keeps; the same content
is one event, known since its earliest arrival; count and distinct of nothing are 0, all else is null.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

Row = dict[str, Any]
LOWEST = -(1 << 63)


def is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def once(rows: Sequence[Row]) -> list[Row]:
    """Rows without repeats; ``_arrival`` is when a row was known, and no part of its content."""
    best: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        content = tuple((k, None if is_null(row[k]) else row[k]) for k in sorted(row) if k != "_arrival")
        if content not in best or row["_arrival"] < best[content]["_arrival"]:
            best[content] = row
    return list(best.values())


def known(rows: Sequence[Row], keys: Sequence[str], question: Row, at: int) -> list[Row]:
    if any(question[k] is None for k in keys):
        return []
    return [r for r in rows if all(r[k] == question[k] for k in keys) and r["_time"] <= at and r["_arrival"] <= at]


def rank(value: Any) -> tuple[int, Any]:
    return (0, 0) if is_null(value) else (1, value)


def latest(rows: Sequence[Row], columns: Sequence[str], at: int, ttl: int | None, *, stamped: bool) -> list[Any]:
    if stamped:  # a row of the same time, sequence and values is the same row, pushed again
        first: dict[Any, Row] = {}
        for row in rows:
            key = (row["_time"], row["_sequence"], tuple(rank(row[c]) for c in columns))
            if key not in first or row["_arrival"] < first[key]["_arrival"]:
                first[key] = row
        rows = list(first.values())
    if not rows:
        return [None] * len(columns)
    best = max(rows, key=lambda r: (r["_time"], r["_arrival"], r["_sequence"], [rank(r[c]) for c in columns]))
    if ttl is not None and best["_time"] < at - ttl:
        return [None] * len(columns)
    return [None if is_null(best[c]) else best[c] for c in columns]


def window(
    rows: Sequence[Row], column: str, function: str, span: int, at: int, keep: Callable[[Row], bool]
) -> tuple[Any, float]:
    """(the aggregate, how far a floating result may be off)."""
    inside = [r for r in rows if at - span < r["_time"] <= at and keep(r) and not is_null(r[column])]
    inside.sort(key=lambda r: (r["_time"], r["_arrival"], r["_sequence"], r[column]))
    values = [r[column] for r in inside]
    n = len(values)
    if function == "count":
        return n, 0.0
    if function in ("distinct", "approx_distinct"):
        return len(set(values)), 0.0
    if not n:
        return None, 0.0
    if function in ("min", "max"):
        return (min if function == "min" else max)(values), 0.0
    if function == "first":
        return min((v for r, v in zip(inside, values, strict=True) if _place(r) == _place(inside[0]))), 0.0
    if function == "last":
        return values[-1], 0.0
    if not all(math.isfinite(v) for v in values):
        total = sum(float(v) for v in values)
        return (None if math.isnan(total) or function == "std" else total), 0.0
    exact = [Fraction(v) for v in values]
    total_exact = sum(exact, Fraction(0))
    slack = 1e-9 * min(float(min(sum(map(abs, exact), Fraction(0)), Fraction(10) ** 308)), 1e308)
    if all(isinstance(v, int) for v in values):
        slack = 0.0 if function != "std" else slack
    if function == "sum":
        return to_float(total_exact), slack
    if function == "mean":
        if all(isinstance(v, int) for v in values):
            return float(to_float(total_exact) / n) if abs(total_exact) < 2**53 else to_float(total_exact / n), slack
        return to_float(total_exact / n), slack
    if n < 2:
        return None, 0.0
    mean = total_exact / n
    return math.sqrt(sum((v - mean) ** 2 for v in exact) / (n - 1)), slack


def _place(row: Row) -> tuple[int, int, int]:
    return row["_time"], row["_arrival"], row["_sequence"]


def to_float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def same(got: Any, wanted: Any, slack: float) -> bool:
    if got is None or wanted is None or isinstance(wanted, str | bool):
        return got is wanted or got == wanted
    if slack and isinstance(got, float):
        return got == wanted or abs(got - wanted) <= slack
    return bool(got == wanted) and not isinstance(got, str)
