"""Performance at the threshold that will be served, and the paired comparison with the live champion."""

from __future__ import annotations

import math

from holdfast.core.definitions import Rule
from holdfast.core.records import Evidence
from holdfast.stats import intervals, metrics
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context


def clean(value: float) -> float | None:
    """A float for a record: NaN and infinities are None."""
    return float(value) if math.isfinite(value) else None


def as_evidence(
    check: str,
    found: intervals.Estimate,
    *,
    confidence: float = 0.95,
    compared: str = "",
    group: str | None = None,
    **details: object,
) -> Evidence:
    """An estimate as evidence."""
    return Evidence(
        check=check, figure=clean(found.figure), low=clean(found.low), high=clean(found.high), n=found.n,
        confidence=confidence, how=found.how, compared=compared, group=group, details=dict(details),
    )  # fmt: skip


def performance(context: Context, rule: Rule) -> list[Evidence]:
    """The metric on the held-out rows."""
    metric = metrics.get(str(rule.metric))
    threshold = context.served_threshold
    found = intervals.metric(metric.name, context.y, context.scores, threshold=threshold)
    by_class = metric.kind in ("proportion", "class") and context.task == "binary"
    what = f"{len(context.y)} held-out rows" + (f", threshold {threshold:g}" if by_class else "")
    return [as_evidence(naming.key(rule), found, compared=what)]


def champion(context: Context, rule: Rule) -> list[Evidence]:
    """Candidate minus champion on the same rows, positive = the candidate is better."""
    name = str(rule.metric)
    if context.champion_scores is None:
        if context.champion:
            missing = f"{context.champion} was not scored on these rows"
            return [Evidence(check=naming.key(rule), figure=None, details={"missing": missing})]
        return [
            Evidence(
                check=naming.key(rule),
                figure=None,
                details={"satisfied": "there is no champion yet: nothing to be worse than"},
            )
        ]
    found = intervals.paired(
        name, context.y, context.scores, context.champion_scores, threshold_a=context.served_threshold,
        threshold_b=0.5 if context.champion_threshold is None else context.champion_threshold,
    )  # fmt: skip
    threshold = 0.5 if context.champion_threshold is None else context.champion_threshold
    own = metrics.compute(name, context.y, context.scores, threshold=context.served_threshold)
    theirs = metrics.compute(name, context.y, context.champion_scores, threshold=threshold)
    versus = context.champion or "the champion"
    return [
        as_evidence(
            naming.key(rule),
            found,
            compared=f"{versus} on the same {len(context.y)} rows",
            candidate=clean(own),
            champion=clean(theirs),
        )
    ]
