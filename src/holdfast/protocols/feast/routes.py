"""The feature server: Feast's HTTP interface, on the data plane. It needs neither control plane nor, per request, ledger.

Every mistake of the caller is a 4xx with an object: ``{"error": {"code", "message", "hint"}, "detail": message}``
(``detail`` is where Feast's clients look). It speaks through ``serving.wire``, which bounds heads, bodies and time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import msgspec

from holdfast.core.definitions import FeatureService, FeatureView
from holdfast.core.errors import BadInput, HoldfastError, NotFound, Unavailable, did_you_mean
from holdfast.core.identity import to_us
from holdfast.core.ports import OnlineStore
from holdfast.core.records import Json
from holdfast.features.lookup import Lookup, compile_plan
from holdfast.features.push import Pusher
from holdfast.protocols.feast import translate, wire
from holdfast.protocols.feast.counts import Counts
from holdfast.serving.wire import TEXT, Limits, Request, Response

T = TypeVar("T")
LIMITS = Limits(body=16 << 20, arrival=60.0)
MOST_LOOKUPS = 1024
ASK_AGAIN = 0.1
"""Seconds between two looks for newer definitions on behalf of callers who name something unknown."""
READS_AT_ONCE = 16
"""Reads that wait for another machine at one time."""
READ_SECONDS = 5.0
"""The longest a read may wait for the online store, its turn included."""
_encode = msgspec.json.Encoder().encode
_EMPTY = Response(200, b"")
log = logging.getLogger("holdfast.features.server")

Materialize = Callable[[int | None, int, Sequence[str] | None], Awaitable[Any]]
"""(start or None for where it stopped, end, views or None for all); done when it returns."""
Answering = Callable[[Request], "Response | Awaitable[Response]"]


@dataclass(frozen=True)
class Definitions:
    """What is served at one time: views by name, and the read plans of feature services by name."""

    views: Mapping[str, FeatureView]
    plans: Mapping[str, Json]
    lookups: dict[Any, _Compiled] = field(default_factory=dict, compare=False)
    """Kinds of request asked for so far; they go with the definitions they were compiled from."""

    @classmethod
    def of(cls, views: Mapping[str, FeatureView], services: Mapping[str, FeatureService]) -> Definitions:
        """Those of a project.

        Raises:
            BadDefinition: a service cannot be compiled.
        """
        return cls(views, {name: compile_plan(service) for name, service in services.items()})


class WrongMethod(BadInput):
    """The path takes another method."""

    number = "HF108"
    status = 405


_Compiled = tuple[Lookup, list[str], list[str], dict[str, str]]
"""(lookup, columns, their names in the answer, the view each column comes from)."""


class FeatureServer:
    """Answers requests of a ``serving.wire.Listener``; all of it runs on the listener's loop.

    Args:
        pusher: takes pushed rows; None makes the server read-only.
        materialize: brings files online; None where this server does not.
        clock: gives the request time in µs.
        newer: the definitions that were applied since it was last asked, ready to be read, or None. Called in a thread.
        guard: refuses a request before anything else looks at it.
        read_seconds: how long a read may wait for an online store on another machine.
    """

    def __init__(
        self, online: OnlineStore, definitions: Definitions, *, pusher: Pusher | None, materialize: Materialize | None = None,
        clock: Callable[[], int] | None = None, newer: Callable[[], Definitions | None] | None = None,
        guard: Callable[[Request], Response | None] | None = None, read_seconds: float = READ_SECONDS,
    ) -> None:  # fmt: skip
        self.online, self.definitions, self.counts = online, definitions, Counts()
        self._pusher, self._materialize, self._newer, self._guard = pusher, materialize, newer, guard
        self._clock = clock or (lambda: time.time_ns() // 1000)
        # who may have to wait does so in a thread: the event loop goes on, and pushes keep their threads
        self._readers = ThreadPoolExecutor(READS_AT_ONCE, "reads")
        self._read_seconds = read_seconds
        self._renewing = asyncio.Lock()
        self._one_run = asyncio.Lock()
        self._looked = -ASK_AGAIN
        self._problem = ""
        self._routes: dict[tuple[str, str], Answering] = {
            ("POST", "/get-online-features"): self._read_online,
            ("POST", "/push"): self._push,
            ("POST", "/write-to-online-store"): self._write,
            ("POST", "/materialize"): self._materialize_range,
            ("POST", "/materialize-incremental"): self._materialize_incremental,
            ("GET", "/health"): lambda _: _EMPTY,
            ("GET", "/metrics"): lambda _: Response(200, self.counts.render(), TEXT),
        }
        self._paths = {path for _, path in self._routes}

    def handle(self, request: Request) -> Response | Awaitable[Response]:
        """The door of every request."""
        if self._guard is not None:
            refused = self._guard(request)
            if refused is not None:
                self.counts.refuse("HF410")
                return self._done(request, refused)
        route = self._routes.get(("GET" if request.method == "HEAD" else request.method, request.path))
        if route is None:
            return self._lost(request)
        seen = self.definitions
        try:
            answer = route(request)
        except NotFound as problem:
            if self._newer is None:
                return self._refuse(request, problem)
            return self._again(request, route, seen, problem)
        except HoldfastError as problem:
            return self._refuse(request, problem)
        except Exception:  # the wire answers without internals
            self._note(request, 500)
            raise
        if type(answer) is Response:
            return self._done(request, answer)
        return self._later(request, route, seen, answer)  # type: ignore[arg-type]

    async def renew(self) -> None:
        """Take over what was applied since. What cannot be taken over leaves everything as it is, and is logged once."""
        if self._newer is None:
            return
        async with self._renewing:
            try:
                newer = await asyncio.to_thread(self._newer)
                problem = ""
            except Exception as error:  # noqa: BLE001 - whatever is wrong with them, the ones in force go on being served
                newer = None
                problem = error.message if isinstance(error, HoldfastError) else f"{type(error).__name__}: {error}"
            if problem and problem != self._problem:
                log.error("what was applied cannot be taken over: %s", problem)
            self._problem = problem
            if newer is not None:
                self.definitions = newer  # one assignment: a request sees the old ones or the new ones
                log.info("%d views and %d services are served as applied now", len(newer.views), len(newer.plans))

    # --- answers ------------------------------------------------------------------------------------------------------

    async def _later(
        self, request: Request, route: Answering, seen: Definitions, answer: Awaitable[Response]
    ) -> Response:
        try:
            return self._done(request, await answer)
        except NotFound as problem:
            return await self._again(request, route, seen, problem)
        except HoldfastError as problem:
            return self._refuse(request, problem)
        except Exception:
            self._note(request, 500)
            raise

    async def _again(self, request: Request, route: Answering, seen: Definitions, problem: NotFound) -> Response:
        """Something unknown was named: perhaps it was applied a moment ago."""
        now = time.monotonic()
        if self.definitions is seen and now - self._looked >= ASK_AGAIN:
            self._looked = now
            await self.renew()
        if self.definitions is seen:
            return self._refuse(request, problem)
        try:
            answer = route(request)
            return self._done(request, answer if type(answer) is Response else await answer)  # type: ignore[misc]
        except HoldfastError as still:
            return self._refuse(request, still)

    def _done(self, request: Request, answer: Response) -> Response:
        self._note(request, answer.status)
        return answer

    def _note(self, request: Request, status: int) -> None:
        route = request.path if request.path in self._paths else "other"
        self.counts.requests.request(route, status, (time.perf_counter_ns() - request.received) / 1e9)

    def _refuse(self, request: Request, problem: HoldfastError, *headers: tuple[bytes, bytes]) -> Response:
        self.counts.refuse(problem.number)
        if problem.status == 503:
            headers = (*headers, (b"retry-after", b"1"))
        body = _encode({**problem.as_dict(), "detail": problem.message})
        return self._done(request, Response(problem.status, body, headers=headers))

    def _lost(self, request: Request) -> Response:
        methods = sorted(m for m, p in self._routes if p == request.path)
        if not methods:
            hint = did_you_mean(request.path, self._paths, kind="path")
            return self._refuse(request, NotFound("there is nothing at this path", hint=hint))
        wanted = " or ".join(methods)
        problem = WrongMethod(f"{request.path} takes {wanted}, not {request.method}")
        return self._refuse(request, problem, (b"allow", ", ".join(methods).encode()))

    # --- reads --------------------------------------------------------------------------------------------------------

    def _read_online(self, request: Request) -> Response | Awaitable[Response]:
        asked = _body(request, wire.GetOnlineFeatures)
        lookup, columns, names, view_of = self._lookup(asked)
        rows = translate.rows_of(asked.entities, "entities")
        if not rows:
            raise BadInput("entities has no rows", hint="send at least one value per key")
        now = self._clock() if asked.request_time is None else to_us(asked.request_time)
        at = [now] * len(rows)

        def answer(found: list[Json], times: list[dict[str, int | None]]) -> Response:
            self.counts.read += len(rows)
            return Response(200, _encode(translate.answer(asked.entities, columns, names, found, times, view_of)))

        if not lookup.waits:
            return answer(*lookup.rows_with_times(rows, at=at))
        return self._in_a_thread(partial(lookup.rows_with_times, rows, at=at), answer)

    async def _in_a_thread(self, read: Callable[[], Any], answer: Callable[..., Response]) -> Response:
        try:
            async with asyncio.timeout(self._read_seconds):
                found = await asyncio.get_running_loop().run_in_executor(self._readers, read)
        except TimeoutError:
            raise Unavailable(
                f"the online store did not answer within {self._read_seconds:g} s",
                hint="check [online] url and that Redis runs and is not overloaded, then try again",
            ) from None
        return answer(*found)

    def _lookup(self, asked: wire.GetOnlineFeatures) -> _Compiled:
        """Compiled once per kind of request."""
        definitions = self.definitions
        key = (asked.feature_service, tuple(asked.features or ()), asked.full_feature_names)
        known = definitions.lookups.get(key)
        if known is None:
            if asked.feature_service is not None:
                plan = definitions.plans.get(asked.feature_service)
                if plan is None:
                    raise NotFound.among("feature service", asked.feature_service, definitions.plans)
                columns = [c for c in plan["columns"] if c not in plan["request"]]
            else:
                service, columns = translate.ad_hoc_service(asked.features or (), definitions.views)
                plan = compile_plan(service)
            names = columns if asked.full_feature_names else [translate.short_name(c) for c in columns]
            known = (Lookup(plan, self.online), columns, names, translate.needs(plan, columns))
            if len(definitions.lookups) >= MOST_LOOKUPS:
                definitions.lookups.clear()
            definitions.lookups[key] = known
        return known

    # --- writes -------------------------------------------------------------------------------------------------------

    async def _push(self, request: Request) -> Response:
        asked = _body(request, wire.Push)
        if asked.to not in wire.DESTINATIONS:
            raise BadInput(f"'to' is {asked.to!r}", hint=f"use one of {', '.join(wire.DESTINATIONS)}")
        await self._take(asked.push_source_name, asked.df)
        return _EMPTY

    async def _write(self, request: Request) -> Response:
        asked = _body(request, wire.WriteToOnlineStore)
        if asked.feature_view_name not in self.definitions.views:
            raise NotFound.among("feature view", asked.feature_view_name, self.definitions.views)
        await self._take(asked.feature_view_name, asked.df)
        return Response(200, b"null")

    async def _take(self, name: str, columns: dict[str, list[Any]]) -> None:
        if self._pusher is None:
            raise Unavailable(
                "this feature server is read-only", hint="push to the one that was started without --read-only"
            )
        rows = translate.rows_of(columns, "df", most=100_000)
        # the fsync waits in a thread, and concurrent pushes share one
        self.counts.pushed += await asyncio.to_thread(self._pusher.push, name, rows, arrived=self._clock())

    async def _materialize_range(self, request: Request) -> Response:
        asked = _body(request, wire.Materialize)
        if asked.start_ts is None:
            raise BadInput("'start_ts' is missing", hint="send start_ts and end_ts like 2013-03-01T06:00:00Z")
        return await self._run(asked, to_us(asked.start_ts))

    async def _materialize_incremental(self, request: Request) -> Response:
        return await self._run(_body(request, wire.Materialize), None)

    async def _run(self, asked: wire.Materialize, start: int | None) -> Response:
        if self._materialize is None:
            raise Unavailable("this feature server does not materialize", hint="run `holdfast features materialize`")
        for name in asked.feature_views or ():
            if name not in self.definitions.views:
                raise NotFound.among("feature view", name, self.definitions.views)
        end = self._clock() if asked.end_ts is None else to_us(asked.end_ts)
        async with self._one_run:  # side by side they would only wait for each other, in threads that pushes need
            await self._materialize(start, end, asked.feature_views)
        return Response(200, b"null")


def _body(request: Request, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(request.body, type=shape)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadInput(
            f"the request cannot be read: {error}", hint="send JSON as Feast's feature server takes it"
        ) from None
