"""What the retraining policy would have done with other settings: the same pure ``propose``, over the ledger's reports.

Time steps through the moments at which reports were made and ticks were due. As long as the replay orders what was
really ordered, it goes by what really happened: live versions, outcomes, ends. From the first difference on it is a
model: reports are those of the versions that really ran, an order that was not really placed is taken to be promoted
after the usual time, and only windows that begin after that count. It says when that begins (``diverged``)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from holdfast.core.definitions import Retrain
from holdfast.core.errors import NotFound
from holdfast.core.identity import HOUR
from holdfast.core.records import Cycle, Record, Report, RetrainOrder
from holdfast.retraining import policy, schedule

if TYPE_CHECKING:
    from holdfast.workspace import Workspace

GIVEN = ("first", "manual", "data")


class Step(Record, frozen=True, kw_only=True):
    """One decision: an order, or a refusal of somebody who asked. ``real``: this order was really placed."""

    at: int
    order: bool
    trigger: str
    reason: str
    guard: str = ""
    real: bool = False


class Backtest(Record, frozen=True, kw_only=True):
    """The decisions and their sum. ``really`` counts the orders the policy really placed in the same stretch."""

    service: str
    start: int
    end: int
    steps: list[Step]
    orders: int
    really: int
    refused: dict[str, int]
    moments: int
    diverged: int | None
    training_seconds: float
    training_seconds_really: float


def replay(
    reports: Sequence[Report],
    cycles: Sequence[Cycle],
    retrain: Retrain,
    *,
    service: str,
    metrics_of: Mapping[int, Mapping[str, float]] | None = None,
    start: int | None = None,
    end: int | None = None,
    persist: int | None = None,
    backoff: float | None = None,
) -> Backtest:
    """Run the policy over what was reported. Pure.

    Args:
        reports, cycles: of one service, all that there are.
        retrain: the settings to try.
        metrics_of: hold-out figures by version, for ``when_drops``.
        start, end: the stretch to replay, µs UTC; all of it by default.
    """
    real = sorted(cycles, key=lambda c: (c.order.at, c.id))
    moments = sorted({r.at or r.end for r in reports})
    if not moments:
        return _sum(service, start or 0, end or 0, [], [], real, None, 0)
    start = moments[0] if start is None else start
    end = moments[-1] if end is None else end
    if retrain.schedule is not None:
        moments = sorted({*moments, *schedule.due(retrain.schedule, retrain.zone, start - 1, end)})
    moments = [m for m in moments if start <= m <= end]
    usual = _usual([c.ended - c.order.at for c in real if c.ended is not None], HOUR)
    given = [c for c in real if c.order.trigger in GIVEN or c.order.at < start]
    chosen = {c.order.at: c for c in real if c not in given}
    played: list[Cycle] = []
    steps: list[Step] = []
    last_tick = start - 1
    diverged: int | None = None
    for now in moments:
        if diverged is None and any(at < now and c not in played for at, c in chosen.items()):
            diverged = now
        history = [_as_of(c, now) for c in (*given, *played) if c.order.at <= now]
        live = _live(real if diverged is None else given, now)
        seen = list(reports) if diverged is None else [msgspec.structs.replace(r, version=None) for r in reports]
        result = policy.propose(
            seen,
            history,
            retrain,
            now,
            service=service,
            last_tick=last_tick,
            persist=persist,
            backoff=backoff,
            last_version_metrics=(metrics_of or {}).get(_live(real, now) or 0),
            live_version=live if diverged is None else None,
        )
        if isinstance(result, RetrainOrder):
            truth = chosen.get(now) if diverged is None else None
            if truth is None and diverged is None:
                diverged = now
            played.append(truth or _supposed(result, now, usual, len(played)))
            steps.append(Step(at=now, order=True, trigger=result.trigger, reason=result.reason, real=truth is not None))
        elif result.guard != "nothing asks":
            triggers = ", ".join(a.partition(":")[0] for a in result.asked)
            steps.append(Step(at=now, order=False, trigger=triggers, reason=result.reason, guard=result.guard))
        tick = result.tick
        last_tick = last_tick if tick is None else max(last_tick, tick)
    return _sum(
        service,
        start,
        end,
        steps,
        played,
        [c for c in chosen.values() if start <= c.order.at <= end],
        diverged,
        len(moments),
    )


def run(
    workspace: Workspace,
    service: str,
    retrain: Retrain,
    *,
    start: int | None = None,
    end: int | None = None,
    persist: int | None = None,
    backoff: float | None = None,
) -> Backtest:
    """``replay`` over the workspace's ledger.

    Raises:
        NotFound: nothing was reported on this service.
    """
    from holdfast.monitoring import report

    reports = report.recent(workspace.ledger, service)
    if not reports:
        raise NotFound(
            f"no report on {service!r} to replay", hint="run the loop, or `holdfast monitor run`, for a while first"
        )
    cycles = [msgspec.convert(row, Cycle) for _, row in workspace.ledger.scan("cycles", prefix=f"{service}/")]
    figures: dict[int, dict[str, float]] = {}
    for version in {r.version for r in reports if r.version is not None}:
        figures[version] = _figures(workspace, service, version)
    return replay(
        reports,
        cycles,
        retrain,
        service=service,
        metrics_of=figures,
        start=start,
        end=end,
        persist=persist,
        backoff=backoff,
    )


def _figures(workspace: Workspace, service: str, version: int) -> dict[str, float]:
    """A version's figures on its hold-out rows, from its verdict."""
    from holdfast.registry import versions

    services = workspace.project().services
    model = services[service].model.name if service in services else service
    verdict = versions.verdict(workspace.ledger, model, version)
    found = {}
    for result in verdict.results if verdict is not None else []:
        kind, _, metric = result.check.partition(":")
        if kind == "performance" and result.figure is not None:
            found[metric] = result.figure
    return found


def _as_of(cycle: Cycle, now: int) -> Cycle:
    """A cycle as it stood at ``now``: running until it ended."""
    if cycle.ended is not None and cycle.ended <= now:
        return cycle
    return msgspec.structs.replace(cycle, status="running", ended=None)


def _live(cycles: Sequence[Cycle], now: int) -> int | None:
    done = [
        c for c in cycles if c.status == "promoted" and c.version is not None and c.ended is not None and c.ended <= now
    ]
    return max(done, key=lambda c: (c.ended or 0, c.id)).version if done else None


def _supposed(order: RetrainOrder, now: int, usual: float, number: int) -> Cycle:
    return Cycle(
        id=order.id, service=order.service, order=order, status="promoted", version=-1 - number, started=now,
        ended=now + round(usual), reason="supposed",
    )  # fmt: skip


def _sum(
    service: str,
    start: int,
    end: int,
    steps: list[Step],
    played: list[Cycle],
    real: Sequence[Cycle],
    diverged: int | None,
    moments: int,
) -> Backtest:
    refused: dict[str, int] = {}
    for step in steps:
        if not step.order:
            refused[step.guard] = refused.get(step.guard, 0) + 1
    usual = _usual([c.training_seconds for c in real if c.training_seconds > 0], 0.0)
    return Backtest(
        service=service,
        start=start,
        end=end,
        steps=steps,
        orders=len(played),
        really=len(real),
        refused=refused,
        moments=moments,
        diverged=diverged,
        training_seconds=sum(c.training_seconds or usual for c in played),
        training_seconds_really=sum(c.training_seconds for c in real),
    )


def _usual(values: Sequence[float], otherwise: float) -> float:
    return float(statistics.median(values)) if values else float(otherwise)
