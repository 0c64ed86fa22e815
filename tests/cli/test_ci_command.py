"""The workflows of `holdfast ci init`: valid, and every step of them runs in a fresh clone of the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
BIN = Path(sys.executable).parent
LIGHT = 'gate=hf.Gate(hf.at_least("roc_auc", 0.51, sample=30)))\n'


def run(root: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=200, **more)


def holdfast(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run(root, sys.executable, "-m", "holdfast.cli.main", *words)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in git with its data on a remote, as a team has it, and both workflows."""
    base = tmp_path_factory.mktemp("ci")
    root = base / "churn"
    root.mkdir()
    assert holdfast(root, "init", "--name", "churn").returncode == 0
    text = (root / "definitions.py").read_text()
    (root / "definitions.py").write_text(
        text[: text.index("gate=hf.Gate")].replace("max_iter=50", "max_iter=5") + LIGHT
    )
    (root / "test_model.py").write_text("def test_loads():\n    import definitions\n\n    assert definitions.service\n")
    run(root, "git", "init", "-q", "-b", "main")
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text(
        f"[core]\n    remote = shared\n['remote \"shared\"']\n    url = {base / 'remote'}\n"
    )
    for words in (("data", "add", "data/events.csv"), ("data", "push"), ("ci", "init"), ("ci", "init", "gitlab")):
        done = holdfast(root, *words)
        assert done.returncode == 0, (words, done.stderr)
    run(root, "git", "add", "-A")
    run(root, "git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "project")
    return root


def github(root: Path) -> Any:
    return yaml.safe_load((root / ".github" / "workflows" / "model.yml").read_text())


def test_github_is_a_workflow(project: Path) -> None:
    found = github(project)
    assert set(found) == {"name", True, "permissions", "jobs"}  # YAML 1.1 reads `on` as a truth value, GitHub does not
    job = found["jobs"]["gate"]
    assert set(job) == {"runs-on", "steps"} and found["permissions"]["pull-requests"] == "write"
    for step in job["steps"]:
        assert ("run" in step) != ("uses" in step)
        assert set(step) <= {"run", "uses", "with", "if", "env", "name", "continue-on-error"}
    text = "\n".join(step.get("run", "") for step in job["steps"])
    for part in ("data pull", "data check", "pytest", "train churn --sample", "check churn@latest", "gh pr comment"):
        assert part in text
    upload = next(s for s in job["steps"] if "upload-artifact" in s.get("uses", ""))
    assert upload["with"]["path"].split() == ["gate.*", "card.html", "train.json"]


def test_gitlab_is_a_pipeline(project: Path) -> None:
    job = yaml.safe_load((project / ".gitlab-ci.yml").read_text())["gate"]
    assert all(isinstance(line, str) for line in [*job["script"], *job["after_script"]])
    assert job["artifacts"]["reports"]["junit"] == "gate.xml"
    text = "\n".join(job["script"])
    for part in ("data pull", "data check", "pytest", "train churn --sample", "check churn@latest"):
        assert part in text
    for line in job["after_script"]:
        assert run(project, "bash", "-n", "-c", line).returncode == 0


def test_every_step_runs_in_a_fresh_clone(project: Path, tmp_path: Path) -> None:
    """The steps as GitHub runs them (`bash -e`), but for the installation and the comment: those need the network."""
    clone = tmp_path / "clone"
    assert run(tmp_path, "git", "clone", "-q", str(project), str(clone)).returncode == 0
    assert not (clone / "data" / "events.csv").exists()
    summary = tmp_path / "summary.md"
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": str(summary)}
    if shutil.which("holdfast", path=environment["PATH"]) is None:
        pytest.skip("the command `holdfast` is not installed here")
    for step in github(project)["jobs"]["gate"]["steps"]:
        line = step.get("run", "")
        if not line or "pip install" in line or "gh pr" in line:
            continue
        done = run(clone, "bash", "-e", "-c", line, env=environment)
        assert done.returncode == 0, (line, done.stdout[-2000:], done.stderr[-2000:])
    assert summary.read_text().startswith("**churn@1: pass**")
    for name in ("gate.json", "gate.xml", "card.html", "train.json"):
        assert (clone / name).stat().st_size > 100
    assert '"rows": 400' in (clone / "train.json").read_text()


def test_it_does_not_replace_what_is_there_and_names_the_choices(project: Path) -> None:
    again = holdfast(project, "ci", "init")
    assert again.returncode == 1 and "--force" in again.stderr
    other = holdfast(project, "ci", "init", "--model", "chrn", "--force")
    assert other.returncode == 1 and "churn" in other.stderr
    wrong = holdfast(project, "ci", "init", "--sample", "2")
    assert wrong.returncode == 1 and "Traceback" not in wrong.stderr
