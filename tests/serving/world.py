"""A small world for serving tests: a workspace on disk with packages of tiny real ONNX models, and a release."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from holdfast.core.records import Arm, FieldSpec, FileRef, Package, Release
from holdfast.registry import package as packages
from holdfast.server.dataplane import ReplicaConfig, build
from holdfast.serving import release_file
from holdfast.serving.replica import Replica
from holdfast.serving.wire import Request, Response
from holdfast.workspace import Workspace

INPUTS = ("a", "b")


def onnx_model(coefficients: tuple[float, ...], intercept: float = 0.0) -> bytes:
    """A binary logistic model as an ONNX graph: probabilities (n, 2) from float32 (n, d)."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.array([[-w, w] for w in coefficients], dtype=np.float32) / 2
    bias = np.array([-intercept, intercept], dtype=np.float32) / 2
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["X", "W"], ["m"]),
            helper.make_node("Add", ["m", "B"], ["z"]),
            helper.make_node("Softmax", ["z"], ["probabilities"], axis=1),
        ],
        "logistic",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, len(coefficients)])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(weights, "W"), numpy_helper.from_array(bias, "B")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def probability(row: dict[str, float], coefficients: tuple[float, ...] = (1.0, -1.0), intercept: float = 0.0) -> float:
    z = sum(c * row[n] for c, n in zip(coefficients, INPUTS, strict=True)) + intercept
    return 1 / (1 + np.exp(-z))


def fields(*, nullable: bool = False, **bounds: Any) -> list[FieldSpec]:
    return [FieldSpec(name=n, dtype="float64", nullable=nullable, **bounds) for n in INPUTS]


def add_package(workspace: Workspace, *, intercept: float = 0.0, threshold: float = 0.5, **changes: Any) -> str:
    """Store a package; its content."""
    data = onnx_model((1.0, -1.0), intercept)
    sha = workspace.objects.put(data)
    made = {
        "name": "toy", "format": "onnx", "task": "binary", "model_file": "model.onnx",
        "files": {"model.onnx": FileRef(sha256=sha, size=len(data))}, "inputs": fields(), "request": fields(),
        "outputs": [FieldSpec(name="score", dtype="float64")], "classes": [0, 1], "threshold": threshold,
    } | changes  # fmt: skip
    return packages.store(workspace.objects, Package(**made))


def arm(version: int, content: str, weight: float = 0.0) -> Arm:
    return Arm(version=version, content=content, weight=weight)


def put_release(workspace: Workspace, sequence: int, champion: Arm | None, **changes: Any) -> Release:
    made: dict[str, Any] = {
        "service": "toy",
        "environment": "production",
        "model": "toy",
        "sequence": sequence,
        "champion": champion,
        "salt": "s",
    }
    release = Release(**(made | changes))
    release_file.write(workspace.path("releases", "."), release, workspace.secret("release"))
    return release


class Running:
    """A `holdfast serve` process and a way to talk to it."""

    def __init__(self, process: subprocess.Popen[bytes], run_file: Path, log: Path) -> None:
        self.process = process
        self.run_file = run_file
        self.log = log
        self._local = threading.local()

    @property
    def state(self) -> dict[str, Any]:
        return json.loads(self.run_file.read_text())

    @property
    def port(self) -> int:
        return int(self.state["address"].rpartition(":")[2])

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """(status, decoded body) over a kept connection of this thread."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, data, {"content-type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            text = answer.read()
        except BaseException:
            self._local.connection = None
            raise
        if answer.will_close:
            connection.close()
            self._local.connection = None
        kind = answer.headers.get("content-type", "")
        return answer.status, json.loads(text) if "json" in kind and text else text

    def predict(self, *rows: dict[str, Any], **headers: str) -> tuple[int, Any]:
        return self.ask(
            "POST",
            "/predict",
            {"rows": list(rows)},
            {f"x-holdfast-{k.replace('_', '-')}": v for k, v in headers.items()},
        )

    def until(self, condition: Any, timeout: float = 30.0) -> Any:
        """Poll until ``condition()`` is truthy; its value."""
        end = time.monotonic() + timeout
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                raise AssertionError(f"waited {timeout} s in vain; log:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)

    def until_version(self, version: int) -> None:
        """Until every replica that answers has this champion."""
        hits = 0
        end = time.monotonic() + 30
        while hits < 6:
            status, _ = self.ask("GET", "/health/ready")
            seen = self.ask("GET", "/release")[1] if status == 200 else {}
            hits = hits + 1 if seen.get("release", {}).get("champion", {}).get("version") == version else 0
            assert time.monotonic() < end, self.log.read_text()[-4000:]
            time.sleep(0.02)


@contextlib.contextmanager
def serving(workspace: Workspace, *arguments: str, service: str = "toy") -> Iterator[Running]:
    """`holdfast serve` in a process of its own, on a free port."""
    environment = "staging" if "staging" in arguments else "production"
    log = workspace.path("logs", f"{service}-{environment}.log")
    run_file = workspace.path("run", f"{service}-{environment}.json")
    told = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "holdfast.cli.main", "serve", service, "--port", "0", *arguments],
            cwd=workspace.root, stdout=out, stderr=out, env={**os.environ, "HOLDFAST_TRACEBACK": "1"},
        )  # fmt: skip
    running = Running(process, run_file, log)
    try:
        end = time.monotonic() + (600 if "auto" in arguments else 60)
        while b"ready: " not in log.read_bytes()[told:]:
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < end, log.read_text()[-4000:]
            time.sleep(0.02)
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


Ask = Callable[..., Awaitable[Response]]


def in_process(workspace: Workspace, story: Callable[[Replica, Ask], Awaitable[None]], **config: Any) -> None:
    """Run ``story(replica, ask)`` against a replica without process or socket; ``ask(method, path, body, headers)``."""

    async def run() -> None:
        settings = {
            "service": "toy",
            "environment": "production",
            "name": "0",
            "listen": "",
            "log": "buffered",
        } | config
        told = msgspec.convert({"project": str(workspace.root), **settings}, ReplicaConfig)
        replica = build(workspace, told)
        watcher = asyncio.ensure_future(replica.watch())

        async def ask(method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None) -> Response:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            lower = {k.lower().encode(): v.encode() for k, v in ({"host": "localhost"} | (headers or {})).items()}
            answer = replica.handle(Request(method, path.encode(), path, b"", lower, data))
            return answer if isinstance(answer, Response) else await answer

        try:
            async with asyncio.timeout(60):
                while replica.predictions.state is None:
                    await asyncio.sleep(0.01)
                await story(replica, ask)
        finally:
            watcher.cancel()
            await asyncio.to_thread(replica.journal.close)

    asyncio.run(run())


async def until_sequence(replica: Replica, sequence: int) -> None:
    while replica.predictions.state is None or replica.predictions.state.release.sequence < sequence:
        await asyncio.sleep(0.01)


def peer_environment(name: str, module: str, *options: str) -> Path:
    """The Python of another project's tool, in an environment of its own from ``tests/peers/<name>.txt``; made once, with
    these options of pip."""
    root = Path(__file__).parents[2]
    folder = root / ".cache" / "peers" / name
    python = folder / "bin" / "python"
    probe = [str(python), "-c", f"import {module}"]
    if python.exists() and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    venv.create(folder, with_pip=True, clear=True)
    pins = root / "tests" / "peers" / f"{name}.txt"
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", *options, "-r", pins], capture_output=True, text=True, check=False
    )
    if done.returncode:
        if os.environ.get("HOLDFAST_REQUIRE_SERVICES") == "1":
            pytest.fail(f"the environment of {name} cannot be made: {done.stderr[-500:]}")
        pytest.skip(f"the environment of {name} cannot be made here: no package installer reaches an index")
    return python
