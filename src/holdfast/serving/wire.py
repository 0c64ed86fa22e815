"""HTTP/1.1 on asyncio, as little as serving needs: parse, bound, hand over, answer in order.

A handler gets a ``Request`` and returns a ``Response`` at once, a ``Later`` (neither costs a task) or an awaitable of one.
Limits are part of the protocol: header and body size, idle and slow clients, connections. llhttp (httptools) parses and
refuses ambiguous framing.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote

import httptools
import msgspec

from holdfast.core.errors import HoldfastError
from holdfast.serving.heads import Head, Heads
from holdfast.serving.later import Later

JSON = b"application/json"
TEXT = b"text/plain; version=0.0.4; charset=utf-8"
_STATUS = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
# A path that is itself: nothing to decode, no query.
_PLAIN = re.compile(rb"(?:/[A-Za-z0-9_.~-]*)+\Z").match
_GOOD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Response(NamedTuple):
    status: int
    body: bytes
    type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Request:
    """One whole request. ``headers`` are lower-cased, the last of a repeated name wins; ``path`` is ``target`` without
    the query, decoded once; ``keep`` says whether the client keeps the connection."""

    __slots__ = ("body", "headers", "keep", "marks", "method", "path", "peer", "query", "received", "target")

    def __init__(
        self,
        method: str,
        target: bytes,
        path: str,
        query: bytes,
        headers: dict[bytes, bytes],
        body: bytes,
        peer: str = "",
        keep: bool = True,
    ) -> None:
        self.method = method
        self.target = target
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.peer = peer
        self.keep = keep
        self.received = time.perf_counter_ns()
        self.marks: Any = None  # serving.tracing.Marks where this request is traced


Handler = Callable[[Request], "Response | Awaitable[Response]"]


class Limits(NamedTuple):
    """Bounds of one listener. Times are seconds, sizes bytes."""

    body: int = 32 << 20
    headers: int = 32 << 10
    url: int = 8 << 10
    connections: int = 4096
    idle: float = 75.0
    arrival: float = 20.0
    pipeline: int = 16


def error(status: int, code: str, message: str, hint: str | None = None, *headers: tuple[bytes, bytes]) -> Response:
    """An error answer in the one shape all answers of ours have."""
    body = msgspec.json.encode({"error": {"code": code, "message": message, "hint": hint}})
    return Response(status, body, JSON, headers)


def from_error(problem: HoldfastError) -> Response:
    """A family error as an answer; ours (5xx) without details that belong in a log."""
    extra = ((b"retry-after", b"1"),) if problem.status == 503 else ()
    return Response(problem.status, msgspec.json.encode(problem.as_dict()), JSON, extra)


def head(response: Response, *, close: bool = False) -> bytes:
    parts = [
        _STATUS.get(response.status) or f"HTTP/1.1 {response.status} Status\r\n".encode(),
        b"content-type: ", response.type, b"\r\ncontent-length: ", str(len(response.body)).encode(), b"\r\n",
    ]  # fmt: skip
    for name, value in response.headers:
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"connection: close\r\n\r\n" if close else b"\r\n")
    return b"".join(parts)


class Listener:
    """All connections of one address: shared limits, counters, draining."""

    def __init__(
        self, handler: Handler, *, limits: Limits | None = None, on_refused: Callable[[str], None] | None = None
    ) -> None:
        self.handler = handler
        self.limits = limits or Limits()
        self.open: set[Connection] = set()
        self.heads = Heads()
        self.draining = False
        self.refused = on_refused or (lambda code: None)
        self._sweeper: asyncio.Task[None] | None = None

    def connection(self) -> Connection:
        return Connection(self)

    def start(self) -> None:
        """Begin looking for idle and slow connections. Call inside the running loop."""
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            now = time.monotonic()
            for connection in list(self.open):
                connection.check_time(now)

    async def drain(self, timeout: float = 10.0) -> None:
        """Let running requests end, close the idle, then close the rest."""
        self.draining = True
        end = time.monotonic() + timeout
        while self.open and time.monotonic() < end:
            for connection in list(self.open):
                if connection.idle:
                    connection.shut()
            await asyncio.sleep(0.01)
        for connection in list(self.open):
            connection.shut()
        if self._sweeper is not None:
            self._sweeper.cancel()


class Connection(asyncio.Protocol):
    """One client. Answers leave in the order of the requests."""

    __slots__ = (
        "_body",
        "_busy",
        "_closing",
        "_first",
        "_greeted",
        "_header_size",
        "_headers",
        "_held",
        "_lingering",
        "_listener",
        "_parser",
        "_paused",
        "_peer",
        "_receiving",
        "_refusal",
        "_since",
        "_size",
        "_transport",
        "_unsent",
        "_url",
        "_waiting",
    )  # fmt: skip

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._parser: Any = None
        self._transport: Any = None
        self._peer = ""
        self._waiting: deque[Request] = deque()
        self._busy = False
        self._closing = False
        self._lingering = False
        self._refusal: bytes | None = None
        self._paused = False
        self._held = False
        self._receiving = False
        self._greeted = False
        self._first: bytes | None = None
        self._unsent = 0
        self._since = time.monotonic()
        self._clear()

    def _clear(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_size = 0
        self._body: list[bytes] = []
        self._size = 0

    @property
    def idle(self) -> bool:
        return self._lingering or (not self._busy and not self._waiting and not self._receiving)

    @property
    def _ended(self) -> bool:
        """Whether nothing more is taken from this client."""
        return self._closing or self._refusal is not None

    # --- transport --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else "local"
        self._parser = httptools.HttpRequestParser(self)
        if len(self._listener.open) >= self._listener.limits.connections:
            self._refuse(
                503, "HF510", "too many connections", "try again, or use fewer connections", (b"retry-after", b"1"),
                linger=False,
            )  # fmt: skip
            return
        self._listener.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._waiting.clear()
        self._listener.open.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        if not self._receiving:
            found = self._listener.heads.find(data)
            if found is not None:
                self._greeted = True
                head, headers, body = found
                self._enter(Request(head.method, head.target, head.path, head.query, headers, body, self._peer))
                return
            self._first = data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "HF101", "this address does not speak other protocols than HTTP/1.1")
        except httptools.HttpParserError as problem:
            if not self._closing:
                self._refuse(400, "HF101", f"not HTTP: {problem}")
        self._first = None

    def eof_received(self) -> None:
        return None

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if not self._busy:
            self._next()

    def check_time(self, now: float) -> None:
        limits = self._listener.limits
        if self._closing or self._paused:
            # What was written is taken slowly, or not at all: whoever takes nothing for as long as a request may take is cut.
            unsent = self._transport.get_write_buffer_size()
            if unsent != self._unsent:
                self._unsent, self._since = unsent, now
            elif now - self._since > limits.arrival:
                self._transport.abort()
            return
        if self._busy or self._waiting:
            return
        if self._receiving:
            if now - self._since > limits.arrival:
                self._refuse(408, "HF441", f"the request did not arrive within {limits.arrival:g} s", linger=False)
        elif now - self._since > (limits.idle if self._greeted else limits.arrival):
            self.shut()

    def shut(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    # --- parser -----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._clear()
        self._receiving = self._greeted = True
        self._since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > self._listener.limits.url:
            self._refuse(414, "HF442", "the URL is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_size += len(name) + len(value) + 4
        if self._header_size > self._listener.limits.headers or len(self._headers) > 128:
            self._refuse(431, "HF443", "the headers are too large")
            return
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._ended:
            return
        length = self._headers.get(b"content-length")
        if length is not None and length.isdigit() and (len(length) > 15 or int(length) > self._listener.limits.body):
            self._too_large()
            return
        if self._headers.get(b"expect", b"").lower() == b"100-continue" and not self._busy:
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        if self._ended:
            return
        self._size += len(body)
        if self._size > self._listener.limits.body:
            self._too_large()
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._receiving = False
        if self._ended:
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        target = self._url
        try:
            if _PLAIN(target):
                path, query = target.decode("ascii"), b""
            else:
                url = httptools.parse_url(target)
                path, query = unquote(url.path.decode("ascii"), errors="strict"), url.query or b""
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError, AttributeError):
            self._refuse(400, "HF101", "the URL cannot be read")
            return
        method = self._parser.get_method().decode()
        keep = self._parser.should_keep_alive()
        if self._first is not None and keep:
            head = Head(method, target, path, query, self._headers, len(body))
            self._listener.heads.remember(self._first, head)
        self._first = None
        self._enter(Request(method, target, path, query, self._headers, body, self._peer, keep))

    # --- answers ----------------------------------------------------------------------------------------------------

    def _enter(self, request: Request) -> None:
        """Answer a request, or keep it until those before it are answered."""
        if not self._busy and not self._paused and not self._waiting:
            self._run(request)
            return
        self._waiting.append(request)
        if len(self._waiting) >= self._listener.limits.pipeline and not self._held:
            self._held = True
            self._transport.pause_reading()

    def _run(self, request: Request) -> None:
        self._busy = True
        try:
            answer = self._listener.handler(request)
        except HoldfastError as problem:
            answer = from_error(problem)
        except Exception:  # noqa: BLE001 - whatever a handler raises, the client gets an answer without internals
            answer = _ours()
        if isinstance(answer, Response):
            self._answer(request, answer)
        elif isinstance(answer, Later):
            answer.to(self._take)
        else:
            task = asyncio.ensure_future(answer)
            task.add_done_callback(lambda done: self._finished(done, request))

    def _finished(self, done: asyncio.Future[Response], request: Request) -> None:
        if done.cancelled():
            self._answer(request, error(503, "HF511", "the server is stopping", None, (b"retry-after", b"1")))
        else:
            self._take(request, done.exception() or done.result())

    def _take(self, request: Request, outcome: Response | BaseException) -> None:
        if isinstance(outcome, BaseException):
            outcome = from_error(outcome) if isinstance(outcome, HoldfastError) else _ours(outcome)
        try:
            self._answer(request, outcome)
        except Exception:  # a connection that breaks here must not keep the answers of others
            logging.getLogger("holdfast.serving").exception("an answer could not be written")
            self.shut()

    def _answer(self, request: Request, response: Response) -> None:
        self._busy = False
        self._since = time.monotonic()
        if self._closing:
            return
        close = not request.keep or self._listener.draining
        status, body, kind, headers = response
        if status == 200 and kind is JSON and not headers and not close and request.method != "HEAD":
            self._transport.write(_GOOD % (len(body), body))
        else:
            first = head(response, close=close)
            self._transport.write(first if request.method == "HEAD" else first + body)
        if close:
            self.shut()
            return
        if self._waiting:
            if not self._paused:
                asyncio.get_running_loop().call_soon(self._next)
        elif self._refusal is not None:
            self._end_with(self._refusal, linger=True)

    def _next(self) -> None:
        if self._waiting and not self._busy and not self._paused and not self._closing:
            request = self._waiting.popleft()
            if self._held and len(self._waiting) < self._listener.limits.pipeline // 2:
                self._held = False
                self._transport.resume_reading()
            self._run(request)

    def _too_large(self) -> None:
        limit = self._listener.limits.body
        self._refuse(
            413,
            "HF440",
            f"the body is larger than {limit} bytes",
            "send fewer rows per request, or use `holdfast batch`",
        )

    def _refuse(
        self,
        status: int,
        code: str,
        message: str,
        hint: str | None = None,
        *headers: tuple[bytes, bytes],
        linger: bool = True,
    ) -> None:
        """Answer what cannot be taken, after what came before it, and take nothing more."""
        if self._ended:
            return
        self._listener.refused(code)
        answer = error(status, code, message, hint, *headers)
        said = head(answer, close=True) + answer.body
        if self._busy or self._waiting:
            self._refusal = said
        else:
            self._end_with(said, linger=linger)

    def _end_with(self, said: bytes, *, linger: bool) -> None:
        """The last answer. A client that is still sending reads none before it has sent everything, and one whose bytes meet
        a closed socket hears of nothing else: what comes is let in and dropped (``linger``) until the client closes, or for
        as long as a request may take to arrive."""
        self._closing = True
        self._since = time.monotonic()
        self._clear()
        self._transport.write(said)
        if linger and self._transport.can_write_eof():
            self._lingering = True
            self._transport.write_eof()
        else:
            self._transport.close()


def _ours(problem: BaseException | None = None) -> Response:
    logging.getLogger("holdfast.serving").exception("request failed", exc_info=problem if problem is not None else True)
    return error(500, "HF900", "the server failed on this request", "it is logged there; please report it")
