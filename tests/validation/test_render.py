"""A verdict for CI, for a pull request, and what the card draws from."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from worlds import context, world

from holdfast.core.records import RuleOutcome, Verdict
from holdfast.stats import metrics
from holdfast.validation import curves, render

RESULTS = [
    RuleOutcome(check="accuracy", outcome="pass", message="fine", figure=0.95, low=0.94, high=0.96, n=1000),
    RuleOutcome(check="recall", outcome="fail", message='<b>"bad"</b> & | \x07', figure=0.5, low=0.4, high=0.6, n=100),
    RuleOutcome(check="fairness(accuracy by g)", group="a|b", outcome="not enough evidence", message="few", n=3),
    RuleOutcome(
        check="fairness(accuracy by g)", group="c", outcome="not enough evidence", message="tiny", counts=False
    ),
    RuleOutcome(check="latency", outcome="fail", message="slow", waived_by="A. Meyer until 2026: known"),
]
VERDICT = Verdict(model="m", version=3, content="c", outcome="fail", results=RESULTS, rules="r", evidence="e")


def test_junit_counts_what_failed_and_what_holds() -> None:
    root = ET.fromstring(render.junit(VERDICT))
    suite = root[0]
    assert {k: suite.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5", "failures": "1", "errors": "1", "skipped": "2",
    }  # fmt: skip
    assert suite[1][0].tag == "failure" and "<b>" in str(suite[1][0].get("message"))
    assert suite[2].get("name") == "fairness(accuracy by g) [a|b]"


def test_markdown_and_rows_show_every_result() -> None:
    text = render.markdown(VERDICT)
    assert text.count("\n| ") == 1 + len(RESULTS) and "<b>" not in text and "a\\|b" in text
    assert [r[0] for r in render.rows(VERDICT)] == ["pass", "fail", "not enough evidence", "note", "waived"]


def test_curves_are_the_metrics() -> None:
    x, y, _ = world(3000)
    made = context(x, y, champion_scores=np.linspace(0, 1, 3000))
    found = curves.describe(made).details
    roc = np.array(found["roc"])
    assert np.trapezoid(roc[:, 1], roc[:, 0]) == pytest.approx(metrics.compute("roc_auc", y, made.scores), abs=2e-3)
    assert sum(found["confusion"].values()) == 3000 == sum(b["n"] for b in found["calibration"])
    # honest() is calibrated: most tenths hold their mean score.
    assert sum(b["low"] <= b["score"] <= b["high"] for b in found["calibration"]) >= 8
    one = curves.describe(context(x[:5], np.ones(5, dtype=int))).details
    assert "roc" not in one
