"""Materialization on a schedule: one outcome per tick whoever asks and whoever dies, and incidents for what is bad."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.core.definitions import FeatureService
from holdfast.core.errors import BadInput
from holdfast.core.identity import to_us
from holdfast.features.lookup import Lookup, compile_plan
from holdfast.lifecycle import ingest, loop, scheduled
from holdfast.lifecycle.durable import holding
from holdfast.monitoring import alerts
from holdfast.workspace import Workspace

from .project import holdfast, set_clock

NOON = to_us("2024-03-01T12:00:00Z")
MINUTE = 60_000_000
DEFINITIONS = """
import holdfast as hf
events = hf.Source("events", "data/events", timestamp="at")
view = hf.FeatureView("view", [hf.Entity("k")], events, [hf.Field("x", float)], materialize="*/15 * * * *")
other = hf.FeatureView("other", [hf.Entity("k")], events, [hf.Aggregation("x", ["count"], ["1d"])])
"""


def deliver(root: Path, name: str, at: int, x: Any = 1.0) -> None:
    folder = root / "data" / "events"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"k": [7], "at": pa.array([at]).cast(pa.timestamp("us", tz="UTC")), "x": [x]}), folder / name
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "definitions.py").write_text(DEFINITIONS)
    (root / "holdfast.toml").write_text('clock = "replay"\n')
    (root / ".holdfast").mkdir()
    deliver(root, "a.parquet", NOON - MINUTE)
    return root


def tick(ws: Workspace, now: int, *, holder: str = "me") -> list[Any]:
    set_clock(ws.root, now)
    return loop.materialize(ws, scheduled.of(ws.project()), now=now, holder=holder)


def served(ws: Workspace, at: int) -> Any:
    plan = compile_plan(FeatureService("s", [ws.project().views["view"]]))
    return Lookup(plan, ws.online).rows([{"k": 7}], at=[at])[0]["view__x"]


def open_things(ws: Workspace) -> list[str]:
    return [i.thing for i in alerts.incidents(ws.ledger, "features", resolved=False)]


def test_only_views_with_a_schedule_run_at_once_and_then_at_their_ticks(project: Path) -> None:
    with Workspace.open(project) as ws:
        first = tick(ws, NOON + MINUTE)
        assert [(d["view"], d["outcome"], d["tick"]) for d in first] == [("view", "done", NOON + MINUTE)]
        assert served(ws, NOON + MINUTE) == 1.0
        deliver(project, "b.parquet", NOON - MINUTE // 2, 2.0)  # late: older than where the last run stopped
        assert tick(ws, NOON + MINUTE) == tick(ws, NOON + 14 * MINUTE) == []
        second = tick(ws, NOON + 16 * MINUTE)
        assert [(d["tick"], d["missed"]) for d in second] == [(NOON + 15 * MINUTE, 0)]
        assert served(ws, NOON + 16 * MINUTE) == 2.0
        assert open_things(ws) == [] and ws.ledger.verify() > 0


def test_a_failure_is_the_ticks_outcome_and_pages_until_a_tick_succeeds(project: Path) -> None:
    with Workspace.open(project) as ws:
        tick(ws, NOON)
        (project / "data" / "events" / "a.parquet").rename(project / "a.parquet")
        (project / "data" / "events").rmdir()
        failed = tick(ws, NOON + 15 * MINUTE)
        assert failed[0]["outcome"] == "failed" and "events" in failed[0]["reason"]
        assert tick(ws, NOON + 16 * MINUTE) == []  # one outcome: it is not tried again until the next tick
        assert open_things(ws) == ["view"]
        assert tick(ws, NOON + 30 * MINUTE)[0]["outcome"] == "failed"
        pages = [m.title for m in alerts.waiting(ws.ledger)]
        assert pages in (
            [],
            ["feature view view: materialization failed"],
        )  # one page at most; no address empties the queue
        (project / "data" / "events").mkdir()
        (project / "a.parquet").rename(project / "data" / "events" / "a.parquet")
        assert tick(ws, NOON + 45 * MINUTE)[0]["outcome"] == "done"
        assert open_things(ws) == []
        kinds = [o["outcome"] for o in scheduled.outcomes(ws.ledger, "view")]
        assert kinds == ["done", "failed", "failed", "done"]


def test_a_bad_delivery_is_kept_out_and_told(project: Path) -> None:
    with Workspace.open(project) as ws:
        ingest.bring(ws, ws.project().sources["events"], at=NOON)
        tick(ws, NOON)
        deliver(project, "b.parquet", NOON, "not a number")
        done = tick(ws, NOON + 15 * MINUTE)[0]
        assert done["outcome"] == "done" and done["reason"] and served(ws, NOON + 15 * MINUTE) == 1.0
        assert open_things(ws) == ["view"]
        (project / "data" / "events" / "b.parquet").unlink()
        tick(ws, NOON + 30 * MINUTE)
        assert open_things(ws) == []


def test_missed_ticks_are_covered_by_one_run_and_told_as_late(project: Path) -> None:
    with Workspace.open(project) as ws:
        tick(ws, NOON)
        found = scheduled.late(ws, scheduled.of(ws.project()), now=NOON + 46 * MINUTE)
        assert found == ["view"] and open_things(ws) == ["view: late"]
        done = tick(ws, NOON + 46 * MINUTE)[0]
        assert (done["tick"], done["missed"]) == (NOON + 45 * MINUTE, 2)
        assert [(o["tick"], o["outcome"]) for o in scheduled.outcomes(ws.ledger, "view")] == [
            (NOON, "done"), (NOON + 15 * MINUTE, "skipped"), (NOON + 30 * MINUTE, "skipped"), (NOON + 45 * MINUTE, "done"),
        ]  # fmt: skip
        assert open_things(ws) == ["view: late"]
        tick(ws, NOON + 60 * MINUTE)
        assert open_things(ws) == []


def test_the_clock_that_jumps_back_repeats_nothing_and_daylight_saving_counts_once(project: Path) -> None:
    text = DEFINITIONS.replace('materialize="*/15 * * * *"', 'materialize="30 2 * * *", zone="Europe/Berlin"')
    (project / "definitions.py").write_text(text)
    with Workspace.open(project) as ws:
        tick(ws, to_us("2024-10-26T12:00:00Z"))
        seen = []
        for half in range(40):
            seen += tick(ws, to_us("2024-10-26T20:00:00Z") + half * 30 * MINUTE)
        tick(ws, to_us("2024-10-26T20:00:00Z"))
        assert len(seen) == 1  # 02:30 is twice that night


def test_whoever_holds_the_view_works_alone(project: Path) -> None:
    with Workspace.open(project) as ws:
        with holding(ws.ledger, "materialize/view", "somebody"):
            assert tick(ws, NOON) == []
        assert len(tick(ws, NOON)) == 1


def test_two_controllers_give_each_tick_one_outcome(project: Path) -> None:
    with Workspace.open(project) as ws:
        views = scheduled.of(ws.project())
        results: list[Any] = []
        start = threading.Barrier(3)

        def work(name: str) -> None:
            rng = random.Random(name)
            start.wait()
            for quarter in range(8):
                time.sleep(rng.random() * 0.02)
                results.extend(
                    scheduled.tick(ws, views, now=NOON + quarter * 15 * MINUTE, holder=name, tell=lambda *_: None)
                )

        threads = [threading.Thread(target=work, args=(f"c{n}",)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        written = [o["tick"] for o in scheduled.outcomes(ws.ledger, "view")]
        assert written == sorted(set(written)) and written[-1] == NOON + 7 * 15 * MINUTE
        entries = [e for e in ws.ledger.read() if e.kind == "materialize.done"]
        assert (
            len(entries)
            == len({e.body["tick"] for e in entries})
            == len([o for o in scheduled.outcomes(ws.ledger, "view") if o["outcome"] == "done"])
        )


def test_a_schedule_that_cannot_be_read_is_told_at_apply(project: Path) -> None:
    (project / "definitions.py").write_text(DEFINITIONS.replace("*/15 * * * *", "sometimes"))
    done = holdfast(project, "features", "apply", check=False)
    assert done.returncode == 1 and "is not a schedule" in done.stderr
    with Workspace.open(project) as ws, pytest.raises(BadInput):
        scheduled.of(ws.project())


def test_show_says_when_it_last_ran(project: Path) -> None:
    set_clock(project, NOON)
    holdfast(project, "features", "apply")
    assert "*/15 * * * * UTC: not yet run" in holdfast(project, "features", "show", "view").stdout
    with Workspace.open(project) as ws:
        tick(ws, NOON)
    assert "UTC: done for 2024-03-01T12:00:00Z" in holdfast(project, "features", "show", "view").stdout


def test_the_schedule_is_no_part_of_the_version(project: Path) -> None:
    with Workspace.open(project) as ws:
        before = ws.project().views["view"].version
        (project / "definitions.py").write_text(DEFINITIONS.replace('"*/15 * * * *"', '"0 3 * * *", fresh="2d"'))
        assert ws.project().views["view"].version == before


@pytest.mark.timeout(180)
def test_the_loop_runs_it_beside_and_a_killed_one_is_carried_on(project: Path) -> None:
    """Every minute's tick cannot be waited for: the first run is due at once, and the next controller has its own clock."""
    (project / "holdfast.toml").write_text("")
    deliver(project, "now.parquet", int(time.time() * 1e6) - 5 * MINUTE, 3.0)
    rng = random.Random(5)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "holdfast.cli.main", "loop", "run", "--poll", "0.1"],
            cwd=project,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.3 + rng.random() * 2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    about = project / ".holdfast" / "run" / "loop.json"
    about.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast.cli.main", "loop", "run", "--poll", "0.1"],
        cwd=project,
        stderr=subprocess.DEVNULL,
    )
    try:
        with Workspace.open(project) as ws:
            end = time.monotonic() + 90
            while not (about.exists() and scheduled.outcomes(ws.ledger, "view")) and time.monotonic() < end:
                time.sleep(0.2)
            first = scheduled.outcomes(ws.ledger, "view")
            assert first and first[0]["outcome"] == "done", first
            assert served(ws, int(time.time() * 1e6)) == 3.0
    finally:
        process.terminate()
        assert process.wait(30) == 0
