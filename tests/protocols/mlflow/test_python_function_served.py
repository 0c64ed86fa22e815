"""An MLflow ``python_function`` from the client that logs it to the predictions that rest on it: refused until trusted,
measured, packaged, deployed, asked by three protocols, traced. Nothing of MLflow's is replaced."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.peers.environments import ROOT, python_of
from tests.protocols.mlflow.servers import HOLDFAST, Server

DEFINITIONS = """
import holdfast as hf

half = hf.Service("half", model=hf.Model("half"), gate=hf.Gate(hf.at_least("accuracy", 0.6), hf.deterministic(served=True)))
"""

SCRIPT = """
import mlflow, numpy as np, pandas as pd
from mlflow.models import infer_signature

class Half(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return 1 / (1 + np.exp(-model_input["a"].to_numpy() - 2 * model_input["b"].to_numpy()))

rows = pd.DataFrame({"a": [0.0, 1.0], "b": [0.0, -0.5]})
with mlflow.start_run() as run:
    mlflow.pyfunc.log_model(
        name="model", python_model=Half(), signature=infer_signature(rows, np.array([0.5, 0.5])), registered_model_name="half",
        pip_requirements=[f"mlflow=={mlflow.__version__}", f"numpy=={np.__version__}"],
    )
print(run.info.run_id)
"""


def answer(a: float, b: float) -> float:
    return 1 / (1 + math.exp(-a - 2 * b))


def held_out(path: Path) -> None:
    rng = random.Random(1)
    lines = ["a,b,y"]
    for _ in range(300):
        a, b = rng.gauss(0, 1), rng.gauss(0, 1)
        lines.append(f"{a},{b},{int(rng.random() < answer(a, b))}")
    path.write_text("\n".join(lines) + "\n")


def ask(address: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(address + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as said:
        return json.loads(said.read())


@pytest.mark.peer
@pytest.mark.timeout(600)
def test_a_python_function_is_served_as_it_was_logged(tmp_path: Path) -> None:
    (tmp_path / "holdfast.toml").touch()
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    held_out(tmp_path / "rows.csv")
    rows = ["--data", "rows.csv", "--label", "y"]
    # The model runs in the environment it was made in: Holdfast is beside MLflow there, with the libraries of this one.
    with_mlflow = {
        **os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{Path(np.__file__).parents[1]}", "PYTHONWARNINGS": "ignore",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip

    def holdfast(*words: str, code: int = 0) -> str:
        argv = [str(python_of("mlflow")), *HOLDFAST[1:], *words]
        ran = subprocess.run(argv, cwd=tmp_path, env=with_mlflow, capture_output=True, text=True, check=False)
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    with Server(tmp_path) as server:
        client = {**with_mlflow, "MLFLOW_TRACKING_URI": server.url}
        logged = subprocess.run(
            [str(python_of("mlflow")), "-c", SCRIPT], cwd=tmp_path, env=client, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert logged.returncode == 0, logged.stderr[-3000:]
    run = next(line for line in logged.stdout.splitlines() if len(line) == 32)

    refused = holdfast("check", "half@1", *rows, code=1)
    assert "runs whatever code it holds" in refused
    held = refused.partition("holdfast models trust ")[2].split()[0]
    # An environment without MLflow does not run it either, and says what is missing.
    holdfast("models", "trust", held, "--reason", "logged by our own script")
    elsewhere = subprocess.run(
        [*HOLDFAST, "check", "half@1", *rows], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert elsewhere.returncode != 0 and "mlflow==" in elsewhere.stderr and "Traceback" not in elsewhere.stderr
    # What was logged can be measured, and not served: the gate's rule that asks a real server has nothing to ask yet.
    assert "half@1: not enough evidence" in holdfast("check", "half@1", *rows, code=1)
    assert "holdfast models package half@1" in holdfast("deploy", "half@1", code=1)
    holdfast("models", "package", "half@1", *rows)
    assert "half@2: pass" in holdfast("check", "half@2", *rows)
    assert "half@2: production" in holdfast("deploy", "half@2")

    serving = subprocess.Popen(
        [str(python_of("mlflow")), *HOLDFAST[1:], "serve", "half", "--port", "0", "--log", "durable"],
        cwd=tmp_path, env=with_mlflow, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert serving.stderr is not None
        said = ""
        while "ready: " not in said:
            line = serving.stderr.readline()
            assert line, said
            said += line
        address = said.rpartition("ready: half (production) at ")[2].split(",")[0]
        wanted = [answer(0, 0), answer(1, -0.25), answer(2, 3)]

        plain = ask(address, "/predict", {"rows": [{"a": 0, "b": 0}, {"a": 1, "b": -0.25}, {"b": 3, "a": 2}]})
        assert [p["score"] for p in plain["predictions"]] == pytest.approx(wanted)
        assert all(p["logged"] and p["version"] == 2 for p in plain["predictions"])

        split = {"columns": ["b", "a"], "data": [[0, 0], [-0.25, 1], [3, 2]]}
        by_mlflow = ask(address, "/invocations", {"dataframe_split": split})
        assert by_mlflow["scores"] == pytest.approx(wanted)

        tensors = [
            {"name": n, "shape": [3], "datatype": "FP64", "data": d} for n, d in (("a", [0, 1, 2]), ("b", [0, -0.25, 3]))
        ]  # fmt: skip
        by_oip = ask(address, "/v2/models/half/infer", {"inputs": tensors})
        assert next(o["data"] for o in by_oip["outputs"] if o["name"] == "score") == pytest.approx(wanted)

        ids = [plain["predictions"][2]["id"], by_mlflow["ids"][2], by_oip["parameters"]["prediction_ids"][2]]
        for name in ids:
            found = json.loads(holdfast("trace", name, "--json"))
            assert found["prediction"]["score"] == pytest.approx(wanted[2])
            assert found["prediction"]["inputs"] == {"a": 2.0, "b": 3.0}
            assert (found["version"]["name"], found["version"]["version"]) == ("half", 2)
            assert found["verdict"]["outcome"] == "pass" and found["run"] == found["run"] | {"id": run, "here": True}
        shown = holdfast("trace", ids[0])
        assert run in shown and "None" not in shown
    finally:
        serving.terminate()
        serving.wait(30)
    assert "Traceback" not in said
