"""The contract of ``core.ports.OnlineStore`` as a test class: give it a ``store`` fixture and it proves the rest.

class TestMyStore(OnlineStoreContract):
    @pytest.fixture
    def store(self): ...
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from holdfast.core.ports import Buffer, Merge, OnlineStore


def put(value: bytes | None) -> Merge:
    """A merge that sets one key."""
    return lambda stored: [value]


def add(stored: Sequence[Buffer | None]) -> Sequence[bytes | None]:
    """A merge that counts."""
    return [str(int(bytes(stored[0] or b"0")) + 1).encode()]


def values(store: OnlineStore, *keys: bytes) -> list[bytes | None]:
    """What is stored, copied out."""
    return store.fetch(keys, use=lambda found: [None if v is None else bytes(v) for v in found])


class OnlineStoreContract:
    """What every online store must do."""

    def test_it_says_whether_a_call_may_wait_for_another_machine(self, store: OnlineStore) -> None:
        assert store.waits in (True, False)

    def test_clear_forgets_everything_marks_included(self, store: Any) -> None:
        store.update([([b"k"], lambda stored: [b"v"])], meta={"mark": b"1"})
        store.clear()
        assert store.fetch([b"k"], use=lambda values: [None if v is None else bytes(v) for v in values]) == [None]
        assert store.meta_get("mark") is None

    def test_absent_keys_are_none_in_place(self, store: OnlineStore) -> None:
        store.update([([b"b"], put(b"2"))])
        assert values(store, b"a", b"b", b"c", b"b") == [None, b"2", None, b"2"]
        assert values(store) == []

    def test_binary_keys_and_values_come_back_exactly(self, store: OnlineStore) -> None:
        keys = [bytes([i, 255 - i, 0, i]) for i in range(256)] + [b"*?[x]\\-^" + bytes([i]) for i in range(9)]
        store.update([([k], put(k * 3)) for k in keys])
        assert values(store, *keys) == [k * 3 for k in keys]

    def test_large_values(self, store: OnlineStore) -> None:
        large = bytes(range(256)) * 20_000
        store.update([([b"large"], put(large)), ([b"empty-ish"], put(b"\x00"))])
        assert values(store, b"large", b"empty-ish") == [large, b"\x00"]

    def test_a_merge_sees_what_is_stored_and_earlier_groups(self, store: OnlineStore) -> None:
        store.update([([b"n"], add), ([b"n"], add)])
        store.update([([b"n"], add)])
        assert values(store, b"n") == [b"3"]

    def test_many_large_groups_and_their_mark(self, store: OnlineStore) -> None:
        names = [b"%05d" % i for i in range(1500)]

        def numbered(part: list[bytes]) -> Merge:
            return lambda stored: [bytes(old or b"") + name for old, name in zip(stored, part, strict=True)]

        parts = [names[i : i + 400] for i in range(0, len(names), 400)]
        groups = [(part, numbered(part)) for part in parts]
        store.update([*groups, (names[:3], numbered(names[:3]))], meta={"upto": b"9"})
        assert values(store, *names) == [name * 2 if i < 3 else name for i, name in enumerate(names)]
        assert store.meta_get("upto") == b"9"

    def test_none_removes_same_object_stays_no_answer_leaves(self, store: OnlineStore) -> None:
        store.update([([b"a", b"b", b"c"], lambda stored: [b"1", b"2", b"3"])])
        store.update([([b"a", b"b"], lambda stored: [None, stored[1]]), ([b"c"], lambda stored: None)])
        assert values(store, b"a", b"b", b"c") == [None, b"2", b"3"]

    def test_a_failing_merge_changes_nothing(self, store: OnlineStore) -> None:
        def fail(stored: Sequence[Buffer | None]) -> Sequence[bytes | None]:
            raise RuntimeError("no")

        store.update([([b"a"], put(b"1"))])
        failed = False
        try:
            store.update([([b"a"], put(b"2")), ([b"b"], fail)], meta={"mark": b"x"})
        except RuntimeError:
            failed = True
        assert failed
        assert values(store, b"a", b"b") == [b"1", None]
        assert store.meta_get("mark") is None

    def test_marks(self, store: OnlineStore) -> None:
        assert store.meta_get("mark") is None
        store.update([([b"a"], put(b"1"))], meta={"mark": b"x", "other": b"\x00y"})
        assert store.meta_get("mark") == b"x"
        assert store.meta_get("other") == b"\x00y"
        store.update([], meta={"mark": b"z"})
        assert store.meta_get("mark") == b"z"

    def test_scan_and_drop_by_prefix(self, store: OnlineStore) -> None:
        store.update([([b"v1" + bytes([i])], put(b"x")) for i in range(50)], meta={"v1": b"mark"})
        store.update([([b"v2*"], put(b"y")), ([b"v"], put(b"z"))])
        assert sorted(k for k, _ in store.scan(b"v1")) == [b"v1" + bytes([i]) for i in range(50)]
        assert dict(store.scan(b"v2")) == {b"v2*": b"y"}
        assert dict(store.scan(b""))[b"v"] == b"z"
        assert len(list(store.scan(b""))) == 52
        assert store.drop(b"v1") == 50
        assert list(store.scan(b"v1")) == []
        assert values(store, b"v2*", b"v") == [b"y", b"z"]
        assert store.meta_get("v1") == b"mark"

    def test_concurrent_merges_lose_nothing(self, store: OnlineStore) -> None:
        def work() -> None:
            for _ in range(25):
                store.update([([b"n"], add)])

        run_together([work] * 4)
        assert values(store, b"n") == [b"100"]

    def test_readers_see_groups_whole(self, store: OnlineStore) -> None:
        stop = threading.Event()
        torn: list[Any] = []
        store.update([([b"x", b"y"], lambda stored: [b"0", b"0"])])

        def read() -> None:
            while not stop.is_set():
                x, y = values(store, b"x", b"y")
                if x != y:
                    torn.append((x, y))

        def write() -> None:
            try:
                for i in range(200):
                    value = str(i).encode()
                    store.update([([b"x", b"y"], lambda stored, value=value: [value, value])])  # type: ignore[misc]
            finally:
                stop.set()

        run_together([read, read, write])
        assert torn == []

    def test_close_twice(self, store: OnlineStore) -> None:
        store.flush()
        store.close()
        store.close()


def run_together(actions: Sequence[Callable[[], None]]) -> None:
    """Run all at once in threads; the first error is raised here."""
    errors: list[BaseException] = []

    def guarded(action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(a,)) for a in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
