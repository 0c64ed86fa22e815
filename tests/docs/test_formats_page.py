"""docs/formats.md: what it shows to save, serve and extend is done as it is written."""

from __future__ import annotations

import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from holdfast.core.identity import digest
from holdfast.core.records import FileRef
from holdfast.registry import foreign, versions
from holdfast.workspace import Workspace

pytest.importorskip("skops")
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
ENTRY = re.compile(r"```toml\n\[project\.entry-points\.\"(.+?)\"\]\n(.*?)```", flags=re.S)
MLMODEL = """
flavors:
  sklearn: {pickled_model: model.pkl, serialization_format: cloudpickle}
signature:
  inputs: '[{"type": "double", "name": "amount"}, {"type": "double", "name": "age"}]'
"""


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, flags=re.S | re.M)
    assert found is not None, title
    return found[1]


def blocks(text: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def test_saving_and_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(blocks(PAGE.partition("\n## ")[0])[0], scope)
    assert str(scope["loaded"]).startswith("<fraud@1 ")


def test_what_an_mlflow_client_logged_gets_served(tmp_path: Path) -> None:
    """The commands in their order; the first is refused by name before the trust that the page shows is given."""
    from sklearn.linear_model import LogisticRegression

    text = section("What an MLflow client logged")
    (definitions,) = blocks(text)
    (tmp_path / "definitions.py").write_text(definitions)
    x = np.random.default_rng(1).normal(size=(600, 2))
    y = (x.sum(axis=1) > 0).astype(int)
    lines = [f"{a!r},{b!r},{t}" for (a, b), t in zip(x.tolist(), y.tolist(), strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(["amount,age,is_fraud", *lines]) + "\n")
    data = pickle.dumps(LogisticRegression().fit(x, y))
    with Workspace.open(tmp_path) as ws:
        files = {"MLmodel": MLMODEL.encode(), "model.pkl": data}
        content = foreign.pin(ws.objects, {n: FileRef(sha256=ws.objects.put(d), size=len(d)) for n, d in files.items()})
        versions.create(ws.ledger, "fraud", content=content, run_id=None, at=1, actor="ann")
    commands = [line[2:] for line in blocks(text, "console")[0].splitlines()]
    trust = commands.pop(0)
    refused = run(tmp_path, commands[0])
    assert refused.returncode == 1 and f"models trust {digest(data)}" in refused.stderr
    for command in (trust.replace("SHA256", digest(data)), *commands):
        done = run(tmp_path, command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    with Workspace.open(tmp_path, create=False) as ws:
        assert versions.resolve(ws.ledger, "fraud@champion").version == 2


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    assert words.pop(0) == "holdfast"
    return subprocess.run(
        [sys.executable, "-m", "holdfast.cli.main", *words], cwd=folder, capture_output=True, text=True, timeout=200
    )


@pytest.mark.parametrize(
    ("title", "module", "tests", "passes"),
    [
        ("A format of your own", "my_package", "test_line", 10),
        ("A check of your own", "my_checks", "test_agreement", 8),
    ],
)
def test_what_others_plug_in(tmp_path: Path, title: str, module: str, tests: str, passes: int) -> None:
    """The code of the page as a distribution that pip would leave, and its contract passed."""
    text = section(title)
    assert f"`{module}.py`" in text and f"`{tests}.py`" in text
    code, contract = blocks(text)
    facts = tmp_path / "mine-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (group, line) = ENTRY.findall(text)[0]
    (facts / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}")
    (tmp_path / f"{module}.py").write_text(code)
    (tmp_path / f"{tests}.py").write_text(contract)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path), f"{tests}.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    counted = re.search(r"(\d+) passed", done.stdout)
    assert counted is not None and int(counted[1]) >= passes


def test_every_format_has_its_row() -> None:
    from holdfast.formats.sniff import FORMATS

    rows = PAGE[: PAGE.index("`hf.save_model`")].lower()
    for name in set(FORMATS) - {"joblib", "npz", "zip", "unknown"}:
        assert f"| {name}" in rows, name
