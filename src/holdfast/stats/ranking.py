"""Ranking metrics, one figure per query. Definitions: NDCG of Järvelin & Kekäläinen (2002) with linear gain and ties
averaged, as scikit-learn's ``ndcg_score``; the others as in Manning, Raghavan & Schütze (2008), chapter 8, with ties
broken against the model: a score that does not tell rows apart earns nothing by their order in the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.core.errors import NotFound

NAMES = ("ndcg", "mrr", "map", "precision", "recall", "hit_rate")


def per_query(name: str, y: Any, score: Any, query: Any, *, k: int | None = None) -> tuple[Any, int]:
    """(figures, queries left out): the metric of every query that has a relevant row.

    Args:
        y: (n,) relevance, above 0 is relevant. score: (n,), higher first. query: (n,) whose list a row belongs to.
        k: only the first ``k`` of each list count.

    Raises:
        NotFound: no such metric.
        ValueError: a relevance is negative.
    """
    if name not in NAMES:
        raise NotFound.among("ranking metric", name, NAMES)
    y, score = np.asarray(y, dtype=np.float64), np.asarray(score, dtype=np.float64)
    if len(y) and y.min() < 0:
        raise ValueError("relevance is below 0")
    _, codes = np.unique(np.asarray(query), return_inverse=True)
    # Best score first; among equal scores the least relevant first.
    order = np.lexsort((y, -score, codes))
    codes, gain, ranked = codes[order], y[order], score[order]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]]) if len(codes) else np.empty(0, dtype=np.int64)
    sizes = np.diff(np.r_[starts, len(codes)])
    if not len(starts):
        return np.empty(0), 0
    rank = np.arange(len(codes)) - np.repeat(starts, sizes)
    counted = rank < (k if k is not None else len(codes))
    relevant = gain > 0
    total = np.add.reduceat(relevant.astype(np.int64), starts)
    kept = total > 0
    if name == "ndcg":
        found = _ndcg(gain, ranked, codes, starts, sizes, rank, counted)
    else:
        shown = np.minimum(sizes, k) if k is not None else sizes
        hits = relevant & counted
        inside = np.add.reduceat(hits.astype(np.int64), starts)
        if name == "precision":
            found = inside / (k if k is not None else sizes)
        elif name == "recall":
            found = inside / np.maximum(total, 1)
        elif name == "hit_rate":
            found = (inside > 0).astype(np.float64)
        elif name == "mrr":
            found = np.maximum.reduceat(np.where(hits, 1.0 / (rank + 1), 0.0), starts)
        else:
            so_far = np.cumsum(relevant)
            before = np.repeat(so_far[starts] - relevant[starts], sizes)
            precision = (so_far - before) / (rank + 1)
            found = np.add.reduceat(np.where(hits, precision, 0.0), starts) / np.maximum(np.minimum(total, shown), 1)
    return np.asarray(found, dtype=np.float64)[kept], int(np.count_nonzero(~kept))


def _ndcg(gain: Any, score: Any, codes: Any, starts: Any, sizes: Any, rank: Any, counted: Any) -> Any:
    discount = np.where(counted, 1 / np.log2(rank + 2.0), 0.0)
    ties = np.flatnonzero(np.r_[True, (score[1:] != score[:-1]) | (codes[1:] != codes[:-1])])
    length = np.diff(np.r_[ties, len(codes)])
    earned = np.add.reduceat(gain, ties) / length * np.add.reduceat(discount, ties)
    got = np.bincount(codes[ties], weights=earned, minlength=len(starts))
    best = np.lexsort((-gain, codes))
    ideal = np.add.reduceat(gain[best] * discount, starts)
    return np.divide(got, ideal, out=np.zeros(len(starts)), where=ideal > 0)
