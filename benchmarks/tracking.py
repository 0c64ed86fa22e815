"""Tracking, side by side in one run: Holdfast's control plane and ``mlflow server``, both on SQLite; and, for what the
client itself costs, a server that answers ``{}`` to everything.

Durability is the same on both sides: a killed process loses nothing acknowledged (WAL with synchronous=NORMAL here,
SQLite's defaults there). Read ratios, not absolute numbers: client and servers share the machine.

    python -m benchmarks tracking [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BASE = "/api/2.0/mlflow/"
HISTORY = 20_000


# --- the work, by plain HTTP and by MLflow's client -------------------------------------------------------------------


class Plain:
    """One kept-alive connection. Answers are read by msgspec, on both sides: what is timed is the server, and json.loads of
    a long history takes as long as our server does to make it."""

    def __init__(self, port: int) -> None:
        self.decode: Callable[[bytes], Any] = json.loads  # in the peer's environment, where this only fills a history
        with contextlib.suppress(ImportError):
            from msgspec.json import decode

            self.decode = decode
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body)
        self.connection.request(method, BASE + path, data, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        read = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {read[:300]!r}")
        return self.decode(read)

    def run(self, experiment: str, at: int) -> str:
        made = self("POST", "runs/create", {"experiment_id": experiment, "start_time": at, "run_name": f"r{at}"})
        return str(made["run"]["info"]["run_id"])


def whole_run(number: int) -> dict[str, Any]:
    """20 params, 20 metrics, 10 tags."""
    return {
        "metrics": [
            {"key": f"m{i}", "value": float((i * 7 + number * 13) % 101), "timestamp": 1, "step": 0} for i in range(20)
        ],
        "params": [{"key": f"p{i}", "value": str((i + number) % 10)} for i in range(20)],
        "tags": [{"key": f"t{i}", "value": str(number)} for i in range(10)],
    }


def plain_work(port: int, *, metrics: int, runs: int, many: int) -> dict[str, float]:
    """Rates and times by a plain HTTP client; ``many`` runs are made for the search (0: no search)."""
    call = Plain(port)
    experiment = call("POST", "experiments/create", {"name": f"plain {time.time_ns()}"})["experiment_id"]
    run_id = call.run(experiment, 0)
    found: dict[str, float] = {}

    def log(key: str) -> None:
        mine = Plain(port)
        for i in range(metrics // 8):
            body = {"run_id": run_id, "key": key, "value": 1.5, "timestamp": i, "step": i}
            mine("POST", "runs/log-metric", body)

    threads = [threading.Thread(target=log, args=(f"k{i}",)) for i in range(8)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found["log_metric_8_connections_per_s"] = metrics // 8 * 8 / (time.perf_counter() - began)
    began = time.perf_counter()
    for i in range(runs):
        call("POST", "runs/log-batch", {"run_id": call.run(experiment, i), **whole_run(i)})
    found["whole_runs_per_s"] = runs / (time.perf_counter() - began)
    fill_history(call, run_id)
    began = time.perf_counter()
    points = call("GET", f"metrics/get-history?run_id={run_id}&metric_key=history")["metrics"]
    found["history_points_per_s"] = len(points) / (time.perf_counter() - began)
    assert len(points) == HISTORY
    if many:
        for i in range(runs, many):
            call("POST", "runs/log-batch", {"run_id": call.run(experiment, i), **whole_run(i)})
        query = {
            "experiment_ids": [experiment], "filter": "metrics.m3 > 50 AND params.p1 = '3'", "order_by": ["metrics.m2 DESC"],
            "max_results": 100,
        }  # fmt: skip
        times = []
        for _ in range(9):
            began = time.perf_counter()
            call("POST", "runs/search", query)
            times.append(time.perf_counter() - began)
        found[f"search_first_page_ms_of_{many}_runs"] = sorted(times)[4] * 1000
    return found


def fill_history(call: Plain, run_id: str) -> None:
    for start in range(0, HISTORY, 1000):
        points = [{"key": "history", "value": i / 7, "timestamp": i, "step": i} for i in range(start, start + 1000)]
        call("POST", "runs/log-batch", {"run_id": run_id, "metrics": points})


def client_work(url: str, *, metrics: int, batches: int, runs: int, echo: bool) -> dict[str, float]:
    """Rates by MLflow's own client; run by the peer's Python. An echo server can only be logged to."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    client = MlflowClient(url)
    run_id = "0" * 32
    if not echo:
        experiment = client.create_experiment(f"client {time.time_ns()}")
        run_id = client.create_run(experiment).info.run_id
    client.log_metric(run_id, "warm", 1.0)
    found: dict[str, float] = {}
    began = time.perf_counter()
    for i in range(metrics):
        client.log_metric(run_id, "m", 1.5, timestamp=i, step=i)
    found["client_log_metric_per_s"] = metrics / (time.perf_counter() - began)
    points = [[Metric("b", i / 7, i + j * 1000, i + j * 1000) for i in range(1000)] for j in range(batches)]
    began = time.perf_counter()
    for batch in points:
        client.log_batch(run_id, metrics=batch)
    found["client_batch_metrics_per_s"] = batches * 1000 / (time.perf_counter() - began)
    if echo:
        return found
    began = time.perf_counter()
    for i in range(runs):
        made = client.create_run(experiment).info.run_id
        whole = whole_run(i)
        client.log_batch(
            made,
            metrics=[Metric(m["key"], m["value"], 1, 0) for m in whole["metrics"]],
            params=[Param(p["key"], p["value"]) for p in whole["params"]],
            tags=[RunTag(t["key"], t["value"]) for t in whole["tags"]],
        )
    found["client_whole_runs_per_s"] = runs / (time.perf_counter() - began)
    fill_history(Plain(int(url.rsplit(":", 1)[1])), run_id)
    began = time.perf_counter()
    history = client.get_metric_history(run_id, "history")
    found["client_history_points_per_s"] = len(history) / (time.perf_counter() - began)
    return found


async def echo_server(port: int) -> None:
    """The floor: reads a request, answers ``{}``."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line[15:])
                await reader.readexactly(length)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")

    server = await asyncio.start_server(answer, "127.0.0.1", port, limit=64 * 1024 * 1024)
    async with server:
        await server.serve_forever()


# --- servers ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(argv: list[str], folder: Path, port: int) -> Iterator[dict[str, float]]:
    """A server as a process tree of its own; yields its start time and, later, is asked for its memory."""
    facts: dict[str, float] = {}
    began = time.perf_counter()
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            if process.poll() is not None or time.perf_counter() - began > 120:
                raise RuntimeError((folder / "server.log").read_text()[-2000:])
            time.sleep(0.02)
        facts["start_s"] = time.perf_counter() - began
        time.sleep(3)
        facts["idle_memory_mib"], facts["processes"] = memory(process.pid)
        yield facts
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def memory(pid: int) -> tuple[float, float]:
    """Proportional set size of a process tree in MiB, and how many processes it is."""
    import psutil

    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(p.memory_full_info().pss for p in tree) / 2**20, float(len(tree))


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def by_client(python: Path, port: int, **work: Any) -> dict[str, float]:
    """``client_work`` in a process of the peer's environment."""
    ran = subprocess.run(
        [str(python), str(Path(__file__).resolve()), "client", json.dumps({"url": f"http://127.0.0.1:{port}", **work})],
        capture_output=True, text=True, check=False, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip
    if ran.returncode:
        raise RuntimeError(ran.stderr[-2000:])
    return json.loads(ran.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


def by_plain(port: int, **work: Any) -> dict[str, float]:
    """``plain_work`` in a process of its own."""
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "plain", json.dumps({"port": port, **work})],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode:
        raise RuntimeError(ran.stderr[-2000:])
    return json.loads(ran.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


def measure(quick: bool) -> dict[str, dict[str, float]]:
    """Every figure of every server."""
    from tests.peers.environments import python_of

    peer = python_of("mlflow")
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        port = free_port()
        echo = subprocess.Popen([sys.executable, str(Path(__file__).resolve()), "echo", str(port)])
        try:
            time.sleep(1)
            figures["echo"] = by_client(peer, port, metrics=200, batches=5, runs=0, echo=True)
        finally:
            echo.terminate()
            echo.wait()
        servers: list[tuple[str, Callable[[int], list[str]], dict[str, int], dict[str, int]]] = [
            (
                "holdfast",
                lambda p: [sys.executable, "-m", "holdfast.cli.main", "server", "--port", str(p)],
                {"metrics": 4000, "runs": 300, "many": 1000 if quick else 10_000},
                {"metrics": 200, "batches": 10, "runs": 50},
            ),
            (
                "mlflow",
                lambda p: [
                    str(peer), "-m", "mlflow", "server", "--port", str(p), "--backend-store-uri", "sqlite:///mlflow.db",
                    "--default-artifact-root", "./artifacts",
                ],
                {"metrics": 160, "runs": 20, "many": 0 if quick else 400},
                {"metrics": 60, "batches": 3, "runs": 10},
            ),
        ]  # fmt: skip
        for name, argv, plain, client in servers:
            home = folder / name
            home.mkdir()
            port = free_port()
            with running(argv(port), home, port) as facts:
                figures[name] = {
                    **facts,
                    **by_client(peer, port, echo=False, **client),
                    **by_plain(port, **plain),
                }
    return figures


PROMISES = [
    # (what, figure, against, direction, at least)
    ("log_metric, its client, of the echo server", "client_log_metric_per_s", "echo", 0.8),
    ("log_batch of 1000, its client, of the echo server", "client_batch_metrics_per_s", "echo", 0.7),
    ("log_metric, plain, 8 connections", "log_metric_8_connections_per_s", "mlflow", 20.0),
    ("whole runs, its client", "client_whole_runs_per_s", "mlflow", 5.0),
    ("whole runs, plain", "whole_runs_per_s", "mlflow", 15.0),
    ("history, its client", "client_history_points_per_s", "mlflow", 5.0),
    ("history, plain", "history_points_per_s", "mlflow", 15.0),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 runs for the search instead of 10,000")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    figures = measure(options.quick)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))
    for name, found in figures.items():
        print(name)
        for key, value in found.items():
            print(f"  {key:40} {value:12,.1f}")
    kept = True
    print()
    for what, key, against, least in PROMISES:
        ratio = figures["holdfast"][key] / figures[against][key]
        kept &= ratio >= least
        print(f"{'kept  ' if ratio >= least else 'MISSED'} {what:52} {ratio:8.1f} × {against} (promised {least} ×)")
    ours = figures["holdfast"]
    search = next(v for k, v in ours.items() if k.startswith("search_first_page"))
    for what, value, most in (
        ("start to first answer, s", ours["start_s"], 1.5),
        ("idle memory of the process tree, MiB", ours["idle_memory_mib"], 150.0),
        ("search, filter and order, first page, ms", search, 30.0),
    ):
        kept &= value <= most
        print(f"{'kept  ' if value <= most else 'MISSED'} {what:52} {value:8.1f} (promised ≤ {most})")
    return 0 if kept else 1


if __name__ == "__main__":
    role, argument = sys.argv[1], sys.argv[2]
    if role == "echo":
        asyncio.run(echo_server(int(argument)))
    else:
        print(json.dumps((client_work if role == "client" else plain_work)(**json.loads(argument))))
