"""``holdfast loop``: the controller process, one tick, the cycles so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from holdfast.cli.group import Group
from holdfast.cli.output import emit, json_option, say, table

if TYPE_CHECKING:
    from holdfast.core.definitions import Service
    from holdfast.workspace import Workspace


@click.group(cls=Group)
def loop() -> None:
    """The automatic loop: monitors, retraining, rollouts."""


def services_of(ws: Workspace, names: tuple[str, ...]) -> list[Service]:
    """The named services of the project, or all of them; none is enough where a view has a schedule."""
    from holdfast.core.errors import NotFound
    from holdfast.lifecycle import scheduled

    project = ws.project()
    known = project.services
    for name in names:
        if name not in known:
            raise NotFound.among("service", name, known)
    if not known and not scheduled.of(project):
        raise NotFound("the project declares no service", hint="add an hf.Service to its definitions")
    return [known[n] for n in (names or known)]


@loop.command()
@click.argument("services", nargs=-1)
@click.option("--poll", type=click.FloatRange(0.05), default=5.0, show_default=True, help="Seconds between ticks.")
@click.option("--once", is_flag=True, help="One tick, then end.")
@json_option
def run(services: tuple[str, ...], poll: float, once: bool, as_json: bool) -> None:
    """Tick SERVICES (all of the project by default) until told to stop; a second controller stands by."""
    import signal
    import threading

    from holdfast.core.identity import new_id
    from holdfast.lifecycle import loop as looping
    from holdfast.lifecycle import scheduled
    from holdfast.workspace import Workspace

    def tell(stage: str, message: str) -> None:
        say(f"{stage:>9}  {message}")

    with Workspace.open() as ws:
        wanted = services_of(ws, services)
        views = scheduled.of(ws.project())
        if once:
            holder = f"{ws.actor}/{new_id()}"
            done = looping.materialize(ws, views, now=ws.clock.now(), holder=holder, tell=tell)
            done += [looping.tick(ws, s, now=ws.clock.now(), holder=holder, tell=tell) for s in wanted]
            emit(done, as_json=as_json, text=lambda: None)
            return
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        looping.run(ws, wanted, views=views, poll=poll, tell=tell, stop=stop.is_set)


@loop.command("cycles")
@click.argument("service", required=False)
@json_option
def list_cycles(service: str | None, as_json: bool) -> None:
    """List the cycles of SERVICE (of all by default): why each ran and how it ended."""
    from holdfast.core.identity import iso
    from holdfast.lifecycle import loop as looping
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as ws:
        found = looping.cycles(ws.ledger, service)
        if service and not found:
            services_of(ws, (service,))
    rows = [(c.id[:10], c.service, iso(c.started), c.order.trigger, c.version, c.status, c.reason[:70]) for c in found]
    emit(
        found,
        as_json=as_json,
        text=lambda: table(["cycle", "service", "began", "trigger", "version", "status", "reason"], rows),
    )


@loop.command()
@click.argument("service")
@click.option("--reason", default="asked by hand", show_default=True, help="Why; kept in the ledger.")
def order(service: str, reason: str) -> None:
    """Order a retraining of SERVICE now; the controller takes it up."""
    from holdfast.lifecycle import loop as looping
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        services_of(ws, (service,))
        placed = looping.order_now(ws, service, reason=reason, at=ws.clock.now())
    click.echo(placed.id)
