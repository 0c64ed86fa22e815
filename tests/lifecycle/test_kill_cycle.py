"""kill -9 at random moments of a scripted cycle: nothing acknowledged is lost, no step's effect happens twice, the chain
verifies, the cycle ends. A seeded sample here, 200 kills in `make soak`."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from holdfast.core.records import Entry
from holdfast.lifecycle import loop, release, rollouts
from holdfast.registry import versions
from holdfast.workspace import Workspace

from .project import make

pytestmark = pytest.mark.timeout(3600)

ONCE = "from holdfast.cli.main import main; main(['loop', 'run', '--once'])"
STEPS = ("data", "features", "fit", "register", "gate", "staging", "rollout")


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.soak)])
def test_killed_cycles_end_as_if_nothing_had_happened(tmp_path: Path, kills: int) -> None:
    seed = int(os.environ.get("HOLDFAST_SEED", "2013"))
    print(f"seed {seed}")
    rng = random.Random(seed)
    root = make(tmp_path / "churn")
    done = 0
    with Workspace.open(root) as ws:
        seen: list[Entry] = []
        number = 0
        length = 8.0
        while done < kills:
            number += 1
            order = loop.order_now(ws, "churn", reason=f"round {number}", at=ws.clock.now())
            for attempt in range(60):
                spare = attempt >= 8 or done >= kills
                began = time.monotonic()
                child = subprocess.Popen(
                    [sys.executable, "-c", ONCE],
                    cwd=root,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                try:
                    child.wait(None if spare else rng.uniform(0.2, length))
                    length = min(max(time.monotonic() - began, 3.0), 20.0)
                except subprocess.TimeoutExpired:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
                    done += 1
                seen = _nothing_lost(ws, seen)
                _free(ws)
                _judge(ws, order.id)
                if _begun(ws, order.id) and loop.find_cycle(ws.ledger, order.id).status in loop.ENDED:
                    break
            cycle = loop.find_cycle(ws.ledger, order.id)
            assert cycle.status == ("promoted" if number == 1 else "rolled back"), cycle.reason
            assert cycle.version == number, "a version was registered twice or lost"
            _once(ws, order.id)
        assert ws.ledger.verify() == len(ws.ledger.read(limit=1_000_000))
        assert [v.version for v in versions.list(ws.ledger, "churn")] == list(range(1, number + 1))


def _judge(ws: Workspace, cycle: str) -> None:
    """Nobody asks this service anything, so a canary would wait for ever: a person ends it, the next run closes the cycle."""
    rollout = release.rollout_of(ws.ledger, "churn")
    if rollout is not None and rollout.id == cycle and rollout.status == "running" and rollout.step > 0:
        rollouts.end(ws, ws.project().services["churn"], "abort", at=ws.clock.now(), reason="nobody asks")


def _begun(ws: Workspace, order: str) -> bool:
    return any(c.id == order for c in loop.cycles(ws.ledger))


def _nothing_lost(ws: Workspace, seen: list[Entry]) -> list[Entry]:
    """Every entry ever read is still there, unchanged and in its place."""
    now = ws.ledger.read(limit=1_000_000)
    assert now[: len(seen)] == seen
    ws.ledger.verify()
    return now


def _free(ws: Workspace) -> None:
    """A dead holder's leases run out by themselves; the test does not wait for that."""
    with sqlite3.connect(ws.home / "ledger.db", timeout=30) as connection:
        connection.execute("DELETE FROM ledger_leases")


def _once(ws: Workspace, cycle: str) -> None:
    steps = Counter(e.body["step"] for e in ws.ledger.query(kind="step", subject=f"cycle/{cycle}", limit=1000))
    assert steps == Counter(STEPS), "a step's outcome was recorded twice or not at all"
    begun = [e for e in ws.ledger.query(kind="cycle.begun", limit=10_000) if e.body["cycle"] == cycle]
    ended = [e for e in ws.ledger.query(kind="cycle.ended", limit=10_000) if e.body["cycle"] == cycle]
    finished = [e for e in ws.ledger.query(kind="order.finished", limit=10_000) if e.body["order"] == cycle]
    assert (len(begun), len(ended), len(finished)) == (1, 1, 1)
