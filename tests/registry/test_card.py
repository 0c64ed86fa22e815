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
    details = {"value": 0.9, "gap": 0.01, "gap_low": -0.01, "gap_high": 0.03}
    fair = Evidence(check="fairness(x)", figure=0.01, group=EVIL, details=details)
    bins = [{"score": 0.2, "share": 0.2, "low": 0.1, "high": 0.3, "n": 10}]
    points = {"roc": [[0, 0], [1, 1]], "pr": [[0, 1], [1, 0.5]], "confusion": {"tp": 1, "fp": 2, "fn": 3, "tn": 4}}
    curves = Evidence(check="curves", figure=None, details={**points, "calibration": bins, "threshold": 0.3})
    version = ModelVersion(name="m", version=1, content="c", run_id=EVIL, description=EVIL)
    return card.html(version, package, verdict, [fair, curves], decision=EVIL)


def test_nothing_of_the_user_becomes_markup() -> None:
    tags = Tags()
    tags.feed(page())
    names = {t for t, _ in tags.seen}
    assert not names & {"script", "img", "iframe", "link", "object"}
    for _, attributes in tags.seen:
        assert not any(a.startswith("on") or a in ("src", "href") for a in attributes)
    assert {"svg", "polyline", "circle"} <= names


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
