"""The short way of `holdfast data status` says what the usual way says, and leaves to it whatever needs more than one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.data import repository, snapshot

CLEAN = "Data is as its pointers say.\n"
SHORT = "import sys; sys.argv[1:] = {args!r}; from holdfast.cli.start import main; main()"
SPY = """
import os, sys
sys.argv[1:] = {args!r}
def left(status):
    print("click" in sys.modules, status)
    raise SystemExit
os._exit = left
from holdfast.cli.start import main
main()
"""
USUAL = "import sys; sys.argv[1:] = {args!r}; from holdfast.cli.main import main; main()"


def ask(way: str, where: Path, *args: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", way.format(args=list(args or ("data", "status")))]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def root(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    repository.initialise(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(b"one")
    snapshot.add(tmp_path, tmp_path / "data")
    return tmp_path


def _changed(root: Path) -> None:
    (root / "data" / "a").write_bytes(b"other")


def _deleted(root: Path) -> None:
    (root / "data" / "a").unlink()
    (root / "data").rmdir()


def _bad_pointer(root: Path) -> None:
    (root / "data.dvc").write_text("outs: 3\n")


def _bad_config(root: Path) -> None:
    (root / ".dvc" / "config").write_text("[core\n")


def _quarantine(root: Path) -> None:
    folder = root / ".holdfast" / "datasets"
    folder.mkdir(parents=True)
    notice = {"name": "data", "quarantined": [{"path": "aside/a", "why": ["too old"]}]}
    (folder / "data.json").write_text(json.dumps(notice))


def _stage(root: Path) -> None:
    (root / "dvc.yaml").write_text("stages:\n  fit:\n    cmd: 'true'\n    deps: [data]\n")


@pytest.mark.parametrize(
    "spoil", [_changed, _deleted, _bad_pointer, _bad_config, _quarantine, _stage], ids=lambda spoil: spoil.__name__
)
def test_what_is_not_clean_is_said_the_usual_way(root: Path, spoil: object) -> None:
    assert callable(spoil)
    spoil(root)
    said = ask(SHORT, root)
    assert said == ask(USUAL, root)
    assert CLEAN not in said[1]


def test_clean_data_is_clean_without_the_command_line_library(root: Path) -> None:
    assert ask(SHORT, root) == ask(USUAL, root) == (0, CLEAN, "")
    assert ask(SHORT, root / "data") == (0, CLEAN, "")
    assert ask(SPY, root) == (0, CLEAN + "False 0\n", "")


def test_elsewhere_and_with_options_it_is_the_usual_way(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    nowhere = tmp_path_factory.mktemp("nowhere")
    assert ask(SHORT, nowhere) == ask(USUAL, nowhere)
    assert json.loads(ask(SHORT, root, "data", "status", "--json")[1])["changed"] == {}
    assert ask(SHORT, root, "data", "status", "data")[:2] == (0, CLEAN)
    assert ask(SHORT, root, "data", "statsu")[0] == 1


def test_a_closed_pipe_is_no_traceback(root: Path) -> None:
    command = [sys.executable, "-c", SHORT.format(args=["data", "status"])]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        assert "Traceback" not in child.stderr.read()
