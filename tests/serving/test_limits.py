"""Models are held to memory and time: what takes too much is taken out of service, and its callers are answered."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from holdfast.cli.main import cli
from holdfast.core.errors import BadDefinition, Refused
from holdfast.core.traffic import size_bytes
from holdfast.serving import limits
from holdfast.workspace import Workspace
from tests.serving.test_faults import Stage, good, hanging, release
from tests.serving.test_under_load import clients
from tests.serving.world import add_package, arm, put_release, serving


class Leak:
    """A model that keeps every batch it ever saw, and more."""

    def __init__(self, grow: int) -> None:
        self.grow = grow
        self.kept: list[Any] = []

    def __call__(self, matrix: Any) -> Any:
        self.kept.append(np.ones(self.grow // 8))
        return good(matrix)


@pytest.mark.parametrize("side", ["challenger", "shadow"])
def test_a_leaking_challenger_is_caught_and_the_champion_goes_on(tmp_path: Path, side: str) -> None:
    start = limits.resident()
    stage = Stage(tmp_path, {1: good, 2: Leak(8 << 20)}, release(**{side: arm(2, "c2", 50.0)}))
    stage.replica.memory = start + (160 << 20)

    async def story(stage: Stage) -> None:
        guard = asyncio.ensure_future(stage.replica.guard_limits())
        end = asyncio.get_running_loop().time() + 20
        while (2, "c2") not in stage.replica._broken:
            status, answer = await stage.predict()
            assert status == 200
            await asyncio.sleep(0.002)
            assert asyncio.get_running_loop().time() < end, "the leak was not caught"
        versions = set()
        for _ in range(40):
            status, answer = await stage.predict()
            assert status == 200
            versions.add(answer["predictions"][0]["version"])
        assert versions == {1}
        guard.cancel()

    log = stage.play(story)
    arms = [r for r in log if r["arm"] == side]
    assert any(r["score"] is None for r in arms), "the rollout's rules see it fail"


def test_a_leaking_champion_ends_its_replica_before_the_machine_does(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {1: good}, release())

    async def story(stage: Stage) -> None:
        stage.replica.stopping = asyncio.Event()
        stage.replica.memory = limits.resident() * 10
        stage.replica.check_limits()
        assert not stage.replica.stopping.is_set()
        stage.replica.memory = limits.resident() // 2
        stage.replica.check_limits()
        assert stage.replica.stopping.is_set()

    stage.play(story)


def test_a_champion_that_hangs_for_good_ends_its_replica(tmp_path: Path) -> None:
    with hanging() as hang:
        on: list[bool] = []

        def model(matrix: Any) -> Any:
            return hang(matrix) if on else good(matrix)

        stage = Stage(tmp_path, {1: model}, release(challenger=arm(1, "c1", 1.0)), deadline=0.1)

        async def story(stage: Stage) -> None:
            stage.replica.stopping = asyncio.Event()
            on.append(True)
            assert stage.replica.predictions.state is not None
            champion = stage.replica.predictions.state.champion
            assert champion.model is not None
            champion.model.first_seconds = 1.0  # too dear for the event loop: the batcher has it
            assert (await stage.predict())[0] == 503
            while not stage.replica.stopping.is_set():
                stage.replica.check_limits()
                await asyncio.sleep(0.02)

        stage.play(story)


def test_the_kernel_refuses_what_lies_far_beyond_the_budget() -> None:
    code = (
        "import numpy as np\nfrom holdfast.serving import limits\nlimits.enforce(64 << 20)\n"
        "np.ones(4 << 20)\n"
        "try:\n    np.ones(1 << 27)\nexcept MemoryError:\n    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "refused"


def test_sizes_and_budgets() -> None:
    assert size_bytes("512M") == 512 << 20 and size_bytes("1.5GiB") == 3 << 29 and size_bytes(7) == 7
    for wrong in ("much", "0", "-1M", ""):
        with pytest.raises(BadDefinition):
            size_bytes(wrong)
    whole, half = limits.budget(None, replicas=1), limits.budget(None, replicas=2)
    assert whole is not None and half is not None and abs(whole - 2 * half) < 4
    assert limits.budget(5, replicas=3) == 5


def test_scaling_drops_nobody_and_is_in_the_ledger(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))
    monkeypatch.chdir(workspace.root)
    with serving(workspace, "--replicas", "2", "--log", "buffered") as server:
        server.until_version(1)
        with clients(server, 3) as load:
            for number in (3, 1, 2):
                done = CliRunner().invoke(cli, ["release", "scale", "toy", str(number)], catch_exceptions=False)
                assert done.exit_code == 0, done.output
                assert len(server.state["replicas"]) == number
        assert not load.failures, load.failures[:3]
        assert len(load) > 10
    entries = workspace.ledger.query(kind="release.scaled", subject="toy")
    assert [(e.body["from"], e.body["to"]) for e in entries] == [(2, 3), (3, 1), (1, 2)]


def test_one_that_stands_alone_says_why_it_cannot_be_scaled(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))
    monkeypatch.chdir(workspace.root)
    with serving(workspace, "--replicas", "1"):
        done = CliRunner().invoke(cli, ["release", "scale", "toy", "2"])
        assert isinstance(done.exception, Refused) and "--replicas 2" in (done.exception.hint or "")
