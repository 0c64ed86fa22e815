"""The feature server as a process: the workspace's online store, Feast's routes, access control, uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from holdfast.features import view as view_module
from holdfast.features.push import Pusher
from holdfast.protocols.feast import routes
from holdfast.server import access

if TYPE_CHECKING:
    from holdfast.core.definitions import FeatureView, Project
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
    views = all_views(project)
    every = view_module.live_views(workspace.ledger, views)
    pusher = None if read_only else Pusher(workspace.home, workspace.online, every)
    application = routes.app(
        workspace.online, views=views, services=project.feature_services, pusher=pusher, clock=workspace.clock.now
    )
    return application, pusher


def all_views(project: Project) -> dict[str, FeatureView]:
    """Every view of a project, those that only a service names included."""
    return {**{v.name: v for s in project.feature_services.values() for v in s.views}, **project.views}


def run(workspace: Workspace, *, host: str | None, port: int | None, read_only: bool = False) -> None:
    """Serve until told to stop."""
    import uvicorn

    settings = workspace.settings.features
    bind = host or settings.host
    tokens = access.load(workspace.path("keys", "tokens.json"))
    if settings.token:
        tokens.append(access.of(settings.token))
    guard = access.Access(tokens=tokens, hosts=settings.hosts, bind=bind)
    guard.require_safe()
    application, pusher = build(workspace, read_only=read_only)
    guarded = access.AccessMiddleware(application, access=guard, role_of=role_of)
    config = uvicorn.Config(
        guarded, host=bind, port=port if port is not None else settings.port, log_level="warning", access_log=False,
        server_header=False, timeout_keep_alive=75, timeout_graceful_shutdown=10,
    )  # fmt: skip
    try:
        asyncio.run(_serve(uvicorn.Server(config), bind))
    finally:
        if pusher is not None:
            pusher.close()


async def _serve(server: Any, host: str) -> None:
    import click

    sockets: Sequence[Any] = [server.config.bind_socket()]
    port = sockets[0].getsockname()[1]
    click.echo(f"features on http://{host}:{port}", err=True)
    await server.serve(sockets=list(sockets))
