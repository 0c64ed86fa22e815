"""The control plane: MLflow's protocol and the registry behind access rules, on one listener.

Replicas never ask it anything: it may be down and predictions go on.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from holdfast.core.definitions import Project
from holdfast.core.errors import HoldfastError, NotFound
from holdfast.protocols.mlflow import wire
from holdfast.protocols.mlflow.app import MlflowApp, normal_path
from holdfast.protocols.mlflow.context import Context
from holdfast.protocols.mlflow.routes_artifacts import PROTOCOL_VERSION
from holdfast.registry.approval import Terms, terms_for
from holdfast.server import access as access_rules
from holdfast.server.access import Access, AccessMiddleware, Role
from holdfast.server.patience import paced, protocol
from holdfast.workspace import Workspace

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

THREADS = 8
_PROJECT_SECONDS = 2.0
_OPEN = {"/health", "/version"}
_log = logging.getLogger("holdfast.server")


class Policies:
    """The gate's terms per model name: the project's gates and the settings, whichever is stricter. The definitions
    are read again when their file changed; while they do not load, every name is enforced, because what they would
    have said is not known."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._checked = 0.0
        self._mark: tuple[int, int] | None = None
        self._project: Project | None = None
        self._broken = False

    def __call__(self, name: str) -> Terms:
        with self._lock:
            self._refresh()
            if self._broken:
                return Terms("enforce")
            services = self._project.services.values() if self._project else ()
            return terms_for(services, name, self._workspace.settings.gate.policy)

    def _refresh(self) -> None:
        if time.monotonic() - self._checked < _PROJECT_SECONDS and self._checked:
            return
        self._checked = time.monotonic()
        module = self._workspace.settings.definitions
        path = self._workspace.root / (module if module.endswith(".py") else module.replace(".", "/") + ".py")
        try:
            status = path.stat()
            mark = (status.st_mtime_ns, status.st_size)
        except OSError:
            mark = None
        if mark is not None and mark == self._mark:
            return
        try:
            self._project, self._broken = self._workspace.project(), False
        except NotFound:
            self._project, self._broken = None, False
        except HoldfastError as error:
            _log.warning("the project's definitions do not load, so every model is enforced: %s", error.message)
            self._broken = True
        self._mark = mark


def application(workspace: Workspace, *, access: Access | None = None, mounts: dict[str, App] | None = None) -> App:
    """The control plane as an ASGI application. ``mounts`` answer paths under their prefix (the console)."""
    settings = workspace.settings.server
    rules = access or rules_of(workspace)
    executor = ThreadPoolExecutor(THREADS, thread_name_prefix="holdfast-server")
    context = Context(
        runs=workspace.runs,
        ledger=workspace.ledger,
        objects=workspace.objects,
        clock=workspace.clock,
        policy=Policies(workspace),
        protected=tuple(workspace.settings.gate.protected_aliases),
    )

    def who(headers: dict[bytes, bytes]) -> tuple[str, bool]:
        if not rules.guarded:
            return f"anonymous@{settings.host}", True
        token = rules.who(headers)
        if token is None:
            return "anonymous", False
        return token.name, "approve" in access_rules.ROLES[token.role]

    mlflow = MlflowApp(context, executor=executor, scratch=workspace.path("uploads", "x").parent, who=who)
    inner = _ControlPlane(mlflow, mounts or {})
    return _Guard(inner, rules)


def token_file(workspace: Workspace) -> Path:
    """Where this workspace's tokens are kept, for every listener: control plane, feature server, predictions."""
    path, before = workspace.path("keys", "tokens.json"), workspace.path("tokens.json")
    if before.exists() and not path.exists():
        before.rename(path)
    return path


def rules_of(workspace: Workspace, *, host: str | None = None) -> Access:
    """The access rules of this workspace's control plane.

    Raises:
        BadConfig: the token file is broken.
    """
    settings = workspace.settings.server
    fixed = [access_rules.of(settings.token)] if settings.token else []
    return Access(tokens=fixed, hosts=settings.hosts, bind=host or settings.host, source=token_file(workspace))


def role_of(method: str, path: str) -> Role | None:
    """The role a request needs. Whatever is not known to be open needs a token."""
    path = normal_path(path)
    if path in _OPEN:
        return None
    reads = method in ("GET", "HEAD") or path.endswith(("/search", "/search-datasets", "/get-latest-versions"))
    return "read" if reads else "write"


class _Guard:
    """The access rules in front of everything, refusing MLflow's clients in words they read."""

    def __init__(self, inner: App, rules: Access) -> None:
        self.inner = inner
        self.rules = rules
        self.plain = AccessMiddleware(inner, access=rules, role_of=role_of)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = normal_path(scope["path"]) if scope["type"] == "http" else ""
        if not path.startswith("/api/"):
            await self.plain(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        problem = self.rules.check(headers, role=role_of(scope["method"], path))
        if problem is None:
            await self.inner(scope, paced(receive), send)
            return
        status, body = wire.failure(problem)
        more = [(b"www-authenticate", b'Basic realm="holdfast"')] if status == 401 else []
        await _answer(send, status, wire.encode(body), b"application/json", more)


class _ControlPlane:
    """Which application answers a path."""

    def __init__(self, mlflow: MlflowApp, mounts: dict[str, App]) -> None:
        self.mlflow = mlflow
        self.mounts = mounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        path = normal_path(scope["path"])
        if path == "/health":
            await _text(send, b"OK")
        elif path == "/version":
            await _text(send, PROTOCOL_VERSION.encode())
        elif path.startswith("/api/") or path in ("/get-artifact", "/model-versions/get-artifact"):
            await self.mlflow(scope, receive, send)
        else:
            for prefix, app in self.mounts.items():
                if path == prefix or path.startswith(prefix.rstrip("/") + "/"):
                    await app(scope, receive, send)
                    return
            error = NotFound("there is nothing here", hint="MLflow's API is under /api/2.0/mlflow")
            await _answer(send, 404, msgspec.json.encode(error.as_dict()), b"application/json")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _text(send: Send, body: bytes) -> None:
    await _answer(send, 200, body, b"text/plain; charset=utf-8")


async def _answer(send: Send, status: int, body: bytes, kind: bytes, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
    headers = [
        *more,
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"SAMEORIGIN"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(workspace: Workspace, *, host: str, port: int, ready: Callable[[str, int], None] | None = None) -> None:
    """Listen until told to stop (SIGINT, SIGTERM). ``ready`` is called with the address once it answers.

    Raises:
        BadConfig: not loopback and no token.
        OSError: the port is taken.
    """
    import socket

    import uvicorn

    rules = rules_of(workspace, host=host)
    rules.require_safe()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(2048)
    app = application(workspace, access=rules)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        http=protocol(),
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=64 * 1024,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=10,
        limit_concurrency=2000,
    )
    server = uvicorn.Server(config)
    # What is loaded stays; large answers are lists without cycles, which the collector need not walk again and again.
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    if ready is not None:
        ready(host, listener.getsockname()[1])
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
