"""``holdfast backtest``: replay the retraining policy over the ledger with other settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.output import emit, json_option, say, table

if TYPE_CHECKING:
    from holdfast.core.definitions import Retrain
    from holdfast.lifecycle.backtest import Backtest


@click.command()
@click.argument("service")
@click.option("--schedule", help='A cron expression, "none" for no schedule.')
@click.option("--on-drift/--no-drift", "on_drift", default=None, help="Retrain on drift, or not.")
@click.option("--when-below", help="METRIC=LEVEL, or none.")
@click.option("--when-drops", help="METRIC=DROP, or none.")
@click.option("--cooldown", help="Least time between orders, like 7d.")
@click.option("--budget", type=click.IntRange(min=0), help="Most orders in the budget window.")
@click.option("--budget-window", help="Length of the budget window, like 365d.")
@click.option("--breaker", type=click.IntRange(min=0), help="Failed cycles in a row that stop it; 0 for never.")
@click.option(
    "--persist",
    type=click.IntRange(min=1),
    help="Drift reports in a row that must agree.",
)
@click.option(
    "--backoff",
    type=click.FloatRange(min=1),
    help="What a rejected candidate multiplies the cooldown by.",
)
@click.option("--since", help="From this instant on.")
@click.option("--until", help="Up to this instant.")
@click.option("--orders", "only_orders", is_flag=True, help="Show orders only, not the refusals.")
@json_option
def backtest(
    service: str,
    since: str | None,
    until: str | None,
    only_orders: bool,
    as_json: bool,
    **changes: Any,
) -> None:
    """What SERVICE's retraining policy would have ordered with other settings. Changes nothing.

    Settings that are not given are the declared ones.
    """
    from holdfast.core.errors import NotFound
    from holdfast.core.identity import to_us
    from holdfast.lifecycle import backtest as replaying
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        services = workspace.project().services
        if service not in services:
            raise NotFound.among("service", service, services)
        wish = _changed(services[service].retrain, changes)
        found = replaying.run(
            workspace, service, wish,
            start=to_us(since) if since else None, end=to_us(until) if until else None,
        )  # fmt: skip
    emit(
        {"settings": wish.spec(), "backtest": found},
        as_json=as_json,
        text=lambda: _draw(found, only_orders),
    )


def _changed(declared: Retrain, changes: dict[str, Any]) -> Retrain:
    from dataclasses import replace

    from holdfast.core.errors import BadInput
    from holdfast.retraining import schedule

    wanted: dict[str, Any] = {}
    for name, value in changes.items():
        if value is None:
            continue
        if name in ("when_below", "when_drops"):
            wanted[name] = None if value == "none" else _pair(name, value)
        elif name == "schedule":
            wanted[name] = None if value == "none" else value
        else:
            wanted[name] = value
    wish = replace(declared, **wanted)
    if wish.schedule is not None:
        schedule.check(wish.schedule, wish.zone)
    if all(w is None for w in (wish.schedule, wish.when_below, wish.when_drops)) and not wish.on_drift:
        raise BadInput(
            "with these settings nothing can ask for a retraining",
            hint="give --schedule, --on-drift, --when-below or --when-drops",
        )
    return wish


def _pair(name: str, value: str) -> tuple[str, float]:
    from holdfast.core.errors import BadInput
    from holdfast.stats import metrics

    metric, _, level = value.partition("=")
    try:
        return metrics.get(metric).name, float(level)
    except ValueError:
        raise BadInput(
            f"--{name.replace('_', '-')} {value!r} is not METRIC=NUMBER", hint="write it like roc_auc=0.7"
        ) from None


def _draw(found: Backtest, only_orders: bool) -> None:
    steps = [s for s in found.steps if s.order or not only_orders]
    rows = [
        [_when(s.at), "ORDER" if s.order else "no", s.trigger, "as really happened" if s.real else "", s.reason]
        for s in steps
    ]
    if rows:
        table(["at", "", "asked by", "", "why"], rows)
    refused = ", ".join(f"{k} {v}" for k, v in sorted(found.refused.items())) or "none"
    span = f"{_when(found.start)} to {_when(found.end)}, {found.moments} decisions"
    click.echo(f"{span}: {found.orders} orders (really {found.really}); refused: {refused}")
    click.echo(f"training {found.training_seconds:.0f} s (really {found.training_seconds_really:.0f} s)")
    if found.diverged is not None:
        say(f"from {_when(found.diverged)} on this differs from what happened: read it as an estimate,")
        say("models that never ran were never watched")


def _when(us: int) -> str:
    from holdfast.core.identity import from_us

    return from_us(us).strftime("%Y-%m-%d %H:%M")
