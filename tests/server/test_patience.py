"""Clients that dawdle, and tokens taken back, against a control plane that runs."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from holdfast.server import access, patience
from holdfast.server.controlplane import application, rules_of
from holdfast.workspace import Workspace

RUNS = "/api/2.0/mlflow/runs/search"


@contextlib.contextmanager
def listening(root: Path, *, head: float = 0.5) -> Iterator[tuple[str, int]]:
    """A control plane with uvicorn in a thread; its host and port."""
    (root / "holdfast.toml").touch()
    with Workspace.open(root) as workspace:
        app = application(workspace, access=rules_of(workspace))
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_config=None, lifespan="off", http=patience.protocol(head))
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield "127.0.0.1", listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
            listener.close()


def closed(connection: socket.socket) -> bool:
    """Whether the other side ends the connection, waited for."""
    connection.settimeout(10)
    try:
        while connection.recv(1000):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def test_a_head_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    with listening(tmp_path) as address:
        silent, dripping = socket.create_connection(address), socket.create_connection(address)
        dripping.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: ")
        second = socket.create_connection(address)
        second.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        seen = b""
        while not seen.endswith(b"OK"):
            seen += second.recv(1000)
        second.sendall(b"GET /health HT")
        assert closed(silent) and closed(dripping) and closed(second)
        with httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as http:
            for _ in range(2):
                # Idle between two requests is not a head on its way.
                assert http.get("/health").status_code == 200
                time.sleep(0.7)


def test_a_body_that_does_not_come_is_answered_408(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.server.controlplane.paced", lambda r: patience.paced(r, grace=0.3, rate=1e6))
    with listening(tmp_path, head=30) as address:
        for path in (RUNS, "/api/2.0/mlflow-artifacts/artifacts/0/x"):
            connection = socket.create_connection(address)
            method = b"POST" if path == RUNS else b"PUT"
            connection.sendall(
                method + b" " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
            )
            connection.settimeout(10)
            answer = connection.recv(4000)
            assert b" 408 " in answer and b"DEADLINE_EXCEEDED" in answer and b"connection: close" in answer.lower()
            assert closed(connection)


def test_an_answer_leaves_in_one_piece_and_a_large_one_whole(tmp_path: Path) -> None:
    with listening(tmp_path) as address:
        with httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as http:
            large = bytes(range(256)) * 20_000
            assert http.put("/api/2.0/mlflow-artifacts/artifacts/0/x", content=large).status_code == 200
            assert http.get("/api/2.0/mlflow-artifacts/artifacts/0/x").content == large
        for end in (b"", b"Connection: close\r\n"):
            connection = socket.create_connection(address)
            connection.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n" + end + b"\r\n")
            connection.settimeout(10)
            assert re.search(rb"\r\n\r\n\d+\.\d+\.\d+$", connection.recv(4000))
            connection.close()


def test_time_is_given_for_what_came() -> None:
    async def drive(pieces: list[tuple[float, int]]) -> int:
        left = list(pieces)

        async def receive() -> Any:
            wait, size = left.pop(0)
            await asyncio.sleep(wait)
            return {"type": "http.request", "body": b"x" * size, "more_body": bool(left)}

        slow, size, more = patience.paced(receive, grace=0.2, rate=1000), 0, True
        while more:
            message = await slow()
            size += len(message["body"])
            more = message["more_body"]
        return size

    assert asyncio.run(drive([(0.05, 1000)] * 8)) == 8000
    with pytest.raises(patience.TooSlow):
        asyncio.run(drive([(0.05, 1)] * 8))


def test_a_token_works_at_once_and_stops_at_once(tmp_path: Path) -> None:
    with listening(tmp_path) as (host, port), httpx.Client(base_url=f"http://{host}:{port}") as http:
        kept = tmp_path / ".holdfast" / "keys" / "tokens.json"
        body = {"experiment_ids": ["0"]}
        assert http.post(RUNS, json=body).status_code == 200
        secret = access.issue(kept, "ann", "read")
        ann = {"Authorization": f"Bearer {secret}"}
        assert http.post(RUNS, json=body).status_code == 401
        assert http.post(RUNS, json=body, headers=ann).status_code == 200
        assert access.revoke(kept, "ann")
        assert http.post(RUNS, json=body, headers=ann).status_code == 401
        # The last token taken back shuts the server; it does not open it.
        assert http.post(RUNS, json=body).status_code == 401
        kept.write_text("not a list")
        assert http.post(RUNS, json=body, headers=ann).status_code == 401


def test_a_write_that_would_wait_for_another_process_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    with listening(tmp_path) as (host, port), httpx.Client(base_url=f"http://{host}:{port}", timeout=30) as http:
        made = http.post("/api/2.0/mlflow/runs/create", json={"experiment_id": "0"}).json()["run"]["info"]["run_id"]
        store = sqlite3.connect(tmp_path / ".holdfast" / "runs.db", isolation_level=None)
        store.execute("BEGIN IMMEDIATE")
        answers: list[int] = []

        def log() -> None:
            body = {"run_id": made, "key": "m", "value": 1, "timestamp": 1, "step": 1}
            answers.append(
                httpx.post(f"http://{host}:{port}/api/2.0/mlflow/runs/log-metric", json=body, timeout=30).status_code
            )

        thread = threading.Thread(target=log)
        thread.start()
        for _ in range(5):
            assert http.get("/health").text == "OK"
            assert http.get("/api/2.0/mlflow/runs/get", params={"run_id": made}).status_code == 200
        assert answers == []
        store.execute("COMMIT")
        thread.join(30)
        assert answers == [200]
        store.close()
