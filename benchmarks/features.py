"""Features, side by side with Feast in one run: training sets, online reads, pushes, materialization, windows.

Same files, same rows, same entities; Feast 0.67 in its own virtual environment, on DuckDB offline and SQLite online. Read
ratios, not absolute numbers: the machine may be busy. ``--rows`` scales the large source (10 M in the printed promise).
The second training set has another spine than the first; both sides make theirs in turns, the middle of three is shown, and
the processor's seconds beside it, which a busy machine stretches less. Parts (``--only``): historical, raw (a large spine against
DuckDB's and Polars' own joins), online, http (8 connections, one worker), redis, windows. Inputs are kept in
``.cache/bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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
folder, entities, parts = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")
for old in ("registry.db", "feast.db"):
    (folder / old).unlink(missing_ok=True)
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
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
features = [f"{n}:{n}_f{i}" for n in ("small", "large") for i in range(5)]
if "historical" in parts:
    out["historical"], out["sums"], out["cpu"] = [], [], []
    for name in ("spine", "spine2"):
        used = cpu()
        spine = pd.read_parquet(folder / (name + ".parquet")).rename(columns={"t": "event_timestamp"})
        t = time.perf_counter(); got = store.get_historical_features(spine, features).to_arrow(); out["historical"].append(time.perf_counter() - t)
        out["cpu"].append(cpu() - used)
        out["sums"].append({f"{n}__f{i}": float(got.column(f"{n}_f{i}").to_pandas().sum()) for n in ("small", "large") for i in range(5)})
    out["rows"] = got.num_rows
    out["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def p50(rows, count):
    times = []
    for i in range(count):
        asked = [{"k": (i * 37 + j) % entities} for j in range(rows)]
        t = time.perf_counter(); store.get_online_features(features, asked).to_dict(); times.append(time.perf_counter() - t)
    return sorted(times)[len(times) // 2]
if "online" in parts:
    table = pd.read_parquet(folder / "online.parquet")
    t = time.perf_counter()
    for n in ("small", "large"):
        store.write_to_online_store(n, table.rename(columns={f"f{i}": f"{n}_f{i}" for i in range(5)}))
    out["write_rows_per_s"] = 2 * len(table) / (time.perf_counter() - t)
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
import json, resource, shutil, sys, time
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from holdfast.backends.engine_duckdb import DuckdbEngine
from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.core import definitions as d
from holdfast.features import materialize, point_in_time
from holdfast.features.lookup import Lookup, compile_plan
from holdfast.features.push import Pusher
folder, entities, parts = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")
for old in ("cache", "spill", "ours", "redis", "windows", "pushFalse", "pushTrue"):
    shutil.rmtree(folder / old, ignore_errors=True)
views = [d.FeatureView(n, [d.Entity("k")], d.Source(n, n + ".parquet", timestamp="t"),
    [d.Field(f"f{i}", float, column=f"{n}_f{i}") for i in range(5)], ttl="3650d") for n in ("small", "large")]
service = d.FeatureService("both", views)
files = {n: [folder / (n + ".parquet")] for n in ("small", "large")}
engine = DuckdbEngine(spill=folder / "spill")
out = {}
end = 1_800_000_000_000_000
def middle(times):
    return sorted(times)[len(times) // 2]
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
def training(spine, cache):
    t = time.perf_counter()
    got = point_in_time.historical(engine, service, spine, timestamp="t", sources=files, cache=cache)
    return time.perf_counter() - t, got
if "historical" in parts:
    out["historical"], out["sums"], out["cpu"] = [], [], []
    for name in ("spine", "spine2"):
        used = cpu()
        took, got = training(pq.read_table(folder / (name + ".parquet")), folder / "cache")
        out["historical"].append(took)
        out["cpu"].append(cpu() - used)
        out["sums"].append({c: float(got.column(c).to_pandas().sum()) for c in service.columns()})
    out["rows"] = got.num_rows
    out["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
if "raw" in parts:
    import duckdb, polars
    spine = pq.read_table(folder / "spine3.parquet")
    con = duckdb.connect(); con.register("spine", spine)
    def asof():
        joins = " ".join(f"ASOF LEFT JOIN '{files[n][0]}' {n} ON s.k = {n}.k AND s.t >= {n}.t" for n in ("small", "large"))
        return con.sql(f"SELECT s.*, small.* EXCLUDE (k, t), large.* EXCLUDE (k, t) FROM spine s {joins}").to_arrow_table()
    def numbered():
        counted = "(SELECT *, row_number() OVER () AS i FROM spine)"
        def one(n):
            return (f"(SELECT i, v.* EXCLUDE (k, t) FROM {counted} s JOIN '{files[n][0]}' v ON v.k = s.k AND v.t <= s.t "
                "QUALIFY row_number() OVER (PARTITION BY i ORDER BY v.t DESC) = 1)")
        return con.sql(f"SELECT s.*, a.* EXCLUDE (i), b.* EXCLUDE (i) FROM {counted} s "
            f"LEFT JOIN {one('small')} a USING (i) LEFT JOIN {one('large')} b USING (i)").to_arrow_table()
    def in_polars():
        left = polars.from_arrow(spine).with_row_index("i").sort("t")
        for n in ("small", "large"):
            left = left.join_asof(polars.read_parquet(files[n][0]).sort("t"), on="t", by="k", check_sortedness=False)
        return left.sort("i")
    out["raw"] = {}
    for name, run in (("DuckDB ASOF", asof), ("DuckDB row_number", numbered), ("Polars join_asof", in_polars)):
        t = time.perf_counter(); got = run(); out["raw"][name] = time.perf_counter() - t
        assert len(got) == spine.num_rows
        del got
    out["raw ours"] = [training(spine, None)[0], training(spine, folder / "cache")[0], training(spine, folder / "cache")[0]]
def p50(lookup, rows, count):
    times = []
    for i in range(count):
        asked = [{"k": (i * 37 + j) % entities} for j in range(rows)]
        t = time.perf_counter(); lookup.rows(asked, at=[end] * rows); times.append(time.perf_counter() - t)
    return middle(times)
def fill(online):
    table = pq.read_table(folder / "online.parquet")
    tables = {n: table.rename_columns(["k", "t", *(f"{n}_f{i}" for i in range(5))]) for n in ("small", "large")}
    t = time.perf_counter()
    materialize.run(online, engine, views, tables, start=None, end=end)
    return 2 * table.num_rows / (time.perf_counter() - t)
if "online" in parts:
    with EmbeddedOnlineStore(folder / "ours") as online:
        out["write_rows_per_s"] = fill(online)
        lookup = Lookup(compile_plan(service), online)
        p50(lookup, 1, 50)
        out["get_1"], out["get_100"] = p50(lookup, 1, 5000), p50(lookup, 100, 200)
        for durable in (False, True):
            with Pusher(folder / f"push{durable}", online, views, durable=durable) as pusher:
                times = []
                for i in range(300):
                    row = [{"k": 1, "t": end - 1000 + i, **{f"small_f{j}": float(i) for j in range(5)}}]
                    t = time.perf_counter(); pusher.push("small", row, arrived=end); times.append(time.perf_counter() - t)
                out["push_durable" if durable else "push"] = middle(times)
        source = d.Source("w", "w.parquet", timestamp="t", schema={"k": int, "x": float, "kind": str})
        for name, where in (("push_where", "x > 1 AND kind = 'a'"), ("push_sql", "lower(kind) = 'a'")):
            counted = d.FeatureView("w", [d.Entity("k")], source, [d.Aggregation("x", ["count", "sum"], ["1h"], where=where)])
            with Pusher(folder / "pushFalse", online, [counted], durable=False) as pusher:
                times = []
                for i in range(300):
                    row = [{"k": 1, "t": end - 1000 + i, "x": float(i), "kind": "a"}]
                    t = time.perf_counter(); pusher.push("w", row, arrived=end); times.append(time.perf_counter() - t)
                out[name] = middle(times)
if "redis" in parts:
    import msgspec, redis
    from holdfast.backends.online_redis import RedisOnlineStore
    url = sys.argv[4]
    online = RedisOnlineStore(url)
    fill(online)
    lookup = Lookup(compile_plan(service), online)
    client = redis.Redis.from_url(url)
    for k in range(entities):
        client.mset({f"{n}/{k}": msgspec.msgpack.encode([0.5 * i for i in range(5)]) for n in ("small", "large")})
    def raw(rows, i):
        return [msgspec.msgpack.decode(v) for v in client.mget([f"{n}/{(i * 37 + j) % entities}" for j in range(rows) for n in ("small", "large")])]
    for rows, count in ((1, 3000), (100, 300)):
        mine, theirs = [], []
        for i in range(count):  # in turns, so that both see the same machine
            asked = [{"k": (i * 37 + j) % entities} for j in range(rows)]
            t = time.perf_counter(); lookup.rows(asked, at=[end] * rows); mine.append(time.perf_counter() - t)
            t = time.perf_counter(); raw(rows, i); theirs.append(time.perf_counter() - t)
        out[f"redis_{rows}"] = [middle(mine), middle(theirs)]
if "windows" in parts:
    for name, functions in (("window", ["count", "sum", "mean", "min", "max"]), ("distinct", ["distinct"])):
        view = d.FeatureView("w", [d.Entity("k")], d.Source("w", "w.parquet", timestamp="t"), [d.Aggregation("x", functions, ["1h", "1d", "30d"])])
        step = 30 * 86_400_000_000 // 10_000
        times = pa.array([end - i * step for i in range(10_000)]).cast(pa.timestamp("us", tz="UTC"))
        table = pa.table({"k": [1] * 10_000, "t": times, "x": [float(i % 97) / 7 for i in range(10_000)]})
        shutil.rmtree(folder / "windows", ignore_errors=True)
        with EmbeddedOnlineStore(folder / "windows") as online:
            materialize.run(online, engine, [view], {"w": table}, start=None, end=end)
            lookup = Lookup(compile_plan(d.FeatureService("w", [view])), online)
            times = []
            for _ in range(2000):
                t = time.perf_counter(); got = lookup.rows([{"k": 1}], at=[end]); times.append(time.perf_counter() - t)
            if name == "window":
                assert got[0]["w__x_count_30d"] == 10_000, got
            out[name] = middle(times)
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
    for name, n in (("spine", spine_rows), ("spine2", spine_rows), ("spine3", 10 * spine_rows)):
        pq.write_table(pa.table({"k": rng.integers(0, entities, n), "t": instants(n)}), folder / f"{name}.parquet")
    columns = {"k": np.arange(online), "t": instants(online), **{f: rng.normal(size=online) for f in FEATURES}}
    pq.write_table(pa.table(columns), folder / "online.parquet")


def run(python: str, script: str, *arguments: object) -> dict[str, Any]:
    """One side in a process of its own; its figures."""
    done = subprocess.run([python, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT"):
            found: dict[str, Any] = json.loads(line[6:])
            return found
    raise SystemExit(f"a side failed:\n{done.stderr[-3000:]}")


DEFINITIONS = """
import holdfast as hf
small, large = (hf.FeatureView(n, [hf.Entity("k")], hf.Source(n, n + ".parquet", timestamp="t"),
    [hf.Field(f"f{i}", float, column=f"{n}_f{i}") for i in range(5)], ttl="3650d") for n in ("small", "large"))
both = hf.FeatureService("both", [small, large])
"""


BARE = r"""
import asyncio, sys, uvloop
from holdfast.serving.wire import Listener, Response
answer = Response(200, b"x" * int(sys.argv[1]))
async def run():
    listener = Listener(lambda request: answer)
    server = await asyncio.get_running_loop().create_server(listener.connection, "127.0.0.1", 0)
    print("on", server.sockets[0].getsockname()[1], file=sys.stderr, flush=True)
    await asyncio.Event().wait()
uvloop.run(run())
"""
ROUNDS = 3


def http(data: Path, seconds: float = 3.0) -> dict[str, Any]:
    """The feature server as users start it, one worker, 8 connections, each asks when answered; in turns with the same HTTP
    server answering constant bytes, so that a busy machine shows in both. ``cpu`` is the server's own time a request, in s."""
    import pyarrow.parquet as pq

    holdfast = str(Path(sys.executable).with_name("holdfast"))
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as name:
        folder = Path(name)
        (folder / "holdfast.toml").touch()
        (folder / "definitions.py").write_text(DEFINITIONS)
        table = pq.read_table(data / "online.parquet")
        for n in ("small", "large"):
            pq.write_table(table.rename_columns(["k", "t", *(f"{n}_{f}" for f in FEATURES)]), folder / f"{n}.parquet")
        for command in ("apply", "materialize"):
            subprocess.run([holdfast, "features", command], cwd=folder, check=True, capture_output=True)
        features = [f"{n}:{f}" for n in ("small", "large") for f in FEATURES]
        body = json.dumps({"features": features, "entities": {"k": [5]}})
        serve = [holdfast, "features", "serve", "--port", "0"]
        servers = [
            subprocess.Popen(argv, cwd=folder, stderr=subprocess.PIPE, text=True)
            for argv in (serve, [sys.executable, "-c", BARE, "1000"])
        ]
        try:
            ports = []
            for server in servers:
                assert server.stderr is not None
                ports.append(int(server.stderr.readline().replace(":", " ").split()[-1]))
            found: list[list[float]] = [[], []]
            cpu: list[list[float]] = [[], []]
            for _ in range(ROUNDS):
                for i, (server, port) in enumerate(zip(servers, ports, strict=True)):
                    before = _cpu(server.pid)
                    done = _load(port, body, seconds)
                    found[i].append(done["rps"])
                    cpu[i].append((_cpu(server.pid) - before) / done["answered"])
            ours, bare = (sorted(some)[ROUNDS // 2] for some in found)
            return {"rps": ours, "bare": bare, "cpu": min(cpu[0]), "bare_cpu": min(cpu[1])}
        finally:
            for server in servers:
                server.terminate()
                server.wait(20)


def _load(port: int, body: str, seconds: float) -> dict[str, Any]:
    options = {
        "port": port, "path": "/get-online-features", "connections": 8, "seconds": seconds, "rate": None, "body": body,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._load", json.dumps(options)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    assert not found["failed"], found
    return found


def _cpu(pid: int) -> float:
    """Seconds of CPU a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def with_redis(work: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """A Redis of our own on a free port, in memory only, or nothing where there is none."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        print("redis: not installed, left out")
        return {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.05)
        return work(f"redis://127.0.0.1:{port}/0")
    finally:
        server.terminate()
        server.wait(20)


PARTS = ("historical", "raw", "online", "http", "redis", "windows")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=int, default=10_000_000, help="rows of the large source; the small one has a tenth"
    )
    parser.add_argument("--spine", type=int, default=100_000, help="spine rows; the part raw has ten times as many")
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--online", type=int, default=20_000, help="entities written online")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by comma")
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    parts = options.only.split(",")
    sizes = f"{options.rows}-{options.spine}-{options.entities}-{options.online}"
    folder = Path(__file__).parents[1] / ".cache" / "bench" / f"features-{sizes}"
    if not (folder / "online.parquet").exists():
        folder.mkdir(parents=True, exist_ok=True)
        make(folder, options.rows, options.spine, options.entities, options.online)
    entities = min(options.entities, options.online)
    here = [p for p in parts if p not in ("http", "redis", "historical")]
    ours = run(sys.executable, OURS, folder, entities, ",".join(here)) if here else {}
    if "http" in parts:
        ours["http"] = http(folder)
    if "redis" in parts:
        ours |= with_redis(lambda url: run(sys.executable, OURS, folder, entities, "redis", url))
    theirs: dict[str, Any] = {}
    if not options.no_peer and {"historical", "online"} & set(parts):
        from tests.peers import environments

        feast = str(environments.python_of("feast"))
        if "online" in parts:
            theirs = run(feast, FEAST, folder, entities, "online")
    if "historical" in parts:
        rounds: list[list[dict[str, Any]]] = [[], []]
        for _ in range(ROUNDS):
            rounds[0].append(run(sys.executable, OURS, folder, entities, "historical"))
            if not options.no_peer:
                rounds[1].append(run(feast, FEAST, folder, entities, "historical"))
        ours |= _middle_of(rounds[0])
        theirs |= _middle_of(rounds[1])
    if "historical" in parts and not options.no_peer:
        assert ours["rows"] == theirs["rows"] == options.spine
        for mine, peer in zip(ours["sums"], theirs["sums"], strict=True):
            for column, total in mine.items():
                assert abs(total - peer[column]) < 1e-6 * options.spine, (column, total, peer[column])
    show(ours, theirs)
    return 0


def _middle_of(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The middle of each figure of some rounds, and the largest memory."""
    if not rounds:
        return {}
    found = {**rounds[0], "peak_mb": max(r["peak_mb"] for r in rounds)}
    for name in ("historical", "cpu"):
        found[name] = [sorted(some)[len(rounds) // 2] for some in zip(*(r[name] for r in rounds), strict=True)]
    return found


def show(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """One line per promise: ours, Feast's, ratio, what is promised."""

    def line(
        what: str, mine: float, peer: float | None, unit: str, scale: float, promise: str, *, larger: bool = False
    ) -> None:
        ratio = "" if not peer else f"{(mine / peer if larger else peer / mine):8.1f} ×"
        shown = "–" if peer is None else f"{peer * scale:.4g} {unit}"
        print(f"{what:42} {mine * scale:10.4g} {unit:8} Feast {shown:16} {ratio:12} promised {promise}")

    if "historical" in ours:
        feast = theirs.get("historical", (None, None))
        line("training set, first", ours["historical"][0], feast[0], "s", 1, "2 ×")
        line("training set, second (another spine)", ours["historical"][1], feast[1], "s", 1, "5 ×")
        cpu = theirs.get("cpu", (None, None))
        line("training set, first: processor", ours["cpu"][0], cpu[0], "s", 1, "–")
        line("training set, second: processor", ours["cpu"][1], cpu[1], "s", 1, "–")
        line("peak memory", ours["peak_mb"], theirs.get("peak_mb"), "MiB", 1, "below")
    if "raw" in ours:
        best = min(ours["raw"].values())
        for name, took in ours["raw"].items():
            print(f"{name + ', 10 × spine':42} {took:10.4g} s")
        for what, took in zip(("nothing kept", "first", "second"), ours["raw ours"], strict=True):
            print(
                f"{'ours, 10 × spine, ' + what:42} {took:10.4g} s        {took / best:.2f} × the fastest of them   promised ≤ 1.5 ×"
            )
    if "get_1" in ours:
        line("online, 1 row × 10 features", ours["get_1"], theirs.get("get_1"), "µs", 1e6, "25 ×, ≤ 25 µs")
        line("online, 100 rows", ours["get_100"], theirs.get("get_100"), "µs", 1e6, "20 ×")
        line("push of one event, no fsync", ours["push"], theirs.get("push"), "ms", 1e3, "75 ×, ≤ 0.5 ms")
        line("push into a window with a comparison", ours["push_where"], None, "ms", 1e3, "≤ 0.5 ms")
        line("push into a window with other SQL", ours["push_sql"], None, "ms", 1e3, "≤ 0.5 ms")
        line("push of one event, durable", ours["push_durable"], theirs.get("push"), "ms", 1e3, "one fsync more")
        written = theirs.get("write_rows_per_s")
        line("written online", ours["write_rows_per_s"], written, "rows/s", 1, "≥ 60,000", larger=True)
    if "http" in ours:
        got = ours["http"]
        line("HTTP, 1 row, 8 connections, one worker", got["rps"], None, "/s", 1, "≥ 3,000")
        print(
            f"{'the same server answering constant bytes':42} {got['bare']:10.4g} /s       ours {got['rps'] / got['bare']:.2f} of it;"
            f"   CPU a request: {got['cpu'] * 1e6:.0f} µs, bare {got['bare_cpu'] * 1e6:.0f} µs"
        )
    for rows in (1, 100):
        if f"redis_{rows}" in ours:
            mine, raw = ours[f"redis_{rows}"]
            print(
                f"{f'Redis, {rows} rows':42} {mine * 1e6:10.4g} µs       raw client {raw * 1e6:.4g} µs   {mine / raw:.2f} × raw   promised ≤ 1.5 ×"
            )
    if "window" in ours:
        line("3 windows × 5 functions over 10,000 events", ours["window"], None, "µs", 1e6, "≤ 100 µs")
        line("distinct, 3 windows over 10,000 events", ours["distinct"], None, "µs", 1e6, "≤ 1 ms")


if __name__ == "__main__":
    sys.exit(main())
