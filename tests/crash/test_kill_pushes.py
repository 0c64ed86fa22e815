"""kill -9 during pushes, landing and materialization: what was acknowledged is there, and nothing counts twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.core import definitions as d
from holdfast.features import journal, push
from holdfast.features.lookup import Lookup, compile_plan

WRITER = """
import os, sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.crash.test_kill_pushes import VIEWS
from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.features.push import Pusher

home = Path(sys.argv[1])
online = EmbeddedOnlineStore(home / "online", map_size=1 << 28)
pusher = Pusher(home, online, VIEWS)
start = int(sys.argv[3])

def work(offset):
    n = start + offset
    while True:
        pusher.push("s", [{"k": n % 7, "n": n, "t": n}, {"k": 100, "n": n, "t": n}], arrived=n)
        os.write(1, f"{n}\\n".encode())
        n += 3
        if n % 50 == offset:
            pusher.land()

for offset in (1, 2):
    threading.Thread(target=work, args=(offset,), daemon=True).start()
work(0)
"""

KILLS = int(os.environ.get("HOLDFAST_KILLS", "500"))
"""How many times the long tests kill, each kind."""

SOURCE = d.Source("s", "s.parquet", timestamp="t")
VIEWS = [
    d.FeatureView("windows", [d.Entity("k")], SOURCE, [d.Aggregation("n", ["count", "distinct", "max"], ["1d"])]),
    d.FeatureView("newest", [d.Entity("k")], SOURCE, [d.Field("n", int)]),
]

MATERIALIZER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.crash.test_kill_pushes import VIEWS
from holdfast.backends.engine_duckdb import DuckdbEngine
from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.features import materialize

home = Path(sys.argv[1])
online = EmbeddedOnlineStore(home / "online", map_size=1 << 28)
materialize.run(online, DuckdbEngine(threads=1), VIEWS, {"s": [home / "s.parquet"]}, start=None, end=10**6, chunk_rows=2_000,
                progress=lambda done, total, what: print(done, flush=True))
"""


def run_and_kill(script: str, home: Path, *more: str, after: float) -> list[str]:
    """Start a child, kill -9 its process some seconds after its first line; what it wrote."""
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(home), root, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stderr is not None
    first = child.stdout.readline()
    time.sleep(after)
    os.kill(child.pid, signal.SIGKILL)
    rest, errors = child.communicate()
    assert first, errors
    return [first, *rest.splitlines(keepends=True)]


def kills(home: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    acknowledged: set[int] = set()
    for i in range(count):
        lines = run_and_kill(WRITER, home, str(i * 1_000_000), after=rng.random() * 0.4)
        acknowledged |= {int(line) for line in lines if line.endswith("\n")}
        with (
            EmbeddedOnlineStore(home / "online", map_size=1 << 28) as online,
            push.Pusher(home, online, VIEWS) as pusher,
        ):
            at = (i + 1) * 1_000_000
            service = d.FeatureService("both", VIEWS)
            row = Lookup(compile_plan(service), online).rows([{"k": 100}], at=[at])[0]
            assert row["windows__n_count_1d"] == row["windows__n_distinct_1d"], seed
            pusher.land()
            files = push.landed(home, "s")
            landed = pa.concat_tables([pq.read_table(f) for f in files], promote_options="permissive")
            pushed = [n for k, n in zip(landed["k"].to_pylist(), landed["n"].to_pylist(), strict=True) if k == 100]
            assert acknowledged <= set(pushed), (seed, sorted(acknowledged - set(pushed))[:5])
            assert len(pushed) == len(set(pushed)), seed
            assert row["windows__n_count_1d"] == len(pushed), seed
            assert row["newest__n"] == row["windows__n_max_1d"] == max(pushed), seed
        if rng.random() < 0.3:  # the store is a cache: it may be lost at any time
            shutil.rmtree(home / "online")


def test_pushes_survive_kills(tmp_path: Path) -> None:
    kills(tmp_path, 5, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_pushes_survive_five_hundred_kills(tmp_path: Path) -> None:
    for seed in range(-(-KILLS // 25)):
        (tmp_path / str(seed)).mkdir()
        kills(tmp_path / str(seed), min(25, KILLS - 25 * seed), seed=seed + 100)


def materialize_kills(home: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    n = 20_000
    rows = [(rng.randrange(400), i) for i in range(n)]
    times = pa.array([i for _, i in rows], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"k": [k for k, _ in rows], "n": [i for _, i in rows], "t": times}), home / "s.parquet")
    for _ in range(count):
        run_and_kill(MATERIALIZER, home, after=rng.random() * 0.5)
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", MATERIALIZER, str(home), root], check=True, stdout=subprocess.DEVNULL)
    with EmbeddedOnlineStore(home / "online", map_size=1 << 28) as online:
        service = d.FeatureService("both", VIEWS)
        got = Lookup(compile_plan(service), online).rows([{"k": k} for k in range(400)], at=[10**6] * 400)
    for k in range(400):
        mine = [i for key, i in rows if key == k]
        wanted = (len(mine), max(mine, default=None), max(mine, default=None))
        assert (got[k]["windows__n_count_1d"], got[k]["windows__n_max_1d"], got[k]["newest__n"]) == wanted, (seed, k)


def test_materialization_survives_kills(tmp_path: Path) -> None:
    materialize_kills(tmp_path, 3, seed=5)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_materialization_survives_many_kills(tmp_path: Path) -> None:
    for seed in range(-(-KILLS // 10)):
        (tmp_path / str(seed)).mkdir()
        materialize_kills(tmp_path / str(seed), min(10, KILLS - 10 * seed), seed=seed)


def test_a_torn_record_at_the_end_was_never_acknowledged(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    log = journal.Journal(folder)
    log.sync(log.append("s", [{"k": 1}], 5))
    whole = log.end
    log.sync(log.append("s", [{"k": 2}], 6))
    log.close()
    path = folder / f"{whole.segment:012d}.log"
    data = path.read_bytes()
    for cut in range(whole.offset, len(data)):
        path.write_bytes(data[:cut])
        assert [p.rows for p in journal.read(folder)] == [[{"k": 1}]]
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    again = journal.Journal(folder)
    again.sync(again.append("s", [{"k": 3}], 7))
    again.close()
    assert [p.rows for p in journal.read(folder)] == [[{"k": 1}], [{"k": 3}]]
