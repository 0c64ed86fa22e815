"""The protocol's routes on a replica. ``/v2/models/M`` takes the service's or the model's name."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import msgspec

from holdfast import __version__
from holdfast.core.errors import BadInput, HoldfastError, NotFound, Unavailable
from holdfast.protocols.oip import wire
from holdfast.serving.predict import Answer, Side, State
from holdfast.serving.replica import Replica
from holdfast.serving.wire import Request, Response

# The last is what curl calls its -d; the body is JSON or is refused as such.
_JSON_TYPES = (b"", b"application/json", b"text/json", b"application/x-www-form-urlencoded")


def mount(replica: Replica) -> None:
    """Add the protocol to a replica."""
    served = _Oip(replica)
    replica.route("GET", "/v2", lambda _: _json({"name": "holdfast", "version": __version__, "extensions": []}))
    replica.route("GET", "/v2/health/live", lambda _: _json({"live": True}))
    replica.route("GET", "/v2/health/ready", served.ready)
    replica.route("GET", "/v2/models/*", served.get)
    replica.route("POST", "/v2/models/*", served.post)


class _Oip:
    def __init__(self, replica: Replica) -> None:
        self.replica = replica

    def ready(self, _: Request) -> Response:
        ready = self.replica.predictions.state is not None
        return _json({"live": True, "ready": ready}, 200 if ready else 503)

    def get(self, request: Request) -> Response:
        try:
            name, version, verb = _parse(request.path)
            if verb == "ready":
                state = self.replica.predictions.state
                loaded = state is not None and self._named(state, name) and self._side(state, version).model is not None
                return _json({"name": name, "ready": bool(loaded)}, 200 if loaded else 503)
            if verb:
                raise NotFound(
                    f"there is nothing at {request.path!r}", hint="use …/infer (POST), …/ready, or the model's own path"
                )
            state = self._state(name)
            return _json(self._metadata(state, self._side(state, version), name))
        except HoldfastError as problem:
            return _error(problem)

    def post(self, request: Request) -> Response | Awaitable[Response]:
        try:
            name, version, verb = _parse(request.path)
            if verb != "infer":
                raise NotFound(f"there is nothing to post to at {request.path!r}", hint="use …/infer")
            kind = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if kind not in _JSON_TYPES or b"inference-header-content-length" in request.headers:
                return _json(
                    {"error": "only JSON is spoken here, not the binary extension; set binary_data to False"}, 415
                )
            state = self._state(name)
            side = self._side(state, version)
            if version is not None:
                request.headers[b"x-holdfast-arm"] = side.arm.encode()
            asked = wire.decode(request.body)
            _check_outputs(asked)
            answers = self.replica.predictions.answer(
                request, lambda s: (s.schema.convert(wire.rows(asked, s.schema.fields)), None)
            )
        except HoldfastError as problem:
            return _error(problem)
        if isinstance(answers, list):
            return _json(_response(name, asked, answers))
        return self._later(name, asked, answers)

    async def _later(self, name: str, asked: wire.InferRequest, answers: Awaitable[list[Answer]]) -> Response:
        try:
            return _json(_response(name, asked, await answers))
        except HoldfastError as problem:
            return _error(problem)

    def _state(self, name: str) -> State:
        state = self.replica.predictions.state
        if state is None:
            raise self.replica.predictions.nothing_to_answer_with()
        if not self._named(state, name):
            raise NotFound.among("model", name, {self.replica.service, state.release.model})
        return state

    def _named(self, state: State, name: str) -> bool:
        return name in (self.replica.service, state.release.model)

    def _side(self, state: State, version: str | None) -> Side:
        if version is None:
            return state.champion
        for side in (state.champion, state.challenger):
            if side is not None and str(side.version) == version:
                return side
        known = [str(s.version) for s in (state.champion, state.challenger) if s is not None]
        raise NotFound.among("version", version, known)

    def _metadata(self, state: State, side: Side, name: str) -> dict[str, Any]:
        if side.model is None:
            raise Unavailable(f"version {side.version} is not loaded")
        package = side.model.package
        outputs = [{"name": "output", "datatype": _output_type(side), "shape": [-1]}]
        width = [-1, len(side.model.classes)] if package.task == "multiclass" else [-1]
        outputs.append({"name": "score", "datatype": "FP64", "shape": width})
        return {
            "name": name,
            "versions": [str(s.version) for s in (state.champion, state.challenger) if s is not None],
            "platform": package.format,
            "inputs": [
                {"name": f.name, "datatype": wire.DATATYPES[f.dtype][0], "shape": [-1]} for f in package.request
            ],
            "outputs": outputs,
        }


def _output_type(side: Side) -> str:
    assert side.model is not None
    return wire.output("output", side.model.classes).datatype if side.model.classes else "FP64"


def _check_outputs(asked: wire.InferRequest) -> None:
    for wanted in asked.outputs or ():
        if wanted.name not in ("output", "score"):
            raise BadInput(f"unknown output {wanted.name!r}", hint="known: output, score")


def _response(name: str, asked: wire.InferRequest, answers: list[Answer]) -> wire.InferResponse:
    wanted = [w.name for w in asked.outputs] if asked.outputs else ["output", "score"]
    columns = {"output": [a.output for a in answers], "score": [a.score for a in answers]}
    versions = sorted({a.version for a in answers})
    parameters: dict[str, Any] = {"prediction_ids": [a.id for a in answers], "logged": all(a.logged for a in answers)}
    if len(versions) > 1:
        parameters["versions"] = [a.version for a in answers]
    return wire.InferResponse(
        model_name=name,
        model_version=str(versions[0]),
        id=asked.id,
        outputs=[wire.output(w, columns[w]) for w in wanted],
        parameters=parameters,
    )


def _parse(path: str) -> tuple[str, str | None, str]:
    """(model, version or None, last word) of a path under /v2/models/."""
    parts = path.removeprefix("/v2/models/").strip("/").split("/")
    name, rest = parts[0], parts[1:]
    version = None
    if len(rest) >= 2 and rest[0] == "versions":
        version, rest = rest[1], rest[2:]
    if not name or len(rest) > 1:
        raise NotFound(
            f"there is nothing at {path[:200]!r}", hint="use /v2/models/MODEL[/versions/VERSION][/ready|/infer]"
        )
    return name, version, rest[0] if rest else ""


def _json(body: Any, status: int = 200) -> Response:
    return Response(status, msgspec.json.encode(body))


def _error(problem: HoldfastError) -> Response:
    """The protocol's error body: one string."""
    text = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
    extra = ((b"retry-after", b"1"),) if problem.status == 503 else ()
    return Response(problem.status, msgspec.json.encode({"error": text}), headers=extra)
