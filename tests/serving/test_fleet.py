"""Watching replicas goes on through what the machine refuses: processes that cannot be started, a disk that is full."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from holdfast.serving import fleet
from holdfast.serving.fleet import Fleet


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with fleet.listen("127.0.0.1", 0) as sock:
        yield sock


def waits(name: str, where: str, lifeline: int) -> list[str]:
    """A replica that does nothing until its parent has gone."""
    return [sys.executable, "-c", f"import os; os.read({lifeline}, 1)"]


def tended(herd: Fleet, story: Callable[[], Any]) -> None:
    async def run() -> None:
        for worker in herd.workers:
            worker.start()
        tending = asyncio.ensure_future(herd._tend())
        try:
            async with asyncio.timeout(30):
                await story()
            assert not tending.done()
        finally:
            tending.cancel()
            for worker in herd.workers:
                worker.stopping = True
                worker.signal(signal.SIGKILL)
                await asyncio.to_thread(herd._reap, worker)

    asyncio.run(run())


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_a_full_disk_keeps_no_replica_from_being_started_again(listening: socket.socket) -> None:
    told: list[list[int]] = []
    full = True

    def write(pids: list[int]) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        told.append(pids)

    herd = Fleet(waits, replicas=1, listen=listening, on_change=write)

    async def story() -> None:
        nonlocal full
        (first,) = herd.pids
        os.kill(first, signal.SIGKILL)
        await until(lambda: herd.pids not in ([], [first]))
        assert told == []
        full = False
        await until(lambda: told[-1:] == [herd.pids])

    tended(herd, story)


def test_a_machine_that_starts_no_process_is_asked_again(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    herd = Fleet(waits, replicas=2, listen=listening)
    real, refusals = subprocess.Popen, 0

    def refused(*arguments: Any, **options: Any) -> Any:
        nonlocal refusals
        refusals += 1
        if refusals <= 2:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return real(*arguments, **options)

    async def story() -> None:
        first, second = herd.pids
        monkeypatch.setattr(subprocess, "Popen", refused)
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(herd.pids) == 2 and first not in herd.pids)
        assert second in herd.pids and refusals == 3
        await herd.scale(3)  # one more
        await until(lambda: len(herd.pids) == 3)

    tended(herd, story)
    assert "cannot be started" in caplog.text
