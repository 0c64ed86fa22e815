"""How the dates and times of a CSV file are written: in one form a file, decided by the form that fits most cells.

The reader recognises such forms by itself when it reads a column as dates; a check reads cells as text, so that it can count
those that are none, and must then come to the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from holdfast.data import tables
from holdfast.data.tables import literal, quote

PEEK = 1000

# Where several fit alike, the reader takes the first.
_DAYS = [
    form.replace("-", mark) for mark in "/.- " for form in ("%d-%m-%Y", "%m-%d-%Y", "%y-%m-%d", "%d-%m-%y", "%m-%d-%y")
]
_FORMS = {
    "date": _DAYS,
    "timestamp": [f"{day}{time}" for time in (" %H:%M:%S", " %I:%M:%S %p", "") for day in _DAYS],
}
_CASTS = {"date": "DATE", "timestamp": "TIMESTAMPTZ"}


def form_of(connection: duckdb.DuckDBPyConnection, source: str, names: Sequence[str], kind: str) -> str | None:
    """The form of the columns of one kind (``date``, ``timestamp``) of a table whose cells are text; None is ISO's."""
    if not names:
        return None
    listed = ", ".join(map(quote, names))
    left: list[str | None] = [None, *_FORMS[kind]]
    counts: dict[str | None, int] = {}
    for rows in (PEEK, tables.SAMPLED):
        peeked = f"(SELECT {listed} FROM {source} LIMIT {rows})"
        cells = " UNION ALL ".join(f"SELECT {quote(name)} AS cell FROM {peeked}" for name in names)
        # A year of two digits is none of four.
        fits = ", ".join(f"count(*) FILTER (WHERE year({cast('cell', kind, form)}) >= 1000)" for form in left)
        there, *found = tables.one(connection, f"SELECT count(cell), {fits} FROM ({cells})")
        counts = dict(zip(left, found, strict=True))
        if not any(found) or found[0] == there:
            return left[0]
        left = [form for form in left if counts[form]]
        if len(left) == 1:
            break
    return max(left, key=counts.__getitem__)


def cast(cell: str, kind: str, form: str | None) -> str:
    """A cell as SQL; NULL where it is not written in that form."""
    if form is None:
        return f"TRY_CAST({cell} AS {_CASTS[kind]})"
    return f"CAST(try_strptime({cell}, {literal(form)}) AS {_CASTS[kind]})"
