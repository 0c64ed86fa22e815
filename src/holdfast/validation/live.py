"""Evidence from live traffic: challenger against champion during shadow, canary or A/B. The same ``decide`` judges it.

The arms answer different keys, so rates, scores and metrics are compared as two samples; only shadow pairs (the same
request, by ``pair`` or id) can disagree. Tables are the prediction log's: id, arm, request_time, score, output,
latency_us, and ``error`` (bool) where failed requests are kept.
"""

from __future__ import annotations

import math
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
    pairs: pa.Table | None = None,
) -> list[Evidence]:
    """Evidence for every rule of ``rules(rollout)``; no data gives evidence without a figure, which holds.

    Args:
        champion, challenger: the arms' predictions in the window judged.
        labels: prediction_id, value; None or empty where the truth is not yet known.
        pairs: shadow predictions as ``challenger`` where both arms answered the same request; by default the ids that
            are in both tables.
    """
    out = [
        _errors(challenger),
        _latency(champion, challenger),
        _shift(champion, challenger),
        _metric(champion, challenger, labels, metric, threshold, champion_threshold, positive),
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
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return np.empty(0)
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


def _shift(champion: pa.Table, challenger: pa.Table) -> Evidence:
    a, b = np.sort(_numbers(challenger, "score")), np.sort(_numbers(champion, "score"))
    if not len(a) or not len(b):
        return _none("score_shift", "too few scores to compare", n=min(len(a), len(b)))
    every = np.concatenate([a, b])
    steps = np.abs(np.searchsorted(a, every, side="right") / len(a) - np.searchsorted(b, every, side="right") / len(b))
    figure = float(steps.max())
    # Dvoretzky-Kiefer-Wolfowitz band of both samples: holds for any distribution.
    half = math.sqrt(math.log(4 / (1 - CONFIDENCE)) / 2) * math.hypot(1 / math.sqrt(len(a)), 1 / math.sqrt(len(b)))
    return Evidence(
        check=_key("score_shift"),
        figure=figure,
        low=max(0.0, figure - half),
        high=min(1.0, figure + half),
        n=min(len(a), len(b)),
        confidence=CONFIDENCE,
        layer="live",
        how="Kolmogorov-Smirnov distance of scores, DKW band",
        details={"challenger_mean": float(a.mean()), "champion_mean": float(b.mean())},
    )


def _joined(table: pa.Table, labels: pa.Table, positive: Any) -> tuple[Any, Any]:
    """(y, score) of the arm's predictions whose truth is known."""
    truth = dict(zip(labels.column("prediction_id").to_pylist(), labels.column("value").to_pylist(), strict=True))
    y, scores = [], []
    failed = _failed(table)
    for i, (identity, score) in enumerate(
        zip(table.column("id").to_pylist(), table.column("score").to_pylist(), strict=True)
    ):
        label = truth.get(identity)
        if label is None or score is None or isinstance(score, list) or failed[i] or not math.isfinite(score):
            continue
        y.append(_label(label, positive))
        scores.append(float(score))
    return np.array(y), np.array(scores)


def _label(value: Any, positive: Any) -> float:
    if value == positive or str(value) == str(positive):
        return 1.0
    if isinstance(positive, int | float) and not isinstance(value, bool):
        try:
            return 1.0 if float(value) == float(positive) else 0.0
        except ValueError:
            return 0.0
    return 0.0


def _metric(
    champion: pa.Table,
    challenger: pa.Table,
    labels: pa.Table | None,
    name: str,
    threshold: float,
    champion_threshold: float | None,
    positive: Any,
) -> Evidence:
    """How much worse the challenger is: champion − challenger, positive = worse."""
    check = f"{name}_drop"
    value = metrics.get(name).kind == "value"
    if labels is None or not labels.num_rows or not challenger.num_rows or not champion.num_rows:
        return _none(check, "no labels have come in for this window yet")
    y_a, a = _joined(challenger, labels, positive) if not value else _values(challenger, labels)
    y_b, b = _joined(champion, labels, positive) if not value else _values(champion, labels)
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
    truth = dict(zip(labels.column("prediction_id").to_pylist(), labels.column("value").to_pylist(), strict=True))
    rows = [
        (float(truth[i]), float(s))
        for i, s in zip(table.column("id").to_pylist(), table.column("score").to_pylist(), strict=True)
        if truth.get(i) is not None and s is not None and not isinstance(s, list) and math.isfinite(s)
    ]
    return np.array([r[0] for r in rows]), np.array([r[1] for r in rows])


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
