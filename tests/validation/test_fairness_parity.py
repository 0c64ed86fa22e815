"""Four fifths and equalised odds: fairlearn's figures, false alarms at the stated level, power."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from worlds import context, honest, package, world

from holdfast.core.definitions import equalised_odds, four_fifths
from holdfast.core.records import Evidence
from holdfast.stats import tails
from holdfast.validation.evidence import Context, measure
from holdfast.validation.gate import decide

LEVEL = 0.05


def outcome(made: Context, rule: Any) -> str:
    return decide(measure(made, [rule]), [rule], model="m", version=1, content="c", at=0).outcome


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_fairlearns(seed: int) -> None:
    fairlearn = pytest.importorskip("fairlearn.metrics")
    x, y, group = world(2500, seed=seed, groups=4)
    made = context(x, y, groups={"g": group}, package=package(3, threshold=0.6))
    said = (made.scores >= 0.6).astype(int)
    (ratio,) = measure(made, [four_fifths("g", sample=1)])
    assert ratio.figure == pytest.approx(fairlearn.demographic_parity_ratio(y, said, sensitive_features=group))
    odds = measure(made, [equalised_odds("g", sample=1)])
    expected = fairlearn.equalized_odds_difference(y, said, sensitive_features=group)
    assert max(e.figure or 0.0 for e in odds) == pytest.approx(expected)
    frame = fairlearn.MetricFrame(metrics=fairlearn.true_positive_rate, y_true=y, y_pred=said, sensitive_features=group)
    assert odds[0].figure == pytest.approx(frame.difference(method="between_groups"))
    for e in [ratio, *odds]:
        assert e.low is not None and e.high is not None and e.figure is not None and e.low <= e.figure <= e.high


def alarms(rule: Any, worlds: int, n: int) -> int:
    """Groups drawn at random: nothing is unfair, so nothing may surely differ at all."""
    found = 0
    for seed in range(worlds):
        x, y, group = world(n, seed=seed, groups=4)
        found += outcome(context(x, y, groups={"g": group}), rule) == "fail"
    return found


def within_level(found: int, worlds: int) -> None:
    chance = tails.binomial_sf(found - 1, worlds, LEVEL) if found else 1.0
    assert chance > 1e-3, f"{found} false alarms in {worlds} worlds"


@pytest.mark.parametrize(
    "rule", [four_fifths("g", minimum=1.0, sample=10), equalised_odds("g", max_gap=0.0, sample=10)]
)
@pytest.mark.parametrize("n", [200, 1000])
def test_false_alarms_with_no_allowance(rule: Any, n: int) -> None:
    within_level(alarms(rule, 75, n), 75)


@pytest.mark.soak
@pytest.mark.parametrize(
    "rule", [four_fifths("g", minimum=1.0, sample=10), equalised_odds("g", max_gap=0.0, sample=10)]
)
@pytest.mark.parametrize("n", [200, 1000, 4000])
def test_false_alarms_at_length(rule: Any, n: int) -> None:
    within_level(alarms(rule, 2000, n), 2000)


def test_power_and_the_group_is_named() -> None:
    """A group whose scores are shifted down is selected half as often; a group scored at random loses its odds."""
    found = 0
    for seed in range(30):
        x, y, group = world(2000, seed=seed, columns=4)
        x[:, 3] = group == "g1"
        low = lambda r: np.where(r[:, 3] == 1, 0.6 * honest(r), honest(r))  # noqa: E731
        made = context(x, y, low, groups={"g": group})
        (ratio,) = measure(made, [four_fifths("g")])
        odds = measure(made, [equalised_odds("g", max_gap=0.05)])
        assert ratio.compared.startswith("selection rate of g1 ")
        found += (
            outcome(made, four_fifths("g")) == "fail" and outcome(made, equalised_odds("g", max_gap=0.05)) == "fail"
        )
        assert {e.group for e in odds} == {"true positive rate", "false positive rate"}
    assert found >= 29


def test_small_groups_hold_or_are_noted_and_nobody_selected_is_no_evidence() -> None:
    x, y, _ = world(1000)
    some = np.array(["a"] * 500 + ["b"] * 480 + ["c"] * 20)
    verdict = decide(
        measure(context(x, y, groups={"g": some}), [four_fifths("g", minimum=0.5)]), [four_fifths("g", minimum=0.5)],
        model="m", version=1, content="c", at=0,
    )  # fmt: skip
    assert verdict.outcome == "pass" and [r.group for r in verdict.results if not r.counts] == ["c"]
    none = context(x, y, lambda r: np.zeros(len(r)), groups={"g": some})
    assert outcome(none, four_fifths("g")) == "not enough evidence"
    alone = context(x, y, groups={"g": np.array(["a"] * 1000)})
    assert outcome(alone, equalised_odds("g")) == "not enough evidence"
    gone: list[Evidence] = measure(context(x, y), [four_fifths("g")])
    assert "no group column" in str(gone[0].details["missing"])
