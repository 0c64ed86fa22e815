"""The walk keeps what can win, against looking at every event; and plans by size give the same bytes."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.features import worlds

from holdfast.backends.engine_duckdb import DuckdbEngine
from holdfast.core import definitions as d
from holdfast.core.errors import BadInput
from holdfast.features import candidates, point_in_time, sorted_source


def batches(rows: list[tuple[int, int, int, int]], size: int) -> Iterator[pa.RecordBatch]:
    for i in range(0, len(rows), size):
        columns = list(zip(*rows[i : i + size], strict=True))
        yield pa.record_batch([pa.array(c, pa.int64()) for c in columns], ["__code", "__t", "__a", "f0"])


@pytest.mark.parametrize("seed", range(40))
def test_the_latest_of_what_is_kept_is_the_latest_of_all(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "SPARE", 20)  # drops rows on the way
    rng = random.Random(seed)
    codes, late = rng.randrange(1, 6), rng.random() < 0.5
    span = rng.choice([12, 1000])
    rows = []
    for i in range(rng.choice([0, 5, 600])):
        time = rng.randrange(span)
        rows.append((rng.randrange(codes), time, time + (rng.randrange(span // 2) if late else 0), i))
    questions = sorted((rng.randrange(codes), rng.randrange(-2, span + 2)) for _ in range(rng.choice([0, 1, 150])))
    asked = np.array([q[0] for q in questions], np.int64)
    at = np.array([q[1] for q in questions], np.int64)
    kept = [
        r
        for b in candidates.walk(batches(rows, 50), asked, at, codes)
        for r in zip(*b.to_pydict().values(), strict=True)
    ]

    def best(among: list[tuple[int, int, int, int]], code: int, now: int) -> tuple[int, int, int] | None:
        return max(((t, a, v) for c, t, a, v in among if c == code and t <= now and a <= now), default=None)

    for code, now in questions:
        assert best(kept, code, now) == best(rows, code, now), (seed, code, now)
    assert len(kept) <= len(rows)
    if span == 1000 and not late:  # few ties, so there is nothing else to keep
        assert len(kept) <= len(questions) + 100


def test_every_plan_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = DuckdbEngine(threads=1)
    for seed in range(300, 312):
        world = worlds.make(seed)
        rng = random.Random(seed)
        file = tmp_path / f"{seed}.parquet"
        pq.write_table(worlds.table(world, rng), file)
        spine = pa.table({
            "a": pa.array([q["a"] for q in world.questions], pa.int64()), "b": pa.array([q["b"] for q in world.questions]),
            "_made": pa.array([q["_made"] for q in world.questions], pa.string()),
            "when": pa.array([q["at"] for q in world.questions]).cast(pa.timestamp("us", tz="UTC")),
        })  # fmt: skip
        got = []
        for most, share in ((10_000_000, -1), (3, -1), (3, 1000)):  # at once · key by key · sorted and kept
            monkeypatch.setattr(point_in_time, "MOST_EVENTS", most)
            monkeypatch.setattr(sorted_source, "SHARE", share)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", point_in_time.Notice)
                got.append(
                    point_in_time.historical(
                        engine,
                        world.service,
                        spine,
                        timestamp="when",
                        sources={"src": [file]},
                        cache=tmp_path / f"{seed}",
                    )
                )
            assert (tmp_path / f"{seed}").exists() == (share > 0)
        assert got[0].equals(got[1]) and got[0].equals(got[2]), seed


def test_a_stream_that_fails_on_the_way_says_why() -> None:
    engine = DuckdbEngine(threads=1)
    with pytest.raises(BadInput, match="not an int64"):
        list(
            engine.stream("SELECT CASE WHEN i = 900000 THEN error('not an int64') ELSE i END FROM range(1000000) t(i)")
        )
    with pytest.raises(BadInput, match="nowhere"):
        list(engine.stream("SELECT * FROM nowhere"))
    assert sum(b.num_rows for b in engine.stream("SELECT * FROM range(500000)")) == 500_000


def kept_folders(cache: Path) -> list[Path]:
    return [p.parent for p in cache.glob("*/about.json")]


def test_what_is_kept_may_be_lost_damaged_or_left_by_the_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = DuckdbEngine(threads=1)
    view = d.FeatureView("v", [d.Entity("k")], d.Source("s", "s.parquet", timestamp="t"), [d.Field("x", int)])
    service = d.FeatureService("s", [view])
    instant = pa.timestamp("us", tz="UTC")
    pq.write_table(
        pa.table({"k": [1, 1, 2], "t": pa.array([5, 6, 7], instant), "x": [10, 11, 12]}), tmp_path / "s.parquet"
    )
    spine = pa.table({"k": [1, 2, 3], "t": pa.array([9, 9, 9], instant)})
    cache = tmp_path / "cache"

    def answers() -> list[int | None]:
        sources = {"s": [tmp_path / "s.parquet"]}
        found = point_in_time.historical(engine, service, spine, timestamp="t", sources=sources, cache=cache)
        values: list[int | None] = found.column("v__x").to_pylist()
        return values

    dead = 2**22 + 1  # beyond any pid
    left = cache / f".v-0000.{dead}"
    left.mkdir(parents=True)
    (left / "fields.arrow").write_bytes(b"half")
    assert answers() == [11, 12, None]
    assert not left.exists()
    (kept,) = kept_folders(cache)
    for name in ("about.json", "newest.time.npy", "fields.arrow"):
        whole = (kept / name).read_bytes()
        (kept / name).write_bytes(whole[: len(whole) // 4])
        assert answers() == [11, 12, None], name
        (kept / name).write_bytes(whole)
    # unsynced files of before a power cut are not believed
    monkeypatch.setattr(sorted_source, "_boot", lambda: "another start")
    assert answers() == [11, 12, None]
    assert kept_folders(cache) != [kept]
    monkeypatch.setattr(sorted_source, "_boot", lambda: None)
    assert answers() == [11, 12, None]
    assert len(kept_folders(cache)) == 1
