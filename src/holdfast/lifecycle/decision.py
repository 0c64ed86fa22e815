"""The decision record of a version: why this model, why this threshold, why these features; kept with its verdict.

Made when the gate measures, stored by content, named in the ledger. A gate with ``decision_record=True`` lets no version into
production without one for exactly its content.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.core.definitions import Model
from holdfast.core.errors import NotFound
from holdfast.core.identity import canonical
from holdfast.core.ports import Ledger
from holdfast.core.records import Evidence, Json, ModelVersion, Verdict
from holdfast.registry.versions import DECISIONS

if TYPE_CHECKING:
    from holdfast.validation.evidence import Context
    from holdfast.workspace import Workspace

FITS = "fits"


def make(
    ws: Workspace, model: Model, version: ModelVersion, context: Context, verdict: Verdict, *,
    evidence: Sequence[Evidence] = (), at: int,
) -> Json:  # fmt: skip
    """The record as stored: candidates and what they scored, the threshold's cost curve, each input's importance, and,
    where the gate asked for it, what the model is without each part (``ablation``)."""
    from holdfast.validation import importance

    fit = ws.ledger.get(FITS, version.run_id or "") or {}
    metric = {"binary": "roc_auc", "regression": "rmse"}.get(model.task, "accuracy")
    columns = [spec.name for spec in context.package.inputs]
    features = importance.measure(context.predictor, context.X, context.y, columns, metric=metric, seed=model.seed)
    return {
        "version": f"{version.name}@{version.version}",
        "content": version.content,
        "at": at,
        "verdict": verdict.outcome,
        "why_this_model": {
            "chosen_by": model.select,
            "candidates": fit.get("candidates", []),
            "chosen": fit.get("chosen"),
        },
        "why_this_threshold": {
            "threshold": context.package.threshold,
            "costs": model.threshold.spec(),
            "curve": fit.get("threshold_curve", []),
        },
        "why_these_features": {
            "metric": metric,
            "method": "drop when one input is shuffled among held-out rows, interval over shuffles",
            "importance": msgspec.to_builtins(features),
            "ablation": _ablation(evidence),
        },
    }


def _ablation(evidence: Sequence[Evidence]) -> list[Json]:
    return [
        {"feature": e.group, "drop": e.figure, "low": e.low, "high": e.high, "n": e.n, "check": e.check}
        for e in evidence
        if e.check.startswith("ablation(") and e.figure is not None
    ]


def store(ledger: Ledger, record: Json, digest: str, version: ModelVersion, *, at: int, actor: str) -> None:
    """Name a stored record (``digest`` of its bytes) as the version's, in the caller's transaction."""
    with ledger.transaction() as tx:
        tx.put(
            DECISIONS,
            f"{version.name}/{version.version:010d}",
            {"record": digest, "content": version.content, "at": at},
        )
        body = {"version": version.version, "content": version.content, "record": digest}
        tx.append("decision.recorded", subject=version.name, body=body, at=at, actor=actor)


def keep_fit(ledger: Ledger, run_id: str, fitted: Json) -> None:
    """Remember what a fit chose among, under its run."""
    with ledger.transaction() as tx:
        tx.put(FITS, run_id, {k: fitted[k] for k in ("candidates", "chosen", "threshold", "threshold_curve")})


def has(ledger: Ledger, version: ModelVersion) -> bool:
    """Whether there is a decision record for exactly this content."""
    row = ledger.get(DECISIONS, f"{version.name}/{version.version:010d}")
    return row is not None and row["content"] == version.content


def get(ws: Workspace, version: ModelVersion) -> Json:
    """The decision record of a version.

    Raises:
        NotFound: none was made.
    """
    row = ws.ledger.get(DECISIONS, f"{version.name}/{version.version:010d}")
    if row is None:
        reference = f"{version.name}@{version.version}"
        raise NotFound(f"{reference} has no decision record", hint=f"`holdfast check {reference}` makes one")
    found: Json = msgspec.json.decode(ws.objects.get(row["record"]))
    return found


def put(ws: Workspace, record: Any) -> str:
    """Store a record's bytes; their SHA-256."""
    return ws.objects.put(canonical(record))
