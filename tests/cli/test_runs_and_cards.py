"""`holdfast runs plot` and `holdfast models card` over a store that was filled directly."""

from __future__ import annotations

import json
import math
import xml.dom.minidom
from pathlib import Path

import pytest
from click.testing import CliRunner

from holdfast.cli.main import cli
from holdfast.core.errors import NotFound
from holdfast.core.tracking import Metric
from holdfast.registry import versions
from holdfast.workspace import Workspace


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "holdfast.toml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> str:
    done = CliRunner().invoke(cli, words, catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_curves_are_drawn_in_the_terminal_and_on_a_page(root: Path) -> None:
    with Workspace.open(root) as ws:
        ids = [ws.runs.create_run("0", at=1, name=f"<b>{i}").run_id for i in range(2)]
        for i, run_id in enumerate(ids):
            points = [Metric(key="loss", value=1 / (s + 1 + i), at=s, step=s) for s in range(100)]
            ws.runs.log_batch(run_id, metrics=[*points, Metric(key="loss", value=math.nan, at=200, step=200)])
        ws.runs.log_batch(ids[0], metrics=[Metric(key="once", value=3.0, at=1)])
    shown = run("runs", "plot", *ids, "--metric", "loss")
    assert "█▂" in shown.replace("▃", "▂") and "101" in shown
    data = json.loads(run("runs", "plot", ids[0], "--json"))
    assert [p["step"] for p in data["loss"][ids[0]]][:3] == [0, 1, 2] and set(data) == {"loss", "once"}
    run("runs", "plot", *ids, "--html", "plot.html")
    page = (root / "plot.html").read_text()
    assert page.count("<svg") == 2 and "<script" not in page and "<b>0" not in page and "default-src 'none'" in page
    for piece in page.split("<svg")[1:]:
        xml.dom.minidom.parseString("<svg" + piece.partition("</svg>")[0] + "</svg>")
    with pytest.raises(NotFound, match="los"):
        run("runs", "plot", ids[0], "--metric", "los")


def test_a_version_that_was_not_checked_says_so(root: Path) -> None:
    with Workspace.open(root) as ws:
        versions.create(ws.ledger, "m", content="a" * 64, run_id=None, at=1, actor="t")
    with pytest.raises(NotFound) as caught:
        run("models", "card", "m@1")
    assert "holdfast check m@1" in (caught.value.hint or "")


def test_promote_moves_up_and_archives_what_was_there(root: Path) -> None:
    with Workspace.open(root) as ws:
        for content in "ab":
            versions.create(ws.ledger, "m", content=content * 64, run_id=None, at=1, actor="t")
    assert json.loads(run("models", "promote", "m@1", "--to", "Staging", "--json"))["stage"] == "Staging"
    run("models", "promote", "m@1")
    run("models", "promote", "m@2", "--reason", "better")
    held = {v["version"]: v["stage"] for v in json.loads(run("models", "list", "m", "--json"))}
    assert held == {1: "Archived", 2: "Production"}
    assert [c["reason"] for c in json.loads(run("models", "history", "m", "--json"))][-1] == "better"
