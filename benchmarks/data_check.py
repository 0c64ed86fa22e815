"""Checking a large table beside reading it: ten million rows of twenty columns, time and peak memory, each in its own process.

``python -m benchmarks data_check [--rows 10000000]``. Reading is the faster of two: every column decoded by PyArrow in batches, and
every column counted by DuckDB. The check is what `holdfast data check` does with an inferred schema.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

PROMISE = 3.0
MEMORY_MIB = 2_000
"""DuckDB may hold 1 GB; the rest is the interpreter, Arrow, and what malloc keeps."""

READ_ARROW = """
import pyarrow.parquet as pq
rows = 0
for batch in pq.ParquetFile(path).iter_batches(batch_size=100_000):
    rows += batch.num_rows
print(rows)
"""
READ_DUCKDB = """
from holdfast.data import tables
with tables.connect() as connection:
    source = tables.relation([Path(path)])
    names = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
    tables.one(connection, "SELECT " + ", ".join(f"count({tables.quote(n)})" for n in names) + f" FROM {source}")
"""
CHECK = """
from holdfast.data import quality, schema
found = quality.check(Path(path), schema.load(Path(path)))
assert not [f for f in found if f.blocking], found
"""
INFER = """
from holdfast.data import schema
schema.save(Path(path), schema.infer(Path(path)))
"""
FRAME = """
import resource, sys, time, json
from pathlib import Path
path = sys.argv[1]
start, cpu = time.perf_counter(), time.process_time()
{body}
json.dump([time.perf_counter() - start, time.process_time() - cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024], sys.stderr)
"""


def generate(path: Path, rows: int) -> None:
    import duckdb

    floats = ", ".join(f"CASE WHEN random() < 0.01 THEN NULL ELSE random() * {10**at} END AS f{at}" for at in range(8))
    ints = ", ".join(f"CAST(random() * {10 ** (at + 1)} AS BIGINT) AS i{at}" for at in range(4))
    words = ", ".join(f"'w' || CAST(random() * {5 * 4**at} AS INTEGER) AS s{at}" for at in range(4))
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT range AS id, TIMESTAMP '2024-01-01' + to_seconds(range) AS at, {floats}, {ints}, {words}, "
            f"random() < 0.5 AS flag, 'k' || range AS code FROM range({rows})) TO '{path}' (FORMAT parquet)"
        )


def measured(body: str, path: Path) -> tuple[float, float, float]:
    """Seconds, CPU seconds, peak MiB of a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", FRAME.format(body=body), str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    wall, cpu, peak = json.loads(done.stderr.splitlines()[-1])
    return wall, cpu, peak


def main() -> int:
    """Print the table; 1 when the promise is not kept."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as scratch:
        path = Path(scratch) / "t.parquet"
        generate(path, options.rows)
        size = path.stat().st_size / 2**20
        found = {"infer": measured(INFER, path)}
        for name, body in (("read, PyArrow", READ_ARROW), ("read, DuckDB", READ_DUCKDB), ("check", CHECK)):
            found[name] = min(measured(body, path) for _ in range(2))
    print(f"{options.rows} rows x 20 columns, {size:.0f} MiB of parquet, each in its own process")
    print(f"{'work':16}{'s':>8}{'CPU s':>8}{'peak MiB':>10}")
    for name, (wall, cpu, peak) in found.items():
        print(f"{name:16}{wall:8.2f}{cpu:8.2f}{peak:10.0f}")
    reading = min(found["read, PyArrow"][0], found["read, DuckDB"][0])
    ratio, peak = found["check"][0] / reading, found["check"][2]
    print(f"check / reading: {ratio:.2f} (promised: at most {PROMISE}), peak {peak:.0f} MiB (at most {MEMORY_MIB})")
    return int(ratio > PROMISE or peak > MEMORY_MIB)


if __name__ == "__main__":
    sys.exit(main())
