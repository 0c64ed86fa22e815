"""A few rows for people to look at beside a finding's count."""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import duckdb

if TYPE_CHECKING:
    import pyarrow as pa

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
    shown = in_micros(found.select(keep))
    return [{name: _cell(shown[name][at]) for name in shown.column_names} for at in range(shown.num_rows)]


def _cell(cell: Any) -> Any:
    import pyarrow as pa

    try:
        return plain(cell.as_py())
    except (OverflowError, ValueError):  # Python's calendar has the years 1 to 9999
        try:
            return plain(cell.cast(pa.string()).as_py())
        except pa.ArrowException:
            return "…"


def in_micros(table: pa.Table) -> pa.Table:
    """Instants as Python has them; only pandas, which need not be there, has nanoseconds."""
    import pyarrow as pa

    for at, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            table = table.set_column(at, field.name, table[at].cast(pa.timestamp("us", field.type.tz), safe=False))
        elif pa.types.is_time64(field.type) and field.type.unit == "ns":
            table = table.set_column(at, field.name, table[at].cast(pa.time64("us"), safe=False))
    return table


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
