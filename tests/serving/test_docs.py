"""The examples of docs/serving.md work as they stand."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from holdfast.workspace import Workspace
from tests.serving.world import add_package, arm, put_release, serving

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_pages_declarations_are_accepted() -> None:
    """Each further block of Python declares something; a model is all it needs."""
    import holdfast as hf

    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)[1:]
    assert blocks
    for code in blocks:
        train = hf.model("toy")(lambda data, params: None)
        exec(code, {"hf": hf, "train": train})


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_pages_examples_work(workspace: Workspace) -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("curl ")]
    assert len(lines) == 8
    code = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)[0]
    (workspace.root / "definitions.py").write_text("import holdfast as hf\n\n" + code)
    lines.append('curl -sf http://127.0.0.1:8080/api/decide -d \'{"row": {"a": 0.5, "b": 0.25}}\'')
    put_release(workspace, 1, arm(1, add_package(workspace)))
    with serving(workspace, "--replicas", "1") as server:
        server.until_version(1)
        for line in lines:
            done = subprocess.run(
                shlex.split(line.replace("http://127.0.0.1:8080", server.state["address"])),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}\n{server.log.read_text()[-2000:]}"
            assert done.stdout.strip()
