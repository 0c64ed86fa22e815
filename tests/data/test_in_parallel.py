"""Work spread over threads: results in order, the first error wins, nothing is begun behind it."""

from __future__ import annotations

import threading
import time

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


@pytest.mark.parametrize("count", [0, 1, hashing.GROUP, 3 * hashing.GROUP + 1])
def test_work_that_does_not_wait_is_done_in_turn(count: int) -> None:
    names: set[str] = set()

    def work(item: int) -> int:
        names.add(threading.current_thread().name)
        return item * item

    assert list(hashing.in_turn(work, range(count))) == [item * item for item in range(count)]
    assert len(names) == min(count, 1) or count > hashing.GROUP  # a busy machine may look like a disk


def test_work_that_waits_is_spread_over_threads() -> None:
    names: set[str] = set()

    def work(item: int) -> int:
        names.add(threading.current_thread().name)
        time.sleep(0.0002)
        return -item

    count = 3 * hashing.GROUP + 1
    assert list(hashing.in_turn(work, range(count))) == [-item for item in range(count)]
    assert len(names) > 1


@pytest.mark.parametrize("wrong", [3, hashing.GROUP + 3])
def test_in_turn_the_first_error_ends_it_too(wrong: int) -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == wrong:
            raise ValueError("no")
        return item

    with pytest.raises(ValueError, match="no"):
        list(hashing.in_turn(work, range(100_000)))
    assert len(begun) < 10_000
