"""The calibration error: zero on average where scores are true, what it is where they are not, intervals that hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from holdfast.stats import calibration


def world(seed: int, n: int, tilt: float = 0.0) -> tuple[Any, Any]:
    """Scores that are too high by ``tilt``, drawn smoothly over (0.1, 0.8)."""
    rng = np.random.default_rng(seed)
    p = 0.1 + 0.7 * rng.random(n)
    return (rng.random(n) < p).astype(int), p + tilt


def test_true_scores_have_no_error_though_the_plain_one_says_so() -> None:
    found = [calibration.measure(*world(seed, 300)) for seed in range(200)]
    assert np.mean([f.ece for f in found]) > 0.05  # the plain figure's bias, which would fail a perfect model
    signed = np.mean([f.error for f in found])
    assert signed < 0.03
    alarms = sum(f.low > 0 for f in found)
    assert alarms <= 20  # stated level 5 %, the upper side of a skewed sum; 200 worlds


def test_a_tilt_is_measured_and_its_interval_holds() -> None:
    found = [calibration.measure(*world(seed, 2000, 0.1)) for seed in range(200)]
    assert np.mean([f.error for f in found]) == pytest.approx(0.1, abs=0.005)
    assert sum(f.low <= 0.1 <= f.high for f in found) >= 184
    assert np.mean([f.offset for f in found]) == pytest.approx(0.1, abs=0.005)
    assert sum(f.offset_low <= 0.1 <= f.offset_high for f in found) >= 182


def test_regression_in_the_labels_units() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(100, 20, 5000)
    score = truth + rng.normal(3, 5, 5000)
    found = calibration.measure(truth, score)
    assert 2.0 < found.error < 4.5 and found.offset == pytest.approx(3, abs=0.3)
    assert sum(b.n for b in found.bins) == 5000


def test_rows_of_one_score_share_a_bin_and_few_rows_say_little() -> None:
    y = np.r_[np.ones(30), np.zeros(70)]
    found = calibration.measure(y, np.full(100, 0.3))
    assert len(found.bins) == 1 and found.bins[0].n == 100 and found.error == pytest.approx(0.0, abs=1e-9)
    one = calibration.measure([1], [0.2])
    assert one.high == np.inf and one.low == 0
    with pytest.raises(ValueError, match="no rows"):
        calibration.measure([], [])
