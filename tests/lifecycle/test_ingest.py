"""Queries as sources, on SQLite and PostgreSQL: pulled, pinned, and the same in training, serving and parity; and what is
materialized is what was admitted."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from holdfast.core.errors import BadConfig, BadData, NotFound, Unavailable
from holdfast.core.identity import to_us
from holdfast.features import parity, point_in_time
from holdfast.features.lookup import Lookup, compile_plan
from holdfast.features.push import Pusher
from holdfast.lifecycle import build, ingest, sources
from holdfast.workspace import Workspace

from .project import holdfast

POSTGRES = os.environ.get("HOLDFAST_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/test")
SECRET = "hunter2-of-the-shop"
NOW = to_us("2024-03-01T00:00:00Z")

DEFINITIONS = """
import holdfast as hf

orders = hf.Source("orders", url="${SHOP_URL}", timestamp="at", arrival="known",
    query="SELECT id, customer, at, known, amount, note, price, late FROM orders ORDER BY id")
customer = hf.Entity("customer", ["customer"])
activity = hf.FeatureView("activity", [customer], orders, [
    hf.Aggregation("amount", ["count", "sum"], ["7d", "30d"]), hf.Field("note", str), hf.Field("price", float)], ttl="60d", owner="shop")
features = hf.FeatureService("features", [activity])

@hf.model("m", features=features, spine=orders, label=hf.Label(orders, "late", key="id", matures="1d"), split=hf.TimeSplit(test=0.2))
def train(data, params):
    return None

hf_service = hf.Service("shop", model=train)
"""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    """A database with orders in it, whose URL with its password is in the environment."""
    if request.param == "sqlite":
        # SQLite takes no password; a parameter it does not mind stands for one
        url, open_url = f"sqlite:///{tmp_path}/shop.db", ""
        monkeypatch.setenv("SHOP_URL", url)
        engine = sa.create_engine(url)
    else:
        psycopg = pytest.importorskip("psycopg")
        try:
            psycopg.connect(POSTGRES, connect_timeout=3).close()
        except psycopg.OperationalError as error:
            if os.environ.get("HOLDFAST_REQUIRE_SERVICES") == "1":
                raise
            pytest.skip(f"no PostgreSQL at {POSTGRES}: {error}")
        parts = sa.engine.make_url(POSTGRES)
        schema = f"shop_{uuid.uuid4().hex}"
        owner = sa.create_engine(parts.set(drivername="postgresql+psycopg"))
        with owner.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
        open_url = parts.set(
            password=parts.password or SECRET, query={"options": f"-csearch_path={schema}"}
        ).render_as_string(False)
        monkeypatch.setenv("SHOP_URL", open_url)
        engine = sa.create_engine(open_url.replace("postgresql://", "postgresql+psycopg://"))
    instant, number = ("TIMESTAMPTZ", "NUMERIC") if open_url else ("TEXT", "REAL")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE orders (id BIGINT, customer BIGINT, at {instant}, known {instant}, amount BIGINT, note TEXT, price {number}, "
            "late INTEGER)"
        )
    yield engine
    engine.dispose()
    if open_url:
        with owner.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
        owner.dispose()


def order(n: int, **more: Any) -> dict[str, Any]:
    row = {
        "id": n, "customer": n % 5 if n % 7 else 2**53 + 1, "at": f"2024-02-{1 + n % 25:02d}T10:00:00+00:00",
        "known": f"2024-02-{2 + n % 25:02d}T10:00:00+00:00",
        "amount": n * 10, "note": None if n % 3 else f"n{n}", "price": round(n * 1.25, 2), "late": n % 2,
    }  # fmt: skip
    return {**row, **more}


def insert(engine: sa.Engine, rows: list[dict[str, Any]]) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO orders VALUES (:id, :customer, :at, :known, :amount, :note, :price, :late)"), rows
        )


@pytest.fixture
def project(shop: sa.Engine, tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "definitions.py").write_text(DEFINITIONS)
    insert(shop, [order(n) for n in range(1, 120)])
    return root


def both(ws: Workspace, at: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The features of some customers online and offline."""
    service = ws.project().feature_services["features"]
    keys = [0, 1, 2, 3, 4, 2**53 + 1, 77]
    online = Lookup(compile_plan(service), ws.online).rows([{"customer": k} for k in keys], at=[at] * len(keys))
    spine = pa.table({"customer": keys, "now": pa.array([at] * len(keys)).cast(pa.timestamp("us", tz="UTC"))})
    sources = ingest.tables(ws, [v.source for v in service.views], at=at)
    offline = point_in_time.historical(ws.engine, service, spine, timestamp="now", sources=sources)
    return online, offline.select(service.columns()).to_pylist()


def test_offline_online_parity_and_training_read_one_pinned_version(project: Path, shop: sa.Engine) -> None:
    holdfast(project, "features", "apply")
    with Workspace.open(project) as ws:
        first = ingest.materialize(ws, start=None, end=NOW)
        assert first[0]["rows"] == 119 and first[0]["kept_out"] is None
        online, offline = both(ws, NOW)
        assert online == offline
        assert [r["activity__amount_count_30d"] for r in online][-1] == 0
        assert sum(r["activity__amount_count_30d"] for r in online) > 90 and any(
            r["activity__price"] is not None for r in online
        )

        insert(shop, [order(500, customer=1, amount=7)])
        assert both(ws, NOW) == (online, offline)  # pinned: nothing changes until it is brought in
        again = ingest.materialize(ws, start=None, end=NOW)
        assert again[0]["rows"] == 120
        after, now = both(ws, NOW)
        assert after == now and after[1]["activity__amount_count_30d"] == online[1]["activity__amount_count_30d"] + 1

        model = ws.project().models["m"]
        data, _ = sources.admit_data(ws, model, at=NOW)
        built, effect = build.build_training_set(ws, model, as_of=NOW, datasets=data["datasets"])
        assert built["rows"] == 120 and effect is not None
        twice, _ = build.build_training_set(ws, model, as_of=NOW, datasets=data["datasets"])
        assert twice["digest"] == built["digest"]

        log = pa.table({
            "id": ["p1", "p2"], "request_time": [NOW, NOW], "inputs.customer": [1, 77],
            **{f"features.{c}": [after[1][c], after[6][c]] for c in after[0]},
        })  # fmt: skip
        service = model.features
        assert service is not None
        found = parity.verify(ws.engine, service, log, ingest.tables(ws, [v.source for v in service.views], at=NOW))
        assert [(f["equal"], f["unequal"]) for f in found] == [(2, 0)] * len(found)
    listed = json.loads(holdfast(project, "features", "ingest", "--json").stdout)
    assert [(v["name"], v["rows"]) for v in listed] == [("orders", 120)]


def test_what_was_pushed_and_what_was_pulled_count_together(project: Path) -> None:
    with Workspace.open(project) as ws:
        with Pusher(ws.home, ws.online, list(ws.project().views.values())) as pusher:
            late = {**order(900, customer=1), "at": "2024-02-28T00:00:00Z", "known": "2024-02-28T00:00:01Z"}
            pusher.push("orders", [late], arrived=NOW)
        ingest.materialize(ws, start=None, end=NOW)
        online, offline = both(ws, NOW)
        assert online == offline and online[1]["activity__note"] == "n900"


def test_the_secret_is_in_no_file_and_no_message(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = os.environ["SHOP_URL"]
    if SECRET not in url:
        url = f"postgresql://app:{SECRET}@127.0.0.1:1/shop?sslpassword={SECRET}"
    else:
        holdfast(project, "features", "apply")
        holdfast(project, "features", "materialize")
    broken = [
        url.replace("5432", "1").replace(":1/", ":1/"), url.replace("postgresql://", "nosuch://"), url.replace("127.0.0.1", "no such host"),
        url.replace(":5432", f":{SECRET}"),
    ]  # fmt: skip
    said = ""
    commands = [("features", "materialize"), ("features", "ingest"), ("train", "m"), ("features", "ingest")]
    for address, words in zip(broken, commands, strict=True):
        monkeypatch.setenv("SHOP_URL", address)
        done = holdfast(project, *words, check=False)
        assert done.returncode == 1 and "Traceback" not in done.stderr, (words, done.stderr)
        said += done.stdout + done.stderr
    assert SECRET not in said and "hint:" in said
    written = [p for p in project.rglob("*") if p.is_file()]
    assert written and not [p for p in written if SECRET.encode() in p.read_bytes()]


def test_mistakes_name_the_mend(project: Path, shop: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    text = DEFINITIONS
    with Workspace.open(project) as ws:
        for query, wrong in [
            ("SELECT no_such FROM orders", "no_such"),
            ("SELECT id, id FROM orders", "'id' twice"),
            ("DELETE FROM orders", "orders"),
            ("SELECT id FROM orders WHERE id < 0", "gives no rows"),
        ]:
            (project / "definitions.py").write_text(
                text.replace("SELECT id, customer, at, known, amount, note, price, late FROM orders ORDER BY id", query)
            )
            with pytest.raises((BadData, Unavailable), match=wrong):
                ingest.materialize(ws, start=None, end=NOW)
        with shop.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM orders").scalar() == 119  # a source only reads
        monkeypatch.delenv("SHOP_URL")
        (project / "definitions.py").write_text(text)
        with pytest.raises(BadConfig, match="SHOP_URL"):
            ingest.materialize(ws, start=None, end=NOW)
        monkeypatch.setenv("SHOP_URL", "sqlite:///gone.db")
        with pytest.raises(NotFound, match="no database file"):
            ingest.materialize(ws, start=None, end=NOW)
        assert not (project / "gone.db").exists()


def test_a_delivery_that_is_kept_out_does_not_reach_the_online_store(tmp_path: Path) -> None:
    root = tmp_path / "project"
    (root / "data" / "events").mkdir(parents=True)
    (root / "definitions.py").write_text(
        'import holdfast as hf\nevents = hf.Source("events", "data/events", timestamp="at", schema={"k": int, "at": "timestamp", "x": float})\n'
        'view = hf.FeatureView("view", [hf.Entity("k")], events, [hf.Field("x", float)])\n'
    )
    instant = pa.timestamp("us", tz="UTC")

    def file(name: str, **columns: Any) -> None:
        pq.write_table(
            pa.table({"k": [1, 2], "at": pa.array([NOW - 5, NOW - 4]).cast(instant), **columns}),
            root / "data" / "events" / name,
        )

    file("a.parquet", x=[1.0, 2.0])
    with Workspace.open(root) as ws:
        ingest.bring(ws, ws.project().sources["events"], at=NOW)
        file("b.parquet", x=["three", "four"])
        found = ingest.materialize(ws, start=None, end=NOW)
        assert found[0]["rows"] == 2 and "x" in str(found[0]["kept_out"])
        service = next(iter(ws.project().views.values()))
        from holdfast.core.definitions import FeatureService

        rows = Lookup(compile_plan(FeatureService("s", [service])), ws.online).rows([{"k": 1}, {"k": 2}], at=[NOW, NOW])
        assert [r["view__x"] for r in rows] == [1.0, 2.0]
