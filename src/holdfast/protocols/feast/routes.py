"""The feature server: Feast's HTTP interface, on the data plane. It needs neither ledger nor control plane.

Every mistake of the caller is a 4xx with an object: ``{"error": {"code", "message", "hint"}, "detail": message}``
(``detail`` is where Feast's clients look).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast.core.definitions import FeatureService, FeatureView
from holdfast.core.errors import BadInput, HoldfastError, NotFound, TooMuch, Unavailable
from holdfast.core.identity import to_us
from holdfast.core.ports import OnlineStore
from holdfast.features.lookup import Lookup, compile_plan
from holdfast.features.push import Pusher
from holdfast.protocols.feast import translate, wire

T = TypeVar("T")
MOST_BYTES = 16 << 20
_json = msgspec.json.Encoder()

Materialize = Callable[[int | None, int, Sequence[str] | None], Awaitable[Any]]
"""(start or None for where it stopped, end, views or None for all); done when it returns."""


def app(
    online: OnlineStore, *, views: Mapping[str, FeatureView], services: Mapping[str, FeatureService], pusher: Pusher | None,
    materialize: Materialize | None = None, clock: Callable[[], int] | None = None,
) -> ASGIApp:  # fmt: skip
    """The application. ``pusher`` None makes it read-only; ``clock`` gives the request time in µs."""
    server = _Server(online, views, services, pusher, materialize, clock or (lambda: time.time_ns() // 1000))
    routes = [
        Route("/get-online-features", server.read_online, methods=["POST"]),
        Route("/push", server.push, methods=["POST"]),
        Route("/write-to-online-store", server.write, methods=["POST"]),
        Route("/materialize", server.materialize_range, methods=["POST"]),
        Route("/materialize-incremental", server.materialize_incremental, methods=["POST"]),
        Route("/health", server.health, methods=["GET"]),
    ]
    others = Starlette(routes=routes, exception_handlers={HoldfastError: _refuse, 404: _http_error, 405: _http_error})

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        """Reads, which are many and small, without the framework; everything else through it."""
        if scope["type"] == "http" and scope["path"] == "/get-online-features" and scope["method"] == "POST":
            await (await server.read_online(Request(scope, receive)))(scope, receive, send)
        else:
            await others(scope, receive, send)

    return door


class _Server:
    def __init__(
        self, online: OnlineStore, views: Mapping[str, FeatureView], services: Mapping[str, FeatureService],
        pusher: Pusher | None, materialize: Materialize | None, clock: Callable[[], int],
    ) -> None:  # fmt: skip
        self.online, self.views, self.services = online, views, services
        self.pusher, self._materialize, self.clock = pusher, materialize, clock
        self._lookups: dict[Any, tuple[Lookup, list[str], list[str], dict[str, str]]] = {}

    async def read_online(self, request: Request) -> Response:
        try:
            asked = await _body(request, wire.GetOnlineFeatures)
            lookup, columns, names, view_of = self._lookup(asked)
            rows = translate.rows_of(asked.entities, "entities")
            if not rows:
                raise BadInput("entities has no rows", hint="send at least one value per key")
            now = self.clock() if asked.request_time is None else to_us(asked.request_time)
            found, times = lookup.rows_with_times(rows, at=[now] * len(rows))
            return _answer(translate.answer(asked.entities, columns, names, found, times, view_of))
        except HoldfastError as error:
            return await _refuse(request, error)

    def _lookup(self, asked: wire.GetOnlineFeatures) -> tuple[Lookup, list[str], list[str], dict[str, str]]:
        """Compiled once per kind of request."""
        key = (asked.feature_service, tuple(asked.features or ()), asked.full_feature_names)
        known = self._lookups.get(key)
        if known is None:
            if asked.feature_service is not None:
                service = self.services.get(asked.feature_service)
                if service is None:
                    raise NotFound.among("feature service", asked.feature_service, self.services)
                columns = [c for c in service.columns() if c not in service.request]
            else:
                service, columns = translate.ad_hoc_service(asked.features or (), self.views)
            names = columns if asked.full_feature_names else [translate.short_name(c) for c in columns]
            known = (
                Lookup(compile_plan(service), self.online),
                columns,
                names,
                translate.needs(service.views, columns),
            )
            if len(self._lookups) >= 1024:
                self._lookups.clear()
            self._lookups[key] = known
        return known

    async def push(self, request: Request) -> Response:
        asked = await _body(request, wire.Push)
        if asked.to not in wire.DESTINATIONS:
            raise BadInput(f"'to' is {asked.to!r}", hint=f"use one of {', '.join(wire.DESTINATIONS)}")
        await self._take(asked.push_source_name, asked.df)
        return Response(status_code=200)

    async def write(self, request: Request) -> Response:
        asked = await _body(request, wire.WriteToOnlineStore)
        if asked.feature_view_name not in self.views:
            raise NotFound.among("feature view", asked.feature_view_name, self.views)
        await self._take(asked.feature_view_name, asked.df)
        return _answer(None)

    async def _take(self, name: str, columns: dict[str, list[Any]]) -> None:
        if self.pusher is None:
            raise Unavailable(
                "this feature server is read-only", hint="push to the one that was started without --read-only"
            )
        rows = translate.rows_of(columns, "df", most=100_000)
        # the fsync waits in a thread, and concurrent pushes share one
        await asyncio.to_thread(self.pusher.push, name, rows, arrived=self.clock())

    async def materialize_range(self, request: Request) -> Response:
        asked = await _body(request, wire.Materialize)
        if asked.start_ts is None:
            raise BadInput("'start_ts' is missing", hint="send start_ts and end_ts like 2013-03-01T06:00:00Z")
        return await self._run(asked, to_us(asked.start_ts))

    async def materialize_incremental(self, request: Request) -> Response:
        return await self._run(await _body(request, wire.Materialize), None)

    async def _run(self, asked: wire.Materialize, start: int | None) -> Response:
        if self._materialize is None:
            raise Unavailable("this feature server does not materialize", hint="run `holdfast features materialize`")
        for name in asked.feature_views or ():
            if name not in self.views:
                raise NotFound.among("feature view", name, self.views)
        await self._materialize(
            start, self.clock() if asked.end_ts is None else to_us(asked.end_ts), asked.feature_views
        )
        return _answer(None)

    async def health(self, request: Request) -> Response:
        return Response(status_code=200)


async def _body(request: Request, shape: type[T]) -> T:
    size = 0
    parts: list[bytes] = []
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            raise TooMuch(f"the body has more than {MOST_BYTES} bytes", hint="send the rows in parts")
        parts.append(part)
    try:
        return msgspec.json.decode(b"".join(parts), type=shape)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadInput(
            f"the request cannot be read: {error}", hint="send JSON as Feast's feature server takes it"
        ) from None


def _answer(value: Any, status: int = 200) -> Response:
    return Response(_json.encode(value), status_code=status, media_type="application/json")


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HoldfastError)
    return _answer({**error.as_dict(), "detail": error.message}, error.status)


async def _http_error(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    message = "there is no such address" if status == 404 else "this address takes another method"
    return _answer(
        {
            "error": {
                "code": "HF200" if status == 404 else "HF100",
                "message": message,
                "hint": "POST /get-online-features, POST /push, GET /health",
            },
            "detail": message,
        },
        status,
    )
