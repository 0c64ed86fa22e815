"""Group commit: pushes that wait at the same time share one fsync, and none is acknowledged before its own."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.core import definitions as d
from holdfast.features import journal, push
from holdfast.features.lookup import Lookup, compile_plan


def test_pushes_that_wait_together_share_one_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = d.FeatureView("v", [d.Entity("k")], d.Source("s", "s.parquet", timestamp="t"), [d.Field("x", int)])
    count = 12
    with (
        EmbeddedOnlineStore(tmp_path / "online", map_size=1 << 24) as online,
        push.Pusher(tmp_path, online, [view]) as pusher,
    ):
        slow, entered = threading.Event(), threading.Event()
        fsync, calls = os.fsync, []

        def counted(descriptor: int) -> None:
            calls.append(descriptor)
            entered.set()
            slow.wait(30)
            fsync(descriptor)

        monkeypatch.setattr(journal.os, "fsync", counted)
        acknowledged: list[int] = []

        def one(k: int) -> None:
            pusher.push("s", [{"k": k, "t": k, "x": k}], arrived=100)
            acknowledged.append(k)

        threads = [threading.Thread(target=one, args=(k,)) for k in range(count)]
        threads[0].start()
        assert entered.wait(30)
        before = pusher._journal.end
        for thread in threads[1:]:
            thread.start()
        while len(pusher._pending) < count:  # all are written and wait for the disk
            threading.Event().wait(0.005)
        assert acknowledged == [] and pusher._journal.end > before
        slow.set()
        for thread in threads:
            thread.join(30)
        assert sorted(acknowledged) == list(range(count))
        assert len(calls) <= 3
        rows = Lookup(compile_plan(d.FeatureService("s", [view])), online).rows(
            [{"k": k} for k in range(count)], at=[100] * count
        )
        assert [r["v__x"] for r in rows] == list(range(count))
