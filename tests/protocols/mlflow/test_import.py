"""Bringing in what another server holds: ids and numbers kept, once, and through the gate."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.protocols.mlflow.client import Api, serving
from tests.protocols.mlflow.servers import HOLDFAST, Server

GATED = """
import holdfast as hf

@hf.model("fraud")
def train(data, params): ...

service = hf.Service("fraud", model=train, gate=hf.Gate(hf.at_least("accuracy", 0.9)))
"""


def fill(root: Path) -> dict[str, Any]:
    with serving(root) as api:
        experiment = api.experiment("a study", tags=[{"key": "k", "value": "v"}])
        run_id = api.run(experiment, run_name="one", start_time=5)
        points = [{"key": "m", "value": i / 3, "timestamp": i, "step": i} for i in range(900)]
        api.post("runs/log-batch", run_id=run_id, metrics=points, params=[{"key": "p", "value": "1"}])
        api.post("runs/log-metric", run_id=run_id, key="n", value="NaN", timestamp=1)
        api.upload(f"{experiment}/{run_id}/artifacts/dir/a%20b.txt", b"artifact")
        api.post("runs/update", run_id=run_id, status="FINISHED", end_time=9)
        gone = api.run(experiment)
        api.post("runs/delete", run_id=gone)
        for data in (b"one", b"two", b"three"):
            api.model(data)
        api.send("DELETE", "model-versions/delete", name="fraud", version="2")
        move = {"name": "fraud", "archive_existing_versions": False}
        api.post("model-versions/transition-stage", version="3", stage="Production", **move)
        api.post("model-versions/transition-stage", version="1", stage="Staging", **move)
        api.post("registered-models/alias", name="fraud", alias="best", version="1")
        return {"run": api.get("runs/get", run_id=run_id)["run"], "gone": gone, "experiment": experiment}


def bring_in(root: Path, url: str) -> dict[str, Any]:
    root.mkdir(exist_ok=True)
    ran = subprocess.run(
        [*HOLDFAST, "import-mlflow", url, "--json"], cwd=root, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)  # type: ignore[no-any-return]


def look(api: Api) -> list[tuple[str, str]]:
    found = api.get("model-versions/search", filter="name = 'fraud'", order_by=["version_number"])["model_versions"]
    return [(v["version"], v["current_stage"]) for v in found]


@pytest.mark.timeout(120)
def test_what_another_server_holds_comes_in_once(tmp_path: Path) -> None:
    source, open_, gated = (tmp_path / n for n in ("source", "open", "gated"))
    for folder in (source, open_, gated):
        folder.mkdir()
    before = fill(source)
    (gated / "definitions.py").write_text(GATED)
    (gated / "holdfast.toml").touch()
    (open_ / "holdfast.toml").touch()
    with Server(source) as server:
        first = bring_in(open_, server.url)
        assert (first["experiments"], first["runs"], first["metrics"], first["versions"]) == (1, 5, 901, 2)
        again = bring_in(open_, server.url)
        assert not any(v for k, v in again.items() if k != "notes")
        refused = bring_in(gated, server.url)
    assert any("fraud@3 may not move to Production" in note for note in refused["notes"])
    run_id = before["run"]["info"]["run_id"]
    with serving(open_) as api:
        run = api.get("runs/get", run_id=run_id)["run"]
        assert run == before["run"]
        assert len(api.get("metrics/get-history", run_id=run_id, metric_key="m")["metrics"]) == 900
        assert api.get("runs/get", run_id=before["gone"])["run"]["info"]["lifecycle_stage"] == "deleted"
        assert api.http.get("/get-artifact", params={"run_id": run_id, "path": "dir/a b.txt"}).content == b"artifact"
        assert look(api) == [("1", "Staging"), ("3", "Production")]
        assert api.get("registered-models/alias", name="fraud", alias="best")["model_version"]["version"] == "1"
        assert api.model(b"four") == 4
    with serving(gated) as api:
        assert look(api) == [("1", "Staging"), ("3", "None")]
