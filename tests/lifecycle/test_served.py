"""Features as served, watched: what recomputing does not give, nulls, ranges and staleness become reports and incidents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.core.identity import to_us
from holdfast.core.records import FieldSpec, FileRef, Package
from holdfast.features.lookup import Lookup, compile_plan
from holdfast.features.push import Pusher
from holdfast.lifecycle import ingest, served
from holdfast.monitoring import alerts, report
from holdfast.registry import package, versions
from holdfast.workspace import Workspace

from .project import holdfast

NOW = to_us("2024-03-01T12:00:00Z")
HOUR = 3_600_000_000
DAY = 24 * HOUR
DEFINITIONS = """
import holdfast as hf
events = hf.Source("events", "data/events.parquet", timestamp="at")
view = hf.FeatureView("view", [hf.Entity("k")], events, [hf.Field("x", float), hf.Aggregation("x", ["sum"], ["7d"])], fresh="2d")
features = hf.FeatureService("features", [view])

@hf.model("m", features=features)
def train(data, params):
    return None

shop = hf.Service("shop", model=train, monitor=hf.Monitor(every="1h", window="7d", parity="1d"))
"""


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    (tmp_path / "data").mkdir()
    n = 200
    table = {
        "k": [i % 20 for i in range(n)],
        "at": pa.array([NOW - DAY - i * HOUR // 4 for i in range(n)]).cast(pa.timestamp("us", tz="UTC")),
        "x": [float(i) for i in range(n)],
    }
    pq.write_table(pa.table(table), tmp_path / "data" / "events.parquet")
    with Workspace.open(tmp_path) as workspace:
        ingest.materialize(workspace, start=None, end=NOW - DAY)
        yield workspace


def manifest(ws: Workspace, **more: Any) -> Package:
    """A registered version 1 whose package pins the plan."""
    plan = compile_plan(ws.project().feature_services["features"])
    blob = ws.objects.put(b"model")
    found = Package(
        name="m", format="onnx", task="binary", model_file="m.onnx", request=[], outputs=[], classes=[0, 1], plan=plan,
        inputs=[FieldSpec(name="view__x", dtype="float64", nullable=False, low=0.0, high=500.0), FieldSpec(name="view__x_sum_7d", dtype="float64")],
        files={"m.onnx": FileRef(sha256=blob, size=5)}, **more,
    )  # fmt: skip
    versions.create(ws.ledger, "m", content=package.store(ws.objects, found), run_id=None, at=1, actor="t")
    return found


def log(ws: Workspace, n: int, *, at: int, change: Any = lambda row: row) -> pa.Table:
    """A prediction log whose features came from the online store, then ``change``d."""
    lookup = Lookup(compile_plan(ws.project().feature_services["features"]), ws.online)
    rows = []
    for i in range(n):
        found = lookup.rows([{"k": i % 20}], at=[at - i])[0]
        rows.append(
            {
                "id": f"p{at}-{i}",
                "request_time": at - i,
                "version": 1,
                "arm": "champion",
                "inputs.k": i % 20,
                **{f"features.{c}": v for c, v in found.items()},
            }
        )
    return pa.Table.from_pylist([change(r) for r in rows])


def turn(ws: Workspace, about: Package, rows: pa.Table, now: int, **more: Any) -> dict[str, report.Report]:
    service = ws.project().services["shop"]
    return {r.kind: r for r in served.watch(ws, service, about, rows, version=1, now=now, **more)}


def things(ws: Workspace) -> list[str]:
    return sorted(i.thing for i in alerts.incidents(ws.ledger, "shop", resolved=False))


def test_what_was_served_right_is_said_to_be(ws: Workspace) -> None:
    about = manifest(ws)
    found = turn(ws, about, log(ws, 300, at=NOW - 1), NOW)
    assert {k: r.outcome for k, r in found.items()} == {"features": "ok", "parity": "ok"}
    assert found["parity"].rows == 300 and {s.value for s in found["parity"].signals} == {0.0}
    assert {(s.family, s.name) for s in found["features"].signals} == {
        ("nulls", "view__x"), ("range", "view__x"), ("nulls", "view__x_sum_7d"), ("freshness", "view"),
    }  # fmt: skip
    assert things(ws) == []


def test_one_unequal_value_alarms_and_names_the_prediction(ws: Workspace) -> None:
    about = manifest(ws)

    def wrong(row: dict[str, Any]) -> dict[str, Any]:
        more = 1.0 if row["id"].endswith("-7") else 0.0
        return {**row, "features.view__x_sum_7d": row["features.view__x_sum_7d"] + more}

    found = turn(ws, about, log(ws, 300, at=NOW - 1, change=wrong), NOW)["parity"]
    assert found.outcome == "alarm" and [s.name for s in found.signals if s.alarm] == ["view__x_sum_7d"]
    assert "-7 was served" in next(s.message for s in found.signals if s.alarm)
    assert things(ws) == ["parity"]
    assert turn(ws, about, log(ws, 300, at=NOW + 2 * HOUR), NOW + 2 * HOUR + 1).keys() == {"features"}  # not due
    assert turn(ws, about, log(ws, 300, at=NOW + DAY - 1), NOW + DAY)["parity"].outcome == "ok"
    assert things(ws) == []


def test_a_store_that_lags_behind_alarms_when_clearly_more_than_a_little_is_stale(ws: Workspace) -> None:
    about = manifest(ws)
    before = log(ws, 300, at=NOW - 1)
    with Pusher(
        ws.home, ws.online, list(ws.project().views.values())
    ) as pusher:  # known before the requests, served after
        rows = [{"k": k, "at": NOW - HOUR, "x": 7.5} for k in range(20)]
        pusher.push("events", rows, arrived=NOW - HOUR)
    found = turn(ws, about, before, NOW)["parity"]
    signal = next(s for s in found.signals if s.name == "view__x")
    assert found.outcome == "alarm" and signal.alarm and "300 stale" in signal.message


def test_nulls_and_age_page_and_ranges_are_only_told(ws: Workspace) -> None:
    about = manifest(ws)
    far = lambda r: {**r, "features.view__x": 900.0}  # noqa: E731
    found = turn(ws, about, log(ws, 300, at=NOW - 1, change=far), NOW)["features"]
    assert [s.family for s in found.signals if s.alarm] == ["range"]
    assert "features" in things(ws) and not [m for m in alerts.waiting(ws.ledger) if "features" in m.title]
    later = NOW + 3 * DAY
    empty = lambda r: {**r, "features.view__x": None}  # noqa: E731
    found = turn(ws, about, log(ws, 300, at=later - 1, change=empty), later)["features"]
    assert {s.family for s in found.signals if s.alarm} == {"nulls", "freshness"}
    assert "the newest row is of 2024-02-29T12:00:00Z" in next(
        s.message for s in found.signals if s.family == "freshness"
    )


def test_freshness_is_of_what_serving_can_see_pushes_included(ws: Workspace) -> None:
    about = manifest(ws)
    later = NOW + 3 * DAY
    with Pusher(ws.home, ws.online, list(ws.project().views.values())) as pusher:
        pusher.push("events", [{"k": 1, "at": later - HOUR, "x": 7.0}], arrived=later - HOUR)
    signal = next(
        s for s in turn(ws, about, log(ws, 40, at=later - 1), later)["features"].signals if s.family == "freshness"
    )
    assert not signal.alarm and signal.value == 3600.0


def test_what_the_log_does_not_keep_is_not_judged(ws: Workspace) -> None:
    about = manifest(ws)
    masked = lambda r: {**r, "features.view__x": None}  # noqa: E731
    found = turn(ws, about, log(ws, 300, at=NOW - 1, change=masked), NOW, redacted={"view__x"})
    assert {r.outcome for r in found.values()} == {"ok"}
    assert "view__x" not in {s.name for r in found.values() for s in r.signals}
    assert "parity" not in turn(ws, about, log(ws, 300, at=NOW + 2 * DAY), NOW + 2 * DAY + 1, redacted={"k"})


def test_a_check_that_cannot_be_made_is_an_incident_and_no_error(ws: Workspace) -> None:
    about = manifest(ws)
    rows = log(ws, 300, at=NOW - 1)
    (ws.root / "data" / "events.parquet").unlink()
    assert turn(ws, about, rows, NOW) == {} and things(ws) == ["features cannot be checked"]
    assert "events.parquet" in alerts.incidents(ws.ledger, "shop")[0].text


def test_the_newest_report_is_shown(ws: Workspace) -> None:
    turn(ws, manifest(ws), log(ws, 50, at=NOW - 1), NOW)
    said = json.loads(holdfast(ws.root, "monitor", "parity", "shop", "--json").stdout)
    assert said["kind"] == "parity" and said["rows"] == 50
    assert "view__x_sum_7d" in holdfast(ws.root, "monitor", "features", "shop").stdout
