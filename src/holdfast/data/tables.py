"""Tables on disk as DuckDB sees them: which files of a path are tables, their columns, their rows. Streams, and spills to
disk above a memory bound."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from holdfast.core.errors import BadData
from holdfast.data import dialect
from holdfast.data.dialect import Dialect
from holdfast.data.names import CSV, tables_in

MEMORY = "1GB"
SAMPLED = 200_000
EXACT_REPEATS = 2_000_000
"""Rows up to which those that repeat another are always counted; of more, where a sketch does not rule them out."""
SORTED_AT_ONCE = 20_000_000
"""Hashes that are sorted in memory, 8 bytes each; more keys are counted by DuckDB, which spills."""

_WRONG = {
    # Writers leave NaN out of parquet's min and max, and this one then takes isnan() for false.
    "statistics_propagation",
    # Reads a CSV column as the type of a TRY_CAST over it, and fails where the cast would have given NULL.
    "type_pushdown",
}

_TYPES = {
    "BOOLEAN": "bool", "VARCHAR": "string", "UUID": "string", "DATE": "date", "TIME": "time", "TIME_NS": "time", "BLOB": "bytes",
    "FLOAT": "float", "DOUBLE": "float", "REAL": "float",
    **dict.fromkeys(["TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"], "int"),
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """One file: its columns in order with their types (int, float, string, bool, timestamp, date, time, bytes, nested). Of CSV
    also how its dates and timestamps are written, where that was looked at."""

    path: Path
    columns: dict[str, str]
    text: bool = False
    forms: tuple[tuple[str, str | None], ...] = ()


def kind(sql_type: str) -> str:
    """DuckDB's type as the few kinds schemas speak of."""
    name = sql_type.upper()
    if name.startswith("TIMESTAMP"):
        return "timestamp"
    if name.startswith("DECIMAL"):
        return "float"
    if name.startswith("ENUM"):
        return "string"
    if name == '"NULL"' or name == "NULL":
        return "null"
    return _TYPES.get(name, "nested")


def quote(name: str) -> str:
    """A column name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: object) -> str:
    """A string, number or boolean as SQL."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return repr(value)
    return "'" + str(value).replace("'", "''") + "'"


@contextmanager
def connect() -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB with a memory bound and a private folder to spill to; it can reach neither network nor extensions."""
    with tempfile.TemporaryDirectory(prefix="holdfast-spill-") as spill:
        connection = duckdb.connect(
            config={
                "memory_limit": MEMORY, "temp_directory": spill, "preserve_insertion_order": False,
                "autoinstall_known_extensions": False, "autoload_known_extensions": False,
            }
        )  # fmt: skip
        try:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET enable_progress_bar = false")  # in a notebook it is on, and in the output
            there = {row[0] for row in connection.execute("SELECT name FROM duckdb_optimizers()").fetchall()}
            connection.execute(f"SET disabled_optimizers = '{','.join(sorted(there & _WRONG))}'")
            yield connection
        finally:
            connection.close()


def describe(connection: duckdb.DuckDBPyConnection, path: Path, *, sampled: int = SAMPLED) -> Table:
    """A file's columns, of the kind its name says; ``sampled`` as for ``relation``.

    Raises:
        BadData: it cannot be read as a table.
    """
    return describe_as(connection, path, path.name, sampled=sampled)


def describe_as(connection: duckdb.DuckDBPyConnection, path: Path, name: str, *, sampled: int = SAMPLED) -> Table:
    """As ``describe``, for bytes that lie under another name (the cache's) than ``name``.

    Raises:
        BadData: it cannot be read as a table.
    """
    text = name.lower().endswith(CSV)
    if text and dialect.is_cut_off(path):
        raise BadData(
            f"{name} cannot be read as a table: it ends too early", hint="was it cut off while it was written?"
        )
    try:
        rows = connection.execute(f"DESCRIBE SELECT * FROM {relation([path], text=text, sampled=sampled)}").fetchall()
    except duckdb.Error as error:
        wrong = dialect.odd_line(path, dialect.of(path)) if text else None
        raise BadData(
            f"{name} cannot be read as a table: {wrong or brief(error)}",
            hint="mend the file" if wrong else "was it cut off while it was written?",
        ) from None
    return Table(path, {row[0]: kind(row[1]) for row in rows}, text)


def brief(error: duckdb.Error) -> str:
    """What DuckDB says is wrong, without the advice and without the row, which belongs in no record."""
    lines = str(error).splitlines()
    more = [line for line in lines[1:] if line.startswith("Expected Number of Columns") or "unicode" in line]
    more += [
        line.split(". Could not convert")[0] for line in lines[1:] if line.startswith("Error when converting column")
    ]
    return ": ".join([lines[0], *more[:1]])


def relation(
    paths: Sequence[Path], *, text: bool = False, as_text: bool = False, name: str | None = None, written: Sequence[str] = (),
    sampled: int = SAMPLED,
) -> str:  # fmt: skip
    """A FROM item that reads all of the files as one table; ``as_text`` leaves CSV cells as they are (those of the columns
    ``written`` alone), ``name`` adds each row's file under it. CSV columns are of the types their first ``sampled`` rows
    have; -1 are all."""
    options = f", filename={literal(name)}" if name else ""
    if not text:
        return f"read_parquet({_list(paths)}, hive_partitioning=false, union_by_name={'true' if len(paths) > 1 else 'false'}{options})"
    kept = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in written)
    raw = ", all_varchar=true" if as_text else f", types={{{kept}}}" if written else ""
    groups: dict[Dialect, list[Path]] = {}
    for path in paths:
        groups.setdefault(dialect.of(path), []).append(path)
    read = [
        f"read_csv({_list(group)}, {_header(how)}, skip={how.above}, delim={literal(how.separator)}, quote='\"', escape='\"', "
        f"comment='', compression={literal(how.packing)}, sample_size={sampled}, "
        f"nullstr={_texts(dialect.NULLS)}{raw}{options}, union_by_name=true)"
        for how, group in groups.items()
    ]
    return read[0] if len(read) == 1 else "(" + " UNION ALL BY NAME ".join(f"SELECT * FROM {r}" for r in read) + ")"


def _header(how: Dialect) -> str:
    return f"header=false, names={_texts(how.names)}" if how.names else "header=true"


def union(looked: Sequence[Table], *, sampled: int = SAMPLED) -> str:
    """All files as one FROM item; parquet and CSV may lie beside each other. ``sampled`` as for ``relation``."""
    parts = [
        relation([t.path for t in looked if t.text is text], text=text, sampled=sampled)
        for text in (False, True)
        if any(t.text is text for t in looked)
    ]
    return parts[0] if len(parts) == 1 else "(SELECT * FROM " + " UNION ALL BY NAME SELECT * FROM ".join(parts) + ")"


def _list(paths: Sequence[Path]) -> str:
    # The engine takes each for a pattern: report[1].csv would be report1.csv.
    return _texts(["".join(f"[{c}]" if c in "*?[" else c for c in os.fspath(p)) for p in paths])


def _texts(values: Sequence[str]) -> str:
    return "[" + ", ".join(map(literal, values)) + "]"


def rows_of(connection: duckdb.DuckDBPyConnection, tables: Sequence[Table]) -> dict[Path, int]:
    """Rows per file; parquet's from its footer."""
    out: dict[Path, int] = {}
    parquet = [t.path for t in tables if not t.text]
    if parquet:
        out |= {
            Path(name): int(n)
            for name, n in connection.execute(
                f"SELECT file_name, num_rows FROM parquet_file_metadata({_list(parquet)})"
            ).fetchall()
        }
    for table in tables:
        if table.text:
            out[table.path] = int(
                one(connection, f"SELECT count(*) FROM {relation([table.path], text=True, as_text=True)}")[0]
            )
    return out


def count_rows(path: Path) -> int | None:
    """Rows of all table files at a path; None when it holds none, or too many to look at in passing."""
    found = tables_in(path)
    if not found or len(found) > 5000:
        return None
    with connect() as connection:
        try:
            return sum(rows_of(connection, [Table(p, {}, p.name.lower().endswith(CSV)) for p in found]).values())
        except duckdb.Error:
            return None


def count_distinct(connection: duckdb.DuckDBPyConnection, keys: str, rows: int) -> tuple[int, int]:
    """(values, different ones) in the column ``key`` of a query of at most so many rows; NULLs do not count. Where all hashes
    differ so do the values, and sorting hashes takes a third of the time of counting distinct strings."""
    import numpy as np

    if rows <= SORTED_AT_ONCE:
        found = connection.execute(f"SELECT hash(key) AS hash FROM ({keys}) WHERE key IS NOT NULL").fetchnumpy()
        hashes = np.asarray(found["hash"])
        hashes.sort()
        if not (hashes[1:] == hashes[:-1]).any():
            return len(hashes), len(hashes)
    there, distinct = one(connection, f"SELECT count(key), count(DISTINCT key) FROM ({keys})")
    return int(there), int(distinct)


def repeats(
    connection: duckdb.DuckDBPyConnection, source: str, whole: str, rows: int, sketched: int, *, least: float = 0.97
) -> int:
    """Rows that repeat another, by the hash ``whole`` of all their columns. Of a large table it is 0 where a sketch of how many
    differ sees at least ``least`` of the rows."""
    if rows > EXACT_REPEATS and sketched > least * rows:
        return 0
    return rows - int(one(connection, f"SELECT count(DISTINCT {whole}) FROM {source}")[0])


def one(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    """The one row of a query."""
    return connection.execute(sql).fetchall()[0]
