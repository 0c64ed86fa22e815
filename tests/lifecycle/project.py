"""A small project to live in: what `holdfast init` writes, in a git repository, at a clock that is set by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from holdfast.core.identity import to_us

NOW = to_us("2026-02-20T00:00:00Z")


def holdfast(root: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in the project as a user would."""
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.cli.main", *words], cwd=root, capture_output=True, text=True, timeout=240
    )
    if check and done.returncode != 0:
        raise AssertionError(f"holdfast {' '.join(words)} → {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def make(root: Path, *, now: int = NOW) -> Path:
    """A fresh project with its data added, committed, and business time at ``now``."""
    root.mkdir(parents=True, exist_ok=True)
    holdfast(root, "init", "--name", "churn")
    toml = root / "holdfast.toml"
    toml.write_text('clock = "replay"\n' + toml.read_text())
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "holdfast.toml", "definitions.py", ".gitignore")
    git(root, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "project")
    (root / ".holdfast").mkdir(exist_ok=True)
    set_clock(root, now)
    holdfast(root, "data", "add", "data/events.csv")
    return root


def set_clock(root: Path, at: int) -> None:
    from holdfast.backends.clock import ReplayClock

    ReplayClock(root / ".holdfast" / "clock").set(at)


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=root, check=True, capture_output=True)
