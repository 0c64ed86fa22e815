"""The plugin itself, over a checkout of three files: it points their helper at Holdfast and skips by the list."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers.environments import python_of

PLUGIN = Path(__file__).with_name("mlflow_plugin")
HELPERS = """
def _init_server(backend_uri, root_artifact_uri):
    raise AssertionError("the plugin did not take this helper's place")
"""
TESTS = """
from mlflow import MlflowClient
from tests.tracking.integration_test_utils import _init_server

def test_talks_to_holdfast():
    with _init_server("sqlite://x", "y") as url:
        client = MlflowClient(url)
        run = client.create_run(client.create_experiment("e"))
        client.log_metric(run.info.run_id, "m", 1.0)
        assert client.get_run(run.info.run_id).data.metrics == {"m": 1.0}

def test_search_traces():
    raise AssertionError("is on the list")
"""


@pytest.mark.peer
@pytest.mark.timeout(300)
def test_the_plugin_points_a_checkout_at_holdfast(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "tracking"
    folder.mkdir(parents=True)
    for package in (tmp_path / "tests", folder):
        (package / "__init__.py").touch()
    (folder / "integration_test_utils.py").write_text(HELPERS)
    (folder / "test_rest_tracking.py").write_text(TESTS)
    environment = {
        **os.environ,
        "HOLDFAST": f"{sys.executable} -m holdfast.cli.main",
        "PYTHONPATH": f"{PLUGIN}{os.pathsep}{tmp_path}",
    }
    command = [
        python_of("mlflow"),
        "-m",
        "pytest",
        "-p",
        "holdfast_mlflow",
        "-q",
        "tests/tracking/test_rest_tracking.py",
    ]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"holdfast: \{'passed': 1, 'failed': 0, 'error': 0, 'skipped': 1\}", ran.stdout), ran.stdout
    assert "matches no test any more" in ran.stdout
