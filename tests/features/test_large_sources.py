"""Sources larger than the memory they may take: exact, in a process that is measured.

The ordinary sample has a million rows and bounds to match; ``HOLDFAST_LARGE_ROWS`` (100 million) is for the soak.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

STEP, START, KEYS_EACH = 1000, 1_700_000_000_000_000, 100
PRIME = 1_000_003

CHILD = """
import json, resource, sys
from pathlib import Path
import pyarrow as pa
from holdfast.backends.engine_duckdb import DuckdbEngine
from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.core import definitions as d
from holdfast.features import candidates, materialize, point_in_time, sorted_source
from holdfast.features.lookup import Lookup, compile_plan

folder, rows, memory, held = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
start, step, keys = 1_700_000_000_000_000, 1000, rows // 100
sorted_source.MOST_ROWS = point_in_time.MOST_EVENTS = candidates.SPARE = held
source = d.Source("s", "s.parquet", timestamp="t")
views = [
    d.FeatureView("newest", [d.Entity("k")], source, [d.Field("x", int)], ttl="3650d"),
    d.FeatureView("window", [d.Entity("k")], source, [d.Aggregation("x", ["count", "sum", "max"], [f"{rows * step // 2_000_000}s"])]),
]
files = sorted(folder.glob("*.parquet"))
engine = DuckdbEngine(memory=memory, threads=2, spill=folder / "spill")
asked = [(i * 7919) % (keys + 5) for i in range(2000)]
at = [start + (i * 104729) % rows * step for i in range(2000)]
spine = pa.table({"k": asked, "t": pa.array(at).cast(pa.timestamp("us", tz="UTC"))})
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
got = point_in_time.historical(engine, d.FeatureService("both", views), spine, timestamp="t", sources={"s": files}, cache=folder / "cache")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with EmbeddedOnlineStore(folder / "online") as online:
    found = materialize.run(online, engine, views[:1], {"s": files}, start=None, end=start + rows * step, chunk_rows=held)
    lookup = Lookup(compile_plan(d.FeatureService("newest", views[:1])), online)
    online_rows = lookup.rows([{"k": k} for k in asked], at=[start + rows * step] * len(asked))
print(json.dumps({
    "offline": got.to_pylist(), "online": online_rows, "chunks": found[0]["chunks"], "entities": found[0]["entities"],
    "before_mb": base >> 10, "historical_mb": after >> 10, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
}, default=str))
"""


def large(folder: Path, rows: int, files: int, *, memory: str, held: int) -> dict[str, Any]:
    """Make the source, ask the child, check its answers row by row; what it says of its memory.

    Row i has key i mod (rows / 100), time START + (i × PRIME mod rows) × STEP and value i, so a key's rows are known.
    """
    keys = rows // KEYS_EACH
    for n in range(files):
        duckdb.sql(
            f"COPY (SELECT i % {keys} AS k, make_timestamptz({START} + (i * {PRIME} % {rows}) * {STEP}) AS t, i AS x "
            f"FROM range({rows * n // files}, {rows * (n + 1) // files}) r(i)) TO '{folder}/{n:03d}.parquet'"
        )
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(rows), memory, str(held)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    window = rows * STEP // 2_000_000 * 1_000_000
    end = START + rows * STEP
    for i, (offline, online) in enumerate(zip(found["offline"], found["online"], strict=True)):
        key, now = (i * 7919) % (keys + 5), START + (i * 104729) % rows * STEP
        mine = [(START + j * PRIME % rows * STEP, j) for j in range(key, rows, keys)] if key < keys else []
        known = [m for m in mine if m[0] <= now]
        assert offline["newest__x"] == (max(known)[1] if known else None), i
        assert online["newest__x"] == (max(m for m in mine if m[0] <= end)[1] if mine else None), i
        inside = [x for t, x in known if t > now - window]
        got = [v for k, v in offline.items() if k.startswith("window__")]
        assert got == [len(inside), float(sum(inside)) if inside else None, max(inside, default=None)], i
    assert found["entities"] == keys
    assert found["chunks"] == -(-rows // held)
    return found


def test_a_source_larger_than_its_bounds_is_exact(tmp_path: Path) -> None:
    large(tmp_path, 300_000, 3, memory="256MB", held=40_000)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_hundred_million_rows_in_little_memory(tmp_path: Path) -> None:
    rows = int(os.environ.get("HOLDFAST_LARGE_ROWS", "100000000"))
    found = large(tmp_path, rows, 10, memory="600MB", held=10_000_000)
    data = sum(p.stat().st_size for p in tmp_path.glob("*.parquet")) >> 20
    print(
        {k: v for k, v in found.items() if k.endswith("_mb")}, "parquet", data, "MB, in memory", rows * 24 >> 20, "MB"
    )
    assert found["peak_mb"] < max(rows * 24 >> 20, 2500) * 0.75
