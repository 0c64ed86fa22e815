"""What a version must have before it may enter Production: the terms of the gate, and what a version still lacks.

Asked inside the transaction that moves a stage, an alias or traffic, so what is found missing here cannot arrive, and
what is there cannot go, between the question and the move.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from holdfast.core.definitions import Service
from holdfast.core.errors import BadInput, NotApproved
from holdfast.core.identity import digest
from holdfast.core.ports import LedgerTransaction
from holdfast.core.records import ModelVersion, RuleOutcome, Verdict
from holdfast.registry import waivers
from holdfast.registry.versions import DECISIONS, VERDICTS, VERSIONS, key

POLICIES = ("off", "warn", "enforce")


@dataclass(frozen=True)
class Terms:
    """What the gate of a model name asks for now.

    ``rules`` are the digests of the declared gates' rules, one of which the verdict must have been reached by; None where
    no gate is declared: any rules count then. ``decision_record``: a record of why must exist for the content.
    """

    policy: str
    rules: frozenset[str] | None = None
    decision_record: bool = False

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise BadInput(f"unknown gate policy {self.policy!r}", hint="use off, warn or enforce")

    @property
    def enforced(self) -> bool:
        return self.policy == "enforce"


def terms(policy: str | Terms) -> Terms:
    """A bare policy as terms without declared rules."""
    return policy if isinstance(policy, Terms) else Terms(policy)


def terms_for(services: Iterable[Service], name: str, default: str | None = None) -> Terms:
    """The terms of a model name: the strictest policy among its services' gates and ``default``. A setting may make the
    project's own gate stricter, never laxer; a verdict by any of the strictest gates counts."""
    gates = [s.gate for s in services if s.model.name == name]
    policy = max([g.policy for g in gates] + ([default] if default is not None else []), key=_rank, default="off")
    ruled = [g for g in gates if g.rules]
    strictest = [g for g in ruled if g.policy == policy] or ruled
    return Terms(
        policy,
        frozenset(digest([r.spec() for r in g.rules]) for g in strictest) or None,
        any(g.decision_record for g in gates),
    )


def missing(tx: LedgerTransaction, version: ModelVersion, under: Terms, *, at: int) -> str:
    """What a version lacks at ``at`` to be approved, in words; empty when it has a passing verdict for its content, by
    the gate's rules, with every waiver in it still in force, and a decision record where one is asked for."""
    registered = tx.get(VERSIONS, key(version.name, version.version))
    if registered is None or registered["content"] != version.content:
        return "a registration: no such version has this content (it was deleted, or its number is another's now)"
    row = tx.get(VERDICTS, key(version.name, version.version))
    if row is None:
        return "no verdict: the gate has not measured this version"
    verdict = msgspec.convert(row, Verdict)
    if verdict.content != version.content or (verdict.model, verdict.version) != (version.name, version.version):
        return f"its verdict is over other content ({verdict.content[:12]}, not {version.content[:12]})"
    if verdict.outcome != "pass":
        named = [r.check for r in verdict.results if r.outcome != "pass" and not r.waived_by]
        return f"the gate's verdict is {verdict.outcome!r}" + (f" ({', '.join(named[:6])})" if named else "")
    if under.rules is not None and verdict.rules not in under.rules:
        return "its verdict was reached by other rules than the gate has now"
    over = [r.check for r in verdict.results if _leans_on_waiver(r) and not _waived(tx, version, r, at=at)]
    if over:
        return f"its verdict leans on a waiver that is over ({', '.join(over[:6])})"
    if under.decision_record:
        record = tx.get(DECISIONS, key(version.name, version.version))
        if record is None or record["content"] != version.content:
            return "no decision record: the gate asks why this model, this threshold, these features"
    return ""


def not_approved(name: str, version: int, lacking: str, *, goal: str) -> NotApproved:
    """The refusal: what is missing, and the command that would measure it."""
    return NotApproved(
        f"{name}@{version} may not move to {goal}: {lacking}",
        hint=f"run `holdfast check {name}@{version}` (add --data FILE --label COLUMN where no project came with it)",
    )


def _rank(policy: str) -> int:
    if policy not in POLICIES:
        raise BadInput(f"unknown gate policy {policy!r}", hint="use off, warn or enforce")
    return POLICIES.index(policy)


def _leans_on_waiver(result: RuleOutcome) -> bool:
    return result.counts and result.outcome != "pass" and result.waived_by is not None


def _waived(tx: LedgerTransaction, version: ModelVersion, result: RuleOutcome, *, at: int) -> bool:
    """Whether a waiver in force covers the result; the same reading as the gate's."""
    for _, row in tx.scan(waivers.WAIVERS, prefix=key(version.name, version.version) + "/"):
        fits = row["check"] in (result.check, result.check.split("(", 1)[0]) and row["group"] in (None, result.group)
        if fits and row["content"] == version.content and row["at"] <= at < row["until"]:
            return True
    return False
