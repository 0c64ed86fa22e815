"""Calibration: do the scores mean what they say? For multiclass the score of the class that is said, against its coming
true."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from holdfast.core.definitions import Rule
from holdfast.core.records import Evidence
from holdfast.stats import calibration as reliability
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context
from holdfast.validation.performance import clean


def calibration(context: Context, rule: Rule) -> list[Evidence]:
    """The debiased root mean square distance between mean score and what came true."""
    check = naming.key(rule)
    if not len(context.y):
        return [Evidence(check=check, figure=None, details={"missing": "there are no rows"})]
    y, score = context.y, context.scores
    if context.task == "multiclass":
        said = np.argmax(score, axis=1)
        y, score = (said == y).astype(np.float64), score[np.arange(len(said)), said]
    if context.task != "regression" and (score.min() < 0 or score.max() > 1):
        fault = f"scores reach from {score.min():.4g} to {score.max():.4g}: they are no probabilities"
        return [Evidence(check=check, figure=None, n=len(y), details={"fault": fault})]
    found = reliability.measure(y, score, bins=int(rule.options.get("bins", 10)))
    worst = max(found.bins, key=lambda b: abs(b.share - b.score))
    details = {
        "ece": clean(found.ece), "offset": clean(found.offset), "offset_low": clean(found.offset_low),
        "offset_high": clean(found.offset_high),
        "bins": [{k: v if math.isfinite(v) else None for k, v in msgspec.to_builtins(b).items()} for b in found.bins],
    }  # fmt: skip
    return [
        Evidence(
            check=check, figure=clean(found.error), low=clean(found.low), high=clean(found.high), n=found.n,
            how=f"root mean square over {len(found.bins)} bins, debiased",
            compared=f"scores with what came true; furthest at {worst.score:.3g}: {worst.share:.3g}", details=details,
        )
    ]  # fmt: skip
