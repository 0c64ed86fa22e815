"""One small world, both sides: served in time order, rebuilt offline, equal."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from holdfast.backends.engine_duckdb import DuckdbEngine
from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.core import definitions as d
from holdfast.core.errors import BadInput
from holdfast.core.identity import HOUR, MINUTE
from holdfast.features import lookup, point_in_time, push

START = 1_360_000_000_000_000


def hour_sin(hour: Any) -> Any:
    return np.sin(hour / 24 * 2 * np.pi)


def ratio(hour: Any, by_origin__delay_mean_3h: Any) -> Any:
    return by_origin__delay_mean_3h / (hour + 1)


def world() -> d.FeatureService:
    arrivals = d.Source("arrivals", "arrivals.parquet", timestamp="landed", arrival="known")
    planes = d.Source("planes", "planes.csv")
    origin, plane = d.Entity("origin"), d.Entity("plane", ["tailnum"])
    functions = ["mean", "count", "max", "min", "std", "last", "first", "distinct", "sum"]
    views = [
        d.FeatureView("by_origin", [origin], arrivals, [d.Aggregation("delay", functions, ["3h", "1d", "7d"])]),
        d.FeatureView("by_tail", [plane], arrivals, [d.Aggregation("delay", ["mean", "count"], ["7d"], where="delay > 0"), d.Field("delay")], ttl="2d"),
        d.FeatureView("plane_facts", [plane], planes, [d.Field("year", int), d.Field("maker", str)]),
    ]  # fmt: skip
    return d.FeatureService("svc", [*views, d.on_demand(hour_sin), d.on_demand(ratio)], request={"hour": int})


def rows_and_spine(seed: int, events: int, questions: int) -> tuple[list[dict[str, Any]], pa.Table, pa.Table]:
    rng = random.Random(seed)
    rows = []
    for i in range(events):
        t = START + rng.randrange(20 * 24 * 60) * MINUTE
        rows.append({
            "id": i, "landed": t, "known": t + rng.randrange(15) * MINUTE, "origin": rng.choice(["JFK", "LGA", "EWR"]),
            "tailnum": rng.choice([None, *(f"N{k}" for k in range(100))]), "delay": rng.choice([None, 1.0 * rng.randrange(-20, 90)]),
        })  # fmt: skip
    planes = pa.table(
        {"tailnum": [f"N{k}" for k in range(80)], "year": [2000 + k % 10 for k in range(80)], "maker": ["A"] * 80}
    )
    n = questions
    spine = pa.table({
        "flight": range(n), "hour": [i % 24 for i in range(n)],
        "t": pa.array([START + rng.randrange(22 * 24) * HOUR for _ in range(n)], pa.timestamp("us", "UTC")),
        "tailnum": [rng.choice([None, "zz", *(f"N{k}" for k in range(100))]) for _ in range(n)],
        "origin": [rng.choice(["JFK", "LGA", "EWR", "XXX"]) for _ in range(n)],
    })  # fmt: skip
    return rows, planes, spine


@pytest.mark.parametrize("seed", [1, 2])
def test_served_in_time_order_equals_the_training_set(tmp_path: Path, seed: int) -> None:
    service = world()
    rows, planes, spine = rows_and_spine(seed, 4_000, 300)
    engine = DuckdbEngine()
    wanted = point_in_time.historical(
        engine, service, spine, timestamp="t", sources={"arrivals": pa.Table.from_pylist(rows), "planes": planes}
    )
    assert wanted.column_names == [*spine.column_names, *(c for c in service.columns() if c not in spine.column_names)]
    assert wanted.select(spine.column_names).equals(spine)
    with EmbeddedOnlineStore(tmp_path / "online") as online, push.Pusher(tmp_path, online, service.views) as pusher:
        pusher.push("planes", planes, arrived=0)
        served = lookup.Lookup(lookup.compile_plan(service), online)
        rows.sort(key=lambda r: r["known"])
        at = spine["t"].cast(pa.int64()).to_pylist()
        done = 0
        for i in sorted(range(spine.num_rows), key=at.__getitem__):
            before = done
            while done < len(rows) and rows[done]["known"] <= at[i]:
                done += 1
            pusher.push("arrivals", rows[before:done], arrived=at[i])
            request = {c: spine[c][i].as_py() for c in ("tailnum", "origin", "hour")}
            got = served.rows([request], at=[at[i]])[0]
            assert list(got) == service.columns()
            for column, value in got.items():
                expected = wanted[column][i].as_py()
                if isinstance(value, float) and isinstance(expected, float):
                    assert value == pytest.approx(expected, rel=1e-9, abs=1e-9), (i, column)
                else:
                    assert value == expected and type(value) is type(expected), (i, column)
        pusher.push("arrivals", rows[done:], arrived=START)
    landed = push.landed(tmp_path, "arrivals")
    again = point_in_time.historical(
        engine, service, spine, timestamp="t", sources={"arrivals": landed, "planes": planes}
    )
    assert again.equals(wanted)


def test_a_key_beyond_64_bits_is_refused(tmp_path: Path) -> None:
    view = d.FeatureView("v", [d.Entity("k")], d.Source("s", "s.parquet", timestamp="t"), [d.Field("x", float)])
    with (
        EmbeddedOnlineStore(tmp_path / "online", map_size=1 << 24) as online,
        push.Pusher(tmp_path, online, [view]) as pusher,
    ):
        pusher.push("s", [{"k": 2**63 - 1, "t": 1, "x": 1.0}], arrived=1)
        table = lookup.Lookup(lookup.compile_plan(d.FeatureService("s", [view])), online)
        assert table.rows([{"k": 2**63 - 1}, {"k": None}], at=[5, 5]) == [{"v__x": 1.0}, {"v__x": None}]
        with pytest.raises(BadInput, match="64 bits"):
            table.rows([{"k": 2**70}], at=[5])
