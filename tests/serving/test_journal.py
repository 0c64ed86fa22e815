"""The prediction log: what was promised is there, once, whatever happens to the process or the disk."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from holdfast.serving import journal, predictions, segments
from holdfast.serving.journal import Journal
from holdfast.serving.segments import Batch, Layout

LAYOUT = Layout(
    service="svc",
    environment="production",
    version=1,
    replica="r",
    inputs=[("card", "int64"), ("name", "string")],
    features=["x", "y"],
)


def batch(
    *ids: str, at: int = 0, arm: str = "champion", layout: Layout = LAYOUT, score: float = 0.5, received: int = 7
) -> Batch:
    n = len(ids)
    return Batch(
        layout,
        arm=arm,
        ids=ids,
        keys=["k"] * n,
        request_times=[at + i for i in range(n)],
        received=received,
        latency=3,
        scores=np.full((n, 1), score),
        outputs=[1] * n,
        inputs=[(i, None) for i in range(n)],
        matrix=np.array([[1.5, np.nan]] * n),
    )


def write(folder: Path, *batches: Batch, mode: Any = "durable", **options: Any) -> list[bool]:
    async def run() -> list[bool]:
        log = Journal(folder, mode=mode, **options)
        told = [log.offer(b) for b in batches]
        out = [t if isinstance(t, bool) else await asyncio.wait_for(t, 20) for t in told]
        await asyncio.to_thread(log.close)
        return out

    return asyncio.run(run())


def ids(folder: Path, **options: Any) -> list[str]:
    table = predictions.read(folder, **options)
    return list(table["id"].to_pylist())


@pytest.mark.parametrize("mode", ["durable", "buffered"])
def test_rows_that_cannot_be_written_down_cost_no_others(tmp_path: Path, mode: str) -> None:
    """A number that no encoding holds, first of its layout: its caller hears that it is not logged, the log goes on."""
    poison, late = batch("p", layout=msgspec.structs.replace(LAYOUT, version=2)), batch("q", at=1 << 70)
    poison.inputs = [(1 << 70, None)]
    sound = [batch("a"), batch("b", layout=msgspec.structs.replace(LAYOUT, version=2)), batch("c")]
    told = write(tmp_path, sound[0], poison, sound[1], late, sound[2], mode=mode)
    assert told == ([True, False, True, False, True] if mode == "durable" else [True] * 5)
    assert sorted(ids(tmp_path)) == ["a", "b", "c"]
    assert predictions.read(tmp_path)["version"].to_pylist().count(2) == 1


@pytest.mark.parametrize("mode", ["durable", "buffered"])
def test_what_was_offered_is_read_back(tmp_path: Path, mode: str) -> None:
    assert write(tmp_path, batch("a", "b", at=10), batch("c", at=5), mode=mode) == [True, True]
    for compacting in (False, True, True):
        rows = predictions.read(tmp_path, compacting=compacting).to_pylist()
        assert [r["id"] for r in rows] == ["c", "a", "b"]
        assert rows[2] == {
            "id": "b", "service": "svc", "environment": "production", "version": 1, "arm": "champion", "key": "k", "request_time": 11,
            "received": 7, "score": 0.5, "output": 1, "latency_us": 3, "replica": "r", "inputs.card": 1, "inputs.name": None,
            "features.x": 1.5, "features.y": None,
        }  # fmt: skip
    assert not list(tmp_path.glob(f"*{segments.SUFFIX}"))


def test_a_stretch_of_time_and_an_environment(tmp_path: Path) -> None:
    staging = Layout(**{f: getattr(LAYOUT, f) for f in LAYOUT.__struct_fields__} | {"environment": "staging"})
    write(tmp_path, batch("a", at=1), batch("b", at=2), batch("c", at=3), batch("s", at=2, layout=staging))
    for compacting in (False, True):
        assert ids(tmp_path, since=2, until=3, compacting=compacting) == ["b"]
        assert ids(tmp_path, since=2, compacting=compacting) == ["b", "c"]
        assert ids(tmp_path, environment="staging", compacting=compacting) == ["s"]
        assert len(ids(tmp_path, environment=None, compacting=compacting)) == 4
        assert sorted(ids(tmp_path, ids=["c", "a", "nobody"], compacting=compacting)) == ["a", "c"]
        assert ids(tmp_path, ids=[], compacting=compacting) == []
    assert predictions.read(tmp_path / "nothing").column_names[:3] == ["id", "service", "environment"]


def test_a_retried_answer_counts_once_and_a_shadow_keeps_its_own(tmp_path: Path) -> None:
    write(
        tmp_path,
        batch("a", received=9, score=0.9),
        batch("a", received=5, score=0.1),
        batch("a", arm="shadow", score=0.7),
    )
    for compacting in (False, True):
        rows = predictions.read(tmp_path, compacting=compacting).to_pylist()
        assert sorted((r["id"], r["arm"], r["score"]) for r in rows) == [("a", "champion", 0.1), ("a", "shadow", 0.7)]


def test_versions_with_other_columns_and_failed_rows_read_as_one_table(tmp_path: Path) -> None:
    other = Layout(
        service="svc", environment="production", version=2, replica="r", inputs=[("card", "string")], features=["z"]
    )
    second = Batch(
        other, arm="challenger", ids=["b"], keys=["k"], request_times=[1], received=1, latency=1, scores=np.array([[np.nan]]),
        outputs=[None], inputs=[("x",)], matrix=np.array([[np.nan]]),
    )  # fmt: skip
    write(tmp_path, batch("a"), second)
    for compacting in (False, True):
        a, b = predictions.read(tmp_path, compacting=compacting).to_pylist()
        assert (a["features.x"], a["features.z"], a["inputs.card"]) == (1.5, None, "0")
        assert (b["score"], b["output"], b["inputs.card"], b["features.x"]) == (None, None, "x", None)


def test_scores_of_many_classes(tmp_path: Path) -> None:
    many = batch("a", "b")
    many.scores = np.array([[0.2, 0.8], [np.nan, np.nan]])
    write(tmp_path, many)
    for compacting in (False, True):
        assert predictions.read(tmp_path, compacting=compacting)["score"].to_pylist() == [[0.2, 0.8], None]


@pytest.mark.parametrize("cut", [1, 5, 9, 30])
def test_a_torn_tail_loses_only_itself(tmp_path: Path, cut: int) -> None:
    write(tmp_path, batch("a"))
    write(tmp_path, batch("b"), batch("c"))
    last = sorted(tmp_path.glob(f"*{segments.SUFFIX}"))[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:-cut])
    kept = set(ids(tmp_path, compacting=False))
    assert "a" in kept and len(kept) < 3
    last.write_bytes(whole[:-cut] + os.urandom(cut))
    assert set(ids(tmp_path)) == kept


def test_a_growing_segment_is_read_on_and_never_compacted(tmp_path: Path) -> None:
    async def run() -> None:
        log = Journal(tmp_path, mode="durable")
        seen = []
        for i in range(5):
            assert await log.offer(batch(f"p{i}"))  # type: ignore[misc]
            seen.append(await asyncio.to_thread(ids, tmp_path))
            assert await asyncio.to_thread(predictions.compact, tmp_path) == 0
        assert [len(s) for s in seen] == [1, 2, 3, 4, 5]
        await asyncio.to_thread(log.close)

    asyncio.run(run())
    assert predictions.compact(tmp_path) == 1 and len(ids(tmp_path)) == 5


def test_many_segments_become_few_parts_and_a_crash_between_leaves_each_row_once(tmp_path: Path) -> None:
    for i in range(10):
        write(tmp_path, batch(f"p{i}", at=i))
    spare = {p.name: p.read_bytes() for p in tmp_path.glob(f"*{segments.SUFFIX}")}
    assert predictions.compact(tmp_path) == 10
    assert [p.name.startswith("merged-") for p in tmp_path.glob("*.parquet")] == [True]
    # As if the compactor had died before it removed what it had merged.
    for name, data in spare.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / ".half.parquet.tmp").write_bytes(b"half")
    assert ids(tmp_path, compacting=False) == [f"p{i}" for i in range(10)]
    assert ids(tmp_path) == [f"p{i}" for i in range(10)]
    assert {p.suffix for p in tmp_path.iterdir() if p.name != ".lock"} == {".parquet"}


class Disk:
    """fdatasync that refuses while ``full``."""

    def __init__(self) -> None:
        self.full = False

    def __call__(self, fd: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "no space left")


def test_a_full_disk_is_told_and_never_in_the_way(tmp_path: Path) -> None:
    async def run() -> None:
        disk = Disk()
        log = Journal(tmp_path, mode="durable", sync=disk)
        assert await log.offer(batch("a"))  # type: ignore[misc]
        disk.full = True
        assert not await asyncio.wait_for(log.offer(batch("b")), 10)  # type: ignore[arg-type]
        assert (log.healthy, log.lost, log.failures > 0) == (False, 1, True)
        disk.full = False
        assert await log.offer(batch("c"))  # type: ignore[misc]
        assert log.healthy
        await asyncio.to_thread(log.close)

    asyncio.run(run())
    assert {"a", "c"} <= set(ids(tmp_path)) and len(ids(tmp_path)) <= 3


def test_a_buffered_log_says_when_it_cannot_promise_and_catches_up(tmp_path: Path) -> None:
    target = tmp_path / "log"
    target.write_text("a file where the folder should be")

    async def run() -> None:
        log = Journal(target, mode="buffered")
        assert log.offer(batch("a")) is True
        while log.healthy:
            await asyncio.sleep(0.01)
        assert log.offer(batch("b")) is False
        target.unlink()
        while not log.healthy:
            await asyncio.sleep(0.01)
        assert log.offer(batch("c")) is True
        await asyncio.to_thread(log.close)

    asyncio.run(run())
    assert ids(target) == ["a", "b", "c"]


def test_memory_is_bounded_when_the_disk_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_PENDING", 10)
    target = tmp_path / "log"
    target.write_text("")

    async def run() -> None:
        log = Journal(target, mode="buffered")
        for i in range(50):
            log.offer(batch(f"p{i}"))
        assert log.pending <= 10 and log.lost >= 40
        await asyncio.to_thread(log.close)

    asyncio.run(run())


_WRITER = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from tests.serving.test_journal import Journal, batch
async def main():
    log = Journal(Path(sys.argv[1]), mode="durable", segment_bytes=4096, replica=sys.argv[2])
    i = 0
    while True:
        names = [f"{{sys.argv[2]}}-{{i}}-{{j}}" for j in range(8)]
        told = [log.offer(batch(n)) for n in names]
        for n, t in zip(names, told):
            if await t:
                sys.stdout.write(n + "\\n")
        sys.stdout.flush()
        i += 1
asyncio.run(main())
"""


def _kill_while_writing(folder: Path, times: int, seed: int) -> None:
    """Writers are killed at random moments while a reader compacts; every acknowledged row is there, once."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    promised: list[str] = []
    script = _WRITER.format(tests=str(Path(__file__).parents[2]))
    for i in range(times):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(folder), f"w{i}"], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            promised.append(process.stdout.readline().strip())
            for _ in range(rng.randrange(0, 60)):
                promised.append(process.stdout.readline().strip())
            if i % 3 == 0:
                predictions.read(folder)
            process.send_signal(signal.SIGKILL)
            promised += [line.strip() for line in process.stdout if line.endswith("\n")]
    found = ids(folder)
    assert len(found) == len(set(found))
    assert set(promised) <= set(found)
    assert not list(folder.glob(f"*{segments.SUFFIX}"))
    assert sum(pq.read_metadata(p).num_rows for p in folder.glob("*.parquet")) == len(found)


def test_every_acknowledged_row_survives_sigkill(tmp_path: Path) -> None:
    _kill_while_writing(tmp_path, 5, 1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_acknowledged_row_survives_sigkill_often(tmp_path: Path) -> None:
    _kill_while_writing(tmp_path, 100, 2)
