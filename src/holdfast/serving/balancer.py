"""One address before several replicas: least pending among the healthy, one retry for a request whose replica died.

The balancer names every prediction, so a retried request keeps its id and the log keeps it once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from holdfast.core.identity import Ids
from holdfast.serving import metrics
from holdfast.serving.heads import ID
from holdfast.serving.later import Later
from holdfast.serving.wire import JSON, TEXT, Limits, Listener, Request, Response, error

Health = Literal["down", "live", "ready"]
HEALTH_EVERY = 0.5
HEALTH_TIMEOUT = 3.0
# Hop-by-hop headers (RFC 9110, 7.6.1) and those written anew for the next hop.
_NOT_FORWARDED = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect",
     b"content-length", b"host", b"x-holdfast-retry")
)  # fmt: skip


class Lost(Exception):
    """The replica's connection ended before its answer did."""


class Taker(Protocol):
    """Who waits for a replica's answer: one of the three is called. ``link`` is the connection it was asked over; whoever is
    ``settled`` before, calls its ``give_up``."""

    link: _Link | None

    @property
    def settled(self) -> bool:
        """Whether nothing is waited for any more."""

    def answered(self, response: Response) -> None:
        """The replica's answer."""

    def unreachable(self) -> None:
        """The replica could not be reached; it has seen nothing."""

    def lost(self) -> None:
        """It was reached, and went away before it answered."""


class _Link(asyncio.Protocol):
    """A connection to a replica; one request at a time. What comes back is what ``wire.head`` writes, and read as such."""

    def __init__(self, backend: Backend) -> None:
        self.transport: Any = None
        self.closed = False
        self._backend = backend
        self._taker: Taker | None = None
        self._answer: Response | None = None
        self._parts: list[bytes] = []
        self._missing = 0
        self._reusable = True

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        taker, self._taker = self._taker, None
        self._backend.gone(self)
        if taker is not None:
            self._backend.pending -= 1
            taker.lost()

    def ask(self, data: bytes, taker: Taker) -> None:
        """Send a request."""
        self._backend.pending += 1
        self._taker = taker
        taker.link = self
        self.transport.write(data)

    def give_up(self) -> None:
        """Whoever waited does no longer."""
        if self._taker is not None:
            self._taker = None
            self._backend.pending -= 1
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            if self._parts:
                self._parts.append(data)
                data = b"".join(self._parts)
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._parts = [data]
                return
            try:
                self._answer, length = self._read_head(data[:end])
            except (ValueError, IndexError):
                self.transport.abort()
                return
            data = data[end + 4 :]
            self._parts, self._missing = [], length
        self._missing -= len(data)
        if self._missing > 0:
            self._parts.append(data)
            return
        answer, self._answer = self._answer, None
        if self._parts:
            self._parts.append(data)
            data, self._parts = b"".join(self._parts), []
        taker, self._taker = self._taker, None
        if self._missing < 0 or taker is None:
            # More than was asked for: nothing that comes here can be told apart any more.
            self._taker = taker
            self.transport.abort()
            return
        self._backend.pending -= 1
        if self._reusable and not self.closed:
            self._backend.spare(self)
        else:
            self.transport.close()
        taker.answered(answer._replace(body=data) if data else answer)

    def _read_head(self, head: bytes) -> tuple[Response, int]:
        """An answer without its body, and the body's length. Raises ValueError: not what a replica writes."""
        first, *lines = head.split(b"\r\n")
        status, length, kind = int(first[9:12]), -1, b""
        headers: list[tuple[bytes, bytes]] = []
        for line in lines:
            name, _, value = line.partition(b": ")
            if name == b"content-type":
                kind = JSON if value == JSON else value
            elif name == b"content-length":
                length = int(value)
            elif name == b"connection":
                self._reusable = value != b"close"
            else:
                headers.append((name, value))
        if length < 0:
            raise ValueError("no length")
        return Response(status, b"", kind, tuple(headers)), length


class _Promise:
    """A ``Taker`` that is awaited."""

    def __init__(self) -> None:
        self.link: _Link | None = None
        self.future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    @property
    def settled(self) -> bool:
        return self.future.done()

    def answered(self, response: Response) -> None:
        if not self.future.done():
            self.future.set_result(response)

    def unreachable(self) -> None:
        if not self.future.done():
            self.future.set_exception(ConnectionError("the replica cannot be reached"))

    def lost(self) -> None:
        if not self.future.done():
            self.future.set_exception(Lost())


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
        self._connecting: set[asyncio.Task[None]] = set()

    def ask(self, data: bytes, taker: Taker) -> None:
        """Send a request over a connection at hand, or over one that is made first."""
        while self._idle:
            link = self._idle.pop()
            if not link.closed:
                link.ask(data, taker)
                return
        task = asyncio.get_running_loop().create_task(self._connect(data, taker))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def send(self, data: bytes) -> Response:
        """One exchange.

        Raises:
            ConnectionError: the replica could not be reached; it has seen nothing.
            Lost: it was reached, and went away before it answered.
        """
        promise = _Promise()
        self.ask(data, promise)
        try:
            return await promise.future
        except asyncio.CancelledError:
            if promise.link is not None:
                promise.link.give_up()
            raise

    async def _connect(self, data: bytes, taker: Taker) -> None:
        link: _Link | None = None
        self.pending += 1
        try:
            _, link = await asyncio.get_running_loop().create_unix_connection(lambda: _Link(self), str(self.path))
        except OSError:
            pass
        finally:
            self.pending -= 1
        if link is not None and not link.closed:
            self._open.add(link)
            if taker.settled:
                self._idle.append(link)
            else:
                link.ask(data, taker)
        elif not taker.settled:
            taker.unreachable()

    def spare(self, link: _Link) -> None:
        """A connection whose request is answered."""
        self._idle.append(link)

    def gone(self, link: _Link) -> None:
        """A connection that ended."""
        self._open.discard(link)

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


class _Exchange:
    """One request on its way to a replica, or to another one, once, when the first dies on it."""

    __slots__ = (
        "_backend",
        "_balancer",
        "_deaths",
        "_head",
        "_later",
        "_patience",
        "due",
        "link",
        "request",
        "settled",
    )

    def __init__(self, balancer: Balancer, request: Request) -> None:
        now = asyncio.get_running_loop().time()
        self.request = request
        self.settled = False
        self.due = now + balancer.options.deadline
        self._patience = now + balancer.options.wait_for_replica
        self._balancer = balancer
        self._later = Later(request)
        self._head = balancer.head(request)
        self._deaths = 0
        self._backend: Backend | None = None
        self.link: _Link | None = None

    def begin(self) -> Later:
        self._balancer.begin(self)
        self._try()
        return self._later

    def _try(self) -> None:
        if self.settled:
            return
        balancer, loop = self._balancer, asyncio.get_running_loop()
        # A replica that has just started is live before it has the release: while another start is under way, wait.
        late = loop.time() >= self._patience
        backend = self._backend = balancer.pick(unready=late or not balancer.served)
        if backend is None:
            if late:
                self._refuse(503, "HF515", "no replica is up", "try again in a moment")
            else:
                loop.call_later(0.01, self._try)
            return
        data = b"".join((self._head, b"x-holdfast-retry: 1\r\n\r\n" if self._deaths else b"\r\n", self.request.body))
        backend.ask(data, self)

    def answered(self, response: Response) -> None:
        self._settle(response)

    def unreachable(self) -> None:
        if self._backend is not None:
            self._backend.health = "down"
        self._try()

    def lost(self) -> None:
        if self._backend is not None:
            self._backend.health = "down"
        self._deaths += 1
        if self._deaths > 1:
            self._refuse(
                502, "HF516", "two replicas died on this request", "its model cannot answer it; see the replicas' log"
            )
            return
        self._balancer.retries.inc()
        self._try()

    def expire(self) -> None:
        """The deadline has come."""
        link = self.link
        self._refuse(504, "HF512", f"no answer within {self._balancer.options.deadline:g} s", "try again later")
        if link is not None:
            link.give_up()

    def _refuse(self, status: int, code: str, message: str, hint: str) -> None:
        self._balancer.rejected.labels(code).inc()
        extra = ((b"retry-after", b"1"),) if status == 503 else ()
        self._settle(error(status, code, message, hint, *extra))

    def _settle(self, response: Response) -> None:
        if self.settled:
            return
        self.settled = True
        self.link = None
        self._balancer.running.pop(self, None)
        self._later.give(response)


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
        self._guard = guard
        self._turn = 0
        self._new_id = Ids()
        self._watching = False
        self.served = False
        self.running: dict[_Exchange, None] = {}
        registry = self.registry = CollectorRegistry()
        self.retries = Counter(
            "holdfast_balancer_retries", "Requests sent again because their replica died", registry=registry
        )
        self.rejected = Counter("holdfast_balancer_rejected", "Requests refused by code", ["code"], registry=registry)
        self.restarts = Counter("holdfast_replica_restarts", "Replicas started again", ["name"], registry=registry)
        self._pending = Gauge("holdfast_balancer_pending", "Requests in the balancer", registry=registry)
        self._health = Gauge("holdfast_replica_healthy", "1 while the replica is ready", ["name"], registry=registry)
        self.listener = Listener(self.handle, limits=limits, on_refused=lambda code: self.rejected.labels(code).inc())

    @property
    def pending(self) -> int:
        """Requests in the balancer."""
        return len(self.running)

    def begin(self, exchange: _Exchange) -> None:
        """Keep count of an exchange until ``end``."""
        self.running[exchange] = None
        if not self._watching:
            self._watching = True
            asyncio.get_running_loop().call_at(exchange.due, self._watch_deadlines)

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
        if len(self.running) >= self.options.max_pending:
            self.rejected.labels("HF513").inc()
            return error(
                503, "HF513", "the queue is full", "try again in a moment, or add replicas", (b"retry-after", b"1")
            )
        return _Exchange(self, request).begin()

    def head(self, request: Request) -> bytes:
        """What a replica is sent before the body, without the empty line."""
        # Asked with GET, so that the length of the answer is known; a listener sends no body to HEAD.
        method = b"GET" if request.method == "HEAD" else request.method.encode()
        parts = [method, b" ", request.target, b" HTTP/1.1\r\nhost: replica\r\n"]
        given = None
        for name, value in request.headers.items():
            if name == ID:
                given = value
            elif name not in _NOT_FORWARDED:
                parts += (name, b": ", value, b"\r\n")
        parts += (b"content-length: ", str(len(request.body)).encode(), b"\r\n")
        # The id stands last: what stands before it is the same for many requests, and a replica reads it once.
        if given is None and request.method == "POST":
            given = self._new_id().encode()
        if given is not None:
            parts += (ID, b": ", given, b"\r\n")
        return b"".join(parts)

    def pick(self, *, unready: bool = True) -> Backend | None:
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

    def _watch_deadlines(self) -> None:
        """End what takes too long. One timer for all: they are due in the order they came."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for exchange in list(self.running):
            if exchange.due > now:
                loop.call_at(exchange.due, self._watch_deadlines)
                return
            exchange.expire()
        self._watching = False

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
        self._pending.set(len(self.running))
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
            self.served = self.served or answer.status == 200
        return backend.health
