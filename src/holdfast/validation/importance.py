"""Why these features: how much a metric drops when one input's values are shuffled among the held-out rows.

Permutation importance (Breiman 2001, section 10; Fisher, Rudin and Dominici 2019). The interval is Student's over the
shuffles: how sure the figure is for these rows, not for the world. Correlated inputs share their importance.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.core.ports import Predictor
from holdfast.core.records import Record
from holdfast.stats import intervals, metrics

Array = np.ndarray[Any, Any]


class Importance(Record, frozen=True, kw_only=True):
    """One input's drop of the metric (positive = the model leans on it), with its interval."""

    feature: str
    drop: float
    low: float
    high: float


def measure(
    predictor: Predictor,
    X: Array,  # noqa: N803  (the field's own name)
    y: Array,
    columns: list[str],
    *,
    metric: str,
    rows: int = 1000,
    shuffles: int = 4,
    seed: int = 0,
) -> list[Importance]:
    """The importance of every input, greatest first.

    Args:
        X, y: (n, d) and (n,) held-out rows; a sample of ``rows`` of them is used.
        metric: a name of ``stats.metrics``; for those where lower is better a rise counts as the drop.
    """
    rng = np.random.default_rng(seed)
    index = np.sort(rng.choice(len(X), min(rows, len(X)), replace=False))
    base_rows, truth = X[index], y[index]
    sign = 1.0 if metrics.HIGHER_IS_BETTER.get(metric, True) else -1.0

    def figure(matrix: Array) -> float:
        return sign * float(metrics.compute(metric, truth, np.asarray(predictor.scores(matrix), dtype=np.float64)))

    base = figure(base_rows)
    found = []
    for i, name in enumerate(columns):
        drops = np.empty(shuffles)
        for k in range(shuffles):
            shuffled = base_rows.copy()
            shuffled[:, i] = rng.permutation(shuffled[:, i])
            drops[k] = base - figure(shuffled)
        low, high = intervals.mean(drops)
        found.append(Importance(feature=name, drop=float(drops.mean()), low=float(low), high=float(high)))
    return sorted(found, key=lambda f: -f.drop)
