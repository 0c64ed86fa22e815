"""The feature server as a process: the workspace's online store, Feast's routes, access control, uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from holdfast.core import files
from holdfast.core.errors import NotFound
from holdfast.data import collect
from holdfast.features import materialize as materialize_module
from holdfast.features import parity
from holdfast.features import view as view_module
from holdfast.features.push import Pusher, landed
from holdfast.protocols.feast import routes
from holdfast.registry import versions
from holdfast.registry.package import load as load_package
from holdfast.server import access
from holdfast.serving import journal

if TYPE_CHECKING:
    from holdfast.core.definitions import FeatureView, Project, Source
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
    views = all_views(project)
    every = view_module.live_views(workspace.ledger, views)
    pusher = None if read_only else Pusher(workspace.home, workspace.online, every)

    async def bring(start: int | None, end: int, names: Sequence[str] | None) -> None:
        await asyncio.to_thread(materialize, workspace, start=start, end=end, names=names)

    application = routes.app(
        workspace.online, views=views, services=project.feature_services, pusher=pusher,
        materialize=None if read_only else bring, clock=workspace.clock.now,
    )  # fmt: skip
    return application, pusher


def source_tables(workspace: Workspace, sources: Iterable[Source]) -> dict[str, list[Path]]:
    """The files of each source: its own, and what was pushed to it.

    Raises:
        NotFound: a source has neither.
    """
    out: dict[str, list[Path]] = {}
    for source in sources:
        pushed = landed(workspace.home, source.name)
        try:
            own = collect.files(workspace.root, source)
        except NotFound:
            if not pushed:
                raise
            own = []
        out[source.name] = [*own, *pushed]
    return out


def materialize(
    workspace: Workspace,
    *,
    start: int | None,
    end: int,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[Json]:
    """Bring views (all by default) from their sources into the online store. Safe beside a running feature server.

    Raises:
        NotFound: no such view, or a source without data.
    """
    views = all_views(workspace.project())
    for name in names or ():
        if name not in views:
            raise NotFound.among("feature view", name, views)
    chosen = [view for name, view in views.items() if not names or name in names]
    tables = source_tables(workspace, {v.source.name: v.source for v in chosen}.values())
    return materialize_module.run(
        workspace.online, workspace.engine, chosen, tables, start=start, end=end, progress=progress
    )


def rebuild(workspace: Workspace, *, end: int, progress: Progress | None = None) -> Json:
    """Forget everything online and fill it from what is durable: the admitted files, then the push journal.

    Raises:
        Conflict: a feature server or another pusher is running.
    """
    project_views = all_views(workspace.project())
    every = view_module.live_views(workspace.ledger, project_views)
    with Pusher(workspace.home, workspace.online, every):
        pass  # nobody else pushes here; a store that cannot be opened has said so
    workspace.online.clear()
    with Pusher(workspace.home, workspace.online, every) as pusher:
        pushes = pusher.replayed
        found = materialize(workspace, start=None, end=end, progress=progress)
    return {"views": len(found), "pushes": pushes}


def verify(
    workspace: Workspace,
    service: str,
    *,
    since: int | None,
    until: int | None,
    environment: str,
    tolerance: float = 1e-9,
) -> list[Json]:
    """Parity of everything a service served, each model version by the plan in its own package.

    Raises:
        NotFound: no such service, or a version whose package is gone.
    """
    project = workspace.project()
    if service not in project.services:
        raise NotFound.among("service", service, project.services)
    model = project.services[service].model
    log = journal.read(workspace.path("predictions", service), since=since, until=until, environment=environment)
    views = all_views(project)
    tables = source_tables(workspace, {v.source.name: v.source for v in views.values()}.values())
    reports = []
    for number in pc.unique(log.column("version")).to_pylist() if log.num_rows else []:
        package = load_package(workspace.objects, versions.get(workspace.ledger, model.name, number).content)
        if package.plan is not None:
            rows = log.filter(pc.equal(log.column("version"), number))
            reports.append(parity.verify(workspace.engine, package.plan, rows, tables, tolerance=tolerance))
    return parity.merge(reports)


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
        asyncio.run(_serve(uvicorn.Server(config), bind, workspace.path("run", "features.json")))
    finally:
        if pusher is not None:
            pusher.close()


async def _serve(server: Any, host: str, about: Path) -> None:
    import os

    import click
    import msgspec

    sockets: Sequence[Any] = [server.config.bind_socket()]
    sockets[0].listen(2048)  # from here on callers wait instead of being refused
    port = sockets[0].getsockname()[1]
    click.echo(f"features on http://{host}:{port}", err=True)
    files.write(about, msgspec.json.encode({"address": f"http://{host}:{port}", "pid": os.getpid()}))
    await server.serve(sockets=list(sockets))
