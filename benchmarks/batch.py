"""``holdfast batch`` over a Parquet table against the bare ONNX Runtime over the same rows in memory: the share of the bare
rate that reading, checking, scoring and writing leave, and the memory that takes whatever the table's size."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.serving import FEATURES, NAMES, project

PART = 65_536
# In a process of its own, so that its memory is its own: fill in the path, score it, say what it took.
OURS = """
import resource, sys, time
from pathlib import Path
from holdfast.core.records import Arm
from holdfast.server.dataplane import loader
from holdfast.serving import release_file
from holdfast.serving.batch import score_file
from holdfast.workspace import Workspace
root, source, target, threads = sys.argv[1:]
with Workspace.open(Path(root)) as workspace:
    release = release_file.read(workspace.home / "releases", "bench", "production", workspace.secret("release"))
    model = loader(workspace, threads=int(threads))(release.champion)
    model.warm()
    begun = time.perf_counter()
    done = score_file(model, Path(source), Path(target), now=0)
    print(done.rows, time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""


def table(path: Path, rows: int) -> None:
    rng = np.random.default_rng(3)
    schema = pa.schema([(n, pa.float64()) for n in NAMES])
    with pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=False) as writer:
        for first in range(0, rows, PART):
            n = min(PART, rows - first)
            matrix = rng.normal(0, 2, (n, FEATURES))
            writer.write_table(pa.table({name: matrix[:, i] for i, name in enumerate(NAMES)}, schema=schema))


def bare(model: Path, rows: int, threads: int) -> float:
    """Rows a second of the runtime alone, over float32 parts that are already in memory."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    kind = np.float64 if "double" in given.type else np.float32
    output = [o.name for o in session.get_outputs() if o.type in ("tensor(float)", "tensor(double)")][-1]
    part = np.random.default_rng(3).normal(0, 2, (PART, FEATURES)).astype(kind)
    session.run([output], {given.name: part[:1000]})
    begun, done = time.perf_counter(), 0
    while done < rows:
        session.run([output], {given.name: part})
        done += PART
    return done / (time.perf_counter() - begun)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks batch", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as scratch:
        work = Path(scratch)
        model = project(work / "p", "forest", compiled=True)
        table(work / "rows.parquet", options.rows)
        sample = min(options.rows, 1_000_000)
        before = bare(model, sample, options.threads)
        words = [str(work / "p"), str(work / "rows.parquet"), str(work / "scored.parquet"), str(options.threads)]
        told = subprocess.run([sys.executable, "-c", OURS, *words], capture_output=True, text=True, check=True).stdout
        after = bare(model, sample, options.threads)
        rows, seconds, memory = (float(x) for x in told.split())
        if int(rows) != pq.read_metadata(work / "scored.parquet").num_rows:
            raise SystemExit("rows are missing from the result")
    rate, alone = rows / seconds, (before + after) / 2
    result: dict[str, Any] = {
        "rows": int(rows), "holdfast_rows_s": round(rate), "bare_rows_s": round(alone), "bare_before_after": [round(before), round(after)],
        "ratio": round(rate / alone, 3), "memory_mb": round(memory),
    }  # fmt: skip
    print(f"{int(rows):,} rows: {rate:,.0f} rows/s, {memory:.0f} MB at most; the bare runtime {alone:,.0f} rows/s")
    print(f"batch: holdfast / bare ONNX Runtime (promise 0.7): {result['ratio']}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
