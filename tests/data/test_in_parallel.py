"""Work spread over threads: results in order, the first error wins, nothing is begun behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from holdfast.data import hashing


@pytest.mark.parametrize("count", [0, 1, 3, 4, 63, 1000])
@pytest.mark.parametrize("alone", [False, True])
def test_results_come_in_the_order_of_the_items(count: int, alone: bool) -> None:
    def work(item: int) -> int:
        time.sleep(0.0001 * (item % 7))
        return item * item

    items = list(range(count))
    assert list(hashing.in_parallel(work, items, alone=alone)) == [item * item for item in items]


def test_several_threads_work_at_once() -> None:
    together = threading.Barrier(4)
    assert list(hashing.in_parallel(lambda item: together.wait(30) >= 0, range(4), workers=4)) == [True] * 4


def test_the_first_error_ends_it() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 200:
            raise ValueError("no")
        time.sleep(0.0005)
        return item

    seen: list[int] = []
    with pytest.raises(ValueError, match="no"):
        seen.extend(hashing.in_parallel(work, range(100_000), workers=4))
    assert seen == list(range(len(seen)))
    assert len(seen) <= 200
    assert len(begun) < 10_000


def test_who_stops_taking_stops_the_work() -> None:
    begun: list[int] = []
    before = threading.active_count()

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.0005)
        return item

    results = iter(hashing.in_parallel(work, range(100_000), workers=4))
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert len(begun) < 10_000
    assert threading.active_count() == before


def test_a_hand_takes_whole_groups_and_what_it_leaves_is_done_here() -> None:
    class Moody:
        def __init__(self) -> None:
            self.taken, self.left, self.gone = 0, 0, False

        def work(self, items: Sequence[int]) -> list[int] | None:
            if (self.taken + self.left) % 2:
                self.left += 1
                return None
            self.taken += 1
            return [-item for item in items]

        def dismiss(self) -> None:
            self.gone = True

    def work(item: int) -> int:
        time.sleep(0.0001)
        return -item

    hand = Moody()
    items = list(range(5000))
    assert list(hashing.in_parallel(work, items, workers=1, beside=[hand])) == [-item for item in items]
    assert hand.taken and hand.left and hand.gone


def test_an_error_is_raised_though_groups_before_it_were_left_undone() -> None:
    late = threading.Event()

    def work(item: int) -> int:
        if item < hashing.GROUP:
            late.wait(30)  # the first group is still at its first item when the second fails
        elif item == hashing.GROUP:
            late.set()
            raise ValueError("no")
        return item

    with pytest.raises(ValueError, match="no"):
        list(hashing.in_parallel(work, range(100_000), workers=2))
