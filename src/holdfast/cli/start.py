"""The console script. The everyday verbs of ``holdfast data`` without options are given by hooks and scripts all day: they are
done before the library that reads command lines is loaded. Everything else goes the usual way."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

VERBS = ("add", "checkout", "fetch", "pull", "push", "status")


def main() -> None:
    """Run the command line and leave the process with its status."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _have_streams()
    words = sys.argv[1:]
    if words[:1] == ["data"]:
        # Such a process lives for a moment and may hold millions of names: going through them for garbage gives nobody anything.
        gc.set_threshold(200_000)
        if _without_options(words[1:]):
            leave(_do(words[1], words[2:]))
    from holdfast.cli.main import main as usual

    usual()


def _have_streams() -> None:
    """Whoever starts us may have closed a standard stream: what is said there goes nowhere, and no data file gets its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _without_options(words: Sequence[str]) -> bool:
    if not words or words[0] not in VERBS or any(word.startswith("-") for word in words):
        return False
    return words[0] != "add" or len(words) > 1


def _do(verb: str, targets: Sequence[str]) -> int:
    try:
        from pathlib import Path

        from holdfast.cli import data_verbs, output

        output.notices_as_talk()
        data_verbs.WITHOUT_OPTIONS[verb]([Path(target) for target in targets]).text()
    except BaseException as error:  # noqa: BLE001  (what it is, is decided in one place)
        from holdfast.cli.main import ended_by

        return ended_by(error)
    return 0


def leave(status: int) -> None:
    """End a process that has done its one command: what is registered for its end is done, its memory left to the system.
    Taking millions of names apart would give nobody anything. Where threads are still at work, Python ends it."""
    import atexit
    import threading

    if threading.active_count() == 1:
        atexit._run_exitfuncs()
        os._exit(flushed(status))
    sys.exit(flushed(status))


def flushed(status: int) -> int:
    """A command's status once what it said is out; that cannot end well where a disk was full. A reader that has gone away is
    no failure."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            status = status if isinstance(error, BrokenPipeError) else status or 1
            with suppress(OSError, ValueError):  # so that Python does not fail over it again on the way out
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status
