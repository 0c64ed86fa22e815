"""Slices: the bad one is found and named whichever way it was cut, and many honest ones raise no alarms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from worlds import context, honest, sigmoid, world

from holdfast.core.definitions import Rule, slices
from holdfast.core.records import Verdict
from holdfast.stats import intervals, metrics, tails
from holdfast.validation import slices as module
from holdfast.validation.evidence import Context, measure
from holdfast.validation.gate import decide


def judge(made: Context, rule: Rule) -> Verdict:
    return decide(measure(made, [rule]), [rule], model="m", version=1, content="c", at=0)


def spoilt(member: Any) -> tuple[Any, Any, Any]:
    """A world and a model that answers at random where ``member(x)``."""
    x, y, _ = world(6000, seed=3, columns=4, strength=4.0)

    def score(rows: Any) -> Any:
        return np.where(member(rows), sigmoid(37 * np.sin(997 * rows[:, 0])), honest(rows))

    return x, y, score


@pytest.mark.parametrize("metric", ["accuracy", "roc_auc", "log_loss"])
def test_a_bad_fifth_is_named(metric: str) -> None:
    x, y, score = spoilt(lambda r: r[:, 2] > 0.85)
    verdict = judge(context(x, y, score), slices(metric, max_drop=0.1))
    assert verdict.outcome == "fail"
    worst = verdict.results[0]
    assert worst.group is not None and worst.group.startswith("x2 ≥ 0.8") and worst.outcome == "fail"


def test_a_bad_value_a_hole_a_group_and_a_declared_slice_are_named() -> None:
    x, y, score = spoilt(lambda r: r[:, 3] == 2)
    x[:, 3] = np.random.default_rng(0).integers(0, 5, len(x))
    assert judge(context(x, y, score), slices(max_drop=0.1)).results[0].group == "x3 = 2"
    x, y, score = spoilt(lambda r: np.isnan(r[:, 3]))
    x[::7, 3] = np.nan
    assert judge(context(x, y, score), slices(max_drop=0.1)).results[0].group == "x3 is missing"
    x, y, score = spoilt(lambda r: r[:, 2] < -0.85)
    town = np.where(x[:, 2] < -0.85, "Ulm", "Bonn")
    found = judge(context(x, y, score, groups={"town": town}), slices(max_drop=0.1, columns=["x0"]))
    assert found.results[0].group == "town = Ulm"

    def corner(columns: Any) -> Any:
        return (columns["x2"] < -0.85) & (columns["x1"] > 0)

    found = judge(context(x, y, score), slices(max_drop=0.1, columns=[], declared={"corner": corner}, sample=100))
    assert found.results[0].group == "corner" and found.outcome == "fail"


def alarms(metric: str, worlds: int, n: int) -> int:
    """Columns that mean nothing to a model that is equally good everywhere: no slice of them is surely worse at all."""
    found = 0
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        y = (rng.random(n) < 0.4).astype(int)
        quality = rng.normal(size=n) + 1.5 * y
        x = np.column_stack([quality, rng.normal(size=(n, 6)), rng.integers(0, 4, n)])
        made = context(x, y, lambda r: sigmoid(r[:, 0] - 0.75))
        columns = [f"x{i}" for i in range(1, 8)]
        found += judge(made, slices(metric, max_drop=0.0, sample=40, columns=columns)).outcome == "fail"
    return found


def within_level(found: int, worlds: int) -> None:
    chance = tails.binomial_sf(found - 1, worlds, 0.05) if found else 1.0
    assert chance > 1e-3, f"{found} false alarms in {worlds} worlds"


@pytest.mark.parametrize("metric", ["accuracy", "roc_auc"])
def test_false_alarms_over_34_slices(metric: str) -> None:
    within_level(alarms(metric, 60, 600), 60)


@pytest.mark.soak
@pytest.mark.parametrize("metric", ["accuracy", "recall", "roc_auc", "brier"])
@pytest.mark.parametrize("n", [600, 3000])
def test_false_alarms_at_length(metric: str, n: int) -> None:
    within_level(alarms(metric, 2000, n), 2000)


def test_counts_at_once_are_the_gaps_one_by_one() -> None:
    x, y, _ = world(3000, seed=8)
    made = context(x, y)
    (first, *_) = measure(made, [slices("recall", max_drop=1.0, sample=50)])
    assert first.details["looked_at"] == 15
    for told in first.details["slices"]:
        cut = module.of_numbers(*_column(made, told["slice"]))
        member = cut.codes == cut.names.index(told["slice"])
        gap = intervals.group_gap("recall", y, made.scores, member, confidence=first.confidence)
        assert told["drop"] == pytest.approx(-gap.figure) and told["n"] == gap.n
        assert told["drop"] == pytest.approx(
            metrics.compute("recall", y, made.scores) - metrics.compute("recall", y[member], made.scores[member])
        )


def _column(made: Context, name: str) -> tuple[str, Any]:
    column = next(c for c in made.columns if c in name.split())
    return column, made.X[:, made.columns.index(column)]


def test_too_few_rows_unknown_columns_and_slices_that_are_none_say_so() -> None:
    x, y, _ = world(300)
    assert judge(context(x, y), slices(sample=200)).outcome == "not enough evidence"
    verdict = judge(context(x, y), slices(columns=["y0"]))
    assert verdict.outcome == "fail" and "y0" in verdict.results[0].message
    verdict = judge(context(x, y), slices(declared={"odd": _odd}))
    assert "slice 'odd'" in verdict.results[0].message


def _odd(columns: Any) -> Any:
    return columns["x0"]
