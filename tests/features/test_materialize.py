"""Materialize = the definition at the end of its range; whole, in steps, in chunks, twice, and after a crash."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.features import oracle, worlds

from holdfast.backends.engine_duckdb import DuckdbEngine
from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.core import definitions as d
from holdfast.core.errors import BadInput, NotFound
from holdfast.features import materialize, point_in_time, push
from holdfast.features.lookup import Lookup, compile_plan


@pytest.fixture(scope="module")
def engine() -> DuckdbEngine:
    return DuckdbEngine(threads=1)


def compare(world: worlds.World, online: EmbeddedOnlineStore, rows: list[dict[str, Any]], at: int) -> None:
    served = Lookup(compile_plan(world.service), online)
    for question in world.questions:
        got = served.rows([{k: question[k] for k in world.keys}], at=[at])[0]
        for column, (wanted, slack) in world.answers(rows, question, at).items():
            assert oracle.same(got[column], wanted, slack), (world.seed, question, column, got[column], wanted)


@pytest.mark.parametrize("seed", range(100, 130))
def test_in_steps_and_mixed_with_pushes_is_the_definition(tmp_path: Path, engine: DuckdbEngine, seed: int) -> None:
    world = worlds.make(seed)
    rng = random.Random(seed)
    table = worlds.table(world, rng)
    ends = sorted(worlds.START + rng.randint(-6, 30) * worlds.UNIT for _ in range(3))
    pushed: list[dict[str, Any]] = []
    with EmbeddedOnlineStore(tmp_path / "online", map_size=1 << 28) as online:
        for end in ends:
            for _ in range(rng.choice([1, 2])):
                materialize.run(
                    online, engine, [world.view], {"src": table}, start=None, end=end, chunk_rows=rng.choice([7, 10**6])
                )
            compare(world, online, [*world.rows, *pushed], end)
            with push.Pusher(tmp_path, online, [world.view], durable=False) as pusher:
                early = [r for r in world.rows if r["_arrival"] <= end]
                some = rng.sample(early, min(len(early), 5))
                pusher.push("src", [worlds.shown(r) for r in some], arrived=end)
                pushed += [r if world.arrival else {**r, "_arrival": end} for r in some]
            compare(world, online, [*world.rows, *pushed], end)


def test_a_crash_between_chunks_is_resumed(tmp_path: Path, engine: DuckdbEngine) -> None:
    n = 5_000
    path = tmp_path / "s.parquet"
    pq.write_table(
        pa.table(
            {"k": range(n), "t": pa.array(range(n), pa.timestamp("us", "UTC")), "x": [float(i) for i in range(n)]}
        ),
        path,
    )
    view = d.FeatureView("v", [d.Entity("k")], d.Source("s", "s.parquet", timestamp="t"), [d.Field("x")])

    class Crash(Exception):
        pass

    def crash(done: int, total: int | None, what: str) -> None:
        if done == 3:
            raise Crash

    with EmbeddedOnlineStore(tmp_path / "online", map_size=1 << 28) as online:
        with pytest.raises(Crash):
            materialize.run(online, engine, [view], {"s": [path]}, start=None, end=n, chunk_rows=1_000, progress=crash)
        assert materialize.progress_of(online, view.version) is None
        found = materialize.run(online, engine, [view], {"s": [path]}, start=None, end=n, chunk_rows=1_000)
        assert found[0]["skipped"] == 3 and found[0]["chunks"] == 5
        assert found[0]["rows"] == n and 0 < found[0]["entities"] < n  # those of the two chunks left
        service = d.FeatureService("all", [view])
        rows = Lookup(compile_plan(service), online).rows([{"k": k} for k in range(n)], at=[n] * n)
        assert [r["v__x"] for r in rows] == [float(i) for i in range(n)]
        assert materialize.progress_of(online, view.version) == n


def test_mistakes(tmp_path: Path, engine: DuckdbEngine) -> None:
    view = d.FeatureView("v", [d.Entity("k")], d.Source("s", "s.parquet", timestamp="t"), [d.Field("x")])
    with EmbeddedOnlineStore(tmp_path / "online", map_size=1 << 28) as online:
        with pytest.raises(BadInput, match="before start"):
            materialize.run(online, engine, [view], {}, start=2, end=1)
        with pytest.raises(NotFound, match="'s'"):
            materialize.run(online, engine, [view], {"t": []}, start=None, end=1)


def test_an_incremental_run_takes_late_files_of_old_events(tmp_path: Path, engine: DuckdbEngine) -> None:
    at = 1_700_000_000_000_000
    instant = pa.timestamp("us", tz="UTC")
    source = d.Source("s", "s", timestamp="t")
    view = d.FeatureView(
        "v", [d.Entity("e", ["k"])], source, [d.Field("x", int), d.Aggregation("x", ["count", "sum"], ["1d"])], ttl="2d"
    )
    service = d.FeatureService("svc", [view])

    def file(name: str, rows: list[tuple[int, int, int]], **more: list[Any]) -> Path:
        k, t, x = zip(*rows, strict=True)
        pq.write_table(pa.table({"k": k, "t": pa.array(t).cast(instant), "x": x, **more}), tmp_path / name)
        return tmp_path / name

    def wanted(files: list[Path], now: int) -> dict[str, Any]:
        spine = pa.table({"k": [1, 2, 3], "now": pa.array([now] * 3).cast(instant)})
        return (
            point_in_time.historical(engine, service, spine, timestamp="now", sources={"s": files})
            .select(service.columns())
            .to_pydict()
        )

    def served(online: EmbeddedOnlineStore, now: int) -> dict[str, Any]:
        rows = Lookup(compile_plan(service), online).rows([{"k": k} for k in (1, 2, 3)], at=[now] * 3)
        return {c: [r[c] for r in rows] for c in service.columns()}

    with EmbeddedOnlineStore(tmp_path / "online", map_size=1 << 28) as online:
        first = file("a.parquet", [(1, at - 500, 10), (2, at - 400, 20), (2, at + 50, 21)])
        for now, files in [
            (at, [first]),
            (at + 100, [first]),
            # yesterday's rows come with today's file, which also has a column more
            (at + 200, [first, file("b.parquet", [(1, at - 450, 11), (3, at - 300, 30)], extra=["u", "v"])]),
            (at + 300, [first, tmp_path / "b.parquet"]),
            # a file is written anew with more in it
            (
                at + 400,
                [
                    file("a.parquet", [(1, at - 500, 10), (1, at - 499, 12), (2, at - 400, 20), (2, at + 50, 21)]),
                    tmp_path / "b.parquet",
                ],
            ),
        ]:
            report = materialize.run(online, engine, [view], {"s": files}, start=None, end=now)[0]
            assert served(online, now) == wanted(files, now), (now, report)
        again = materialize.run(online, engine, [view], {"s": files}, start=None, end=now + 1)[0]
        assert again["rows"] == 0 and again["start"] == now  # nothing new is nothing read twice
