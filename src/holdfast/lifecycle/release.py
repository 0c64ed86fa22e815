"""What is released, and the one function traffic is moved by.

The ledger holds the current release of each (service, environment); the signed release file that replicas poll is a
projection of it, written after the commit and repaired by ``project_files``. Every door (CLI, loop, REST) arrives here.
A production release needs a version whose verdict passed for exactly its content (policy enforce) and whose staging
release passed smoke; approvals (stage, alias) are moved by ``registry.pointers`` when a rollout ends as champion.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from holdfast.core.definitions import Service
from holdfast.core.errors import Conflict, NotFound
from holdfast.core.identity import iso
from holdfast.core.ports import Ledger, LedgerTransaction
from holdfast.core.records import ModelVersion, Release, Rollout
from holdfast.lifecycle import approval
from holdfast.registry.approval import Terms

if TYPE_CHECKING:
    from holdfast.workspace import Workspace

RELEASES = "releases"
ROLLOUTS = "rollouts"
LIVE_FEATURES = "live_features"
ABTESTS = "abtests"


def current(ledger: Ledger, service: str, environment: str) -> Release | None:
    """The release that answers now, as the ledger has it."""
    row = ledger.get(RELEASES, f"{service}/{environment}")
    return msgspec.convert(row, Release) if row else None


def rollout_of(ledger: Ledger, service: str) -> Rollout | None:
    """The newest rollout of a service, running or ended."""
    row = ledger.get(ROLLOUTS, service)
    return msgspec.convert(row, Rollout) if row else None


def history(ledger: Ledger, service: str, environment: str = "production") -> list[Release]:
    """All releases of a service and environment, oldest first."""
    entries = ledger.query(kind="release", subject=service, limit=100_000)
    releases = [msgspec.convert(e.body["release"], Release) for e in entries]
    return [r for r in releases if r.environment == environment]


def champions_before(ledger: Ledger, service: str) -> list[tuple[Release, bool]]:
    """What a rollback may go back to, nearest first: (release, whether its champion was approved then). A champion that was
    itself left by a rollback is none of it until it is deployed anew."""
    stack: list[tuple[str, Release, bool]] = []
    for entry in ledger.query(kind="release", subject=service, limit=100_000):
        found = msgspec.convert(entry.body["release"], Release)
        if found.environment != "production" or found.champion is None:
            continue
        content = found.champion.content
        if entry.body.get("back"):
            left = set()
            while stack and stack[-1][0] != content:
                left.add(stack.pop()[0])
            stack = [each for each in stack if each[0] not in left]
        if stack and stack[-1][0] == content:
            stack.pop()
        stack.append((content, found, bool(entry.body.get("approved"))))
    return [(found, approved) for _, found, approved in reversed(stack[:-1])]


def describe(release: Release | None) -> str:
    """One line: who answers, with which share."""
    if release is None or release.champion is None:
        return "nothing released"
    text = f"{release.model}@{release.champion.version}"
    if release.challenger is not None:
        text += f", challenger @{release.challenger.version} at {release.challenger.weight:g} %"
    if release.shadow is not None:
        text += f", shadow @{release.shadow.version}"
    return f"{text} since {iso(release.at)}"


def move(
    tx: LedgerTransaction, change: Release, *, under: Terms, models: Iterable[str], at: int, actor: str, back: bool = False,
) -> Release:  # fmt: skip
    """Record a release under the next sequence, in the caller's transaction: the one function traffic is moved by.
    ``back``: it is a rollback, and what it leaves is no way back any more.

    Raises:
        NotApproved: an arm enters production, or grows there, without what ``under`` asks for at this moment.
    """
    key = f"{change.service}/{change.environment}"
    known = tx.get(RELEASES, key)
    entering = approval.entering(msgspec.convert(known, Release) if known else None, change)
    approved = approval.require(tx, entering, under, service=change.service, models=models, at=at)
    release = msgspec.structs.replace(change, sequence=(known["sequence"] + 1 if known else 1), at=at, signature="")
    tx.put(RELEASES, key, msgspec.to_builtins(release))
    body = {"release": msgspec.to_builtins(release), "policy": under.policy, "approved": approved}
    body |= {"back": True} if back else {}
    tx.append("release", subject=release.service, at=at, actor=actor, body=body)
    return release


def publish(tx: LedgerTransaction, change: Release, *, service: Service, under: Terms, at: int, actor: str) -> Release:
    """``move`` with what the service's prediction log is declared to keep. ``under`` are the service's terms
    (``approval.terms_of``), read before the transaction begins: they come from the project, not from the ledger."""
    change = msgspec.structs.replace(change, log=service.prediction_log.policy)
    return move(tx, change, under=under, models=dict.fromkeys([service.model.name, change.model]), at=at, actor=actor)


def follow_log(ws: Workspace, service: Service, *, at: int) -> bool:
    """Tell the replicas when the declared prediction log differs from the one in force; True when it did."""
    moved = False
    for environment in ("production", "staging"):
        live = current(ws.ledger, service.name, environment)
        if live is None or live.champion is None or live.log == service.prediction_log.policy:
            continue
        with ws.ledger.transaction() as tx:
            row = tx.get(RELEASES, f"{service.name}/{environment}")
            now = msgspec.convert(row, Release)
            publish(
                tx,
                msgspec.structs.replace(now, reason="what the prediction log keeps was declared anew"),
                service=service,
                under=approval.terms_of(ws, service),
                at=at,
                actor=ws.actor,
            )
        moved = True
    if moved:
        project_files(ws, service.name)
    return moved


def set_weight(ws: Workspace, service: Service, weight: float, *, at: int, reason: str) -> Release:
    """Move the running challenger to another weight (percent).

    Raises:
        NotFound: there is no challenger. NotApproved: it may not answer production traffic.
    """
    live = current(ws.ledger, service.name, "production")
    if live is None or live.challenger is None:
        raise NotFound(f"service {service.name!r} has no challenger", hint="deploy a version first")
    under = approval.terms_of(ws, service)
    with ws.ledger.transaction() as tx:
        row = tx.get(RELEASES, f"{service.name}/production")
        live = msgspec.convert(row, Release) if row else live
        if live.challenger is None:
            raise Conflict("the challenger left meanwhile", hint=f"see `holdfast release status {service.name}`")
        test = tx.get(ABTESTS, service.name)
        if test is not None and test["status"] == "running":
            raise Conflict(
                "an A/B test is running: another weight would assign keys anew",
                hint=f"end it first: holdfast release abtest stop {service.name}",
            )
        release = publish(
            tx,
            msgspec.structs.replace(
                live, challenger=msgspec.structs.replace(live.challenger, weight=weight), reason=reason
            ),
            service=service,
            under=under,
            at=at,
            actor=ws.actor,
        )
    project_files(ws, service.name)
    return release


def project_files(ws: Workspace, service: str) -> None:
    """Write the release files replicas poll from what the ledger says; nothing where they already agree."""
    from holdfast.serving import release_file

    key = ws.secret("release")
    for environment in ("production", "staging"):
        release = current(ws.ledger, service, environment)
        if release is None:
            continue
        known = release_file.read(ws.home / "releases", service, environment, key)
        if known is None or known.sequence < release.sequence:
            with suppress(Conflict):  # another process projected a newer one meanwhile
                release_file.write(ws.home / "releases", release, key)


def require_no_other(tx: LedgerTransaction, service: str) -> None:
    """Raises:
    Conflict: a rollout or an A/B test of the service is under way."""
    known = tx.get(ROLLOUTS, service)
    if known is not None and known.get("status", "running") in ("running", "holding"):
        raise Conflict(
            f"{known['model']}@{known['version']} is being rolled out on {service!r}",
            hint=f"wait for it, or `holdfast release abort {service}`",
        )
    test = tx.get(ABTESTS, service)
    if test is not None and test.get("status", "running") == "running":
        raise Conflict(
            f"{test['model']}@{test['version']} is in an A/B test on {service!r}",
            hint=f"wait for it, or `holdfast release abtest stop {service}`",
        )


def note_live_features(
    ws: Workspace, tx: LedgerTransaction, service: str, model: str, version: int, content: str
) -> None:
    """Keep which features the new champion of a service uses."""
    from holdfast.registry import package as packages

    manifest = packages.load(ws.objects, content)
    tx.put(LIVE_FEATURES, service, {"model": f"{model}@{version}", "features": manifest.features})


def key_is_hidden(ws: Workspace, release: Release) -> bool:
    """Whether the log of this release has hashed routing keys."""
    if not release.log or release.champion is None:
        return False
    from holdfast.registry import package as packages
    from holdfast.serving import model

    if release.log.get("key") == "hash":
        return True
    keys = model.entity_keys(packages.load(ws.objects, release.champion.content))
    return any(k in release.log.get("redact", {}) for k in keys)


def policy_of(ws: Workspace, service: Service) -> str:
    """off | warn | enforce for this service's traffic."""
    return approval.terms_of(ws, service).policy


def missing_for_production(ws: Workspace, service: Service, version: ModelVersion, *, at: int) -> list[str]:
    """What a version still lacks at ``at`` before it may answer production traffic; empty when nothing."""
    if version.name != service.model.name:
        return [f"to be a version of {service.model.name!r}, which {service.name!r} serves"]
    return approval.missing(ws.ledger, version, approval.terms_of(ws, service), service=service.name, at=at)


def require_production(ws: Workspace, service: Service, version: ModelVersion, *, at: int) -> None:
    """Refuse early, before anything is built on a version that could not go live; ``publish`` asks again when it does.

    Raises:
        NotApproved: policy is enforce and something is missing; the message names all of it.
    """
    missing = missing_for_production(ws, service, version, at=at)
    if missing and policy_of(ws, service) == "enforce":
        raise approval.refusal(version, missing)
