"""A feature server behind its real listener, in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import httpx

from holdfast.protocols.feast.routes import LIMITS, FeatureServer
from holdfast.serving.wire import Limits, Listener


@contextlib.contextmanager
def listening(server: FeatureServer, limits: Limits = LIMITS) -> Iterator[httpx.Client]:
    """A client of the server."""
    ready = threading.Event()
    port = 0
    loop = asyncio.new_event_loop()
    stopping = asyncio.Event()

    async def run() -> None:
        nonlocal port
        listener = Listener(server.handle, limits=limits, on_refused=server.counts.refuse)
        listener.start()
        accepting = await loop.create_server(listener.connection, "127.0.0.1", 0)
        port = accepting.sockets[0].getsockname()[1]
        ready.set()
        await stopping.wait()
        accepting.close()
        await listener.drain(1.0)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(10)
        loop.close()
