"""MLflow's client, unmodified, through what people call of it beside the everyday script."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.peers.environments import python_of
from tests.protocols.mlflow.servers import Server

SCRIPT = Path(__file__).with_name("wider.py")


@pytest.mark.peer
@pytest.mark.timeout(600)
def test_every_call_of_the_client_is_answered(tmp_path: Path) -> None:
    python = python_of("mlflow")
    (tmp_path / "holdfast.toml").touch()
    with Server(tmp_path) as server:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": server.url, "MLFLOW_DISABLE_TELEMETRY": "true"}
        ran = subprocess.run(
            [str(python), str(SCRIPT)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = json.loads(ran.stdout.strip().splitlines()[-1])
    assert len(told) >= 11
    assert {name: problem for name, problem in told.items() if problem} == {}
