"""Traffic is moved by its commands while clients keep asking: nobody's request fails, through deploys, weights, promotions,
aborts, rollbacks, scaling, and a control plane that is killed and started again. A short sample runs always, 50 moves in
soak."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.core.identity import canonical
from holdfast.core.records import FileRef
from holdfast.lifecycle import release
from holdfast.registry import versions
from holdfast.serving import journal
from holdfast.workspace import Workspace
from tests.lifecycle.project import holdfast
from tests.protocols.mlflow.servers import Server
from tests.serving.test_under_load import clients
from tests.serving.world import add_package, onnx_model, probability, serving

DEFINITIONS = """
import holdfast as hf

@hf.model("toy")
def train(data, params):
    raise NotImplementedError

service = hf.Service("toy", model=train, rollout=hf.Rollout(canary=[20, 60], bake="1h"))
"""
GOLDEN = {"a": 1.0, "b": 0.5}


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    (tmp_path / "holdfast.toml").write_text("")
    with Workspace.open(tmp_path) as opened:
        yield opened


def register(ws: Workspace, intercept: float) -> int:
    """A version that passes its smoke test; its number."""
    score = float(probability(GOLDEN, intercept=intercept))
    golden = {"rows": [{"inputs": GOLDEN, "request": GOLDEN, "request_time": 1, "score": score}]}
    files = {
        name: FileRef(sha256=ws.objects.put(data), size=len(data))
        for name, data in (("model.onnx", onnx_model((1.0, -1.0), intercept)), ("golden.json", canonical(golden)))
    }
    content = add_package(ws, intercept=intercept, files=files, golden_file="golden.json")
    return versions.create(ws.ledger, "toy", content=content, run_id=None, at=1, actor="t").version


def moves(ws: Workspace, times: int, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    (ws.root / "definitions.py").write_text(DEFINITIONS)
    known = [register(ws, float(i)) for i in range(3)]
    root = ws.root
    done: Counter[str] = Counter()
    holdfast(root, "deploy", f"toy@{known[0]}")
    with Server(root) as control, serving(ws, "--replicas", "2", "--log", "buffered") as server:
        server.until_version(known[0])
        with clients(server, 3, pause=0.01) as load:
            for number in range(times):
                told = json.loads(holdfast(root, "release", "status", "toy", "--json").stdout)
                champion = told["production"]["champion"]["version"]
                running = told["production"]["challenger"] is not None
                able = ["scale", "control plane"]
                able += ["weight", "promote", "abort", "rollback"] if running else ["deploy", "deploy"]
                if not running and release.champions_before(ws.ledger, "toy"):
                    able.append("rollback")
                # Each kind at least once, then at random.
                move = next((m for m in able if not done[m]), None) or rng.choice(able)
                done[move] += 1
                match move:
                    case "deploy":
                        other = rng.choice([v for v in known if v != champion])
                        holdfast(root, "deploy", f"toy@{other}")
                    case "weight":
                        holdfast(root, "release", "weight", "toy", str(rng.choice([0, 1, 50, 100])))
                    case "promote" | "abort":
                        holdfast(root, "release", move, "toy", "--reason", f"move {number}")
                    case "rollback":
                        holdfast(root, "rollback", "toy")
                    case "scale":
                        holdfast(root, "release", "scale", "toy", str(rng.choice([1, 2, 3])))
                    case "control plane":
                        control.kill()
                        control.start()
        assert not load.failures, load.failures[:3]
        print(f"{dict(done)}; {len(load)} answers by version {dict(load.versions)}")
    assert len(load) > times and len(load.versions) >= 2
    logged = Counter(journal.read(ws.path("predictions", "toy"))["id"].to_pylist())
    assert not [i for i in load.answered if logged[i] != 1]
    assert ws.ledger.verify() > times


def test_moves_by_their_commands_fail_nobody(ws: Workspace) -> None:
    moves(ws, 9, 41)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_fifty_moves_by_their_commands_fail_nobody(ws: Workspace) -> None:
    moves(ws, int(os.environ.get("HOLDFAST_SOAK_MOVES", "50")), int(os.environ.get("HOLDFAST_SOAK_SEED", "42")))
