"""The order of events, against Python's own sort."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from holdfast.features import answers

LOW, HIGH = -(1 << 63), (1 << 63) - 1


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("parts", [1, 3])
def test_rows_come_in_order_of_code_and_time_whatever_their_range(
    seed: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: parts)
    monkeypatch.setattr(answers, "SORTED_APART", 5)
    rng = random.Random(seed)
    n = rng.choice([0, 1, 2, 50, 3000])
    codes = rng.choice([1, 7, 1 << 20, 1 << 40])
    span = rng.choice([1, 10, 1 << 30, 1 << 50, 1 << 61, 1 << 62])
    first = rng.choice([LOW, -(1 << 61), 0, 1 << 61])
    few = [first + rng.randrange(span) for _ in range(10)]
    code = np.array([rng.randrange(-1, codes) for _ in range(n)], np.int64)
    time = np.array([min(rng.choice([rng.choice(few), first + rng.randrange(span)]), HIGH) for _ in range(n)], np.int64)
    row, same = answers.by_code_and_time(code, time)
    pairs = list(zip(code.tolist(), time.tolist(), strict=True))
    ordered = [pairs[i] for i in row.tolist()]
    assert sorted(row.tolist()) == list(range(n))
    assert ordered == sorted(pairs)
    assert same.tolist() == [a == b for a, b in zip(ordered[1:], ordered[:-1], strict=True)]
