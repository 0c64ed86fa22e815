"""decide: pass, fail, not enough evidence; waivers; nothing missing ever passes."""

from __future__ import annotations

import ast
import math
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import holdfast.validation as room
from holdfast.core.definitions import Rule, at_least, at_most, fairness, latency
from holdfast.core.records import Evidence, Waiver
from holdfast.validation import gate
from holdfast.validation import rules as naming

RULE = at_least("accuracy", 0.9, sample=100)


def evidence(
    figure: float | None, low: float | None = None, high: float | None = None, n: int = 1000, **more: object
) -> Evidence:
    return Evidence(check="accuracy", figure=figure, low=low, high=high, n=n, **more)  # type: ignore[arg-type]


def decide(found: list[Evidence], rules: list[Rule], **more: object):
    return gate.decide(found, rules, model="m", version=1, content="c", at=1_000, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (evidence(0.95, 0.93, 0.97), "pass"),
        (evidence(0.91, 0.85, 0.95), "pass"),
        (evidence(0.9, 0.9, 0.9), "pass"),
        (evidence(0.89, 0.85, 0.93), "not enough evidence"),
        (evidence(0.85, 0.80, 0.8999), "fail"),
        (evidence(0.95, 0.80, 0.99, n=99), "not enough evidence"),
        (evidence(0.2, 0.0, 0.6, n=5), "fail"),
        (evidence(None), "not enough evidence"),
        (evidence(math.nan), "not enough evidence"),
        (evidence(math.inf), "not enough evidence"),
        (evidence(0.99, details={"fault": "scores are NaN"}), "fail"),
    ],
)
def test_the_three_outcomes(found: Evidence, outcome: str) -> None:
    verdict = decide([found], [RULE])
    assert verdict.outcome == outcome
    assert verdict.results[0].outcome == outcome
    assert verdict.content == "c"


def test_upper_bounds_mirror_lower_ones() -> None:
    rule = at_most("log_loss", 0.5)
    outcomes = [
        decide([Evidence(check="log_loss", figure=f, low=f - 0.05, high=f + 0.05, n=500)], [rule]).outcome
        for f in (0.4, 0.5, 0.52, 0.56)
    ]
    assert outcomes == ["pass", "pass", "not enough evidence", "fail"]


def test_what_was_not_measured_is_never_a_pass() -> None:
    assert decide([], [RULE]).outcome == "not enough evidence"
    assert decide([evidence(0.99, 0.98, 1.0)], [RULE, at_least("recall", 0.5)]).outcome == "not enough evidence"
    assert decide([evidence(0.99, 0.98, 1.0)], []).outcome == "not enough evidence"
    assert (
        decide([evidence(0.99, 0.98, 1.0)], [Rule("performance", metric="accuracy")]).outcome == "not enough evidence"
    )


def test_the_worst_result_is_the_verdict() -> None:
    rules = [RULE, at_least("recall", 0.8), at_least("precision", 0.8)]
    good = evidence(0.95, 0.94, 0.96)
    open_ = Evidence(check="recall", figure=0.79, low=0.7, high=0.85, n=500)
    bad = Evidence(check="precision", figure=0.5, low=0.4, high=0.6, n=500)
    assert decide([good, open_, bad], rules).outcome == "fail"
    assert decide([good, open_], rules[:2]).outcome == "not enough evidence"


def test_latency_has_a_bar_of_its_own_for_the_tail() -> None:
    rule = latency(mean="100ms", p99="200ms")
    found = [
        Evidence(check="latency", figure=0.05, low=0.04, high=0.06, n=1000),
        Evidence(check="latency", figure=0.15, low=0.14, high=0.16, n=1000, group="p99"),
    ]
    assert decide(found, [rule]).outcome == "pass"
    slow = Evidence(check="latency", figure=0.3, low=0.25, high=0.4, n=1000, group="p99")
    assert [r.outcome for r in decide([found[0], slow], [rule]).results] == ["pass", "fail"]


def test_groups_under_the_sample_neither_pass_nor_fail() -> None:
    rule = fairness("region", max_gap=0.05, sample=100)
    check = naming.key(rule)
    big = Evidence(check=check, figure=0.01, low=0.0, high=0.03, n=5000, group="a")
    tiny = Evidence(check=check, figure=0.4, low=0.3, high=0.5, n=20, group="b")
    assert decide([big, tiny], [rule]).outcome == "not enough evidence"
    noted = Evidence(check=check, figure=None, n=20, group="b", details={"note": "b: 20 rows"})
    verdict = decide([big, noted], [rule])
    assert verdict.outcome == "pass"
    assert [(r.group, r.outcome, r.counts) for r in verdict.results] == [
        ("a", "pass", True),
        ("b", "not enough evidence", False),
    ]
    assert decide([noted], [rule]).outcome == "not enough evidence"


class TestWaivers:
    WAIVER = Waiver(check="accuracy", by="A. Meyer", reason="seasonal dip, ticket 12", until=2_000, at=500)

    def test_in_force(self) -> None:
        verdict = decide([evidence(0.5, 0.4, 0.6)], [RULE], waivers=[self.WAIVER])
        assert verdict.outcome == "pass"
        assert verdict.results[0].outcome == "fail"
        assert "A. Meyer" in str(verdict.results[0].waived_by)

    @pytest.mark.parametrize(
        "change",
        [{"until": 1_000}, {"until": 0}, {"at": 1_001}, {"check": "recall"}, {"group": "a"}, {"model": "other"},
         {"version": 2},
         {"by": " "}, {"reason": ""}],
    )  # fmt: skip
    def test_not_in_force(self, change: dict[str, object]) -> None:
        import msgspec

        waiver = msgspec.structs.replace(self.WAIVER, **change)
        assert decide([evidence(0.5, 0.4, 0.6)], [RULE], waivers=[waiver]).outcome == "fail"

    def test_covers_only_its_check(self) -> None:
        bad = Evidence(check="recall", figure=0.1, low=0.0, high=0.2, n=500)
        verdict = decide([evidence(0.5, 0.4, 0.6), bad], [RULE, at_least("recall", 0.5)], waivers=[self.WAIVER])
        assert verdict.outcome == "fail"

    def test_by_bare_name_for_all_groups(self) -> None:
        rule = fairness("region")
        found = [Evidence(check=naming.key(rule), figure=0.3, low=0.2, high=0.4, n=500, group=g) for g in "ab"]
        waiver = Waiver(check="fairness", by="x", reason="y", until=2_000)
        assert decide(found, [rule], waivers=[waiver]).outcome == "pass"


numbers = st.one_of(st.none(), st.floats(-2, 2), st.just(math.nan), st.just(math.inf))


@settings(max_examples=300, derandomize=True, deadline=None)
@given(numbers, numbers, numbers, st.integers(0, 300), st.floats(-1, 1))
def test_whatever_comes_the_rule_is_kept(
    figure: float | None, low: float | None, high: float | None, n: int, bar: float
) -> None:
    """For any evidence: a pass has its figure on the right side and its sample; a fail has its whole interval wrong."""
    found = evidence(figure, low, high, n)
    verdict = decide([found], [at_least("accuracy", bar, sample=100)])
    assert verdict == decide([found], [at_least("accuracy", bar, sample=100)])
    if verdict.outcome == "pass":
        assert figure is not None and figure >= bar and n >= 100
    if verdict.outcome == "fail":
        assert figure is not None and figure < bar
        assert high is None or math.isnan(high) or high < bar


def test_the_verdict_names_its_rules_and_evidence() -> None:
    one, two = decide([evidence(0.95)], [RULE]), decide([evidence(0.951)], [RULE])
    assert one.evidence != two.evidence and one.rules == two.rules
    assert decide([evidence(0.95)], [at_least("accuracy", 0.91)]).rules != one.rules


def test_no_gate_is_an_assert() -> None:
    """``assert`` vanishes under python -O; none may stand in the room."""
    for path in Path(room.__file__).parent.rglob("*.py"):
        asserts = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]
        assert not asserts, f"{path.name}: assert in line {asserts}"


def test_the_gate_holds_under_python_o() -> None:
    code = (
        "from holdfast.core.definitions import at_least\n"
        "from holdfast.core.records import Evidence\n"
        "from holdfast.validation.gate import decide\n"
        "e = Evidence(check='accuracy', figure=0.1, low=0.05, high=0.15, n=1000)\n"
        "print(decide([e], [at_least('accuracy', 0.9)], model='m', version=1, content='c', at=0).outcome)\n"
    )
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "fail"
