"""Ranking metrics against scikit-learn, and against what they say in plain loops."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from holdfast.core.errors import NotFound
from holdfast.stats import ranking

sk = pytest.importorskip("sklearn.metrics")


def lists(seed: int, n: int, digits: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 4, n) * (rng.random(n) < 0.6),
        np.round(rng.random(n), digits),
        rng.integers(0, max(n // 6, 1), n),
    )


def plain(name: str, y: Any, score: Any, k: int | None) -> float:
    """One list, ties against the model, in a loop."""
    order = sorted(range(len(y)), key=lambda i: (-score[i], y[i]))
    shown = order if k is None else order[:k]
    hits = [y[i] > 0 for i in shown]
    total = int(sum(y > 0))
    if name == "precision":
        return sum(hits) / (k or len(order))
    if name == "recall":
        return sum(hits) / total
    if name == "hit_rate":
        return float(any(hits))
    if name == "mrr":
        return next((1 / (i + 1) for i, hit in enumerate(hits) if hit), 0.0)
    found = sum(sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit)
    return found / min(total, len(shown))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(0, 3), st.sampled_from([None, 1, 3, 10]))
def test_every_metric_of_every_list(seed: int, n: int, digits: int, k: int | None) -> None:
    y, score, query = lists(seed, n, digits)
    kept = [q for q in np.unique(query) if (y[query == q] > 0).any()]
    for name in ("mrr", "map", "precision", "recall", "hit_rate"):
        figures, left_out = ranking.per_query(name, y, score, query, k=k)
        assert left_out == len(np.unique(query)) - len(kept)
        np.testing.assert_allclose(figures, [plain(name, y[query == q], score[query == q], k) for q in kept])
    figures, _ = ranking.per_query("ndcg", y, score, query, k=k)
    expected = [
        sk.ndcg_score([y[query == q]], [score[query == q]], k=k) if (query == q).sum() > 1 else 1.0 for q in kept
    ]
    np.testing.assert_allclose(figures, expected)


def test_map_without_ties_is_scikit_learns() -> None:
    y, _, query = lists(3, 400, 2)
    score = np.random.default_rng(1).permutation(400) / 400
    figures, _ = ranking.per_query("map", y, score, query)
    kept = [q for q in np.unique(query) if (y[query == q] > 0).any()]
    expected = [sk.average_precision_score(y[query == q] > 0, score[query == q]) for q in kept]
    np.testing.assert_allclose(figures, expected)


def test_a_constant_score_earns_nothing_by_the_files_order() -> None:
    y = np.array([1, 1, 0, 0, 0, 0])
    for name in ("mrr", "map", "precision", "hit_rate"):
        best, _ = ranking.per_query(name, y, np.zeros(6), np.zeros(6), k=2)
        assert best[0] == 0


def test_what_makes_no_sense_is_refused_or_empty() -> None:
    with pytest.raises(NotFound, match="ndgc"):
        ranking.per_query("ndgc", [1], [1.0], [0])
    with pytest.raises(ValueError, match="below 0"):
        ranking.per_query("ndcg", [-1], [1.0], [0])
    figures, left_out = ranking.per_query("ndcg", [0, 0], [1.0, 2.0], [0, 1])
    assert len(figures) == 0 and left_out == 2
    assert len(ranking.per_query("ndcg", [], [], [])[0]) == 0
