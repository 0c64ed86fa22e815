"""SQL expressions (``where``, keys) on pushed rows, by the same SQL engine that evaluates them on files.

Many rows go to it as an Arrow table. A few go as parameters of a statement that is parsed once, which costs a third; where that
fails in any way, the table has the last word. A plain comparison the engine has taken once is compared right here from then on.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from holdfast.core.errors import BadData, BadDefinition, BadInput
from holdfast.core.identity import to_us
from holdfast.core.records import Json
from holdfast.features import comparisons
from holdfast.features.comparisons import Comparison
from holdfast.features.encoding import plain
from holdfast.features.landing import to_array

FEW = 8
"""Rows that go as parameters."""
SOME = 256
"""Rows that are compared here; more are quicker as a table."""
MOST_STATEMENTS = 256
"""Statements each thread keeps."""
INSTANT = "timestamp"
_local = threading.local()
_known: dict[Any, Comparison | None] = {}
"""What is a plain comparison, by expression, declared types and columns of the rows."""
_SQL = {"int64": "?::BIGINT", "float64": "?::DOUBLE", "string": "?::VARCHAR", "bool": "?::BOOLEAN", INSTANT: "make_timestamptz(?::BIGINT)"}  # fmt: skip
_DTYPE: dict[type, str] = {int: "int64", float: "float64", str: "string", bool: "bool", datetime: INSTANT}
_plain = re.compile(r"[a-z_][a-z0-9_]*\Z").match
_words = re.compile(r"[a-z0-9_]+").findall
_whole = re.compile(r"\*|\bpushed\b|\bcolumns\b", re.IGNORECASE).search
"""What makes an expression mean the row as a whole."""

Asked: TypeAlias = tuple[str, str]
"""("where" or "key", expression)."""
AllTold: TypeAlias = dict[str, dict[Asked, list[Any]]]
"""By view version and expression: per row whether it is true (null is not), or the key."""


def tell(plans: Iterable[Json], rows: Sequence[Json]) -> AllTold:
    """What the expressions of some views of one source, ``where`` and keys, say of uniform rows.

    Raises:
        BadDefinition: an expression is no SQL over these columns.
        BadData: it is, but not for what is in a row.
    """
    alike: dict[Any, tuple[Json, dict[Asked, list[Any]]]] = {}
    told: AllTold = {}
    for plan in plans:
        told[plan["version"]] = mine = alike.setdefault(_reading(plan), (plan, {}))[1]
        mine |= {("where", v["where"]): [] for v in plan["values"] if v["where"]}
        mine |= {("key", sql): [] for sql in plan.get("key_sql", {}).values()}
    for plan, every in alike.values():
        if rows and every:
            found: dict[Asked, list[Any]] = _here(plan, rows, every)
            rest = [asked for asked in every if asked not in found]
            if rest:
                found |= zip(rest, _few(plan, rows, rest) or _many(plan, rows, rest), strict=True)
                _learn(plan, rows, rest)
            every |= found
    return told


def _here(plan: Json, rows: Sequence[Json], every: Iterable[Asked]) -> dict[Asked, list[Any]]:
    """What needs no engine: those of the expressions that are known to be plain comparisons."""
    told: dict[Asked, list[Any]] = {}
    if len(rows) > SOME:
        return told
    reading, names = _reading(plan), rows[0].keys()
    columns = tuple(names)
    if any(row.keys() != names for row in rows[1:]):
        return told
    for asked in every:
        known = _known.get((asked, reading, columns))
        if known is not None and all(
            (value := row[name]) is None or type(value) is kind for name, kind in known.columns.items() for row in rows
        ):
            told[asked] = [known.told(row) is True for row in rows]
    return told


def _learn(plan: Json, rows: Sequence[Json], every: Iterable[Asked]) -> None:
    """These were taken by the engine, so that their names are columns, as far as they are no words of SQL."""
    columns = tuple(rows[0])
    lowered = [name.lower() for name in columns]
    for asked in every:
        key = (asked, _reading(plan), columns)
        if key in _known:
            continue
        found = comparisons.read(asked[1], plan["schema"]) if asked[0] == "where" else None
        if found is not None and not all(
            name in columns
            and name not in (plan["timestamp"], plan["arrival"])
            and lowered.count(name.lower()) == 1
            and not _is_keyword(name)
            for name in found.columns
        ):
            found = None
        if len(_known) >= MOST_STATEMENTS:
            _known.clear()
        _known[key] = found


def _reading(plan: Json) -> tuple[Any, ...]:
    """What makes two plans read a row alike: views of one source do, except versions from before it changed."""
    return (plan["timestamp"], plan["arrival"], *plan["schema"].items())


def _is_keyword(name: str) -> bool:
    asked = "SELECT count(*) FROM duckdb_keywords() WHERE keyword_name = lower(?)"
    return bool(_connection().execute(asked, [name]).fetchall()[0][0])


def _few(plan: Json, rows: Sequence[Json], every: Sequence[Asked]) -> list[list[Any]] | None:
    """As ``_many``, or None where that has to say it: other rows than declared, names that need care, any error."""
    import duckdb

    text = "\n".join(sql for _, sql in every).lower()
    if len(rows) > FEW or _whole(text):
        return None
    words = set(_words(text))
    names: list[str] = []
    types: list[str] = []
    columns: list[list[Any]] = []
    for name in dict.fromkeys(k for row in rows for k in row):
        lowered = name.lower()
        if _plain(lowered) and lowered not in words:
            continue  # without it planning is quicker; an expression that meant it all the same fails here
        values = [row.get(name) for row in rows]
        found = {type(v) for v in values if v is not None}
        if name in (plan["timestamp"], plan["arrival"]):
            dtype = INSTANT
            if not found <= {int}:
                return None
        else:
            dtype = plan["schema"].get(name) or (_DTYPE.get(next(iter(found)), "") if len(found) == 1 else "")
            if dtype not in _SQL or not all(_DTYPE.get(kind) == dtype for kind in found):
                return None
            if dtype == INSTANT:
                values = [None if v is None else to_us(v) for v in values]
        names.append(name)
        types.append(_SQL[dtype])
        columns.append(values)
    if not names or len({name.lower() for name in names}) < len(names):
        return None
    connection = _connection()
    key = (*every, *names, *types, len(rows))
    statements = _local.statements
    try:
        if key not in statements:
            if len(statements) >= MOST_STATEMENTS:
                statements.clear()
            listed = ", ".join(f'"{name.replace(chr(34), chr(34) * 2)}"' for name in names)
            each = f"({', '.join(types)})"
            made = f"{_select(every)} FROM (VALUES {', '.join([each] * len(rows))}) pushed({listed})"
            (statements[key],) = connection.extract_statements(made)
        told = connection.execute(statements[key], [column[i] for i in range(len(rows)) for column in columns])
        return _plainly(every, told.fetchall())
    except (duckdb.Error, ValueError, BadInput):
        _close()
        return None


def _many(plan: Json, rows: Sequence[Json], every: Sequence[Asked]) -> list[list[Any]]:
    """Per expression what it says of each row."""
    import duckdb
    import pyarrow as pa

    instant = pa.timestamp("us", tz="UTC")
    arrow = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_(), INSTANT: instant}
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(k for row in rows for k in row):
        values = [row.get(name) for row in rows]
        dtype = plan["schema"].get(name)
        try:
            if name in (plan["timestamp"], plan["arrival"]):
                columns[name] = pa.array(values, pa.int64()).cast(instant)
            else:
                columns[name] = pa.array(values, arrow[dtype]) if dtype in arrow else to_array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise BadData(
                f"column {name!r} of view {plan['name']!r}: {str(error).splitlines()[0]}",
                hint=f"the source declares it {dtype}" if dtype else "send numbers, text, booleans or instants",
            ) from None
    connection = _connection()
    connection.register("pushed", pa.table(columns))
    try:
        found = _plainly(every, connection.execute(f"{_select(every)} FROM pushed").fetchall())
        connection.unregister("pushed")
        return found
    except (duckdb.Error, BadInput) as error:
        _close()
        if len(every) > 1:  # which of them?
            return [_many(plan, rows, [one])[0] for one in every]
        kind, sql = every[0]
        refuse = BadData if isinstance(error, duckdb.DataError | BadData) else BadDefinition
        raise refuse(
            f"{kind} {sql!r} of view {plan['name']!r}: {str(error).splitlines()[0]}",
            hint="write SQL over the source's columns that holds for every row (TRY_CAST instead of CAST)",
        ) from error


def _select(every: Sequence[Asked]) -> str:
    # each on lines of its own: it may end in a comment
    return "SELECT " + ", ".join(
        f"coalesce((\n{sql}\n)::BOOLEAN, false)" if kind == "where" else f"(\n{sql}\n)" for kind, sql in every
    )


def _plainly(every: Sequence[Asked], told: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Rows of the engine as columns of plain values."""
    columns = [list(one) for one in zip(*told, strict=True)]
    if len(columns) != len(every):
        raise BadInput("it is several columns")
    return [
        column if kind == "where" else [plain(value) for value in column]
        for (kind, _), column in zip(every, columns, strict=True)
    ]


def _close() -> None:
    """After an error the connection may have an unfinished result, and takes nothing more then."""
    _local.connection.close()
    _local.connection = None


def _connection() -> Any:
    """One for each thread."""
    import duckdb

    connection = getattr(_local, "connection", None)
    if connection is None:
        connection = _local.connection = duckdb.connect(":memory:", config={"threads": "1"})
        connection.execute("SET TimeZone='UTC'")
        _local.statements = {}
    return connection
