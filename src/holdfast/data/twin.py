"""A part of the work done by a copy of this process, on another processor. A copy is there within a millisecond, where a new
interpreter takes twenty, and has at hand what this process has. For work that only looks: nothing of it may touch anything.
"""

from __future__ import annotations

import marshal
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

R = TypeVar("R")


def begin(job: Callable[[], R]) -> Callable[[], R | None] | None:
    """Begin a job whose result is what ``marshal`` knows; to be called for the result, once, which is None where it met an
    error, as the caller will. None where no copy can be made."""
    if not _may_copy():
        return None
    try:
        reading, writing = os.pipe()
    except OSError:
        return None
    try:
        child = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        return None
    if child == 0:
        # Whatever happens here must not go on as the caller.
        try:
            os.close(reading)
            with open(writing, "wb") as pipe:
                value: Any = job()
                pipe.write(marshal.dumps(value))
        finally:
            os._exit(0)
    os.close(writing)

    def result() -> R | None:
        with open(reading, "rb") as pipe:
            data = pipe.read()
        with suppress(ChildProcessError):
            os.waitpid(child, 0)
        try:
            found: R = marshal.loads(data)  # noqa: S302  (both ends are ours)
        except (EOFError, ValueError, TypeError):
            return None
        return found

    return result


def _may_copy() -> bool:
    """Of several threads only one would be in the copy, and what the others hold would stay held."""
    if sys.platform != "linux" or processors() < 2:
        return False
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
