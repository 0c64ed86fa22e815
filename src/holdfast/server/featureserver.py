"""The feature server as a process: the workspace's online store, Feast's routes, access control, uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core import files
from holdfast.features import view as view_module
from holdfast.features.push import Pusher
from holdfast.lifecycle import ingest, live
from holdfast.protocols.feast import routes
from holdfast.server import access, patience

if TYPE_CHECKING:
    from holdfast.core.ports import Progress
    from holdfast.core.records import Json
    from holdfast.workspace import Workspace

DEFAULT_PORT = 6566


def role_of(method: str, path: str) -> access.Role | None:
    """What a call needs: health needs nothing, reads need read, the rest write."""
    if path == "/health":
        return None
    return "read" if path == "/get-online-features" else "write"


def build(workspace: Workspace, *, read_only: bool = False) -> tuple[Any, Pusher | None]:
    """The application and the pusher it owns (close it when done).

    Raises:
        Conflict: another process pushes here.
    """
    project = workspace.project()
    views = ingest.all_views(project)
    live.refresh(workspace)
    every = view_module.live_views(workspace.ledger, views)
    pusher = None if read_only else Pusher(workspace.home, workspace.online, every)

    async def bring(start: int | None, end: int, names: Sequence[str] | None) -> None:
        await asyncio.to_thread(ingest.materialize, workspace, start=start, end=end, names=names)

    application = routes.app(
        workspace.online, views=views, services=project.feature_services, pusher=pusher,
        materialize=None if read_only else bring, clock=workspace.clock.now,
    )  # fmt: skip
    return application, pusher


def rebuild(workspace: Workspace, *, end: int, progress: Progress | None = None) -> Json:
    """Forget everything online and fill it from what is durable: the admitted files, then the push journal.

    Raises:
        Conflict: a feature server or another pusher is running.
    """
    project_views = ingest.all_views(workspace.project())
    live.refresh(workspace)
    every = view_module.live_views(workspace.ledger, project_views)
    with Pusher(workspace.home, workspace.online, every):
        pass  # nobody else pushes here; a store that cannot be opened has said so
    workspace.online.clear()
    with Pusher(workspace.home, workspace.online, every) as pusher:
        pushes = pusher.replayed
        found = ingest.materialize(workspace, start=None, end=end, progress=progress)
    made_good = getattr(workspace.online, "made_good", None)
    if made_good is not None:
        made_good()
    return {"views": len(found), "pushes": pushes}


def mend(workspace: Workspace) -> Json | None:
    """Fill an online store that was found torn and set aside when it was opened; None where all is well."""
    if not getattr(workspace.online, "discarded", None):
        return None
    return rebuild(workspace, end=workspace.clock.now())


def run(workspace: Workspace, *, host: str | None, port: int | None, read_only: bool = False) -> None:
    """Serve until told to stop."""
    import click
    import uvicorn

    settings = workspace.settings.features
    bind = host or settings.host
    guard = access.Access(
        tokens=[access.of(settings.token)] if settings.token else [], hosts=settings.hosts, bind=bind,
        source=workspace.path("keys", "tokens.json"),
    )  # fmt: skip
    guard.require_safe()
    if not read_only and (mended := mend(workspace)) is not None:
        click.echo(
            f"the online store was torn; filled again: {mended['views']} views, {mended['pushes']} pushes", err=True
        )
    application, pusher = build(workspace, read_only=read_only)
    guarded = access.AccessMiddleware(application, access=guard, role_of=role_of)

    async def patient(scope: Any, receive: Any, send: Any) -> None:
        await guarded(scope, patience.paced(receive) if scope["type"] == "http" else receive, send)

    config = uvicorn.Config(
        patient, host=bind, port=port if port is not None else settings.port, log_level="warning", access_log=False,
        server_header=False, timeout_keep_alive=75, timeout_graceful_shutdown=10, http=patience.protocol(),
    )  # fmt: skip
    try:
        _run(_serve(uvicorn.Server(config), bind, workspace.path("run", "features.json")))
    finally:
        if pusher is not None:
            pusher.close()


def _run(serving: Coroutine[Any, Any, None]) -> None:
    """On uvloop where there is one: twice the requests, and no answer waits for the acknowledgement of its head."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        asyncio.run(serving)
    else:
        uvloop.run(serving)


async def _serve(server: Any, host: str, about: Path) -> None:
    import os
    import socket

    import click
    import msgspec

    sockets: Sequence[Any] = [server.config.bind_socket()]
    sockets[0].setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )  # inherited; asyncio sets it only where it made the socket
    sockets[0].listen(2048)  # from here on callers wait instead of being refused
    port = sockets[0].getsockname()[1]
    click.echo(f"features on http://{host}:{port}", err=True)
    files.write(about, msgspec.json.encode({"address": f"http://{host}:{port}", "pid": os.getpid()}))
    await server.serve(sockets=list(sockets))
