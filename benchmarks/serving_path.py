"""CPU that the whole path adds to a request: `holdfast serve` (validation by name, routing, buffered log, metrics) beside the same
HTTP listener with a handler that only decodes, runs the model and encodes. Server processes' CPU time per answered request.

3 connections: every request has its own model call on both sides, so the difference is the path. 64 connections: requests of
one turn share a model call in Holdfast, as in service. The least of the rounds counts: whatever else the machine does only adds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.serving import NAMES, free_port, load, project, rows, running

BARE = """
import asyncio, os, sys
import msgspec, numpy as np, onnxruntime, uvloop
from holdfast.serving.wire import Listener, Response
options = onnxruntime.SessionOptions(); options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
kind = np.float64 if "double" in session.get_inputs()[0].type else np.float32
output = [o.name for o in session.get_outputs() if o.type in ("tensor(float)", "tensor(double)")][-1]
class Body(msgspec.Struct):
    rows: list[list[float]]
decode, encode = msgspec.json.Decoder(Body).decode, msgspec.json.encode
def handler(request):
    scores = session.run([output], {name: np.array(decode(request.body).rows, dtype=kind)})[0][:, -1]
    return Response(200, encode(scores.tolist()))
async def main():
    listener = Listener(handler)
    listener.start()
    server = await asyncio.get_running_loop().create_server(listener.connection, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
uvloop.run(main())
"""


def cpu(pid: int) -> float:
    """Seconds of CPU that a process and everything below it have taken."""
    import psutil

    process = psutil.Process(pid)
    times = [p.cpu_times() for p in [process, *process.children(recursive=True)]]
    return float(sum(t.user + t.system for t in times))


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks serving_path", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    one = rows(1)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as scratch, contextlib.ExitStack() as stack:
        model = project(Path(scratch) / "project", "forest", compiled=True)
        (Path(scratch) / "bare.py").write_text(BARE)
        ports = free_port(), free_port()
        commands = {
            "holdfast": (
                [sys.executable, "-m", "holdfast.cli.main", "serve", "bench", "--port", str(ports[0]), "--log", "buffered"],
                ports[0], "/predict", json.dumps({"rows": [dict(zip(NAMES, r, strict=True)) for r in one]}), Path(scratch) / "project",
            ),
            "listener, bare": ([sys.executable, "bare.py", str(ports[1])], ports[1], "/", json.dumps({"rows": one}), Path(scratch)),
        }  # fmt: skip
        servers = {
            name: stack.enter_context(running(argv, port, path, body, cwd=cwd, env={"BENCH_MODEL": str(model)}))
            for name, (argv, port, path, body, cwd) in commands.items()
        }
        for connections in (3, 64):
            seen: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
            for number in range(options.rounds + 1):
                for name in commands if number % 2 else reversed(commands):
                    _, port, path, body, _ = commands[name]
                    before = cpu(servers[name]["pid"])
                    answered = load(port, path, body, connections=connections, seconds=options.seconds)
                    if answered["failed"]:
                        raise SystemExit(f"{name} failed {answered['failed']} requests: {answered['example']}")
                    if number:  # the first round warms up
                        spent = (cpu(servers[name]["pid"]) - before) / answered["answered"] * 1e6
                        seen[name].append((spent, answered["rps"]))
            for name, values in seen.items():
                spent, rate = min(v[0] for v in values), max(v[1] for v in values)
                results.append(
                    {"system": name, "connections": connections, "cpu_us": round(spent, 1), "rps": round(rate)}
                )
                print(
                    f"{connections:3} connections  {name:16} {spent:6.1f} us CPU a request  {rate:7.0f} requests/s",
                    flush=True,
                )
    added = {
        f"CPU added per request, {n} connections (promise 60 us)": round(
            next(r["cpu_us"] for r in results if (r["system"], r["connections"]) == ("holdfast", n))
            - next(r["cpu_us"] for r in results if (r["system"], r["connections"]) == ("listener, bare", n)), 1,
        )
        for n in (3, 64)
    }  # fmt: skip
    for name, value in added.items():
        print(f"{name}: {value}")
    if options.json:
        options.json.write_text(json.dumps({"results": results, "added": added}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
