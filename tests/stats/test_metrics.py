"""Metrics against scikit-learn, influence against the jackknife, intervals against how often they hold."""

from __future__ import annotations

import math
import warnings
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from holdfast.core.errors import NotFound
from holdfast.stats import intervals, metrics, multiplicity

sk = pytest.importorskip("sklearn.metrics")
FLAT = {
    "accuracy": lambda y, s, p: sk.accuracy_score(y, p),
    "precision": lambda y, s, p: sk.precision_score(y, p, zero_division=np.nan),
    "recall": lambda y, s, p: sk.recall_score(y, p, zero_division=np.nan),
    "f1": lambda y, s, p: sk.f1_score(y, p, zero_division=np.nan),
    "balanced_accuracy": lambda y, s, p: sk.balanced_accuracy_score(y, p),
    "roc_auc": lambda y, s, p: sk.roc_auc_score(y, s),
    "average_precision": lambda y, s, p: sk.average_precision_score(y, s),
    "log_loss": lambda y, s, p: sk.log_loss(y, s),
    "brier": lambda y, s, p: sk.brier_score_loss(y, s),
    "mae": lambda y, s, p: sk.mean_absolute_error(y, s),
    "rmse": lambda y, s, p: sk.root_mean_squared_error(y, s),
    "r2": lambda y, s, p: sk.r2_score(y, s),
    "mape": lambda y, s, p: sk.mean_absolute_percentage_error(y, s),
    "wape": lambda y, s, p: np.abs(y - s).sum() / y.sum() if y.sum() else np.nan,
    "median_error": lambda y, s, p: sk.median_absolute_error(y, s),
    "explained_variance": lambda y, s, p: sk.explained_variance_score(y, s),
    "mcc": lambda y, s, p: sk.matthews_corrcoef(y, p) if len(np.unique(p)) > 1 else np.nan,
    "kappa": lambda y, s, p: sk.cohen_kappa_score(y, p),
}


def rows(seed: int, n: int = 300, digits: int = 2) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(int)
    return y, np.round(np.clip(0.2 * y + 0.8 * rng.random(n), 0.001, 0.999), digits)


@pytest.mark.parametrize("name", FLAT)
@settings(max_examples=25, derandomize=True, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(4, 120), digits=st.integers(1, 6))
def test_equal_to_scikit_learn(name: str, seed: int, n: int, digits: int) -> None:
    y, score = rows(seed, n, digits)
    if len(np.unique(y)) < 2:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = FLAT[name](y, score, (score >= 0.5).astype(int))
    np.testing.assert_allclose(metrics.compute(name, y, score), expected, rtol=1e-9)
    figure, effect = metrics.influence(name, y, score)
    np.testing.assert_allclose(figure, expected, rtol=1e-9)
    if not math.isnan(figure):
        assert abs(effect.sum()) < 1e-6 * n * max(1.0, abs(figure))


@pytest.mark.parametrize("name", [n for n in FLAT if n != "median_error"])  # the jackknife does not work for medians
def test_influence_is_the_jackknife(name: str) -> None:
    y, score = rows(5, 400)
    _, effect = metrics.influence(name, y, score)
    left_out = np.array([metrics.compute(name, np.delete(y, i), np.delete(score, i)) for i in range(len(y))])
    jackknife = np.sqrt((len(y) - 1) / len(y) * ((left_out - left_out.mean()) ** 2).sum())
    assert intervals.standard_error(effect) == pytest.approx(jackknife, rel=0.03)


def test_multiclass() -> None:
    rng = np.random.default_rng(0)
    y, score = rng.integers(0, 3, 200), rng.dirichlet([1, 1, 1], 200)
    assert metrics.compute("accuracy", y, score) == pytest.approx(sk.accuracy_score(y, score.argmax(axis=1)))
    assert metrics.compute("macro_f1", y, score) == pytest.approx(sk.f1_score(y, score.argmax(axis=1), average="macro"))
    assert metrics.compute("log_loss", y, score) == pytest.approx(sk.log_loss(y, score))


def test_undefined_is_nan_and_unknown_is_named() -> None:
    assert math.isnan(metrics.compute("roc_auc", np.ones(5), np.arange(5.0)))
    assert math.isnan(metrics.compute("precision", np.ones(5), np.zeros(5)))
    assert math.isnan(metrics.compute("accuracy", np.array([]), np.array([])))
    with pytest.raises(NotFound, match="did you mean 'recall'"):
        metrics.get("recal")


def coverage(draw: Any, truth: float, worlds: int = 400, seed: int = 1) -> float:
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(worlds):
        low, high = draw(rng)
        held += low <= truth <= high
    return held / worlds


@pytest.mark.parametrize(("p", "n"), [(0.5, 30), (0.9, 50), (0.02, 200)])
def test_wilson_holds(p: float, n: int) -> None:
    share = coverage(lambda rng: intervals.wilson(int(rng.binomial(n, p)), n), p)
    assert 0.92 <= share <= 0.99


@pytest.mark.parametrize("n", [60, 1000])
def test_median_error_interval_holds(n: int) -> None:
    def draw(rng: Any) -> tuple[float, float]:
        found = intervals.metric("median_error", np.zeros(n), rng.normal(size=n))
        return found.low, found.high

    assert 0.92 <= coverage(draw, 0.67449) <= 0.985


@pytest.mark.parametrize(("a", "b", "n"), [(0.3, 0.3, 100), (0.1, 0.5, 60), (0.9, 0.8, 40), (0.02, 0.2, 200)])
def test_ratio_interval_holds(a: float, b: float, n: int) -> None:
    share = coverage(lambda rng: intervals.ratio(int(rng.binomial(n, a)), n, int(rng.binomial(2 * n, b)), 2 * n), a / b)
    assert 0.92 <= share <= 0.99
    assert intervals.ratio(3, 10, 0, 10) == (pytest.approx(intervals.ratio(3, 10, 0, 10)[0]), math.inf)
    assert intervals.ratio(0, 10, 5, 10)[0] == 0 and intervals.ratio(0, 0, 5, 10) == (0.0, math.inf)


@pytest.mark.parametrize("n", [80, 400])
def test_auc_interval_holds(n: int) -> None:
    truth = 0.5 * (1 + math.erf(1 / 2))  # two normals one sd apart

    def draw(rng: Any) -> tuple[float, float]:
        y = np.arange(n) % 3 == 0
        found = intervals.metric("roc_auc", y.astype(int), rng.normal(size=n) + y)
        return found.low, found.high

    assert 0.92 <= coverage(draw, truth) <= 0.985


def test_paired_auc_interval_holds_and_is_narrower() -> None:
    def draw(rng: Any) -> tuple[float, float]:
        y = (rng.random(300) < 0.4).astype(int)
        shared = y + rng.normal(size=300)
        a, b = shared + 0.3 * rng.normal(size=300), shared + 0.3 * rng.normal(size=300)
        found = intervals.paired("roc_auc", y, a, b)
        assert found.high - found.low < 0.8 * sum(
            (lambda e: e.high - e.low)(intervals.metric("roc_auc", y, s)) for s in (a, b)
        )
        return found.low, found.high

    assert 0.92 <= coverage(draw, 0.0, worlds=300) <= 0.985


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.integers(0, 200), st.integers(0, 200))
def test_wilson_holds_its_figure(hits: int, more: int) -> None:
    n = hits + more
    low, high = intervals.wilson(hits, n)
    assert 0 <= low <= high <= 1
    if n:
        assert low <= hits / n <= high


def test_a_perfect_score_is_not_perfectly_sure() -> None:
    y = np.array([0] * 10 + [1] * 10)
    found = intervals.metric("roc_auc", y, y.astype(float))
    assert found.figure == 1.0 and found.high == 1.0 and 0.6 < found.low < 0.8


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_corrections(p: list[float]) -> None:
    values = np.array(p)
    holm, bh = multiplicity.holm_adjusted(values), multiplicity.benjamini_hochberg_adjusted(values)
    assert np.all(holm >= values) and np.all(bh >= values - 1e-15) and np.all(bh <= holm + 1e-12)
    scipy = pytest.importorskip("scipy.stats")
    np.testing.assert_allclose(bh, scipy.false_discovery_control(values))
    assert np.array_equal(multiplicity.benjamini_hochberg(values, 0.1), bh <= 0.1)
    assert np.array_equal(multiplicity.holm(np.append(values, np.nan), 0.1), np.append(holm <= 0.1, False))


@pytest.mark.parametrize("df", [1, 2, 3, 5, 10, 100, 999])
def test_student_quantile(df: int) -> None:
    scipy = pytest.importorskip("scipy.stats")
    assert intervals.t(0.95, df) == pytest.approx(scipy.t.ppf(0.975, df), rel=5e-3)
