"""A Redis that does not answer: reads and pushes end with an error that names the mend, and the server goes on meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.protocols.feast.listening import listening

from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.backends.online_redis import RedisOnlineStore
from holdfast.core import definitions as d
from holdfast.core.errors import Unavailable
from holdfast.features.push import Pusher
from holdfast.protocols.feast import routes

NOW = 1_700_000_000_000_000
activity = d.FeatureView(
    "activity", [d.Entity("k")], d.Source("trips", "t.parquet", timestamp="t"), [d.Field("n", int)]
)
READ = {"features": ["activity:n"], "entities": {"k": [1]}}
PUSH = {"push_source_name": "trips", "df": {"k": [1], "t": [NOW - 5], "n": [3]}}


class Silent:
    """A server that accepts, reads, and answers nothing until it is told to: what a stopped Redis looks like."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.asked = threading.Event()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._listen, args=(connection,), daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        try:
            while connection.recv(4096):
                self.asked.set()
        except OSError:
            pass

    def close(self) -> None:
        self._listening.close()
        for connection in self._open:
            connection.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    yield server
    server.close()


def serve(online: Any, pusher: Pusher | None = None, **more: Any) -> routes.FeatureServer:
    definitions = routes.Definitions.of({"activity": activity}, {})
    return routes.FeatureServer(online, definitions, pusher=pusher, clock=lambda: NOW, **more)


def refused(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert answer.status_code == 503 and error["code"] == "HF500", answer.text
    assert "online store" in error["message"] and "Redis" in error["hint"]
    assert answer.headers["retry-after"] == "1"


def test_others_are_answered_while_a_read_waits(silent: Silent) -> None:
    store = RedisOnlineStore(f"redis://127.0.0.1:{silent.port}/0", timeout=30.0)
    with listening(serve(store, read_seconds=3.0)) as client, ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(client.post, "/get-online-features", json=READ) for _ in range(8)]
        assert silent.asked.wait(10)
        assert client.get("/health").status_code == 200
        assert client.post("/get-online-features", json={**READ, "features": ["activity:x"]}).status_code == 404
        assert client.get("/metrics").status_code == 200
        assert not any(answer.done() for answer in waiting)
        for answer in waiting:
            refused(answer.result())
        silent.close()  # the threads need not wait for their own limit


def test_the_store_gives_up_by_itself_and_the_next_caller_is_told_at_once(silent: Silent) -> None:
    store = RedisOnlineStore(f"redis://127.0.0.1:{silent.port}/0", timeout=0.3)
    with listening(serve(store)) as client:
        for _ in range(3):
            refused(client.post("/get-online-features", json=READ))
            silent.asked.clear()
        assert client.get("/health").status_code == 200


def test_a_push_is_refused_and_comes_online_when_redis_is_back(tmp_path: Path, silent: Silent) -> None:
    class Moved:
        """The store of a Redis that hangs for a while."""

        waits = True

        def __init__(self, *stores: Any) -> None:
            self.stores = list(stores)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stores[0], name)

    with EmbeddedOnlineStore(tmp_path / "online", map_size=1 << 26) as good:
        store = Moved(good)
        with Pusher(tmp_path, store, [activity]) as pusher, listening(serve(store, pusher)) as client:
            store.stores.insert(0, RedisOnlineStore(f"redis://127.0.0.1:{silent.port}/0", timeout=0.3))
            with ThreadPoolExecutor(8) as pool:
                for answer in [pool.submit(client.post, "/push", json=PUSH) for _ in range(8)]:
                    refused(answer.result())
            assert client.get("/health").status_code == 200
            store.stores.pop(0)
            pusher.catch_up()
            assert client.post("/get-online-features", json=READ).json()["results"][1]["values"] == [3]


@pytest.fixture
def redis_server() -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        if os.environ.get("HOLDFAST_REQUIRE_SERVICES") == "1":
            pytest.fail("no Redis server is installed")
        pytest.skip("no Redis server is installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield port, server
    finally:
        server.send_signal(signal.SIGCONT)
        server.terminate()
        server.wait(20)


@pytest.mark.redis
def test_a_stopped_redis_that_goes_on_gives_every_caller_his_own_answer(
    tmp_path: Path, redis_server: tuple[int, subprocess.Popen[bytes]]
) -> None:
    """What it says late, to who has gone, is nobody's answer."""
    port, server = redis_server
    store = RedisOnlineStore(f"redis://127.0.0.1:{port}/0", timeout=0.5)
    wait_for(store)
    with Pusher(tmp_path, store, [activity]) as pusher, listening(serve(store, pusher)) as client:
        rows = {"k": list(range(1, 9)), "t": [NOW - 5] * 8, "n": [k * 10 for k in range(1, 9)]}
        assert client.post("/push", json={"push_source_name": "trips", "df": rows}).status_code == 200

        def read(k: int) -> httpx.Response:
            return client.post("/get-online-features", json={**READ, "entities": {"k": [k]}})

        with ThreadPoolExecutor(8) as pool:
            server.send_signal(signal.SIGSTOP)
            for answer in pool.map(read, range(1, 9)):
                refused(answer)
            server.send_signal(signal.SIGCONT)
            wait_for(store)
            for _ in range(5):
                for k, answer in zip(range(1, 9), pool.map(read, range(1, 9)), strict=True):
                    assert answer.json()["results"][1]["values"] == [k * 10], answer.text


def wait_for(store: RedisOnlineStore) -> None:
    for _ in range(200):
        try:
            store.meta_get("there?")
            return
        except Unavailable:
            time.sleep(0.05)
    raise AssertionError("no Redis")
