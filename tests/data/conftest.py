"""Repositories to work on."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.peers import environments

from holdfast.data import repository
from holdfast.data.repository import Repository

GIT = {
    "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org", "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.org", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
}  # fmt: skip


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, env={**os.environ, **GIT})


def commit(root: Path, message: str) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", message)


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A git repository with a remote in a folder beside it."""
    root = tmp_path / "work"
    root.mkdir()
    git(root, "init", "-q")
    repository.initialise(root)
    (root / ".dvc" / "config").write_text("[core]\n    remote = r\n['remote \"r\"']\n    url = ../../store\n")
    monkeypatch.chdir(root)
    return repository.open_at(root)


def fill(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def content(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, without what is only remembered to save time (``.dvc/tmp``)."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if ".dvc/tmp/" not in name}


@pytest.fixture(scope="session")
def dvc(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dvc of its own, made once and used again."""
    binary = environments.python_of("dvc").with_name("dvc")
    os.environ["DVC_SITE_CACHE_DIR"] = str(tmp_path_factory.mktemp("dvc-site"))
    return str(binary)


def run(dvc: str, repo: Repository, *arguments: str) -> str:
    environment = {**os.environ, **GIT, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        [dvc, *arguments], cwd=repo.root, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clean(dvc: str, repo: Repository) -> None:
    assert json.loads(run(dvc, repo, "status", "--json")) == {}
