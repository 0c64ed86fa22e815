"""Keys that are SQL expressions: the same entities offline, materialized, pushed, and after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from holdfast.backends.engine_duckdb import DuckdbEngine
from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.core import definitions as d
from holdfast.core.errors import BadData, BadDefinition, BadInput, HoldfastError
from holdfast.features import journal, materialize, point_in_time
from holdfast.features.lookup import Lookup, compile_plan
from holdfast.features.push import Pusher, landed

INSTANT = pa.timestamp("us", tz="UTC")
flights = d.Source("flights", "f.parquet", timestamp="t")
FEATURES = [d.Field("delay", float), d.Aggregation("delay", ["count", "max"], ["1h"], where="delay > 0")]


def by(sql: str = "origin || '-' || dest", name: str = "route", source: d.Source = flights) -> d.FeatureView:
    return d.FeatureView("by", [d.Entity("carrier"), d.Entity(name)], source, FEATURES, keys={name: sql})


def event(n: int, origin: str | None, dest: str | None, **more: Any) -> dict[str, Any]:
    return {"t": n, "carrier": 1, "origin": origin, "dest": dest, "delay": float(n), **more}


ROWS = [event(n, "JFK" if n % 2 else "LGA", [None, "SFO", "BOS"][n % 3]) for n in range(1, 30)]


def table(rows: list[dict[str, Any]]) -> pa.Table:
    found = pa.Table.from_pylist(rows)
    return found.set_column(0, "t", found.column("t").cast(INSTANT))


@pytest.fixture
def online(tmp_path: Path) -> Iterator[EmbeddedOnlineStore]:
    with EmbeddedOnlineStore(tmp_path / "online", map_size=1 << 26) as store:
        yield store


def served(online: EmbeddedOnlineStore, view: d.FeatureView, routes: list[Any]) -> list[dict[str, Any]]:
    lookup = Lookup(compile_plan(d.FeatureService("s", [view])), online)
    return lookup.rows([{"carrier": 1, "route": r} for r in routes], at=[100] * len(routes))


ROUTES = ["JFK-SFO", "JFK-BOS", "LGA-SFO", "LGA-BOS", "JFK-", "nowhere", None]


def trained(view: d.FeatureView, source: Any) -> list[dict[str, Any]]:
    spine = pa.table(
        {"carrier": [1] * len(ROUTES), "route": ROUTES, "now": pa.array([100] * len(ROUTES)).cast(INSTANT)}
    )
    got = point_in_time.historical(
        DuckdbEngine(threads=1), d.FeatureService("s", [view]), spine, timestamp="now", sources={"flights": source}
    )
    return got.select(view.columns()).to_pylist()


def test_files_pushes_and_restarts_agree(tmp_path: Path, online: EmbeddedOnlineStore) -> None:
    view = by()
    materialize.run(
        online, DuckdbEngine(threads=1), [view], {"flights": table(ROWS)}, start=None, end=100, chunk_rows=5
    )
    wanted = trained(view, table(ROWS))
    assert wanted[0] == {"by__delay": 25.0, "by__delay_count_1h": 5, "by__delay_max_1h": 25.0}
    assert wanted[-1] == {"by__delay": None, "by__delay_count_1h": 0, "by__delay_max_1h": None}
    assert served(online, view, ROUTES) == wanted
    online.clear()
    with Pusher(tmp_path, online, [view]) as pusher:
        pusher.push("flights", ROWS[:20], arrived=40)
        for row in ROWS[20:]:
            pusher.push("flights", [row], arrived=40)
    assert served(online, view, ROUTES) == trained(view, landed(tmp_path, "flights")) == wanted
    online.clear()
    with Pusher(tmp_path, online, [view]):
        assert served(online, view, ROUTES) == wanted
    assert list(pa.parquet.read_table(landed(tmp_path, "flights")[0]).column_names) == [*ROWS[0], "__arrived"]


def test_everybody_as_of_a_time(tmp_path: Path) -> None:
    got = point_in_time.as_of(
        DuckdbEngine(threads=1), d.FeatureService("s", [by()]), 100, sources={"flights": table(ROWS)}
    )
    assert got.column("route").to_pylist() == ["JFK-BOS", "JFK-SFO", "LGA-BOS", "LGA-SFO"]


@pytest.mark.parametrize("sql", ["(t IS NULL)", "length(origin)", "lower(origin) -- in small letters", "origin"])
def test_whole_numbers_text_and_booleans_can_be_keys(tmp_path: Path, online: EmbeddedOnlineStore, sql: str) -> None:
    view = by(sql)
    with Pusher(tmp_path, online, [view]) as pusher:
        pusher.push("flights", ROWS, arrived=40)
    key = {"(t IS NULL)": False, "length(origin)": 3, "origin": "JFK"}.get(sql, "jfk")
    spine = pa.table({"carrier": [1], "route": [key], "now": pa.array([100]).cast(INSTANT)})
    service = d.FeatureService("s", [view])
    got = point_in_time.historical(
        DuckdbEngine(threads=1), service, spine, timestamp="now", sources={"flights": table(ROWS)}
    )
    assert served(online, view, [key]) == got.select(view.columns()).to_pylist()
    with pytest.raises(BadInput, match="'route'"):  # the type was learned
        served(online, view, [2.5])


@pytest.mark.parametrize(
    ("sql", "error"),
    [("delay", BadInput), ("t", BadInput), ("nothing", BadDefinition), ("origin ||", BadDefinition), ("CAST(origin AS INT)", HoldfastError)],
)  # fmt: skip
def test_what_cannot_be_a_key_is_refused_on_both_sides_and_nothing_taken(
    tmp_path: Path, online: EmbeddedOnlineStore, sql: str, error: type[HoldfastError]
) -> None:
    view = by(sql)
    with pytest.raises(error):
        trained(view, table(ROWS))
    with Pusher(tmp_path, online, [view]) as pusher:
        with pytest.raises(BadInput):
            pusher.push("flights", ROWS[:1], arrived=1)
        with pytest.raises(BadInput):
            pusher.push("flights", ROWS, arrived=1)
        assert list(journal.read(tmp_path / "features" / "journal")) == []


def test_rows_pushed_before_the_column_was_declared_have_no_key(tmp_path: Path, online: EmbeddedOnlineStore) -> None:
    plain = d.FeatureView("plain", [d.Entity("carrier")], flights, [d.Field("delay", float)])
    wider = d.Source(
        "flights", "f.parquet", timestamp="t", schema={"carrier": int, "origin": str, "dest": str, "delay": float}
    )
    with Pusher(tmp_path, online, [plain]) as pusher:
        pusher.push("flights", [{"t": 1, "carrier": 1, "delay": 1.0}], arrived=1)
        pusher.follow([by(source=wider)])
        pusher.push("flights", [event(2, "JFK", "SFO")], arrived=2)
        assert served(online, by(source=wider), ["JFK-SFO"])[0]["by__delay_count_1h"] == 1


def test_a_refused_push_teaches_no_type(tmp_path: Path, online: EmbeddedOnlineStore) -> None:
    plain = d.FeatureView("plain", [d.Entity("carrier")], flights, [d.Field("delay", float)])
    with Pusher(tmp_path, online, [plain, by("CAST(origin AS INT)")]) as pusher:
        with pytest.raises(BadData):
            pusher.push("flights", [event(1, "JFK", "SFO", carrier="AA")], arrived=1)
        assert pusher.push("flights", [event(1, "7", "SFO")], arrived=1) == 1
