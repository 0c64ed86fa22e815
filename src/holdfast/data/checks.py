"""A table against its schema: types from the files' headers, everything else in one streaming pass per group of files.

Findings carry counts and a few rows to look at. Blocking ones keep a delivery out; the rest are for people to read.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from holdfast.core.errors import BadData
from holdfast.core.identity import duration_us
from holdfast.core.records import Finding
from holdfast.data import dates, suspects, tables
from holdfast.data.examples import EXAMPLES, examples
from holdfast.data.schema import Column, TableSchema, bounds_sql, when
from holdfast.data.tables import Table, literal, quote

ASKED_AT_ONCE = 250
_CASTS = {
    "int": "HUGEINT",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
    "timestamp": "TIMESTAMPTZ",
    "date": "DATE",
    "time": "TIME",
}
_FITS = {("int", "float"), ("null", "string"), ("date", "timestamp")}


@dataclass(frozen=True)
class Checked:
    """What one look at a delivery found."""

    findings: list[Finding]
    rows: dict[Path, int]
    newest: int | None = None
    oldest: int | None = None


@dataclass(frozen=True)
class _Probe:
    """One thing counted in the pass: where it is true, how much of it is let through."""

    check: str
    column: str | None
    where: str
    allowed: float
    says: str


def run(
    files: Sequence[Path],
    schema: TableSchema,
    *,
    history: Sequence[int] = (),
    at: int | None = None,
    base: Path | None = None,
    beside: Sequence[Table] = (),
    survey: bool = False,
) -> Checked:
    """Check table files against a schema.

    Args:
        history: row counts of earlier deliveries.
        at: the instant (µs) freshness is judged at.
        base: the folder that messages name files below.
        beside: files that were let in before and stay: what must be unique is so over them too.
        survey: also tell what the schema lets in and people should see once: constant and sparse columns, rows that repeat.
    """
    findings: list[Finding] = []
    newest: list[int] = []
    oldest: list[int] = []
    rows: dict[Path, int] = {}
    keys: list[tuple[list[Table], str]] = []
    empty: list[str] = []
    with tables.connect() as connection:
        groups: dict[tuple[tuple[str, str | None], ...], list[Table]] = {}
        for file in files:
            try:
                table = _with_forms(connection, tables.describe(connection, file), schema)
            except BadData as error:
                findings.append(Finding(check="readable", column=None, message=error.message, count=1, blocking=True))
                continue
            groups.setdefault((*table.columns.items(), *table.forms, ("", "text" if table.text else "")), []).append(
                table
            )
        for group in groups.values():
            try:
                sound = _columns(group[0], schema, _label(group, base), findings)
                counted = tables.rows_of(connection, group)
                rows |= counted
                if not any(counted.values()):
                    empty.append(_label(group, base))
                    continue
                span = _values(
                    connection,
                    group,
                    schema,
                    sound,
                    sum(counted.values()),
                    _label(group, base),
                    findings,
                    survey=survey,
                )
                if survey:
                    findings += _survey(connection, group, sound, sum(counted.values()), _label(group, base), findings)
                keys += [(group, name) for name, column in sound.items() if column.unique]
            except duckdb.Error as error:
                message = f"{_label(group, base)} cannot be read to its end: {tables.brief(error)}"
                findings.append(Finding(check="readable", column=None, message=message, count=1, blocking=True))
                continue
            if span is not None:
                oldest.append(span[0])
                newest.append(span[1])
        for name in dict.fromkeys(name for _, name in keys):
            groups_of = [group for group, other in keys if other == name]
            label = _label([t for group in groups_of for t in group], base)
            several = sum(rows[table.path] for group in groups_of for table in group)
            _unique(connection, groups_of, schema.columns[name], name, several, label, beside, findings)
    for label in empty:
        # One part without rows beside others is no empty delivery.
        blocks = not any(rows.values())
        findings.append(Finding(check="volume", column=None, message=f"{label} has no rows", count=0, blocking=blocks))
    _volume(rows, schema, history, base, findings)
    last = max(newest, default=None)
    _freshness(last, schema, at, findings)
    return Checked(findings, rows, last, min(oldest, default=None))


def _survey(
    connection: duckdb.DuckDBPyConnection, group: Sequence[Table], sound: dict[str, Column], rows: int, label: str, told: Sequence[Finding],
) -> list[Finding]:  # fmt: skip
    table = group[0]
    source = tables.relation([t.path for t in group], text=table.text, as_text=table.text)
    known = {f.column for f in told if f.check in ("constant", "missing")}
    # Cells of CSV are looked at as they are written.
    columns = {n: "string" if table.text else table.columns[n] for n in sound if n not in known}
    found = suspects.idle(connection, source, columns, rows, label)
    if table.text:
        words = [n for n, c in sound.items() if c.type == "string"]
        found += suspects.strays(connection, source, words, label)
    return found


def _label(group: Sequence[Table], base: Path | None) -> str:
    first = group[0].path.name if base is None or base == group[0].path else str(group[0].path.relative_to(base))
    return first if len(group) == 1 else f"{first} and {len(group) - 1} more"


def _columns(table: Table, schema: TableSchema, label: str, findings: list[Finding]) -> dict[str, Column]:
    """Which columns are there with the right type: those alone are looked into."""
    sound: dict[str, Column] = {}
    for name, column in schema.columns.items():
        kind = table.columns.get(name)
        if kind is None:
            if not column.optional:
                findings.append(
                    Finding(
                        check="columns", column=name, message=f"{label} has no column {name!r}", count=1, blocking=True
                    )
                )
        elif (
            kind == column.type
            or table.text
            or (kind, column.type) in _FITS
            or "null" in (kind, column.type)
            or (kind, column.type) == ("float", "int")
        ):
            sound[name] = column
        else:
            message = f"{label}: {name!r} is {kind}, the schema says {column.type}"
            findings.append(Finding(check="type", column=name, message=message, count=1, blocking=True))
    for name in table.columns:
        if name not in schema.columns:
            message = f"{label} has a column {name!r} the schema does not know"
            findings.append(Finding(check="columns", column=name, message=message, count=1, blocking=not schema.extra))
    return sound


def _with_form(connection: duckdb.DuckDBPyConnection, table: Table, name: str, column: Column) -> Table:
    source = tables.relation([table.path], text=True, as_text=True)
    return replace(table, forms=((column.type, dates.form_of(connection, source, [name], column.type)),))


def _with_forms(connection: duckdb.DuckDBPyConnection, table: Table, schema: TableSchema) -> Table:
    """A CSV file with how its dates are written, where it has any."""
    if not table.text:
        return table
    source = tables.relation([table.path], text=True, as_text=True)
    forms: list[tuple[str, str | None]] = []
    for kind in ("date", "timestamp"):
        mine = [n for n, c in schema.columns.items() if c.type == kind and n in table.columns]
        try:
            forms.append((kind, dates.form_of(connection, source, mine, kind)))
        except duckdb.Error:
            return table  # the pass over the rows says why
    return replace(table, forms=tuple(forms))


def _typed(table: Table, name: str, column: Column) -> str:
    """A column of a table as SQL of the schema's type; NULL where a cell is not of it."""
    if table.text and column.type in ("date", "timestamp"):
        return dates.cast(quote(name), column.type, dict(table.forms).get(column.type))
    return f"TRY_CAST({quote(name)} AS {_CASTS.get(column.type, 'VARCHAR')})"


def _probes(table: Table, name: str, column: Column) -> tuple[str, list[_Probe]]:
    """The column as SQL, and what to count in it."""
    raw = quote(name)
    value = _typed(table, name, column) if table.text else raw
    real = (column.type if table.text else table.columns[name]) == "float"
    missing = f"{value} IS NULL" + (f" OR isnan({value})" if real else "")
    probes = []
    if table.text and column.type in _CASTS:
        odd = f"{value} IS NULL"
        if column.type == "int":
            odd = f"({odd} OR {value} <> TRY_CAST({raw} AS DOUBLE))"  # the cast rounds
        probes.append(_Probe("type", name, f"{raw} IS NOT NULL AND {odd}", 0.0, f"are not {column.type}"))
        missing = f"{raw} IS NULL"
    probes.append(_Probe("missing", name, missing, column.missing, "are missing"))
    beyond = bounds_sql(column, name)
    if beyond and column.type in ("int", "float") and table.columns[name] != "null":
        ends = f"{'' if column.low is None else column.low} .. {'' if column.high is None else column.high}"
        if "isnan" in missing:
            beyond = f"{beyond} AND NOT isnan({raw})"
        probes.append(_Probe("range", name, beyond.replace(raw, value), column.outside, f"lie beyond {ends}"))
    if column.values is not None and table.columns[name] != "null":
        known = ", ".join(literal(v) for v in column.values) or "NULL"
        shown = ", ".join(map(str, column.values[:5])) + (", …" if len(column.values) > 5 else "")
        probes.append(
            _Probe(
                "values",
                name,
                f"{value} IS NOT NULL AND {value} NOT IN ({known})",
                column.others,
                f"are none of {shown}",
            )
        )
    if column.type == "int" and table.columns[name] == "float" and not table.text:
        probes.append(_Probe("type", name, f"{value} <> floor({value})", 0.0, "are not whole numbers"))
    return value, probes


def _values(
    connection: duckdb.DuckDBPyConnection, group: Sequence[Table], schema: TableSchema,
    sound: dict[str, Column], rows: int, label: str, findings: list[Finding], *, survey: bool = False,
) -> tuple[int, int] | None:  # fmt: skip
    """The pass over the rows. The span of the timestamp column, if there is one."""
    table = group[0]
    source = tables.relation([t.path for t in group], text=table.text, as_text=table.text)
    probes: list[_Probe] = []
    values: dict[str, str] = {}
    for name, column in sound.items():
        values[name], mine = _probes(table, name, column)
        probes += mine
    summary = _summary(connection, source, table, sound, values, schema.timestamp)
    known = {probe: count for probe in probes if (count := summary.settles(probe, sound, rows)) is not None}
    left = [probe for probe in probes if probe not in known]
    # The engine's cost of many questions in one query grows with their square: a wide table is read more than once.
    for at in range(0, len(left), ASKED_AT_ONCE):
        part = left[at : at + ASKED_AT_ONCE]
        counts = tables.one(
            connection, "SELECT " + ", ".join(f"count(*) FILTER (WHERE {p.where})" for p in part) + f" FROM {source}"
        )
        known |= dict(zip(part, map(int, counts), strict=True))
    for probe in probes:
        count = known[probe]
        if count and (probe.check != "missing" or count > probe.allowed * rows or probe.allowed < suspects.SPARSE):
            _tell(connection, source, label, probe, count, rows, probe.column, findings)
    for name in summary.constant:
        if rows > 1:
            findings.append(
                Finding(
                    check="constant",
                    column=name,
                    message=f"{label}: {name!r} has the same value in every row",
                    count=rows,
                    blocking=False,
                )
            )
    unique = [name for name, column in sound.items() if column.unique]
    findings += suspects.near_keys(
        connection, source, {n: values[n] for n, c in sound.items() if c.type in ("int", "string") and n not in unique}, rows, label
    )  # fmt: skip
    if not unique and (schema.duplicates < 1 or survey):
        _duplicates(connection, source, label, schema, rows, list(sound), findings)
    if summary.span is not None and schema.ordered:
        _order(connection, group, str(schema.timestamp), values[str(schema.timestamp)], label, findings)
    return summary.span


@dataclass
class _Summary:
    """What counts, least and greatest values already say, which cost a fraction of asking each row each question."""

    there: dict[str, int]
    ends: dict[str, tuple[Any, Any]]
    others: dict[str, int]
    constant: list[str]
    span: tuple[int, int] | None

    def settles(self, probe: _Probe, sound: dict[str, Column], rows: int) -> int | None:
        """The probe's count, or None where every row must be asked."""
        name = str(probe.column)
        if probe.check == "values":
            return self.others.get(name)
        ends = self.ends.get(name)
        if ends is not None and ends[1] is not None and ends[1] != ends[1]:
            return None  # not-a-number is greater than all
        if probe.check == "missing" and name in self.there:
            return rows - self.there[name]
        if probe.check == "range" and ends is not None:
            column = sound[name]
            low, high = ends
            if low is None:
                return 0
            if (column.low is None or low >= column.low) and (column.high is None or high <= column.high):
                return 0
        return None


def _summary(
    connection: duckdb.DuckDBPyConnection, source: str, table: Table, sound: dict[str, Column], values: dict[str, str], timestamp: str | None,
) -> _Summary:  # fmt: skip
    found = _Summary({}, {}, {}, [], None)
    selected: list[str] = []
    read: list[tuple[str, str]] = []
    for name, column in sound.items():
        kind = table.columns[name]
        if not table.text:
            read.append(("there", name))
            selected.append(f"count({values[name]})")
        number = kind in ("int", "float", "bool") or (table.text and column.type in ("int", "float", "bool"))
        words = kind != "null" and column.type == "string" and (table.text or column.values is None)
        if (words and _was_varied(column)) or (
            number and (column.low is not None or column.high is not None or kind == "float" or _was_varied(column))
        ):
            read.append(("ends", name))
            selected += [f"min({values[name]})", f"max({values[name]})"]
        if name == timestamp and column.type in ("timestamp", "date") and kind != "null":
            read.append(("span", name))
            selected += [f"epoch_us({end}({values[name]})::TIMESTAMPTZ)" for end in ("min", "max")]
    row = iter(tables.one(connection, f"SELECT {', '.join(selected)} FROM {source}") if selected else ())
    for what, name in read:
        first = next(row)
        if what == "there":
            found.there[name] = int(first)
        elif what == "ends":
            found.ends[name] = (first, next(row))
        elif (last := next(row)) is not None and first is not None:
            found.span = int(first), int(last)
    for name, column in sound.items():
        if name in found.ends and _was_varied(column) and found.ends[name][0] == found.ends[name][1]:
            found.constant.append(name)
        if table.text or column.values is None or table.columns[name] == "null":
            continue  # every query reads a CSV file from its start: its cells are asked together, in the pass over the rows
        known = ", ".join(literal(v) for v in column.values) or "NULL"
        grouped = f"SELECT {values[name]} AS v, count(*) AS n FROM {source} GROUP BY 1"
        other, kinds = tables.one(
            connection,
            f"SELECT coalesce(sum(n) FILTER (WHERE v IS NOT NULL AND v NOT IN ({known})), 0), count(v) FROM ({grouped})",
        )
        found.others[name] = int(other)
        if kinds <= 1 and _was_varied(column) and name not in found.constant:
            found.constant.append(name)
    return found


def _was_varied(column: Column) -> bool:
    """The schema says the column took several values: it is worth saying that it does not any more."""
    if column.type == "string":
        return column.missing < 1 if column.values is None else len(column.values) > 1
    return (column.values is not None and len(column.values) > 1) or column.high is not None


def _tell(
    connection: duckdb.DuckDBPyConnection, source: str, label: str, probe: _Probe, count: int, rows: int, column: str | None, findings: list[Finding],
) -> None:  # fmt: skip
    share = count / rows
    message = f"{label}: {count} of {rows} values of {column!r} ({share:.2%}) {probe.says}"
    blocking = share > probe.allowed
    if probe.allowed:
        message += f"; {probe.allowed:.1%} are let through"
    findings.append(Finding(
        check=probe.check, column=column, message=message, count=count, blocking=blocking,
        examples=examples(connection, f"SELECT * FROM {source} WHERE {probe.where} LIMIT {EXAMPLES}", column),
    ))  # fmt: skip


def _unique(
    connection: duckdb.DuckDBPyConnection,
    groups: Sequence[Sequence[Table]],
    column: Column,
    name: str,
    rows: int,
    label: str,
    beside: Sequence[Table],
    findings: list[Finding],
) -> None:
    """A key over the whole delivery, and against what was let in before."""
    new = " UNION ALL ".join(_key(group, name, column) for group in groups)
    # A key that only rises needs no table of what was seen.
    rises = f"SELECT key <= lag(key) OVER () AS back FROM ({new}) WHERE key IS NOT NULL"
    there, distinct = 0, 0
    risen = not connection.execute(f"SELECT 1 FROM ({rises}) WHERE back LIMIT 1").fetchall()
    if not risen:
        there, distinct = tables.count_distinct(connection, new, rows)
    if there != distinct:
        again = f"SELECT key AS {quote(name)}, count(*) AS times FROM ({new}) WHERE key IS NOT NULL GROUP BY 1 HAVING count(*) > 1 LIMIT {EXAMPLES}"
        findings.append(Finding(
            check="unique", column=name, message=f"{label}: {there - distinct} of {there} values of {name!r} repeat another, the schema says unique",
            count=there - distinct, blocking=True, examples=examples(connection, again, None),
        ))  # fmt: skip
    if not beside:
        return
    old = _kept_keys(connection, beside, name, column)
    if not old:
        return
    both = f"SELECT DISTINCT key AS {quote(name)} FROM ({old}) WHERE key IN (SELECT key FROM ({new}))"
    count = int(tables.one(connection, f"SELECT count(*) FROM ({both})")[0])
    if count:
        findings.append(Finding(
            check="unique", column=name, message=f"{label}: {count} values of {name!r} are in files that were let in before, the schema says unique",
            count=count, blocking=True, examples=examples(connection, f"{both} LIMIT {EXAMPLES}", None),
        ))  # fmt: skip


def _key(group: Sequence[Table], name: str, column: Column) -> str:
    """A query of a group's keys, of one type over all groups."""
    text = group[0].text
    source = tables.relation([t.path for t in group], text=text, as_text=text)
    return f"SELECT {_typed(group[0], name, column)} AS key FROM {source}"


def _kept_keys(connection: duckdb.DuckDBPyConnection, beside: Sequence[Table], name: str, column: Column) -> str:
    """The same of files that were let in before; empty where none of them has the column."""
    parts = []
    for text in (False, True):
        group = [table for table in beside if table.text is text]
        if group:
            source = tables.relation([table.path for table in group], text=text)
            known = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
            if name not in {row[0] for row in known}:
                continue
            if text and column.type in ("date", "timestamp"):
                parts += [_key([_with_form(connection, table, name, column)], name, column) for table in group]
            else:
                parts.append(_key(group, name, column))
    return " UNION ALL ".join(parts)


def _duplicates(
    connection: duckdb.DuckDBPyConnection, source: str, label: str, schema: TableSchema, rows: int, names: list[str], findings: list[Finding],
) -> None:  # fmt: skip
    """Whole rows that repeat another. Large tables are first sketched; only where the sketch sees some are they counted."""
    if not names:
        return
    whole = f"hash({', '.join(quote(n) for n in names)})"
    sketched = rows
    if rows > tables.EXACT_REPEATS:
        sketched = int(tables.one(connection, f"SELECT approx_count_distinct({whole}) FROM {source}")[0])
    count = tables.repeats(connection, source, whole, rows, sketched, least=0.97 - schema.duplicates)
    if count:
        blocking = count > schema.duplicates * rows
        message = f"{label}: {count} of {rows} rows ({count / rows:.2%}) repeat another; {schema.duplicates:.1%} are let through"
        again = f"SELECT {whole} FROM {source} GROUP BY 1 HAVING count(*) > 1 LIMIT {EXAMPLES}"
        shown = examples(connection, f"SELECT * FROM {source} WHERE {whole} IN ({again}) LIMIT {EXAMPLES}", None)
        findings.append(
            Finding(check="duplicates", column=None, message=message, count=count, blocking=blocking, examples=shown)
        )


def _order(
    connection: duckdb.DuckDBPyConnection,
    group: Sequence[Table],
    name: str,
    value: str,
    label: str,
    findings: list[Finding],
) -> None:
    back = 0
    connection.execute("SET preserve_insertion_order = true")
    for table in group:
        source = tables.relation([table.path], text=table.text, as_text=table.text)
        back += int(
            tables.one(
                connection,
                f"SELECT count(*) FROM (SELECT {value} < lag({value}) OVER () AS back FROM {source}) WHERE back",
            )[0]
        )
    connection.execute("SET preserve_insertion_order = false")
    if back:
        findings.append(
            Finding(
                check="order",
                column=name,
                message=f"{label}: {back} rows are earlier than the row before them",
                count=back,
                blocking=True,
            )
        )


def _volume(
    rows: dict[Path, int], schema: TableSchema, history: Sequence[int], base: Path | None, findings: list[Finding]
) -> None:
    """Each file against the median of the deliveries before it."""
    usual = statistics.median(history) if history else 0
    if not usual:
        return
    for path, count in rows.items():
        if count and not schema.fewest * usual <= count <= schema.most * usual:
            label = path.name if base is None or base == path else str(path.relative_to(base))
            side = "few" if count < usual else "many"
            message = f"{label} has {count} rows, too {side}: earlier deliveries had {usual:.0f} (let through: {schema.fewest:g} to {schema.most:g} times)"
            findings.append(Finding(check="volume", column=None, message=message, count=count, blocking=True))


def _freshness(newest: int | None, schema: TableSchema, at: int | None, findings: list[Finding]) -> None:
    if newest is None or schema.freshness is None or at is None or at <= 0:
        return
    age = at - newest
    if age > duration_us(schema.freshness):
        message = f"the newest row is of {when(newest)}, {age / 86_400_000_000:.1f} days before now; the schema says at most {schema.freshness}"
        findings.append(Finding(check="freshness", column=schema.timestamp, message=message, count=1, blocking=False))


def without_examples(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as the chain keeps them: rows people may ask to be forgotten stay out of it."""
    return [{k: v for k, v in msgspec.to_builtins(f).items() if k != "examples"} for f in findings]
