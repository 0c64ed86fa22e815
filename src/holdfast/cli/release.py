"""``holdfast deploy``, ``release``, ``rollback``: traffic moves here, and nowhere else by hand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.group import Group
from holdfast.cli.output import emit, json_option, say

if TYPE_CHECKING:
    from holdfast.core.definitions import Service
    from holdfast.core.records import ModelVersion, Rollout
    from holdfast.workspace import Workspace


def declared_service(ws: Workspace, name: str) -> Service:
    """The service as the project's definitions say."""
    from holdfast.cli.loop import services_of

    return services_of(ws, (name,))[0]


def _service_of_model(ws: Workspace, version: ModelVersion, wanted: str | None) -> Service:
    from holdfast.core.errors import BadInput, NotFound

    if wanted:
        return declared_service(ws, wanted)
    found = [s for s in ws.project().services.values() if s.model.name == version.name]
    if not found:
        raise NotFound(f"no service of the project serves model {version.name!r}", hint="name one with --service")
    if len(found) > 1:
        raise BadInput(f"several services serve {version.name!r}", hint=f"choose one: --service {found[0].name}")
    return found[0]


@click.command()
@click.argument("version")
@click.option("--service", help="Which service, where several serve this model.")
@click.option(
    "--to",
    "goal",
    type=click.Choice(["staging", "production"]),
    default="production",
    show_default=True,
    help="How far.",
)
@click.option(
    "--env",
    "where",
    type=click.Choice(["here", "auto"]),
    help="Make the environment the model was made in where this one differs.  [default: serve.environment]",
)
@json_option
def deploy(version: str, service: str | None, goal: str, where: str | None, as_json: bool) -> None:
    """Bring VERSION (name@7, name@champion, name@latest) to staging, smoke-test it there, and start its rollout."""
    from holdfast.cli.serve import python_for
    from holdfast.core.errors import NotApproved
    from holdfast.lifecycle import adopt, rollouts, staged
    from holdfast.lifecycle import release as releasing
    from holdfast.registry import package as packages
    from holdfast.registry import versions
    from holdfast.serving import environment
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        found = versions.resolve(ws.ledger, version)
        adopt.require_package(ws, found)
        owner = _service_of_model(ws, found, service)
        now = ws.clock.now()
        if goal == "production" and _answers_already(ws, owner.name, found):
            there = {"version": f"{found.name}@{found.version}", "production": "already"}
            emit(there, as_json=as_json, text=lambda: click.echo(f"{there['version']}: in production already"))
            return
        if goal == "production":
            with ws.ledger.transaction() as tx:
                releasing.require_no_other(tx, owner.name)  # before staging is moved, too
            _fits_beside(ws, owner.name, found)
        package = packages.load(ws.objects, found.content)
        if (where or ws.settings.serve.environment) == "auto":
            python_for(ws, package)  # before anything moves: it may take minutes, or be impossible
        else:
            environment.check(package)
        say(f"staging {found.name}@{found.version} ({found.content[:12]}…)")
        staged.stage(ws, owner, found, at=now, reason="deploy")
        evidence = staged.smoke(ws, owner, found, at=now, where=where)
        problems = evidence.details["problems"]
        if problems:
            raise NotApproved(f"smoke test failed: {problems[0]}", hint="the staging server's log has the rest")
        say(f"smoke test passed: {evidence.n} golden rows")
        result: dict[str, Any] = {"version": f"{found.name}@{found.version}", "staging": "passed smoke"}
        rollout: Rollout | None = None
        if goal == "production":
            rollouts.begin(ws, owner, found, at=now)
            rollout = rollouts.advance(ws, owner, now=now)
            result["rollout"] = rollout
            if rollout is not None:
                say(f"rollout {rollout.status}: {rollout.reason or 'begun'}")
            if rollout is not None and rollout.status == "running":
                say(f"`holdfast loop run {owner.name}` moves it on; `holdfast release status {owner.name}` shows it")
    moving = goal == "production" and rollout is not None and rollout.status in ("running", "holding")
    end = f"rollout to production {rollout.status}" if moving and rollout is not None else goal
    emit(result, as_json=as_json, text=lambda: click.echo(f"{result['version']}: {end}"))


def _answers_already(ws: Workspace, service: str, version: ModelVersion) -> bool:
    """Whether exactly this is the champion, and nothing is under way that would change it."""
    from holdfast.lifecycle import release as releasing

    live, rollout = releasing.current(ws.ledger, service, "production"), releasing.rollout_of(ws.ledger, service)
    under_way = rollout is not None and rollout.status in ("running", "holding")
    return live is not None and live.champion is not None and live.champion.content == version.content and not under_way


def _fits_beside(ws: Workspace, service: str, version: ModelVersion) -> None:
    """Refuse a rollout whose challenger the champion's process could never load."""
    from holdfast.lifecycle import release as releasing
    from holdfast.registry import package as packages
    from holdfast.serving import environment

    live = releasing.current(ws.ledger, service, "production")
    if live is not None and live.champion is not None and live.champion.content != version.content:
        mine, theirs = (packages.load(ws.objects, c) for c in (version.content, live.champion.content))
        environment.together(mine, theirs)


class _Release(Group):
    """Loads the A/B commands when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), "abtest"]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name == "abtest":
            from holdfast.cli.abtest import abtest

            return abtest
        return super().get_command(ctx, name)


@click.group(cls=_Release)
def release() -> None:
    """Show and move traffic of a service."""


@release.command()
@click.argument("service")
@json_option
def status(service: str, as_json: bool) -> None:
    """Who answers for SERVICE, with which share, and where a rollout stands."""
    from holdfast.lifecycle import release as releasing
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as ws:
        declared_service(ws, service)
        live = releasing.current(ws.ledger, service, "production")
        staged = releasing.current(ws.ledger, service, "staging")
        rollout = releasing.rollout_of(ws.ledger, service)

    def text() -> None:
        click.echo(f"production  {releasing.describe(live)}")
        click.echo(f"staging     {releasing.describe(staged)}")
        if rollout is not None:
            step = rollout.plan[rollout.step]["step"] if rollout.step < len(rollout.plan) else "–"
            click.echo(f"rollout     @{rollout.version} {rollout.status} at {step}: {rollout.reason}")

    emit({"production": live, "staging": staged, "rollout": rollout}, as_json=as_json, text=text)


@release.command()
@click.argument("service")
@click.argument("percent", type=click.FloatRange(0, 100))
@click.option("--reason", default="by hand", show_default=True, help="Why; kept in the ledger.")
def weight(service: str, percent: float, reason: str) -> None:
    """Give the running challenger of SERVICE this share of traffic."""
    from holdfast.lifecycle import release as releasing
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        moved = releasing.set_weight(ws, declared_service(ws, service), percent, at=ws.clock.now(), reason=reason)
        click.echo(releasing.describe(moved))


@release.command()
@click.argument("service")
@click.argument("replicas", type=click.IntRange(1, 64))
@click.option(
    "--environment",
    type=click.Choice(["production", "staging"]),
    default="production",
    show_default=True,
    help="Which of its servers.",
)
@click.option("--reason", default="by hand", show_default=True, help="Why; kept in the ledger.")
@click.option("--timeout", type=float, default=90.0, show_default=True, help="Seconds to wait for it.")
def scale(service: str, replicas: int, environment: str, reason: str, timeout: float) -> None:
    """Change how many replicas of SERVICE `holdfast serve` runs on this machine; nobody's request is dropped."""
    from holdfast.core import files
    from holdfast.core.errors import Refused, Unavailable
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as ws:
        before = _serving(ws, service, environment)
        if len(before["replicas"]) == 1 and not before.get("balanced", False):
            if replicas == 1:
                click.echo("1 replica")
                return
            raise Refused(
                f"the one replica of {service!r} takes the address itself: nothing stands in front of it to share requests",
                hint="start it with `--replicas 2` or more; it can then be scaled while it runs",
            )
        ws.ledger.append(
            "release.scaled", subject=service, at=ws.clock.now(), actor=ws.actor,
            body={"environment": environment, "from": len(before["replicas"]), "to": replicas, "reason": reason},
        )  # fmt: skip
        files.write(ws.path("run", f"{service}-{environment}.replicas"), str(replicas).encode())
        end = time.monotonic() + timeout
        while len(now := _serving(ws, service, environment)["replicas"]) != replicas:
            if time.monotonic() > end:
                raise Unavailable(f"there are {len(now)} replicas after {timeout:g} s", hint="see the server's log")
            time.sleep(0.05)
    click.echo(f"{replicas} replica{'s' if replicas > 1 else ''}")


def _serving(ws: Workspace, service: str, environment: str) -> dict[str, Any]:
    """What a `holdfast serve` of this project wrote about itself."""
    import msgspec

    from holdfast.core.errors import Unavailable

    try:
        found: dict[str, Any] = msgspec.json.decode(ws.path("run", f"{service}-{environment}.json").read_bytes())
    except FileNotFoundError:
        raise Unavailable(
            f"{service!r} is not being served here", hint=f"start it with `holdfast serve {service}`"
        ) from None
    return found


@release.command()
@click.argument("service")
@click.option("--reason", default="by hand", show_default=True, help="Why; kept in the ledger.")
def promote(service: str, reason: str) -> None:
    """Make the running challenger of SERVICE its champion now."""
    from holdfast.lifecycle import rollouts
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        rollout = rollouts.end(ws, declared_service(ws, service), "promote", at=ws.clock.now(), reason=reason)
        click.echo(f"{rollout.model}@{rollout.version} {rollout.status}")


@release.command()
@click.argument("service")
@click.option("--reason", default="by hand", show_default=True, help="Why; kept in the ledger.")
def abort(service: str, reason: str) -> None:
    """End the running rollout of SERVICE; all traffic goes back to the champion."""
    from holdfast.lifecycle import rollouts
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        rollout = rollouts.end(ws, declared_service(ws, service), "abort", at=ws.clock.now(), reason=reason)
        click.echo(f"{rollout.model}@{rollout.version} {rollout.status}")


def _rollback(service: str, reason: str, as_json: bool) -> None:
    from holdfast.lifecycle import release as releasing
    from holdfast.lifecycle import way_back
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        moved = way_back.rollback(ws, service, at=ws.clock.now(), reason=reason)
    emit(moved, as_json=as_json, text=lambda: click.echo(releasing.describe(moved)))


@release.command("rollback")
@click.argument("service")
@click.option("--reason", default="by hand", show_default=True, help="Why; kept in the ledger.")
@json_option
def release_rollback(service: str, reason: str, as_json: bool) -> None:
    """Give traffic of SERVICE back: end a rollout, else return to the champion before."""
    _rollback(service, reason, as_json)


@click.command()
@click.argument("service")
@click.option("--reason", default="by hand", show_default=True, help="Why; kept in the ledger.")
@json_option
def rollback(service: str, reason: str, as_json: bool) -> None:
    """Give traffic of SERVICE back to the last good release at once (the same as `release rollback`)."""
    _rollback(service, reason, as_json)
