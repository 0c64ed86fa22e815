"""Features, side by side with Feast in one run: training sets, online reads, pushes, materialization, windows.

Same files, same rows, same entities; Feast 0.67 in its own virtual environment, on DuckDB offline and SQLite online. Read
ratios, not absolute numbers: the machine may be busy. ``--rows`` scales the large source (10 M in the printed promise).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

START = 1_700_000_000_000_000
DAY = 86_400_000_000
FEATURES = [f"f{i}" for i in range(5)]

FEAST = r"""
import json, resource, sys, time
from datetime import timedelta
from pathlib import Path
import pandas as pd, pyarrow as pa
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig, ValueType
from feast.types import Float64
folder, entities = Path(sys.argv[1]), int(sys.argv[2])
store = FeatureStore(config=RepoConfig(project="p", provider="local", registry=str(folder / "registry.db"),
    offline_store={"type": "duckdb"}, online_store={"type": "sqlite", "path": str(folder / "feast.db")},
    entity_key_serialization_version=3))
key = Entity(name="k", join_keys=["k"], value_type=ValueType.INT64)
views = []
for name in ("small", "large"):
    source = FileSource(name=name + "_file", path=str(folder / (name + ".parquet")), timestamp_field="t")
    views.append(FeatureView(name=name, entities=[key], ttl=timedelta(days=3650), schema=[Field(name=f"{name}_f{i}", dtype=Float64) for i in range(5)],
        source=PushSource(name=name + "_push", batch_source=source) if name == "small" else source))
store.apply([key, *views])
out = {}
features = [f"{n}:{n}_f{i}" for n in ("small", "large") for i in range(5)]
spine = pd.read_parquet(folder / "spine.parquet").rename(columns={"t": "event_timestamp"})
out["historical"] = []
for _ in range(2):
    t = time.perf_counter(); got = store.get_historical_features(spine, features).to_arrow(); out["historical"].append(time.perf_counter() - t)
out["rows"] = got.num_rows
out["sums"] = {f"{n}__f{i}": float(pd.Series(got.column(f"{n}_f{i}").to_pandas()).sum()) for n in ("small", "large") for i in range(5)}
out["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
table = pd.read_parquet(folder / "online.parquet")
t = time.perf_counter()
for n in ("small", "large"):
    store.write_to_online_store(n, table.rename(columns={f"f{i}": f"{n}_f{i}" for i in range(5)}))
out["write_rows_per_s"] = 2 * len(table) / (time.perf_counter() - t)
def p50(rows, count):
    times = []
    for i in range(count):
        asked = [{"k": (i * 37 + j) % entities} for j in range(rows)]
        t = time.perf_counter(); store.get_online_features(features, asked).to_dict(); times.append(time.perf_counter() - t)
    return sorted(times)[len(times) // 2]
p50(1, 5)
out["get_1"], out["get_100"] = p50(1, 200), p50(100, 20)
one = table.head(1).rename(columns={f"f{i}": f"small_f{i}" for i in range(5)})
times = []
for i in range(30):
    t = time.perf_counter(); store.push("small_push", one); times.append(time.perf_counter() - t)
out["push"] = sorted(times)[len(times) // 2]
print("RESULT" + json.dumps(out))
"""

OURS = r"""
import json, resource, sys, time
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from holdfast.backends.engine_duckdb import DuckdbEngine
from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.core import definitions as d
from holdfast.features import materialize, point_in_time
from holdfast.features.lookup import Lookup, compile_plan
from holdfast.features.push import Pusher
folder, entities = Path(sys.argv[1]), int(sys.argv[2])
views = [d.FeatureView(n, [d.Entity("k")], d.Source(n, n + ".parquet", timestamp="t"),
    [d.Field(f"f{i}", float, column=f"{n}_f{i}") for i in range(5)], ttl="3650d") for n in ("small", "large")]
service = d.FeatureService("both", views)
files = {n: [folder / (n + ".parquet")] for n in ("small", "large")}
engine = DuckdbEngine(spill=folder / "spill")
out = {"historical": []}
spine = pq.read_table(folder / "spine.parquet")
for _ in range(2):
    t = time.perf_counter()
    got = point_in_time.historical(engine, service, spine, timestamp="t", sources=files, cache=folder / "cache")
    out["historical"].append(time.perf_counter() - t)
out["rows"] = got.num_rows
out["sums"] = {c: float(got.column(c).to_pandas().sum()) for c in service.columns()}
out["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
online_table = pq.read_table(folder / "online.parquet")
tables = {n: online_table.rename_columns(["k", "t", *(f"{n}_f{i}" for i in range(5))]) for n in ("small", "large")}
with EmbeddedOnlineStore(folder / "ours") as online:
    end = 1_800_000_000_000_000
    t = time.perf_counter()
    materialize.run(online, engine, views, tables, start=None, end=end)
    out["write_rows_per_s"] = 2 * online_table.num_rows / (time.perf_counter() - t)
    lookup = Lookup(compile_plan(service), online)
    def p50(rows, count):
        times = []
        for i in range(count):
            asked = [{"k": (i * 37 + j) % entities} for j in range(rows)]
            t = time.perf_counter(); lookup.rows(asked, at=[end] * rows); times.append(time.perf_counter() - t)
        return sorted(times)[len(times) // 2]
    p50(1, 50)
    out["get_1"], out["get_100"] = p50(1, 5000), p50(100, 200)
    for durable in (False, True):
        with Pusher(folder / f"push{durable}", online, views, durable=durable) as pusher:
            times = []
            for i in range(300):
                row = [{"k": 1, "t": end - 1000 + i, **{f"small_f{j}": float(i) for j in range(5)}}]
                t = time.perf_counter(); pusher.push("small", row, arrived=end); times.append(time.perf_counter() - t)
            out["push_durable" if durable else "push"] = sorted(times)[len(times) // 2]
    from holdfast.features import blocks
    events = [(i * 1000, i * 1000, 0, i, (float(i % 97),)) for i in range(10_000)]
    for name, functions in (("window", ["count", "sum", "mean", "min", "max"]), ("distinct", ["distinct"])):
        base = blocks.build(events, [name == "distinct"])
        window = blocks.Window([(f"{f}{w}", 0, f, w) for f in functions for w in (10**6, 5 * 10**6, 10**7)])
        into, times = {}, []
        for _ in range(2000):
            t = time.perf_counter(); window.read(base, None, 10**7, into); times.append(time.perf_counter() - t)
        out[name] = sorted(times)[len(times) // 2]
print("RESULT" + json.dumps(out))
"""


def make(folder: Path, rows: int, spine_rows: int, entities: int, online: int) -> None:
    """The files both read."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(7)

    def instants(n: int) -> pa.Array:
        return pa.array(START + rng.integers(0, 60 * DAY, n)).cast(pa.timestamp("us", tz="UTC"))

    for name, n in (("small", rows // 10), ("large", rows)):
        columns: dict[str, Any] = {"k": rng.integers(0, entities, n), "t": instants(n)}
        columns |= {f"{name}_{f}": rng.normal(size=n) for f in FEATURES}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    pq.write_table(
        pa.table({"k": rng.integers(0, entities, spine_rows), "t": instants(spine_rows)}), folder / "spine.parquet"
    )
    columns = {"k": np.arange(online), "t": instants(online), **{f: rng.normal(size=online) for f in FEATURES}}
    pq.write_table(pa.table(columns), folder / "online.parquet")


def run(python: str, script: str, folder: Path, entities: int) -> dict[str, Any]:
    """One side in a process of its own; its figures."""
    done = subprocess.run(
        [python, "-c", script, str(folder), str(entities)], capture_output=True, text=True, check=False
    )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT"):
            found: dict[str, Any] = json.loads(line[6:])
            return found
    raise SystemExit(f"a side failed:\n{done.stderr[-3000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=int, default=10_000_000, help="rows of the large source; the small one has a tenth"
    )
    parser.add_argument("--spine", type=int, default=100_000)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--online", type=int, default=20_000, help="entities written online")
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))
    try:
        make(folder, options.rows, options.spine, options.entities, options.online)
        entities = min(options.entities, options.online)
        ours = run(sys.executable, OURS, folder, entities)
        theirs: dict[str, Any] = {}
        if not options.no_peer:
            from tests.peers import environments

            theirs = run(str(environments.python_of("feast")), FEAST, folder, entities)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if theirs:
        assert ours["rows"] == theirs["rows"] == options.spine
        for column, total in ours["sums"].items():
            assert abs(total - theirs["sums"][column]) < 1e-6 * options.spine, (column, total, theirs["sums"][column])
    show(ours, theirs)
    return 0


def show(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """One line per promise: ours, Feast's, ratio, what is promised."""

    def line(
        what: str, mine: float, peer: float | None, unit: str, scale: float, promise: str, *, larger: bool = False
    ) -> None:
        ratio = "" if not peer else f"{(mine / peer if larger else peer / mine):8.1f} ×"
        shown = "–" if peer is None else f"{peer * scale:.4g} {unit}"
        print(f"{what:42} {mine * scale:10.4g} {unit:8} Feast {shown:16} {ratio:12} promised {promise}")

    first, again = ours["historical"]
    feast_first, feast_again = theirs.get("historical", (None, None))
    line("training set, first", first, feast_first, "s", 1, "2 ×")
    line("training set, again", again, feast_again, "s", 1, "5 ×")
    line("peak memory", ours["peak_mb"], theirs.get("peak_mb"), "MiB", 1, "below")
    line("online, 1 row × 10 features", ours["get_1"], theirs.get("get_1"), "µs", 1e6, "25 ×, ≤ 25 µs")
    line("online, 100 rows", ours["get_100"], theirs.get("get_100"), "µs", 1e6, "20 ×")
    line("push of one event, no fsync", ours["push"], theirs.get("push"), "ms", 1e3, "75 ×, ≤ 0.5 ms")
    line("push of one event, durable", ours["push_durable"], theirs.get("push"), "ms", 1e3, "one fsync more")
    line(
        "written online", ours["write_rows_per_s"], theirs.get("write_rows_per_s"), "rows/s", 1, "≥ 60,000", larger=True
    )
    line("3 windows × 5 functions over 10,000 events", ours["window"], None, "µs", 1e6, "≤ 100 µs")
    line("distinct, 3 windows over 10,000 events", ours["distinct"], None, "µs", 1e6, "≤ 1 ms")


if __name__ == "__main__":
    sys.exit(main())
