"""Tracking, side by side in one run: Holdfast's control plane and ``mlflow server``, both on SQLite; and, for what the
client itself costs, a server that answers ``{}`` (to who asks for a history: one of Holdfast's, ready made).

Durability is the same on both sides: a killed process loses nothing acknowledged (WAL with synchronous=NORMAL here,
SQLite's defaults there). Read ratios, not absolute numbers: client and servers share the machine.

    python -m benchmarks tracking [--quick] [--only PART] [--no-peer] [--json FILE]
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
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BASE = "/api/2.0/mlflow/"
ROUNDS = 5


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

    def experiment(self) -> str:
        return str(self("POST", "experiments/create", {"name": f"bench {time.time_ns()}"})["experiment_id"])

    def run(self, experiment: str, at: int) -> str:
        made = self("POST", "runs/create", {"experiment_id": experiment, "start_time": at, "run_name": f"r{at}"})
        return str(made["run"]["info"]["run_id"])

    def whole_run(self, experiment: str, number: int) -> None:
        self("POST", "runs/log-batch", {"run_id": self.run(experiment, number), **whole_run(number)})


def whole_run(number: int) -> dict[str, Any]:
    """20 params, 20 metrics, 10 tags."""
    return {
        "metrics": [
            {"key": f"m{i}", "value": float((i * 7 + number * 13) % 101), "timestamp": 1, "step": 0} for i in range(20)
        ],
        "params": [{"key": f"p{i}", "value": str((i + number) % 10)} for i in range(20)],
        "tags": [{"key": f"t{i}", "value": str(number)} for i in range(10)],
    }


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def plain_log(port: int, *, metrics: int) -> dict[str, float]:
    """log-metric over 8 connections."""
    call = Plain(port)
    run_id = call.run(call.experiment(), 0)

    def log(key: str) -> None:
        mine = Plain(port)
        for i in range(metrics // 8):
            mine("POST", "runs/log-metric", {"run_id": run_id, "key": key, "value": 1.5, "timestamp": i, "step": i})

    threads = [threading.Thread(target=log, args=(f"k{i}",)) for i in range(8)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"log_metric_8_connections_per_s": metrics // 8 * 8 / (time.perf_counter() - began)}


def plain_runs(port: int, *, runs: int) -> dict[str, float]:
    call = Plain(port)
    experiment = call.experiment()
    took = seconds(lambda: [call.whole_run(experiment, i) for i in range(runs)])
    return {"whole_runs_per_s": runs / took}


def plain_search(port: int, *, many: int) -> dict[str, float]:
    """The first page, filtered and ordered, of ``many`` runs."""
    call = Plain(port)
    experiment = call.experiment()
    for i in range(many):
        call.whole_run(experiment, i)
    query = {
        "experiment_ids": [experiment], "filter": "metrics.m3 > 50 AND params.p1 = '3'", "order_by": ["metrics.m2 DESC"],
        "max_results": 100,
    }  # fmt: skip
    times = sorted(seconds(lambda: call("POST", "runs/search", query)) for _ in range(9))
    return {f"search_first_page_ms_of_{many}_runs": times[4] * 1000}


def plain_history(port: int, *, run_id: str, points: int) -> dict[str, float]:
    call, path = Plain(port), f"metrics/get-history?run_id={run_id}&metric_key=history"
    assert len(call("GET", path)["metrics"]) == points
    return {"history_points_per_s": points / min(seconds(lambda: call("GET", path)) for _ in range(3))}


def fill_history(port: int, points: int) -> str:
    """A run with a metric of so many points; its id."""
    call = Plain(port)
    run_id = call.run(call.experiment(), 0)
    for start in range(0, points, 1000):
        piece = [{"key": "history", "value": i / 7, "timestamp": i, "step": i} for i in range(start, start + 1000)]
        call("POST", "runs/log-batch", {"run_id": run_id, "metrics": piece})
    return run_id


PLAIN = {"log": plain_log, "runs": plain_runs, "search": plain_search, "history": plain_history}


def client_work(part: str, servers: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """One part of the work by MLflow's own client against each server in turn, round by round, so that a slow moment of the
    machine falls on all of them; the median of the rounds. Run by the peer's Python.

    Args:
        part: "log", "runs" or "history".
        servers: name → port and how much of the work.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    def log(client: Any, told: dict[str, Any]) -> dict[str, float]:
        run_id = told.setdefault("run_id", "0" * 32 if told.get("echo") else client.create_run("0").info.run_id)
        first = told["at"] = told.get("at", 0) + 1_000_000
        metrics, batches = told["metrics"], told["batches"]
        one = seconds(lambda: [client.log_metric(run_id, "m", 1.5, first + i, first + i) for i in range(metrics)])
        points = [[Metric("b", i / 7, first + i + j * 1000, i) for i in range(1000)] for j in range(batches)]
        many = seconds(lambda: [client.log_batch(run_id, metrics=batch) for batch in points])
        return {"client_log_metric_per_s": metrics / one, "client_batch_metrics_per_s": batches * 1000 / many}

    def runs(client: Any, told: dict[str, Any]) -> dict[str, float]:
        def one(number: int) -> None:
            whole = whole_run(number)
            client.log_batch(
                client.create_run("0").info.run_id,
                metrics=[Metric(m["key"], m["value"], 1, 0) for m in whole["metrics"]],
                params=[Param(p["key"], p["value"]) for p in whole["params"]],
                tags=[RunTag(t["key"], t["value"]) for t in whole["tags"]],
            )

        return {"client_whole_runs_per_s": told["runs"] / seconds(lambda: [one(i) for i in range(told["runs"])])}

    def history(client: Any, told: dict[str, Any]) -> dict[str, float]:
        began = time.perf_counter()
        found = client.get_metric_history(told["run_id"], "history")
        took = time.perf_counter() - began
        assert len(found) == told["points"]
        return {"client_history_points_per_s": len(found) / took}

    work = {"log": log, "runs": runs, "history": history}[part]
    clients = {name: MlflowClient(f"http://127.0.0.1:{told['port']}") for name, told in servers.items()}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    for number in range(ROUNDS + 1):
        for name, told in servers.items():
            figures = work(clients[name], told)
            if number:  # the first one warms
                rounds[name].append(figures)
    return {name: {k: statistics.median(f[k] for f in found) for k in found[0]} for name, found in rounds.items()}


async def echo_server(port: int, canned: bytes) -> None:
    """The floor: reads a request, answers ``{}``, or what a history of Holdfast's looks like to who asks for one."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line[15:])
                await reader.readexactly(length)
                body = canned if b"/get-history" in head else b"{}"
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                )
                writer.write(body)

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


def wait_for(port: int) -> None:
    """Until somebody listens."""
    for _ in range(500):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nobody listens on {port}")


def memory(pid: int) -> tuple[float, float]:
    """Proportional set size of a process tree in MiB, and how many processes it is."""
    import psutil

    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(p.memory_full_info().pss for p in tree) / 2**20, float(len(tree))


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def in_process(python: str, *arguments: str) -> Any:
    """What this file prints, run by another Python or in a process of its own."""
    ran = subprocess.run(
        [python, str(Path(__file__).resolve()), *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip
    if ran.returncode:
        raise RuntimeError(ran.stderr[-2000:])
    return json.loads(ran.stdout.strip().splitlines()[-1])


PARTS = ("log", "runs", "history", "search")


def measure(figures: dict[str, dict[str, float]], parts: Sequence[str], *, quick: bool, theirs_too: bool) -> None:
    """Every figure of every server, as it is found: Holdfast, MLflow's where ``theirs_too``, and the floor."""
    from tests.peers.environments import python_of

    peer = str(python_of("mlflow"))
    points, many = (20_000, 1000) if quick else (100_000, 10_000)
    ours = [sys.executable, "-m", "holdfast.cli.main", "server", "--port"]
    theirs = [
        peer, "-m", "mlflow", "server", "--backend-store-uri", "sqlite:///mlflow.db", "--default-artifact-root", "./artifacts",
        "--port",
    ]  # fmt: skip
    with contextlib.ExitStack() as open_:
        folder = Path(open_.enter_context(tempfile.TemporaryDirectory()))
        ports: dict[str, int] = {}
        for name, argv in (("holdfast", ours), *([("mlflow", theirs)] if theirs_too else [])):
            (folder / name).mkdir()
            ports[name] = free_port()
            figures[name] = open_.enter_context(running([*argv, str(ports[name])], folder / name, ports[name]))
        filled: dict[str, str] = {}
        (folder / "canned.json").write_bytes(b"{}")
        if "history" in parts:
            filled = {name: fill_history(port, points) for name, port in ports.items()}
            url = f"http://127.0.0.1:{ports['holdfast']}{BASE}metrics/get-history?metric_key=history&run_id={filled['holdfast']}"
            with urllib.request.urlopen(url) as answer:
                (folder / "canned.json").write_bytes(answer.read())
        ports["echo"] = free_port()
        floor = [sys.executable, str(Path(__file__).resolve()), "echo", str(ports["echo"]), str(folder / "canned.json")]
        echo = subprocess.Popen(floor)
        open_.callback(echo.wait)
        open_.callback(echo.terminate)
        wait_for(ports["echo"])
        figures["echo"] = {}

        def client(part: str, **work: dict[str, Any]) -> None:
            told = {name: {**given, "port": ports[name]} for name, given in work.items() if name in ports}
            for name, found in in_process(peer, "client", part, json.dumps(told)).items():
                figures[name].update(found)

        def plain(part: str, **work: dict[str, Any]) -> None:
            for name, given in work.items():
                if name in ports:
                    told = json.dumps({"port": ports[name], **given})
                    figures[name].update(in_process(sys.executable, "plain", part, told))

        if "log" in parts:
            some = {"metrics": 100, "batches": 4}
            client("log", echo={**some, "echo": True}, holdfast=some, mlflow={"metrics": 10, "batches": 1})
            plain("log", holdfast={"metrics": 4000}, mlflow={"metrics": 160})
        if "runs" in parts:
            client("runs", holdfast={"runs": 20}, mlflow={"runs": 4})
            plain("runs", holdfast={"runs": 300}, mlflow={"runs": 20})
        if "history" in parts:
            asked: dict[str, dict[str, Any]] = {n: {"points": points, "run_id": run_id} for n, run_id in filled.items()}
            client("history", echo={"points": points, "run_id": "0" * 32}, **asked)
            plain("history", **asked)
        if "search" in parts:
            plain("search", holdfast={"many": many}, mlflow={"many": 200 if quick else 400})


PROMISES = [
    # (what, figure, against, direction, at least)
    ("log_metric, its client, of the echo server", "client_log_metric_per_s", "echo", 0.8),
    ("log_batch of 1000, its client, of the echo server", "client_batch_metrics_per_s", "echo", 0.7),
    ("log_metric, plain, 8 connections", "log_metric_8_connections_per_s", "mlflow", 20.0),
    ("whole runs, its client", "client_whole_runs_per_s", "mlflow", 5.0),
    ("whole runs, plain", "whole_runs_per_s", "mlflow", 15.0),
    ("history, its client", "client_history_points_per_s", "mlflow", 5.0),
    ("history, its client, of the echo server", "client_history_points_per_s", "echo", 0.7),
    ("history, plain", "history_points_per_s", "mlflow", 15.0),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 runs for the search, 20,000 points of history")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part of the work; may be repeated")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument(
        "--no-peer", action="store_true", help="leave MLflow's server out; its client is used all the same"
    )
    options = parser.parse_args()
    # Whoever ends this wants its servers ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    figures: dict[str, dict[str, float]] = {}
    cut = False
    try:
        measure(figures, options.only or PARTS, quick=options.quick, theirs_too=not options.no_peer)
    except SystemExit:
        cut = True
        print("ended before everything was measured")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))
    for name, found in figures.items():
        print(name)
        for key, value in found.items():
            print(f"  {key:40} {value:12,.1f}")
    kept = not cut
    print()
    ours = figures.get("holdfast")
    if ours is None:
        return 1
    for what, key, against, least in PROMISES:
        if key in ours and key in figures.get(against, {}):
            ratio = ours[key] / figures[against][key]
            kept &= ratio >= least
            print(f"{'kept  ' if ratio >= least else 'MISSED'} {what:52} {ratio:8.2f} × {against} (promised {least} ×)")
    limits = [
        ("start to first answer, s", ours["start_s"], 1.5),
        ("idle memory of the process tree, MiB", ours["idle_memory_mib"], 150.0),
    ]
    limits += [
        ("search, filter and order, first page, ms", v, 30.0)
        for k, v in ours.items()
        if k.startswith("search_first_page")
    ]
    for what, value, most in limits:
        kept &= value <= most
        print(f"{'kept  ' if value <= most else 'MISSED'} {what:52} {value:8.1f} (promised ≤ {most})")
    return 0 if kept else 1


if __name__ == "__main__":
    role, *told = sys.argv[1:]
    if role == "echo":
        asyncio.run(echo_server(int(told[0]), Path(told[1]).read_bytes()))
    elif role == "client":
        print(json.dumps(client_work(told[0], json.loads(told[1]))))
    else:
        print(json.dumps(PLAIN[told[0]](**json.loads(told[1]))))
