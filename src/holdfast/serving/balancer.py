"""One address before several replicas: least pending among the healthy, one retry for a request whose replica died.

The balancer names every prediction, so a retried request keeps its id and the log keeps it once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httptools
import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from holdfast.core.identity import new_id
from holdfast.serving import metrics
from holdfast.serving.wire import TEXT, Limits, Listener, Request, Response, error

Health = Literal["down", "live", "ready"]
HEALTH_EVERY = 0.5
HEALTH_TIMEOUT = 3.0
# Hop-by-hop headers (RFC 9110, 7.6.1) and those written anew for the next hop.
_NOT_FORWARDED = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect",
     b"content-length", b"host", b"x-holdfast-retry")
)  # fmt: skip
_NOT_RETURNED = frozenset((b"connection", b"keep-alive", b"content-length", b"transfer-encoding", b"content-type"))


class Lost(Exception):
    """The replica's connection ended before its answer did."""


class _Link(asyncio.Protocol):
    """A connection to a replica; one request at a time."""

    def __init__(self, on_close: Callable[[_Link], None]) -> None:
        self.transport: Any = None
        self._parser: Any = None
        self._waiter: asyncio.Future[Response] | None = None
        self._body: list[bytes] = []
        self._headers: list[tuple[bytes, bytes]] = []
        self._type = b""
        self._on_close = on_close
        self.closed = False
        self.reusable = True

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(Lost())
        self._on_close(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, AttributeError):
            self.transport.abort()

    def ask(self, data: bytes) -> asyncio.Future[Response]:
        self._waiter = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._body, self._headers, self._type = [], [], b""
        self.transport.write(data)
        return self._waiter

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self._type = value
        elif name not in _NOT_RETURNED:
            self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.reusable = self._parser.should_keep_alive()
        if self._waiter is not None and not self._waiter.done():
            status = self._parser.get_status_code()
            self._waiter.set_result(Response(status, b"".join(self._body), self._type, tuple(self._headers)))


class Backend:
    """One replica as the balancer sees it."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.health: Health = "down"
        self.pending = 0
        self.draining = False
        self.missed = 0
        self._idle: list[_Link] = []
        self._open: set[_Link] = set()

    async def send(self, data: bytes) -> Response:
        """One exchange.

        Raises:
            ConnectionError: the replica could not be reached; it has seen nothing.
            Lost: it was reached, and went away before it answered.
        """
        link = None
        while self._idle:
            link = self._idle.pop()
            if not link.closed:
                break
            link = None
        if link is None:
            link = await self._connect()
        self.pending += 1
        try:
            answer = await link.ask(data)
        except BaseException:
            if not link.closed:
                link.transport.abort()
            raise
        finally:
            self.pending -= 1
        if link.reusable and not link.closed:
            self._idle.append(link)
        else:
            link.transport.close()
        return answer

    async def _connect(self) -> _Link:
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.create_unix_connection(lambda: _Link(self._open.discard), str(self.path))
        except OSError as problem:
            raise ConnectionError(str(problem)) from None
        self._open.add(link)
        return link

    def forget(self) -> None:
        """Drop all connections: the process behind them is gone."""
        self.health = "down"
        for link in list(self._open):
            link.transport.abort()
        self._idle.clear()


class BalancerOptions(NamedTuple):
    """Times in seconds."""

    max_pending: int = 2048
    wait_for_replica: float = 10.0
    deadline: float = 35.0


class Balancer:
    """Forwards each request to one of ``backends``."""

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        options: BalancerOptions | None = None,
        limits: Limits | None = None,
        guard: Callable[[Request], Response | None] | None = None,
    ) -> None:
        self.backends = list(backends)
        self.options = options or BalancerOptions()
        self.pending = 0
        self._guard = guard
        self._turn = 0
        self._served = False
        registry = self.registry = CollectorRegistry()
        self.retries = Counter(
            "holdfast_balancer_retries", "Requests sent again because their replica died", registry=registry
        )
        self.rejected = Counter("holdfast_balancer_rejected", "Requests refused by code", ["code"], registry=registry)
        self.restarts = Counter("holdfast_replica_restarts", "Replicas started again", ["name"], registry=registry)
        self._pending = Gauge("holdfast_balancer_pending", "Requests in the balancer", registry=registry)
        self._health = Gauge("holdfast_replica_healthy", "1 while the replica is ready", ["name"], registry=registry)
        self.listener = Listener(self.handle, limits=limits, on_refused=lambda code: self.rejected.labels(code).inc())

    def handle(self, request: Request) -> Response | Any:
        """The door of every request."""
        if self._guard is not None:
            refused = self._guard(request)
            if refused is not None:
                self.rejected.labels("HF410").inc()
                return refused
        if request.path == "/health/live":
            return Response(200, b'{"live":true}')
        if request.path in ("/health/ready", "/health/startup"):
            return self._ready()
        if request.path == "/metrics":
            return self._metrics()
        if self.pending >= self.options.max_pending:
            self.rejected.labels("HF513").inc()
            return error(
                503, "HF513", "the queue is full", "try again in a moment, or add replicas", (b"retry-after", b"1")
            )
        self.pending += 1  # here and not in the task, which starts later: a burst must meet the bound too
        return self.forward(request)

    async def forward(self, request: Request) -> Response:
        """The answer of a replica; another one is asked, once, when the first dies on the request."""
        try:
            async with asyncio.timeout(self.options.deadline):
                return await self._forward(request)
        except TimeoutError:
            self.rejected.labels("HF512").inc()
            return error(504, "HF512", f"no answer within {self.options.deadline:g} s", "try again later")
        finally:
            self.pending -= 1

    async def _forward(self, request: Request) -> Response:
        head = self._head(request)
        deaths = 0
        patience = time.monotonic() + self.options.wait_for_replica
        while True:
            # A replica that has just started is live before it has the release: while another start is under way, wait.
            backend = self._pick(unready=not self._served or time.monotonic() >= patience)
            if backend is None:
                if time.monotonic() >= patience:
                    self.rejected.labels("HF515").inc()
                    return error(503, "HF515", "no replica is up", "try again in a moment", (b"retry-after", b"1"))
                await asyncio.sleep(0.01)
                continue
            data = b"".join((head, b"x-holdfast-retry: 1\r\n" if deaths else b"", b"\r\n", request.body))
            try:
                return await backend.send(data)
            except ConnectionError:
                backend.health = "down"
            except Lost:
                backend.health = "down"
                deaths += 1
                if deaths > 1:
                    self.rejected.labels("HF516").inc()
                    return error(
                        502,
                        "HF516",
                        "two replicas died on this request",
                        "its model cannot answer it; see the replicas' log",
                    )
                self.retries.inc()

    def _head(self, request: Request) -> bytes:
        parts = [request.method.encode(), b" ", request.target, b" HTTP/1.1\r\nhost: replica\r\n"]
        named = False
        for name, value in request.headers.items():
            if name not in _NOT_FORWARDED:
                parts += (name, b": ", value, b"\r\n")
                named = named or name == b"x-holdfast-prediction-id"
        if not named and request.method == "POST":
            parts += (b"x-holdfast-prediction-id: ", new_id().encode(), b"\r\n")
        parts += (b"content-length: ", str(len(request.body)).encode(), b"\r\n")
        return b"".join(parts)

    def _pick(self, *, unready: bool = True) -> Backend | None:
        """The ready replica with the fewest pending requests, in turn among equals; where ``unready`` is allowed, a live
        one when none is ready (it says why it cannot answer)."""
        for wanted in ("ready", "live") if unready else ("ready",):
            able = [b for b in self.backends if b.health == wanted and not b.draining]
            if able:
                least = min(b.pending for b in able)
                able = [b for b in able if b.pending == least]
                self._turn += 1
                return able[self._turn % len(able)]
        return None

    def _ready(self) -> Response:
        ready = [b.name for b in self.backends if b.health == "ready" and not b.draining]
        body = msgspec.json.encode({"ready": bool(ready), "replicas": {b.name: b.health for b in self.backends}})
        return Response(200 if ready else 503, body)

    async def _metrics(self) -> Response:
        ask = b"GET /metrics HTTP/1.1\r\nhost: replica\r\n\r\n"

        async def one(backend: Backend) -> bytes:
            try:
                async with asyncio.timeout(HEALTH_TIMEOUT):
                    return (await backend.send(ask)).body
            except (TimeoutError, ConnectionError, Lost):
                return b""

        texts = await asyncio.gather(*(one(b) for b in self.backends))
        self._pending.set(self.pending)
        for backend in self.backends:
            self._health.labels(backend.name).set(int(backend.health == "ready"))
        parts = {b.name: t for b, t in zip(self.backends, texts, strict=True) if t}
        return Response(200, metrics.merge(parts) + bytes(generate_latest(self.registry)), TEXT)

    async def check(self, backend: Backend) -> Health:
        """Ask one replica how it is, and remember it."""
        ask = b"GET /health/ready HTTP/1.1\r\nhost: replica\r\n\r\n"
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT):
                answer = await backend.send(ask)
        except (TimeoutError, ConnectionError, Lost) as problem:
            backend.missed += isinstance(problem, TimeoutError)
            backend.health = "down"
        else:
            backend.missed = 0
            backend.health = "ready" if answer.status == 200 else "live"
            self._served = self._served or answer.status == 200
        return backend.health
