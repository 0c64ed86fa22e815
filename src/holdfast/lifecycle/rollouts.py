"""Rollouts: from staging through shadow and canary weights to champion, or back. ``serving/steps.py`` says the move,
this carries it out: the rollout's state and the release change in one ledger transaction, then the files follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec

from holdfast.core.definitions import Service
from holdfast.core.errors import NotApproved, NotFound
from holdfast.core.identity import canonical, new_id
from holdfast.core.ports import Ledger, LedgerTransaction
from holdfast.core.records import ABTest, Arm, ModelVersion, Release, Rollout
from holdfast.lifecycle import approval
from holdfast.lifecycle.durable import Joined
from holdfast.lifecycle.judge import Judged, judge
from holdfast.lifecycle.release import (
    RELEASES,
    ROLLOUTS,
    current,
    note_live_features,
    project_files,
    publish,
    require_no_other,
    require_production,
    rollout_of,
)
from holdfast.registry import live_verdicts
from holdfast.registry.approval import Terms

if TYPE_CHECKING:
    from holdfast.workspace import Workspace


def begin(ws: Workspace, service: Service, version: ModelVersion, *, at: int, cycle: str | None = None) -> Rollout:
    """Start a rollout of ``version``: the first release of a service goes live after smoke, later ones through the plan.

    Raises:
        NotApproved: the gate or smoke is missing under enforce.
        Conflict: another rollout of this service is under way.
    """
    from holdfast.serving import steps

    require_production(ws, service, version, at=at)
    plan = steps.plan(service.rollout)
    live = current(ws.ledger, service.name, "production")
    if live is None or live.champion is None:
        plan = [plan[0], plan[-1]]
    rollout = Rollout(
        id=cycle or new_id(at), service=service.name, model=version.name, version=version.version, content=version.content,
        plan=plan, step=0, entered=at, started=at, cycle=cycle,
    )  # fmt: skip
    with ws.ledger.transaction() as tx:
        known = tx.get(ROLLOUTS, service.name)
        if known is not None:
            before = msgspec.convert(known, Rollout)
            if before.id == rollout.id:
                return before
        require_no_other(tx, service.name)
        tx.put(ROLLOUTS, service.name, msgspec.to_builtins(rollout))
        tx.append(
            "rollout.begun",
            subject=service.name,
            body={"id": rollout.id, "version": version.version, "content": version.content, "plan": plan},
            at=at,
            actor=ws.actor,
        )
    return rollout


def advance(ws: Workspace, service: Service, *, now: int) -> Rollout | None:
    """Judge the present step of the running rollout and make the move it calls for. None where nothing is under way."""
    from holdfast.serving import steps

    rollout = rollout_of(ws.ledger, service.name)
    if rollout is None or rollout.status not in ("running", "holding"):
        return rollout
    while True:
        before = rollout
        # What it began with may have been taken back since: a verdict, a waiver's time, the version itself.
        lacking = _lacking(ws, service, rollout, now=now)
        if lacking:
            return _apply(ws, service, rollout, steps.Move("abort", 0.0, rollout.step, lacking), now=now)
        judged = judge(ws, service, rollout, now=now)
        move = steps.next(rollout, judged.outcome, now)  # type: ignore[arg-type]
        try:
            rollout = _apply(ws, service, rollout, move, judged, now=now)
        except NotApproved as error:  # taken back between the question above and the move
            return _apply(ws, service, before, steps.Move("abort", 0.0, before.step, error.message), now=now)
        if move.action != "advance" or rollout.step == before.step:
            return rollout
        if rollout.plan[rollout.step]["step"] in ("canary", "shadow"):
            return rollout


def _lacking(ws: Workspace, service: Service, rollout: Rollout, *, now: int) -> str:
    """What keeps a running rollout's version from production traffic under enforce, in words; empty when nothing. Smoke
    is a step of the rollout itself and judged there."""
    under = approval.terms_of(ws, service)
    version = ModelVersion(name=rollout.model, version=rollout.version, content=rollout.content, run_id=None)
    lacking = approval.missing(ws.ledger, version, under, service=service.name, at=now) if under.enforced else []
    if not lacking or rollout.plan[rollout.step]["step"] == "smoke":
        return ""
    return f"{version.name}@{version.version} lost its approval: {lacking[0]}"


def _apply(
    ws: Workspace, service: Service, rollout: Rollout, move: Any, judged: Judged | None = None, *, now: int
) -> Rollout:
    """Carry a move out: the rollout's state, the release and the verdict that ended the step change in one transaction, then
    the files follow."""
    why = judged.why if judged is not None else ()
    status = {
        "promote": "promoted",
        "rollback": "rolled back",
        "abort": "aborted",
        "hold": rollout.status,
        "advance": "running",
    }[move.action]
    reason = move.reason + (f": {'; '.join(why)}" if why and move.action != "advance" else "")
    if move.action == "hold" and reason == rollout.reason:
        return rollout
    event = {"at": now, "action": move.action, "step": move.step, "weight": move.weight, "reason": reason}
    after = msgspec.structs.replace(
        rollout, status=status, reason=reason, step=move.step, entered=now if move.action == "advance" else rollout.entered,
        history=[*rollout.history, event],
    )  # fmt: skip
    arm = Arm(version=rollout.version, content=rollout.content, weight=move.weight)
    under, of_model = approval.terms_of(ws, service), approval.terms_of_model(ws, rollout.model, service)
    ended = _ended(ws, rollout, judged) if judged is not None and move.action != "hold" else None
    with ws.ledger.transaction() as tx:
        if ended is not None:
            live_verdicts.attach(tx, ended, number=rollout.step, at=now, actor=ws.actor)
        row = tx.get(RELEASES, f"{service.name}/production")
        live = msgspec.convert(row, Release) if row else None
        base = live or Release(
            service=service.name,
            model=rollout.model,
            environment="production",
            sequence=0,
            champion=None,
            salt=service.name,
        )
        base = msgspec.structs.replace(base, reason=reason, salt=rollout.id, shadow=None)
        if move.action == "promote":
            publish(
                tx,
                msgspec.structs.replace(
                    base, model=rollout.model, champion=msgspec.structs.replace(arm, weight=100.0), challenger=None
                ),
                service=service,
                under=under,
                at=now,
                actor=ws.actor,
            )
            note_live_features(ws, tx, service.name, rollout.model, rollout.version, rollout.content)
            approve_champion(ws, tx, rollout, under=of_model, at=now)
        elif move.action in ("rollback", "abort"):
            if live is not None:
                publish(
                    tx,
                    msgspec.structs.replace(base, challenger=None),
                    service=service,
                    under=under,
                    at=now,
                    actor=ws.actor,
                )
        elif move.action == "advance":
            kind = rollout.plan[move.step]["step"]
            if kind == "shadow":
                publish(
                    tx,
                    msgspec.structs.replace(base, shadow=arm, challenger=None),
                    service=service,
                    under=under,
                    at=now,
                    actor=ws.actor,
                )
            elif kind == "canary":
                publish(
                    tx,
                    msgspec.structs.replace(base, challenger=arm),
                    service=service,
                    under=under,
                    at=now,
                    actor=ws.actor,
                )
        tx.put(ROLLOUTS, service.name, msgspec.to_builtins(after))
        tx.append(
            "rollout.moved",
            subject=service.name,
            body={"id": rollout.id, **event, "status": status},
            at=now,
            actor=ws.actor,
        )
    project_files(ws, service.name)
    return after


def _ended(ws: Workspace, rollout: Rollout, judged: Judged) -> live_verdicts.LiveVerdict | None:
    """What live traffic said at the end of a step, its evidence stored by its digest; None where none was measured."""
    if judged.verdict is None:
        return None
    ws.objects.put(canonical([msgspec.to_builtins(e) for e in judged.evidence]))
    plan = rollout.plan[rollout.step]
    return live_verdicts.LiveVerdict(
        service=rollout.service, step=plan["step"], weight=float(plan.get("weight", 0.0)), verdict=judged.verdict
    )


def approve_champion(ws: Workspace, tx: LedgerTransaction, rollout: Rollout | ABTest, *, under: Terms, at: int) -> None:
    """Move stage Production and alias champion to the version that now answers, in the transaction that lets it answer;
    archive the one before. ``under`` are the model's terms (``approval.terms_of_model``).

    Raises:
        NotApproved: another service of this model asks for more than this one.
    """
    from holdfast.registry import pointers

    ledger = cast(Ledger, Joined(tx))
    pointers.move_stage(
        ledger,
        rollout.model,
        rollout.version,
        "Production",
        policy=under,
        at=at,
        actor=ws.actor,
        reason=f"{'rollout' if isinstance(rollout, Rollout) else 'A/B test'} {rollout.id}",
    )
    pointers.move_alias(
        ledger,
        rollout.model,
        "champion",
        rollout.version,
        policy=under,
        at=at,
        actor=ws.actor,
        reason=f"{'rollout' if isinstance(rollout, Rollout) else 'A/B test'} {rollout.id}",
    )


def end(ws: Workspace, service: Service, action: str, *, at: int, reason: str) -> Rollout:
    """End the running rollout by hand: ``promote`` (still needs approval) or ``abort``.

    Raises:
        NotFound: no rollout is under way. NotApproved: promote without what the gate asks for.
    """
    from holdfast.registry import versions
    from holdfast.serving.steps import Move

    rollout = rollout_of(ws.ledger, service.name)
    if rollout is None or rollout.status not in ("running", "holding"):
        raise NotFound(f"no rollout of {service.name!r} is under way", hint="`holdfast deploy NAME@VERSION` starts one")
    if action == "promote":
        require_production(ws, service, versions.get(ws.ledger, rollout.model, rollout.version), at=at)
        return _apply(ws, service, rollout, Move("promote", 100.0, len(rollout.plan) - 1, reason), now=at)
    return _apply(ws, service, rollout, Move("abort", 0.0, rollout.step, reason), now=at)
