"""``holdfast status``: what is live, what is running, what needs you."""

from __future__ import annotations

from typing import Any

import click

from holdfast.cli.output import emit, json_option, table


@click.command()
@json_option
def status(as_json: bool) -> None:
    """What is live, what is running, what needs you. Exits with 1 while an incident is open."""
    from holdfast.core.errors import NotFound
    from holdfast.core.identity import iso
    from holdfast.lifecycle import loop, release
    from holdfast.monitoring import alerts
    from holdfast.registry import versions, waivers
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as ws:
        try:
            names = sorted(ws.project().services)
        except NotFound:
            names = []
        services: list[dict[str, Any]] = []
        for name in names:
            live = release.current(ws.ledger, name, "production")
            rollout = release.rollout_of(ws.ledger, name)
            cycles = loop.cycles(ws.ledger, name)
            services.append({
                "service": name,
                "production": release.describe(live),
                "approved": _approved(ws, name),
                "rollout": f"@{rollout.version} {rollout.status}" if rollout else None,
                "last_cycle": ": ".join(filter(None, (cycles[-1].status, cycles[-1].reason))) if cycles else None,
            })  # fmt: skip
        models: list[dict[str, Any]] = [
            {"model": m.name, "versions": m.last, "aliases": m.aliases} for m in versions.list_models(ws.ledger)
        ]
        waived = waivers.in_force(ws.ledger, at=ws.clock.now())
        incidents = alerts.incidents(ws.ledger, resolved=False)

    def text() -> None:
        table(
            ["service", "production", "approved", "rollout", "last cycle"],
            [
                (s["service"], s["production"], s["approved"], s["rollout"], (s["last_cycle"] or "–")[:60])
                for s in services
            ],
        )
        click.echo()
        table(
            ["model", "versions", "aliases"],
            [(m["model"], m["versions"], ", ".join(f"{a}→{v}" for a, v in m["aliases"].items())) for m in models],
        )
        if waived:
            click.echo()
            rows = [(f"{w.model}@{w.version}", w.check, w.group, w.by, iso(w.until), w.reason) for w in waived]
            table(["waived", "check", "group", "by", "until", "why"], rows)
        if incidents:
            click.echo()
            table(["incident", "service", "thing", "title"], [(i.id, i.service, i.thing, i.title) for i in incidents])

    value = {"services": services, "models": models, "waivers": waived, "incidents": incidents}
    emit(value, as_json=as_json, text=text)
    if incidents:
        raise SystemExit(1)


def _approved(ws: Any, service: str) -> str | None:
    from holdfast.core.errors import NotFound
    from holdfast.registry import versions

    try:
        name = ws.project().services[service].model.name
        found = versions.resolve(ws.ledger, f"{name}@Production")
    except NotFound:
        return None
    return f"{found.name}@{found.version}"
