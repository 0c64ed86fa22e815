"""Parity on a prediction log with planted faults: each is found and called by its name."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from holdfast.backends.engine_duckdb import DuckdbEngine
from holdfast.core import definitions as d
from holdfast.core.errors import BadInput
from holdfast.core.identity import MINUTE
from holdfast.features import parity, point_in_time

START = 1_360_000_000_000_000


def world() -> tuple[d.FeatureService, pa.Table, pa.Table]:
    source = d.Source("s", "s.parquet", timestamp="t")
    view = d.FeatureView("v", [d.Entity("k")], source, [d.Aggregation("x", ["count", "mean"], ["1h"]), d.Field("x")])
    rng = random.Random(1)
    rows = [{"k": rng.randrange(5), "t": START + i * MINUTE, "x": rng.random()} for i in range(600)]
    asked = [START + 300 * MINUTE + i * 3 * MINUTE + 7 for i in range(90)]
    spine = pa.table(
        {
            "k": [i % 6 for i in range(90)],
            "amount": [float(i) for i in range(90)],
            "t": pa.array(asked, pa.timestamp("us", "UTC")),
        }
    )
    return d.FeatureService("svc", [view], request={"amount": float}), pa.Table.from_pylist(rows), spine


def log_of(service: d.FeatureService, engine: DuckdbEngine, source: pa.Table, spine: pa.Table) -> pa.Table:
    features = point_in_time.historical(engine, service, spine, timestamp="t", sources={"s": source})
    columns = {"id": [f"p{i}" for i in range(spine.num_rows)], "request_time": spine["t"].cast(pa.int64())}
    columns |= {f"inputs.{c}": spine[c] for c in ("k", "amount")}
    columns |= {f"features.{c}": features[c].cast(pa.float64()) for c in service.columns()}
    return pa.table(columns)


def test_what_was_served_right_is_equal() -> None:
    service, source, spine = world()
    engine = DuckdbEngine(threads=1)
    report = parity.verify(engine, service, log_of(service, engine, source, spine), {"s": source})
    assert [(e["feature"], e["rows"], e["equal"]) for e in report] == [(c, 90, 90) for c in service.columns()]
    amount = report[-1]
    assert (amount["null_rate"], amount["low"], amount["high"]) == (0.0, 0.0, 89.0)


def test_each_fault_by_its_name() -> None:
    service, source, spine = world()
    engine = DuckdbEngine(threads=1)
    log = log_of(service, engine, source, spine)
    column = "features.v__x_mean_1h"
    values = log[column].to_pylist()
    old_spine = spine.set_column(
        2,
        "t",
        pa.array([t - 15 * MINUTE for t in spine["t"].cast(pa.int64()).to_pylist()]).cast(pa.timestamp("us", "UTC")),
    )
    stale = log_of(service, engine, source, old_spine)[column].to_pylist()
    assert stale[10] != values[10]
    values[3], values[10], values[20] = None, stale[10], 1e6
    assert spine["k"][5].as_py() == 5 and values[5] is None
    values[5] = 0.5  # served although there was nothing
    log = log.set_column(log.column_names.index(column), column, pa.array(values, pa.float64()))
    entry = next(e for e in parity.verify(engine, service, log, {"s": source}) if e["feature"] == "v__x_mean_1h")
    assert (entry["equal"], entry["missing"], entry["stale"], entry["unequal"]) == (86, 1, 1, 2)
    kinds = {e["id"]: e["kind"] for e in entry["examples"]}
    assert kinds == {"p3": "missing", "p5": "unequal", "p10": "stale", "p20": "unequal"}
    assert next(e["lag"] for e in entry["examples"] if e["kind"] == "stale") == 15 * MINUTE
    merged = parity.merge([[entry], [entry]])
    assert (merged[0]["rows"], merged[0]["unequal"], len(merged[0]["examples"])) == (180, 4, 5)


def test_a_log_without_keys_is_refused() -> None:
    service, source, spine = world()
    engine = DuckdbEngine(threads=1)
    log = log_of(service, engine, source, spine).drop(["inputs.k"])
    with pytest.raises(BadInput, match=r"inputs\.k"):
        parity.verify(engine, service, log, {"s": source})


def test_an_empty_log_is_no_report_of_faults() -> None:
    service, source, spine = world()
    engine = DuckdbEngine(threads=1)
    log = log_of(service, engine, source, spine).slice(0, 0)
    assert all(e["rows"] == 0 for e in parity.verify(engine, service, log, {"s": source}))
