"""The flow of an everyday script with MLflow's own client, unmodified: logged, registered, refused, checked, loaded."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.peers.environments import python_of
from tests.protocols.mlflow.servers import HOLDFAST, Server

SCRIPT = Path(__file__).with_name("everyday.py")
DEFINITIONS = """
import holdfast as hf

@hf.model("fraud_detection")
def train(data, params): ...

fraud = hf.Service("fraud", model=train, gate=hf.Gate(hf.at_least("accuracy", 0.8)))
"""


def held_out(path: Path) -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(500, 4))
    y = (x[:, 0] + 0.5 * x[:, 1] > 0).astype(int)
    lines = [",".join([*map(str, row), str(truth)]) for row, truth in zip(x, y, strict=True)]
    path.write_text("a,b,c,d,fraud\n" + "\n".join(lines) + "\n")


@pytest.mark.peer
@pytest.mark.timeout(600)
def test_an_everyday_script_meets_the_gate(tmp_path: Path) -> None:
    python = python_of("mlflow")
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    held_out(tmp_path / "held.csv")

    def holdfast(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*HOLDFAST, *words], cwd=tmp_path, capture_output=True, text=True, check=False)

    with Server(tmp_path) as server:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": server.url, "PYTHONWARNINGS": "ignore"}
        client = subprocess.Popen(
            [str(python), str(SCRIPT)],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(tmp_path / "script.log").open("w"),
            text=True,
        )
        assert client.stdin is not None and client.stdout is not None

        def script(*words: str) -> dict[str, Any]:
            assert client.stdin is not None and client.stdout is not None
            client.stdin.write(" ".join(words) + "\n")
            client.stdin.flush()
            for line in client.stdout:
                if line.startswith("{"):
                    return json.loads(line)  # type: ignore[no-any-return]
            raise AssertionError((tmp_path / "script.log").read_text()[-3000:])

        for number, kind in enumerate(("linear", "forest"), start=1):
            logged = script("train", kind)
            assert (logged["version"], logged["found"], logged["history"]) == (number, 1, 3)
            assert logged["artifacts"] == ["notes"] and logged["notes"] == "hello"
            version = str(number)
            assert script("move", version, "Staging")["moved"]
            for refused in (script("move", version, "Production"), script("alias", version, "champion")):
                assert not refused["moved"] and refused["code"] == "INVALID_PARAMETER_VALUE"
                assert f"holdfast check fraud_detection@{version}" in refused["message"]
            checked = holdfast("check", f"fraud_detection@{version}", "--data", "held.csv", "--label", "fraud")
            assert checked.returncode == 0, checked.stdout + checked.stderr
            if number == 2:
                assert holdfast("models", "stage", "fraud_detection@1", "Archived").returncode == 0
            assert script("move", version, "Production")["moved"] and script("alias", version, "champion")["moved"]
            by_stage, by_alias = script("load", "Production"), script("load", "@champion")
            assert by_stage == by_alias and len(by_stage["predictions"]) == 5
        client.stdin.close()
        assert client.wait(60) == 0
        history = json.loads(holdfast("models", "history", "fraud_detection", "--json").stdout)
        moves = [(c["version"], c["before"], c["after"]) for c in history if c["what"] == "stage"]
        assert moves[:3] == [(1, "None", "Staging"), (1, "Staging", "Production"), (2, "None", "Staging")]
        assert holdfast("audit", "verify").returncode == 0
