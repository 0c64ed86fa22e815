"""Looking at many things at once: corrections so that chance alone seldom raises an alarm."""

from __future__ import annotations

from typing import Any

import numpy as np


def benjamini_hochberg(p: Any, rate: float) -> Any:
    """Which of the p-values count when the share of false alarms among alarms is kept at ``rate``; bool array."""
    return _below(benjamini_hochberg_adjusted(p), rate)


def holm(p: Any, rate: float) -> Any:
    """Which of the p-values count when the chance of any false alarm is kept at ``rate``; bool array."""
    return _below(holm_adjusted(p), rate)


def holm_adjusted(p: Any) -> Any:
    """Adjusted p-values of Holm (1979). NaN stays NaN and does not count as a test."""
    return _adjust(p, _holm)


def benjamini_hochberg_adjusted(p: Any) -> Any:
    """Adjusted p-values of Benjamini & Hochberg (1995), for independent or positively dependent tests. NaN stays NaN
    and does not count as a test."""
    return _adjust(p, _bh)


def sidak(confidence: float, k: int) -> float:
    """The confidence each of k intervals needs for all to hold together at ``confidence`` (Šidák 1967)."""
    return float(confidence ** (1 / max(k, 1)))


def _below(adjusted: Any, rate: float) -> Any:
    return np.nan_to_num(adjusted, nan=2.0) <= rate


def _adjust(p: Any, rule: Any) -> Any:
    p = np.asarray(p, dtype=np.float64)
    out = np.full(p.shape, np.nan)
    known = ~np.isnan(p)
    if known.any():
        out[known] = rule(p[known])
    return out


def _holm(p: Any) -> Any:
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(steps, 1.0)
    return out


def _bh(p: Any) -> Any:
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    out = np.empty(len(p))
    out[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return out
