"""Random worlds against the brute-force oracle: offline, online, and both after pushes in any order, replays, restarts."""

from __future__ import annotations

import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.features import oracle, worlds

from holdfast.backends.engine_duckdb import DuckdbEngine
from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.features import point_in_time, push
from holdfast.features.lookup import Lookup, compile_plan

FEW, MANY = 40, 1800  # worlds, of 60 questions each


@pytest.fixture(scope="module")
def engine() -> DuckdbEngine:
    return DuckdbEngine(threads=1)


def check_offline(seed: int, engine: DuckdbEngine, cache: Path | None = None) -> int:
    world = worlds.make(seed)
    rng = random.Random(seed + 1)
    spine = pa.table({
        "n": range(60), "a": pa.array([q["a"] for q in world.questions], pa.int64()), "b": pa.array([q["b"] for q in world.questions]),
        "when": worlds.instants(rng, [q["at"] for q in world.questions]),
    })  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", point_in_time.Notice)
        got = point_in_time.historical(
            engine, world.service, spine, timestamp="when", sources={"src": worlds.table(world, rng)}, cache=cache
        )
    assert got.select(spine.column_names).equals(spine)
    rows = got.to_pylist()
    for question, row in zip(world.questions, rows, strict=True):
        for column, (wanted, slack) in world.answers(world.rows, question, question["at"]).items():
            assert oracle.same(row[column], wanted, slack), (seed, question, column, row[column], wanted)
    return len(rows)


def test_kept_sorted_events_give_the_same_bytes(tmp_path: Path, engine: DuckdbEngine) -> None:
    used = 0
    for seed in range(200, 220):
        world = worlds.make(seed)
        rng = random.Random(seed)
        file = tmp_path / f"{seed}.parquet"
        pq.write_table(worlds.table(world, rng), file)
        columns = {k: [q[k] for q in world.questions] for k in ("a", "b")}
        when = pa.array([q["at"] for q in world.questions]).cast(pa.timestamp("us", tz="UTC"))
        types = {"a": pa.int64(), "b": pa.string()}
        spine = pa.table({**{k: pa.array(v, types[k]) for k, v in columns.items()}, "when": when})
        folder = tmp_path / f"cache{seed}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", point_in_time.Notice)
            got = [
                point_in_time.historical(
                    engine, world.service, spine, timestamp="when", sources={"src": [file]}, cache=c
                )
                for c in (None, folder, folder)
            ]
            # other spines find other entities' events in the same file between their own
            part = spine.slice(0, 9)
            alone = point_in_time.historical(
                engine, world.service, part, timestamp="when", sources={"src": [file]}, cache=folder
            )
        used += len(list(folder.glob("*.events.arrow")))
        assert got[0].equals(got[1]) and got[0].equals(got[2]), seed
        assert alone.equals(got[0].slice(0, 9)), seed
    assert used == 20


def check_online(seed: int, folder: Path) -> int:
    """Questions in time order; before each, what is known by then is pushed: late, repeated, in any order, with restarts."""
    world = worlds.make(seed)
    rng = random.Random(seed + 2)
    service = world.service
    plan = compile_plan(service)
    waiting = sorted(world.rows, key=lambda r: r["_arrival"])
    taken: list[dict[str, Any]] = []
    asked = 0
    online = EmbeddedOnlineStore(folder / "online", map_size=1 << 28)
    pusher = push.Pusher(folder, online, service.views, durable=False)
    try:
        for question in sorted(world.questions, key=lambda q: q["at"]):
            at = question["at"]
            batch: list[dict[str, Any]] = []
            # without an arrival column a row is known when it is pushed: some come long after they happened
            while waiting and waiting[0]["_arrival"] <= at and (world.arrival or rng.random() < 0.8):
                batch.append(waiting.pop(0))
            if not world.arrival:
                batch = [{**r, "_arrival": at} for r in batch]
            again = rng.sample(taken, min(len(taken), rng.randrange(4)))
            taken += batch
            sent = [*batch, *again]
            rng.shuffle(sent)
            for part in (sent[: len(sent) // 2], sent[len(sent) // 2 :]):
                pusher.push("src", [worlds.shown(r) for r in part], arrived=at)
            if rng.random() < 0.04:
                pusher.close()
                if rng.random() < 0.3:
                    online.close()  # the store is lost; the journal is the truth
                    shutil.rmtree(folder / "online")
                    online = EmbeddedOnlineStore(folder / "online", map_size=1 << 28)
                pusher = push.Pusher(folder, online, service.views, durable=False)
                if rng.random() < 0.5:
                    pusher.land()
            rows = Lookup(plan, online).rows([{k: question[k] for k in world.keys}], at=[at])
            for column, (wanted, slack) in world.answers(taken, question, at).items():
                assert oracle.same(rows[0][column], wanted, slack), (seed, question, column, rows[0][column], wanted)
            asked += 1
    finally:
        pusher.close()
        online.close()
    return asked


@pytest.mark.parametrize("block", range(4))
def test_offline_is_the_definition(engine: DuckdbEngine, block: int) -> None:
    assert sum(check_offline(seed, engine) for seed in range(block * FEW // 4, (block + 1) * FEW // 4)) == 60 * FEW // 4


@pytest.mark.parametrize("block", range(4))
def test_online_is_the_definition_in_any_order(tmp_path: Path, block: int) -> None:
    for seed in range(block * FEW // 4, (block + 1) * FEW // 4):
        assert check_online(seed, tmp_path / str(seed)) == 60


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_hundred_thousand_offline(engine: DuckdbEngine) -> None:
    assert sum(check_offline(seed, engine) for seed in range(10_000, 10_000 + MANY)) >= 100_000


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_hundred_thousand_online(tmp_path: Path) -> None:
    assert sum(check_online(seed, tmp_path / str(seed)) for seed in range(20_000, 20_000 + MANY)) >= 100_000
