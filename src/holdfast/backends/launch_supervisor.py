"""Run as a script: ``launch_supervisor.py PIPE ARGV…``. Starts the job, kills its group when the pipe ends.

Imports the standard library only; it must start in milliseconds and never fail.
"""

from __future__ import annotations

import os
import select
import signal
import sys


def main(pipe: int, argv: list[str]) -> int:
    """Exit status of the job, 128 + N where a signal ended it, 127 where there is no such program."""
    # TERM is for the job; this process has to stay and report how it ended.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    parent = os.getpid()
    job = os.fork()
    if job == 0:
        signal.set_wakeup_fd(-1)
        for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(sign, signal.SIG_DFL)
        _die_with(parent)
        os.close(pipe)
        try:
            os.execvp(argv[0], argv)  # noqa: S606
        except OSError as error:
            print(f"{argv[0]}: {error.strerror}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(127)
    while True:
        done, status = os.waitpid(job, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        ready, _, _ = select.select([pipe, ended], [], [], 1.0)
        if pipe in ready:
            os.killpg(0, signal.SIGKILL)
        if ended in ready:
            os.read(ended, 512)


def _die_with(parent: int) -> None:
    """Linux: this process is killed when its parent dies, also across exec."""
    if sys.platform != "linux":
        return
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (ImportError, OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
