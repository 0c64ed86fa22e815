"""A load generator: closed loop (N connections, each sends when answered) and open loop at a fixed rate.

In the open loop a request's time starts when it was due, not when it could be sent, so a stalled server cannot hide its
stall (no coordinated omission). Runs in a process of its own: ``python -m benchmarks._load '{json}'`` prints one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from typing import Any

import numpy as np
import uvloop


class Client(asyncio.Protocol):
    """One kept-alive connection; one request at a time."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.transport: Any = None
        self.buffer = b""
        self.due = 0.0
        self.busy = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.run.idle.append(self)
        self.run.clients.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self.busy = False
            self.run.failed += 1

    def send(self, due: float) -> None:
        self.due, self.busy = due, True
        self.transport.write(self.run.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        at = head.find(b"content-length:")
        if at >= 0:
            length = int(head[at + 15 :].split(b"\r", 1)[0])
            if len(self.buffer) < end + 4 + length:
                return
        elif not self.buffer.endswith(b"0\r\n\r\n"):
            return
        now = time.perf_counter()
        self.busy = False
        if head[9:12] == b"200":
            self.run.times.append(now - self.due)
        else:
            self.run.failed += 1
            self.run.example = self.buffer[:300].decode("latin-1")
        self.buffer = b""
        self.run.free(self, now)


class Run:
    def __init__(
        self, *, port: int, path: str, body: str, connections: int, seconds: float, rate: float | None
    ) -> None:
        data = body.encode()
        self.request = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(data)}\r\n\r\n"
        ).encode() + data
        self.port, self.connections, self.seconds, self.rate = port, connections, seconds, rate
        self.times: list[float] = []
        self.failed = 0
        self.example = ""
        self.idle: deque[Client] = deque()
        self.clients: list[Client] = []
        self.late: deque[float] = deque()
        self.end = 0.0

    def free(self, client: Client, now: float) -> None:
        if self.rate is None:
            if now < self.end:
                client.send(now)
        elif self.late:
            client.send(self.late.popleft())
        else:
            self.idle.append(client)

    async def go(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        for _ in range(self.connections):
            await loop.create_connection(lambda: Client(self), "127.0.0.1", self.port)
        begun = time.perf_counter()
        self.end = begun + self.seconds
        if self.rate is None:
            for client in list(self.idle):
                client.send(time.perf_counter())
            await asyncio.sleep(self.seconds)
        else:
            count, interval = int(self.rate * self.seconds), 1 / self.rate
            for i in range(count):
                due = begun + i * interval
                wait = due - time.perf_counter()
                if wait > 0.0005:
                    await asyncio.sleep(wait)
                elif i % 64 == 0:
                    await asyncio.sleep(0)
                if self.idle:
                    self.idle.popleft().send(due)
                else:
                    self.late.append(due)
        answered = len(self.times)
        took = time.perf_counter() - begun
        # What is still on its way counts for latency, not for throughput.
        grace = time.perf_counter() + 30
        while (self.late or any(c.busy for c in self.clients)) and time.perf_counter() < grace:
            await asyncio.sleep(0.01)
        ms = np.array(self.times) * 1e3
        quantiles = {f"p{q:g}": round(float(np.percentile(ms, q)), 3) for q in (50, 99, 99.9)} if len(ms) else {}
        return {
            "rps": round(answered / took, 1),
            "answered": len(ms),
            "failed": self.failed,
            **quantiles,
            "example": self.example,
        }


def main() -> int:
    options = json.loads(sys.argv[1])
    print(json.dumps(uvloop.run(Run(**options).go())))
    return 0


if __name__ == "__main__":
    main()
