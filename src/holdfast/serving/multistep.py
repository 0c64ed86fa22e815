"""Services of more than one step: a Python class whose typed methods become routes, with the model as one of the steps.

    @hf.service("fraud")
    class Fraud:
        def __init__(self, predict):          # predict(rows) → answers, by the whole path of a request, logged
            self.predict = predict

        @hf.api
        def decide(self, body: dict) -> dict:  # POST /api/decide
            answer = self.predict([body["payment"]])[0]
            return {"block": answer["score"] > 0.9 and body["amount"] > 100, "prediction": answer["id"]}

The body is validated against the method's annotation (dict, dataclass, TypedDict, msgspec struct) before it is called.
Methods run in threads, a bounded number at a time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_type_hints

import msgspec

from holdfast.core.definitions import Steps
from holdfast.core.errors import BadData, BadDefinition, BadInput, HoldfastError, OurTurn, Unavailable
from holdfast.core.identity import digest, new_id
from holdfast.serving.predict import Answer, Predictions
from holdfast.serving.replica import Replica
from holdfast.serving.wire import Request, Response

log = logging.getLogger("holdfast.serving.multistep")


class StepFailed(OurTurn):
    """The user's method raised something that is no error of ours."""

    number = "HF930"


def mount(replica: Replica, steps: Steps, *, threads: int = 8, queued: int = 64) -> None:
    """Make the class's api methods routes of a replica.

    Raises:
        BadDefinition: the class has no api method, or one whose arguments cannot be a body.
    """
    runner = _Runner(replica, steps, threads=threads, queued=queued)
    for name in steps.apis:
        replica.route("POST", f"/api/{name}", runner.handler(name))


class _Runner:
    def __init__(self, replica: Replica, steps: Steps, *, threads: int, queued: int) -> None:
        if not steps.apis:
            raise BadDefinition(f"service class {steps.target.__name__} has no method with @hf.api")
        self.replica = replica
        self.steps = steps
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="api")
        self.bound = threads + queued
        self.running = 0
        self.local = threading.local()
        self.instance: Any = None
        self.making = threading.Lock()

    def handler(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        function = getattr(self.steps.target, name)
        arguments = [a for a in get_type_hints(function) if a != "return"]
        body_type: Any = get_type_hints(function)[arguments[0]] if arguments else dict[str, Any]
        try:
            decoder = msgspec.json.Decoder(body_type)
        except TypeError as problem:
            raise BadDefinition(f"{name} takes a {body_type}, which cannot be read from JSON: {problem}") from None

        async def answer(request: Request) -> Response:
            try:
                body = decoder.decode(request.body or b"{}")
            except msgspec.ValidationError as problem:
                raise BadData(
                    f"the body does not fit: {problem}", hint=f"see the annotation of {name}", number="HF137"
                ) from None
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as problem:
                raise BadInput(f"not JSON: {problem}", number="HF101") from None
            if self.running >= self.bound:
                raise Unavailable("the queue is full", hint="try again in a moment, or add replicas", number="HF513")
            self.running += 1
            loop = asyncio.get_running_loop()
            call = loop.run_in_executor(self.pool, self._call, name, body, request, loop)
            call.add_done_callback(self._done)
            deadline = self.replica.options.deadline
            try:
                # A method that hangs keeps its thread; its caller does not wait for it.
                result = await asyncio.wait_for(asyncio.shield(call), deadline)
            except TimeoutError:
                raise Unavailable(f"{name} did not answer within {deadline:g} s", number="HF921") from None
            try:
                return Response(200, msgspec.json.encode(result))
            except (TypeError, ValueError, OverflowError, RecursionError) as problem:
                log.error("%s gave what is no JSON: %s", name, problem)
                raise StepFailed(
                    f"{name} gave what cannot be written as JSON", hint="the replica's log says what"
                ) from None

        return answer

    def _done(self, call: asyncio.Future[Any]) -> None:
        self.running -= 1
        if not call.cancelled():
            call.exception()

    def _call(self, name: str, body: Any, request: Request, loop: asyncio.AbstractEventLoop) -> Any:
        self.local.request, self.local.loop, self.local.calls = request, loop, 0
        try:
            with self.making:
                if self.instance is None:
                    self.instance = self.steps.target(self._predict)
            return getattr(self.instance, name)(body)
        except HoldfastError:
            raise
        except (Exception, SystemExit) as problem:
            log.exception("%s failed", name)
            raise StepFailed(
                f"{name} failed: {type(problem).__name__}", hint="the replica's log has the traceback"
            ) from None

    def _predict(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the class is given as ``predict``: called from its method's thread, run on the replica's loop."""
        outer: Request = self.local.request
        # Each call of one request gets ids of its own, derived from the request's, so that a retry repeats them.
        self.local.calls += 1
        base = outer.headers.get(b"x-holdfast-prediction-id", b"").decode("ascii", "replace") or new_id()
        headers = outer.headers | {b"x-holdfast-prediction-id": _of_call(base, self.local.calls).encode()}
        inner = Request("POST", b"/predict", "/predict", b"", headers, b"")
        call = asyncio.run_coroutine_threadsafe(_ask(self.replica.predictions, inner, list(rows)), self.local.loop)
        answers = call.result(self.replica.options.deadline)
        return [msgspec.to_builtins(a) for a in answers]


def _of_call(base: str, number: int) -> str:
    """The id of one call of a request; of a request whose own id leaves no room, a digest stands for it."""
    own = f"{base}.{number}"
    return own if len(own) <= 64 else f"{digest(base)[:48]}.{number}"


async def _ask(predictions: Predictions, request: Request, rows: list[dict[str, Any]]) -> list[Answer]:
    answers = predictions.answer(request, lambda state: (state.schema.convert(rows), None))
    return answers if isinstance(answers, list) else await answers
