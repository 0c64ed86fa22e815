"""One pusher through changes of definitions: whatever was acknowledged, before or meanwhile, is in every view it follows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.core import definitions as d
from holdfast.core.errors import BadData, BadInput, NotFound, Unavailable
from holdfast.features import journal
from holdfast.features import push as push_module
from holdfast.features.lookup import Lookup, compile_plan
from holdfast.features.push import Pusher

SOURCE = d.Source("s", "s.parquet", timestamp="t")
KEY = d.Entity("k")
COUNTS = d.FeatureView("counts", [KEY], SOURCE, [d.Aggregation("n", ["count", "sum"], ["1d"])])
NEWEST = d.FeatureView("newest", [KEY], SOURCE, [d.Field("n", int)])
COLOUR = d.FeatureView("colour", [KEY], SOURCE, [d.Field("colour", str)])
ELSEWHERE = d.FeatureView("elsewhere", [KEY], d.Source("o", "o.parquet", timestamp="t"), [d.Field("n", int)])
TEXT = d.FeatureView("text", [KEY], SOURCE, [d.Field("n", str)])


@pytest.fixture
def online(tmp_path: Path) -> Iterator[EmbeddedOnlineStore]:
    with EmbeddedOnlineStore(tmp_path / "online", map_size=1 << 26) as store:
        yield store


def ask(online: EmbeddedOnlineStore, view: d.FeatureView, k: int = 1, at: int = 10_000) -> dict[str, Any]:
    return Lookup(compile_plan(d.FeatureService("s", [view])), online).rows([{"k": k}], at=[at])[0]


def event(n: int, **more: Any) -> list[dict[str, Any]]:
    return [{"k": 1, "t": n, "n": n, **more}]


@pytest.mark.parametrize("landed", [False, True])
def test_a_view_that_comes_later_has_what_was_pushed_before(
    tmp_path: Path, online: EmbeddedOnlineStore, landed: bool
) -> None:
    with Pusher(tmp_path, online, [COUNTS], durable=False) as pusher:
        for n in (1, 2, 3):
            pusher.push("s", event(n), arrived=n)
            if landed and n == 2:
                pusher.land()
        with pytest.raises(NotFound):
            pusher.push("o", event(1), arrived=1)
        assert pusher.follow([COUNTS, NEWEST, COLOUR, ELSEWHERE]) > 0
        assert ask(online, NEWEST) == {"newest__n": 3}
        assert ask(online, COLOUR) == {"colour__colour": None}  # a column nobody sent
        pusher.push("s", event(4, colour="red"), arrived=4)
        pusher.push("elsewhere", event(9), arrived=9)
        assert ask(online, NEWEST) == {"newest__n": 4} and ask(online, COLOUR) == {"colour__colour": "red"}
        assert ask(online, ELSEWHERE) == {"elsewhere__n": 9}
        assert ask(online, COUNTS) == {"counts__n_count_1d": 4, "counts__n_sum_1d": 10.0}


def test_a_view_that_was_left_and_comes_back_has_missed_nothing(tmp_path: Path, online: EmbeddedOnlineStore) -> None:
    with Pusher(tmp_path, online, [COUNTS, NEWEST], durable=False) as pusher:
        pusher.push("s", event(1), arrived=1)
        pusher.follow([NEWEST])
        pusher.push("s", event(2), arrived=2)
        assert ask(online, COUNTS)["counts__n_count_1d"] == 1
        pusher.follow([COUNTS, NEWEST])
        assert ask(online, COUNTS)["counts__n_count_1d"] == 2
    # the same between one process and the next
    with Pusher(tmp_path, online, [NEWEST], durable=False) as pusher:
        pusher.push("s", event(3), arrived=3)
    with Pusher(tmp_path, online, [COUNTS], durable=False) as pusher:
        assert ask(online, COUNTS) == {"counts__n_count_1d": 3, "counts__n_sum_1d": 6.0}
        assert pusher.replayed == 3
    with Pusher(tmp_path, online, [COUNTS], durable=False) as pusher:
        assert pusher.replayed == 0


def test_a_column_added_to_a_view_does_not_keep_the_next_process_from_starting(
    tmp_path: Path, online: EmbeddedOnlineStore
) -> None:
    with Pusher(tmp_path, online, [NEWEST], durable=False) as pusher:
        pusher.push("s", event(1), arrived=1)
    wider = d.FeatureView("newest", [KEY], SOURCE, [d.Field("n", int), d.Field("colour", str)])
    with Pusher(tmp_path, online, [wider], durable=False):
        assert ask(online, wider) == {"newest__n": 1, "newest__colour": None}


def test_what_cannot_be_followed_changes_nothing(tmp_path: Path, online: EmbeddedOnlineStore) -> None:
    with Pusher(tmp_path, online, [COUNTS, NEWEST], durable=False) as pusher:
        pusher.push("s", event(1), arrived=1)
        with pytest.raises(BadData, match="text"):
            pusher.follow([NEWEST, TEXT])
        pusher.push("s", event(2), arrived=2)
        assert ask(online, COUNTS)["counts__n_count_1d"] == 2 and ask(online, NEWEST) == {"newest__n": 2}
        with pytest.raises(NotFound):
            pusher.push("text", event(3), arrived=3)


def test_the_journal_does_not_grow_for_ever(
    tmp_path: Path, online: EmbeddedOnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 400)
    folder = tmp_path / "features" / "journal"
    with Pusher(tmp_path, online, [COUNTS], durable=False) as pusher:
        for n in range(1, 101):
            pusher.push("s", event(n), arrived=n)
            if pusher.full:
                pusher.land()
            assert len(journal.segments(folder)) <= 3
        assert journal.segments(folder)[0] > 5
        pusher.follow([COUNTS, NEWEST])
        assert ask(online, NEWEST) == {"newest__n": 100}
        assert ask(online, COUNTS) == {"counts__n_count_1d": 100, "counts__n_sum_1d": 5050.0}


def test_pushes_go_on_while_definitions_change(tmp_path: Path, online: EmbeddedOnlineStore) -> None:
    """Four threads push, definitions come and go; at the end each view has every acknowledged event exactly once."""
    done = threading.Event()
    pushed = [0] * 4
    failed: list[BaseException] = []

    with Pusher(tmp_path, online, [COUNTS], durable=False) as pusher:

        def work(thread: int) -> None:
            try:
                while not done.is_set():
                    n = pushed[thread] * 4 + thread + 1
                    pusher.push("s", event(n, colour="red"), arrived=n)
                    pushed[thread] += 1
            except BaseException as problem:  # whatever it is, the test says it
                failed.append(problem)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        wider = d.FeatureView("counts", [KEY], SOURCE, [d.Aggregation("n", ["count", "max"], ["1d", "2d"])])
        for i in range(12):
            pusher.follow([[COUNTS, wider], [wider, NEWEST], [COUNTS, COLOUR]][i % 3])
            if i % 4 == 3:
                pusher.land()
        pusher.follow([COUNTS, wider, NEWEST])
        done.set()
        for thread in threads:
            thread.join(60)
        assert failed == [] and sum(pushed) > 20
        top = max(pushed[i] * 4 - 4 + i + 1 for i in range(4) if pushed[i])
        total = sum(pushed)
        assert ask(online, COUNTS, at=top)["counts__n_count_1d"] == total
        assert ask(online, wider, at=top)["counts__n_count_2d"] == total
        assert ask(online, NEWEST, at=top) == {"newest__n": top}


class Flaky:
    """An online store that cannot be reached for a while."""

    def __init__(self, store: EmbeddedOnlineStore) -> None:
        self.store, self.down = store, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def update(self, *arguments: Any, **named: Any) -> None:
        if self.down:
            raise Unavailable("the online store cannot be reached")
        self.store.update(*arguments, **named)


def test_what_the_store_did_not_take_is_there_with_the_next_push(tmp_path: Path, online: EmbeddedOnlineStore) -> None:
    store = Flaky(online)
    with Pusher(tmp_path, store, [COUNTS, NEWEST], durable=False) as pusher:
        store.down = True
        for n in (1, 2):
            with pytest.raises(Unavailable):
                pusher.push("s", event(n), arrived=n)
        assert pusher.behind
        store.down = False
        pusher.push("s", [{"k": 2, "t": 3, "n": 3}], arrived=3)
        assert not pusher.behind
        assert ask(online, COUNTS) == {"counts__n_count_1d": 2, "counts__n_sum_1d": 3.0}
        assert ask(online, NEWEST) == {"newest__n": 2}
        with pytest.raises(BadInput, match="must be int64"):  # the type of the key came with it
            Lookup(compile_plan(d.FeatureService("s", [NEWEST])), online).rows([{"k": "1"}], at=[9])


def test_nobody_is_told_yes_for_what_another_could_not_bring_online(
    tmp_path: Path, online: EmbeddedOnlineStore
) -> None:
    """Many push at once and share one write; where it fails, it failed for all of them."""
    store = Flaky(online)
    told: list[str] = []

    def work(n: int) -> None:
        try:
            pusher.push("s", event(n), arrived=n)
            told.append("yes")
        except Unavailable:
            told.append("no")

    with Pusher(tmp_path, store, [COUNTS]) as pusher:
        store.down = True
        threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 25)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told == ["no"] * 24
        store.down = False
        pusher.catch_up()
        assert ask(online, COUNTS)["counts__n_count_1d"] == 24


def test_a_store_that_stays_away_bounds_what_is_taken(
    tmp_path: Path, online: EmbeddedOnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_module, "_MOST_PENDING", 3)
    store = Flaky(online)
    with Pusher(tmp_path, store, [COUNTS], durable=False) as pusher:
        store.down = True
        for n in range(1, 7):
            with pytest.raises(Unavailable):
                pusher.push("s", event(n), arrived=n)
        assert len(list(journal.read(tmp_path / "features" / "journal"))) == 3
        store.down = False
        pusher.push("s", event(7), arrived=7)
        assert ask(online, COUNTS)["counts__n_count_1d"] == 4
