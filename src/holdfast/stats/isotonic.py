"""Isotonic regression by pool adjacent violators: the rising step function nearest to 0/1 outcomes in squares.

Source: Ayer, Brunk, Ewing, Reid and Silverman 1955, Ann. Math. Stat. 26. Importing scikit-learn for it would cost two
seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def fit(x: Array, y: Array) -> tuple[Array, Array]:
    """(knots (K,), levels (K,)) of the fit to ``y`` (n,) over ``x`` (n,): both ascending, equal ``x`` pooled first."""
    knots, place = np.unique(np.asarray(x, np.float64), return_inverse=True)
    weight = np.bincount(place).astype(np.float64)
    level = np.bincount(place, weights=np.asarray(y, np.float64)) / weight
    # Blocks on a stack: value, weight, how many knots.
    values: list[float] = []
    weights: list[float] = []
    sizes: list[int] = []
    for value, w in zip(level.tolist(), weight.tolist(), strict=True):
        size = 1
        while values and values[-1] >= value:
            before = weights.pop()
            value = (values.pop() * before + value * w) / (before + w)
            w += before
            size += sizes.pop()
        values.append(value)
        weights.append(w)
        sizes.append(size)
    return knots, np.repeat(np.array(values), sizes)


def apply(knots: Array, levels: Array, x: Array) -> Array:
    """The fit at ``x``: linear between knots, flat beyond the ends."""
    return np.asarray(np.interp(x, knots, levels))
