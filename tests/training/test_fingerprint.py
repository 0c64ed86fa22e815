"""What a run was made from: commit, patch, environment, seeds."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys

import pytest

from holdfast.core.errors import BadInput
from holdfast.training import fingerprint


@pytest.fixture
def git(tmp_path):
    root = tmp_path / "repo"
    root.mkdir()
    environment = {
        **os.environ, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": "/dev/null",
    }  # fmt: skip

    def run(*arguments, cwd=root, given=None):
        return subprocess.run(
            ["git", *arguments], cwd=cwd, env=environment, input=given, capture_output=True, check=True
        ).stdout

    run("init", "-q", "-b", "main")
    run.root = root
    return run


@pytest.fixture
def repo(git):
    (git.root / "train.py").write_text("print(1)\n")
    (git.root / "gone.py").write_text("print(2)\n")
    (git.root / ".gitignore").write_text("ignored\n")
    git("add", ".")
    git("commit", "-qm", "first")
    return git.root


def test_without_git(tmp_path):
    assert fingerprint.code(tmp_path) == {
        "commit": None, "dirty": False, "diff_sha256": None, "remote": None, "left_out": [],
    }  # fmt: skip
    assert fingerprint.code(tmp_path / "absent")["commit"] is None


def test_without_a_commit(git):
    assert fingerprint.code(git.root)["commit"] is None
    assert fingerprint.code(git.root)["dirty"]


def test_clean(git, repo):
    code, patch = fingerprint.snapshot(repo)
    assert code["commit"] == git("rev-parse", "HEAD").decode().strip()
    assert (code["dirty"], code["diff_sha256"], patch) == (False, None, b"")
    (repo / "ignored").write_text("x")
    assert not fingerprint.code(repo)["dirty"]


def test_the_patch_leads_from_the_commit_to_the_working_files(git, repo, tmp_path):
    (repo / "train.py").write_text("print(3)\n")
    (repo / "gone.py").unlink()
    (repo / "new é.bin").write_bytes(bytes(range(256)))
    (repo / "folder").mkdir()
    (repo / "folder" / "staged.py").write_text("print(4)\n")
    git("add", "folder")
    before = git("status", "--porcelain", "-z")
    index = (repo / ".git" / "index").read_bytes()
    objects = sorted((repo / ".git" / "objects").rglob("*"))

    code, patch = fingerprint.snapshot(repo / "folder")
    assert code["dirty"] and code["diff_sha256"] == hashlib.sha256(patch).hexdigest()
    assert fingerprint.snapshot(repo) == (code, patch)
    assert git("status", "--porcelain", "-z") == before
    assert (repo / ".git" / "index").read_bytes() == index
    assert sorted((repo / ".git" / "objects").rglob("*")) == objects

    git("clone", "-q", str(repo), str(tmp_path / "again"))
    git("apply", "--index", "--binary", "-", cwd=tmp_path / "again", given=patch)
    names = {p.relative_to(repo) for p in repo.rglob("*") if p.is_file() and ".git" not in p.parts}
    again = tmp_path / "again"
    assert {p.relative_to(again) for p in again.rglob("*") if p.is_file() and ".git" not in p.parts} == names
    for name in names:
        assert (again / name).read_bytes() == (repo / name).read_bytes()


def test_a_big_untracked_file_is_named_not_taken_in(repo, monkeypatch):
    monkeypatch.setattr(fingerprint, "PATCH_FILE_BYTES", 100)
    (repo / "big").write_bytes(b"x" * 1000)
    code, patch = fingerprint.snapshot(repo)
    assert code["left_out"] == ["big"] and code["dirty"] and not patch


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ann:token@host/x.git?access=1", "https://host/x.git"),
        ("git@host:x/y.git", "git@host:x/y.git"),
        ("ssh://git@host/x", "ssh://host/x"),
    ],
)
def test_a_remote_is_shown_without_credentials(git, repo, url, shown):
    git("remote", "add", "origin", url)
    assert fingerprint.code(repo)["remote"] == shown


def test_a_repository_cannot_start_programs(git, repo, tmp_path):
    mark = tmp_path / "ran"
    git("config", "core.fsmonitor", f"touch {mark}; false")
    git("config", "diff.external", f"touch {mark}; false")
    (repo / "train.py").write_text("print(5)\n")
    assert fingerprint.code(repo)["dirty"]
    assert not mark.exists()


def test_the_environment_has_a_stable_name():
    first, second = fingerprint.environment(), fingerprint.environment()
    assert first == second and len(first["digest"]) == 64
    assert first["packages"]["msgspec"] and first["python"] == ".".join(map(str, sys.version_info[:3]))
    locked = fingerprint.lock()
    assert {name: found["version"] for name, found in locked.items()} == first["packages"]
    assert len(locked["msgspec"]["record_sha256"]) == 64


def test_seeds_are_set():
    import numpy as np

    def draw():
        return random.random(), float(np.random.random())

    fingerprint.seed_everything(7)
    first = draw()
    assert draw() != first
    fingerprint.seed_everything(7)
    assert draw() == first
    assert os.environ["PYTHONHASHSEED"] == "7"
    fingerprint.seed_everything(8)
    assert draw() != first


@pytest.mark.parametrize("seed", [-1, 2**32, True, 1.0, "1"])
def test_seeds_that_cannot_be(seed):
    with pytest.raises(BadInput):
        fingerprint.seed_everything(seed)
