"""Materialization on a schedule: each tick of a view's cron has exactly one outcome, and somebody hears of a bad one.

Tables: ``materializations`` (key view) says up to which tick a view has come; ``materialize_ticks`` (key view/tick) holds each
tick's one outcome: done, failed, or skipped, because a later one that was due too covers it. A view is worked on under a
lease in real time; its outcome is recorded in one transaction with the incident it opens or closes. A killed run leaves no
outcome, so its tick is taken up again, to the same end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from holdfast.core.errors import Conflict, HoldfastError
from holdfast.core.identity import iso
from holdfast.core.records import Json
from holdfast.lifecycle import ingest
from holdfast.lifecycle.durable import Joined, holding
from holdfast.retraining import schedule

if TYPE_CHECKING:
    from holdfast.core.definitions import FeatureView, Project
    from holdfast.core.ports import Ledger, LedgerTransaction
    from holdfast.workspace import Workspace

STATE = "materializations"
TICKS = "materialize_ticks"
INCIDENTS = "features"
"""The name under which incidents of views are kept: a view belongs to no one service."""

Tell = Callable[[str, str], None]


def of(project: Project) -> dict[str, FeatureView]:
    """The views that have a schedule.

    Raises:
        BadInput: a schedule or zone that cannot be read.
    """
    found = {name: view for name, view in ingest.all_views(project).items() if view.materialize is not None}
    for view in found.values():
        schedule.check(str(view.materialize), view.zone)
    return found


class Stopped(Exception):
    """The controller ends: the tick stays without an outcome, and is taken up again."""


def tick(
    ws: Workspace, views: Mapping[str, FeatureView], *, now: int, holder: str, tell: Tell, stop: Callable[[], bool] = lambda: False
) -> list[Json]:  # fmt: skip
    """Materialize what is due at ``now``; the outcomes. A view that was never materialized is due at once. When ``stop()``
    turns true, work ends at the next chunk."""
    done = []
    for view in views.values():
        if stop() or not _due(ws.ledger, view, now):
            continue
        with suppress(Conflict, Stopped), holding(ws.ledger, f"materialize/{view.name}", holder):
            due = _due(ws.ledger, view, now)  # another holder may have been faster
            if due:
                done.append(_run(ws, view, due, now=now, tell=tell, stop=stop))
    return done


def late(ws: Workspace, views: Mapping[str, FeatureView], *, now: int) -> list[str]:
    """Raise an incident for every view whose last tick but one is still without an outcome; their names."""
    from holdfast.monitoring import alerts

    found = []
    for view in views.values():
        due = _due(ws.ledger, view, now)
        if len(due) < 2:
            continue
        found.append(view.name)
        thing = f"{view.name}: late"
        if any(i.thing == thing for i in alerts.incidents(ws.ledger, INCIDENTS, resolved=False)):
            continue
        alerts.raise_thing(
            ws.ledger, INCIDENTS, thing, title=f"feature view {view.name}: materialization is late",
            text=f"{len(due)} ticks since {iso(due[0])} have no outcome yet", at=now,
        )  # fmt: skip
    return found


def outcomes(ledger: Ledger, view: str) -> list[Json]:
    """Every tick of a view with its outcome, oldest first."""
    return [row for _, row in ledger.scan(TICKS, prefix=f"{view}/")]


def _due(ledger: Ledger, view: FeatureView, now: int) -> list[int]:
    row = ledger.get(STATE, view.name)
    return [now] if row is None else schedule.due(str(view.materialize), view.zone, int(row["tick"]), now)


def _run(
    ws: Workspace, view: FeatureView, due: list[int], *, now: int, tell: Tell, stop: Callable[[], bool]
) -> Json:  # fmt: skip
    """Run once for the newest tick that is due, and record the outcome of all."""

    def progress(done: int, total: int | None, what: str) -> None:
        if stop():
            raise Stopped

    end, began = due[-1], time.monotonic()
    outcome: Json = {"tick": end, "outcome": "done", "rows": 0, "entities": 0, "reason": ""}
    try:
        found = ingest.materialize(ws, start=None, end=end, names=[view.name], progress=progress)[0]
        outcome |= {"rows": found["rows"], "entities": found["entities"], "reason": found["kept_out"] or ""}
    except Stopped:
        raise
    except HoldfastError as error:
        outcome |= {"outcome": "failed", "reason": error.message}
    except Exception as error:  # noqa: BLE001 - one view's trouble stops neither the others nor the loop
        outcome |= {"outcome": "failed", "reason": f"{type(error).__name__}: {error}"[:300]}
    seconds = time.monotonic() - began
    replayed = ws.settings.clock == "replay"
    ended = now if replayed else max(now, ws.clock.now())
    missed = len(due) - 1 + len(schedule.due(str(view.materialize), view.zone, end, ended))
    outcome |= {"at": ended, "seconds": round(seconds, 3), "missed": missed}
    with ws.ledger.transaction() as tx:
        row = tx.get(STATE, view.name)
        if row is not None and int(row["tick"]) >= end:
            return {"view": view.name, **(tx.get(TICKS, _key(view.name, end)) or outcome)}
        for tick in due[:-1]:
            skipped = {"tick": tick, "outcome": "skipped", "reason": f"covered by the tick of {iso(end)}", "at": ended}
            tx.put(TICKS, _key(view.name, tick), skipped)
        tx.put(TICKS, _key(view.name, end), outcome)
        tx.put(STATE, view.name, {"tick": end, "at": ended, "outcome": outcome["outcome"], "reason": outcome["reason"]})
        body = {**outcome, "version": view.version, "skipped": len(due) - 1}
        tx.append(f"materialize.{outcome['outcome']}", subject=view.name, body=body, at=ended, actor=ws.actor)
        _page(tx, view, outcome, ws.actor)
    tell(
        "features",
        f"{view.name}: {outcome['outcome']}, {outcome['rows']:,} rows in {seconds:.1f} s{': ' if outcome['reason'] else ''}{outcome['reason']}",
    )
    return {"view": view.name, **outcome}


def _page(tx: LedgerTransaction, view: FeatureView, outcome: Json, actor: str) -> None:
    """Open or close the view's incidents, in the transaction of its outcome."""
    from holdfast.monitoring import alerts

    at, hint = outcome["at"], f"run it by hand: holdfast features materialize {view.name}"
    if outcome["outcome"] == "failed":
        title = f"feature view {view.name}: materialization failed"
        alerts.raise_in(tx, INCIDENTS, view.name, title=title, text=f"{outcome['reason']}\n{hint}", at=at)
        return
    joined = cast("Ledger", Joined(tx))
    if outcome["reason"]:
        title = f"feature view {view.name}: what is new of its source was kept out"
        alerts.raise_in(tx, INCIDENTS, view.name, title=title, text=str(outcome["reason"]), at=at)
    else:
        alerts.resolve_thing(joined, INCIDENTS, view.name, at=at, by=actor, note=f"done for {iso(outcome['tick'])}")
    if outcome["missed"]:
        title = f"feature view {view.name}: materialization is late"
        text = f"{outcome['missed']} ticks were due before the one of {iso(outcome['tick'])} was done, {outcome['seconds']} s of work"
        alerts.raise_in(tx, INCIDENTS, f"{view.name}: late", title=title, text=text, at=at)
    else:
        alerts.resolve_thing(joined, INCIDENTS, f"{view.name}: late", at=at, by=actor, note="on time again")


def _key(view: str, tick: int) -> str:
    return f"{view}/{tick:020d}"


def beside(
    ws: Workspace, views: Mapping[str, FeatureView], *, poll: float, tell: Tell, holder: str, stop: Callable[[], bool]
) -> threading.Thread:
    """A thread that ticks the schedules until ``stop()``, so that a long materialization holds up no rollout."""

    def work() -> None:
        while not stop():
            try:
                tick(ws, views, now=ws.clock.now(), holder=holder, tell=tell, stop=stop)
            except Exception as error:  # noqa: BLE001 - a ledger that is away now is there again later
                tell("error", f"features: {type(error).__name__}: {error}")
            end = time.monotonic() + poll
            while time.monotonic() < end and not stop():
                time.sleep(0.05)

    thread = threading.Thread(target=work, name="materialize", daemon=True)
    thread.start()
    return thread
