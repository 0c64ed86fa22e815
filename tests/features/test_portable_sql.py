"""The SQL made for views is portable: every statement of a varied set parses as DuckDB's and is written for Spark by
sqlglot, which then parses what it wrote. What does not travel is listed here, by name, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from holdfast.backends.engine_duckdb import DuckdbEngine
from holdfast.core import definitions as d
from holdfast.features.source_sql import ViewQuery
from holdfast.features.windows import view_plan

sqlglot = pytest.importorskip("sqlglot")

NOT_CARRIED = {
    "hash": "the 64-bit content hash that tells repeats apart: Spark's xxhash64 gives other numbers, compared only within one engine",
    "epoch_ns": "Spark keeps microseconds, and has no nanosecond instants to floor",
    "error": "a value that does not fit is refused: Spark's raise_error",
    "epoch_us": "an instant as microseconds: Spark's unix_micros",
}
"""DuckDB's own functions in the statements, and what the Spark engine has to put in their place."""

SPARKS_OWN = {"timestamp_micros"}
"""What sqlglot writes for Spark and does not know when it reads it."""

INSTANT = pa.timestamp("us", tz="UTC")
TABLE = pa.table({
    "k": [1, 2, 3], "word": ["a", "b", None], "flag": [True, False, None], "day": pa.array([1, 2, 3], pa.int32()).cast(pa.date32()),
    "at": pa.array([1, 2, 3]).cast(INSTANT),
    "nano": pa.array([1, 2, 3]).cast(pa.timestamp("ns")), "naive": pa.array([1, 2, 3]).cast(pa.timestamp("us")),
    "micros": [1, 2, 3], "text": ["2024-01-01", None, "2024-01-02"], "n": pa.array([1, 2, 3], pa.int32()), "x": [1.5, None, 2.5],
    "big": pa.array([1, 2, 3], pa.uint64()),
    'we"ird name': [1.0, 2.0, 3.0],
})  # fmt: skip


def views() -> Iterator[d.FeatureView]:
    times = ["at", "nano", "naive", "micros", "text", "day", None]
    fields = [
        d.Field("x", float), d.Field("n", int), d.Field("big", int), d.Field("word", str), d.Field("flag", bool),
        d.Field("seen", "timestamp", "naive"), d.Field("odd", float, 'we"ird name'),
    ]  # fmt: skip
    windows = [
        d.Aggregation("x", ["count", "sum", "std", "last"], ["1h", "30d"], where="n > 1 AND word IN ('a', 'b')"),
        d.Aggregation("word", ["distinct", "min", "approx_distinct"], ["1d"], name="words"),
        d.Aggregation("x", ["mean"], ["1d"], where="x BETWEEN 0 AND 10 OR lower(word) LIKE 'a%'", name="some"),
    ]
    for number, (time, keys, late, parts) in enumerate(
        itertools.product(
            times, (["k"], ["k", "word"], ["flag"]), (False, True), (fields, windows, [*fields, *windows])
        )
    ):
        if time is None and (late or parts is not fields):
            continue
        source = d.Source(
            "s", "s", timestamp=time, arrival="naive" if late else None, sequence="n" if number % 2 else None
        )
        yield d.FeatureView(f"v{number}", [d.Entity("e", keys)], source, parts, ttl="1d" if number % 3 else None)


def statements(engine: DuckdbEngine) -> Iterator[str]:
    for number, view in enumerate(views()):
        plan = view_plan(view)
        query = ViewQuery(engine, plan, TABLE)  # files are the engine's own door: read_parquet here, parquet.`…` there
        shapes = ((None, None, False), (0, 10**15, False), (None, 10**15, True))
        for since, until, keys in shapes if number < 6 else shapes[number % 3 :][:1]:
            yield query.select(since=since, until=until, keys=keys)


def functions(tree: Any) -> set[str]:
    """The names of functions that sqlglot knows nothing of: it passes them through as they are."""
    return {node.name.lower() for node in tree.find_all(sqlglot.exp.Anonymous)}


def test_every_statement_travels_but_for_what_is_named() -> None:
    engine = DuckdbEngine(threads=1)
    seen: set[str] = set()
    count = 0
    for statement in statements(engine):
        tree = sqlglot.parse_one(statement, read="duckdb")
        spark = tree.sql(dialect="spark", unsupported_level=sqlglot.ErrorLevel.RAISE)
        again = sqlglot.parse_one(spark, read="spark")
        seen |= functions(again)
        assert not list(tree.find_all(sqlglot.exp.Window, sqlglot.exp.Pivot, sqlglot.exp.Lateral)), statement
        joins = list(tree.find_all(sqlglot.exp.Join))
        assert all(isinstance(c, sqlglot.exp.EQ | sqlglot.exp.And) for j in joins for c in [j.args["on"]]), (
            statement
        )  # equality only
        count += 1
    assert count > 90
    assert seen - SPARKS_OWN == set(NOT_CARRIED)
