"""Bad input for every command: a clear error with its mend, status 1, no traceback, nothing half done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DEFINITIONS = "definitions.py"


def run(root: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "holdfast.cli.main", *words], cwd=root, capture_output=True, text=True, timeout=120,
        env={**os.environ, **variables},
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    assert "hint:" in done.stderr or "Try '" in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What `holdfast init` writes, in a git repository."""
    assert run(tmp_path, "init", "--name", "churn").returncode == 0
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def test_broken_toml_names_file_line_and_mend(project: Path) -> None:
    (project / "holdfast.toml").write_text('definitions = "definitions"\nclock = \n')
    refused(run(project, "config"), "holdfast.toml:2")
    refused(run(project, "status"), "holdfast.toml:2")


def test_an_unknown_setting_is_named_with_the_nearest(project: Path) -> None:
    (project / "holdfast.toml").write_text("[ledgr]\nurl = 'sqlite:///x.db'\n")
    refused(run(project, "config"), "ledgr", "ledger")


def test_a_definitions_file_that_does_not_run(project: Path) -> None:
    (project / DEFINITIONS).write_text("import holdfast as hf\nx = hf.Source('a b', 'x.csv')\n")
    refused(run(project, "features", "apply"), "definitions.py:2", "a b")
    (project / DEFINITIONS).write_text("def f(:\n")
    refused(run(project, "train", "churn"), "definitions.py:1")
    (project / DEFINITIONS).write_text("1 / 0\n")
    refused(run(project, "train", "churn"), "ZeroDivisionError")


def test_no_project_here(tmp_path: Path) -> None:
    for words in (
        ("status",),
        ("trace", "x"),
        ("why", "x"),
        ("release", "status", "x"),
        ("models", "list"),
        ("audit", "verify"),
        ("loop", "cycles"),
    ):
        refused(run(tmp_path, *words))
    assert not (tmp_path / ".holdfast").exists(), "a command that only reads made a store"


def test_unknown_names_offer_the_nearest(project: Path) -> None:
    refused(run(project, "train", "chrun"), "chrun", "churn")
    refused(run(project, "loop", "order", "chrun"), "churn")
    refused(run(project, "deploy", "churn@1"))
    refused(run(project, "check", "churn@1"))
    refused(run(project, "nonsense"), "nonsense")


def test_a_missing_file(project: Path) -> None:
    (project / "data" / "events.csv").unlink()
    refused(run(project, "train", "churn"), "events")
    refused(run(project, "data", "add", "data/nothing.csv"), "nothing.csv")


def test_a_missing_column(project: Path) -> None:
    path = project / "data" / "events.csv"
    path.write_text(path.read_text().replace("customer_id", "client", 1))
    refused(run(project, "train", "churn"), "customer_id")


def test_a_wrong_type(project: Path) -> None:
    """Once the table is known, a delivery with text where numbers were is kept out, by column."""
    assert run(project, "data", "add", "data/events.csv").returncode == 0
    path = project / "data" / "events.csv"
    lines = path.read_text().splitlines()
    spoiled = [lines[0], *(",".join([*line.split(",")[:4], "much", line.split(",")[5]]) for line in lines[1:])]
    path.write_text("\n".join(spoiled) + "\n")
    done = run(project, "data", "add", "data/events.csv")
    assert done.returncode == 1 and "amount" in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_not_a_git_repository(tmp_path: Path) -> None:
    """Without git the version is kept in the ledger alone, and the command says what that means."""
    assert run(tmp_path, "init", "--name", "churn").returncode == 0
    done = run(tmp_path, "data", "add", "data/events.csv", GIT_CEILING_DIRECTORIES=str(tmp_path.parent))
    assert done.returncode == 0 and "git" in done.stderr, done.stderr


def test_init_touches_nothing_that_is_there(project: Path) -> None:
    before = {p: p.read_bytes() for p in project.iterdir() if p.is_file()}
    refused(run(project, "init"), "already")
    assert {p: p.read_bytes() for p in project.iterdir() if p.is_file()} == before


def test_bad_instants_and_numbers(project: Path) -> None:
    refused(run(project, "train", "churn", "--as-of", "yesterday"), "yesterday")
    refused(run(project, "release", "weight", "churn", "200"))
    refused(run(project, "serve", "churn", "--port", "99999"))


@pytest.mark.parametrize("number", ["ENOSPC", "EROFS"])
def test_a_full_or_read_only_disk(project: Path, number: str) -> None:
    """The file system's refusal is told with its mend, and what was there stays."""
    code = (
        "import errno, os, sys\n"
        "real = os.fsync\n"
        f"def fail(fd): raise OSError(errno.{number}, os.strerror(errno.{number}))\n"
        "os.fsync = fail\n"
        "from holdfast.cli.main import main\n"
        "main(['init', '--name', 'other', 'sub'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, timeout=60)
    refused(done, "full" if number == "ENOSPC" else "read-only")
    assert not list((project / "sub").glob("*.toml")), "a half-written file took its final name"
