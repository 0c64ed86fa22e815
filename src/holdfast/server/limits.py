"""How much a client may ask of a listener: body size, time for the body to arrive, requests at once. ASGI middleware."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from holdfast.core.errors import BadInput, HoldfastError, TooMuch, Unavailable

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class TooSlow(BadInput):
    """The body did not arrive in time."""

    number = "HF441"
    status = 408


class LimitsMiddleware:
    """Refuses, with a stable code, before the application has to care.

    Args:
        body: most bytes of a request body; ``body_of(path)`` may say otherwise for a path (uploads).
        arrival: seconds the whole body may take; a body that keeps growing by a piece each ``arrival`` is still bounded
            by ``body``.
        concurrent: requests answered at once; more get 503 with Retry-After.
        refused: told the code of every refusal, to be counted.
    """

    def __init__(
        self,
        app: App,
        *,
        body: int = 32 << 20,
        arrival: float = 20.0,
        concurrent: int = 512,
        body_of: Callable[[str], int | None] | None = None,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        self.app = app
        self.body = body
        self.arrival = arrival
        self.concurrent = concurrent
        self.body_of = body_of or (lambda path: None)
        self.refused = refused or (lambda code: None)
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.body_of(scope["path"]) or self.body
        declared = next((v for n, v in scope["headers"] if n.lower() == b"content-length"), b"0")
        if declared.isdigit() and (len(declared) > 15 or int(declared) > limit):
            await self._refuse(_too_large(limit), send)
            return
        if self.running >= self.concurrent:
            await self._refuse(
                Unavailable("too many requests at once", hint="try again in a moment", number="HF513"), send
            )
            return
        self.running += 1
        try:
            await self._bounded(scope, receive, send, limit)
        finally:
            self.running -= 1

    async def _bounded(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        seen = 0
        whole = False
        started = False
        end = asyncio.get_running_loop().time() + self.arrival

        async def measured() -> Message:
            nonlocal seen, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                raise TooSlow(
                    f"the body did not arrive within {self.arrival:g} s", hint="send it faster, or less of it"
                ) from None
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if seen > limit:
                    raise _too_large(limit)
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, measured, watched)
        except (TooSlow, TooMuch) as problem:
            if started:
                raise
            await self._refuse(problem, send)

    async def _refuse(self, problem: HoldfastError, send: Send) -> None:
        import msgspec

        self.refused(problem.number)
        body = msgspec.json.encode(problem.as_dict())
        headers = [
            (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close"),
        ]  # fmt: skip
        if problem.status == 503:
            headers.append((b"retry-after", b"1"))
        await send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _too_large(limit: int) -> TooMuch:
    return TooMuch(f"the body is larger than {limit} bytes", hint="send less at once")
