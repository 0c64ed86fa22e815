"""The model card: one page, nothing from outside, nothing unescaped."""

from __future__ import annotations

from html.parser import HTMLParser

from holdfast.core.records import Evidence, FieldSpec, ModelVersion, Package, RuleOutcome, Verdict
from holdfast.registry import card

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def page() -> str:
    package = Package(
        name="m", format="onnx", task="binary", model_file="f", files={}, request=[], outputs=[], threshold=0.3,
        inputs=[FieldSpec(name=EVIL, dtype="float64", low=0, high=1)], feature_service=EVIL,
    )  # fmt: skip
    result = RuleOutcome(check=EVIL, outcome="fail", message=EVIL, group=EVIL, waived_by=EVIL)
    verdict = Verdict(model="m", version=1, content="c", outcome="fail", results=[result], rules="", evidence="")
    details = {"value": 0.9, "whole": 0.89, "gap": 0.01, "gap_low": -0.01, "gap_high": 0.03}
    fair = Evidence(check="fairness(x)", figure=0.01, group=EVIL, details=details)
    bins = [{"score": 0.2, "share": 0.2, "low": 0.1, "high": 0.3, "n": 10}]
    points = {"roc": [[0, 0], [1, 1]], "pr": [[0, 1], [1, 0.5]], "thresholds": [0.9, 0.1]}
    versus = {"metric": EVIL, "candidate": 0.8, "champion": 0.7, "better": 0.1, "low": 0.05, "high": 0.15}
    champion = {"name": EVIL, "roc": points["roc"], "pr": points["pr"], "metrics": [versus]}
    details = {**points, "confusion": {"tp": 1, "fp": 2, "fn": 3, "tn": 4}, "calibration": bins, "threshold": 0.3}
    curves = Evidence(check="curves", figure=None, details={**details, "champion": champion})
    cut = {"slice": EVIL, "drop": 0.1, "low": None, "high": 0.2, "n": 30}
    told = {"whole": 0.9, "looked_at": 3, "slices": [cut, {**cut, "drop": None}]}
    slices = Evidence(check="slices(accuracy)", figure=0.1, group=EVIL, details=told)
    odds = Evidence(check="equalised_odds(by g)", figure=0.1, group=EVIL, details={
        "groups": {EVIL: {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}}})  # fmt: skip
    why = {
        "why_this_model": {
            "chosen_by": EVIL,
            "chosen": 0,
            "candidates": [{"params": {EVIL: EVIL}, "metrics": {EVIL: 0.5}}],
        },
        "why_this_threshold": {
            "threshold": 0.3,
            "costs": {},
            "curve": [{"threshold": 0.1, "cost": 1.0}, {"threshold": 0.9, "cost": 2.0}],
        },
        "why_these_features": {"metric": EVIL, "importance": [{"feature": EVIL, "drop": 0.1, "low": 0.0, "high": 0.2}]},
    }
    version = ModelVersion(name="m", version=1, content="c", run_id=EVIL, description=EVIL)
    return card.html(version, package, verdict, [fair, curves, slices, odds], decision=why)


def test_nothing_of_the_user_becomes_markup() -> None:
    tags = Tags()
    tags.feed(page())
    names = {t for t, _ in tags.seen}
    assert not names & {"script", "img", "iframe", "link", "object"}
    for _, attributes in tags.seen:
        assert not any(a.startswith("on") or a in ("src", "href") for a in attributes)
    assert {"svg", "polyline", "circle"} <= names
    assert sum(t == "svg" for t, _ in tags.seen) == 9  # four curves, two forests of groups, slices, costs, features


def test_the_page_allows_nothing_from_outside() -> None:
    text = page()
    assert "default-src 'none'" in text and "http://" not in text and "https://" not in text


def test_a_version_without_a_verdict_says_so() -> None:
    package = Package(
        name="m", format="onnx", task="binary", model_file="f", files={}, inputs=[], request=[], outputs=[]
    )
    assert "has not been measured" in card.html(
        ModelVersion(name="m", version=1, content="c", run_id=None), package, None
    )
