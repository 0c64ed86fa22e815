"""Evidence from live traffic: challenger against champion during shadow, canary or A/B. The same ``decide`` judges it.

The arms answer different keys, so rates, scores and metrics are compared as two samples; only shadow pairs (the same
request, by ``pair`` or id) can disagree. Tables are the prediction log's: id, arm, request_time, score, output,
latency_us, and ``error`` (bool) where failed requests are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.definitions import Rollout, Rule
from holdfast.core.records import Evidence
from holdfast.stats import intervals, metrics
from holdfast.validation import rules as naming
from holdfast.validation.performance import as_evidence, clean

SHIFT = 0.5
"""Most Kolmogorov-Smirnov distance between the arms' scores. A better model may score quite differently; half of all
scores moved past the other arm's is a broken feed or a constant."""

METRICS = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "r2"}
"""What a step's joined labels are measured by, by task: figures in which the same drop means about the same."""

CONFIDENCE = 0.99
"""Of each live interval. Wider than off line, because the same rollout is looked at again and again."""
LATENCY_FLOOR_US = 1_000.0
"""What answers faster than this counts as this: below a millisecond the ratio is the scheduler's, and no caller feels it."""


def rules(rollout: Rollout, *, metric: str = "roc_auc", labels: bool = True) -> list[Rule]:
    """What a step of this rollout must show. ``labels=False`` for services whose truth comes too late to wait for: the
    metric is then left to monitoring. Disagreement is judged where the rollout bounds it."""
    n = rollout.minimum
    out = [
        Rule("live", metric="error_rate", maximum=rollout.max_error_rate, sample=n),
        Rule("live", metric="latency_ratio", maximum=rollout.max_latency_ratio, sample=n),
        Rule("live", metric="score_shift", maximum=SHIFT, sample=n),
    ]
    if labels:
        out.append(Rule("live", metric=f"{metric}_drop", maximum=rollout.max_metric_drop, sample=n))
    if rollout.max_disagreement is not None:
        out.append(Rule("live", metric="disagreement", maximum=rollout.max_disagreement, sample=n))
    return out


def evidence(
    champion: pa.Table,
    challenger: pa.Table,
    labels: pa.Table | None,
    *,
    rollout: Rollout,
    metric: str = "roc_auc",
    threshold: float = 0.5,
    champion_threshold: float | None = None,
    positive: Any = 1,
    classes: Sequence[Any] = (),
    champion_classes: Sequence[Any] | None = None,
    pairs: pa.Table | None = None,
) -> list[Evidence]:
    """Evidence for every rule of ``rules(rollout)``; no data gives evidence without a figure, which holds.

    Args:
        champion, challenger: the arms' predictions in the window judged.
        labels: prediction_id, value; None or empty where the truth is not yet known.
        positive: the label that counts as 1 where a score is one number.
        classes: labels in the order of the challenger's scores where there is one per class; ``champion_classes`` likewise,
            the same by default.
        pairs: shadow predictions as ``challenger`` where both arms answered the same request; by default the ids that
            are in both tables.
    """
    mine = list(classes) or [None, positive]
    theirs = mine if champion_classes is None else list(champion_classes) or [None, positive]
    alike = mine == theirs or not _per_class(challenger)
    out = [
        _errors(challenger),
        _latency(champion, challenger),
        _shift(champion, challenger) if alike else _none("score_shift", "the arms know different classes"),
        _metric(champion, challenger, labels, metric, threshold, champion_threshold, mine, theirs),
    ]
    if rollout.max_disagreement is not None:
        out.append(_disagreement(champion, challenger if pairs is None else pairs))
    return out


def _key(metric: str) -> str:
    return naming.key(Rule("live", metric=metric))


def _none(metric: str, why: str, *, n: int = 0, **details: Any) -> Evidence:
    return Evidence(check=_key(metric), figure=None, n=n, layer="live", details={"missing": why, **details})


def _failed(table: pa.Table) -> Any:
    """Which requests failed: the ``error`` column, else those without an output."""
    if "error" in table.column_names:
        column = table.column("error")
        if pa.types.is_boolean(column.type):
            return pc.fill_null(column, False).to_numpy(zero_copy_only=False)
        return pc.is_valid(column).to_numpy(zero_copy_only=False)
    if "output" in table.column_names:
        return pc.is_null(table.column("output")).to_numpy(zero_copy_only=False)
    return np.zeros(table.num_rows, dtype=bool)


def _errors(challenger: pa.Table) -> Evidence:
    n = challenger.num_rows
    if not n:
        return _none("error_rate", "the challenger has answered nothing yet")
    hits = int(np.count_nonzero(_failed(challenger)))
    low, high = intervals.wilson(hits, n, confidence=CONFIDENCE)
    return Evidence(
        check=_key("error_rate"),
        figure=hits / n,
        low=low,
        high=high,
        n=n,
        confidence=CONFIDENCE,
        layer="live",
        how="Wilson",
        details={"errors": hits},
    )


def _numbers(table: pa.Table, column: str) -> Any:
    """A column's finite numbers, failed requests left out."""
    if column not in table.column_names or not table.num_rows:
        return np.empty(0)
    values = table.column(column)
    numbers = pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers[np.isfinite(numbers) & ~_failed(table)]


def _latency(champion: pa.Table, challenger: pa.Table) -> Evidence:
    a, b = _numbers(challenger, "latency_us"), _numbers(champion, "latency_us")
    a, b = np.log(np.maximum(a, LATENCY_FLOOR_US)), np.log(np.maximum(b, LATENCY_FLOOR_US))
    if len(a) < 2 or len(b) < 2:
        return _none("latency_ratio", "too few answered requests to compare latency", n=min(len(a), len(b)))
    # Medians of log latency: one stalled request in a thousand is the tail's business, not the ratio's.
    figure = float(np.median(a) - np.median(b))
    half = intervals.z(CONFIDENCE) * math.hypot(_median_error(a), _median_error(b))
    return Evidence(
        check=_key("latency_ratio"),
        figure=math.exp(figure),
        low=math.exp(figure - half),
        high=math.exp(figure + half),
        n=min(len(a), len(b)),
        confidence=CONFIDENCE,
        layer="live",
        how=f"ratio of median latencies, each at least {LATENCY_FLOOR_US / 1000:g} ms",
        compared="the champion's requests in the same window",
        details={"challenger_us": float(np.exp(np.median(a))), "champion_us": float(np.exp(np.median(b)))},
    )


def _median_error(values: Any) -> float:
    """The standard error of a median, from its distribution-free interval."""
    low, high = intervals.quantile(values, 0.5)
    if not math.isfinite(low) or not math.isfinite(high):
        return float(np.ptp(values))
    return (high - low) / (2 * intervals.z(0.95))


def _scores(table: pa.Table) -> Any:
    """(n, k) finite scores of the answered requests; k = 1 except where there is one per class."""
    if not _per_class(table):
        return _numbers(table, "score")[:, None]
    rows = [
        s for s, f in zip(table.column("score").to_pylist(), _failed(table), strict=True) if s is not None and not f
    ]
    if not rows:
        return np.empty((0, 1))
    matrix = np.array(rows, dtype=np.float64)
    return matrix[np.isfinite(matrix).all(axis=1)]


def _per_class(table: pa.Table) -> bool:
    if "score" not in table.column_names:
        return False
    kind = table.column("score").type
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _shift(champion: pa.Table, challenger: pa.Table) -> Evidence:
    """How far apart the arms' scores lie; of several classes, the one that moved most."""
    a, b = np.sort(_scores(challenger), axis=0), np.sort(_scores(champion), axis=0)
    if not len(a) or not len(b):
        return _none("score_shift", "too few scores to compare", n=min(len(a), len(b)))
    if a.shape[1] != b.shape[1]:
        return _none("score_shift", "the arms know different classes", n=min(len(a), len(b)))
    figure = max(_distance(a[:, i], b[:, i]) for i in range(a.shape[1]))
    # Dvoretzky-Kiefer-Wolfowitz band of both samples, and of every class at once: holds for any distribution.
    each = (1 - CONFIDENCE) / a.shape[1]
    half = math.sqrt(math.log(4 / each) / 2) * math.hypot(1 / math.sqrt(len(a)), 1 / math.sqrt(len(b)))
    return Evidence(
        check=_key("score_shift"),
        figure=figure,
        low=max(0.0, figure - half),
        high=min(1.0, figure + half),
        n=min(len(a), len(b)),
        confidence=CONFIDENCE,
        layer="live",
        how="Kolmogorov-Smirnov distance of scores, DKW band",
        details={"challenger_mean": _mean(a), "champion_mean": _mean(b)},
    )


def _distance(a: Any, b: Any) -> float:
    """Kolmogorov-Smirnov, of sorted samples."""
    every = np.concatenate([a, b])
    steps = np.abs(np.searchsorted(a, every, side="right") / len(a) - np.searchsorted(b, every, side="right") / len(b))
    return float(steps.max())


def _mean(scores: Any) -> float | list[float]:
    means: list[float] = scores.mean(axis=0).tolist()
    return means[0] if len(means) == 1 else means


def _joined(table: pa.Table, labels: pa.Table, classes: list[Any]) -> tuple[Any, Any]:
    """(class number, score or scores) of the arm's predictions whose truth is known; 0 for a label that is no class of a
    single score, left out where there is a score per class."""
    truth = dict(zip(labels.column("prediction_id").to_pylist(), labels.column("value").to_pylist(), strict=True))
    per_class = _per_class(table)
    y, scores = [], []
    failed = _failed(table)
    for i, (identity, score) in enumerate(
        zip(table.column("id").to_pylist(), table.column("score").to_pylist(), strict=True)
    ):
        label = truth.get(identity)
        if label is None or score is None or failed[i] or not np.isfinite(score).all():
            continue
        number = _number_of(label, classes)
        if number is None and per_class:
            continue
        y.append(number or 0)
        scores.append(score)
    return np.array(y, dtype=np.int64), np.array(scores, dtype=np.float64)


def _number_of(value: Any, classes: list[Any]) -> int | None:
    """Which class a label names: itself, its text, or an equal number."""
    for i, each in enumerate(classes):
        if each is None:
            continue
        if value == each or str(value) == str(each):
            return i
        if isinstance(each, int | float):
            try:
                if float(value) == float(each):
                    return i
            except (TypeError, ValueError):
                continue
    return None


def _metric(
    champion: pa.Table,
    challenger: pa.Table,
    labels: pa.Table | None,
    name: str,
    threshold: float,
    champion_threshold: float | None,
    classes: list[Any],
    champion_classes: list[Any],
) -> Evidence:
    """How much worse the challenger is: champion − challenger, positive = worse."""
    check = f"{name}_drop"
    value = metrics.get(name).kind == "value"
    if labels is None or not labels.num_rows or not challenger.num_rows or not champion.num_rows:
        return _none(check, "no labels have come in for this window yet")
    y_a, a = _joined(challenger, labels, classes) if not value else _values(challenger, labels)
    y_b, b = _joined(champion, labels, champion_classes) if not value else _values(champion, labels)
    if not len(y_a) or not len(y_b):
        return _none(check, "no labels have come in for one of the arms yet")
    other = threshold if champion_threshold is None else champion_threshold
    found = intervals.two_sample(name, y_b, b, y_a, a, threshold_a=other, threshold_b=threshold, confidence=CONFIDENCE)
    details: dict[str, Any] = {
        "challenger": clean(metrics.compute(name, y_a, a, threshold=threshold)),
        "champion": clean(metrics.compute(name, y_b, b, threshold=other)),
        "labelled": {"challenger": len(y_a), "champion": len(y_b)},
    }
    versus = "the champion's labelled predictions in the same window"
    e = as_evidence(_key(check), found, confidence=CONFIDENCE, compared=versus, **details)
    return msgspec.structs.replace(e, layer="live")


def _values(table: pa.Table, labels: pa.Table) -> tuple[Any, Any]:
    """(y, score) where both are numbers."""
    truth = dict(zip(labels.column("prediction_id").to_pylist(), labels.column("value").to_pylist(), strict=True))
    y, scores = [], []
    for identity, score in zip(table.column("id").to_pylist(), table.column("score").to_pylist(), strict=True):
        if score is None or isinstance(score, list) or not math.isfinite(score):
            continue
        try:
            y.append(float(truth[identity]))
        except (KeyError, TypeError, ValueError):
            continue
        scores.append(float(score))
    return np.array(y), np.array(scores)


def _disagreement(champion: pa.Table, shadow: pa.Table) -> Evidence:
    """The share of paired requests to which the two arms gave different outputs."""
    if "output" not in champion.column_names or "output" not in shadow.column_names:
        return _none("disagreement", "no request was answered by both arms")
    mine = dict(zip(shadow.column("id").to_pylist(), shadow.column("output").to_pylist(), strict=True))
    pairs = [
        (output, mine[i])
        for i, output in zip(champion.column("id").to_pylist(), champion.column("output").to_pylist(), strict=True)
        if i in mine
    ]
    if not pairs:
        return _none("disagreement", "no request was answered by both arms")
    hits = sum(1 for a, b in pairs if a != b)
    low, high = intervals.wilson(hits, len(pairs), confidence=CONFIDENCE)
    return Evidence(
        check=_key("disagreement"),
        figure=hits / len(pairs),
        low=low,
        high=high,
        n=len(pairs),
        confidence=CONFIDENCE,
        layer="live",
        how="Wilson, paired requests",
        details={"differ": hits},
    )
