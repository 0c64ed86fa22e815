"""The way back: all traffic to the champion, or to the newest champion before that may answer again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from holdfast.core.errors import NotApproved, NotFound
from holdfast.core.ports import LedgerTransaction
from holdfast.core.records import Release, Rollout
from holdfast.lifecycle import approval
from holdfast.lifecycle.release import ABTESTS, RELEASES, ROLLOUTS, champions_before, current, move, project_files
from holdfast.registry.approval import Terms

if TYPE_CHECKING:
    from holdfast.workspace import Workspace


def rollback(ws: Workspace, service: str, *, at: int, reason: str) -> Release:
    """Give traffic back at once: end a running rollout, else return to the newest champion before that is still approved,
    and not to one that was left by a rollback itself: called twice it goes back twice.
    Its verdict may be by the rules of its own time: a way back must not wait for a gate that was changed since.

    Raises:
        NotFound: nothing is live, or there is nothing to go back to.
        NotApproved: no champion before has what the gate asks for, and the policy is enforce.
    """
    live = current(ws.ledger, service, "production")
    under = approval.terms_of_service(ws, service, live.model if live else "")
    with ws.ledger.transaction() as tx:
        row = tx.get(RELEASES, f"{service}/production")
        live = msgspec.convert(row, Release) if row else None
        if live is None or live.champion is None:
            raise NotFound(f"service {service!r} has no production release", hint="deploy a version first")
        known = tx.get(ROLLOUTS, service)
        rollout = msgspec.convert(known, Rollout) if known else None
        way_back = under
        if live.challenger is not None or live.shadow is not None:
            target = msgspec.structs.replace(live, challenger=None, shadow=None, reason=reason)
        else:
            earlier, way_back = _champion_before(ws, tx, live, under, at=at)
            target = msgspec.structs.replace(
                live, model=earlier.model, champion=earlier.champion, challenger=None, shadow=None, reason=reason
            )
        release = move(tx, target, under=way_back, models=[target.model], at=at, actor=ws.actor, back=True)
        if rollout is not None and rollout.status in ("running", "holding"):
            ended = msgspec.structs.replace(
                rollout,
                status="rolled back",
                reason=reason,
                history=[
                    *rollout.history,
                    {"at": at, "action": "rollback", "step": rollout.step, "weight": 0.0, "reason": reason},
                ],
            )
            tx.put(ROLLOUTS, service, msgspec.to_builtins(ended))
        test = tx.get(ABTESTS, service)
        if test is not None and test["status"] == "running":
            stopped = {**test, "status": "stopped", "reason": f"rollback: {reason}", "ended": at}
            tx.put(ABTESTS, service, stopped)
            tx.append("abtest.ended", subject=service, body=stopped, at=at, actor=ws.actor)
        tx.append(
            "rollback",
            subject=service,
            body={"to": release.champion.version if release.champion else None, "reason": reason},
            at=at,
            actor=ws.actor,
        )
    project_files(ws, service)
    return release


def _champion_before(
    ws: Workspace, tx: LedgerTransaction, live: Release, under: Terms, *, at: int
) -> tuple[Release, Terms]:
    """The newest release with another champion that may answer again, and the terms it does so under."""
    refused: list[NotApproved] = []
    champion = live.champion.content if live.champion else ""
    for earlier, approved in champions_before(ws.ledger, live.service):
        arm = earlier.champion
        if arm is None or arm.content == champion:
            continue
        then = replace(under, rules=None, decision_record=False) if approved else under
        try:
            approval.require(tx, [("champion", arm)], then, service=live.service, models=[earlier.model], at=at)
        except NotApproved as error:
            refused.append(error)
            continue
        return earlier, then
    if refused:
        raise refused[0]
    raise NotFound(
        f"service {live.service!r} has had no other champion before {live.model}@{live.champion.version if live.champion else ''}",
        hint="deploy another version by its name; one that a rollback left comes back so, and not by another rollback",
    )
