"""A replica as a process: the workspace's ports handed to ``serving.replica``. Started by ``holdfast serve``.

Needs the release file, the object store and, where the service has features, the online store; neither the ledger nor
the control plane.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from holdfast.core.errors import Unavailable
from holdfast.core.records import Arm, LabelRecord, Release
from holdfast.protocols.mlflow import invocations
from holdfast.protocols.oip import routes as oip
from holdfast.server import guard as listening
from holdfast.server import logs
from holdfast.server.access import Access, Role, Token
from holdfast.serving import environment, limits, multistep, release_file, tracing
from holdfast.serving.journal import Journal
from holdfast.serving.model import Loaded
from holdfast.serving.predict import Options
from holdfast.serving.replica import Replica, stamp_of
from holdfast.serving.wire import Request, Response
from holdfast.workspace import Workspace

if TYPE_CHECKING:
    from holdfast.monitoring.labels import LabelStore


class ReplicaConfig(msgspec.Struct, kw_only=True):
    """What a replica process is told, as JSON in its only argument. ``listen`` is ``fd:N`` or ``unix:PATH``; ``tokens`` are
    those of the settings, the issued ones are read from the workspace."""

    project: str
    service: str
    environment: str
    name: str
    listen: str
    lifeline: int | None = None
    replay: bool = False
    log: Literal["durable", "buffered"] = "durable"
    deadline: float = 30.0
    max_rows: int = 100_000
    tokens: list[Token] = []
    hosts: list[str] = []
    bind: str = "127.0.0.1"
    guarded: bool = True
    steps: bool = False
    traces: str = ""
    memory: int | None = None


def role_of(method: str, path: str) -> Role | None:
    """The role a data plane route needs; liveness needs none."""
    if path.startswith(("/health/", "/v2/health/")):
        return None
    if path == "/labels":
        return "write"
    if path in ("/metrics", "/release", "/openapi.json"):
        return "read"
    return "predict"


def guard(access: Access) -> Callable[[Request], Response | None]:
    """``access`` as the guard of a replica's or balancer's listener."""
    return listening.guard(access, role_of)


def loader(workspace: Workspace, *, threads: int = 1) -> Callable[[Arm], Loaded]:
    """Fetch a version from the object store by content, verify, unpack, load."""

    def load(arm: Arm) -> Loaded:
        from holdfast import formats
        from holdfast.registry import package as packages

        package = packages.load(workspace.objects, arm.content)
        environment.check(package)
        folder = packages.unpack(workspace.objects, package, workspace.path("packages", arm.content))
        vouched = packages.vouched(package, folder, workspace.secret("package"))
        if package.format == "pickle":
            from holdfast.core.project import importable

            importable(workspace.root)
        predictor = formats.load(folder, package, threads=threads, trusted=vouched)
        lookup = None
        if package.plan is not None:
            from holdfast.features.lookup import Lookup

            try:
                lookup = Lookup(package.plan, workspace.online)
            except OSError as problem:
                raise Unavailable(
                    f"the online store cannot be opened ({problem}), and the model has features",
                    hint="name one that can: HOLDFAST_ONLINE_URL=redis://…",
                ) from None
        golden: list[dict[str, Any]] = []
        if package.golden_file is not None:
            golden = msgspec.json.decode((folder / package.golden_file).read_bytes())["rows"]
        return Loaded(
            version=arm.version, content=arm.content, package=package, predictor=predictor, lookup=lookup, golden=golden
        )

    return load


def build(workspace: Workspace, config: ReplicaConfig) -> Replica:
    """A replica over a workspace's ports."""
    key = workspace.secret("release")
    releases = workspace.path("releases", ".")

    def read() -> Release | None:
        return release_file.read(releases, config.service, config.environment, key)

    @cache
    def labels() -> LabelStore:
        from holdfast.monitoring.labels import LabelStore

        return LabelStore(workspace.path("labels", config.service))

    def keep_labels(records: list[LabelRecord]) -> None:
        labels().append(records)

    access = Access(
        tokens=config.tokens, hosts=config.hosts, bind=config.bind, source=workspace.path("keys", "tokens.json")
    )
    replica = Replica(
        service=config.service,
        environment=config.environment,
        name=config.name,
        release=read,
        stamp=stamp_of(release_file.path(releases, config.service, config.environment)),
        load=loader(workspace),
        journal=Journal(workspace.path("predictions", config.service), mode=config.log, replica=config.name),
        now=workspace.clock.now,
        labels=keep_labels,
        guard=guard(access) if config.guarded else None,
        secret=lambda: workspace.secret("redaction"),
        memory=config.memory,
        tracing=tracing.to_collector(
            config.traces, service=config.service, environment=config.environment, replica=config.name
        )
        if config.traces
        else None,
        options=Options(
            replay=config.replay, balanced=not config.guarded, deadline=config.deadline, max_rows=config.max_rows
        ),
    )
    oip.mount(replica)
    invocations.mount(replica)
    if config.steps:
        multistep.mount(replica, workspace.project().steps[config.service])
    return replica


async def serve(config: ReplicaConfig) -> None:
    """Run one replica until it is told to stop."""
    if config.memory is not None:
        limits.enforce(config.memory)
    with Workspace.open(Path(config.project)) as workspace:
        replica = build(workspace, config)
        kind, _, where = config.listen.partition(":")
        place: socket.socket | Path
        if kind == "fd":
            place = socket.socket(fileno=int(where))
            place.setblocking(False)
        else:
            place = Path(where)
        await replica.run(place, lifeline=config.lifeline, on_ready=_keep)


def _keep() -> None:
    """What is loaded stays: the collector need not walk it again and again, 20 ms at a time, while callers wait."""
    gc.collect()
    gc.freeze()


def main(argv: list[str] | None = None) -> None:
    """``python -m holdfast.server.dataplane JSON``."""
    arguments = sys.argv[1:] if argv is None else argv
    logs.begin()
    config = msgspec.json.decode(arguments[0], type=ReplicaConfig)
    # A thread that loads a version hands the interpreter back to the event loop ten times sooner than by default: else
    # each turn of the loop waits 5 ms for it.
    sys.setswitchinterval(5e-4)
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(config))
    else:
        uvloop.run(serve(config))


if __name__ == "__main__":
    main()
