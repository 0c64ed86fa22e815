"""The figures people look at, small enough to keep with the evidence: ROC and precision-recall curves, calibration,
confusion, and what each threshold would cost. Judged by nobody; the model card draws them."""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.core.records import Evidence, Json
from holdfast.stats import intervals, metrics
from holdfast.validation.evidence import Context

CHECK = "curves"
POINTS = 120
BINS = 10


def describe(context: Context) -> Evidence:
    """One piece of evidence that holds all curves in ``details``; empty for models that are not binary."""
    if context.task != "binary" or len(np.unique(context.y)) < 2 or not np.isfinite(context.scores).all():
        return Evidence(check=CHECK, figure=None, n=len(context.y), details={"task": context.task})
    y, score = context.y, context.scores
    details: Json = {
        "task": "binary",
        "threshold": context.served_threshold,
        "confusion": metrics.confusion(y, score, threshold=context.served_threshold),
        "calibration": calibration(y, score),
        **sweep(y, score),
    }
    if context.champion_scores is not None:
        details["champion"] = {"roc": sweep(y, np.asarray(context.champion_scores))["roc"]}
    return Evidence(check=CHECK, figure=None, n=len(y), details=details)


def sweep(y: Any, score: Any) -> dict[str, list[list[float]]]:
    """``roc`` as [false positive rate, recall] and ``pr`` as [recall, precision], from the highest threshold down, at
    most ``POINTS`` points each; ``thresholds`` beside them."""
    order = np.argsort(-score, kind="stable")
    ordered, truth = score[order], y[order] == 1
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    hits, said = np.cumsum(truth)[last], last + 1
    positives = int(truth.sum())
    recall, fpr, precision = hits / positives, (said - hits) / (len(y) - positives), hits / said
    keep = np.unique(np.linspace(0, len(last) - 1, POINTS).astype(np.int64))
    roc = np.column_stack([np.r_[0.0, fpr[keep]], np.r_[0.0, recall[keep]]])
    pr = np.column_stack([recall[keep], precision[keep]])
    return {
        "roc": np.round(roc, 4).tolist(),
        "pr": np.round(pr, 4).tolist(),
        "thresholds": [np.round(ordered[last[keep]], 5).tolist()],
    }


def calibration(y: Any, score: Any) -> list[Json]:
    """Per tenth of the rows by score: mean score, share of positives with its Wilson interval, rows."""
    out = []
    for rows in np.array_split(np.argsort(score, kind="stable"), BINS):
        if not len(rows):
            continue
        hits = int(np.count_nonzero(y[rows] == 1))
        low, high = intervals.wilson(hits, len(rows))
        share = hits / len(rows)
        out.append({"score": float(score[rows].mean()), "share": share, "low": low, "high": high, "n": len(rows)})
    return out
