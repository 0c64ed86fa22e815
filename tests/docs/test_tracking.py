"""The page on tracking: its console block is run, in order, in one project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tracking.md"
TRAIN = """
import json, os, random, urllib.request
for step in range(3):
    body = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": "loss", "value": random.random(), "timestamp": 1, "step": step}
    headers = {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"], "Content-Type": "application/json"}
    url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read()
"""


def test_the_commands_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert len(lines) > 5
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "holdfast.toml").touch()
    (tmp_path / ".gitignore").write_text(".holdfast/\n")
    script = "set -euo pipefail\ngit init -q\ngit add .\ngit commit -qm first\nholdfast server token ann >/dev/null\n"
    who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script + "\n".join(lines)], cwd=tmp_path, env={**os.environ, **who, "PATH": path},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "same: " in done.stdout and "each in its place" in done.stdout and (tmp_path / "curves.html").exists()
