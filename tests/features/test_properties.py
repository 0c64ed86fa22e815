"""Random worlds against the brute-force oracle: offline, online, and both after pushes in any order, replays, restarts."""

from __future__ import annotations

import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.backends.test_online_stores import redis_or_skip
from tests.features import oracle, worlds

from holdfast.backends.engine_duckdb import DuckdbEngine
from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.core import definitions as d
from holdfast.features import point_in_time, push
from holdfast.features.lookup import Lookup, compile_plan

FEW, MANY, BLOCKS = 40, 1800, 18  # worlds, of 60 questions each; a block of the long tests is 6,000 questions


@pytest.fixture(scope="module")
def engine() -> DuckdbEngine:
    return DuckdbEngine(threads=1)


def check_offline(seed: int, engine: DuckdbEngine, cache: Path | None = None) -> int:
    world = worlds.make(seed)
    rng = random.Random(seed + 1)
    spine = pa.table({
        "n": range(60), "a": pa.array([q["a"] for q in world.questions], pa.int64()), "b": pa.array([q["b"] for q in world.questions]),
        "_made": pa.array([q["_made"] for q in world.questions], pa.string()), "when": worlds.instants(rng, [q["at"] for q in world.questions]),
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
        columns = {k: [q[k] for q in world.questions] for k in ("a", "b", "_made")}
        when = pa.array([q["at"] for q in world.questions]).cast(pa.timestamp("us", tz="UTC"))
        types = {"a": pa.int64(), "b": pa.string(), "_made": pa.string()}
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
        used += len(list(folder.glob("*/about.json")))
        assert got[0].equals(got[1]) and got[0].equals(got[2]), seed
        assert alone.equals(got[0].slice(0, 9)), seed
    assert used == 20


def check_online(seed: int, folder: Path, connect: Callable[[Path], Any] | None = None) -> int:
    """Questions in time order; before each, what is known by then is pushed: late, repeated, in any order, with restarts and changes
    of definitions."""
    world = worlds.make(seed)
    rng = random.Random(seed + 2)
    service = world.service
    plan = compile_plan(service)
    waiting = sorted(world.rows, key=lambda r: r["_arrival"])
    taken: list[dict[str, Any]] = []
    asked = 0
    connect = connect or (lambda folder: EmbeddedOnlineStore(folder / "online", map_size=1 << 28))
    online = connect(folder)
    beside = d.FeatureView(
        "beside", world.view.entities, world.view.source, [d.Aggregation("i2", ["count"], ["1h"])], keys=world.view.keys
    )
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
                left = rng.random() < 0.01  # other definitions are applied, and then these again
                if left:
                    pusher.follow([beside])
                pusher.push("src", [worlds.shown(r) for r in part], arrived=at)
                if left:
                    pusher.follow(service.views)
            if rng.random() < 0.04:
                pusher.close()
                if rng.random() < 0.3:
                    online.clear()
                    online.close()  # the store is lost; the journal is the truth
                    shutil.rmtree(folder / "online", ignore_errors=True)
                    online = connect(folder)
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


@pytest.mark.redis
def test_online_on_redis_is_the_definition(tmp_path: Path) -> None:
    name = uuid4().hex

    def connect(folder: Path) -> Any:
        return redis_or_skip(f"{name}-{folder.name}")

    for seed in range(900, 906):
        try:
            assert check_online(seed, tmp_path / str(seed), connect) == 60
        finally:
            connect(tmp_path / str(seed)).clear()


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_hundred_thousand_offline(engine: DuckdbEngine, block: int) -> None:
    size = MANY // BLOCKS
    for seed in range(10_000 + block * size, 10_000 + (block + 1) * size):
        assert check_offline(seed, engine) == 60


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_hundred_thousand_online(tmp_path: Path, block: int) -> None:
    size = MANY // BLOCKS
    for seed in range(20_000 + block * size, 20_000 + (block + 1) * size):
        assert check_online(seed, tmp_path / str(seed)) == 60
        shutil.rmtree(tmp_path / str(seed))


def check_cache(seed: int, engine: DuckdbEngine, folder: Path, steps: int) -> int:
    """Kept events follow their files: rows come in new files, files are written anew (some with the same size and time of
    change), split, merged and removed, spines come small and large; every answer is what is computed without the cache."""
    world = worlds.make(seed)
    rng = random.Random(seed + 3)
    rows = list(world.rows)
    columns = worlds.table(world, random.Random(0))
    compared = 0
    files: dict[str, list[int]] = {}
    home, cache = folder / "source", folder / "cache"
    home.mkdir(parents=True)

    def write(name: str, places: list[int]) -> None:
        old = (home / name).stat() if (home / name).exists() else None
        temporary = home / f".{name}"
        pq.write_table(columns.take(pa.array(places, pa.int64())), temporary, compression="none")
        temporary.replace(home / name)
        if old is not None and rng.random() < 0.5:
            os.utime(home / name, ns=(old.st_atime_ns, old.st_mtime_ns))  # as copying tools do
        files[name] = places

    assert columns.num_rows == len(rows)
    for step in range(steps):
        everything = list(range(len(rows)))
        act = rng.randrange(4) if files else 0
        name = rng.choice(sorted(files)) if files else "0.parquet"
        if act == 0:
            write(f"{step}.parquet", sorted(rng.sample(everything, rng.randint(min(1, len(rows)), len(rows)))))
        elif act == 1:
            write(name, rng.sample(everything, len(files[name])))  # as many rows, others
        elif act == 2 and len(files) > 1:
            (home / name).unlink()
            del files[name]
        listed = [home / name for name in sorted(files)]
        some = rng.sample(range(60), rng.choice([1, 9, 60]))
        asked = [world.questions[i] for i in some]
        spine = pa.table({
            "a": pa.array([q["a"] for q in asked], pa.int64()), "b": pa.array([q["b"] for q in asked]),
            "_made": pa.array([q["_made"] for q in asked], pa.string()),
            "when": pa.array([q["at"] for q in asked]).cast(pa.timestamp("us", tz="UTC")),
        })  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", point_in_time.Notice)
            got, wanted = (
                point_in_time.historical(
                    engine, world.service, spine, timestamp="when", sources={"src": listed}, cache=c
                )
                for c in (cache, None)
            )
        assert got.equals(wanted), (seed, step, act)
        compared += len(asked)
    return compared


def test_kept_events_follow_their_files(tmp_path: Path, engine: DuckdbEngine) -> None:
    assert sum(check_cache(seed, engine, tmp_path / str(seed), 6) for seed in range(300, 306)) > 200


@pytest.mark.soak
@pytest.mark.parametrize("block", range(20))
def test_kept_events_follow_their_files_at_length(tmp_path: Path, engine: DuckdbEngine, block: int) -> None:
    for seed in range(1000 + block * 25, 1000 + (block + 1) * 25):
        check_cache(seed, engine, tmp_path / str(seed), 20)
