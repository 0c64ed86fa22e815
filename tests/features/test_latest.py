"""An entity's record: the same whatever the order, the size and the repetition of what comes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from holdfast.features import latest


def rows_of(rng: random.Random, n: int) -> list[tuple[int, int, int, list[Any]]]:
    span = rng.choice([3, 40])
    values: list[Any] = [None, 1, 2, 2.5]
    return [
        (rng.randrange(span), rng.randrange(span), rng.choice([0, 0, 1]), [rng.choice(values), rng.choice(values)])
        for _ in range(n)
    ]


@pytest.mark.parametrize("stamped", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_one_by_one_in_any_order_is_all_at_once(seed: int, stamped: bool) -> None:
    rng = random.Random(seed)
    rows = rows_of(rng, rng.choice([1, 5, 30]))
    now = max(r[1] for r in rows)
    together = latest.merge(None, rows, stamped=stamped)
    record = None
    for row in rng.sample(rows + rng.sample(rows, len(rows) // 2), len(rows) + len(rows) // 2):
        record = latest.merge(record, [row], stamped=stamped) or record
    assert together is not None and record is not None
    for at in (now, now + 1, now + 100):
        for ttl in (None, 2):
            answers = [latest.read_many([r], 0, 1, [0], [at], ttl, []) for r in (together, record)]
            assert answers[0] == answers[1], (seed, at, ttl)


@pytest.mark.parametrize("stamped", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_rows_taken_singly_and_sorted_together_lie_the_same(seed: int, stamped: bool) -> None:
    rng = random.Random(seed)
    rows = rows_of(rng, 25)
    singly: list[Any] = []
    together: list[Any] = []
    changed = [latest._take(singly, row, stamped) for row in rows]
    assert latest._take_many(together, rows, stamped) == any(changed)
    assert singly == together
    assert not any(latest._take(singly, row, stamped) for row in rows)


def test_with_push_stamped_arrivals_the_same_row_counts_once_from_its_first_arrival() -> None:
    first, other, again = (10, 11, 0, ["a"]), (10, 12, 0, ["b"]), (10, 20, 0, ["a"])

    def value(rows: list[Any], at: int, *, stamped: bool) -> Any:
        record = None
        for row in rows:
            record = latest.merge(record, [row], stamped=stamped) or record
        assert record is not None
        return latest.read_many([record], 0, 1, [0], [at], None, [])[0]

    # pushed again, "a" is not newer than "b": it has been known since 11
    assert value([first, other, again], 30, stamped=True) == ["b"]
    assert value([again, other, first], 30, stamped=True) == ["b"]
    # where the source itself says when rows arrived, a later row is a correction
    assert value([first, other, again], 30, stamped=False) == ["a"]
