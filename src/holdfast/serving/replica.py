"""One serving process: watches the release, keeps its versions loaded and warm, answers.

A new version is fetched, verified, loaded and warmed beside the old one, then the whole state is switched in one
assignment; the old version stays warm for a way back.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from holdfast.core.errors import BadInput, HoldfastError, NotFound, Unavailable, did_you_mean
from holdfast.core.ports import FeatureLookup
from holdfast.core.records import Arm, LabelRecord, Release
from holdfast.serving import limits as bounds
from holdfast.serving.batching import Batcher
from holdfast.serving.journal import Journal
from holdfast.serving.later import Later
from holdfast.serving.metrics import Metrics
from holdfast.serving.model import Loaded
from holdfast.serving.predict import ArmName, Options, Predictions, Side, State
from holdfast.serving.tracing import Marks, Tracing
from holdfast.serving.wire import TEXT, Limits, Listener, Request, Response, error, from_error

POLL = 0.2
FRESH = 1.0
FIRST_LOOK = 10.0
KEEP_WARM = 4
HUNG = 3.0
TIGHT = 0.9
RETRY_LOAD = 5.0
log = logging.getLogger("holdfast.serving.replica")

Answering = Callable[[Request], "Response | Awaitable[Response]"]
_OK = Response(200, b'{"live":true}')


class IncomingLabel(msgspec.Struct, forbid_unknown_fields=True):
    prediction_id: str
    value: float | int | str | bool
    at: int | str | None = None


class Labels(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /labels``."""

    labels: list[IncomingLabel]


class Replica:
    """Answers one service in one environment.

    Args:
        release: reads the release in force; None where there is none. Called in a thread.
        stamp: something cheap that changes when the release does (a file's stat); None = always read.
        load: fetches, verifies and loads an arm's version. Called in a thread.
        labels: keeps labels durably, or None where this process takes none. Called in a thread.
        routes: further (method, path prefix) → handler, of other protocols; they get the replica's ``predictions``.
        guard: refuses a request before anything else looks at it.
        tracing: makes a trace of each request.
        memory: bytes this process may hold; None = no bound. ``resident`` tells what it holds.
        secret: the key of the log's hashes, asked for when a release redacts by hash.
    """

    def __init__(
        self,
        *,
        service: str,
        environment: str,
        name: str,
        release: Callable[[], Release | None],
        load: Callable[[Arm], Loaded],
        journal: Journal,
        now: Callable[[], int],
        stamp: Callable[[], Any] | None = None,
        labels: Callable[[list[LabelRecord]], None] | None = None,
        guard: Callable[[Request], Response | None] | None = None,
        options: Options | None = None,
        limits: Limits | None = None,
        secret: Callable[[], bytes] = lambda: b"",
        tracing: Tracing | None = None,
        memory: int | None = None,
        resident: Callable[[], int] = bounds.resident,
    ) -> None:
        self.service = service
        self.environment = environment
        self.name = name
        self.metrics = Metrics()
        self.journal = journal
        self.options = options or Options()
        self.predictions = Predictions(journal=journal, metrics=self.metrics, now=now, options=self.options)
        self.now = now
        self.problem = ""
        self._read = release
        self._stamp = stamp
        self._load = load
        self._labels = labels
        self._guard = guard
        self._secret = secret
        self.tracing = tracing
        self.memory = memory
        self._resident = resident
        self._warm: dict[tuple[int, str], tuple[Loaded, Batcher]] = {}
        self._broken: dict[tuple[int, str], tuple[float, str]] = {}
        self._loading: dict[tuple[int, str], asyncio.Task[tuple[Loaded, Batcher]]] = {}
        self._routes: dict[tuple[str, str], Answering] = {
            ("POST", "/predict"): self.predictions.predict,
            ("POST", "/labels"): self._take_labels,
            ("GET", "/metrics"): self._show_metrics,
            ("GET", "/health/live"): lambda _: _OK,
            ("GET", "/health/ready"): self._ready,
            ("GET", "/health/startup"): self._ready,
            ("GET", "/release"): self._show_release,
            ("GET", "/openapi.json"): self._describe,
        }
        self._prefixes: list[tuple[str, str, Answering]] = []
        self._paths = {path for _, path in self._routes}
        self.listener = Listener(
            self.handle, limits=limits, on_refused=lambda code: self.metrics.refused.labels(code).inc()
        )
        self.predictions.crowd = lambda: len(self.listener.open)
        self.stopping: asyncio.Event | None = None
        self._looked = asyncio.Event()

    def route(self, method: str, path: str, handler: Answering) -> None:
        """Add a route; a path that ends in ``/*`` takes everything below."""
        if path.endswith("/*"):
            self._prefixes.append((method, path[:-1], handler))
        else:
            self._routes[method, path] = handler
            self._paths.add(path)

    # --- requests ---------------------------------------------------------------------------------------------------

    def handle(self, request: Request) -> Response | Awaitable[Response]:
        """The door of every request."""
        if self._guard is not None:
            refused = self._guard(request)
            if refused is not None:
                self.metrics.refused.labels("HF410").inc()
                return refused
        method = "GET" if request.method == "HEAD" else request.method
        handler = self._routes.get((method, request.path)) or self._below(method, request.path)
        if handler is None:
            return self._lost(method, request.path)
        if self.tracing is not None:
            request.marks = Marks()
        try:
            answer = handler(request)
        except HoldfastError as problem:
            answer = self._refuse(problem)
        except Exception:
            self._observe(request, 500)  # what the listener will say; it counts against the objective
            raise
        if type(answer) is Response:
            self._observe(request, answer.status)
            return answer
        if type(answer) is Later:
            answer.watch(self._settle)
            return answer
        return self._later(request, answer)  # type: ignore[arg-type]

    def _settle(self, request: Request, outcome: Response | BaseException) -> Response | BaseException:
        """What a gathered request ends with, counted."""
        if isinstance(outcome, HoldfastError):
            outcome = self._refuse(outcome)
        self._observe(request, outcome.status if isinstance(outcome, Response) else 500)
        return outcome

    async def _later(self, request: Request, answer: Awaitable[Response]) -> Response:
        try:
            response = await answer
        except HoldfastError as problem:
            response = self._refuse(problem)
        except Exception:
            self._observe(request, 500)
            raise
        self._observe(request, response.status)
        return response

    def _refuse(self, problem: HoldfastError) -> Response:
        self.metrics.refused.labels(problem.number).inc()
        return from_error(problem)

    def _observe(self, request: Request, status: int) -> None:
        route = (
            request.path if ("POST", request.path) in self._routes or ("GET", request.path) in self._routes else "other"
        )
        self.metrics.hot.request(route, status, (time.perf_counter_ns() - request.received) / 1e9)
        if self.tracing is not None and request.method == "POST":
            self.tracing.finish(request, request.marks, route, status)

    def _below(self, method: str, path: str) -> Answering | None:
        for m, prefix, handler in self._prefixes:
            if m == method and path.startswith(prefix):
                return handler
        return None

    def _lost(self, method: str, path: str) -> Response:
        methods = sorted(m for m, p in self._routes if p == path)
        if methods:
            return error(
                405,
                "HF108",
                f"{path} takes {' or '.join(methods)}, not {method}",
                None,
                (b"allow", ", ".join(methods).encode()),
            )
        return error(
            404, "HF200", "there is nothing at this path", did_you_mean(path, {p for _, p in self._routes}, kind="path")
        )

    def _ready(self, _: Request) -> Response:
        state = self.predictions.state
        ok = state is not None and (self.stopping is None or not self.stopping.is_set())
        body = {
            "ready": ok, "service": self.service, "environment": self.environment, "replica": self.name,
            "version": state.champion.version if state else None, "release": state.release.sequence if state else None,
            "problem": self.problem or None,
        }  # fmt: skip
        return Response(200 if ok else 503, msgspec.json.encode(body))

    def _show_release(self, _: Request) -> Response:
        state = self.predictions.state
        if state is None:
            return from_error(self.predictions.nothing_to_answer_with())
        sides = [s for s in (state.champion, state.challenger, state.shadow) if s is not None]
        body = {
            "release": msgspec.structs.replace(state.release, signature=""),
            "arms": {
                s.arm: {"version": s.version, "loaded": s.model is not None, "problem": s.broken or None} for s in sides
            },
            "warm": sorted(version for version, _ in self._warm),
            "replica": self.name,
        }
        return Response(200, msgspec.json.encode(body))

    def _describe(self, _: Request) -> Response:
        state = self.predictions.state
        if state is None:
            raise self.predictions.nothing_to_answer_with()
        from holdfast.serving import openapi

        return Response(200, msgspec.json.encode(openapi.document(state, replay=self.options.replay)))

    def _show_metrics(self, _: Request) -> Response | Awaitable[Response]:
        state = self.predictions.state
        lookup = None if state is None or state.champion.model is None else state.champion.model.lookup
        return Response(200, self.render_metrics(), TEXT) if lookup is None else self._metrics_with(lookup)

    async def _metrics_with(self, lookup: FeatureLookup) -> Response:
        """The store is asked beside the event loop, and what it does not say in time is left out."""
        try:
            async with asyncio.timeout(FRESH):
                fresh = await asyncio.to_thread(lookup.fresh_until)
        except Exception:  # noqa: BLE001 - a store that is away must not hide the other metrics
            fresh = {}
        self.metrics.fresh.clear()
        for view, at in fresh.items():
            self.metrics.fresh.labels(view).set(at / 1e6)
        return Response(200, self.render_metrics(), TEXT)

    def render_metrics(self) -> bytes:
        m, state = self.metrics, self.predictions.state
        self.predictions.count_ranges()
        m.log_lost.set(self.journal.lost)
        m.log_healthy.set(int(self.journal.healthy))
        m.log_pending.set(self.journal.pending)
        m.pending.set(self.predictions.pending)
        m.ready.set(int(state is not None))
        return m.render()

    async def _take_labels(self, request: Request) -> Response:
        if self._labels is None:
            raise NotFound(
                "this process takes no labels", hint="send them to `holdfast serve`, or use `holdfast labels add`"
            )
        from holdfast.core.identity import to_us

        try:
            body = msgspec.json.decode(request.body, type=Labels)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as problem:
            raise BadInput(
                f"not labels: {problem}", hint='send {"labels": [{"prediction_id": "…", "value": 1}]}', number="HF140"
            ) from None
        now = self.now()
        records = [
            LabelRecord(
                prediction_id=x.prediction_id, value=x.value, at=now if x.at is None else to_us(x.at), source="http"
            )
            for x in body.labels
        ]
        try:
            await asyncio.to_thread(self._labels, records)
        except OSError as problem:
            log.error("labels cannot be kept: %s", problem)
            raise Unavailable("labels cannot be kept now", hint="send them again later", number="HF514") from None
        self.metrics.labels.inc(len(records))
        return Response(200, msgspec.json.encode({"accepted": len(records)}))

    # --- the release ------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Follow the release until cancelled. What is still being loaded keeps no newer release waiting."""
        seen: Any = object()
        again = 0.0
        wanted: Release | None = None
        bringing: asyncio.Task[bool] | None = None
        try:
            while True:
                try:
                    stamp = self._stamp() if self._stamp is not None else object()
                    if stamp != seen or (again and time.monotonic() >= again):
                        seen, again = stamp, 0.0
                        release = await asyncio.to_thread(self._read)
                        if release is not None and (bringing is None or release != wanted):
                            if bringing is not None:
                                bringing.cancel()
                            wanted, bringing = release, asyncio.ensure_future(self._bring(release))
                        elif release is None:
                            self._looked.set()
                except Exception as problem:  # noqa: BLE001 - whatever is wrong with a release, the last one goes on answering
                    self._tell(_words(problem))
                    self._looked.set()
                    again = time.monotonic() + RETRY_LOAD
                if bringing is not None and bringing.done():
                    if not bringing.result():
                        again = time.monotonic() + RETRY_LOAD
                    bringing = None
                await asyncio.sleep(POLL)
        finally:
            if bringing is not None:
                bringing.cancel()

    async def _bring(self, release: Release) -> bool:
        """``_apply``, with what is wrong told; True when nothing is left to be tried again."""
        try:
            return await self._apply(release)
        except Exception as problem:  # noqa: BLE001 - as above
            self._tell(_words(problem))
            return False
        finally:
            self._looked.set()

    # --- limits ---------------------------------------------------------------------------------------------------

    async def guard_limits(self) -> None:
        """Keep the models within memory and time until cancelled."""
        while True:
            await asyncio.sleep(POLL)
            self.check_limits()

    def check_limits(self) -> None:
        """Take a challenger or shadow out of service when memory runs short; end this process, to be started anew, when
        the champion takes too much or hangs for good."""
        state = self.predictions.state
        if state is None:
            return
        batcher = state.champion.batcher
        if batcher is not None and batcher.running > HUNG * self.options.deadline:
            self._end_for(f"version {state.champion.version} has not answered for {batcher.running:.0f} s")
            return
        if self.memory is None:
            return
        held = self._resident()
        self.metrics.memory.set(held)
        if held > TIGHT * self.memory and self._shed(state):
            return
        if held > self.memory:
            self._end_for(f"{held >> 20} MB of memory are held, {self.memory >> 20} MB are allowed")

    def _shed(self, state: State) -> bool:
        """Drop the versions that are only kept warm, else challenger and shadow; True when something was dropped."""
        needed = {(a.version, a.content) for a in _arms(state.release)}
        champion = state.release.champion
        assert champion is not None
        kept = (champion.version, champion.content)
        spare = [key for key in self._warm if key not in needed]
        others = spare or [key for key in self._warm if key != kept]
        for key in others:
            self._warm.pop(key)[1].close()
        if others and not spare:
            what = f"the replica came close to the {(self.memory or 0) >> 20} MB it may hold"
            for key in others:
                log.error("version %d is taken out of service: %s", key[0], what)
                self.metrics.load_failures.labels(str(key[0])).inc()
                # For the life of this process: a model that leaks would leak again.
                self._broken[key] = (math.inf, what)
            # Calls under way keep the state they began with.
            self.predictions.state = State(
                state.release, state.champion, _without_model(state.challenger, others, what),
                _without_model(state.shadow, others, what), replica=self.name, max_rows=self.options.max_rows,
                secret=self._secret() if state.release.log else b"",
            )  # fmt: skip
        if others:
            gc.collect()
        return bool(others)

    def _end_for(self, why: str) -> None:
        if self.stopping is not None and not self.stopping.is_set():
            log.error("%s; this replica ends and is started anew", why)
            self.stopping.set()

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            log.error("release not applied: %s", problem)
        self.problem = problem

    async def _apply(self, release: Release) -> bool:
        """Bring a release into force; True when every arm of it is loaded."""
        state = self.predictions.state
        if state is not None and release.sequence < state.release.sequence:
            return True
        if (
            state is not None
            and release.sequence == state.release.sequence
            and all(s is None or s.model is not None for s in (state.champion, state.challenger, state.shadow))
        ):
            return True
        if release.champion is None:
            self.predictions.state = None
            self.predictions.awaited = ""
            self._tell("the release has no champion")
            return True
        self.predictions.awaited = f"version {release.champion.version} is being loaded"
        champion = await self._side("champion", release.champion)
        if champion.model is None:
            self.predictions.awaited = f"version {champion.version} cannot be loaded here"
            raise Unavailable(f"version {champion.version} cannot be loaded: {champion.broken}")
        challenger = await self._side("challenger", release.challenger) if release.challenger is not None else None
        shadow = await self._side("shadow", release.shadow) if release.shadow is not None else None
        # One assignment: a request sees the old release or the new one, never half of each.
        self.predictions.state = State(
            release, champion, challenger, shadow, replica=self.name, max_rows=self.options.max_rows,
            secret=self._secret() if release.log else b"",
        )  # fmt: skip
        self.problem = ""
        for name in self.predictions.state.unknown:
            self._tell(f"nothing is logged: {name!r} is to be redacted, and no version of this release has it")
        self._evict(release)
        self._gauge(release)
        log.info("release %d in force: champion version %d", release.sequence, champion.version)
        return all(s is None or s.model is not None for s in (challenger, shadow))

    async def _side(self, name: ArmName, arm: Arm) -> Side:
        key = (arm.version, arm.content)
        warm = self._warm.get(key)
        if warm is None:
            failed = self._broken.get(key)
            if failed is not None and time.monotonic() < failed[0]:
                return Side(name, arm.version, None, None, broken=failed[1])
            try:
                warm = await self._loaded(arm)
            except Exception as problem:  # noqa: BLE001 - a version that cannot be loaded must not stop the others
                what = _words(problem)
                log.error("version %d cannot be loaded: %s", arm.version, what)
                self.metrics.load_failures.labels(str(arm.version)).inc()
                self._broken[key] = (time.monotonic() + RETRY_LOAD, what)
                return Side(name, arm.version, None, None, broken=what)
        else:
            self._warm[key] = self._warm.pop(key)
        return Side(name, arm.version, warm[0], warm[1])

    async def _loaded(self, arm: Arm) -> tuple[Loaded, Batcher]:
        """Wait for a version to be loaded and warm; whoever asks while it is loading waits for the same."""
        key = (arm.version, arm.content)
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.ensure_future(self._load_warm(arm))
            task.add_done_callback(lambda done: (self._loading.pop(key, None), done.cancelled() or done.exception()))
        try:
            async with asyncio.timeout(self.options.load_deadline):
                return await asyncio.shield(task)
        except TimeoutError:
            raise Unavailable(f"it was not loaded within {self.options.load_deadline:g} s") from None

    async def _load_warm(self, arm: Arm) -> tuple[Loaded, Batcher]:
        # A thread of its own that nobody joins: one that hangs neither takes a worker from others nor holds up the end.
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Loaded] = loop.create_future()

        def settle(model: Loaded | None, problem: Exception | None) -> None:
            if future.cancelled():
                return
            if model is not None:
                future.set_result(model)
            elif problem is not None:
                future.set_exception(problem)

        def work() -> None:
            model: Loaded | None = None
            failed: Exception | None = None
            try:
                model = self._prepare(arm)
            except BaseException as problem:  # noqa: BLE001 - told to whoever waits, sys.exit() of a model's code too
                failed = problem if isinstance(problem, Exception) else RuntimeError(repr(problem))
            with contextlib.suppress(RuntimeError):  # the loop is closed: the replica has ended
                loop.call_soon_threadsafe(settle, model, failed)

        threading.Thread(target=work, name=f"load-{arm.version}", daemon=True).start()
        model = await future
        warm = self._warm[arm.version, arm.content] = (model, Batcher(model, on_batch=self.metrics.batch.observe))
        return warm

    def _prepare(self, arm: Arm) -> Loaded:
        model = self._load(arm)
        model.warm()
        return model

    def _evict(self, release: Release) -> None:
        """Keep the versions of this release and the last few before it; forget the rest."""
        needed = {(a.version, a.content) for a in _arms(release)}
        for key in list(self._warm):
            if len(self._warm) <= KEEP_WARM:
                break
            if key not in needed:
                self._warm.pop(key)[1].close()

    def _gauge(self, release: Release) -> None:
        self.metrics.sequence.set(release.sequence)
        self.metrics.weight.clear()
        share = release.challenger.weight if release.challenger is not None else 0.0
        if release.champion is not None:
            self.metrics.weight.labels(str(release.champion.version), "champion").set(100.0 - share)
        if release.challenger is not None:
            self.metrics.weight.labels(str(release.challenger.version), "challenger").set(share)
        if release.shadow is not None:
            self.metrics.weight.labels(str(release.shadow.version), "shadow").set(0)

    # --- the process ------------------------------------------------------------------------------------------------

    async def run(
        self, where: socket.socket | Path, *, lifeline: int | None = None, on_ready: Callable[[], None] | None = None
    ) -> None:
        """Serve until SIGTERM, SIGINT, or the end of ``lifeline`` (a pipe whose other end the parent holds)."""
        loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        if lifeline is not None:
            loop.add_reader(lifeline, self._parent_moved, lifeline)
        watcher = loop.create_task(self.watch())
        guarding = loop.create_task(self.guard_limits())
        # Callers that come while a replica starts again wait in the socket's queue for its release, instead of hearing
        # that there is none.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK):
                await self._looked.wait()
        self.listener.start()
        if isinstance(where, Path):
            where.unlink(missing_ok=True)
            server = await loop.create_unix_server(self.listener.connection, str(where), backlog=1024)
            where.chmod(0o600)
        else:
            server = await loop.create_server(self.listener.connection, sock=where, backlog=1024)
        if on_ready is not None:
            on_ready()
        await self.stopping.wait()
        server.close()
        await self.listener.drain()
        guarding.cancel()
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        await asyncio.to_thread(self.journal.close)
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)

    def _parent_moved(self, lifeline: int) -> None:
        if not os.read(lifeline, 64):
            asyncio.get_running_loop().remove_reader(lifeline)
            assert self.stopping is not None
            self.stopping.set()


def _words(problem: Exception) -> str:
    return problem.message if isinstance(problem, HoldfastError) else f"{type(problem).__name__}: {problem}"


def _without_model(side: Side | None, gone: list[tuple[int, str]], why: str) -> Side | None:
    if side is None or side.model is None or (side.version, side.model.content) not in gone:
        return side
    return Side(side.arm, side.version, None, None, broken=why)


def _arms(release: Release) -> list[Arm]:
    return [a for a in (release.champion, release.challenger, release.shadow) if a is not None]


def stamp_of(path: Path) -> Callable[[], Mapping[str, int] | None]:
    """A cheap sign that a file was replaced."""

    def stamp() -> Mapping[str, int] | None:
        try:
            s = path.stat()
        except FileNotFoundError:
            return None
        return {"inode": s.st_ino, "time": s.st_mtime_ns, "size": s.st_size}

    return stamp
