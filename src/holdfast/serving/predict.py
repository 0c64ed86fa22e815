"""One path of a request, read from top to bottom: decode → validate → route → features → model → log → encode.

Nothing here touches the ledger's database. Cheap models answer on the event loop; everything else goes through the
version's batcher. A challenger that fails costs its caller nothing: the champion answers, the failure is logged.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from holdfast.core.errors import BadInput, HoldfastError, Refused, Unavailable
from holdfast.core.identity import Ids, to_us
from holdfast.core.records import FieldSpec, Release
from holdfast.serving import route
from holdfast.serving.batching import Batcher, Job
from holdfast.serving.heads import ID
from holdfast.serving.journal import Journal
from holdfast.serving.later import Later
from holdfast.serving.metrics import Metrics
from holdfast.serving.model import Loaded, ModelFailed
from holdfast.serving.redaction import Keeping
from holdfast.serving.schema import Schema
from holdfast.serving.segments import Batch, Layout
from holdfast.serving.tracing import Marks
from holdfast.serving.wire import Request, Response

ArmName = Literal["champion", "challenger", "shadow"]
_ID = re.compile(rb"[0-9a-zA-Z_.-]{1,64}").fullmatch
_encode = msgspec.json.Encoder().encode
_RANGE_GROUP = 128
# From this many connections on, small requests of one turn of the event loop share a model call of so many rows at most.
_CROWD, _FEW, _TOGETHER = 4, 16, 256


class Answer(msgspec.Struct, gc=False):
    """One row's answer, as callers get it."""

    id: str
    output: Any
    score: float | list[float] | None
    version: int
    arm: str
    logged: bool


class Answers(msgspec.Struct, gc=False):
    predictions: list[Answer]


class Side:
    """One arm of the release in force. ``model`` is None where its version could not be loaded (``broken`` says why).
    ``layout`` names the columns of its log rows, ``bare`` those of rows it failed on, which have inputs only;
    ``keeping`` says which rows and fields are written, None = all."""

    def __init__(
        self, arm: ArmName, version: int, model: Loaded | None, batcher: Batcher | None, *, broken: str = ""
    ) -> None:
        self.arm = arm
        self.version = version
        self.model = model
        self.batcher = batcher
        self.broken = broken
        self.layout: Layout | None = None
        self.bare: Layout | None = None
        self.keeping: Keeping | None = None


class State:
    """The release in force, its arms loaded, and the schema their callers are held to."""

    def __init__(
        self,
        release: Release,
        champion: Side,
        challenger: Side | None,
        shadow: Side | None,
        *,
        replica: str,
        max_rows: int,
        secret: bytes = b"",
    ) -> None:
        assert champion.model is not None
        self.release = release
        self.champion = champion
        self.challenger = challenger
        self.shadow = shadow
        self.split = challenger is not None and release.challenger is not None and release.challenger.weight > 0
        sides = [s for s in (champion, challenger, shadow) if s is not None]
        optional = [f for s in sides[1:] if s.model is not None for f in s.model.package.request]
        request = champion.model.package.request
        self.schema = Schema(request, optional=optional, max_rows=max_rows)
        self.keys = [self.schema.names.index(k) for k in champion.model.keys]
        specs = champion.model.package.inputs
        self.low = np.array([-np.inf if f.low is None or f.strict else f.low for f in specs])
        self.high = np.array([np.inf if f.high is None or f.strict else f.high for f in specs])
        self.ranged = bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())
        self.names = [f.name for f in specs]
        inputs = [(f.name, str(f.dtype)) for f in self.schema.fields]
        packages = [s.model.package if s.model is not None else champion.model.package for s in sides]
        known = {f.name for p in packages for f in (*p.inputs, *p.request)}
        self.unknown: list[str] = []
        for side, package in zip(sides, packages, strict=True):
            features = [f.name for f in package.inputs]
            if release.log:
                keeping = side.keeping = Keeping(
                    release.log, inputs=inputs, features=features, keys=champion.model.keys, known=known, secret=secret
                )
                self.unknown = keeping.unknown
                if keeping.redacts:
                    side.layout = Layout(
                        service=release.service, environment=release.environment, version=side.version, replica=replica,
                        inputs=keeping.inputs, features=keeping.features, same=False,
                    )  # fmt: skip
                    side.bare = side.layout
                    continue
            side.layout = Layout(
                service=release.service,
                environment=release.environment,
                version=side.version,
                replica=replica,
                inputs=inputs,
                features=features,
                same=package.plan is None
                and set(self.schema.names) <= set(features)
                and not _has_time(self.schema.fields),
            )
            side.bare = msgspec.structs.replace(side.layout, same=False)


def _has_time(fields: Sequence[FieldSpec]) -> bool:
    return any(f.dtype in ("timestamp", "string") for f in fields)


class Options(NamedTuple):
    """How a replica answers. Times in seconds. ``balanced``: callers come by our balancer, which alone may say that a
    request is asked again because a replica died on it."""

    replay: bool = False
    balanced: bool = False
    deadline: float = 30.0
    challenger_deadline: float = 2.0
    load_deadline: float = 300.0
    max_rows: int = 100_000
    max_pending: int = 1024


class Call(NamedTuple):
    """A request after decoding: what every arm needs."""

    state: State
    rows: list[tuple[Any, ...]]
    ids: list[str]
    keys: list[str]
    at: list[int]
    received: int
    begun: int
    force: str
    retry: bool
    marks: Marks | None = None


class Predictions:
    """Answers requests with the release in force. ``state`` is replaced whole when a release comes in; ``awaited`` says what
    becomes of the first one meanwhile. ``crowd`` tells how many callers are connected."""

    def __init__(
        self, *, journal: Journal, metrics: Metrics, now: Callable[[], int], options: Options | None = None
    ) -> None:
        self.state: State | None = None
        self.journal = journal
        self.metrics = metrics
        self.now = now
        self.options = options or Options()
        self.pending = 0
        self.awaited = ""
        self.crowd: Callable[[], int] = lambda: 0
        self._gathered: list[tuple[Call, Later]] = []
        self._unjudged: list[Any] = []
        self._judged: State | None = None

    # --- the path ---------------------------------------------------------------------------------------------------

    def predict(self, request: Request) -> Response | Awaitable[Response]:
        """``POST /predict``."""
        call = self._begin(request, None)
        if len(call.rows) <= _FEW and self.crowd() >= _CROWD and self._cheap(call):
            return self._gather(call, request)
        if self._at_once(call):
            return Response(200, _encode(Answers(self._now(call)[0])))
        return self._respond(self._queued(call))

    def nothing_to_answer_with(self) -> Unavailable:
        """Why there is no state: no release yet, or one whose version is on its way or cannot be had."""
        if self.awaited:
            return Unavailable(
                f"no release is in force yet: {self.awaited}",
                hint="try again in a moment; GET /health/ready says when, or what is wrong",
                number="HF501",
            )
        return Unavailable(
            "no release is in force", hint="deploy a version: `holdfast deploy MODEL@VERSION`", number="HF501"
        )

    async def _respond(self, answers: Awaitable[list[Answer]]) -> Response:
        return Response(200, _encode(Answers(await answers)))

    def answer(
        self, request: Request, decode: Callable[[State], tuple[list[tuple[Any, ...]], Any]]
    ) -> list[Answer] | Awaitable[list[Answer]]:
        """Answers for the rows that ``decode`` finds, at once where that is cheap. Other protocols come in here."""
        call = self._begin(request, decode)
        return self._now(call)[0] if self._at_once(call) else self._queued(call)

    def _begin(self, request: Request, decode: Callable[[State], tuple[list[tuple[Any, ...]], Any]] | None) -> Call:
        state = self.state
        if state is None:
            raise self.nothing_to_answer_with()
        begun = time.perf_counter_ns()
        rows, when = state.schema.decode(request.body) if decode is None else decode(state)
        marks = request.marks
        decoded = 0 if marks is None else time.perf_counter_ns()
        call = self._call(state, request, rows, when, begun)
        if marks is not None:
            marks.add("decode", begun, decoded)
            marks.add("validate", decoded, time.perf_counter_ns())
            marks.about |= {"holdfast.rows": len(rows), "holdfast.prediction.id": call.ids[0]}
        return call

    def _at_once(self, call: Call) -> bool:
        """Whether a call is answered on the event loop itself: cheap, and no log to wait for."""
        return self.journal.mode == "buffered" and self._cheap(call)

    def _cheap(self, call: Call) -> bool:
        """Whether one arm and a model that costs little answer this call."""
        model = call.state.champion.model
        return (
            not call.state.split and call.force != "challenger" and model is not None and model.inline(len(call.rows))
        )

    def _now(self, call: Call) -> tuple[list[Answer], asyncio.Future[bool] | None]:
        state, model = call.state, call.state.champion.model
        assert model is not None
        clock: list[int] | None = None if call.marks is None else []
        try:
            matrix, scores = model.evaluate(call.rows, state.schema.names, call.at, clock=clock)
        except ModelFailed as problem:
            self._count_failure(state.champion, len(call.rows), problem)
            raise
        finally:
            _mark(call.marks, clock)
        return self._finish(call, state.champion, range(len(call.rows)), matrix, scores, whole=True)

    def _gather(self, call: Call, request: Request) -> Later:
        """Let what came in during this turn of the event loop share one model call and one batch of the log."""
        if self.pending >= self.options.max_pending and self.journal.mode == "durable":
            raise Unavailable("the queue is full", hint="try again in a moment, or add replicas", number="HF513")
        self.pending += 1
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._flush)
        later = Later(request)
        self._gathered.append((call, later))
        return later

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        while gathered:
            state, rows, n = gathered[0][0].state, 0, 0
            while n < len(gathered) and gathered[n][0].state is state and rows < _TOGETHER:
                rows += len(gathered[n][0].rows)
                n += 1
            group, gathered = gathered[:n], gathered[n:]
            try:
                answers, promise = self._together([call for call, _ in group], rows)
            except Exception:  # noqa: BLE001 - one bad row must not fail its neighbours: each again on its own
                for member in group:
                    self._alone(*member)
            else:
                self._deliver(group, answers, promise)

    def _alone(self, call: Call, later: Later) -> None:
        try:
            answers, promise = self._now(call)
        except Exception as problem:  # noqa: BLE001 - told to the one who asked
            self.pending -= 1
            later.give(problem)
        else:
            self._deliver([(call, later)], answers, promise)

    def _deliver(
        self, group: list[tuple[Call, Later]], answers: list[Answer], promise: asyncio.Future[bool] | None
    ) -> None:
        """Answer, once the log has said what it promises."""
        if promise is not None:
            if not promise.done():
                promise.add_done_callback(lambda done: self._deliver(group, answers, done))
                return
            if promise.cancelled() or not promise.result():
                self.metrics.unlogged.inc(sum(a.logged for a in answers))
                for answer in answers:
                    answer.logged = False
        self.pending -= len(group)
        at = 0
        for call, later in group:
            end = at + len(call.rows)
            later.give(Response(200, _encode(Answers(answers[at:end]))))
            at = end

    def _together(self, calls: list[Call], n: int) -> tuple[list[Answer], asyncio.Future[bool] | None]:
        """The answers of several calls, ``n`` rows in all, by one model call. Latency in the log is that of the one that
        waited longest."""
        first = calls[0]
        model = first.state.champion.model
        assert model is not None
        if n == len(calls):
            rows, ids, keys, at = ([c.rows[0] for c in calls], [c.ids[0] for c in calls], [c.keys[0] for c in calls],
                                   [c.at[0] for c in calls])  # fmt: skip
        else:
            rows, ids, keys, at = ([r for c in calls for r in c.rows], [i for c in calls for i in c.ids],
                                   [k for c in calls for k in c.keys], [t for c in calls for t in c.at])  # fmt: skip
        whole = Call(first.state, rows, ids, keys, at, first.received, first.begun, "", False)
        marked = [c.marks for c in calls if c.marks is not None]
        clock: list[int] | None = [] if marked else None
        matrix, scores = model.evaluate(rows, first.state.schema.names, at, clock=clock)
        scored = time.perf_counter_ns()
        answers, promise = self._finish(whole, first.state.champion, range(n), matrix, scores, whole=True)
        for marks in marked:
            _mark(marks, clock)
            marks.add("log", scored, time.perf_counter_ns())
            marks.about |= {"holdfast.version": first.state.champion.version, "holdfast.arm": "champion"}
        return answers, promise

    def _queued(self, call: Call) -> Awaitable[list[Answer]]:
        if self.pending >= self.options.max_pending:
            raise Unavailable("the queue is full", hint="try again in a moment, or add replicas", number="HF513")
        self.pending += 1  # here and not in the task, which starts later: a burst must meet the bound too
        return self._split(call)

    async def _split(self, call: Call) -> list[Answer]:
        """Each row by its arm: batchers, deadlines, the champion for whatever a challenger fails."""
        state = call.state
        try:
            champion, challenger = self._assign(call)
            failed: list[int] = []
            answers: list[Answer | None] = [None] * len(call.rows)
            promises: list[tuple[Sequence[int], Any]] = []
            if challenger:
                assert state.challenger is not None
                try:
                    matrix, scores = await self._evaluate(
                        state.challenger, call, challenger, self.options.challenger_deadline
                    )
                except HoldfastError as problem:
                    failed = challenger
                    self._failed(call, state.challenger, challenger, problem)
                else:
                    self._place(answers, promises, call, state.challenger, challenger, matrix, scores)
            mine = sorted(champion + failed)
            if mine:
                try:
                    matrix, scores = await self._evaluate(state.champion, call, mine, self.options.deadline)
                except ModelFailed as problem:
                    self._count_failure(state.champion, len(mine), problem)
                    if problem.number in ("HF921", "HF922"):
                        raise Unavailable(
                            problem.message, hint="try again in a moment", number=problem.number
                        ) from None
                    raise
                self._place(answers, promises, call, state.champion, mine, matrix, scores)
            waiting = time.perf_counter_ns()
            for indices, promise in promises:
                if not await promise:
                    self.metrics.unlogged.inc(len(indices))
                    for i in indices:
                        answer = answers[i]
                        assert answer is not None
                        answer.logged = False
            if promises and call.marks is not None:
                call.marks.add("log", waiting, time.perf_counter_ns())
            return [a for a in answers if a is not None]
        finally:
            self.pending -= 1

    # --- the parts --------------------------------------------------------------------------------------------------

    def _call(self, state: State, request: Request, rows: list[tuple[Any, ...]], when: Any, begun: int) -> Call:
        headers = request.headers
        received = self.now()
        n = len(rows)
        base = _prediction_id(headers.get(ID))
        ids = [base] if n == 1 else [f"{base}-{i}" for i in range(n)]
        given = headers.get(b"x-holdfast-key")
        if given is not None:
            keys = [given.decode("utf-8", "replace")] * n
        elif len(state.keys) == 1:
            k = state.keys[0]
            keys = [str(r[k]) for r in rows]
        elif state.keys:
            keys = ["|".join(str(r[k]) for k in state.keys) for r in rows]
        else:
            keys = ids
        arm = headers.get(b"x-holdfast-arm")
        force = "" if arm is None else arm.decode("ascii", "replace")
        if force not in ("", "champion", "challenger"):
            raise BadInput(
                f"unknown arm {force!r} in X-Holdfast-Arm", hint="use champion or challenger", number="HF106"
            )
        at = [received] * n if when is None else self._times(when, n)
        retry = self.options.balanced and b"x-holdfast-retry" in headers
        return Call(state, rows, ids, keys, at, received, begun, force, retry, request.marks)

    def _times(self, when: Any, n: int) -> list[int]:
        if not self.options.replay:
            raise Refused(
                "request_time is given, but this service is not in replay mode",
                hint="leave it out, or start with --replay",
                number="HF450",
            )
        if isinstance(when, list):
            if len(when) != n:
                raise BadInput(
                    f"{len(when)} request times for {n} rows", hint="send one, or one per row", number="HF105"
                )
            return [to_us(w) for w in when]
        return [to_us(when)] * n

    def _assign(self, call: Call) -> tuple[list[int], list[int]]:
        state, everyone = call.state, list(range(len(call.rows)))
        if state.challenger is None or (not state.split and call.force != "challenger"):
            if call.force == "challenger":
                raise BadInput("there is no challenger in this release", hint="see GET /release", number="HF106")
            return everyone, []
        if call.force:
            return (everyone, []) if call.force == "champion" else ([], everyone)
        chosen = [route.choose(state.release, k).arm == "challenger" for k in call.keys]
        challenger = [i for i in everyone if chosen[i]]
        if call.retry and challenger:
            # The replica that had this request died on it: the challenger is not given a second one to kill.
            self._failed(call, state.challenger, challenger, ModelFailed("the replica died on it", number="HF923"))
            return everyone, []
        return [i for i in everyone if not chosen[i]], challenger

    async def _evaluate(self, side: Side, call: Call, indices: list[int], timeout: float) -> tuple[Any, Any]:
        if side.model is None or side.batcher is None:
            raise ModelFailed(f"version {side.version} could not be loaded: {side.broken}", number="HF924")
        whole = len(indices) == len(call.rows)
        rows = call.rows if whole else [call.rows[i] for i in indices]
        at = call.at if whole else [call.at[i] for i in indices]
        clock: list[int] | None = None if call.marks is None else []
        try:
            # While two arms are compared both take the batcher's way: the shorter one would look like the better model.
            if side.arm == "champion" and not call.state.split and side.model.inline(len(rows)):
                return side.model.evaluate(rows, call.state.schema.names, at, clock=clock)
            result: tuple[Any, Any] = await side.batcher.run(rows, call.state.schema.names, at, timeout, clock=clock)
            return result
        finally:
            _mark(call.marks, clock)

    def _place(
        self, answers: list[Answer | None], promises: list[tuple[Sequence[int], Any]], call: Call, side: Side,
        indices: list[int], matrix: Any, scores: Any,
    ) -> None:  # fmt: skip
        part, promise = self._finish(call, side, indices, matrix, scores, whole=len(indices) == len(call.rows))
        for i, answer in zip(indices, part, strict=True):
            answers[i] = answer
        if promise is not None:
            promises.append((indices, promise))

    def _finish(
        self, call: Call, side: Side, indices: Sequence[int], matrix: Any, scores: Any, *, whole: bool
    ) -> tuple[list[Answer], asyncio.Future[bool] | None]:
        """Outputs, log, shadow copy, answers. The promise is None where the log said at once what it does."""
        model = side.model
        assert model is not None and side.layout is not None
        outputs = model.outputs(scores)
        values: list[Any] = scores[:, 0].tolist() if scores.shape[1] == 1 else scores.tolist()
        ids = call.ids if whole else [call.ids[i] for i in indices]
        marks = call.marks
        offering = 0 if marks is None else time.perf_counter_ns()
        promise, chosen = self._log(call, side, ids, indices, matrix, scores, outputs, whole=whole)
        if marks is not None:
            if not isinstance(promise, asyncio.Future):
                marks.add("log", offering, time.perf_counter_ns())
            marks.about |= {"holdfast.version": side.version, "holdfast.arm": side.arm}
        logged = True if isinstance(promise, asyncio.Future) else promise
        n = len(ids)
        if logged is False:
            self.metrics.unlogged.inc(n if chosen is None else len(chosen))
        self.metrics.hot.rows(side.version, side.arm, n)
        if side.arm == "champion" and call.state.ranged:
            self._note_inputs(call.state, matrix)
        shadow = call.state.shadow
        if shadow is not None:
            self._copy_to_shadow(call, shadow, indices, whole=whole)
        answers = [
            Answer(i, o, v, side.version, side.arm, logged) for i, o, v in zip(ids, outputs, values, strict=True)
        ]
        if chosen is not None and len(chosen) < n:
            kept = set(chosen)
            self.metrics.hot.sampled_out += n - len(kept)
            for i, answer in enumerate(answers):
                answer.logged = answer.logged and i in kept
        return answers, promise if isinstance(promise, asyncio.Future) else None

    def _log(
        self,
        call: Call,
        side: Side,
        ids: Sequence[str],
        indices: Sequence[int],
        matrix: Any,
        scores: Any,
        outputs: Sequence[Any],
        *,
        whole: bool,
        failed: bool = False,
    ) -> tuple[bool | asyncio.Future[bool], list[int] | None]:
        """What the log promises, and the positions (within ``indices``) of the rows it was given; None = all."""
        layout = side.bare if failed else side.layout
        assert layout is not None
        rows: Sequence[tuple[Any, ...]] | None = None
        if not layout.same:
            rows = call.rows if whole else [call.rows[i] for i in indices]
        batch = Batch(
            layout,
            arm=side.arm,
            ids=ids,
            keys=call.keys if whole else [call.keys[i] for i in indices],
            request_times=call.at if whole else [call.at[i] for i in indices],
            received=call.received,
            latency=(time.perf_counter_ns() - call.begun) // 1000,
            scores=scores,
            outputs=outputs,
            inputs=rows,
            matrix=matrix,
        )
        chosen = None
        if side.keeping is not None:
            if side.keeping.unknown:
                return False, None
            chosen = side.keeping.chosen(ids)
            if chosen is not None and not chosen:
                return True, chosen
            _keep(side.keeping, batch, chosen, failed=failed)
        return self.journal.offer(batch), chosen

    def _failed(self, call: Call, side: Side, indices: list[int], problem: HoldfastError) -> None:
        """Keep a challenger's or shadow's failure as evidence: rows with a null score and output."""
        self._count_failure(side, len(indices), problem)
        assert side.bare is not None
        ids = [call.ids[i] for i in indices]
        nothing = np.full((len(ids), len(side.bare.features)), np.nan)
        self._log(
            call,
            side,
            ids,
            indices,
            nothing,
            np.full((len(ids), 1), np.nan),
            [None] * len(ids),
            whole=False,
            failed=True,
        )

    def _copy_to_shadow(self, call: Call, side: Side, indices: Sequence[int], *, whole: bool) -> None:
        """Hand the rows to the shadow's bounded queue; nobody waits, a full queue drops and counts."""
        picked = list(indices)
        if side.model is None or side.batcher is None:
            self._failed(call, side, picked, ModelFailed(side.broken, number="HF924"))
            return
        rows = call.rows if whole else [call.rows[i] for i in picked]
        at = call.at if whole else [call.at[i] for i in picked]
        begun = time.perf_counter_ns()

        def done(result: Any) -> None:
            if isinstance(result, HoldfastError):
                self._failed(call, side, picked, result)
                return
            matrix, scores = result
            ids = [call.ids[i] for i in picked]
            assert side.model is not None
            later = call._replace(begun=begun)
            self._log(later, side, ids, picked, matrix, scores, side.model.outputs(scores), whole=False)
            self.metrics.hot.rows(side.version, "shadow", len(ids))

        if not side.batcher.submit(Job(rows, call.state.schema.names, at, done)):
            self.metrics.shadow_dropped.inc(len(rows))

    def _note_inputs(self, state: State, matrix: Any) -> None:
        """Keep what was served until enough of it can be compared with the ranges seen in training at once."""
        if self._judged is not state:
            self.count_ranges()
            self._judged = state
        self._unjudged.append(matrix)
        if len(self._unjudged) >= _RANGE_GROUP or len(matrix) >= _RANGE_GROUP:
            self.count_ranges()

    def count_ranges(self) -> None:
        """Count, by input, the values so far that lie beyond what training saw."""
        state, self._unjudged, kept = self._judged, [], self._unjudged
        if state is None or not kept:
            return
        matrix = np.concatenate(kept)
        outside = (matrix < state.low) | (matrix > state.high)
        if outside.any():
            for i, n in enumerate(outside.sum(axis=0).tolist()):
                if n:
                    self.metrics.range_notices.labels(state.names[i]).inc(n)

    def _count_failure(self, side: Side, n: int, problem: HoldfastError) -> None:
        self.metrics.failures.labels(str(side.version), side.arm, problem.number).inc(n)


def _mark(marks: Marks | None, clock: list[int] | None) -> None:
    """What ``Loaded.evaluate`` noted, as steps."""
    if marks is None or clock is None:
        return
    clock = clock[-3:]
    for name, first, last in zip(("features", "model"), clock, clock[1:], strict=False):
        marks.add(name, first, last)


def _keep(keeping: Keeping, batch: Batch, chosen: list[int] | None, *, failed: bool) -> None:
    """Cut a batch down to what the policy lets into the log, before the writer sees it."""
    if chosen is not None and len(chosen) < len(batch.ids):
        batch.ids = [batch.ids[i] for i in chosen]
        batch.keys = [batch.keys[i] for i in chosen]
        batch.request_times = [batch.request_times[i] for i in chosen]
        batch.outputs = [batch.outputs[i] for i in chosen]
        batch.inputs = None if batch.inputs is None else [batch.inputs[i] for i in chosen]
        batch.scores, batch.matrix = batch.scores[chosen], batch.matrix[chosen]
    if keeping.hides_key:
        # A key that is only the prediction's own id tells nothing more than the id does, but is hashed alike.
        batch.keys = keeping.keys(batch.keys)
    if keeping.redacts:
        if batch.inputs is not None:
            batch.inputs = keeping.rows(batch.inputs)
        if not failed:
            batch.matrix = keeping.matrix(batch.matrix)


_fresh_id = Ids()


def _prediction_id(given: bytes | None) -> str:
    if given is None:
        return _fresh_id()
    if _ID(given) is None:
        raise BadInput("X-Holdfast-Prediction-Id is not an id", hint="1 to 64 letters, digits, - _ .", number="HF107")
    return given.decode()
