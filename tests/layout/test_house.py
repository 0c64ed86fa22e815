"""Architecture, types and style are tests: the contracts of pyproject.toml hold, mypy is strict, ruff is quiet."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "holdfast"
BIN = Path(sys.executable).parent


def run(*command: str) -> None:
    done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_nothing_imports_upward_or_sideways() -> None:
    run("lint-imports")


def test_ruff_is_quiet() -> None:
    run("ruff", "check", ".")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="types are checked with the oldest Python's libraries")
def test_mypy_is_strict_and_content() -> None:
    run("mypy")


def test_the_gate_never_asserts() -> None:
    """Gates written as assert vanish under python -O."""
    for path in [
        *(SOURCE / "validation").glob("*.py"),
        *(SOURCE / "registry").glob("*.py"),
        *(
            SOURCE / "lifecycle" / f"{n}.py"
            for n in ("approval", "judge", "measure", "release", "rollouts", "staged", "way_back")
        ),
    ]:
        assert not re.search(r"^\s*assert ", path.read_text(encoding="utf-8"), flags=re.M), path


def test_there_is_no_utils() -> None:
    assert not [p for p in SOURCE.rglob("*") if p.stem in ("utils", "util", "helpers", "misc", "common")]


def test_every_module_says_what_it_is() -> None:
    silent = [
        p
        for p in SOURCE.rglob("*.py")
        if p.read_text(encoding="utf-8").strip() and '"""' not in p.read_text(encoding="utf-8")[:400]
    ]
    assert not silent, silent
