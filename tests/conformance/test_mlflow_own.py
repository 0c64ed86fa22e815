"""MLflow's own tests of REST tracking, registry and artifacts, unmodified, against a Holdfast server.

They are run from a checkout that whoever runs this has at hand; none of it is kept here:

    HOLDFAST_MLFLOW_CHECKOUT   the checkout (its folder has ``tests/tracking``)
    HOLDFAST_MLFLOW_PYTHON     a Python with that MLflow and its test requirements
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).with_name("mlflow_plugin")
# What passed when this was written (MLflow 3.11.2.dev0); a file may gain, not lose.
PASSED = {
    "tests/tracking/test_rest_tracking.py": 59,
    "tests/tracking/test_model_registry.py": 48,
    "tests/tracking/test_mlflow_artifacts.py": 15,
}
CHECKOUT, PYTHON = os.environ.get("HOLDFAST_MLFLOW_CHECKOUT", ""), os.environ.get("HOLDFAST_MLFLOW_PYTHON", "")


@pytest.mark.soak
@pytest.mark.peer
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("file", PASSED)
def test_mlflows_own_tests_pass(file: str, tmp_path: Path) -> None:
    if not CHECKOUT or not PYTHON:
        pytest.skip("set HOLDFAST_MLFLOW_CHECKOUT and HOLDFAST_MLFLOW_PYTHON to run MLflow's own tests")
    environment = {
        **os.environ,
        "HOLDFAST": f"{sys.executable} -m holdfast.cli.main",
        "PYTHONPATH": f"{PLUGIN}{os.pathsep}{CHECKOUT}",
        "PATH": f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(tmp_path),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [
        PYTHON,
        "-m",
        "pytest",
        "-p",
        "holdfast_mlflow",
        "-q",
        "-p",
        "no:cacheprovider",
        "-rfE",
        "--color=no",
        file,
    ]
    ran = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    tail = ran.stdout[-8000:] + ran.stderr[-2000:]
    found = re.search(rf"holdfast: {re.escape(file)} (\{{.*\}})", ran.stdout)
    assert found, tail
    print(found[0])
    counts = {kind: int(number) for kind, number in re.findall(r"'(\w+)': (\d+)", found[1])}
    assert counts["failed"] == counts["error"] == 0 and counts["passed"] >= PASSED[file], tail
