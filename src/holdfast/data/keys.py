"""Whether values that all differ are a key, or only differ by chance: amounts, names and other tables' keys do so in a small
sample and repeat in the next one.

Values drawn at random from as many as could be written would repeat so often (the birthday problem); where they should have
and did not, something keeps them apart. Where even many more would not repeat, as with hashes, nothing is risked.
"""

from __future__ import annotations

import duckdb

from holdfast.data import tables
from holdfast.data.tables import quote

NAMED = frozenset({"id", "key", "uuid", "guid", "pk"})
PEEK = 20_000
LONGEST = 48
SHOULD = 5.0
"""Repeats that chance would have given, from which on there being none says that it is a key."""
NEVER = 1e-4


def is_key(connection: duckdb.DuckDBPyConnection, source: str, name: str, kind: str, rows: int) -> bool:
    """Whether a column of whole numbers or text, all of whose values differ, should go on like that."""
    if name.lower() in NAMED:
        return True
    column = quote(name)
    if kind == "int":
        low, high = tables.one(connection, f"SELECT min({column}), max({column}) FROM {source}")
        repeats = _by_chance(rows, float(int(high) - int(low) + 1))
        return repeats >= SHOULD or repeats <= NEVER
    peeked = f"(SELECT {column} AS cell FROM {source} LIMIT {PEEK})"
    places = ", ".join(f"count(DISTINCT cell[{at}])" for at in range(1, LONGEST + 1))
    worded = "count(*) FILTER (WHERE regexp_matches(cell, '[\\s@]') OR NOT regexp_matches(cell, '[0-9]'))"
    timed = "count(TRY_CAST(cell AS TIMESTAMP))"
    seen, words, times, *marks = tables.one(connection, f"SELECT count(*), {worded}, {timed}, {places} FROM {peeked}")
    room = 1.0
    for count in marks:
        room *= max(1, int(count))
    repeats = _by_chance(int(seen), room)
    # What could be written counts for little where people write words: of those few are ever used.
    return repeats >= SHOULD or (repeats <= NEVER and words + times <= 0.1 * seen)


def _by_chance(rows: int, room: float) -> float:
    return rows * (rows - 1) / 2 / room
