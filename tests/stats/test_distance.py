"""Distances against scipy and against what must hold for any data."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.stats import distance

scipy_stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("seed", range(8))
def test_samples_against_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=rng.integers(20, 400)), rng.normal(0.2, size=rng.integers(20, 400))
    if seed % 2:
        a, b = a.round(1), b.round(1)  # ties
    d = distance.ks_statistic(a, b)
    assert d == pytest.approx(scipy_stats.ks_2samp(a, b).statistic, abs=1e-12)
    assert distance.wasserstein(a, b) == pytest.approx(scipy_stats.wasserstein_distance(a, b), rel=1e-9)
    exact = scipy_stats.ks_2samp(a, b, method="exact").pvalue
    assert distance.ks_pvalue(d, len(a), len(b)) == pytest.approx(exact, abs=0.05)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=20).filter(any), st.data())
@settings(derandomize=True, max_examples=100)
def test_histograms(p: list[int], data: st.DataObject) -> None:
    q = data.draw(st.lists(st.integers(0, 50), min_size=len(p), max_size=len(p)).filter(any))
    a, b = np.array(p), np.array(q)
    tv = distance.total_variation(a, b)
    assert 0 <= tv <= 1 + 1e-12
    assert tv == pytest.approx(distance.total_variation(b, a))
    assert distance.total_variation(a, a * 3) == pytest.approx(0)
    js = distance.jensen_shannon(a, b)
    # Pinsker's side of the bound, in base 2: TV <= JS distance * sqrt(2 ln 2).
    assert tv <= js * math.sqrt(2 * math.log(2)) + 1e-9
    assert js <= 1 + 1e-9
    assert distance.psi(a, b) >= -1e-12


def test_nan_and_empty() -> None:
    assert math.isnan(distance.ks_statistic(np.array([math.nan]), np.array([1.0])))
    assert math.isnan(distance.ks_pvalue(math.nan, 3, 3))
    assert math.isnan(distance.wasserstein(np.array([]), np.array([1.0])))
    assert distance.ks_statistic(np.array([1.0, math.nan]), np.array([1.0])) == 0.0


@pytest.mark.parametrize("seed", range(6))
def test_rose_against_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.poisson(3, 60).astype(float), rng.poisson(3 + seed, 7).astype(float)
    want = scipy_stats.mannwhitneyu(after, before, alternative="greater", method="asymptotic").pvalue
    assert distance.rose_pvalue(before, after) == pytest.approx(want, rel=1e-9)
    assert distance.rose_pvalue(np.ones(5), np.ones(3)) == 1.0
    assert math.isnan(distance.rose_pvalue(before, np.array([])))
