"""What live traffic said of a version: the verdict that ended each step of a rollout, and where its evidence is kept.

Table ``live_verdicts`` (key: ``name/0000000007/service/03``). They approve nothing: approval is the hold-out verdict's.
"""

from __future__ import annotations

import msgspec

from holdfast.core.ports import Ledger, LedgerTransaction
from holdfast.core.records import Record, Verdict
from holdfast.registry.versions import key

LIVE = "live_verdicts"


class LiveVerdict(Record, frozen=True, kw_only=True):
    """The verdict over step ``step`` (shadow, canary at ``weight`` percent) of a rollout on ``service``."""

    service: str
    step: str
    weight: float
    verdict: Verdict


def attach(tx: LedgerTransaction, found: LiveVerdict, *, number: int, at: int, actor: str) -> None:
    """Keep what ended step ``number``, in the transaction that ends it; a later rollout's replaces it, the chain keeps both."""
    verdict = found.verdict
    tx.put(LIVE, f"{key(verdict.model, verdict.version)}/{found.service}/{number:02d}", msgspec.to_builtins(found))
    body = {
        "version": verdict.version, "content": verdict.content, "service": found.service, "step": found.step,
        "weight": found.weight, "outcome": verdict.outcome, "evidence": verdict.evidence,
    }  # fmt: skip
    tx.append("model.live", subject=verdict.model, body=body, at=at, actor=actor)


def of(ledger: Ledger, name: str, version: int, *, content: str) -> list[LiveVerdict]:
    """What is kept of a version with this content, by service and step."""
    rows = ledger.scan(LIVE, prefix=key(name, version) + "/")
    found = [msgspec.convert(row, LiveVerdict) for _, row in rows]
    return [f for f in found if f.verdict.content == content]


def rename(tx: LedgerTransaction, before: str, after: str) -> None:
    """Carry the rows of a model over to its new name."""
    for row_key, row in tx.scan(LIVE, prefix=before + "/"):
        tx.delete(LIVE, row_key)
        tx.put(LIVE, after + row_key[len(before) :], {**row, "verdict": {**row["verdict"], "model": after}})
