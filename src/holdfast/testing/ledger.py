"""The contract of a ledger, as tests. A backend's own test module makes a class of it:

    class TestMyLedger(LedgerContract):
        @pytest.fixture
        def open_ledger(self, tmp_path):      # a function that opens the same, at first empty, store again and again
            return lambda: MyLedger(tmp_path)

Needs pytest; asks only for that fixture.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from holdfast.core.errors import BadInput, Damaged, HoldfastError
from holdfast.core.identity import digest
from holdfast.core.ports import Ledger
from holdfast.core.records import Entry

Opener = Callable[[], Ledger]


class _Stop(Exception):
    pass


class LedgerContract:
    """What every ledger must do, whatever it stands on."""

    @pytest.fixture
    def ledger(self, open_ledger: Opener) -> Iterator[Ledger]:
        ledger = open_ledger()
        yield ledger
        ledger.close()

    # --- the chain -------------------------------------------------------------------------------------------------

    def test_empty(self, ledger: Ledger) -> None:
        assert ledger.read() == []
        assert ledger.query() == []
        assert ledger.get("t", "k") is None
        assert ledger.scan("t") == []
        assert ledger.verify() == 0

    def test_entries_come_back_as_returned(self, ledger: Ledger) -> None:
        body = {"text": "é\u2028 \U0001f41f", "n": -3, "x": 0.1, "big": 2**53, "list": [1, {"a": None}]}
        entry = ledger.append("model.created", subject="m@1", body=body, at=7, actor="ann")
        assert (entry.sequence, entry.kind, entry.subject, entry.at, entry.actor) == (
            1,
            "model.created",
            "m@1",
            7,
            "ann",
        )
        assert entry.body == body
        assert ledger.read() == [entry]

    def test_each_entry_names_the_one_before_and_itself(self, ledger: Ledger) -> None:
        entries = [ledger.append("k", subject=str(i), body={"i": i}, at=i) for i in range(5)]
        assert [e.sequence for e in entries] == [1, 2, 3, 4, 5]
        for before, after in pairwise(entries):
            assert after.previous == before.hash
        for e in entries:
            link = {f: getattr(e, f) for f in Entry.__struct_fields__ if f != "hash"}
            assert e.hash == digest(link)
        assert ledger.verify() == 5

    def test_read_pages(self, ledger: Ledger) -> None:
        with ledger.transaction() as tx:
            for i in range(25):
                tx.append("k", subject="s", body={"i": i}, at=i)
        seen: list[int] = []
        while page := ledger.read(after=seen[-1] if seen else 0, limit=10):
            seen += [e.sequence for e in page]
        assert seen == list(range(1, 26))

    def test_query(self, ledger: Ledger) -> None:
        for i in range(10):
            ledger.append(f"data.{'added' if i % 2 else 'removed'}", subject=f"s{i % 3}", body={}, at=i)
        ledger.append("database", subject="s0", body={}, at=10)

        def found(**filters: Any) -> list[int]:
            return [e.sequence for e in ledger.query(**filters)]

        assert found(kind="data.added") == [2, 4, 6, 8, 10]
        assert found(kind="data.*") == list(range(1, 11))
        assert found(kind="data*") == list(range(1, 12))
        assert found(kind="*") == list(range(1, 12))
        assert found(subject="s0") == [1, 4, 7, 10, 11]
        assert found(since=3, until=5) == [4, 5]
        assert found(kind="data.added", subject="s0", since=4) == [10]
        assert found(limit=2) == [1, 2]
        assert found(limit=2, newest_first=True) == [11, 10]
        assert found(kind="data.%") == []
        assert found(kind="_ata.*") == []

    @pytest.mark.parametrize("value", ["a\0b", "\ud800"])
    def test_text_that_no_store_keeps_is_refused(self, ledger: Ledger, value: str) -> None:
        for arguments in ({"kind": value}, {"subject": value}, {"actor": value}):
            with pytest.raises(BadInput):
                ledger.append(**{"kind": "k", "subject": "s", "body": {}, "at": 1, **arguments})  # type: ignore[arg-type]
        with pytest.raises(BadInput), ledger.transaction() as tx:
            tx.put("t", value, {})
        assert ledger.read() == []

    @pytest.mark.parametrize("body", [{"x": object()}, {3: "x"}, {"x": "\ud800"}, ["list"], {"x": 1j}])
    def test_bodies_that_are_not_json_are_refused(self, ledger: Ledger, body: Any) -> None:
        with pytest.raises(BadInput):
            ledger.append("k", subject="s", body=body, at=1)
        assert ledger.read() == []

    def test_what_is_returned_is_what_is_stored(self, ledger: Ledger) -> None:
        entry = ledger.append("k", subject="s", body={"nan": float("nan"), "t": (1, 2)}, at=1)
        assert ledger.read() == [entry]
        assert ledger.verify() == 1

    # --- transactions ----------------------------------------------------------------------------------------------

    def test_a_transaction_is_whole_or_nothing(self, ledger: Ledger) -> None:
        with pytest.raises(_Stop), ledger.transaction() as tx:  # noqa: PT012
            tx.put("t", "k", {"v": 1})
            tx.append("k", subject="s", body={}, at=1)
            raise _Stop
        assert ledger.read() == [] and ledger.get("t", "k") is None
        with ledger.transaction() as tx:
            tx.put("t", "k", {"v": 2})
            tx.append("k", subject="s", body={}, at=1)
        assert ledger.get("t", "k") == {"v": 2}
        assert ledger.verify() == 1

    def test_a_transaction_sees_its_own_writes_and_others_do_not(self, ledger: Ledger, open_ledger: Opener) -> None:
        other = open_ledger()
        try:
            with ledger.transaction() as tx:
                tx.put("t", "k", {"v": 1})
                assert tx.get("t", "k") == {"v": 1}
                assert tx.scan("t") == [("k", {"v": 1})]
                assert other.get("t", "k") is None and other.scan("t") == []
            assert other.get("t", "k") == {"v": 1}
        finally:
            other.close()

    def test_state_rows(self, ledger: Ledger) -> None:
        with ledger.transaction() as tx:
            for key in ("a/2", "a/10", "b", "a", "ä", "a%", "a_"):
                tx.put("t", key, {"key": key})
            tx.put("other", "a/1", {})
            tx.put("t", "b", {"key": "again"})
            tx.delete("t", "nothing")
        assert [k for k, _ in ledger.scan("t")] == sorted(("a/2", "a/10", "b", "a", "ä", "a%", "a_"))
        assert [k for k, _ in ledger.scan("t", prefix="a/")] == ["a/10", "a/2"]
        assert [k for k, _ in ledger.scan("t", prefix="a%")] == ["a%"]
        assert ledger.get("t", "b") == {"key": "again"}
        with ledger.transaction() as tx:
            tx.delete("t", "b")
            assert tx.get("t", "b") is None
        assert ledger.get("t", "b") is None

    def test_a_transaction_inside_another_is_refused_not_a_deadlock(self, ledger: Ledger) -> None:
        with pytest.raises(HoldfastError), ledger.transaction() as tx:  # noqa: PT012
            tx.put("t", "k", {})
            ledger.append("k", subject="s", body={}, at=1)
        assert ledger.get("t", "k") is None
        ledger.append("k", subject="s", body={}, at=1)

    def test_transactions_of_threads_are_serialised(self, open_ledger: Opener) -> None:
        ledgers = [open_ledger(), open_ledger()]
        failures: list[Exception] = []

        def count(ledger: Ledger) -> None:
            try:
                for _ in range(10):
                    with ledger.transaction() as tx:
                        seen = (tx.get("t", "n") or {"n": 0})["n"]
                        tx.put("t", "n", {"n": seen + 1})
                        tx.append("counted", subject="n", body={"n": seen + 1}, at=seen)
            except Exception as error:  # noqa: BLE001 - a thread hands its failure over
                failures.append(error)

        threads = [threading.Thread(target=count, args=(ledgers[i % 2],)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        try:
            assert not failures
            assert ledgers[0].get("t", "n") == {"n": 60}
            assert [e.body["n"] for e in ledgers[0].read()] == list(range(1, 61))
            assert ledgers[1].verify() == 60
        finally:
            for ledger in ledgers:
                ledger.close()

    # --- watching --------------------------------------------------------------------------------------------------

    def test_watch_returns_empty_when_nothing_comes(self, ledger: Ledger) -> None:
        started = time.monotonic()
        assert ledger.watch(after=0, timeout=0.1) == []
        assert time.monotonic() - started >= 0.1

    def test_watch_wakes_for_another_writer(self, ledger: Ledger, open_ledger: Opener) -> None:
        ledger.append("old", subject="s", body={}, at=1)
        other = open_ledger()
        writer = threading.Timer(0.1, lambda: other.append("new", subject="s", body={}, at=2))
        writer.start()
        try:
            assert [e.kind for e in ledger.watch(after=1, timeout=30)] == ["new"]
            assert [e.kind for e in ledger.watch(after=0, timeout=0)] == ["old", "new"]
        finally:
            writer.join()
            other.close()

    # --- leases ----------------------------------------------------------------------------------------------------

    def test_a_lease_has_one_holder(self, ledger: Ledger, open_ledger: Opener) -> None:
        other = open_ledger()
        try:
            assert ledger.lease("loop", holder="a", seconds=60)
            assert not other.lease("loop", holder="b", seconds=60)
            assert ledger.lease("loop", holder="a", seconds=60)
            assert other.lease("another", holder="b", seconds=60)
            other.release_lease("loop", holder="b")
            assert not other.lease("loop", holder="b", seconds=60)
            ledger.release_lease("loop", holder="a")
            assert other.lease("loop", holder="b", seconds=60)
        finally:
            other.close()

    def test_a_lease_ends(self, ledger: Ledger) -> None:
        assert ledger.lease("loop", holder="a", seconds=0.2)
        assert not ledger.lease("loop", holder="b", seconds=60)
        time.sleep(0.25)
        assert ledger.lease("loop", holder="b", seconds=60)
        assert not ledger.lease("loop", holder="a", seconds=60)

    def test_of_many_takers_one_gets_the_lease(self, open_ledger: Opener) -> None:
        ledgers = [open_ledger() for _ in range(8)]
        got: list[str] = []

        def take(ledger: Ledger, holder: str) -> None:
            if ledger.lease("tick", holder=holder, seconds=60):
                got.append(holder)

        threads = [threading.Thread(target=take, args=(ledger, str(i))) for i, ledger in enumerate(ledgers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for ledger in ledgers:
            ledger.close()
        assert len(got) == 1

    # --- audit -----------------------------------------------------------------------------------------------------

    def test_anchors(self, ledger: Ledger) -> None:
        entries = [ledger.append("k", subject="s", body={"i": i}, at=i) for i in range(3)]
        assert ledger.verify(anchor=(2, entries[1].hash)) == 3
        assert ledger.verify(anchor=(3, entries[2].hash)) == 3
        with pytest.raises(Damaged):
            ledger.verify(anchor=(2, entries[0].hash))
        with pytest.raises(Damaged):
            ledger.verify(anchor=(4, "0" * 64))

    def test_what_is_written_is_there_for_who_opens_later(self, open_ledger: Opener) -> None:
        first = open_ledger()
        entry = first.append("k", subject="s", body={"i": 1}, at=1)
        first.close()
        first.close()
        second = open_ledger()
        assert second.read() == [entry]
        second.close()
