"""What the gate does over many worlds: false alarms at the stated level, power at a stated difference, and each kind of
broken model failing under the right name."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from worlds import context, honest, package, sigmoid, world

from holdfast.core.definitions import (
    Rule,
    at_least,
    better_than,
    calibrated,
    check,
    deterministic,
    equalised_odds,
    fairness,
    four_fifths,
    latency,
    no_leakage,
    not_worse_than_champion,
    robust,
    slices,
)
from holdfast.core.records import Verdict
from holdfast.stats import tails
from holdfast.validation.evidence import Context, measure
from holdfast.validation.gate import decide

LEVEL = 0.05


def judge(made: Context, *rules: Rule) -> Verdict:
    return decide(measure(made, rules), rules, model="m", version=1, content="c", at=0)


def failures(verdict: Verdict) -> set[str]:
    return {r.check for r in verdict.results if r.outcome == "fail"}


def within_level(alarms: int, worlds: int, level: float) -> None:
    """The exact binomial chance of so many alarms at the stated level must not be tiny."""
    chance = tails.binomial_sf(alarms - 1, worlds, level) if alarms else 1.0
    assert chance > 1e-3, f"{alarms} false alarms in {worlds} worlds at a stated level of {level} (p = {chance:.2g})"


def fairness_alarms(worlds: int, n: int, max_gap: float) -> int:
    alarms = 0
    for seed in range(worlds):
        x, y, group = world(n, seed=seed, groups=4)
        alarms += judge(context(x, y, groups={"g": group}), fairness("g", max_gap=max_gap, sample=20)).outcome == "fail"
    return alarms


def champion_alarms(worlds: int, n: int, metric: str) -> int:
    """Candidate and champion are equally good: the same signal, noise of their own."""
    alarms = 0
    for seed in range(worlds):
        x, y, _ = world(n, seed=seed, columns=4)
        candidate = lambda r: sigmoid(r[:, 0] + r[:, 1] + 0.7 * r[:, 2])  # noqa: E731
        other = sigmoid(x[:, 0] + x[:, 1] + 0.7 * x[:, 3])
        made = context(x, y, candidate, champion_scores=other)
        alarms += judge(made, not_worse_than_champion(metric)).outcome == "fail"
    return alarms


@pytest.mark.parametrize("n", [100, 400])
def test_fairness_false_alarms_with_no_allowance(n: int) -> None:
    """The hardest case: no gap is allowed and there is none. All groups together keep to the level."""
    within_level(fairness_alarms(200, n, 0.0), 200, LEVEL)


def test_fairness_false_alarms_as_used() -> None:
    assert fairness_alarms(200, 80, 0.05) <= 3


@pytest.mark.parametrize("metric", ["roc_auc", "accuracy", "log_loss"])
def test_champion_false_alarms(metric: str) -> None:
    within_level(champion_alarms(200, 400, metric), 200, LEVEL / 2)


@pytest.mark.soak
@pytest.mark.parametrize("n", [100, 400, 2000])
def test_fairness_false_alarms_at_length(n: int) -> None:
    within_level(fairness_alarms(2000, n, 0.0), 2000, LEVEL)


@pytest.mark.soak
@pytest.mark.parametrize("metric", ["roc_auc", "accuracy", "log_loss", "average_precision", "f1", "brier"])
def test_champion_false_alarms_at_length(metric: str) -> None:
    within_level(champion_alarms(2000, 400, metric), 2000, LEVEL / 2)


def test_fairness_power() -> None:
    """One group in four is scored at random: accuracy there falls by about a quarter."""
    found = 0
    for seed in range(60):
        x, y, group = world(1200, seed=seed, columns=4, groups=4)
        x[:, 3] = group == "g2"

        def biased(rows: Any) -> Any:
            return np.where(rows[:, 3] == 1, sigmoid(37 * np.sin(997 * rows[:, 0])), honest(rows))

        verdict = judge(context(x, y, biased, groups={"g": group}), fairness("g", max_gap=0.05))
        found += any(r.group == "g2" and r.outcome == "fail" for r in verdict.results)
    assert found >= 57


def test_champion_power() -> None:
    """A candidate that lost one of two signals, on 1,000 rows."""
    found = 0
    for seed in range(60):
        x, y, _ = world(1000, seed=seed)
        made = context(x, y, lambda r: sigmoid(r[:, 0]), champion_scores=honest(x))
        found += judge(made, not_worse_than_champion("roc_auc", margin=0.01)).outcome == "fail"
    assert found >= 58


def calibration_alarms(worlds: int, n: int) -> int:
    """Scores that mean exactly what they say; a distance of nothing is allowed."""
    alarms = 0
    for seed in range(worlds):
        x, y, _ = world(n, seed=seed)
        alarms += judge(context(x, y), calibrated(max_error=0.0)).outcome == "fail"
    return alarms


@pytest.mark.parametrize("n", [500, 2000])
def test_calibration_false_alarms(n: int) -> None:
    within_level(calibration_alarms(200, n), 200, LEVEL)


@pytest.mark.soak
@pytest.mark.parametrize("n", [500, 2000, 10_000])
def test_calibration_false_alarms_at_length(n: int) -> None:
    within_level(calibration_alarms(2000, n), 2000, LEVEL)


RULES = (
    at_least("accuracy", 0.9),
    at_least("precision", 0.85),
    at_least("recall", 0.8),
    fairness("g", max_gap=0.05),
    deterministic(),
    latency(mean="100ms"),
    better_than("constant", "log_loss"),
)


@pytest.mark.parametrize("prevalence", [0.05, 0.3, 0.5, 0.9])
def test_a_perfect_classifier_passes(prevalence: float) -> None:
    """Also at thresholds and prevalences where averaging a precision-recall curve of hard labels fails it."""
    rng = np.random.default_rng(2)
    y = (rng.random(4000) < prevalence).astype(int)
    x = np.column_stack([y, rng.normal(size=4000)])
    made = context(x, y, lambda r: r[:, 0], groups={"g": rng.integers(0, 3, 4000).astype(str)})
    assert judge(made, *RULES).outcome == "pass"


EVERYTHING = (
    *RULES,
    four_fifths("g", minimum=0.7), equalised_odds("g", max_gap=0.15), slices("accuracy", max_drop=0.15), calibrated(max_error=0.06),
    robust(max_drop=0.1), no_leakage(max_auc=0.999), not_worse_than_champion("accuracy", margin=0.02),
)  # fmt: skip


class TestEverythingAtOnce:
    """The whole gate over a good model and over one broken in each way: what fails says what is broken, and nothing else
    fails that has nothing to do with it."""

    def model(self, rows: Any) -> Any:
        """The best score in this world, sane for whatever comes."""
        return sigmoid(8 * self.signal(np.clip(np.nan_to_num(rows), -9, 9)))

    def signal(self, rows: Any) -> Any:
        return rows[:, 0] + rows[:, 1]

    def verdict(self, function: Any, *, spoil: Any = None, seed: int = 5) -> Verdict:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(4000, 4))
        x[:, 3] = rng.integers(0, 3, 4000)
        y = (rng.random(4000) < sigmoid(8 * (x[:, 0] + x[:, 1]))).astype(int)
        if spoil is not None:
            spoil(x, y)
        made = context(x, y, function, groups={"g": np.array([f"g{int(i)}" for i in x[:, 3]])}, champion="m@1",
                       champion_scores=sigmoid(8 * (x[:, 0] + x[:, 1])))  # fmt: skip
        return judge(made, *EVERYTHING)

    def test_a_good_model_passes(self) -> None:
        verdict = self.verdict(self.model)
        assert verdict.outcome == "pass", [(r.check, r.message) for r in verdict.results if r.outcome != "pass"]

    def test_leaked_label(self) -> None:
        def leak(x: Any, y: Any) -> None:
            x[:, 2] = y + 0.001 * x[:, 2]

        failed = failures(self.verdict(lambda r: np.clip(np.nan_to_num(r[:, 2]), 0.001, 0.999), spoil=leak))
        assert "leakage" in failed and not failed & {"accuracy", "determinism", "latency", "champion(accuracy)"}

    def test_shuffled_columns(self) -> None:
        failed = failures(self.verdict(lambda r: self.model(r[:, [2, 0, 1, 3]])))
        assert {"accuracy", "champion(accuracy)"} <= failed and not failed & {"determinism", "latency", "leakage"}

    def test_constant(self) -> None:
        failed = failures(self.verdict(lambda r: np.full(len(r), 0.5)))
        assert {"accuracy", "champion(accuracy)"} <= failed
        assert not failed & {"determinism", "latency", "robustness", "four_fifths(selection_rate by g)"}

    def test_one_bad_group(self) -> None:
        wrong = lambda r: np.where(r[:, 3] == 1, 1 - self.model(r), self.model(r))  # noqa: E731
        verdict = self.verdict(wrong)
        failed = failures(verdict)
        assert {"fairness(accuracy by g)", "equalised_odds(by g)", "slices(accuracy)"} <= failed
        assert {r.group for r in verdict.results if r.check == "slices(accuracy)" and r.outcome == "fail"} <= {
            "x3 = 1", "g = g1",
        }  # fmt: skip
        assert not failed & {"determinism", "latency", "robustness", "leakage"}

    def test_nan_at_extremes(self) -> None:
        far = lambda r: np.where(np.abs(r[:, 0]) > 1e20, np.nan, self.model(r))  # noqa: E731
        assert failures(self.verdict(far)) == {"robustness"}

    def test_non_deterministic(self) -> None:
        rng = np.random.default_rng()
        failed = failures(self.verdict(lambda r: np.clip(self.model(r) + rng.normal(size=len(r)) * 1e-3, 0, 1)))
        assert failed == {"determinism"}


class TestBroken:
    """Each kind of broken model fails, and the failing check says which kind."""

    def world(self) -> tuple[Any, Any, Any]:
        return world(3000, seed=9, strength=4.0)

    def test_shuffled_columns(self) -> None:
        x, y, _ = self.world()
        verdict = judge(context(x[:, ::-1], y), at_least("roc_auc", 0.8), better_than("constant", "roc_auc", by=0.3))
        assert failures(verdict) == {"roc_auc", "baseline(roc_auc over constant)"}

    def test_constant(self) -> None:
        x, y, _ = self.world()
        rules = (better_than("constant", "roc_auc", by=0.05), better_than("linear", "roc_auc"))
        made = context(x[1000:], y[1000:], lambda r: np.full(len(r), 0.4), X_train=x[:1000], y_train=y[:1000])
        assert failures(judge(made, *rules)) == {"baseline(roc_auc over constant)", "baseline(roc_auc over linear)"}

    def test_leaked_label(self) -> None:
        x, y, _ = self.world()
        x[:, 2] = y + 0.01 * x[:, 2]
        verdict = judge(context(x, y), no_leakage())
        assert failures(verdict) == {"leakage"} and "x2" in verdict.results[0].message

    def test_leak_through_missing_values(self) -> None:
        x, y, _ = self.world()
        x[:, 2] = np.where(y == 1, np.nan, x[:, 2])
        verdict = judge(context(x, y), no_leakage())
        assert failures(verdict) == {"leakage"} and "x2" in verdict.results[0].message

    def test_one_bad_group(self) -> None:
        x, y, group = world(3000, seed=9, strength=4.0, columns=4)
        x[:, 3] = group == "g1"
        wrong = lambda r: np.where(r[:, 3] == 1, 1 - honest(r), honest(r))  # noqa: E731
        verdict = judge(context(x, y, wrong, groups={"g": group}), fairness("g"))
        assert {r.group for r in verdict.results if r.outcome == "fail"} >= {"g1"}
        assert failures(verdict) == {"fairness(accuracy by g)"}

    def test_slow(self) -> None:
        x, y, _ = self.world()

        def slow(rows: Any) -> Any:
            if len(rows) == 1:
                time.sleep(0.004)
            return honest(rows)

        assert failures(judge(context(x, y, slow), latency(mean="1ms"))) == {"latency"}

    def test_non_deterministic(self) -> None:
        x, y, _ = self.world()
        rng = np.random.default_rng()
        verdict = judge(context(x, y, lambda r: honest(r) + rng.normal(size=len(r)) * 1e-3), deterministic())
        assert failures(verdict) == {"determinism"}
        assert {r.group for r in verdict.results if r.outcome == "fail"} >= {"twice", "shuffled"}

    def test_depends_on_the_batch(self) -> None:
        x, y, _ = self.world()
        verdict = judge(context(x, y, lambda r: sigmoid(r[:, 0] - r[:, 0].mean())), deterministic())
        assert {r.group for r in verdict.results if r.outcome == "fail"} == {"one row against many"}

    def test_nan_at_extremes(self) -> None:
        x, y, _ = self.world()
        x[7, 0] = 1e300
        verdict = judge(context(x, y, lambda r: sigmoid(r[:, 0] * 1e300 - r[:, 0] * 1e300)), *RULES[:2])
        assert failures(verdict) == {"accuracy", "precision"}
        assert "NaN or infinity for 1 of 3000 rows" in verdict.results[0].message

    def test_raises(self) -> None:
        x, y, _ = self.world()

        def broken(rows: Any) -> Any:
            raise ZeroDivisionError("no")

        verdict = judge(context(x, y, broken), at_least("accuracy", 0.5), deterministic())
        assert failures(verdict) == {"accuracy", "determinism"}

    def test_a_broken_check_fails_alone(self) -> None:
        x, y, _ = self.world()

        def mine(made: Context) -> float:
            raise KeyError("gone")

        verdict = judge(context(x, y), at_least("accuracy", 0.5), check(mine, minimum=0))
        assert failures(verdict) == {"custom(mine)"}


def test_without_a_champion_nothing_is_worse_but_an_unscored_one_holds() -> None:
    x, y, _ = world(500)
    rule = not_worse_than_champion("roc_auc")
    assert judge(context(x, y), rule).outcome == "pass"
    assert judge(context(x, y, champion="m@3"), rule).outcome == "not enough evidence"


def test_small_groups() -> None:
    """40 rows in 2,000 are noted; 400 in eight tiny groups are judged as one; a few groups of a few rows hold."""
    x, y, _ = world(2000)
    rule = fairness("g", max_gap=0.2, sample=100)
    some = np.array(["a"] * 1000 + ["b"] * 960 + ["c"] * 40)
    verdict = judge(context(x, y, groups={"g": some}), rule)
    assert verdict.outcome == "pass" and [(r.group, r.counts) for r in verdict.results if r.outcome != "pass"] == [
        ("c", False)
    ]
    pooled = np.array(["a"] * 1600 + [f"t{i % 8}" for i in range(400)])
    verdict = judge(context(x, y, groups={"g": pooled}), rule)
    assert verdict.outcome == "pass" and "(small groups together)" in {r.group for r in verdict.results}
    x, y, _ = world(300)
    tiny = np.array([f"t{i % 20}" for i in range(90)] + ["a"] * 210)
    assert judge(context(x, y, groups={"g": tiny}), rule).outcome == "not enough evidence"
    assert judge(context(x, y), rule).outcome == "not enough evidence"


def test_gaps_and_group_metrics_are_fairlearns() -> None:
    fairlearn = pytest.importorskip("fairlearn.metrics")
    sk = pytest.importorskip("sklearn.metrics")
    x, y, group = world(2000, seed=4)
    made = context(x, y, groups={"g": group}, package=package(3, threshold=0.6))
    said = (made.scores >= 0.6).astype(int)
    pairs = {"accuracy": sk.accuracy_score, "recall": sk.recall_score, "precision": sk.precision_score,
             "selection_rate": fairlearn.selection_rate, "false_positive_rate": fairlearn.false_positive_rate}  # fmt: skip
    for metric, function in pairs.items():
        frame = fairlearn.MetricFrame(metrics=function, y_true=y, y_pred=said, sensitive_features=group)
        for e in measure(made, [fairness("g", metric=metric)]):
            assert e.details["value"] == pytest.approx(frame.by_group[e.group])
            assert e.details["whole"] == pytest.approx(frame.overall)
            assert e.figure == pytest.approx(abs(frame.by_group[e.group] - frame.overall))
