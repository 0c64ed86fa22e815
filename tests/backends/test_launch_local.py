"""Jobs: output, status, time limit, and that none outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from holdfast.backends.launch_local import TIMED_OUT, LocalLauncher
from holdfast.core.errors import NotFound


def run(tmp_path, *argv, **named):
    return LocalLauncher().run(argv, cwd=tmp_path, env=dict(os.environ), log=tmp_path / "logs" / "log", **named)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not alive(pid):
            return True
        time.sleep(0.02)
    return False


def pid_in(path) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError("the job did not start")


def test_output_and_status(tmp_path):
    assert (
        run(tmp_path, sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)") == 3
    )
    assert run(tmp_path, "sh", "-c", 'pwd; echo $0 "$1"', "a b; echo injected") == 0
    text = (tmp_path / "logs" / "log").read_text()
    assert "out" in text and "err" in text and str(tmp_path) in text
    assert "a b; echo injected" in text and "\ninjected" not in text


def test_a_job_ended_by_a_signal(tmp_path):
    assert run(tmp_path, "sh", "-c", "kill -9 $$") == 128 + signal.SIGKILL


def test_nothing_to_run(tmp_path):
    with pytest.raises(NotFound):
        run(tmp_path, "no-such-program-anywhere")
    with pytest.raises(NotFound):
        LocalLauncher().run(["true"], cwd=tmp_path / "absent", env={}, log=tmp_path / "log")


def test_a_job_that_takes_too_long_is_ended_with_all_it_started(tmp_path):
    status = run(tmp_path, "sh", "-c", "sleep 300 & echo $! > child; wait", timeout=0.5)
    assert status == TIMED_OUT
    assert gone(int((tmp_path / "child").read_text()))
    assert "longer than 0.5 s" in (tmp_path / "logs" / "log").read_text()


def test_a_job_that_ignores_term_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("holdfast.backends.launch_local._GRACE_SECONDS", 0.2)
    assert run(tmp_path, "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done", timeout=0.5) == TIMED_OUT


START = """
import os, sys
from pathlib import Path
from holdfast.backends.launch_local import LocalLauncher
LocalLauncher().run(["sh", "-c", "sleep 300 & echo $! > grandchild; echo $$ > job; wait"],
                    cwd=Path(sys.argv[1]), env=dict(os.environ), log=Path(sys.argv[1]) / "log")
"""


def test_a_job_dies_with_its_parent_and_takes_its_children_along(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", START, str(tmp_path)])
    job, grandchild = pid_in(tmp_path / "job"), pid_in(tmp_path / "grandchild")
    parent.kill()
    parent.wait()
    assert gone(job) and gone(grandchild)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_job_dies_with_its_supervisor(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", START, str(tmp_path)])
    job = pid_in(tmp_path / "job")
    with open(f"/proc/{job}/stat") as f:
        supervisor = int(f.read().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    assert gone(job)
    parent.kill()
    parent.wait()


def test_an_interrupt_ends_the_job(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", START, str(tmp_path)], stderr=subprocess.DEVNULL)
    job = pid_in(tmp_path / "job")
    parent.send_signal(signal.SIGINT)
    assert parent.wait(30) != 0
    assert gone(job)
