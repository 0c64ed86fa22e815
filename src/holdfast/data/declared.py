"""People's own pandera schemas (polars), run over tables of any size a batch at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb

from holdfast.core.errors import BadData, BadDefinition
from holdfast.core.records import Finding
from holdfast.data import names, tables
from holdfast.data.examples import EXAMPLES, examples, plain
from holdfast.data.tables import Table, quote

BATCH = 250_000
OVER_ALL = ("field_uniqueness", "multiple_fields_uniqueness")
"""Pandera's checks that are of a whole table."""


def check(files: Sequence[Path], schema: Any, *, base: Path | None = None) -> list[Finding]:
    """Findings of a pandera schema or model over table files. All of them block: they were declared.

    Raises:
        BadDefinition: it is not a pandera schema for polars, or pandera is not installed.
        BadData: a file cannot be read.
    """
    schema, errors = _pandera(schema)
    unique = [name for name, column in schema.columns.items() if getattr(column, "unique", False)]
    findings: list[Finding] = []
    for file in files:
        label = str(file.relative_to(base)) if base is not None and base != file else file.name
        counts: Counter[tuple[str, str | None]] = Counter()
        shown: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
        for batch in _batches(file):
            try:
                schema.validate(batch, lazy=True)
            except errors as error:
                _count(error, counts, shown)
            except Exception as error:  # noqa: BLE001  (checks are the user's: anything may come out of them)
                why = str(error).strip().splitlines()
                counts[f"cannot be asked: {type(error).__name__}: {why[0][:200] if why else ''}", None] += 1
        for (what, column), count in counts.items():
            if what in OVER_ALL and (column in unique or (column is None and schema.unique)):
                continue  # told below, over all batches and files
            if what == "column_in_dataframe":
                message = f"{label} has no column {column!r}"
            elif what == "column_in_schema":
                message = f"{label} has a column {column!r} the schema does not know"
            elif what.startswith("cannot be asked"):
                message = f"{label}: the schema {what}"
            else:
                message = f"{label}: {column + ': ' if column else ''}{what} fails for {count} values"
            findings.append(
                Finding(
                    check="declared",
                    column=column,
                    message=message,
                    count=count,
                    blocking=True,
                    examples=shown.get((what, column), []),
                )
            )
    together = [schema.unique] if isinstance(schema.unique, str) else list(schema.unique or [])
    return [*findings, *_unique_over_all(files, [[name] for name in unique] + ([together] if together else []))]


def _pandera(schema: Any) -> tuple[Any, Any]:
    try:
        import pandera.polars as pa
        from pandera.errors import SchemaErrors
    except ImportError:
        raise BadDefinition(
            "the source's schema is a pandera schema, and pandera is not installed",
            hint="pip install 'holdfast[validate]'",
        ) from None
    if isinstance(schema, type) and issubclass(schema, pa.DataFrameModel):
        schema = schema.to_schema()
    if not isinstance(schema, pa.DataFrameSchema):
        raise BadDefinition(
            f"{type(schema).__name__} is no schema Holdfast can check",
            hint="give a mapping of columns to types, or a pandera.polars schema or model",
        )
    return schema, SchemaErrors


def _batches(file: Path) -> Iterator[Any]:
    """Polars frames of at most ``BATCH`` rows."""
    import polars as pl

    with tables.connect() as connection:
        text = not file.name.lower().endswith(names.PARQUET)
        try:
            reader = connection.sql(f"SELECT * FROM {tables.relation([file], text=text)}").to_arrow_reader(BATCH)
            for batch in reader:
                frame = pl.from_arrow(batch)
                yield frame
        except duckdb.Error as error:
            raise BadData(
                f"{file.name} cannot be read as a table: {tables.brief(error)}",
                hint="was it cut off while it was written?",
            ) from None


def _count(
    error: Any, counts: Counter[tuple[str, str | None]], examples: dict[tuple[str, str | None], list[dict[str, Any]]]
) -> None:
    for row in error.failure_cases.iter_rows(named=True):
        what, column = str(row.get("check")), row.get("column")
        if what in ("column_in_dataframe", "column_in_schema"):
            column = row.get("failure_case")  # there it is the schema's name
        key = (what, None if column is None else str(column))
        counts[key] = 1 if what.startswith("column_in_") else counts[key] + 1
        kept = examples.setdefault(key, [])
        if len(kept) < EXAMPLES:
            kept.append({str(column or "value"): plain(row.get("failure_case"))})


def _unique_over_all(files: Sequence[Path], keys: Sequence[Sequence[str]]) -> list[Finding]:
    """Uniqueness is of the whole, so batches cannot judge it. A key is one column or several together."""
    findings: list[Finding] = []
    if not keys:
        return findings
    with tables.connect() as connection:
        source = tables.union([Table(file, {}, names.is_text(file.name)) for file in files])
        for key in keys:
            listed = ", ".join(map(quote, key))
            wanted = " AND ".join(f"{quote(name)} IS NOT NULL" for name in key)
            again = (
                f"SELECT {listed}, count(*) AS times FROM {source} WHERE {wanted} GROUP BY {listed} HAVING count(*) > 1"
            )
            try:
                count = int(tables.one(connection, f"SELECT coalesce(sum(times - 1), 0) FROM ({again})")[0])
                shown = examples(connection, f"{again} LIMIT {EXAMPLES}", None) if count else []
            except duckdb.BinderException:
                if len(key) > 1:  # one column that is missing was told above
                    message = f"the columns {', '.join(map(repr, key))}, unique together, are not all there"
                    findings.append(Finding(check="declared", column=None, message=message, count=1, blocking=True))
                continue
            except duckdb.Error as error:
                raise BadData(f"the table cannot be read: {tables.brief(error)}") from None
            if count:
                message = f"{count} values of {', '.join(map(repr, key))} repeat another"
                column = key[0] if len(key) == 1 else None
                findings.append(
                    Finding(
                        check="declared", column=column, message=message, count=count, blocking=True, examples=shown
                    )
                )
    return findings
