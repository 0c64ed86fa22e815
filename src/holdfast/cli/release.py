"""``holdfast deploy``, ``release``, ``rollback``: traffic moves here, and nowhere else by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.output import emit, json_option, say

if TYPE_CHECKING:
    from holdfast.core.definitions import Service
    from holdfast.core.records import ModelVersion
    from holdfast.workspace import Workspace


def _service(ws: Workspace, name: str) -> Service:
    from holdfast.cli.loop import services_of

    return services_of(ws, (name,))[0]


def _service_of_model(ws: Workspace, version: ModelVersion, wanted: str | None) -> Service:
    from holdfast.core.errors import BadInput, NotFound

    if wanted:
        return _service(ws, wanted)
    found = [s for s in ws.project().services.values() if s.model.name == version.name]
    if not found:
        raise NotFound(f"no service of the project serves model {version.name!r}", hint="name one with --service")
    if len(found) > 1:
        raise BadInput(f"several services serve {version.name!r}", hint=f"choose one: --service {found[0].name}")
    return found[0]


@click.command()
@click.argument("version")
@click.option("--service", help="Which service, where several serve this model.")
@click.option("--to", "goal", type=click.Choice(["staging", "production"]), default="production", show_default=True)
@json_option
def deploy(version: str, service: str | None, goal: str, as_json: bool) -> None:
    """Bring VERSION (name@7, name@champion, name@latest) to staging, smoke-test it there, and start its rollout."""
    from holdfast.core.errors import NotApproved
    from holdfast.lifecycle import release as releasing
    from holdfast.registry import versions
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        found = versions.resolve(ws.ledger, version)
        owner = _service_of_model(ws, found, service)
        now = ws.clock.now()
        say(f"staging {found.name}@{found.version} ({found.content[:12]}…)")
        releasing.stage(ws, owner, found, at=now, reason="deploy")
        evidence = releasing.smoke(ws, owner, found, at=now)
        problems = evidence.details["problems"]
        if problems:
            raise NotApproved(f"smoke test failed: {problems[0]}", hint="the staging server's log has the rest")
        say(f"smoke test passed: {evidence.n} golden rows")
        result: dict[str, Any] = {"version": f"{found.name}@{found.version}", "staging": "passed smoke"}
        if goal == "production":
            releasing.begin(ws, owner, found, at=now)
            rollout = releasing.advance(ws, owner, now=now)
            result["rollout"] = rollout
            if rollout is not None:
                say(f"rollout {rollout.status}: {rollout.reason or 'begun'}")
            if rollout is not None and rollout.status == "running":
                say(f"`holdfast loop run {owner.name}` moves it on; `holdfast release status {owner.name}` shows it")
    emit(result, as_json=as_json, text=lambda: click.echo(f"{result['version']}: {goal}"))


@click.group()
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
        _service(ws, service)
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
@click.option("--reason", default="by hand", show_default=True)
def weight(service: str, percent: float, reason: str) -> None:
    """Give the running challenger of SERVICE this share of traffic."""
    from holdfast.lifecycle import release as releasing
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        moved = releasing.set_weight(ws, _service(ws, service), percent, at=ws.clock.now(), reason=reason)
        click.echo(releasing.describe(moved))


@release.command()
@click.argument("service")
@click.option("--reason", default="by hand", show_default=True)
def promote(service: str, reason: str) -> None:
    """Make the running challenger of SERVICE its champion now."""
    from holdfast.lifecycle import release as releasing
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        rollout = releasing.end(ws, _service(ws, service), "promote", at=ws.clock.now(), reason=reason)
        click.echo(f"{rollout.model}@{rollout.version} {rollout.status}")


@release.command()
@click.argument("service")
@click.option("--reason", default="by hand", show_default=True)
def abort(service: str, reason: str) -> None:
    """End the running rollout of SERVICE; all traffic goes back to the champion."""
    from holdfast.lifecycle import release as releasing
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        rollout = releasing.end(ws, _service(ws, service), "abort", at=ws.clock.now(), reason=reason)
        click.echo(f"{rollout.model}@{rollout.version} {rollout.status}")


def _rollback(service: str, reason: str, as_json: bool) -> None:
    from holdfast.lifecycle import release as releasing
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        moved = releasing.rollback(ws, service, at=ws.clock.now(), reason=reason)
    emit(moved, as_json=as_json, text=lambda: click.echo(releasing.describe(moved)))


@release.command("rollback")
@click.argument("service")
@click.option("--reason", default="by hand", show_default=True)
@json_option
def release_rollback(service: str, reason: str, as_json: bool) -> None:
    """Give traffic of SERVICE back: end a rollout, else return to the champion before."""
    _rollback(service, reason, as_json)


@click.command()
@click.argument("service")
@click.option("--reason", default="by hand", show_default=True)
@json_option
def rollback(service: str, reason: str, as_json: bool) -> None:
    """Give traffic of SERVICE back to the last good release at once (the same as `release rollback`)."""
    _rollback(service, reason, as_json)
