"""A few rows for people to look at beside a finding's count."""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import duckdb

EXAMPLES = 3
SHOWN_COLUMNS = 12


def examples(connection: duckdb.DuckDBPyConnection, sql: str, column: str | None) -> list[dict[str, Any]]:
    """The rows of a query, as findings show them: a dozen columns, short values."""
    found = connection.sql(sql).to_arrow_table()
    names = found.column_names
    keep = (
        names[:SHOWN_COLUMNS]
        if column is None or column in names[:SHOWN_COLUMNS] or column not in names
        else [*names[: SHOWN_COLUMNS - 1], column]
    )
    return [{n: plain(v) for n, v in row.items()} for row in found.select(keep).to_pylist()]


def plain(value: Any) -> Any:
    """A value as JSON has it; long text is cut."""
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal) and value.is_finite() and value.as_tuple().exponent == 0 and abs(value) < 2**63:
        return int(value)  # held in a wider type than it needs
    text = str(value)
    return text if len(text) <= 200 else text[:199] + "…"
