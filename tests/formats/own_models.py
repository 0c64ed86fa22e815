"""Estimators of the user's own, which no safe format can hold."""

from __future__ import annotations

from typing import Any

import numpy as np


class ByHand:
    """A rule somebody wrote: a logistic of the first input."""

    classes_ = np.array([0, 1])

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def predict_proba(self, rows: Any) -> Any:
        p = 0.5 * (1 + np.tanh(self.slope * np.asarray(rows, dtype=np.float64)[:, 0] / 2))
        return np.column_stack([1 - p, p])
