"""Jobs as subprocesses of this machine, each in its own session, none outliving its parent.

A small supervisor stands between: it holds a pipe from us, and when we die, however hard, the pipe ends and it kills
the job's whole process group. Should the supervisor itself be killed, Linux kills the job (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from holdfast.core.errors import NotFound

TIMED_OUT = 124
"""Exit status of a job that ran out of time, as timeout(1) gives it."""
_GRACE_SECONDS = 5.0
_SUPERVISOR = Path(__file__).with_name("launch_supervisor.py")


class LocalLauncher:
    """Fulfils ``core.ports.Launcher``."""

    def run(
        self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path, timeout: float | None = None
    ) -> int:
        """Run to the end. A job ended by signal N gives 128 + N, one that ran out of time 124 (after TERM, then KILL).

        Raises:
            NotFound: the program or the folder is not there.
        """
        if not cwd.is_dir():
            raise NotFound(f"there is no folder {cwd} to run in", hint="check the project's path")
        log.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = os.pipe()  # the supervisor reads; only this process holds the end that is written
        try:
            with log.open("ab", buffering=0) as out:
                supervisor = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_SUPERVISOR), str(ours), *argv],
                    cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                    start_new_session=True, pass_fds=(ours,),
                )  # fmt: skip
                os.close(ours)
                ours = -1
                try:
                    status = supervisor.wait(timeout)
                except subprocess.TimeoutExpired:
                    _end(supervisor)
                    out.write(f"\n[holdfast] stopped: the job took longer than {timeout:g} s\n".encode())
                    return TIMED_OUT
                except BaseException:
                    _end(supervisor)
                    raise
        finally:
            os.close(theirs)
            if ours >= 0:
                os.close(ours)
        if status == 127:
            raise NotFound(f"there is no program {argv[0]!r} to run", hint="check the command and PATH")
        return status if status >= 0 else 128 - status


def _end(supervisor: subprocess.Popen[bytes]) -> None:
    """Ask the job's group to stop, then make it."""
    for sign, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(supervisor.pid, sign)
        deadline = time.monotonic() + (seconds or 0)
        while seconds is None or time.monotonic() < deadline:
            if supervisor.poll() is not None:
                # The supervisor is gone with its job; what the job started may still be there.
                with suppress(ProcessLookupError):
                    os.killpg(supervisor.pid, signal.SIGKILL)
                return
            time.sleep(0.02)
