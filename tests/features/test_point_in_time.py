"""What people get wrong with spines and sources, and what each message tells them; types, zones, keys kept exactly."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pytest

from holdfast.backends.engine_duckdb import DuckdbEngine
from holdfast.core import definitions as d
from holdfast.core.errors import BadData, BadInput, NotFound
from holdfast.features import point_in_time

UTC = pa.timestamp("us", tz="UTC")
source = d.Source("s", "s.parquet", timestamp="t")
view = d.FeatureView(
    "v", [d.Entity("k")], source, [d.Field("x"), d.Field("n", int), d.Aggregation("x", ["count"], ["1h"])]
)
service = d.FeatureService("svc", [view])
BIG = 2**53


@pytest.fixture(scope="module")
def engine() -> DuckdbEngine:
    return DuckdbEngine(threads=1)


def rows(**columns: Any) -> pa.Table:
    base = {
        "k": pa.array([BIG, BIG + 1]),
        "t": pa.array([10, 20], UTC),
        "x": [0.5, math.nan],
        "n": pa.array([BIG + 1, None], pa.int64()),
    }
    return pa.table({**base, **columns})


def ask(engine: DuckdbEngine, spine: pa.Table, data: Any, timestamp: str | None = "t") -> pa.Table:
    return point_in_time.historical(engine, service, spine, timestamp=timestamp, sources={"s": data})


def test_64_bit_keys_nullable_integers_and_order_are_exact(engine: DuckdbEngine) -> None:
    spine = pa.table(
        {
            "z": ["c", "b", "a", "c"],
            "t": pa.array([30, 30, 9, 10], UTC),
            "k": pa.array([BIG + 1, None, BIG, BIG], pa.int64()),
        }
    )
    got = ask(engine, spine, rows())
    assert got.column_names == ["z", "t", "k", "v__x", "v__n", "v__x_count_1h"]
    assert got.select(["z", "t", "k"]).equals(spine)
    assert got["v__x"].to_pylist() == [None, None, None, 0.5]
    assert got["v__n"].to_pylist() == [None, None, None, BIG + 1]
    assert got["v__x_count_1h"].to_pylist() == [0, 0, 0, 1]
    assert got["v__n"].type == pa.int64()


@pytest.mark.parametrize(
    ("spine", "timestamp", "says"),
    [
        (pa.table({"k": [1]}), None, "--as-of"),
        (pa.table({"k": [1]}), "when", "--as-of"),
        (pa.table({"t": pa.array([1], UTC)}), "t", "no key column 'k'"),
        (pa.table({"k": [1], "t": pa.array([None], UTC)}), "t", "row 0"),
        (pa.table({"k": ["1"], "t": pa.array([1], UTC)}), "t", "string in the spine and int64"),
        (pa.table({"k": [1.0], "t": pa.array([1], UTC)}), "t", "Int64"),
        (pa.table({"k": [1], "t": ["soon"]}), "t", "not an instant"),
        (pa.table({"k": [1], "t": [True]}), "t", "not a column of instants"),
    ],
)
def test_mistakes_in_the_spine_are_named(
    engine: DuckdbEngine, spine: pa.Table, timestamp: str | None, says: str
) -> None:
    with pytest.raises(BadInput) as caught:
        ask(engine, spine, rows(), timestamp)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (rows().drop_columns(["x"]), "'x'"),
        (rows().drop_columns(["t"]), "'t'"),
        (rows(x=["a", "b"]), "VARCHAR, not float64"),
        (rows(n=[1.5, 2.0]), "not an int64"),
        ([Path("/nowhere/s.parquet")], "s.parquet"),
        ([], "no files"),
    ],
)
def test_mistakes_in_the_source_are_named(engine: DuckdbEngine, data: Any, says: str) -> None:
    spine = pa.table({"k": [BIG], "t": pa.array([30], UTC)})
    with pytest.raises((BadData, BadInput, NotFound)) as caught:
        ask(engine, spine, data)
    assert says in str(caught.value)


def test_naive_times_are_utc_with_a_notice(engine: DuckdbEngine) -> None:
    spine = pa.table({"k": [BIG], "t": pa.array([10], pa.timestamp("us"))})
    with pytest.warns(point_in_time.Notice, match="UTC"):
        got = ask(engine, spine, rows())
    assert got["v__x"].to_pylist() == [0.5]


def test_an_empty_spine_and_an_empty_source(engine: DuckdbEngine) -> None:
    spine = pa.table({"k": [BIG], "t": pa.array([30], UTC)})
    assert ask(engine, spine.slice(0, 0), rows()).num_rows == 0
    got = ask(engine, spine, rows().slice(0, 0)).to_pylist()[0]
    assert (got["v__x"], got["v__n"], got["v__x_count_1h"]) == (None, None, 0)


def test_csv_and_parquet_give_the_same(engine: DuckdbEngine, tmp_path: Path) -> None:
    clean = rows(x=[0.5, 2.0], n=pa.array([5, 6]))
    pacsv.write_csv(clean, tmp_path / "s.csv")
    spine = pa.table({"k": [BIG, BIG + 1], "t": pa.array([30, 30], UTC)})
    assert ask(engine, spine, [tmp_path / "s.csv"]).equals(ask(engine, spine, clean))


def test_all_entities_as_of_an_instant(engine: DuckdbEngine) -> None:
    got = point_in_time.as_of(engine, service, 15, sources={"s": rows()})
    assert got.select(["k", "v__x", "v__x_count_1h"]).to_pylist() == [{"k": BIG, "v__x": 0.5, "v__x_count_1h": 1}]
    both = point_in_time.as_of(engine, service, 20, sources={"s": rows()})
    assert both["k"].to_pylist() == [BIG, BIG + 1]
    other = d.FeatureView("w", [d.Entity("j")], d.Source("o", "o.parquet"), [d.Field("y")])
    with pytest.raises(BadInput, match="different keys"):
        point_in_time.as_of(engine, d.FeatureService("two", [view, other]), 15, sources={"s": rows()})


def test_hostile_names_stay_names(engine: DuckdbEngine, tmp_path: Path) -> None:
    folder = tmp_path / "it's; DROP TABLE x --"
    folder.mkdir()
    import pyarrow.parquet as pq

    column = 'x"; DROP TABLE s; --'
    pq.write_table(pa.table({"k": [1], "t": pa.array([1], UTC), column: [7.0]}), folder / "s.parquet")
    hostile = d.FeatureView("v", [d.Entity("k")], source, [d.Field("x", float, column=column)])
    spine = pa.table({"k": [1], "t": pa.array([1], UTC)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = point_in_time.historical(
            engine, d.FeatureService("h", [hostile]), spine, timestamp="t", sources={"s": [folder / "s.parquet"]}
        )
    assert got["v__x"].to_pylist() == [7.0]


def test_kept_events_of_entities_nobody_asks_for_stay_apart(engine: DuckdbEngine, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    n = 600
    data = {"k": [i % 50 for i in range(n)], "t": pa.array([1000 + i * 7919 % n for i in range(n)], UTC)}
    pq.write_table(pa.table({**data, "x": [float(i) for i in range(n)], "n": list(range(n))}), tmp_path / "s.parquet")
    spine = pa.table({"k": [7, 20, 33, 49] * 25, "t": pa.array([990 + i * 7 for i in range(100)], UTC)})
    got = [
        point_in_time.historical(
            engine, service, spine, timestamp="t", sources={"s": [tmp_path / "s.parquet"]}, cache=cache
        )
        for cache in (None, tmp_path / "cache", tmp_path / "cache")
    ]
    assert list((tmp_path / "cache").glob("*/about.json"))
    assert 0 < got[0]["v__x"].null_count < 60
    assert got[1].equals(got[0]) and got[2].equals(got[0])
