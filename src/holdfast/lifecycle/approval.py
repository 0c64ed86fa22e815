"""May this arm answer production traffic? Asked by ``release.publish`` inside the transaction that moves the traffic, for
every arm that enters or grows, whoever moves it: a person, a rollout, an A/B test, the loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from holdfast.core.definitions import Service
from holdfast.core.errors import HoldfastError, NotApproved, NotFound
from holdfast.core.ports import Ledger, LedgerTransaction
from holdfast.core.records import Arm, ModelVersion, Release
from holdfast.registry import approval
from holdfast.registry.approval import Terms
from holdfast.registry.versions import VERSIONS, key

if TYPE_CHECKING:
    from holdfast.workspace import Workspace

SMOKES = "smokes"


def terms_of(ws: Workspace, service: Service) -> Terms:
    """What a service's traffic asks for: the strictest policy of all services of its model; the rules of its own gate
    where that is among the strictest."""
    under = terms_of_model(ws, service.model.name, service)
    if service.gate.policy != under.policy or not service.gate.rules:
        return under
    return replace(approval.terms_for([service], service.model.name), policy=under.policy)


def terms_of_model(ws: Workspace, name: str, service: Service | None = None) -> Terms:
    """What an approval of the model ``name`` asks for. ``service`` is taken as given; the others are the project's. While
    the project does not load, everything is enforced, because what it would have said is not known."""
    try:
        known = _services(ws)
    except HoldfastError:
        return replace(approval.terms_for([service] if service else [], name), policy="enforce")
    if service is not None:
        known[service.name] = service
    return approval.terms_for(known.values(), name, ws.settings.gate.policy)


def terms_of_service(ws: Workspace, service: str, model: str) -> Terms:
    """The terms of a service known by its name only: one that answers may have left the project."""
    try:
        found = _services(ws).get(service)
    except HoldfastError:
        found = None
    return terms_of(ws, found) if found is not None else terms_of_model(ws, model)


_read: dict[tuple[Path, str], tuple[tuple[int, int], dict[str, Service]]] = {}


def _services(ws: Workspace) -> dict[str, Service]:
    """The project's services; its module is run again when its file has changed."""
    module = ws.settings.definitions
    path = ws.root / (module if module.endswith(".py") else module.replace(".", "/") + ".py")
    try:
        status = path.stat()
    except OSError:
        mark = (0, 0)  # a package, or none: always read
    else:
        mark = (status.st_mtime_ns, status.st_size)
    held = _read.get((ws.root, module))
    if held is not None and mark != (0, 0) and held[0] == mark:
        return dict(held[1])
    try:
        services = dict(ws.project().services)
    except NotFound:
        services = {}
    _read[ws.root, module] = (mark, services)
    return dict(services)


def missing(tx: LedgerTransaction | Ledger, version: ModelVersion, under: Terms, *, service: str, at: int) -> list[str]:
    """What a version still lacks before it may answer for ``service``, each in words; empty when nothing."""
    reference = f"{version.name}@{version.version}"
    lacking = []
    verdict = approval.missing(cast(LedgerTransaction, tx), version, under, at=at)
    if verdict:
        lacking.append(f"{verdict}: run `holdfast check {reference}`")
    smoke = tx.get(SMOKES, f"{service}/{version.content}")
    if smoke is None or smoke.get("outcome") != "pass":
        lacking.append(f"no staging release of it passed smoke: run `holdfast deploy {reference} --to staging`")
    return lacking


def require_version(ws: Workspace, version: ModelVersion, *, service: str, at: int) -> None:
    """Refuse what would carry a version into production outside the ledger: an image has its release built in.

    Raises:
        NotApproved: the policy is enforce and something is missing.
    """
    under = terms_of_service(ws, service, version.name)
    lacking = missing(ws.ledger, version, under, service=service, at=at) if under.enforced else []
    if lacking:
        raise refusal(version, lacking)


def entering(before: Release | None, change: Release) -> list[tuple[str, Arm]]:
    """The arms of a release that get what they did not have: a place, or a larger share."""
    if change.environment != "production":
        return []
    held: dict[str, float] = {}
    if before is not None:
        for arm in (before.champion, before.challenger):
            if arm is not None:
                held[arm.content] = max(held.get(arm.content, 0.0), arm.weight)
    found: list[tuple[str, Arm]] = []
    if change.champion is not None and (
        before is None or before.champion is None or before.champion.content != change.champion.content
    ):
        found.append(("champion", change.champion))
    if change.challenger is not None and change.challenger.weight > held.get(change.challenger.content, -1.0):
        found.append(("challenger", change.challenger))
    shadows = {a.content for a in (before.shadow, before.challenger, before.champion) if a} if before else set()
    if change.shadow is not None and change.shadow.content not in shadows:
        found.append(("shadow", change.shadow))
    return found


def require(
    tx: LedgerTransaction,
    arms: Iterable[tuple[str, Arm]],
    under: Terms,
    *,
    service: str,
    models: Iterable[str],
    at: int,
) -> bool:
    """Whether every entering arm has what it needs.

    Args:
        models: the names an arm's version may be registered under.

    Raises:
        NotApproved: one has not, and the policy is enforce; the message names what it lacks, the hint all of it.
    """
    approved = True
    for role, arm in arms:
        version = _registered(tx, arm, list(models))
        lacking = missing(tx, version, under, service=service, at=at)
        if lacking and under.enforced:
            raise refusal(version, lacking, role)
        approved = approved and not lacking
    return approved


def refusal(version: ModelVersion, lacking: list[str], role: str = "") -> NotApproved:
    """The refusal of traffic, naming what is missing."""
    goal = f"production traffic as {role}" if role else "production traffic"
    return NotApproved(f"{version.name}@{version.version} may not answer {goal}: {lacking[0]}", hint="; ".join(lacking))


def _registered(tx: LedgerTransaction, arm: Arm, models: list[str]) -> ModelVersion:
    """Whose version an arm is: a release names one model, and its challenger may be of another."""
    for name in models:
        row = tx.get(VERSIONS, key(name, arm.version))
        if row is not None and row["content"] == arm.content:
            return ModelVersion(name=name, version=arm.version, content=arm.content, run_id=row.get("run_id"))
    return ModelVersion(name=models[0], version=arm.version, content=arm.content, run_id=None)
