"""The verdict over a rollout's present step: smoke from its record, the others from live evidence by the gate's ``decide``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.core.definitions import Service
from holdfast.core.records import Evidence, Rollout, Verdict
from holdfast.lifecycle.approval import SMOKES
from holdfast.lifecycle.release import current

if TYPE_CHECKING:
    from holdfast.workspace import Workspace


class Judged(NamedTuple):
    """What a step is judged: its outcome (None: nothing was seen yet), what kept it from passing, and, where live traffic
    was measured, the verdict and its evidence."""

    outcome: str | None
    why: Sequence[str] = ()
    verdict: Verdict | None = None
    evidence: Sequence[Evidence] = ()


def judge(ws: Workspace, service: Service, rollout: Rollout, *, now: int) -> Judged:
    """The verdict over the present step: smoke from its record, the others from live evidence by the gate's ``decide``."""
    step = rollout.plan[rollout.step]["step"]
    if step == "smoke":
        record = ws.ledger.get(SMOKES, f"{service.name}/{rollout.content}")
        return Judged(record["outcome"] if record else None)
    if step == "champion":
        return Judged("pass")
    import pyarrow.compute as pc

    from holdfast.monitoring import labels
    from holdfast.registry import package as packages
    from holdfast.serving import journal
    from holdfast.validation import gate, live

    predictions = journal.read(ws.home / "predictions" / service.name, since=rollout.entered, until=now)
    if predictions.num_rows == 0:
        return Judged(None, ["no predictions since the step began"])
    challenger = _side(predictions, "shadow" if step == "shadow" else "challenger", rollout.version)
    champion = _side(predictions, "champion", None)
    truth = labels.LabelStore(ws.home / "labels" / service.name).read()
    package = packages.load(ws.objects, rollout.content)
    before = current(ws.ledger, service.name, "production")
    theirs = (
        package if before is None or before.champion is None else packages.load(ws.objects, before.champion.content)
    )
    metric = live.METRICS[package.task]
    evidence = live.evidence(
        champion, challenger, truth, rollout=service.rollout, metric=metric, classes=package.classes, champion_classes=theirs.classes
    )  # fmt: skip
    # Truth is asked for where it flows: labels that never come would hold a good canary for ever.
    flowing = truth.num_rows and pc.sum(pc.is_in(champion["id"], value_set=truth["prediction_id"])).as_py()
    verdict = gate.decide(
        evidence,
        live.rules(service.rollout, metric=metric, labels=(flowing or 0) >= service.rollout.minimum),
        model=rollout.model,
        version=rollout.version,
        content=rollout.content,
        at=now,
    )
    return Judged(verdict.outcome, named(verdict), verdict, evidence)


def named(verdict: Verdict) -> list[str]:
    """What kept a verdict from passing, each with its check's name; the failures first."""
    held = sorted((r for r in verdict.results if r.outcome != "pass" and r.counts), key=lambda r: r.outcome != "fail")
    return [f"{r.check}: {r.message}" for r in held]


def _side(predictions: Any, arm: str, version: int | None) -> Any:
    import pyarrow.compute as pc

    keep = pc.equal(predictions["arm"], arm)
    if version is not None:
        keep = pc.and_(keep, pc.equal(predictions["version"], version))
    return predictions.filter(keep)
