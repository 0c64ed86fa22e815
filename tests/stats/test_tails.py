"""Tails against scipy, over random arguments."""

import math
import random

import pytest

from holdfast.stats import tails

scipy_stats = pytest.importorskip("scipy.stats")


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-8, abs_tol=1e-13)


def test_against_scipy() -> None:
    rng = random.Random(5)
    for _ in range(400):
        df, x = rng.uniform(0.5, 300), rng.expovariate(1 / 100)
        assert close(tails.chi2_sf(x, df), scipy_stats.chi2.sf(x, df)), (x, df)
        t = rng.uniform(-40, 40)
        assert close(tails.t_two_sided(t, df), 2 * scipy_stats.t.sf(abs(t), df)), (t, df)
        d1, d2, f = rng.uniform(1, 80), rng.uniform(1, 500), rng.expovariate(0.5)
        assert close(tails.f_sf(f, d1, d2), scipy_stats.f.sf(f, d1, d2)), (f, d1, d2)
        n = rng.randint(1, 20_000)
        p = rng.random() ** 3
        k = rng.randint(0, n)
        assert close(tails.binomial_sf(k, n, p), scipy_stats.binom.sf(k - 1, n, p)), (k, n, p)
        k = min(n, max(0, round(n * p + rng.gauss(0, 3) * math.sqrt(n * p * (1 - p)))))
        assert close(tails.binomial_sf(k, n, p), scipy_stats.binom.sf(k - 1, n, p)), (k, n, p)
        x = rng.uniform(0.05, 4)
        assert close(tails.kolmogorov_sf(x), scipy_stats.kstwobign.sf(x)), x


def test_ends() -> None:
    assert tails.binomial_sf(0, 10, 0.5) == 1.0
    assert tails.binomial_sf(11, 10, 0.5) == 0.0
    assert tails.binomial_two_sided(0, 0, 0.5) == 1.0
    assert tails.t_two_sided(math.inf, 3) == 0.0
    assert tails.f_sf(2.0, 3, math.inf) == tails.chi2_sf(6.0, 3)
    assert tails.chi2_sf(math.inf, 3) == 0.0
    assert tails.chi2_sf(0.0, 3) == 1.0
    assert tails.kolmogorov_sf(0.0) == 1.0
    assert math.isnan(tails.chi2_sf(math.nan, 2))
