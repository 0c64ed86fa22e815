"""Permutation importance: what the model leans on comes first, what it ignores is zero."""

from __future__ import annotations

import numpy as np

from holdfast.validation import importance


class Leans:
    """Scores by the first column only."""

    def scores(self, matrix):
        return 1 / (1 + np.exp(-2 * matrix[:, 0]))


def test_the_input_it_leans_on_comes_first_and_the_others_are_zero():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(3000, 3))
    y = (rng.random(3000) < 1 / (1 + np.exp(-2 * X[:, 0]))).astype(float)
    found = importance.measure(Leans(), X, y, ["a", "b", "c"], metric="roc_auc", rows=1500)
    assert found[0].feature == "a" and found[0].drop > 0.2 and found[0].low > 0.15
    assert {f.feature: f.drop for f in found[1:]} == {"b": 0.0, "c": 0.0}


def test_where_lower_is_better_a_rise_is_the_drop():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(1000, 1))
    y = (rng.random(1000) < 1 / (1 + np.exp(-2 * X[:, 0]))).astype(float)
    (one,) = importance.measure(Leans(), X, y, ["a"], metric="log_loss")
    assert one.drop > 0.1 and one.low <= one.drop <= one.high
