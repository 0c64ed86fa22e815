"""``holdfast release abtest``: plan, start, watch and end an A/B test of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.group import Group
from holdfast.cli.output import emit, json_option, say, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.core.definitions import Service
    from holdfast.core.traffic import ABTest


@click.group(cls=Group)
def abtest() -> None:
    """Compare a challenger with the champion by a test that may be looked at any time."""


def _wish(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that declare a test; what is left out comes from the service's definition."""
    for option in (
        click.option("--on-better", type=click.Choice(["promote", "stop"]), help="What a better challenger leads to."),
        click.option("--at-most", help="Undecided after this long, e.g. 30d."),
        click.option("--at-least", help="No good news before this, e.g. 7d."),
        click.option("--guardrail", "guardrails", multiple=True, metavar="METRIC=WORSE", help="May be repeated."),
        click.option("--power", type=float, help="Chance to see the effect.  [default: 0.8]"),
        click.option("--alpha", type=float, help="Chance of a false alarm over all looks.  [default: 0.05]"),
        click.option("--weight", type=float, help="Percent of keys for the challenger.  [default: 50]"),
        click.option("--baseline", type=float, help="The champion's mean.  [default: measured from the log]"),
        click.option("--effect", type=float, help="The least difference that matters."),
        click.option("--metric", help="label, accuracy, squared_error or absolute_error."),
    ):
        command = option(command)
    return command


def _declared(service: Service, given: dict[str, Any]) -> ABTest:
    from holdfast.core.errors import BadInput
    from holdfast.core.traffic import ABTest

    own = {} if service.abtest is None else dict(vars(service.abtest))
    given = {k: v for k, v in given.items() if v not in (None, ())}
    if "guardrails" in given:
        pairs = [g.partition("=") for g in given["guardrails"]]
        try:
            given["guardrails"] = {name: float(value) for name, _, value in pairs}
        except ValueError:
            raise BadInput(
                "a guardrail is METRIC=WORSE with a number", hint="for example --guardrail accuracy=0.01"
            ) from None
    if "metric" in given and given["metric"] != own.get("metric"):
        own.pop("greater_is_better", None)
    wish = own | given
    missing = [f"--{n}" for n in ("metric", "effect") if n not in wish]
    if missing:
        raise BadInput(
            f"the test lacks {' and '.join(missing)}", hint="give them, or declare abtest=hf.ABTest(…) for the service"
        )
    return ABTest(**wish)


@abtest.command()
@click.argument("service")
@_wish
@json_option
def plan(service: str, as_json: bool, **wish: Any) -> None:
    """How many keys the test needs, and how long that takes at the recent traffic. Changes nothing."""
    from holdfast.cli.release import declared_service
    from holdfast.lifecycle import abtest as tests
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as ws:
        owner = declared_service(ws, service)
        found = tests.plan(ws, owner, _declared(owner, wish), now=ws.clock.now())

    def text() -> None:
        sizes, single = found["planned"], found["single_look"]
        click.echo(
            f"{found['metric']}: from {found['baseline']:.4g} by {found['effect']:g}, alpha {found['alpha']:g}, power {found['power']:g}"
        )
        click.echo(
            f"keys needed   control {sizes['control']:,}, challenger {sizes['treatment']:,} at {found['weight']:g} %"
        )
        click.echo(
            f"single look   control {single['control']:,}, challenger {single['treatment']:,} (were it looked at once only)"
        )
        if found["days"] is not None:
            click.echo(f"traffic       {found['keys_each_day']:,.0f} keys a day: about {found['days']:g} days")

    emit(found, as_json=as_json, text=text)


@abtest.command()
@click.argument("service")
@click.argument("version")
@_wish
@json_option
def start(service: str, version: str, as_json: bool, **wish: Any) -> None:
    """Give VERSION (name@7) its share of the keys of SERVICE. `holdfast loop run` watches the test from then on."""
    from holdfast.cli.release import declared_service
    from holdfast.lifecycle import abtest as tests
    from holdfast.registry import versions
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        owner = declared_service(ws, service)
        found = versions.resolve(ws.ledger, version)
        test = tests.begin(ws, owner, found, _declared(owner, wish), at=ws.clock.now())
    planned = test.plan["planned"]
    emit(
        test,
        as_json=as_json,
        text=lambda: click.echo(
            f"A/B test {test.id}: @{test.version} at {test.weight:g} % against @{test.control}; planned for "
            f"{planned['control']:,} + {planned['treatment']:,} keys"
        ),
    )


@abtest.command()
@click.argument("service")
@json_option
def status(service: str, as_json: bool) -> None:
    """What the newest test of SERVICE shows. Looking costs nothing and decides nothing."""
    from holdfast.core.errors import NotFound
    from holdfast.lifecycle import abtest as tests
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as ws:
        test = tests.of(ws.ledger, service)
        if test is None:
            raise NotFound(f"{service!r} has had no A/B test", hint=f"plan one: holdfast release abtest plan {service}")
        result = tests.status(ws, test, now=ws.clock.now())
    emit({"test": test, "look": result}, as_json=as_json, text=lambda: _draw(test, result))


@abtest.command()
@click.argument("service")
@json_option
def look(service: str, as_json: bool) -> None:
    """Look at the running test of SERVICE now and do what its stop rule says."""
    from holdfast.cli.release import declared_service
    from holdfast.core.errors import NotFound
    from holdfast.lifecycle import abtest as tests
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        test = tests.advance(ws, declared_service(ws, service), now=ws.clock.now())
        if test is None:
            raise NotFound(f"{service!r} has had no A/B test", hint=f"plan one: holdfast release abtest plan {service}")
        result = tests.status(ws, test, now=ws.clock.now())
    emit({"test": test, "look": result}, as_json=as_json, text=lambda: _draw(test, result))


@abtest.command()
@click.argument("service")
@click.option("--reason", default="by hand", show_default=True, help="Why; kept in the ledger.")
@json_option
def stop(service: str, reason: str, as_json: bool) -> None:
    """End the running test of SERVICE; all traffic goes to the champion."""
    from holdfast.cli.release import declared_service
    from holdfast.lifecycle import abtest as tests
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        test = tests.stop(ws, declared_service(ws, service), at=ws.clock.now(), reason=reason)
    emit(test, as_json=as_json, text=lambda: click.echo(f"A/B test {test.id}: {test.status}"))


def _draw(test: Any, result: dict[str, Any]) -> None:
    click.echo(f"@{test.version} at {test.weight:g} % against @{test.control}: {test.status}")
    if test.reason:
        click.echo(test.reason)
    if not result:
        return
    means = ["–" if result[m] is None else f"{result[m]:.5g}" for m in ("mean_control", "mean_treatment")]
    rows = [
        ("control", result["keys"][0], result["rows"][0], result["labelled"][0], means[0]),
        ("challenger", result["keys"][1], result["rows"][1], result["labelled"][1], means[1]),
    ]
    table(["arm", "keys", "rows", "with truth", str(test.plan["metric"])], rows)
    if result.get("low") is not None:
        click.echo(
            f"difference {result['difference']:+.5g}, always-valid interval [{result['low']:.5g}, {result['high']:.5g}], p = {result['p']:.2g}"
        )
    click.echo(
        f"looks like: {result['decision']}" + (f"; {result['done']:.0%} of the plan" if result.get("done") else "")
    )
    for problem in result["guardrails"]:
        say(f"guardrail broken: {problem}")
    if result["forced"]:
        say(f"{result['forced']} rows with a forced arm are left out")
