"""Isotonic regression against scikit-learn's."""

import numpy as np
import pytest

from holdfast.stats import isotonic

sk = pytest.importorskip("sklearn.isotonic")


@pytest.mark.parametrize("seed", range(12))
def test_against_sklearn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.random(rng.integers(2, 3000))
    if seed % 3 == 0:
        x = x.round(2)
    y = (rng.random(len(x)) < x**2).astype(float)
    knots, levels = isotonic.fit(x, y)
    assert (np.diff(levels) >= -1e-12).all()
    at = np.concatenate([np.linspace(-0.2, 1.2, 300), x])
    want = sk.IsotonicRegression(out_of_bounds="clip").fit(x, y).predict(at)
    np.testing.assert_allclose(isotonic.apply(knots, levels, at), want, atol=1e-9)
