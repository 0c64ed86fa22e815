"""Drift, side by side in one run: a window against a reference of many rows, Holdfast's profile beside Evidently's
preset.

Both get the same Parquet files, are warmed on a small part, and are timed in CPU seconds of their own process,
import, reading and first call excluded. Holdfast's profile is built once at training time; its cost is shown apart
and, in the last ratio, added. The verdicts are shown too: 40 numeric and 10 text columns of which three numeric and
one text column really moved.

    python -m benchmarks monitoring [--reference ROWS] [--rows ROWS] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NUMERIC, TEXT = 40, 10
MOVED = ("x0", "x1", "x2", "c0")
DAY = 86_400_000_000
START = 15_700 * DAY
PROMISE = 75.0

_EVIDENTLY = """
import os, sys, json, time
os.environ["DO_NOT_TRACK"] = "1"
import pandas as pd
from evidently import Dataset, DataDefinition, Report
from evidently.presets import DataDriftPreset
folder = sys.argv[1]
reference, window = (pd.read_parquet(f"{folder}/{n}.parquet") for n in ("reference", "window"))
numeric = [c for c in window.columns if c.startswith("x")]
text = [c for c in window.columns if c.startswith("c")]
definition = DataDefinition(numerical_columns=numeric, categorical_columns=text)
def run(a, b):
    a, b = (Dataset.from_pandas(t[numeric + text], data_definition=definition) for t in (a, b))
    return Report([DataDriftPreset()]).run(b, a)
run(reference.head(2000), window.head(1000))
wall, cpu = time.perf_counter(), time.process_time()
result = run(reference, window)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
named = []
for metric in result.dict()["metrics"]:
    text_of = json.dumps(metric, default=str)
    column = (metric.get("config") or {}).get("column")
    threshold = (metric.get("config") or {}).get("threshold")
    value = metric.get("value")
    if column and isinstance(value, (int, float)) and threshold is not None and value >= threshold:
        named.append(column)
print("RESULT" + json.dumps({"wall": wall, "cpu": cpu, "named": sorted(set(named))}))
"""


def table(rng: np.random.Generator, rows: int, first_day: int, days: int, *, moved: bool) -> pa.Table:
    """Rows in time order; where ``moved``, three numeric columns by 0.2 sd and one text column by 10 % of its rows."""
    at = np.sort(rng.integers(0, days * DAY, rows)) + START + first_day * DAY
    columns: dict[str, Any] = {"request_time": at}
    for j in range(NUMERIC):
        x = rng.normal(size=rows) if j % 2 else rng.gamma(2.0, size=rows)
        columns[f"x{j}"] = x + (0.2 * x.std() if moved and f"x{j}" in MOVED else 0.0)
    names = np.array([f"kind{i}" for i in range(20)])
    for j in range(TEXT):
        codes = np.minimum(rng.geometric(0.2, rows) - 1, 19)
        if moved and f"c{j}" in MOVED:
            codes = np.where(rng.random(rows) < 0.1, 19, codes)
        columns[f"c{j}"] = names[codes]
    return pa.table(columns)


def ours(folder: Path) -> dict[str, Any]:
    """Build the profile, then compare three times; the median comparison."""
    from holdfast.core.definitions import Drift
    from holdfast.monitoring import drift

    reference, window = (pq.read_table(folder / f"{n}.parquet") for n in ("reference", "window"))
    columns = [c for c in window.column_names if c != "request_time"]
    small = reference.slice(0, 2000)
    drift.compare(
        drift.profile(small, np.asarray(small["request_time"]), columns=columns), window.slice(0, 1000), drift=Drift()
    )
    wall, cpu = time.perf_counter(), time.process_time()
    profile = drift.profile(reference, np.asarray(reference["request_time"]), columns=columns)
    built = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "bytes": len(profile)}
    turns = []
    found: list[Any] = []
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        found = drift.compare(profile, window, drift=Drift())
        turns.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = sorted(turns)[1]
    return {"build": built, "cpu": cpu, "wall": wall, "named": sorted({s.name for s in found if s.alarm})}


def theirs(folder: Path, python: Path, timeout: float) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [str(python), "-c", _EVIDENTLY, str(folder)], capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return {"error": f"did not end in {timeout:.0f} s"}
    line = next((x for x in done.stdout.splitlines() if x.startswith("RESULT")), None)
    if line is None:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1][:300]}
    result: dict[str, Any] = json.loads(line[6:])
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks monitoring", description=__doc__)
    parser.add_argument("--reference", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--no-peer", action="store_true", help="Holdfast only")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds the peer may take")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    reference_rows, rows = (
        (options.reference // 10, options.rows // 10) if options.quick else (options.reference, options.rows)
    )
    rng = np.random.default_rng(7)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pq.write_table(table(rng, reference_rows, 0, 60, moved=False), folder / "reference.parquet")
        pq.write_table(table(rng, rows, 60, 7, moved=True), folder / "window.parquet")
        figures: dict[str, Any] = {"reference": reference_rows, "rows": rows, "holdfast": ours(folder)}
        if not options.no_peer:
            try:
                from tests.peers import environments

                figures["evidently"] = theirs(folder, environments.python_of("evidently"), options.timeout)
            except (OSError, subprocess.CalledProcessError) as error:
                figures["evidently"] = {"error": f"cannot be installed: {error}"}
    _print(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))
    return 0


def _print(figures: dict[str, Any]) -> None:
    mine = figures["holdfast"]
    print(
        f"drift of {figures['rows']:,} rows x {NUMERIC + TEXT} columns against {figures['reference']:,}; moved: {', '.join(MOVED)}"
    )
    built = mine["build"]
    print(
        f"  holdfast   profile, once   {built['cpu']:8.2f} s CPU  {built['wall']:8.2f} s  {built['bytes'] / 1e3:.0f} kB"
    )
    print(
        f"  holdfast   compare         {mine['cpu']:8.3f} s CPU  {mine['wall']:8.3f} s  named {', '.join(mine['named']) or 'nothing'}"
    )
    peer = figures.get("evidently")
    if peer is None:
        return
    if "error" in peer:
        print(f"  evidently  {peer['error']}")
        return
    print(
        f"  evidently  report          {peer['cpu']:8.2f} s CPU  {peer['wall']:8.2f} s  named {', '.join(peer['named']) or 'nothing'}"
    )
    ratio, whole = peer["cpu"] / mine["cpu"], peer["cpu"] / (mine["cpu"] + built["cpu"])
    print(
        f"  evidently / compare: {ratio:.0f} x (promised {PROMISE:.0f}); with the profile built for one window: {whole:.0f} x"
    )
    figures["ratio"] = ratio


if __name__ == "__main__":
    sys.exit(main())
