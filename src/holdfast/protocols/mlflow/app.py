"""The protocol as an ASGI application: a table of endpoints, each a plain function run in a thread.

A write that carries ``X-Holdfast-Request-Id`` has its effect once: the id and its answer are stored in the transaction
that has the effect, and a repeat is given the stored answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

from starlette.responses import Response

from holdfast.core.errors import BadInput, HoldfastError, NotAllowed, TooMuch
from holdfast.core.records import Json
from holdfast.protocols.mlflow import (
    routes_artifacts,
    routes_models,
    routes_registry,
    routes_tracking,
    transfer,
    wire,
)
from holdfast.protocols.mlflow.artifacts import check_path
from holdfast.protocols.mlflow.context import Context
from holdfast.protocols.mlflow.wire import ProtocolError, Route

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ROUTES: list[Route] = [
    *routes_tracking.ROUTES,
    *routes_models.ROUTES,
    *routes_registry.ROUTES,
    *routes_artifacts.ROUTES,
]
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
MODEL_FILES = "/api/2.0/mlflow/logged-models/{model_id}/artifacts/files"
UPLOAD = "/api/2.0/mlflow/upload-artifact"
REQUEST_ID = b"x-holdfast-request-id"
REQUESTS = "requests"
MAX_JSON = 20 * 1024 * 1024
MAX_ARTIFACT = 64 * 1024**3
# What is small enough to be written between two requests, and how much is written so before the log is moved on.
_QUICK_BYTES = 256 * 1024
_TIDY_BYTES = 4 * 1024 * 1024
_HEADERS = [(b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff")]
# First parts of paths that belong to MLflow's GenAI side and its gateway, which this server does not have.
GENAI = frozenset(
    [
        "traces",
        "trace",
        "assessments",
        "scorers",
        "prompts",
        "datasets",
        "evaluation-datasets",
        "gateway",
        "gateway-proxy",
        "webhooks",
        "issues",
        "label-schemas",
        "review-queues",
        "chat",
        "span",
        "spans",
        "otel",
        "demo",
        "genai",
        "jobs",
        "prompt-optimization",
        "secrets",
        "endpoints",
        "model-definitions",
        "assistant",
        "scorer",
    ]
)
_log = logging.getLogger("holdfast.server")


class MlflowApp:
    """Answers everything under ``/api/2.0/mlflow…`` (and ``/ajax-api/…``, the same for browsers).

    Args:
        context: the stores; ``actor`` in it is replaced per request by ``who``.
        executor: threads the handlers run in.
        scratch: a folder for uploads under way.
        who: (name for the ledger, may approve) of a request's headers.
    """

    def __init__(
        self,
        context: Context,
        *,
        executor: Executor,
        scratch: Path,
        who: Callable[[dict[bytes, bytes]], tuple[str, bool]],
        max_artifact: int = MAX_ARTIFACT,
    ) -> None:
        self.context = context
        self.executor = executor
        self.scratch = scratch
        self.who = who
        self.max_artifact = max_artifact
        self._plain = {(r.method, r.path): r for r in ROUTES if "{" not in r.path}
        self._deep = [r for r in ROUTES if "{" in r.path]
        self._paths = {r.path for r in ROUTES}
        self._untidy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._answer(scope, receive, watched)
        except HoldfastError as error:
            if not started:
                await self._fail(send, error)
        except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback leaves the server
            _log.exception("%s %s", scope.get("method"), scope.get("path"))
            if not started:
                await self._fail(send, error)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], normal_path(scope["path"])
        route = self._plain.get((method, path))
        if route is not None:
            await self._call(route, {}, scope, receive, send)
        elif path.startswith(ARTIFACTS):
            await self._artifact(method, path[len(ARTIFACTS) :], scope, receive, send)
        elif path == UPLOAD:
            await self._browser_upload(scope, receive, send)
        elif path in ("/get-artifact", "/model-versions/get-artifact"):
            which = transfer.run_artifact_path if path == "/get-artifact" else transfer.version_artifact_path
            await self._file(which, {}, scope, receive, send)
        elif (of_model := _match(MODEL_FILES, path)) is not None:
            await self._file(transfer.logged_model_artifact_path, of_model, scope, receive, send)
        else:
            found = self._find_deep(method, path)
            if found is None:
                raise self._nothing_there(method, path)
            await self._call(*found, scope, receive, send)

    async def _call(self, route: Route, values: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        raw = b""
        if route.method == "GET":
            given = wire.query_fields(scope["query_string"], route.fields)
        else:
            raw = await _body(headers, receive)
            given = wire.decode(raw)
        request = wire.check({**given, **values}, route.fields)
        repeat = headers.get(REQUEST_ID, b"").decode("latin-1")
        if len(repeat) > 200:
            raise ProtocolError("BAD_REQUEST", "X-Holdfast-Request-Id may have at most 200 characters.")
        ctx = self._context(headers)
        body = self._at_once(route, request, ctx, repeat, len(raw)) if route.quick else None
        if body is None:
            body = await self._run(self._handle, route, request, ctx, repeat)
        await _send(send, 200, body)

    def _at_once(self, route: Route, request: Json, ctx: Context, repeat: str, size: int) -> bytes | None:
        """The answer, given here and now where the store can write without waiting: a thread to and fro takes longer than a
        few rows. None where it has to be a thread."""
        if size > _QUICK_BYTES:
            return None
        with ctx.runs.at_once() as free:
            if not free:
                return None
            body = self._handle(route, request, ctx, repeat)
        self._untidy += size + _QUICK_BYTES // 1000
        if self._untidy > _TIDY_BYTES:
            self._untidy = 0
            self.executor.submit(self._tidy)
        return body

    def _tidy(self) -> None:
        try:
            self.context.runs.tidy()
        except HoldfastError as error:
            _log.warning("the run store could not be tidied, it is tried again: %s", error.message)

    def _handle(self, route: Route, request: Json, ctx: Context, repeat: str) -> bytes:
        if not repeat or not route.writes:
            return wire.encode(route.handler(ctx, request))
        key = f"{route.path} {repeat}"
        if route.writes == "runs":
            with ctx.runs.transaction():
                known = ctx.runs.remembered(key)
                if known is None:
                    known = wire.encode(route.handler(ctx, request))
                    ctx.runs.remember(key, known, at=ctx.now())
            return known
        with ctx.ledger.transaction() as tx:
            row = tx.get(REQUESTS, key)
            if row is not None:
                return str(row["answer"]).encode()
            known = wire.encode(route.handler(ctx.within(tx), request))
            tx.put(REQUESTS, key, {"answer": known.decode(), "at": ctx.now()})
        return known

    def _context(self, headers: dict[bytes, bytes]) -> Context:
        actor, may_approve = self.who(headers)
        return self.context.by(actor, may_approve)

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.executor, partial(function, *arguments))

    # --- artifacts ---

    async def _artifact(self, method: str, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        ctx = self._context(headers)
        match method:
            case "PUT":
                length = headers.get(b"content-length", b"")
                if length.isdigit() and int(length) > self.max_artifact:
                    raise TooMuch(f"an artifact may have at most {self.max_artifact} bytes")
                await transfer.upload(ctx, path, receive, scratch=self.scratch, most=self.max_artifact, run=self._run)
                await _send(send, 200, b"{}")
            case "GET" | "HEAD":
                await self._download(ctx, path, headers, scope, receive, send)
            case "DELETE":
                plain = check_path(path)
                if plain.startswith("@"):
                    raise NotAllowed("The files of a registered version cannot be deleted.")
                await self._run(ctx.runs.delete_artifacts, plain)
                await _send(send, 200, b"{}")
            case _:
                raise ProtocolError("BAD_REQUEST", f"{method} is not allowed here.", status=405)

    async def _browser_upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            raise ProtocolError("BAD_REQUEST", f"{scope['method']} is not allowed here.", status=405)
        headers = dict(scope["headers"])
        ctx = self._context(headers)
        request = wire.query_fields(scope["query_string"], {})
        for name in ("run_uuid", "path"):
            if not request.get(name):
                raise BadInput(f"Request must specify {name}.")
        check_path(request["path"])
        if headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers:
            raise BadInput("Request must specify data.")
        path = await self._run(transfer.run_artifact_path, ctx, request)
        await transfer.upload(ctx, path, receive, scratch=self.scratch, most=10 * 1024 * 1024, run=self._run)
        await _send(send, 200, b"{}")

    async def _file(
        self, which: Callable[[Context, Json], str], values: dict[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """One file, for browsers; ``which`` finds its artifact path from the query."""
        if scope["method"] not in ("GET", "HEAD"):
            raise ProtocolError("BAD_REQUEST", f"{scope['method']} is not allowed here.", status=405)
        headers = dict(scope["headers"])
        ctx = self._context(headers)
        request = {**wire.query_fields(scope["query_string"], {}), **values}
        await self._download(ctx, await self._run(which, ctx, request), headers, scope, receive, send)

    async def _download(
        self, ctx: Context, path: str, headers: dict[bytes, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        wanted = headers.get(b"if-none-match", b"").decode("latin-1")
        response: Response = await self._run(partial(transfer.download, ctx, path, if_none_match=wanted))
        await response(scope, receive, send)

    # --- what is not there ---

    def _find_deep(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        for route in self._deep:
            if route.method == method and (values := _match(route.path, path)) is not None:
                return route, values
        return None

    def _nothing_there(self, method: str, path: str) -> ProtocolError:
        if path in self._paths or any(_match(r.path, path) is not None for r in self._deep):
            return ProtocolError("BAD_REQUEST", f"{method} is not allowed here.", status=405)
        parts = path.strip("/").split("/")
        if path.startswith("/api/2.0/mlflow-artifacts/"):
            return ProtocolError("NOT_IMPLEMENTED", "Multipart and presigned transfers are not offered.", status=501)
        if len(parts) > 3 and parts[0] == "api" and parts[2] == "mlflow" and parts[3] in GENAI:
            return ProtocolError(
                "NOT_IMPLEMENTED", "Holdfast has no GenAI traces, prompts, evaluations or gateway.", status=501
            )
        return ProtocolError("ENDPOINT_NOT_FOUND", f"There is no endpoint {method} {path[:200]}.", status=404)

    async def _fail(self, send: Send, error: Exception) -> None:
        if isinstance(error, HoldfastError):
            status, body = wire.failure(error)
        else:
            # The exception may name paths or values: it goes to the log, not to the caller.
            status, body = (
                500,
                {"error_code": "INTERNAL_ERROR", "message": "An error on our side; the server's log has it."},
            )
        await _send(send, status, wire.encode(body))


def normal_path(path: str) -> str:
    """``/ajax-api`` is ``/api`` for browsers; doubled slashes at the front are one."""
    if path.startswith("//"):
        path = "/" + path.lstrip("/")
    return "/api" + path[len("/ajax-api") :] if path.startswith("/ajax-api/") else path


def _match(pattern: str, path: str) -> dict[str, str] | None:
    ours, theirs = pattern.split("/"), path.split("/")
    if len(ours) != len(theirs):
        return None
    values: dict[str, str] = {}
    for mine, its in zip(ours, theirs, strict=True):
        if mine.startswith("{"):
            if not its:
                return None
            values[mine[1:-1]] = its
        elif mine != its:
            return None
    return values


async def _body(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > MAX_JSON:
        raise TooMuch(f"a request may have at most {MAX_JSON} bytes")
    pieces: list[bytes] = []
    size = 0
    async for piece in transfer.chunks(receive):
        size += len(piece)
        if size > MAX_JSON:
            raise TooMuch(f"a request may have at most {MAX_JSON} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def _send(send: Send, status: int, body: bytes) -> None:
    headers = [*_HEADERS, (b"content-length", str(len(body)).encode())]
    if status in (408, 413):
        # The rest of the body may still be on its way; it must not be read as the next request.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
