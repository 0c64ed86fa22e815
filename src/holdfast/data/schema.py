"""A table's schema: inferred once, kept as a reviewable YAML file beside the pointer, never overwritten.

What is inferred leaves room for honest change: ranges are ten times wider than what was seen, a value set is closed only when
the sample says that nothing is unseen (Good and Turing's estimate: the share of values seen once), a float column may miss
a little, and three rows of as many as were seen may do what none of them did. People tighten it where they know more.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from holdfast.core.errors import BadData, BadInput, did_you_mean
from holdfast.core.identity import digest, duration_text, duration_us, from_us
from holdfast.data import keys, names, tables
from holdfast.data.pointers import load_yaml
from holdfast.data.tables import Table, literal, quote
from holdfast.data.text import read as read_text

KINDS = ("int", "float", "string", "bool", "timestamp", "date", "time", "bytes", "nested", "null")
DECLARED = {"int64": "int", "float64": "float", "string": "string", "bool": "bool", "timestamp": "timestamp"}
DOMAIN_LIMIT = 64
LONGEST = 200
"""Characters of a value that may be listed: texts are no set of values."""
_DAY = re.compile(r"(\d{4}[-/.]\d{1,2}([-/.]\d{1,2})?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([T ].*)?")
COUNTED_AT_ONCE = 24
"""Columns of CSV whose values are counted in one query; each holds memory of its own."""


class Column(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a column's values may be. Shares are of the rows of one delivery."""

    type: str
    missing: float = 1.0
    unique: bool = False
    low: float | int | None = None
    high: float | int | None = None
    outside: float = 0.0
    values: list[str | int | bool] | None = None
    others: float = 0.0
    optional: bool = False


class TableSchema(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a table may look like. ``fewest``/``most`` bound a delivery's rows, as multiples of the median of the earlier
    ones; ``freshness`` is how old its newest row may be; ``extra`` says whether columns that are not listed are let in."""

    columns: dict[str, Column]
    timestamp: str | None = None
    ordered: bool = False
    freshness: str | None = None
    duplicates: float = 1.0
    fewest: float = 0.6
    most: float = 3.0
    extra: bool = True

    @property
    def version(self) -> str:
        return digest(msgspec.to_builtins(self))


def file_for(path: Path) -> Path:
    """Where the schema of a tracked path is kept."""
    return path.with_name(path.name + ".schema.yaml")


def load(path: Path) -> TableSchema | None:
    """The schema kept beside a tracked path, or None.

    Raises:
        BadInput: the file is there and cannot be used; the message names the place.
    """
    file = file_for(path)
    try:
        written = read_text(file, 4 << 20)
    except FileNotFoundError:
        return None
    schema = _converted(file.name, load_yaml(written, file))
    for name, column in schema.columns.items():
        wrong = _wrong(column)
        if wrong is not None:
            raise BadInput(f"{file.name}: column {name!r}: {wrong[0]}", hint=wrong[1])
    for key in ("duplicates", "fewest", "most"):
        value = getattr(schema, key)
        if not value >= 0:
            raise BadInput(f"{file.name}: {key} is {value}", hint="write a number that is not negative")
    timed = schema.columns.get(schema.timestamp) if schema.timestamp is not None else None
    if schema.timestamp is not None and timed is None:
        raise BadInput(
            f"{file.name}: timestamp names {schema.timestamp!r}, which is no column",
            hint=did_you_mean(schema.timestamp, schema.columns, kind="column"),
        )
    if timed is not None and timed.type not in ("timestamp", "date", "int", "null"):
        raise BadInput(
            f"{file.name}: timestamp names {schema.timestamp!r}, which is {timed.type}",
            hint="name a column of instants",
        )
    if timed is None and schema.ordered:
        raise BadInput(f"{file.name}: ordered needs a time column", hint="name it: timestamp: COLUMN")
    if schema.freshness is not None:
        try:
            duration_us(schema.freshness)
        except BadInput as error:
            raise BadInput(f"{file.name}: freshness: {error.message}", hint=error.hint) from None
    return schema


def _converted(name: str, data: Any) -> TableSchema:
    """What was read as a schema; each column by itself, so that the message has its name."""
    columns = data.get("columns") if isinstance(data, dict) else None
    if isinstance(columns, dict):
        for column, spec in columns.items():
            try:
                msgspec.convert(spec, Column)
            except msgspec.ValidationError as error:
                known = "known keys of a column: " + ", ".join(Column.__struct_fields__)
                raise BadInput(f"{name}: column {str(column)!r}: {_said(error)}", hint=known) from None
    try:
        return msgspec.convert(data, TableSchema)
    except msgspec.ValidationError as error:
        known = "known keys: " + ", ".join(TableSchema.__struct_fields__)
        raise BadInput(f"{name}: {_said(error)}", hint=known) from None


def _said(error: msgspec.ValidationError) -> str:
    what, _, place = str(error).partition(" - at `$.")
    return f"{place.rstrip('`')}: {what}" if place else what.partition(" - at `$`")[0]


_VALUES: dict[str, type] = {"string": str, "int": int, "bool": bool}


def _wrong(column: Column) -> tuple[str, str] | None:
    """What in a column's rules cannot be meant, and its mend. A rule that is never asked is one, too."""
    if column.type not in KINDS:
        return f"has type {column.type!r}", did_you_mean(column.type, KINDS, kind="type")
    for key in ("missing", "others", "outside"):
        share = getattr(column, key)
        if not 0 <= share <= 1:
            return f"{key} is {share}, no share of rows", "write a number from 0 to 1"
    ends = [end for end in (column.low, column.high) if end is not None]
    if ends and column.type not in ("int", "float"):
        return f"low and high are of numbers, not of type {column.type}", "leave them away"
    if any(end != end for end in ends) or (len(ends) == 2 and ends[0] > ends[1]):
        return f"no number lies between {column.low} and {column.high}", "write low below high"
    if column.values is not None:
        kind = _VALUES.get(column.type)
        if kind is None:
            return f"values are listed of {', '.join(_VALUES)}, not of type {column.type}", "leave them away"
        odd = next((v for v in column.values if type(v) is not kind), None)
        if odd is not None:
            hint = f"write it in quotes: {json.dumps(str(odd))}" if kind is str else "mend the value or the type"
            return f"the value {odd!r} is not of type {column.type}", hint
    return None


def save(path: Path, schema: TableSchema) -> Path:
    """Write the schema beside a tracked path, unless people have one there already."""
    file = file_for(path)
    if not file.exists():
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        temporary.write_text(render(schema, path.name), encoding="utf-8")
        temporary.replace(file)
    return file


def ensure(path: Path, *, timestamp: str | None = None) -> TableSchema | None:
    """The schema kept beside a path; inferred and kept at the first look. None when there is no table."""
    kept = load(path)
    if kept is not None or not names.tables_in(path):
        return kept
    schema = infer(path, timestamp=timestamp)
    save(path, schema)
    return schema


def render(schema: TableSchema, name: str) -> str:
    """The YAML text, one line a column, so that a review shows what changed."""
    lines = [
        f"# The schema of {name}, inferred from its first version. It is yours: edit it, it is never overwritten.",
        "# missing, others, outside: the largest share of rows that may lack a value, have one not listed, lie beyond low..high.",
        "# fewest, most: a delivery's rows as multiples of the median of the earlier ones.",
    ]
    top = msgspec.to_builtins(schema)
    columns = top.pop("columns")
    shown = {"timestamp": schema.timestamp, "ordered": schema.ordered, "freshness": schema.freshness, "duplicates": schema.duplicates,
             "fewest": schema.fewest, "most": schema.most, "extra": schema.extra}  # fmt: skip
    lines += [f"{key}: {_scalar(value)}" for key, value in shown.items() if value is not None]
    lines.append("columns:")
    for column, spec in columns.items():
        inner = ", ".join(f"{key}: {_scalar(value)}" for key, value in spec.items())
        lines.append(f"  {_scalar(column)}: {{{inner}}}")
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    if (
        isinstance(value, str)
        and value.isidentifier()
        and value.lower() not in {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"}
    ):
        return value
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(v) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def declared(schema: Mapping[str, Any]) -> TableSchema:
    """A mapping of columns to types, as ``Source(schema=…)`` takes it.

    Raises:
        BadInput: a type is not one.
    """
    names: dict[Any, str] = {
        int: "int",
        float: "float",
        str: "string",
        bool: "bool",
        **{k: k for k in KINDS},
        **DECLARED,
    }
    columns = {}
    for name, value in schema.items():
        if value not in names:
            raise BadInput(
                f"column {name!r}: {value!r} is not a type", hint="use int, float, str, bool, or 'timestamp'"
            )
        columns[name] = Column(type=names[value])
    return TableSchema(columns=columns, fewest=0.0, most=math.inf)


# --- inference --------------------------------------------------------------------------------------------------------


def infer(path: Path, *, timestamp: str | None = None, files: Sequence[Path] | None = None) -> TableSchema:
    """Look at every row once and say what the next delivery should look like.

    Raises:
        BadData: there is no table, or the files of a folder do not agree on their columns' types.
    """
    found = list(files) if files is not None else names.tables_in(path)
    if not found:
        raise BadData(f"{path} holds no table", hint="parquet and CSV files have schemas")
    with tables.connect() as connection:
        try:
            with suppress(duckdb.ConversionException):
                return _infer(connection, _looked(connection, found, tables.SAMPLED), timestamp)
            # CSV whose types do not hold to the end: every row says what a column is.
            return _infer(connection, _looked(connection, found, -1), timestamp, sampled=-1)
        except duckdb.Error as error:
            raise BadData(
                f"the table cannot be read: {tables.brief(error)}", hint="was a file cut off while it was written?"
            ) from None


def _looked(connection: duckdb.DuckDBPyConnection, found: Sequence[Path], sampled: int) -> list[Table]:
    looked = [tables.describe(connection, file, sampled=sampled) for file in found]
    if len(looked) == 1:
        return looked
    looked = [table for table in looked if not _is_header(connection, table)] or looked[:1]
    kinds: dict[str, set[str]] = {}
    for table in looked:
        for name, kind in table.columns.items():
            kinds.setdefault(name, set()).add(kind)
    unsure = {name for name, mine in kinds.items() if "string" in mine and len(mine) > 1}
    return [_without_empty(connection, table, unsure) for table in looked]


def _without_empty(connection: duckdb.DuckDBPyConnection, table: Table, unsure: set[str]) -> Table:
    """A CSV file's column without a cell reads as text and says nothing of its type."""
    words = [name for name, kind in table.columns.items() if kind == "string" and name in unsure]
    if not table.text or not words:
        return table
    source = tables.relation([table.path], text=True, as_text=True)
    there = tables.one(
        connection, f"SELECT {', '.join(f'bool_or({quote(n)} IS NOT NULL)' for n in words)} FROM {source}"
    )
    empty = {name for name, some in zip(words, there, strict=True) if not some}
    return replace(table, columns={n: "null" if n in empty else kind for n, kind in table.columns.items()})


def _is_header(connection: duckdb.DuckDBPyConnection, table: Table) -> bool:
    """Whether it is a CSV file without rows, which says nothing of its columns' types."""
    if not table.text or set(table.columns.values()) != {"string"}:
        return False
    return not connection.execute(f"SELECT 1 FROM {tables.relation([table.path], text=True)} LIMIT 1").fetchall()


def _infer(
    connection: duckdb.DuckDBPyConnection, looked: list[Table], timestamp: str | None, *, sampled: int = tables.SAMPLED
) -> TableSchema:
    kinds = _agree(looked)
    source, text = tables.union(looked, sampled=sampled), any(t.text for t in looked)
    whole = f"hash({', '.join(map(quote, kinds))})"
    parts = ["count(*)", f"approx_count_distinct({whole})"]
    for name, kind in kinds.items():
        column = quote(name)
        if kind == "float":
            column = f"CASE WHEN isnan({column}) THEN NULL ELSE {column} END"
        parts.append(f"count({column})")
        parts.append(f"approx_count_distinct({column})" if kind != "nested" else "0")
        wide = kind in ("int", "float")
        parts.append(
            f"min({column})"
            if wide
            else f"epoch_us(min({column})::TIMESTAMPTZ)"
            if kind in ("timestamp", "date")
            else "NULL"
        )
        parts.append(
            f"max({column})"
            if wide
            else f"epoch_us(max({column})::TIMESTAMPTZ)"
            if kind in ("timestamp", "date")
            else "NULL"
        )
    row = tables.one(connection, f"SELECT {', '.join(parts)} FROM {source}")
    rows = int(row[0])
    if not rows:
        raise BadData(f"{looked[0].path.name} has no rows", hint="its schema is inferred from rows")
    columns: dict[str, Column] = {}
    spans: dict[str, tuple[int, int]] = {}
    told = {name: row[2 + 4 * at : 6 + 4 * at] for at, name in enumerate(kinds)}
    few = [name for name, kind in kinds.items() if kind == "string" and 0 < told[name][1] <= 2 * DOMAIN_LIMIT]
    counts = _value_counts(connection, source, few, text=text)
    for name, kind in kinds.items():
        there, distinct, low, high = told[name]
        if text and not there:
            kind = "null"  # empty cells of CSV are text only because they are nothing else
        columns[name] = _column(
            connection, source, name, kind, rows, int(there), int(distinct), low, high, counts.get(name)
        )
        columns[name].optional = any(name not in table.columns for table in looked)
        if kind == "timestamp" and low is not None and high is not None:  # what is beyond time has no instant
            spans[name] = (int(low), int(high))
    if timestamp is None and len(spans) == 1:
        timestamp = next(iter(spans))
    if timestamp is not None and timestamp not in columns:
        raise BadData(f"there is no column {timestamp!r}", hint=did_you_mean(timestamp, columns, kind="column"))
    freshness = None
    if timestamp in spans and timestamp is not None:
        # A delivery may be as late as two of its own lengths, and never less than two days.
        length = (spans[timestamp][1] - spans[timestamp][0]) // max(1, len(looked))
        freshness = duration_text(max(2, 2 * math.ceil(length / 86_400_000_000)) * 86_400_000_000)
    duplicates = 0.0
    if not any(c.unique for c in columns.values()):
        share = tables.repeats(connection, source, whole, rows, int(row[1])) / rows if rows else 0.0
        # Rows without a key repeat by chance, the more of them the oftener: what comes here may come thrice as often.
        duplicates = _room(0.01, rows) if share <= 0.002 else min(1.0, _round_up(3 * share + 0.05))
    return TableSchema(columns=columns, timestamp=timestamp, freshness=freshness, duplicates=duplicates)


def _agree(looked: list[Table]) -> dict[str, str]:
    """One type per column over all files; int and float agree on float, date and timestamp on timestamp, nothing but nulls (``null``) agrees with all."""
    out: dict[str, str] = {}
    all_text = all(table.text for table in looked)
    for table in looked:
        for name, kind in table.columns.items():
            old = out.get(name, "null")
            if old == "null" or old == kind:
                out[name] = kind
            elif kind == "null":
                continue
            elif {old, kind} in ({"int", "float"}, {"date", "timestamp"}):
                out[name] = "float" if "float" in (old, kind) else "timestamp"
            elif all_text:
                out[name] = "string"  # as it would be in one file
            else:
                raise BadData(
                    f"{table.path.name}: column {name!r} is {kind}, elsewhere {old}",
                    hint="a folder is one table: mend the file that differs",
                )
    return out


def _value_counts(
    connection: duckdb.DuckDBPyConnection, source: str, names: Sequence[str], *, text: bool
) -> dict[str, dict[str, int]]:
    """How often each value comes, of columns of text with few values. Parquet is read by column; a CSV file is read from its
    start by every query, so there several columns are counted in one."""
    found: dict[str, dict[str, int]] = {}
    for at in range(0, len(names), COUNTED_AT_ONCE if text else 1):
        part = names[at : at + COUNTED_AT_ONCE] if text else [names[at]]
        if len(part) == 1:
            name = quote(part[0])
            sql = f"SELECT {name}, count(*) FROM {source} WHERE {name} IS NOT NULL GROUP BY 1"
            found[part[0]] = dict(connection.execute(sql).fetchall())
        else:
            row = tables.one(connection, f"SELECT {', '.join(f'histogram({quote(n)})' for n in part)} FROM {source}")
            found |= {name: counts or {} for name, counts in zip(part, row, strict=True)}
    return found


def _column(
    connection: duckdb.DuckDBPyConnection, source: str, name: str, kind: str, rows: int, there: int, distinct: int, low: Any, high: Any,
    counts: dict[str, int] | None,
) -> Column:  # fmt: skip
    gone = rows - there
    quoted = quote(name)
    column = Column(type=kind)
    if kind in ("int", "string") and rows >= 100 and there == rows and distinct >= 0.9 * rows:
        _, different = tables.count_distinct(connection, f"SELECT {quoted} AS key FROM {source}", rows)
        column.unique = different == rows and keys.is_key(connection, source, name, kind, rows)
    if gone:
        column.missing = min(1.0, _round_up(2 * gone / rows + 0.05))
    elif kind == "float" or rows < 100:
        column.missing = _room(0.05, rows)
    else:
        column.missing = 0.0 if column.unique else _room(0.0, rows)
    words = counts is not None and len(counts) <= DOMAIN_LIMIT and max(map(len, counts), default=0) <= LONGEST
    if counts is not None and words and (there >= 20 * len(counts) or len(counts) == 1):
        once = sum(1 for n in counts.values() if n == 1)
        column.values = sorted(counts)
        column.others = _room(_round_up(max(0.01, 10 * once / there)) if once else 0.0, there)
        if len(counts) == 1 or all(_DAY.fullmatch(value) for value in counts):
            column.others = 1.0  # this delivery's own: its batch, its month, its days
    if kind == "float" and low is not None:
        low, high = float(low), float(high)  # decimals too
    if kind in ("int", "float") and there and low is not None and math.isfinite(low) and math.isfinite(high):
        # A key that counts up, a constant, or a part of the calendar has no upper end worth guessing.
        column.low = 0 if low >= 0 else _widen(low, high)
        if not column.unique and distinct > 1:
            column.high = 0 if high <= 0 else _widen(high, low)
        column.outside = _room(0.001, rows)
    return column


def _widen(end: float, other: float) -> int | float:
    reach = max(10 * abs(end), abs(end - other))
    wide = math.copysign(min(_two_digits(reach), sys.float_info.max), end)
    return int(wide) if abs(wide) < 2**53 and wide == int(wide) else wide


def _two_digits(value: float) -> float:
    if value < 1e-300 or value > 1e300:
        return value  # too near the ends of what a number can be
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / scale) * scale:.12g}")


def _room(share: float, rows: int) -> float:
    """At least so much room as rows that all lack a thing leave it: three times in as many again (the rule of three)."""
    return max(share, min(0.3, _round_up(3 / rows)) if rows else share)


def _round_up(share: float) -> float:
    return math.ceil(share * 1000) / 1000


def bounds_sql(column: Column, name: str) -> str | None:
    """The SQL condition of a value beyond the range; None when there is no range."""
    quoted = quote(name)
    parts = [f"{quoted} < {literal(column.low)}"] if column.low is not None else []
    parts += [f"{quoted} > {literal(column.high)}"] if column.high is not None else []
    return "(" + " OR ".join(parts) + ")" if parts else None


def when(us: int) -> str:
    try:
        return from_us(us).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError):  # Python's calendar has the years 1 to 9999
        return f"the year {1970 + us // 31_556_952_000_000}"
