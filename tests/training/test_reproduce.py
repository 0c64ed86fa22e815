"""What counts as the same file, and an environment built again from what a run recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from holdfast.training import fingerprint, reproduce


def test_a_skops_archive_is_compared_without_times_and_addresses() -> None:
    skops = pytest.importorskip("skops.io")
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    X, y = np.arange(20.0).reshape(10, 2), np.arange(10) % 2

    def saved(strength: float) -> bytes:
        data: bytes = skops.dumps(LogisticRegression(C=strength, max_iter=7).fit(X, y))
        return data

    one, again, other = saved(1.0), saved(1.0), saved(0.5)
    assert one != again
    assert reproduce.file_digest("m.skops", one) == reproduce.file_digest("m.skops", again)
    assert reproduce.file_digest("m.skops", one) != reproduce.file_digest("m.skops", other)
    assert reproduce.file_digest("m.bin", one) != reproduce.file_digest("m.bin", again)
    # Not an archive of skops after all: byte for byte.
    assert reproduce.file_digest("m.skops", b"PK\x03\x04") != reproduce.file_digest("m.skops", b"PK\x03\x05")


def wheel(folder: Path, version: str) -> Path:
    """A wheel of one module that knows its version."""
    path = folder / f"tinyhold-{version}-py3-none-any.whl"
    about = f"tinyhold-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tinyhold.py", f"VALUE = {version}\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: tinyhold\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", f"tinyhold.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    return path


@pytest.fixture
def other_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Python of an environment with one package in its first version, the second being the one to be had as well."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    first = wheel(wheels, "1.0")
    wheel(wheels, "2.0")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    site = next(environment.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(first) as archive:
        archive.extractall(site)
    for tool in ("PIP", "UV"):
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(wheels))
        monkeypatch.setenv(f"{tool}_NO_INDEX", "1")
    return environment / "bin" / "python"


def test_the_environment_of_a_run_is_that_of_its_own_python_and_can_be_built_again(
    other_python: Path, tmp_path: Path
) -> None:
    then = fingerprint.environment_of(str(other_python))
    assert then["packages"] == {"tinyhold": "1.0"} and then["lock"]["tinyhold"]["version"] == "1.0"
    assert then["digest"] != fingerprint.environment()["digest"]
    built = reproduce.rebuild_environment(then, tmp_path / "built", log=tmp_path / "log")
    now = fingerprint.environment_of(str(built))
    left = [
        d
        for d in reproduce.environment_differences(then, now)
        if d["what"] not in ("package pip", "package setuptools")
    ]
    assert left == []
    assert (
        subprocess.run([built, "-c", "import tinyhold; print(tinyhold.VALUE)"], capture_output=True).stdout == b"1.0\n"
    )


@pytest.mark.soak
def test_a_run_in_another_environment_is_done_again_in_one_like_it(other_python: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (root / "holdfast.toml").touch()
    (root / ".gitignore").write_text(".holdfast/\n")
    (root / "use.py").write_text("import pathlib, tinyhold, sys, os, json, urllib.request\n" + LOG)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HOLDFAST_", "MLFLOW_", "PYTHONPATH"))}
    who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "first")):
        subprocess.run(["git", *words], cwd=root, env={**environment, **who}, check=True)

    def holdfast(*words: str) -> tuple[int, Any, str]:
        command = [sys.executable, "-m", "holdfast.cli.main", *words, "--json"]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout), done.stderr

    command = [sys.executable, "-m", "holdfast.cli.main", "run", "--json", "--", str(other_python), "use.py"]
    ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    run_id = json.loads(ran.stdout)["run_id"]
    site = next(other_python.parents[1].glob("lib/python*/site-packages"))
    (site / "tinyhold.py").write_text("VALUE = 2.0\n")
    (site / "tinyhold-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tinyhold\nVersion: 2.0\n")
    status, summary, said = holdfast("reproduce", run_id)
    assert status == 0 and summary["same"], said
    status, summary, said = holdfast("reproduce", run_id, "--here")
    assert status == 1 and [d["what"] for d in summary["differences"]] == ["metric value"], said
    assert {"what": "package tinyhold", "then": "1.0", "now": "2.0"} in summary["causes"]


LOG = """
body = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": "value", "value": tinyhold.VALUE, "timestamp": 1}
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
headers = {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"], "Content-Type": "application/json"}
urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read()
"""
