"""The feature server as a process: the workspace's online store, Feast's routes, access control, one listener.

It begins with the definitions as they are in the project, and follows what is applied while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.core import files
from holdfast.core.errors import BadInput, Unavailable
from holdfast.features import view as view_module
from holdfast.features.push import Pusher
from holdfast.lifecycle import ingest, live
from holdfast.protocols.feast.routes import LIMITS, Definitions, FeatureServer
from holdfast.server import access
from holdfast.server.guard import guard as guard_of
from holdfast.serving.wire import Listener

if TYPE_CHECKING:
    from holdfast.core.definitions import FeatureView
    from holdfast.core.ports import Progress
    from holdfast.core.records import Json
    from holdfast.workspace import Workspace

DEFAULT_PORT = 6566
PUSHES_AT_ONCE = 32
LOOK_EVERY = 1.0
"""Seconds between two looks at what is applied, and at whether pushed rows are to be landed."""
log = logging.getLogger("holdfast.features.server")


def role_of(method: str, path: str) -> access.Role | None:
    """What a call needs: health needs nothing, reads need read, the rest write."""
    if path == "/health":
        return None
    return "read" if path in ("/get-online-features", "/metrics") else "write"


class Applied:
    """What is applied, as of now. Made before the project's definitions are read, so that nothing falls in between."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._tip = workspace.ledger.state_tip()
        self._seen = self._read()
        self._now = Definitions({}, {})
        self._pusher: Pusher | None = None

    def begin(self, definitions: Definitions, pusher: Pusher | None) -> None:
        """Go on from these."""
        self._now, self._pusher = definitions, pusher

    def newer(self) -> Definitions | None:
        """The definitions that were applied since the last time, pushed rows included and ready to be read; None where
        nothing changed. For one thread at a time.

        Raises:
            BadData: rows pushed before do not fit a new view; everything is as it was.
        """
        tip = self._workspace.ledger.state_tip()
        if tip == self._tip:
            return None
        found = self._read()
        newer = self._now
        if found != self._seen:
            if found[0] != self._seen[0]:
                newer = self._definitions(found[0])
            if self._pusher is not None:  # before anybody can read them
                try:
                    self._pusher.follow(view_module.live_views(self._workspace.ledger, newer.views))
                except BadInput:
                    self._tip = tip  # it would be the same the next time; other definitions may do
                    raise
        changed = newer is not self._now
        self._now, self._seen, self._tip = newer, found, tip
        return newer if changed else None

    def _read(self) -> tuple[dict[str, Json], dict[str, Json]]:
        ledger = self._workspace.ledger
        return dict(ledger.scan(view_module.TABLE)), dict(ledger.scan(view_module.LIVE))

    def _definitions(self, rows: dict[str, Json]) -> Definitions:
        views: dict[str, FeatureView] = {}
        plans: dict[str, Json] = {}
        for key, row in rows.items():
            kind, _, name = key.partition("/")
            if row.get("removed"):
                continue
            if kind == "view":
                views[name] = view_module.from_spec(row["spec"])
            elif "plan" in row:
                plans[name] = row["plan"]
            elif name in self._now.plans and self._now.plans[name]["version"] == row["version"]:
                plans[name] = self._now.plans[name]  # applied before plans were kept with it
        return Definitions(views, plans)


def build(
    workspace: Workspace, *, read_only: bool = False, rules: access.Access | None = None
) -> tuple[FeatureServer, Pusher | None]:
    """The server and the pusher it owns (close it when done). Without ``rules`` everybody may do everything.

    Raises:
        Conflict: another process pushes here.
    """
    applied = Applied(workspace)
    project = workspace.project()
    views = ingest.all_views(project)
    definitions = Definitions.of(views, project.feature_services)
    live.refresh(workspace)
    every = view_module.live_views(workspace.ledger, views)
    pusher = None if read_only else Pusher(workspace.home, workspace.online, every)

    applied.begin(definitions, pusher)

    async def bring(start: int | None, end: int, names: Sequence[str] | None) -> None:
        await asyncio.to_thread(ingest.materialize, workspace, start=start, end=end, names=names)

    server = FeatureServer(
        workspace.online, definitions, pusher=pusher, materialize=None if read_only else bring, clock=workspace.clock.now,
        newer=applied.newer, guard=None if rules is None else guard_of(rules, role_of),
    )  # fmt: skip
    return server, pusher


def rebuild(workspace: Workspace, *, end: int, progress: Progress | None = None) -> Json:
    """Forget everything online and fill it from what is durable: the admitted files, then the push journal.

    Raises:
        Conflict: a feature server or another pusher is running.
    """
    every = live.views(workspace)
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

    settings = workspace.settings.features
    bind = host or settings.host
    rules = access.Access(
        tokens=[access.of(settings.token)] if settings.token else [], hosts=settings.hosts, bind=bind,
        source=workspace.path("keys", "tokens.json"),
    )  # fmt: skip
    rules.require_safe()
    if not read_only and (mended := mend(workspace)) is not None:
        click.echo(
            f"the online store was torn; filled again: {mended['views']} views, {mended['pushes']} pushes", err=True
        )
    server, pusher = build(workspace, read_only=read_only, rules=rules)
    try:
        with _listening(bind, port if port is not None else settings.port) as place:
            address = f"http://{bind}:{place.getsockname()[1]}"
            click.echo(f"features on {address}", err=True)
            about = msgspec.json.encode({"address": address, "pid": os.getpid()})
            files.write(workspace.path("run", "features.json"), about)
            _run(_serve(server, place, pusher))
    finally:
        if pusher is not None:
            pusher.close()


def _run(serving: Coroutine[Any, Any, None]) -> None:
    """On uvloop where there is one: twice the requests."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        asyncio.run(serving)
    else:
        uvloop.run(serving)


def _listening(host: str, port: int) -> socket.socket:
    """A socket on which callers wait from here on instead of being refused.

    Raises:
        Unavailable: the address cannot be listened on.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        place = socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        raise Unavailable(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint="stop what listens there, or choose another --port",
        ) from None
    place.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by its connections
    place.setblocking(False)
    return place


async def _serve(server: FeatureServer, place: socket.socket, pusher: Pusher | None) -> None:
    loop = asyncio.get_running_loop()
    # a push waits in a thread for its fsync, which all that wait share
    loop.set_default_executor(ThreadPoolExecutor(PUSHES_AT_ONCE, thread_name_prefix="features"))
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    async def tend() -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await server.renew()
            if pusher is not None and pusher.behind:
                with contextlib.suppress(Unavailable):  # who pushed was told
                    await asyncio.to_thread(pusher.catch_up)
            if pusher is not None and pusher.full:
                try:
                    await asyncio.to_thread(pusher.land)
                except Exception:  # the journal keeps what could not be landed
                    log.exception("pushed rows could not be landed")

    tending = loop.create_task(tend())
    listener = Listener(server.handle, limits=LIMITS, on_refused=server.counts.refuse)
    listener.start()
    accepting = await loop.create_server(listener.connection, sock=place, backlog=2048)
    await stopping.wait()
    accepting.close()
    await listener.drain()
    tending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await tending
