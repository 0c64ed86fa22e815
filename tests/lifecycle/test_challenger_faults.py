"""Every fault of a challenger is caught by the built-in rules within two analysis intervals, over real answers and their log:
traffic goes back, and the champion's callers never notice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from holdfast.lifecycle import release, rollouts
from holdfast.serving import limits
from holdfast.serving.fleet import Fleet, listen
from holdfast.serving.wire import Request, Response
from holdfast.workspace import Workspace
from tests.lifecycle.test_release import SERVICE, version
from tests.serving import faulty
from tests.serving.test_faults import Stage, hanging

REQUESTS = 600


def now() -> int:
    return time.time_ns() // 1000


@pytest.fixture
def ws(tmp_path: Path):
    with Workspace.open(tmp_path) as ws:
        first = version(ws)
        rollouts.begin(ws, SERVICE, first, at=now())
        rollouts.advance(ws, SERVICE, now=now())
        rollouts.begin(ws, SERVICE, version(ws), at=now())
        rollout = rollouts.advance(ws, SERVICE, now=now())
        assert rollout is not None and rollout.plan[rollout.step]["step"] == "canary"
        yield ws


class Leaking:
    def __init__(self) -> None:
        self.kept: list[Any] = []

    def __call__(self, matrix: Any) -> Any:
        self.kept.append(np.ones(2 << 20))
        return faulty.good(matrix)


def faults(hang: Any) -> dict[str, Callable[[Any], Any]]:
    def slow(matrix: Any) -> Any:
        time.sleep(0.05)
        return faulty.good(matrix)

    return {
        "errors": faulty.error,
        "slow": slow,
        "hang": hang,
        "nan": lambda m: np.full(len(m), np.nan),
        "constant output": lambda m: np.full(len(m), 0.9),
        "wrong class": lambda m: 1 - faulty.good(m),
        "memory leak": Leaking(),
        "good": faulty.good,
    }


@pytest.mark.parametrize(
    "fault", ["errors", "slow", "hang", "nan", "constant output", "wrong class", "memory leak", "crash at load", "good"]
)
def test_each_fault_is_caught_within_two_intervals(ws: Workspace, fault: str) -> None:
    with hanging() as hang:
        broken = faults(hang).get(fault)
        on: list[bool] = []

        def challenger(matrix: Any) -> Any:
            assert broken is not None
            return broken(matrix) if on else faulty.good(matrix)

        live = release.current(ws.ledger, "s", "production")
        assert live is not None
        models = {1: faulty.good} if fault == "crash at load" else {1: faulty.good, 2: challenger}
        stage = Stage(ws.path("predictions", "s"), models, live)
        if fault == "memory leak":
            stage.replica.memory = limits.resident() + (400 << 20)
        rng = np.random.default_rng(5)
        intervals: list[str] = []

        async def ask(i: int) -> None:
            row = {"a": float(rng.beta(2, 5)), "b": 0.0}
            headers = {b"x-holdfast-key": f"{i}".encode()}
            answer = stage.replica.handle(
                Request("POST", b"/predict", "/predict", b"", headers, json.dumps({"rows": [row]}).encode())
            )
            response = answer if isinstance(answer, Response) else await answer
            assert response.status == 200, response.body
            (told,) = json.loads(response.body)["predictions"]
            if told["arm"] == "champion":
                assert told["score"] == pytest.approx(row["a"])

        async def story(stage: Stage) -> None:
            on.append(True)
            guard = asyncio.ensure_future(stage.replica.guard_limits())
            for interval in (0, 1):
                for first in range(0, REQUESTS, 30):
                    await asyncio.gather(*(ask(interval * REQUESTS + first + i) for i in range(30)))
                    await asyncio.sleep(0.005)
                while stage.journal.pending:
                    await asyncio.sleep(0.01)
                rollout = await asyncio.to_thread(rollouts.advance, ws, SERVICE, now=now())
                assert rollout is not None
                intervals.append(rollout.status)
                stage.release = release.current(ws.ledger, "s", "production")
                if rollout.status != "running":
                    break
            guard.cancel()

        stage.play(story)
    after = release.current(ws.ledger, "s", "production")
    assert after is not None and after.champion is not None and after.champion.version == 1
    if fault == "good":
        assert intervals == ["running", "running"] and after.challenger is not None
    else:
        assert intervals[-1] == "rolled back" and after.challenger is None, intervals
        print(f"{fault}: caught in interval {len(intervals)}")


def test_a_challenger_that_kills_its_replicas_is_caught_and_its_callers_are_answered(ws: Workspace) -> None:
    """Crash at predict, with real processes: the balancer's second try goes to the champion, and is the evidence."""
    folder = ws.path("predictions", "s")
    live = release.current(ws.ledger, "s", "production")
    assert live is not None and live.challenger is not None
    target = ws.path("run", "release.json")

    def show(what: Any) -> None:
        temporary = target.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode(what))
        temporary.replace(target)

    show(live)
    sock = listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    statuses: list[str] = []

    async def story() -> None:
        import httpx

        fleet = Fleet(faulty.command(folder, target, fault="crash"), replicas=2, listen=sock)
        stop, up = asyncio.Event(), asyncio.Event()
        running = asyncio.ensure_future(fleet.run(stop=stop, on_ready=up.set))
        async with asyncio.timeout(120), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            await up.wait()
            while (await client.get("/health/ready")).status_code != 200:
                await asyncio.sleep(0.02)
            for interval in (0, 1):
                for i in range(40):
                    answer = await client.post(
                        "/predict", json={"rows": [{"a": 0.3, "b": 0.0}]}, headers={"x-holdfast-key": f"{interval}-{i}"}
                    )
                    assert answer.status_code == 200, answer.text
                    assert answer.json()["predictions"][0]["arm"] == "champion"
                await asyncio.sleep(0.2)  # the buffered log's tick
                rollout = await asyncio.to_thread(rollouts.advance, ws, SERVICE, now=now())
                assert rollout is not None
                statuses.append(rollout.status)
                if rollout.status != "running":
                    break
            show(release.current(ws.ledger, "s", "production"))
            stop.set()
            await running

    asyncio.run(story())
    assert statuses[-1] == "rolled back", statuses
    moved = release.current(ws.ledger, "s", "production")
    assert moved is not None and moved.challenger is None
