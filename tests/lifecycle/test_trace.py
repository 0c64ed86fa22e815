"""What a trace says of runs that Holdfast did not make."""

from __future__ import annotations

from pathlib import Path

from holdfast.lifecycle.trace import run_of
from holdfast.workspace import Workspace


def test_a_clients_run_gives_the_commit_the_client_told(tmp_path: Path) -> None:
    with Workspace.open(tmp_path) as ws:
        experiment = ws.runs.create_experiment("e", artifact_uri="x", at=1)
        tags = {"mlflow.source.git.commit": "9ea56de5"}
        run = ws.runs.create_run(experiment.experiment_id, at=1, name="n", user="ann", tags=tags)
        found = run_of(ws, run.run_id)
        assert found["commit"]["hash"] == "9ea56de5" and found["run"]["here"]
        bare = ws.runs.create_run(experiment.experiment_id, at=1, name="n", user="ann")
        assert run_of(ws, bare.run_id)["commit"]["hash"] is None


def test_a_run_that_is_not_here_ends_no_trace(tmp_path: Path) -> None:
    with Workspace.open(tmp_path) as ws:
        assert run_of(ws, "elsewhere") == {"run": {"id": "elsewhere", "here": False}}
