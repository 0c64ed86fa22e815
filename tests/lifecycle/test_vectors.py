"""hf.get_historical_features and hf.get_online_features, as a notebook uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import holdfast as hf
from holdfast.core.errors import BadInput, NotFound
from holdfast.core.identity import DAY, to_us
from holdfast.lifecycle import live
from holdfast.workspace import Workspace

NOW = to_us("2024-03-01T12:00:00Z")
BIG = 2**53 + 1
DEFINITIONS = """
import holdfast as hf
events = hf.Source("events", "events.parquet", timestamp="at", schema={"k": int, "n": int, "ok": bool})
view = hf.FeatureView("view", [hf.Entity("k")], events, [hf.Field("n", int), hf.Field("ok", bool), hf.Aggregation("n", ["count"], ["1d"])])

@hf.on_demand
def twice(amount):
    return 2 * amount

plain = hf.FeatureService("plain", [view, twice], request={"amount": float})
bare = hf.FeatureService("bare", [view])
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    at = pa.array([NOW - 5, NOW - 3, NOW - 2 * DAY]).cast(pa.timestamp("us", tz="UTC"))
    rows = {"k": [1, BIG, 1], "at": at, "n": [7, BIG + 2, 5], "ok": [True, None, False]}
    pq.write_table(pa.table(rows), tmp_path / "events.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


SPINE: dict[str, Any] = {
    "event_timestamp": pd.to_datetime([NOW, NOW - DAY, NOW], unit="us", utc=True),
    "k": [BIG, 1, 2],
    "amount": [1.0, 2.0, 3.0],
}
WANTED = {"view__n": [BIG + 2, 5, None], "view__ok": [None, False, None], "view__n_count_1d": [1, 0, 0], "twice": [2.0, 4.0, 6.0]}  # fmt: skip


def test_pandas_in_pandas_out() -> None:
    spine = pd.DataFrame(SPINE, index=[9, 3, 5])
    found = hf.get_historical_features("plain", spine)
    pd.testing.assert_frame_equal(found[list(SPINE)], spine)
    for name, values in WANTED.items():
        assert [None if pd.isna(v) else v for v in found[name]] == values
    assert found["view__n"].dtype == "Int64" and found["view__ok"].dtype == "boolean"


def test_polars_in_polars_out() -> None:
    spine = pl.DataFrame({**SPINE, "event_timestamp": [NOW, NOW - DAY, NOW]}).rename({"event_timestamp": "when"})
    found = hf.get_historical_features("plain", spine, timestamp="when")
    assert isinstance(found, pl.DataFrame) and found.select(spine.columns).equals(spine)
    assert found.select(list(WANTED)).to_dict(as_series=False) == WANTED


def test_arrow_and_lists() -> None:
    table = pa.table({**SPINE, "event_timestamp": pa.array(SPINE["event_timestamp"])})
    found = hf.get_historical_features("plain", table)
    assert found.select(table.column_names).equals(table) and found.select(list(WANTED)).to_pydict() == WANTED
    listed = hf.get_historical_features("plain", table.to_pylist())
    assert listed.select(list(WANTED)).to_pydict() == WANTED


def test_a_service_itself_and_all_entities() -> None:
    with Workspace.open() as ws:
        service = ws.project().feature_services["bare"]
    found = hf.get_historical_features(service, as_of="2024-03-01T12:00:00Z")
    assert found.select(["k", "view__n"]).to_pydict() == {"k": [1, BIG], "view__n": [7, BIG + 2]}


def test_online_after_materialization() -> None:
    from holdfast.lifecycle import ingest

    with Workspace.open() as ws:
        ingest.materialize(ws, start=None, end=NOW)
        assert len(live.views(ws)) == 1
    found = hf.get_online_features("plain", [{"k": BIG, "amount": 1.0}, {"k": 2, "amount": 3.0}], at=NOW)
    assert found == [
        {"view__n": BIG + 2, "view__ok": None, "view__n_count_1d": 1, "twice": 2.0, "amount": 1.0},
        {"view__n": None, "view__ok": None, "view__n_count_1d": 0, "twice": 6.0, "amount": 3.0},
    ]
    assert hf.get_online_features("plain", []) == []


def test_what_cannot_be_used_is_named() -> None:
    with pytest.raises(NotFound, match="plane"):
        hf.get_historical_features("plane", pd.DataFrame(SPINE))
    with pytest.raises(BadInput) as none:
        hf.get_historical_features("plain", pd.DataFrame(SPINE).drop(columns="event_timestamp"))
    assert "as-of" in str(none.value)
    for spine, at in ((None, None), (pd.DataFrame(SPINE), NOW)):
        with pytest.raises(BadInput, match="either a spine or an instant"):
            hf.get_historical_features("plain", spine, as_of=at)
    with pytest.raises(BadInput, match="needs amount from each request"):
        hf.get_historical_features("plain", as_of=NOW)
    for spine in (5, "rows.parquet", [1, 2]):
        with pytest.raises(BadInput, match="not a table"):
            hf.get_historical_features("plain", spine)
    with pytest.raises(BadInput, match="amount"):
        hf.get_online_features("plain", [{"k": 1}])
    for rows in ("k", {"k": 1}, [1], None, 7):
        with pytest.raises(BadInput, match="list of dicts"):
            hf.get_online_features("plain", rows)  # type: ignore[arg-type]
