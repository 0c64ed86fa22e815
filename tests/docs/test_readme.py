"""The README's console blocks are run, in order, in one shell session; its pictures and links are there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, flags=re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_the_commands_run(tmp_path: Path) -> None:
    lines = [c for c in commands() if not c.startswith("pip install")]
    assert len(lines) > 10
    script = "set -euo pipefail\n"
    for line in lines:
        script += f"echo '>>> {line}'\n"
        script += line.replace("--port 8080 &", "--port 0 & sleep 8") + "\n"
    bin_folder = str(Path(sys.executable).parent)
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"},
    )  # fmt: skip
    seen = ""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            seen += line
            if "anchors match" in line:
                break
        assert "churn@1: pass" in seen, seen
        assert '"score"' in seen or "score" in seen.partition(">>> holdfast predict")[2], seen
        assert "each in its place" in seen, seen
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_pictures_and_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_example_is_short_enough_to_copy() -> None:
    lines = (ROOT / "examples" / "flights" / "definitions.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert f"[{len(lines)} lines]" in README


def test_every_file_of_the_architecture_page_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"`([a-z_]+/[a-z_/]+\.py)", page)):
        assert (ROOT / "src" / "holdfast" / name).exists(), name
