"""Bad input for every command: a clear error with its mend, status 1, no traceback, nothing half done."""

from __future__ import annotations

import json
import subprocess
import sys
import time
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
        ("serve", "x", "--port", "0"),
        ("up",),
    ):
        refused(run(tmp_path, *words))
    assert not (tmp_path / ".holdfast").exists(), "a command that only reads made a store"


def test_unknown_names_offer_the_nearest(project: Path) -> None:
    refused(run(project, "train", "chrun"), "chrun", "churn")
    refused(run(project, "loop", "order", "chrun"), "churn")
    assert run(project, "features", "apply").returncode == 0
    refused(run(project, "loop", "cycles", "chrun"), "churn")
    refused(run(project, "deploy", "churn@1"))
    refused(run(project, "check", "churn@1"))
    refused(run(project, "nonsense"), "nonsense")
    refused(run(project, "serve", "chrun", "--port", "0"), "chrun", "churn")


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


def test_history_without_git_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n")
    refused(run(tmp_path, "data", "log", "x.csv", GIT_CEILING_DIRECTORIES=str(tmp_path.parent)), "git")


@pytest.mark.parametrize(
    "words", [("runs", "show"), ("trace",), ("run", "--experiment"), ("data", "log"), ("models", "show")]
)
def test_an_argument_that_is_no_utf8_is_refused_by_name(project: Path, words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.cli.main", *words, b"\xffx", *(["true"] if words[0] == "run" else [])],
        cwd=project, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    refused(done)
    assert "defect" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [("runs", "list", "--limit", "x"), ("models", "show"), ("models", "show", "nope"), ("data", "status", "no/such")],
)
def test_a_refusal_is_json_where_json_was_asked_for(project: Path, words: tuple[str, ...]) -> None:
    done = run(project, *words, "--json")
    refused(done)
    assert set(json.loads(done.stdout)["error"]) == {"code", "message", "hint"}


def test_init_touches_nothing_that_is_there(project: Path) -> None:
    before = {p: p.read_bytes() for p in project.iterdir() if p.is_file()}
    refused(run(project, "init"), "already")
    assert {p: p.read_bytes() for p in project.iterdir() if p.is_file()} == before


def test_bad_instants_and_numbers(project: Path) -> None:
    refused(run(project, "train", "churn", "--as-of", "yesterday"), "yesterday")
    refused(run(project, "release", "weight", "churn", "200"))
    refused(run(project, "serve", "churn", "--port", "99999"))
    refused(run(project, "serve", "churn", "--port", "0", HOLDFAST_LOG="loud"), "loud", "debug")


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


def test_ctrl_c_while_training_says_so_and_leaves_no_run_running(project: Path) -> None:
    import signal

    path = project / DEFINITIONS
    path.write_text(path.read_text().replace("    from sklearn", "    import time; time.sleep(120)\n    from sklearn"))
    started = subprocess.Popen(
        [sys.executable, "-m", "holdfast.cli.main", "train", "churn"], cwd=project, stderr=subprocess.PIPE, text=True
    )
    jobs = project / ".holdfast" / "jobs"
    while started.poll() is None and not list(jobs.glob("*/fit/arrays.npz")):
        time.sleep(0.05)
    time.sleep(0.5)
    started.send_signal(signal.SIGINT)
    _, told = started.communicate(timeout=60)
    assert started.returncode == 130 and "interrupted" in told and "Traceback" not in told, told
    runs = json.loads(run(project, "runs", "list", "--json").stdout)
    assert [r["status"] for r in runs] == ["KILLED"]
