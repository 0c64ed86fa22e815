"""``where`` expressions on pushed rows, by the same SQL engine that evaluates them on files."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from holdfast.core.errors import BadDefinition
from holdfast.core.records import Json

_local = threading.local()
_ARROW = {"int64": "int64", "float64": "float64", "string": "string", "bool": "bool_"}


def keep(plan: Json, rows: Sequence[Json], expression: str) -> list[bool]:
    """Per uniform row whether the expression is true (null is not).

    Raises:
        BadDefinition: the expression cannot be evaluated.
    """
    import duckdb
    import pyarrow as pa

    if not rows:
        return []
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(k for row in rows for k in row):
        values = [row.get(name) for row in rows]
        if name in (plan["timestamp"], plan["arrival"]):
            columns[name] = pa.array(values, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
            continue
        dtype = _ARROW.get(plan["schema"].get(name, ""))
        columns[name] = pa.array(values, getattr(pa, dtype)() if dtype else None)
    connection = getattr(_local, "connection", None)
    if connection is None:
        connection = _local.connection = duckdb.connect(":memory:", config={"threads": "1"})
        connection.execute("SET TimeZone='UTC'")
    connection.register("pushed", pa.table(columns))
    try:
        found = connection.execute(f"SELECT coalesce(({expression})::BOOLEAN, false) FROM pushed").fetchall()
    except duckdb.Error as error:
        raise BadDefinition(
            f"where {expression!r} of view {plan['name']!r}: {str(error).splitlines()[0]}",
            hint="write a SQL condition over the source's columns",
        ) from error
    finally:
        connection.unregister("pushed")
    return [bool(r[0]) for r in found]
