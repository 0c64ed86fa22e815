"""The SQL that reads a source as a view needs it: one row per event, keys by code, instants in µs, filters applied.

Only portable parts are used (projection, join on equality, order by), so that another engine can run the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.core.errors import BadData, BadDefinition, BadInput, NotFound, did_you_mean
from holdfast.core.ports import Engine
from holdfast.core.records import Json
from holdfast.features.encoding import NEVER
from holdfast.features.rows import ARRIVED
from holdfast.features.windows import NUMERIC_ONLY

INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
NOTHING = '"NULL"'
"""The type of a column without any value."""
INSTANTS = (
    "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "DATE", "TIMESTAMP_NS", "TIMESTAMPTZ_NS", "TIMESTAMP_S", "TIMESTAMP_MS"
)  # fmt: skip
WIDE = ("UBIGINT", "HUGEINT", "UHUGEINT", "FLOAT", "DOUBLE")


SQL_TYPES = {"int64": "BIGINT", "float64": "DOUBLE", "string": "VARCHAR", "bool": "BOOLEAN", "timestamp": "BIGINT"}


def quote(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A string as a SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def micros(column: str, kind: str) -> str:
    """A column of this SQL type as microseconds UTC; nanoseconds are floored, naive values are UTC."""
    if kind in ("TIMESTAMP_NS", "TIMESTAMPTZ_NS"):
        return f"((epoch_ns({column}) - ((epoch_ns({column}) % 1000) + 1000) % 1000) // 1000)"
    if kind in ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE"):
        return f"epoch_us({column})"
    if kind in ("DATE", "TIMESTAMP_S", "TIMESTAMP_MS"):
        return f"epoch_us({column}::TIMESTAMP)"
    if kind in INTEGERS or kind == NOTHING:
        return f"{column}::BIGINT"
    if kind == "VARCHAR":
        return f"epoch_us({column}::TIMESTAMPTZ)"
    raise BadInput(
        f"column {column} is a {kind}, not an instant", hint="use timestamps, or integers that count microseconds"
    )


def key_class(kind: str) -> str:
    """int64, string or bool: which keys can be equal.

    Raises:
        BadInput: the type cannot be a key.
    """
    if kind in INTEGERS or kind == "UBIGINT":
        return "int64"
    if kind == "VARCHAR" or kind.startswith("ENUM"):
        return "string"
    if kind == "BOOLEAN":
        return "bool"
    if kind == NOTHING:
        return "nothing"
    raise BadInput(f"a {kind} cannot be a join key", hint="use integers (nullable Int64 in pandas), text or booleans")


class Relation:
    """A source as one SQL relation: ``sql``, its column types, and the Arrow tables it names."""

    def __init__(self, engine: Engine, source: str, tables: Any, *, times: Sequence[str]) -> None:
        self.tables: dict[str, Any] = {}
        self.has_arrived = False
        self.source = source
        parts = list(self._parts(tables))
        if not parts:
            raise NotFound(f"source {source!r} has no files", hint="check its path, or pull its data")
        described = [self._describe(engine, part) for part in parts]
        selects = []
        for part, types in zip(parts, described, strict=True):
            replaced = [
                f"make_timestamp({micros(quote(c), types[c])})::TIMESTAMPTZ AS {quote(c)}"
                for c in dict.fromkeys(times)  # event time and arrival may be one column
                if c in types and types[c] != "TIMESTAMP WITH TIME ZONE"
            ]
            selects.append(f"SELECT *{' REPLACE (' + ', '.join(replaced) + ')' if replaced else ''} FROM {part}")
        self.sql = selects[0] if len(selects) == 1 else " UNION ALL BY NAME ".join(selects)
        self.types = self._describe(engine, f"({self.sql})")

    def _parts(self, tables: Any) -> Any:
        if hasattr(tables, "column_names"):
            self.tables["__source"] = tables
            yield "__source"
            return
        groups: dict[tuple[str, str], list[str]] = {}
        for path in tables:
            path = Path(path)
            if not path.exists():
                raise NotFound(
                    f"source {self.source!r}: there is no {path.name}", hint="check its path, or pull its data"
                )
            kind = (
                "csv" if path.name.lower().endswith((".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst")) else "parquet"
            )
            groups.setdefault((kind, str(path.parent)), []).append(str(path))
        for (kind, _), paths in groups.items():
            listed = ", ".join(map(text, paths))
            # Left to guess, the reader passes over the lines above the first one that fits its guess.
            exact = ", header=true, skip=0, comment=''" if kind == "csv" else ""
            yield f"read_{kind}([{listed}], union_by_name=true{exact})"

    def _describe(self, engine: Engine, part: str) -> dict[str, str]:
        try:
            found = engine.query(
                f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM {part})", tables=self.tables
            )
        except BadInput as error:
            raise BadData(
                f"source {self.source!r} cannot be read: {error.message}", hint="it must be parquet or CSV"
            ) from error
        return {
            n: "TIMESTAMP WITH TIME ZONE" if t == "TIMESTAMPTZ" else t
            for n, t in zip(found[0].to_pylist(), found[1].to_pylist(), strict=True)
        }

    def need(self, column: str) -> str:
        """The type of a column.

        Raises:
            BadData: the source has no such column.
        """
        if column not in self.types:
            raise BadData(
                f"source {self.source!r} has no column {column!r}", hint=did_you_mean(column, self.types, kind="column")
            )
        return self.types[column]


def key_sql(plan: Json, key: str) -> str:
    """A key of a view as SQL over its source."""
    expression = plan.get("key_sql", {}).get(key)
    return quote(key) if expression is None else f"(\n{expression}\n)"  # it may end in a comment


def field_sql(relation: Relation, column: str, dtype: str) -> str:
    """A source column as a field of this type; exact or refused.

    Raises:
        BadData: the column has another type.
    """
    kind, name = relation.need(column), quote(column)
    refusal = BadData(
        f"source {relation.source!r}: column {column!r} is a {kind}, not {dtype}",
        hint=f"declare it as it is, hf.Field({column!r}, str), or mend the cells that are no numbers: `holdfast data check` names them"
        if kind == "VARCHAR"
        else "declare the field's type as it is",
    )
    numeric = kind in INTEGERS or kind in WIDE or kind.startswith("DECIMAL")
    if kind == NOTHING:
        return f"{name}::{SQL_TYPES[dtype]}"
    if dtype == "float64" and (numeric or kind == "BOOLEAN"):
        return f"CASE WHEN isnan({name}::DOUBLE) THEN NULL ELSE {name}::DOUBLE END"
    if dtype == "int64":
        if kind in INTEGERS or kind == "BOOLEAN":
            return f"{name}::BIGINT"
        if numeric:
            why = text(f"column {column} has a value that is not an int64")
            return f"CASE WHEN {name} IS NULL OR isnan({name}::DOUBLE) THEN NULL WHEN {name} = floor({name}) THEN {name}::BIGINT ELSE error({why}) END"
    if dtype == "string" and (kind == "VARCHAR" or kind.startswith("ENUM")):
        return f"{name}::VARCHAR"
    if dtype == "bool" and (kind == "BOOLEAN" or kind in INTEGERS):
        return f"{name}::BOOLEAN"
    if dtype == "timestamp":
        return micros(name, kind)
    raise refusal


def value_sql(relation: Relation, value: Json) -> tuple[str, str]:
    """A value column (filtered) as SQL, and whether it is int64, float64 or string."""
    column = value["column"]
    kind, name = relation.need(column), quote(column)
    if kind in INTEGERS or kind == "BOOLEAN":
        sql, dtype = f"{name}::BIGINT", "int64"
    elif kind in WIDE or kind.startswith("DECIMAL") or kind == NOTHING:
        sql, dtype = f"CASE WHEN isnan({name}::DOUBLE) THEN NULL ELSE {name}::DOUBLE END", "float64"
    elif kind == "VARCHAR" or kind.startswith("ENUM"):
        sql, dtype = f"{name}::VARCHAR", "string"
    elif kind in INSTANTS:
        sql, dtype = micros(name, kind), "int64"
    else:
        raise BadData(f"source {relation.source!r}: column {column!r} is a {kind}, which cannot be aggregated")
    if value["where"]:
        sql = f"CASE WHEN ({value['where']})::BOOLEAN THEN {sql} END"
    return sql, dtype


class ViewQuery:
    """The statement that reads a view's events, and what its columns are.

    Columns: the keys (or ``__code`` when joined to ``__keys``), ``__t``, ``__a``, ``__s`` int64, ``__h`` uint64 where the
    view aggregates, then ``f0…`` per field and ``v0…`` per value column. ``value_types`` are int64, float64 or string.
    """

    def __init__(self, engine: Engine, plan: Json, tables: Any) -> None:
        self.plan = plan
        times = [c for c in (plan["timestamp"], plan["arrival"]) if c]
        self.relation = relation = Relation(engine, plan["source"], tables, times=times)
        self.engine = engine
        self.keys = [key_sql(plan, k) for k in plan["keys"]]
        self.key_classes = {k: key_class(self._key_type(k)) for k in plan["keys"]}
        for key, declared in plan["key_types"].items():
            if self.key_classes[key] not in (declared, "nothing"):
                raise BadData(
                    f"source {plan['source']!r}: key {key!r} is {self.key_classes[key]}, declared {declared}",
                    hint="mend the schema or the file",
                )
        self.fields = [field_sql(relation, f["source_column"], f["dtype"]) for f in plan["fields"]]
        values = [value_sql(relation, v) for v in plan["values"]]
        self.values = [v[0] for v in values]
        self.value_types = [v[1] for v in values]
        for aggregate in plan["aggregates"]:
            if aggregate["function"] in NUMERIC_ONLY and self.value_types[aggregate["value"]] == "string":
                column = plan["values"][aggregate["value"]]["column"]
                raise BadDefinition(
                    f"view {plan['name']!r}: {aggregate['function']} of {column!r}, which is text",
                    hint="use count, distinct, min, max, first or last",
                )
        self.time = f"epoch_us({quote(plan['timestamp'])})" if plan["timestamp"] else f"({NEVER})::BIGINT"
        if plan["timestamp"]:
            relation.need(plan["timestamp"])
        if plan["arrival"]:
            relation.need(plan["arrival"])
            self.arrival = f"epoch_us({quote(plan['arrival'])})"
        elif ARRIVED in relation.types:
            self.arrival = f"coalesce({ARRIVED}, {self.time})"
        else:
            self.arrival = self.time
        self.late = self.arrival != self.time and plan["timestamp"] is not None
        sequence = plan["sequence"]
        if sequence and relation.need(sequence) not in INTEGERS:
            raise BadData(
                f"source {plan['source']!r}: sequence column {sequence!r} is a {relation.types[sequence]}",
                hint="a sequence column holds integers",
            )
        self.sequence = f"coalesce({quote(sequence)}::BIGINT, ({NEVER})::BIGINT)" if sequence else f"({NEVER})::BIGINT"

    def _key_type(self, key: str) -> str:
        expression = self.plan.get("key_sql", {}).get(key)
        if expression is None:
            return self.relation.need(key)
        try:
            described = (
                f"SELECT column_type FROM (DESCRIBE SELECT {key_sql(self.plan, key)} AS k FROM ({self.relation.sql}))"
            )
            return str(self.engine.query(described, tables=self.relation.tables)[0][0].as_py())
        except BadInput as error:
            raise BadDefinition(
                f"view {self.plan['name']!r}, key {key!r}: {expression!r}: {error.message}",
                hint="write SQL over the source's columns",
            ) from error

    def select(self, *, since: int | None, until: int | None, keys: bool) -> str:
        """The statement. ``keys`` joins to a table ``__keys`` of codes and key columns ``k0…``; bounds are inclusive."""
        plan = self.plan
        content = [quote(c) for c in sorted(self.relation.types) if c != ARRIVED]
        parts = [f"{self.time} AS __t", f"{self.arrival} AS __a", f"{self.sequence} AS __s"]
        if self.values:
            parts.append(f"hash({', '.join(content)}) AS __h")
        parts += [f"{sql} AS f{i}" for i, sql in enumerate(self.fields)]
        parts += [f"{sql} AS v{i}" for i, sql in enumerate(self.values)]
        parts += [f"{sql} AS __k{i}" for i, sql in enumerate(self.keys)]
        where = [f"{sql} IS NOT NULL" for sql in self.keys]
        if plan["timestamp"]:
            where.append(f"{quote(plan['timestamp'])} IS NOT NULL")
            if since is not None and since > NEVER // 2:
                where.append(f"{self.time} >= {since}")
            if until is not None:
                where.append(f"{self.time} <= {until}")
        if plan["arrival"]:
            where.append(f"{quote(plan['arrival'])} IS NOT NULL")
        if self.late and until is not None:
            where.append(f"{self.arrival} <= {until}")
        inner = f"SELECT {', '.join(parts)} FROM ({self.relation.sql}) AS source WHERE {' AND '.join(where)}"
        columns = ["__t", "__a", "__s", *(["__h"] if self.values else []), *(f"f{i}" for i in range(len(self.fields)))]
        columns += [f"v{i}" for i in range(len(self.values))]
        if keys:
            on = " AND ".join(f"e.__k{i} = k.k{i}" for i in range(len(plan["keys"])))
            chosen = ", ".join(f"e.{c}" for c in columns)
            return f"SELECT k.__code AS __code, {chosen} FROM ({inner}) AS e JOIN __keys AS k ON {on}"
        named = [f"__k{i}" for i in range(len(plan["keys"]))]
        return f"SELECT {', '.join([*named, *columns])} FROM ({inner}) AS e"
