"""The flights example, two days of it: the same driver as `make demo`, its report opened in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo") / "flights"
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "flights" / "demo.py"), str(folder), "--until", "2013-03-03", "--no-arms"],
        capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder, done.stdout


def test_the_summary_says_what_happened(demo) -> None:
    _, out = demo
    assert "0 failed; features recomputed offline: 0 unequal" in out
    assert "leaked labels" in out and "leakage" in out
    for word in ("release", "model version", "run", "training set", "feature", "dataset", "git commit"):
        assert re.search(rf"^ *{word}  ", out, flags=re.M), word


def test_the_leaky_candidate_never_reached_production(demo) -> None:
    folder, _ = demo
    result = json.loads((folder / "report.json").read_text())
    assert all(r["champion"] in (None, 1) and r["challenger"] is None for r in result["releases"])
    assert result["predictions"] > 1000 and result["labelled"] > 800
    assert set(result["unequal"].values()) == {0}


@pytest.mark.browser
def test_the_report_opens_in_a_browser(demo) -> None:
    """Chromium draws the page: all plots have marks, nothing is fetched from elsewhere, nothing is refused by the policy."""
    browser = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if browser is None:
        if os.environ.get("HOLDFAST_REQUIRE_SERVICES") == "1":
            pytest.fail("Chromium is required here and not installed")
        pytest.skip("no Chromium on this machine: the report was not opened in a browser")
    folder, _ = demo
    shot = folder / "report.png"
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--enable-logging=stderr", f"--user-data-dir={folder / 'browser'}",
         "--window-size=1100,2400", f"--screenshot={shot}", "--dump-dom", (folder / "report.html").as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    dom = done.stdout
    for name, mark in (("auc", "<circle"), ("traffic", "<rect"), ("timeline", "<rect"), ("drift", "<text")):
        figure = re.search(rf'<svg id="{name}".*?</svg>', dom, flags=re.S)
        assert figure and mark in figure[0], name
    assert "Content Security Policy" not in done.stderr, done.stderr[-2000:]
    assert not re.search(r"(src|href)=.https?://", dom)
    assert shot.stat().st_size > 20_000
