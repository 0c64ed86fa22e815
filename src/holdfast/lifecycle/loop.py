"""One turn of the loop: look at monitors and schedules, take up orders, advance releases. The loop closes here.

``tick`` is everything that happens at one moment of business time. A cycle is a sequence of durable steps
(data → features → fit → register → gate → staging → rollout); a tick that finds one unfinished carries it on at the first
step without an outcome, whoever began it. ``run`` is the controller process: it holds the lease and ticks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import msgspec

from holdfast.core import files
from holdfast.core.definitions import Service
from holdfast.core.errors import Conflict, Damaged, HoldfastError, NotFound, UsersTurn
from holdfast.core.identity import duration_us, iso, new_id
from holdfast.core.records import Cycle, Json, Report, RetrainOrder
from holdfast.lifecycle import abtest, build, fit, measure, register, release, rollouts, scheduled, sources, staged
from holdfast.lifecycle.durable import ORDER_SECONDS, Joined, Steps, holding

if TYPE_CHECKING:
    from holdfast.core.definitions import FeatureView
    from holdfast.core.ports import Ledger
    from holdfast.workspace import Workspace

CYCLES = "cycles"
LOOP = "loop"
ABTEST_EVERY = duration_us("10m")
ENDED = ("promoted", "rejected", "rolled back", "failed", "blocked")

Tell = Callable[[str, str], None]
"""(stage, message): the loop says what it does; the CLI prints it, tests ignore it."""


def silent(stage: str, message: str) -> None:
    """Nobody listens."""


# --- cycles -----------------------------------------------------------------------------------------------------------


def cycles(ledger: Ledger, service: str | None = None) -> list[Cycle]:
    """All cycles (of a service), oldest first."""
    found = [msgspec.convert(row, Cycle) for _, row in ledger.scan(CYCLES, prefix=f"{service}/" if service else "")]
    return sorted(found, key=lambda c: (c.started, c.id))


def find_cycle(ledger: Ledger, name: str) -> Cycle:
    """The cycle whose id begins with ``name``.

    Raises:
        NotFound: none, or more than one, does.
    """
    hits = [c for c in cycles(ledger) if c.id.startswith(name)]
    if len(hits) != 1:
        raise NotFound.among("cycle", name, [c.id[:10] for c in cycles(ledger)])
    return hits[0]


def order_now(ws: Workspace, service: str, *, reason: str, at: int) -> RetrainOrder:
    """Place an order by hand.

    Raises:
        Conflict: an order of this service is not finished.
    """
    from holdfast.retraining import orders

    order = RetrainOrder(id=new_id(at), service=service, trigger="manual", reason=reason, at=at)
    if not orders.place(ws.ledger, order, actor=ws.actor):
        raise Conflict(
            f"service {service!r} has an unfinished order",
            hint=f"see `holdfast status`; wait for it or abort its rollout: holdfast release abort {service}",
        )
    return order


def carry_on(ws: Workspace, service: Service, *, now: int, holder: str, tell: Tell = silent) -> Cycle | None:
    """Take up the service's unfinished order, if any, and do every step that can be done now."""
    from holdfast.retraining import orders

    order = orders.claim(ws.ledger, service.name, holder=holder, at=now, seconds=ORDER_SECONDS)
    if order is None:
        return None
    with holding(ws.ledger, f"order/{service.name}", holder, seconds=ORDER_SECONDS):
        return _turn(ws, service, order, now=now, holder=holder, tell=tell)


def _turn(ws: Workspace, service: Service, order: RetrainOrder, *, now: int, holder: str, tell: Tell) -> Cycle:
    key = f"{service.name}/{order.id}"
    row = ws.ledger.get(CYCLES, key)
    cycle = (
        msgspec.convert(row, Cycle)
        if row
        else Cycle(id=order.id, service=service.name, order=order, started=order.at, step="data")
    )
    if row is None:
        with ws.ledger.transaction() as tx:
            tx.put(CYCLES, key, msgspec.to_builtins(cycle))
            tx.append(
                "cycle.begun",
                subject=service.name,
                body={"cycle": cycle.id, "trigger": order.trigger, "reason": order.reason},
                at=now,
                actor=ws.actor,
            )
        tell("cycle", f"{service.name}: {order.trigger}: {order.reason}")
    if cycle.status in ENDED:
        with suppress(Conflict):
            orders_finish(ws, cycle, holder=holder, at=now)
        return cycle
    try:
        return _steps(ws, service, cycle, now=now, holder=holder, tell=tell)
    except UsersTurn as error:
        tell("cycle", f"{cycle.step}: {error.message}")
        return _end(
            ws,
            cycle,
            "blocked" if cycle.step == "data" else "failed",
            f"{cycle.step}: {error.message}",
            now=now,
            holder=holder,
        )


def _steps(ws: Workspace, service: Service, cycle: Cycle, *, now: int, holder: str, tell: Tell) -> Cycle:
    """The steps in order. ``as_of`` is the order's time, so that a resumed cycle builds the same training set."""
    model, as_of = service.model, cycle.order.at
    steps = Steps(ws.ledger, f"cycle/{cycle.id}", now=lambda: now, actor=ws.actor)

    def step(name: str, say: str, work: Callable[[], Any]) -> Json:
        nonlocal cycle
        if steps.outcome(name) is None:
            cycle = msgspec.structs.replace(cycle, step=name)
            _put(ws, CYCLES, f"{service.name}/{cycle.id}", msgspec.to_builtins(cycle))
            tell(name, say)
        return steps.once(name, work)

    data = step("data", "validate and version the sources", lambda: sources.admit_data(ws, model, at=as_of))
    built = step(
        "features",
        "point-in-time training set",
        lambda: build.build_training_set(ws, model, as_of=as_of, datasets=data["datasets"]),
    )
    record = build.training_set(ws.ledger, built["digest"])
    fitted = step(
        "fit",
        f"fit {len(model.candidates)} candidates on {record.rows:,} rows",
        lambda: fit.fit(ws, model, cycle=cycle.id, record=record, at=as_of),
    )
    registered = step(
        "register", "package and register",
        lambda: register.register(ws, model, cycle=cycle.id, record=record, fit_outcome=fitted, at=now, source=f"cycle {cycle.id}"),
    )  # fmt: skip
    version_number = int(registered["version"])
    cycle = msgspec.structs.replace(cycle, version=version_number, training_seconds=float(fitted["seconds"]))
    verdict = step(
        "gate", f"measure {model.name}@{version_number}",
        lambda: measure.measure(ws, service, name=model.name, version=version_number, record=record, cycle=cycle.id, at=now),
    )  # fmt: skip
    if verdict["outcome"] != "pass" and release.policy_of(ws, service) == "enforce":
        tell("gate", f"{model.name}@{version_number}: {verdict['outcome']}: {'; '.join(verdict['failed'])}")
        return _end(
            ws, cycle, "rejected", f"gate: {verdict['outcome']}: {'; '.join(verdict['failed'])}", now=now, holder=holder
        )
    from holdfast.registry import versions

    version = versions.get(ws.ledger, model.name, version_number)

    def staging() -> tuple[Json, None]:
        staged.stage(ws, service, version, at=now, reason=f"cycle {cycle.id}")
        evidence = staged.smoke(ws, service, version, at=now)
        return {"problems": evidence.details["problems"]}, None

    smoked = step("staging", "staging release and smoke test", staging)
    if smoked["problems"]:
        return _end(ws, cycle, "rejected", f"smoke: {smoked['problems'][0]}", now=now, holder=holder)

    def start() -> tuple[Json, None]:
        rollout = rollouts.begin(ws, service, version, at=now, cycle=cycle.id)
        return {"rollout": rollout.id}, None

    step("rollout", f"roll out {model.name}@{version_number}", start)
    rollout = rollouts.advance(ws, service, now=now)
    if rollout is None or rollout.id != cycle.id:
        rollout = release.rollout_of(ws.ledger, service.name)
    if rollout is not None and rollout.id == cycle.id:
        if rollout.status == "promoted":
            return _end(ws, cycle, "promoted", rollout.reason, now=now, holder=holder)
        if rollout.status in ("rolled back", "aborted"):
            return _end(ws, cycle, "rolled back", rollout.reason, now=now, holder=holder)
    _put(ws, CYCLES, f"{service.name}/{cycle.id}", msgspec.to_builtins(cycle))
    return cycle


def _end(ws: Workspace, cycle: Cycle, status: str, reason: str, *, now: int, holder: str) -> Cycle:
    """Record how a cycle ended, with its order, in one transaction."""
    from holdfast.monitoring import alerts
    from holdfast.retraining import orders

    ended = msgspec.structs.replace(cycle, status=status, reason=reason, ended=now)
    with ws.ledger.transaction() as tx:
        tx.put(CYCLES, f"{cycle.service}/{cycle.id}", msgspec.to_builtins(ended))
        tx.append(
            "cycle.ended",
            subject=cycle.service,
            body={"cycle": cycle.id, "status": status, "version": cycle.version, "reason": reason},
            at=now,
            actor=ws.actor,
        )
        orders.finish_in(tx, cycle.service, cycle.order.id, holder=holder, outcome=status, at=now)
        if status in ("failed", "blocked", "rolled back"):
            alerts.raise_in(tx, cycle.service, "cycle", title=f"{cycle.service}: cycle {status}", text=reason, at=now)
        elif status == "promoted":
            alerts.resolve_thing(
                cast("Ledger", Joined(tx)),
                cycle.service,
                "cycle",
                at=now,
                by=ws.actor,
                note="a later cycle was promoted",
            )
    return ended


def _put(ws: Workspace, table: str, key: str, value: Json) -> None:
    with ws.ledger.transaction() as tx:
        tx.put(table, key, value)


def orders_finish(ws: Workspace, cycle: Cycle, *, holder: str, at: int) -> None:
    """Close the order of a cycle that has ended."""
    from holdfast.retraining import orders

    orders.finish(ws.ledger, cycle.service, cycle.order.id, holder=holder, outcome=cycle.status, at=at)


# --- one tick ---------------------------------------------------------------------------------------------------------


def tick(ws: Workspace, service: Service, *, now: int, holder: str, tell: Tell = silent) -> Json:
    """Everything that is due for one service at ``now``: release files, a rollout's next move, monitors, the policy's
    proposal, the order's cycle. Ticking twice at one moment is ticking once."""
    from holdfast.monitoring import alerts
    from holdfast.retraining import orders, policy

    release.project_files(ws, service.name)
    release.follow_log(ws, service, at=now)
    done: Json = {"now": now, "service": service.name}
    carried = carry_on(ws, service, now=now, holder=holder, tell=tell)
    if carried is not None:
        done["cycle"] = carried.id
        if carried.status in ENDED:
            tell("cycle", f"{service.name}@{carried.version}: {carried.status}: {carried.reason}")
    else:
        rollouts.advance(ws, service, now=now)
    test = abtest.advance(ws, service, now=now, every=service.abtest.every if service.abtest else ABTEST_EVERY)  # type: ignore[arg-type]
    testing = test is not None and test.status == "running"
    if test is not None and test.ended == now:
        tell("abtest", f"{service.name}: {test.reason}")
    _seal(ws, service, now=now, tell=tell)
    reports = _monitor(ws, service, now=now, tell=tell)
    done["reports"] = [r.id for r in reports]
    live = release.current(ws.ledger, service.name, "production")
    history = cycles(ws.ledger, service.name)
    open_order = orders.unfinished(ws.ledger, service.name)
    rollout = release.rollout_of(ws.ledger, service.name)
    if (
        open_order is None
        and live is not None
        and not testing
        and not (rollout and rollout.status in ("running", "holding"))
    ):
        champion = live.champion.version if live.champion else None
        proposal = policy.propose(
            _recent(ws, service, now=now), history, service.retrain, now, last_version_metrics=_own_metrics(ws, service, champion),
            service=service.name, last_tick=orders.last_tick(ws.ledger, service.name), open_order=open_order, live_version=champion,
        )  # fmt: skip
        if isinstance(proposal, RetrainOrder):
            orders.place(ws.ledger, proposal, actor=ws.actor)
            carried = carry_on(ws, service, now=now, holder=holder, tell=tell)
            if carried is not None:
                done["cycle"] = carried.id
                if carried.status in ENDED:
                    tell("cycle", f"{service.name}@{carried.version}: {carried.status}: {carried.reason}")
        else:
            done["no_order"] = proposal.reason
            if proposal.alert:
                alerts.raise_thing(
                    ws.ledger,
                    service.name,
                    "retraining",
                    title=f"{service.name}: retraining stopped",
                    text=proposal.reason,
                    at=now,
                )
            if proposal.tick is not None:
                orders.skip(ws.ledger, service.name, proposal.tick, reason=proposal.reason, at=now)
    return done


def _seal(ws: Workspace, service: Service, *, now: int, tell: Tell) -> None:
    """Put the digests of the prediction log's new parts into the chain; an altered part is somebody's incident."""
    from holdfast.lifecycle import logbook
    from holdfast.monitoring import alerts

    try:
        logbook.seal(ws, service.name, at=now)
    except Damaged as error:
        tell("log", error.message)
        alerts.raise_thing(
            ws.ledger,
            service.name,
            "log",
            title=f"{service.name}: the prediction log was altered",
            text=error.message,
            at=now,
        )
    except OSError as error:
        tell("log", f"not sealed now: {error}")


def _monitor(ws: Workspace, service: Service, *, now: int, tell: Tell) -> list[Report]:
    """Run the monitors when they are due."""
    from holdfast.lifecycle import watch

    every = duration_us(service.monitor.every)
    key = f"{service.name}/monitored"
    row = ws.ledger.get(LOOP, key)
    if row is not None and now - int(row["at"]) < every:
        return []
    try:
        reports = watch.tick(ws, service.name, now=now)
    except NotFound:
        return []
    _put(ws, LOOP, key, {"at": now})
    for report in reports:
        if report.outcome == "alarm":
            names = [s.name for s in report.signals if s.alarm]
            tell("monitor", f"{report.kind}: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}")
    return reports


def _recent(ws: Workspace, service: Service, *, now: int) -> list[Report]:
    from holdfast.monitoring import report

    return report.recent(ws.ledger, service.name, since=now - 30 * duration_us(service.monitor.every) - 1)


def _own_metrics(ws: Workspace, service: Service, version: int | None) -> dict[str, float]:
    """The live version's figures on its hold-out rows, from its verdict."""
    from holdfast.registry import versions

    if version is None:
        return {}
    verdict = versions.verdict(ws.ledger, service.model.name, version)
    if verdict is None:
        return {}
    return {
        r.check.rpartition(":")[2]: float(r.figure)
        for r in verdict.results
        if r.figure is not None and r.check.startswith("performance")
    }


def materialize(
    ws: Workspace, views: Mapping[str, FeatureView], *, now: int, holder: str, tell: Tell = silent, work: bool = True
) -> list[Json]:
    """What is due of the views' schedules (without ``work``: only whether it is late), and the messages about it."""
    from holdfast.lifecycle import watch
    from holdfast.monitoring import alerts, delivery

    if not views:
        return []
    try:
        done = scheduled.tick(ws, views, now=now, holder=holder, tell=tell) if work else []
        scheduled.late(ws, views, now=now)
        if any(m.service == scheduled.INCIDENTS for m in alerts.waiting(ws.ledger)):
            delivery.deliver(ws.ledger, watch.addresses(ws), holder=holder, service=scheduled.INCIDENTS)
    except HoldfastError as error:
        tell("error", f"features at {iso(now)}: {error.message}")
        return []
    return done


# --- the controller ---------------------------------------------------------------------------------------------------


def run(
    ws: Workspace,
    services: list[Service],
    *,
    views: Mapping[str, FeatureView] | None = None,
    poll: float = 1.0,
    tell: Tell = silent,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Hold the controller's lease and tick every service whenever business time has moved, until ``stop()``.

    ``views`` are those with a schedule; they are materialized beside, in a thread (in a replay: in turn). A second
    controller waits for the lease, so one may stand by. ``home/run/loop.json`` says how far it has come.
    """
    holder = f"{ws.actor}/{new_id()}"
    scheduled_views = dict(views or {})
    replayed = ws.settings.clock == "replay"
    beside = None
    if scheduled_views and not replayed:
        beside = scheduled.beside(ws, scheduled_views, poll=poll, tell=tell, holder=holder, stop=stop)
    about = ws.path("run", "loop.json")
    last: int | None = None
    while not stop():
        with suppress(Conflict), holding(ws.ledger, "controller", holder) as ours:
            while ours() and not stop():
                now = ws.clock.now()
                if last is not None and ws.settings.clock == "replay" and now == last:
                    time.sleep(0.004)
                    continue
                materialize(ws, scheduled_views, now=now, holder=holder, tell=tell, work=replayed)
                for service in services:
                    try:
                        tick(ws, service, now=now, holder=holder, tell=tell)
                    except HoldfastError as error:
                        tell("error", f"{service.name} at {iso(now)}: {error.message}")
                last = now
                files.write(about, json.dumps({"ticked": now, "holder": holder}).encode())
                if ws.settings.clock != "replay":
                    _wait(poll, stop)
        if not stop():
            time.sleep(0.2)
    if beside is not None:
        beside.join()  # it ends at its next chunk; the store must not be closed under it


def _wait(seconds: float, stop: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stop():
        time.sleep(0.05)
