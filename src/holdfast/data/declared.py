"""People's own pandera schemas (polars), run over tables of any size a batch at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from holdfast.core.errors import BadData, BadDefinition
from holdfast.core.records import Finding
from holdfast.data import names, tables
from holdfast.data.checks import EXAMPLES, plain
from holdfast.data.tables import quote

BATCH = 250_000


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
        examples: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
        for batch in _batches(file):
            try:
                schema.validate(batch, lazy=True)
            except errors as error:
                _count(error, counts, examples)
        for (what, column), count in counts.items():
            message = f"{label}: {column + ': ' if column else ''}{what} fails for {count} values"
            findings.append(
                Finding(
                    check="declared",
                    column=column,
                    message=message,
                    count=count,
                    blocking=True,
                    examples=examples.get((what, column), []),
                )
            )
    findings += _unique_over_all(files, unique)
    return findings


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
    import duckdb
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
                f"{file.name} cannot be read as a table: {str(error).splitlines()[0]}",
                hint="was it cut off while it was written?",
            ) from None


def _count(
    error: Any, counts: Counter[tuple[str, str | None]], examples: dict[tuple[str, str | None], list[dict[str, Any]]]
) -> None:
    for row in error.failure_cases.iter_rows(named=True):
        column = row.get("column")
        key = (str(row.get("check")), None if column is None else str(column))
        counts[key] += 1
        kept = examples.setdefault(key, [])
        if len(kept) < EXAMPLES:
            kept.append({str(column or "value"): plain(row.get("failure_case"))})


def _unique_over_all(files: Sequence[Path], columns: Sequence[str]) -> list[Finding]:
    """Uniqueness is of the whole, so batches cannot judge it."""
    if not columns:
        return []
    findings = []
    text = not files[0].name.lower().endswith(names.PARQUET)
    with tables.connect() as connection:
        source = tables.relation(list(files), text=text)
        for name in columns:
            there, distinct = tables.one(
                connection, f"SELECT count({quote(name)}), count(DISTINCT {quote(name)}) FROM {source}"
            )
            if there != distinct:
                findings.append(
                    Finding(
                        check="declared",
                        column=name,
                        message=f"{there - distinct} values of {name!r} repeat another",
                        count=there - distinct,
                        blocking=True,
                    )
                )
    return findings
