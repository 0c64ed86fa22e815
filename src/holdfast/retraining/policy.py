"""Shall we retrain now? Reports and history in, an order or a reasoned no out. Pure: no clock, no ledger, no chance.

What may ask, in this order: the schedule; drift that ``persist`` reports in a row agree on; a live metric whose whole
interval is worse than its floor (``when_below``) or than the version's own hold-out figure by more than the drop
(``when_drops``). What may refuse, in this order: a freeze, a cycle or order under way, the breaker, the cooldown, the
budget. Drift makes a candidate, never a promotion.

Only reports about the live version count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from holdfast.core.definitions import Retrain
from holdfast.core.identity import digest, duration_text, duration_us, iso, to_us
from holdfast.core.records import Cycle, Record, Report, RetrainOrder, Signal
from holdfast.retraining import schedule
from holdfast.stats import metrics

Guard = Literal["nothing asks", "freeze", "under way", "breaker", "cooldown", "budget"]
Trigger = Literal["schedule", "drift", "degradation"]

FAILED = frozenset({"failed", "rolled back", "blocked"})
BACKOFF_MOST = 8


class NoOrder(Record, frozen=True, kw_only=True):
    """Why not. ``guard`` names the refusal, ``asked`` who asked, ``silent`` why each other trigger kept quiet;
    ``tick`` is a due tick that this no answers; ``alert`` says that a person must look."""

    reason: str
    guard: Guard
    asked: list[str] = msgspec.field(default_factory=list)
    silent: dict[str, str] = msgspec.field(default_factory=dict)
    tick: int | None = None
    alert: bool = False


class Ask(Record, frozen=True, kw_only=True):
    """A trigger that fired, what it says and rests on."""

    trigger: Trigger
    reason: str
    reports: list[str] = msgspec.field(default_factory=list)
    tick: int | None = None


def propose(
    reports: Sequence[Report],
    history: Sequence[Cycle],
    retrain: Retrain,
    now: int,
    *,
    last_version_metrics: Mapping[str, float] | None = None,
    service: str | None = None,
    last_tick: int | None = None,
    open_order: RetrainOrder | None = None,
    live_version: int | None = None,
    persist: int | None = None,
    backoff: float | None = None,
) -> RetrainOrder | NoOrder:
    """An order to retrain, or why not.

    Args:
        reports: of one service, any order, any kind.
        history: its cycles, any order; the live version is that of the newest promoted one.
        now: microseconds UTC.
        last_version_metrics: the live version's figures on its own hold-out rows, for ``when_drops``.
        service: name for the order; taken from history or reports when None.
        last_tick: the last scheduled tick that has an outcome (``orders.last_tick``); from history when None.
        open_order: an order that is placed and not finished.
        live_version: the version that answers now, where it is not the newest promoted one (after a rollback).
        persist, backoff: instead of those of ``retrain``.
    """
    persist = max(1, retrain.persist if persist is None else persist)
    backoff = max(1.0, retrain.backoff if backoff is None else backoff)
    cycles = sorted(history, key=lambda c: (c.started, c.id))
    known = [r for r in reports if r.end <= now]
    name = service or next((c.service for c in cycles), None) or next((r.service for r in known), "")
    asks, silent = _asks(known, cycles, retrain, now, last_version_metrics or {}, last_tick, persist, live_version)
    tick = next((a.tick for a in asks if a.tick is not None), None)
    if not asks:
        return NoOrder(
            reason="; ".join(f"{k}: {v}" for k, v in silent.items()) or "no trigger is declared",
            guard="nothing asks",
            silent=silent,
        )
    refusal = _refusal(cycles, retrain, now, open_order, backoff)
    if refusal is not None:
        guard, reason, alert = refusal
        asked = [f"{a.trigger}: {a.reason}" for a in asks]
        return NoOrder(
            reason=f"{reason} (asked by {', '.join(a.trigger for a in asks)})",
            guard=guard,
            asked=asked,
            silent=silent,
            tick=tick,
            alert=alert,
        )
    # Drift and decay say more than the clock does; the tick is answered by the same order.
    first = next((a for a in asks if a.trigger != "schedule"), asks[0])
    reason = (
        first.reason
        if len(asks) == 1
        else f"{first.reason}; also {', '.join(a.trigger for a in asks if a is not first)}"
    )
    rests = [r for a in asks for r in a.reports]
    identity = (
        {"service": name, "tick": tick}
        if tick is not None
        else {"service": name, "reports": rests, "after": cycles[-1].id if cycles else ""}
    )
    return RetrainOrder(
        id=digest(identity)[:26], service=name, trigger=first.trigger, reason=reason, reports=rests, at=now, tick=tick
    )


def due_tick(retrain: Retrain, history: Sequence[Cycle], now: int, last_tick: int | None = None) -> int | None:
    """The newest tick that is due and has no outcome yet; older missed ones are covered by it."""
    if retrain.schedule is None:
        return None
    last = last_tick
    if last is None:
        if not history:
            return None
        planned = [c.order.at for c in history if c.order.trigger == "schedule"]
        last = max(planned) if planned else min(c.started for c in history)
    ticks = schedule.due(retrain.schedule, retrain.zone, last, now)
    return ticks[-1] if ticks else None


def breaker(history: Sequence[Cycle]) -> int:
    """How many cycles in a row failed, were blocked or rolled back. A promotion or a person's order starts anew; a
    rejection neither counts nor clears: the gate did its work."""
    count = 0
    for cycle in sorted(history, key=lambda c: (c.started, c.id), reverse=True):
        if cycle.status == "promoted" or (cycle.order.trigger == "manual" and cycle.status != "running"):
            break
        count += cycle.status in FAILED
    return count


def _asks(
    reports: Sequence[Report],
    cycles: Sequence[Cycle],
    retrain: Retrain,
    now: int,
    own: Mapping[str, float],
    last_tick: int | None,
    persist: int,
    version: int | None,
) -> tuple[list[Ask], dict[str, str]]:
    asks: list[Ask] = []
    silent: dict[str, str] = {}
    found: Ask | str
    if retrain.schedule is not None:
        tick = due_tick(retrain, cycles, now, last_tick)
        if tick is None:
            silent["schedule"] = "no tick is due"
        else:
            asks.append(
                Ask(
                    trigger="schedule",
                    reason=f"the tick of {iso(tick)} ({retrain.schedule}, {retrain.zone})",
                    tick=tick,
                )
            )
    live = _about_live(reports, cycles, version)
    if retrain.on_drift:
        found = _drift(live, persist)
        if isinstance(found, Ask):
            asks.append(found)
        else:
            silent["drift"] = found
    for declared, below in ((retrain.when_below, True), (retrain.when_drops, False)):
        if declared is not None:
            found = _decay(live, declared[0], float(declared[1]), below=below, own=own)
            if isinstance(found, Ask):
                asks.append(found)
            else:
                silent["when_below" if below else "when_drops"] = found
    return asks, silent


def _about_live(reports: Sequence[Report], cycles: Sequence[Cycle], version: int | None) -> list[Report]:
    """Reports on the live version; those that name no version, from windows that begin after it went live."""
    promoted = [c for c in cycles if c.status == "promoted" and c.version is not None and version in (None, c.version)]
    since = 0
    if promoted:
        newest = promoted[-1]
        version, since = newest.version, newest.started if newest.ended is None else newest.ended
    kept = (r for r in reports if version is None or (r.start >= since if r.version is None else r.version == version))
    return sorted(kept, key=lambda r: (r.end, r.id))


def _drift(reports: Sequence[Report], persist: int) -> Ask | str:
    """The same thing must alarm in each of the last ``persist`` reports; windows that could say nothing are passed
    over."""
    said = [r for r in reports if r.kind == "drift" and r.outcome in ("ok", "alarm")][-persist:]
    if not said:
        return "no drift report yet"
    if said[-1].outcome == "ok":
        return "the newest report shows none"
    if len(said) < persist or any(r.outcome != "alarm" for r in said):
        return f"seen, but not yet in {persist} reports in a row"
    common = set.intersection(*({(s.family, s.name) for s in r.signals if s.alarm} for r in said))
    if not common:
        return f"no single thing drifts in {persist} reports in a row"
    strongest = sorted((s for s in said[-1].signals if (s.family, s.name) in common), key=_strength, reverse=True)
    shown = ", ".join(f"{s.name} ({s.family} {s.value:.3g})" for s in strongest[:3] if s.value is not None)
    more = f" and {len(common) - 3} more" if len(common) > 3 else ""
    return Ask(
        trigger="drift",
        reason=f"drift in {persist} reports in a row: {shown}{more}",
        reports=[r.id for r in said],
    )


def _decay(reports: Sequence[Report], metric: str, limit: float, *, below: bool, own: Mapping[str, float]) -> Ask | str:
    newest = next((r for r in reversed(reports) if r.kind == "performance" and r.outcome in ("ok", "alarm")), None)
    signal = (
        next(
            (s for s in newest.signals if s.family == "performance" and s.name == metric and s.value is not None), None
        )
        if newest
        else None
    )
    if newest is None or signal is None:
        return f"no report of {metric} yet"
    lower = not metrics.get(metric).greater_is_better
    if below:
        floor, against = limit, f"the floor {limit:.4g}"
    elif metric not in own:
        return f"the live version has no hold-out {metric} to compare with"
    else:
        floor = own[metric] + limit if lower else own[metric] - limit
        against = f"its own hold-out {own[metric]:.4g} {'plus' if lower else 'minus'} {limit:.4g}"
    edge = signal.low if lower else signal.high
    if edge is None:
        return f"{metric} has no interval"
    seen = f"{metric} {signal.value:.4g} [{_edge(signal.low)}, {_edge(signal.high)}]"
    if edge <= floor if lower else edge >= floor:
        return f"{seen} is not wholly worse than {against}"
    return Ask(
        trigger="degradation",
        reason=f"{seen} is wholly worse than {against}",
        reports=[newest.id],
    )


def _refusal(
    cycles: Sequence[Cycle], retrain: Retrain, now: int, open_order: RetrainOrder | None, backoff: float
) -> tuple[Guard, str, bool] | None:
    for start, end in retrain.freeze:
        if to_us(start) <= now < to_us(end):
            return "freeze", f"frozen from {start} to {end}", False
    running = next((c for c in cycles if c.status == "running"), None)
    if running is not None:
        return "under way", f"cycle {running.id} is under way", False
    if open_order is not None:
        return "under way", f"order {open_order.id} is waiting", False
    failures = breaker(cycles)
    if retrain.breaker and failures >= retrain.breaker:
        return "breaker", f"{failures} cycles in a row failed; a person must look and order the next one", True
    if cycles:
        last = max(c.order.at or c.started for c in cycles)
        rest = _cooldown(cycles, duration_us(retrain.cooldown), backoff)
        if now - last < rest:
            return (
                "cooldown",
                f"the last order was at {iso(last)}, the next may come {duration_text(rest)} later",
                False,
            )
    spent = sum(1 for c in cycles if now - duration_us(retrain.budget_window) < (c.order.at or c.started) <= now)
    if spent >= retrain.budget:
        return (
            "budget",
            f"{spent} of {retrain.budget} orders in {duration_text(duration_us(retrain.budget_window))} are spent",
            True,
        )
    return None


def _cooldown(cycles: Sequence[Cycle], cooldown: int, backoff: float) -> int:
    rejected = 0
    for cycle in reversed(cycles):
        if cycle.status != "rejected":
            break
        rejected += 1
    return round(cooldown * min(float(BACKOFF_MOST), backoff**rejected))


def _strength(signal: Signal) -> float:
    return abs(signal.value or 0.0) / (signal.floor or 1.0)


def _edge(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def as_json(result: RetrainOrder | NoOrder) -> dict[str, object]:
    """An order or a no as plain data, told apart by ``order``."""
    plain: dict[str, object] = msgspec.to_builtins(result)
    return {"order": isinstance(result, RetrainOrder), **plain}
