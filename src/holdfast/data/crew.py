"""Work on many small files by several processes. For a file of some KiB the interpreter takes as long as the kernel, and
threads of one process take turns at it; a second process halves the time.

Hands are only ever a quicker way: what one of them cannot do, or dies over, is done here, and raises its error here.
"""

from __future__ import annotations

import marshal
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from holdfast.data import hashing, twin

if TYPE_CHECKING:
    import subprocess

MANY = 2048
"""Files below which starting a process costs more than it saves."""
MOST = 3
SAMPLE = 32
"""Files after which it shows whether they come from memory."""
T = TypeVar("T")
R = TypeVar("R")
_PACKAGE = str(Path(__file__).parents[2])
_START = "import sys; sys.path.insert(0, sys.argv[1]); from holdfast.data import crew; crew.serve(*sys.argv[2:])"


def in_processes(job: Callable[[T], R], items: Sequence[T], *, turns: bool = False) -> Iterable[R]:
    """Results in the items' order, as ``hashing.in_parallel`` has them. ``job`` is a function of a module of
    ``holdfast.data``; its items and results are what ``marshal`` knows; done twice it does no harm. With ``turns`` files
    that come from memory are worked on by one thread of this process only, where more would wait for each other."""
    hands = [_Hand(job) for _ in range(_hands(len(items)))]
    try:
        waited = True
        if turns or hands:
            wall, busy = time.perf_counter(), time.thread_time()
            done = [job(item) for item in items[:SAMPLE]]
            # Whoever waits for a disk does so better in many threads.
            waited = time.perf_counter() - wall > 2 * (time.thread_time() - busy)
            yield from done
            items = items[SAMPLE:]
        if waited:
            yield from hashing.in_parallel(job, items, beside=hands)
        elif hands:
            yield from hashing.in_parallel(job, items, workers=1, beside=hands)
        else:
            yield from map(job, items)
    finally:
        for hand in hands:
            hand.dismiss()


def _hands(items: int) -> int:
    if items < MANY or "python" not in os.path.basename(sys.executable or "").lower():
        return 0  # few, or within a program that would not start as an interpreter
    return min(MOST, twin.processors() - 1)


class _Hand:
    """A process that does one kind of job."""

    def __init__(self, job: Callable[[Any], Any]) -> None:
        import subprocess

        self._process: subprocess.Popen[bytes] | None = None
        with suppress(OSError):  # no process to be had
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _START, _PACKAGE, job.__module__, job.__name__, str(os.getpid())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    def work(self, items: Sequence[Any]) -> list[Any] | None:
        process, answer = self._process, None
        if process is not None and process.stdin is not None and process.stdout is not None:
            try:
                _write(process.stdin, list(items))
                answer = _read(process.stdout)
            except (OSError, EOFError, ValueError, TypeError):
                self.dismiss()
        return answer if isinstance(answer, list) else None

    def dismiss(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what it had not taken is lost, as is meant
                if pipe is not None:
                    pipe.close()


def serve(module: str, name: str, master: str) -> None:
    """Be a hand: do the job on each list of items that comes in, until there is nobody to ask for it. None where one of
    them failed."""
    import gc
    import importlib
    import signal

    gc.disable()  # nothing of this makes rings, and a group is small
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = getattr(importlib.import_module(module), name)
    while True:
        try:
            items = _read(sys.stdin.buffer)
        except EOFError:
            return
        done: list[Any] = []
        answer: list[Any] | None = done
        try:
            for item in items:
                if os.getppid() != int(master):
                    return  # killed: whoever comes next must not find somebody still at work
                done.append(job(item))
        except Exception:  # noqa: BLE001  (whoever asked does them again and raises it)
            answer = None
        _write(sys.stdout.buffer, answer)


def _write(pipe: IO[bytes], values: list[Any] | None) -> None:
    data = marshal.dumps(values)
    pipe.write(len(data).to_bytes(8, "little") + data)
    pipe.flush()


def _read(pipe: IO[bytes]) -> Any:
    # Whole at once: marshal asks a file for every value anew.
    size = int.from_bytes(pipe.read(8), "little")
    if not size:
        raise EOFError
    return marshal.loads(pipe.read(size))  # noqa: S302  (both ends are ours)
