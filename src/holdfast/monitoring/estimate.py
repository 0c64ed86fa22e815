"""Performance before labels arrive: what the metrics are expected to be if scores still mean what they meant.

Scores are calibrated on rows whose truth is known (isotonic), and each row then counts as positive with its calibrated
probability: expected true and false positives give the class metrics, weighted ranks the area under the curve. The
method is that of confidence-based performance estimation. It follows a change of the inputs and is blind to a change
of what inputs mean: always show it beside realised performance, where ``beside`` flags the gap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from holdfast.core.errors import BadInput
from holdfast.core.records import Signal
from holdfast.stats import isotonic
from holdfast.stats.intervals import z

Array = npt.NDArray[Any]

LEAST_ROWS = 300
SUPPORTED = ("roc_auc", "accuracy", "precision", "recall", "f1", "brier", "log_loss")
DRAWS = 40


@dataclass(frozen=True)
class Calibration:
    """A rising map from score to probability, and the labelled rows it rests on."""

    knots: Array
    levels: Array
    rows: int

    def __call__(self, score: Array) -> Array:
        return isotonic.apply(self.knots, self.levels, score)


def calibrate(score: Array, y: Array) -> Calibration:
    """Calibrate scores (n,) on 0/1 truth (n,), both known and not NaN.

    Raises:
        BadInput: fewer than 300 rows, or one class only.
    """
    score, y = np.asarray(score, np.float64), np.asarray(y, np.float64)
    if len(y) < LEAST_ROWS or y.min() == y.max():
        raise BadInput(
            f"{len(y)} labelled rows cannot calibrate scores", hint=f"{LEAST_ROWS} rows with both classes are needed"
        )
    knots, levels = isotonic.fit(score, y)
    return Calibration(knots, levels, len(y))


def estimate(
    calibration: Calibration,
    score: Array,
    *,
    metrics: Sequence[str],
    threshold: float = 0.5,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Signal]:
    """Expected metrics of unlabelled scores (n,): signals of family ``estimate``, statistic ``cbpe``.

    The interval is the window's sampling error (truth drawn from the calibrated probabilities, rows redrawn) and that
    of the calibration's size; metrics that cannot be estimated are left out."""
    score = np.asarray(score, np.float64)
    score = score[~np.isnan(score)]
    wanted = [m for m in metrics if m in SUPPORTED]
    if len(score) < 2:
        return [
            Signal(name=m, family="estimate", statistic="cbpe", value=None, n=len(score), message="no scores")
            for m in wanted
        ]
    p = calibration(score)
    rng = np.random.default_rng(seed)
    figures = {m: expected(m, p, score, threshold) for m in wanted}
    spread: dict[str, list[float]] = {m: [] for m in wanted}
    for _ in range(DRAWS):
        rows = rng.integers(0, len(p), len(p))
        drawn = (rng.random(len(p)) < p[rows]).astype(np.float64)
        for m in wanted:
            spread[m].append(expected(m, drawn, score[rows], threshold))
    result = []
    for m in wanted:
        values = np.array([v for v in spread[m] if not math.isnan(v)])
        deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
        half = z(confidence) * deviation * math.sqrt(1 + len(p) / calibration.rows)
        known = not math.isnan(figures[m]) and not math.isnan(half)
        result.append(
            Signal(
                name=m,
                family="estimate",
                statistic="cbpe",
                value=figures[m] if known else None,
                low=figures[m] - half if known else None,
                high=figures[m] + half if known else None,
                n=len(p),
                message="expected from calibrated scores, labels not seen",
            )
        )
    return result


def expected(metric: str, p: Array, score: Array, threshold: float) -> float:
    """A metric of scores (n,) whose rows are positive with probability ``p`` (n,); 0/1 gives the plain metric."""
    said = score >= threshold
    true, false = float(p[said].sum()), float((1 - p[said]).sum())
    missed, right = float(p[~said].sum()), float((1 - p[~said]).sum())
    match metric:
        case "accuracy":
            return (true + right) / len(p)
        case "precision":
            return true / (true + false) if true + false else math.nan
        case "recall":
            return true / (true + missed) if true + missed else math.nan
        case "f1":
            return 2 * true / (2 * true + false + missed) if true + false + missed else math.nan
        case "brier":
            return float((p * (1 - score) ** 2 + (1 - p) * score**2).mean())
        case "log_loss":
            s = np.clip(score, np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)
            return float(-(p * np.log(s) + (1 - p) * np.log(1 - s)).mean())
        case "roc_auc":
            return _auc(p, score)
        case _:
            raise BadInput(f"{metric!r} cannot be estimated without labels", hint=f"use one of {', '.join(SUPPORTED)}")


def beside(realised: Sequence[Signal], estimated: Sequence[Signal]) -> list[Signal]:
    """The estimates, each with the realised figure as ``reference``; where the intervals do not touch, the message says
    that scores no longer mean what they meant (concept drift, or labels of another kind)."""
    known = {s.name: s for s in realised if s.family == "performance" and s.value is not None}
    result = []
    for signal in estimated:
        real = known.get(signal.name)
        if real is None or signal.value is None:
            result.append(signal)
            continue
        apart = (real.high is not None and signal.low is not None and real.high < signal.low) or (
            real.low is not None and signal.high is not None and real.low > signal.high
        )
        note = "realised performance contradicts it: scores no longer mean what they meant" if apart else signal.message
        result.append(
            msgspec.structs.replace(
                signal, reference=real.value, direction="contradicted" if apart else "agrees", message=note
            )
        )
    return result


def _auc(p: Array, score: Array) -> float:
    order = np.argsort(score, kind="stable")
    s, w = score[order], p[order]
    positives, negatives = float(w.sum()), float((1 - w).sum())
    if positives <= 0 or negatives <= 0:
        return math.nan
    first = np.concatenate([[0], np.flatnonzero(np.diff(s)) + 1])
    up, down = np.add.reduceat(w, first), np.add.reduceat(1 - w, first)
    below = np.concatenate([[0.0], np.cumsum(down)[:-1]])
    return float((up * (below + down / 2)).sum() / (positives * negatives))
