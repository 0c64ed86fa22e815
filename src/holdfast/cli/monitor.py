"""``holdfast monitor``: run monitors now; show reports, drift, alerts and incidents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.group import Group
from holdfast.cli.output import emit, json_option, say, table

if TYPE_CHECKING:
    from holdfast.core.records import Report, Signal


@click.group(cls=Group)
def monitor() -> None:
    """Run monitors now; show reports, drift and alerts."""


@monitor.command()
@click.argument("service")
@click.option("--at", "at", help="Look as if it were this instant (default: now).")
@json_option
def run(service: str, at: str | None, as_json: bool) -> None:
    """Look at SERVICE now: drift and performance over the windows that end here. Exits with 1 when something alarms."""
    from holdfast.core.identity import to_us
    from holdfast.lifecycle import watch
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace:
        now = to_us(at) if at else workspace.clock.now()
        reports = watch.tick(workspace, service, now=now)
    emit(reports, as_json=as_json, text=lambda: _draw(reports))
    if any(r.outcome == "alarm" for r in reports):
        raise SystemExit(1)


@monitor.command()
@click.argument("service")
@click.argument("targets", nargs=-1, required=True, metavar="FOLDER...", type=click.Path(path_type=Path))
@json_option
def collect(service: str, targets: tuple[Path, ...], as_json: bool) -> None:
    """Bring home what containers logged: predictions and labels of SERVICE from FOLDERs, each a copy of (or the mounted)
    .holdfast of a container. What was taken before is not taken again. Exits with 1 when a file could not be read."""
    from holdfast.lifecycle import collected
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        found = collected.collect(workspace, service, targets, at=workspace.clock.now())

    def text() -> None:
        click.echo(f"{found.rows} predictions from {found.files} files, {found.labels} labels")
        for path, problem in found.problems.items():
            say(f"left where it is: {path}: {problem}")

    emit(found._asdict(), as_json=as_json, text=text)
    if found.problems:
        raise SystemExit(1)


@monitor.command()
@click.argument("service")
@click.argument("report", required=False)
@click.option("--limit", default=20, show_default=True, help="How many reports to list.")
@click.option("--kind", help="Only this kind (drift, performance, system …).")
@json_option
def show(service: str, report: str | None, limit: int, kind: str | None, as_json: bool) -> None:
    """List the reports on SERVICE, or show one REPORT with all its signals."""
    from holdfast.core.errors import NotFound
    from holdfast.monitoring import report as reports
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        _known(workspace, service)
        if report:
            one = reports.find(workspace.ledger, report)
            if one is None or one.service != service:
                raise NotFound(
                    f"no report {report!r} on {service}", hint=f"list them with `holdfast monitor show {service}`"
                )
            emit(one, as_json=as_json, text=lambda: _draw([one], every=True))
            return
        found = reports.recent(workspace.ledger, service, kind=kind, limit=limit)
    emit(found, as_json=as_json, text=lambda: _list(found, service))


@monitor.command()
@click.argument("service")
@click.option("--all", "every", is_flag=True, help="Every signal, not only what alarms.")
@json_option
def drift(service: str, every: bool, as_json: bool) -> None:
    """What has drifted in SERVICE, by the newest report."""
    from holdfast.monitoring import report as reports
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        _known(workspace, service)
        found = reports.recent(workspace.ledger, service, kind="drift", limit=1)
    emit(
        found[0] if found else None,
        as_json=as_json,
        text=lambda: (
            _draw(found, every=every)
            if found
            else say(f"no drift report on {service} yet; make one with `holdfast monitor run {service}`")
        ),
    )


@monitor.command()
@click.argument("service")
@json_option
def features(service: str, as_json: bool) -> None:
    """Nulls, ranges and freshness of the features SERVICE was served, by the newest report."""
    _newest(service, "features", as_json)


@monitor.command()
@click.argument("service")
@json_option
def parity(service: str, as_json: bool) -> None:
    """Whether SERVICE was served what recomputing gives, by the newest report; `holdfast features verify` does it now."""
    _newest(service, "parity", as_json)


def _newest(service: str, kind: str, as_json: bool) -> None:
    from holdfast.monitoring import report as reports
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        _known(workspace, service)
        found = reports.recent(workspace.ledger, service, kind=kind, limit=1)

    def text() -> None:
        if found:
            _draw(found, every=True)
        else:
            say(f"no {kind} report on {service} yet; make one with `holdfast monitor run {service}`")

    emit(found[0] if found else None, as_json=as_json, text=text)


@monitor.command()
@click.argument("service")
@click.option("--last", default="7d", show_default=True, help="How far back to look.")
@json_option
def outliers(service: str, last: str, as_json: bool) -> None:
    """Single predictions of SERVICE whose inputs are unlike anything in training."""
    from holdfast.core.identity import duration_us
    from holdfast.lifecycle import watch
    from holdfast.monitoring import outliers as finding
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        span, now = duration_us(last), workspace.clock.now()
        window, profile = watch.recent(workspace, service, start=now - span, end=now)
        found = finding.find(profile, window)
        share = found.count / window.num_rows if window.num_rows else None
        plain = {
            "rows": window.num_rows, "outliers": found.count, "share": share, "columns": found.columns,
            "combinations": found.joint, "examples": found.examples,
        }  # fmt: skip
    rows = [[e["id"] or e["row"], e["column"], e["value"], e.get("low"), e.get("high")] for e in found.examples]

    def text() -> None:
        click.echo(f"{found.count} of {window.num_rows} predictions are unlike training")
        if rows:
            table(["prediction", "column", "value", "low", "high"], rows)

    emit(plain, as_json=as_json, text=text)


@monitor.command()
@click.argument("service")
@click.option("--environment", default="production", show_default=True, help="Whose processes.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.1, max=60), default=1.0, show_default=True, help="Time between two looks."
)
@click.option(
    "--objective",
    type=click.FloatRange(min=0.5, max=1.0),
    default=0.999,
    show_default=True,
    help="Share of requests that must be answered.",
)
@json_option
def system(service: str, environment: str, seconds: float, objective: float, as_json: bool) -> None:
    """CPU, memory and disk of SERVICE's processes, latency, availability and error budget. Exit status 1 on an
    alarm."""
    from holdfast.lifecycle import watch
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        found = watch.system(workspace, service, environment=environment, seconds=seconds, objective=objective)
    emit(found, as_json=as_json, text=lambda: _draw([found], every=True))
    if found.outcome == "alarm":
        raise SystemExit(1)


@monitor.command()
@click.argument("service", required=False)
@click.option("--test", is_flag=True, help="Send a test message to every configured address.")
@json_option
def alerts(service: str | None, test: bool, as_json: bool) -> None:
    """Messages that wait to be sent; with --test, send one to see that they arrive."""
    from holdfast.monitoring import alerts as queue
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        if service:
            _known(workspace, service)
        if test:
            _test(workspace, service, as_json)
            return
        found = [m for m in queue.waiting(workspace.ledger) if service in (None, m.service)]
    rows = [[_when(m.at), m.service, m.event, m.title, m.tries, m.error] for m in found]
    emit(
        found,
        as_json=as_json,
        text=lambda: (
            table(["at", "service", "event", "message", "tries", "error"], rows)
            if rows
            else say("nothing waits to be sent")
        ),
    )


@monitor.command()
@click.argument("service", required=False)
@click.option("--open", "only_open", is_flag=True, help="Without the resolved ones.")
@click.option("--ack", help="Acknowledge the incident with this id.")
@click.option("--resolve", "close", help="Resolve the incident with this id.")
@click.option("--note", default="", help="Why.")
@json_option
def incidents(
    service: str | None, only_open: bool, ack: str | None, close: str | None, note: str, as_json: bool
) -> None:
    """The things that are or were wrong: list them, acknowledge or resolve one."""
    from holdfast.monitoring import alerts as queue
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        now, actor = workspace.clock.now(), workspace.actor
        if service:
            _known(workspace, service)
        if ack:
            changed = queue.acknowledge(workspace.ledger, ack, at=now, by=actor, note=note)
            emit(changed, as_json=as_json, text=lambda: click.echo(f"incident {changed.id} is yours"))
            return
        if close:
            changed = queue.resolve(workspace.ledger, close, at=now, by=actor, note=note)
            emit(changed, as_json=as_json, text=lambda: click.echo(f"incident {changed.id} is resolved"))
            return
        found = queue.incidents(workspace.ledger, service, resolved=not only_open)
    rows = [[i.id, i.service, i.thing, i.status, _when(i.opened), _when(i.last), i.seen, i.title] for i in found]
    emit(
        found,
        as_json=as_json,
        text=lambda: (
            table(["id", "service", "thing", "status", "opened", "last seen", "seen", "what"], rows)
            if rows
            else say("no incidents")
        ),
    )


def _known(workspace: Any, service: str) -> None:
    from holdfast.core.errors import NotFound
    from holdfast.core.identity import check_name

    check_name(service, "service")
    if workspace.ledger.scan("reports", prefix=f"{service}/") or workspace.ledger.scan(
        "incidents", prefix=f"{service}/"
    ):
        return
    services = workspace.project().services
    if service not in services:
        raise NotFound.among("service", service, services)


def _test(workspace: Any, service: str | None, as_json: bool) -> None:
    from holdfast.core.errors import BadConfig
    from holdfast.core.identity import new_id
    from holdfast.lifecycle import watch
    from holdfast.monitoring import delivery
    from holdfast.monitoring.alerts import Message

    addresses = watch.addresses(workspace, service)
    if not addresses:
        raise BadConfig(
            "no address is configured for alerts",
            hint="set alerts in holdfast.toml, or Monitor(alerts=[…]) of the service",
        )
    message = Message(
        id=new_id(),
        incident="test",
        service=service or "holdfast",
        event="opened",
        title="Holdfast: a test message",
        text="If you read this, alerts arrive.",
        at=workspace.clock.now(),
    )
    results = []
    for address in addresses:
        try:
            delivery.send(address, message)
            results.append({"address": delivery.shown(address), "sent": True, "error": ""})
        except Exception as error:  # noqa: BLE001 - the point is to tell what happens
            results.append({"address": delivery.shown(address), "sent": False, "error": delivery.safe(error, address)})
    emit(
        results,
        as_json=as_json,
        text=lambda: table(
            ["address", "sent", "error"], [[r["address"], "yes" if r["sent"] else "no", r["error"]] for r in results]
        ),
    )
    if not all(r["sent"] for r in results):
        raise SystemExit(1)


def _list(found: list[Report], service: str) -> None:
    if not found:
        say(f"no report on {service} yet; make one with `holdfast monitor run {service}`")
        return
    rows = [
        [r.id[:10], r.kind, r.version, _when(r.start), _when(r.end), r.outcome, r.rows, r.labelled, _short(r)]
        for r in found
    ]
    table(["id", "kind", "version", "from", "to", "outcome", "rows", "labelled", "what"], rows)


def _draw(found: list[Report], *, every: bool = False) -> None:
    for report in found:
        click.secho(
            f"{report.kind} of {report.service}{f'@{report.version}' if report.version else ''}: {report.outcome}",
            bold=True,
            fg={"alarm": "red", "ok": "green"}.get(report.outcome, "yellow"),
        )
        click.echo(
            f"  {_when(report.start)} to {_when(report.end)}, {report.rows} rows"
            + (f", {report.labelled} with labels" if report.kind == "performance" else "")
        )
        shown = [s for s in report.signals if every or s.alarm or report.kind != "drift"]
        if shown:
            table(
                ["name", "family", "statistic", "value", "interval", "floor", "p", "n", "alarm", "what"],
                [_row(s) for s in shown],
            )
        quiet = len(report.signals) - len(shown)
        if quiet:
            click.echo(f"  {quiet} signals are quiet")


def _row(s: Signal) -> list[Any]:
    interval = "–" if s.low is None or s.high is None else f"[{s.low:.4g}, {s.high:.4g}]"
    return [
        s.name,
        s.family,
        s.statistic,
        s.value,
        interval,
        s.floor,
        s.p,
        s.n,
        "ALARM" if s.alarm else "",
        s.message or s.direction,
    ]


def _short(report: Report) -> str:
    alarms = [s for s in report.signals if s.alarm]
    if report.kind == "performance" and not alarms:
        return ", ".join(
            f"{s.name} {s.value:.4g}" for s in report.signals if s.value is not None and s.statistic != "coverage"
        )
    return ", ".join(s.name for s in alarms[:4]) + (f" and {len(alarms) - 4} more" if len(alarms) > 4 else "")


def _when(us: int) -> str:
    from holdfast.core.identity import from_us

    return from_us(us).strftime("%Y-%m-%d %H:%M")
