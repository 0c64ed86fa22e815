"""How long a listener waits for a client that dawdles: for a request's head, and for its body piece by piece. And that its
answers leave as one piece where they can."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from holdfast.server.limits import Message, Receive, TooSlow

if TYPE_CHECKING:
    from asyncio import Protocol

HEAD_SECONDS = 15.0
BODY_SECONDS = 20.0
BODY_BYTES_PER_SECOND = 4096
_HELD = 64 * 1024


def paced(receive: Receive, *, grace: float = BODY_SECONDS, rate: float = BODY_BYTES_PER_SECOND) -> Receive:
    """``receive`` for a body that may be any size but not arbitrarily slow: ``grace`` seconds, and one more for each
    ``rate`` bytes that came. The clock runs only while the application waits, so a slow disk of ours costs nobody his time.

    Raises:
        TooSlow: from the call that waited too long.
    """
    left = grace
    whole = False

    async def waiting() -> Message:
        nonlocal left, whole
        if whole:
            return await receive()
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(left):
                message = await receive()
        except TimeoutError:
            raise TooSlow("the body did not arrive in time", hint="send it faster, or less of it at once") from None
        if message["type"] == "http.request":
            left += len(message.get("body", b"")) / rate - (clock() - began)
            whole = not message.get("more_body", False)
        return message

    return waiting


class Joined:
    """A transport that sends what is written in one turn of the loop at once: the head of an answer and its body in one
    packet, which wakes the client once. More than 64 KiB are not held."""

    __slots__ = ("_held", "_loop", "_size", "_transport")

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)
        self._size += len(data)
        if self._size > _HELD:
            self._send()

    def close(self) -> None:
        self._send()
        self._transport.close()

    def abort(self) -> None:
        self._held.clear()
        self._transport.abort()

    def _send(self) -> None:
        held, self._held, self._size = self._held, [], 0
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def protocol(seconds: float = HEAD_SECONDS) -> type[Protocol]:
    """uvicorn's HTTP protocol for ``uvicorn.Config(http=…)``, with a limit on the time from a connection, or from the first
    byte of a request, to the end of its head. Whoever takes longer is cut off; uvicorn itself waits for ever."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    parent: Any = AutoHTTPProtocol

    class PatientProtocol(parent):  # type: ignore[misc]
        _limit: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(Joined(transport, asyncio.get_running_loop()))
            self._await_head()

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            if before is None or before.response_complete:
                self._await_head()
            super().data_received(data)
            if self.cycle is not before:
                self._head_is_there()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_is_there()
            super().connection_lost(exc)

        def _await_head(self) -> None:
            if self._limit is None:
                self._limit = asyncio.get_running_loop().call_later(seconds, self._cut_off)

        def _head_is_there(self) -> None:
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None

        def _cut_off(self) -> None:
            self._limit = None
            if not self.transport.is_closing():
                self.transport.abort()

    return PatientProtocol
