"""What is said of git's index without asking git is what git says, or nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.data.conftest import git

from holdfast.data import gitindex

TRACKED = ["a", "data/x", "data/sub/y", "data.dvc", "déjà/z"]
OTHERS = ["dat", "data/su", "sub", "x", "data/sub/y/deeper", "b", "dvc", "déjà vu"]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    for name in TRACKED:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def listed(top: Path, place: Path) -> bool:
    ask = ["git", "-C", str(top), "ls-files", "-z", "--", str(place)]
    return bool(subprocess.run(ask, capture_output=True, check=False).stdout)


@pytest.mark.parametrize("version", ["2", "3", "4"])
@pytest.mark.parametrize("split", [False, True])
def test_nothing_tracked_is_ever_taken_for_untracked(top: Path, version: str, split: bool) -> None:
    git(top, "add", "-A")
    git(top, "update-index", "--index-version", version)
    if split:
        git(top, "update-index", "--split-index")
        (top / "late").write_text("late")
        git(top, "add", "late")
    for name in [*TRACKED, *OTHERS, "data", "data/sub", "late"]:
        if listed(top, top / name):
            assert not gitindex.surely_without(top, top / name), name


def test_the_usual_index_answers_by_itself(top: Path) -> None:
    assert gitindex.surely_without(top, top / "data"), "nothing was added"
    git(top, "add", "data.dvc", "a")
    assert gitindex.surely_without(top, top / "data")
    assert not gitindex.surely_without(top, top / "data.dvc")
    git(top, "add", "data/x")
    assert not gitindex.surely_without(top, top / "data")


def test_another_layout_is_left_to_git(
    top: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(top, "add", "a")
    git(top, "commit", "-q", "-m", "one")
    beside = tmp_path_factory.mktemp("trees") / "beside"
    git(top, "worktree", "add", "-q", str(beside))
    assert not gitindex.surely_without(beside, beside / "data")
    monkeypatch.setenv("GIT_INDEX_FILE", os.devnull)
    assert not gitindex.surely_without(top, top / "data")
    monkeypatch.undo()
    (top / ".git" / "index").write_bytes(b"no index")
    assert not gitindex.surely_without(top, top / "data")
