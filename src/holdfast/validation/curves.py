"""The figures people look at, small enough to keep with the evidence: ROC and precision-recall curves, calibration,
confusion, errors, and each metric beside the champion's. Judged by nobody; the model card draws them."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from holdfast.core.records import Evidence, Json
from holdfast.stats import calibration as reliability
from holdfast.stats import intervals, metrics
from holdfast.validation.evidence import Context
from holdfast.validation.performance import clean

CHECK = "curves"
POINTS = 120
BINS = 10
SIDE_BY_SIDE = {
    "binary": ("roc_auc", "average_precision", "log_loss", "brier", "accuracy", "precision", "recall", "f1"),
    "multiclass": ("accuracy", "macro_f1", "log_loss"),
    "regression": ("mae", "rmse", "mean_error", "r2"),
}


def describe(context: Context) -> Evidence:
    """One piece of evidence that holds everything in ``details``; only the task where the scores are no numbers."""
    details: Json = {"task": context.task}
    y, score = context.y, context.scores
    if len(y) and np.isfinite(score).all():
        if context.task == "binary":
            details |= _binary(context)
        elif context.task == "multiclass":
            details |= _multiclass(context)
        else:
            details |= {"calibration": calibration(y, score), "residuals": residuals(score - y)}
        if context.champion_scores is not None:
            details["champion"] = _champion(context)
    return Evidence(check=CHECK, figure=None, n=len(y), details=details)


def _binary(context: Context) -> Json:
    y, score = context.y, context.scores
    if len(np.unique(y)) < 2:
        return {}
    return {
        "threshold": context.served_threshold,
        "confusion": metrics.confusion(y, score, threshold=context.served_threshold),
        "calibration": calibration(y, score),
        **sweep(y, score),
    }


def _multiclass(context: Context) -> Json:
    said = np.argmax(context.scores, axis=1)
    k = context.scores.shape[1]
    matrix = np.bincount(context.y * k + said, minlength=k * k).reshape(k, k)
    top = context.scores[np.arange(len(said)), said]
    names = [str(c) for c in context.package.classes] or [str(i) for i in range(k)]
    return {
        "classes": names,
        "matrix": matrix.tolist(),
        "calibration": calibration((said == context.y).astype(np.float64), top),
    }


def _champion(context: Context) -> Json:
    """Every metric beside the champion's on the same rows, and the champion's curves."""
    theirs = np.asarray(context.champion_scores, dtype=np.float64)
    threshold = 0.5 if context.champion_threshold is None else context.champion_threshold
    out: Json = {"name": context.champion}
    if context.task == "binary" and len(np.unique(context.y)) == 2 and np.isfinite(theirs).all():
        curves = sweep(context.y, theirs)
        out |= {"roc": curves["roc"], "pr": curves["pr"]}
    table = []
    for name in SIDE_BY_SIDE[context.task]:
        found = intervals.paired(
            name, context.y, context.scores, theirs, threshold_a=context.served_threshold, threshold_b=threshold
        )
        table.append({
            "metric": name,
            "candidate": clean(metrics.compute(name, context.y, context.scores, threshold=context.served_threshold)),
            "champion": clean(metrics.compute(name, context.y, theirs, threshold=threshold)),
            "better": clean(found.figure), "low": clean(found.low), "high": clean(found.high),
        })  # fmt: skip
    return {**out, "metrics": table}


def sweep(y: Any, score: Any) -> Json:
    """``roc`` as [false positive rate, recall] and ``pr`` as [recall, precision], from the highest threshold down, at
    most ``POINTS`` points each; ``thresholds`` are those of ``pr``."""
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
        "thresholds": np.round(ordered[last[keep]], 5).tolist(),
    }


def calibration(y: Any, score: Any) -> list[Json]:
    """Per group of rows with like scores: mean score, what came true with its interval, rows."""
    found = [msgspec.to_builtins(b) for b in reliability.measure(y, score, bins=BINS).bins]
    return [{k: v if math.isfinite(v) else None for k, v in row.items()} for row in found]


def residuals(errors: Any) -> list[Json]:
    """A histogram of errors between their 1st and 99th percentile, 24 bars: low, high, share of all rows."""
    low, high = np.quantile(errors, [0.01, 0.99])
    counts, edges = np.histogram(errors, bins=24, range=(low, high) if high > low else (low - 0.5, low + 0.5))
    return [
        {"low": float(a), "high": float(b), "share": float(c / len(errors))}
        for a, b, c in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
