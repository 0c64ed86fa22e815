"""`holdfast reproduce` of a run that `holdfast train` made: the same bytes, or the name of what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lifecycle.project import holdfast, make


@pytest.mark.timeout(600)
def test_a_training_done_again_gives_the_same_model(tmp_path: Path) -> None:
    root = make(tmp_path / "churn")
    made = json.loads(holdfast(root, "train", "churn", "--json").stdout)
    # What lies in the working folder by now does not matter: commit, patch and data of then do.
    (root / "definitions.py").write_text("raise SystemExit('not this one')\n")
    (root / "data" / "events.csv").write_text("other\n")
    again = holdfast(root, "reproduce", made["run_id"], "--json")
    summary = json.loads(again.stdout)
    assert summary["same"] and summary["causes"] == [] and summary["digest"]["then"] == summary["digest"]["now"]
    from holdfast.workspace import Workspace

    with Workspace.open(root) as workspace:
        run = workspace.runs.get_run(made["run_id"])
        kept = workspace.runs.list_artifacts(run.artifact_uri.removeprefix("mlflow-artifacts:/"))
        assert any("/artifacts/model/" in a.path for a in kept)
