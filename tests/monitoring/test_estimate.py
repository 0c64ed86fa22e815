"""Estimated performance: right where scores keep their meaning, contradicted where they do not."""

import numpy as np
import pytest

from holdfast.core.errors import BadInput
from holdfast.core.records import Signal
from holdfast.monitoring import estimate
from holdfast.stats import metrics

NAMES = ("roc_auc", "accuracy", "precision", "recall", "f1", "brier", "log_loss")


def draw(rng: np.random.Generator, n: int, *, centre: float = 0.0, flip: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are wrong in scale but right in order; ``centre`` moves the inputs, ``flip`` what they mean."""
    x = rng.normal(centre, 1.0, n)
    p = 1 / (1 + np.exp(-1.5 * (x - flip)))
    y = (rng.random(n) < p).astype(float)
    return 1 / (1 + np.exp(-3 * x)), y


def real(score: np.ndarray, y: np.ndarray) -> dict[str, float]:
    return {m: metrics.compute(m, y, score, threshold=0.5) for m in NAMES}


def test_certain_truth_gives_the_plain_metric() -> None:
    score, y = draw(np.random.default_rng(1), 3000)
    score = score.round(2)
    for name, value in real(score, y).items():
        assert estimate.expected(name, y, score, 0.5) == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("centre", [0.0, 0.8, -0.8])
def test_it_follows_the_inputs(centre: float) -> None:
    inside, errors = 0, dict.fromkeys(NAMES, 0.0)
    for seed in range(20):
        rng = np.random.default_rng([seed, 7])
        calibration = estimate.calibrate(*draw(rng, 20_000))
        score, y = draw(rng, 3000, centre=centre)
        truth = real(score, y)
        for s in estimate.estimate(calibration, score, metrics=NAMES, threshold=0.5):
            assert s.value is not None
            assert s.low is not None
            assert s.high is not None
            errors[s.name] += (s.value - truth[s.name]) / 20
            inside += s.low <= truth[s.name] <= s.high
    assert max(abs(e) for e in errors.values()) < 0.015, errors
    assert inside / (20 * len(NAMES)) > 0.88


def test_a_change_of_meaning_is_contradicted_by_labels() -> None:
    rng = np.random.default_rng(3)
    calibration = estimate.calibrate(*draw(rng, 20_000))
    score, y = draw(rng, 4000, flip=1.2)
    truth = real(score, y)
    measured = [
        Signal(
            name=m, family="performance", statistic="metric", value=truth[m], low=truth[m] - 0.02, high=truth[m] + 0.02
        )
        for m in NAMES
    ]
    found = {s.name: s for s in estimate.beside(measured, estimate.estimate(calibration, score, metrics=NAMES))}
    assert found["accuracy"].direction == "contradicted"
    assert "no longer mean" in found["accuracy"].message
    assert found["accuracy"].reference == truth["accuracy"]
    score, y = draw(rng, 4000)
    truth = real(score, y)
    agree = [
        Signal(
            name=m, family="performance", statistic="metric", value=truth[m], low=truth[m] - 0.02, high=truth[m] + 0.02
        )
        for m in NAMES
    ]
    assert {s.direction for s in estimate.beside(agree, estimate.estimate(calibration, score, metrics=NAMES))} == {
        "agrees"
    }


def test_what_cannot_be_estimated() -> None:
    with pytest.raises(BadInput, match="calibrate"):
        estimate.calibrate(np.array([0.1, 0.9]), np.array([0, 1]))
    with pytest.raises(BadInput, match="calibrate"):
        estimate.calibrate(np.linspace(0, 1, 500), np.zeros(500))
    calibration = estimate.calibrate(*draw(np.random.default_rng(2), 1000))
    assert [
        s.name for s in estimate.estimate(calibration, np.array([0.1, 0.4, np.nan]), metrics=["mae", "recall"])
    ] == ["recall"]
    assert estimate.estimate(calibration, np.array([np.nan]), metrics=["recall"])[0].value is None
