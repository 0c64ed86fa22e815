"""Sequential tests: peeking is free, the plan holds, the signs are right."""

import math

import numpy as np
import pytest

from holdfast.core.errors import BadInput
from holdfast.stats import sequential
from holdfast.stats.sequential import Arm, look
from holdfast.stats.tails import binomial_sf


def ever(base: float, other: float, *, effect: float, tests: int, rows: int, every: int, seed: int) -> tuple[int, int]:
    """(tests that ever decided better or worse, tests in which a fixed 5 % test did at some look)."""
    rng = np.random.default_rng(seed)
    decided = naive = 0
    for _ in range(tests):
        a, b = np.cumsum(rng.random(rows) < base), np.cumsum(rng.random(rows) < other)
        hit = fixed = False
        for n in range(sequential.LEAST, rows + 1, every):
            x, y = int(a[n - 1]), int(b[n - 1])
            hit = hit or look(Arm.proportion(x, n), Arm.proportion(y, n), effect=effect).decision in ("better", "worse")
            pooled = (x + y) / (2 * n)
            sd = math.sqrt(max(pooled * (1 - pooled) * 2 / n, 1e-12))
            fixed = fixed or abs(x - y) / n > 1.96 * sd
        decided += hit
        naive += fixed
    return decided, naive


def test_peeking_is_free_here_and_not_elsewhere() -> None:
    decided, naive = ever(0.1, 0.1, effect=0.02, tests=150, rows=8000, every=100, seed=4)
    assert binomial_sf(decided, 150, 0.05) > 1e-4, decided
    assert naive > 30  # what a fixed test does under the same looks


@pytest.mark.soak
@pytest.mark.parametrize("base", [0.02, 0.1, 0.5])
def test_peeking_is_free_at_length(base: float) -> None:
    decided, _ = ever(base, base, effect=0.02, tests=2000, rows=30_000, every=200, seed=9)
    assert binomial_sf(decided, 2000, 0.05) > 1e-4, decided


def test_the_plan_holds() -> None:
    control, treatment = sequential.plan_proportions(0.1, 0.03, power=0.8)
    assert control == treatment
    decided, _ = ever(0.1, 0.13, effect=0.03, tests=150, rows=control, every=max(1, control // 40), seed=6)
    assert binomial_sf(150 - decided, 150, 0.2) > 1e-4, decided
    fixed, _ = sequential.plan_proportions(0.1, 0.03, power=0.8, sequential=False)
    # Fleiss, Levin and Paik's table (without continuity correction) has 1,774 for 10 % against 13 %.
    assert fixed == pytest.approx(1774, rel=0.01)
    assert fixed < control < 3 * fixed


def test_decisions_and_signs() -> None:
    low, high = Arm.proportion(100, 2000), Arm.proportion(300, 2000)
    assert look(low, high, effect=0.02).decision == "better"
    assert look(high, low, effect=0.02).decision == "worse"
    assert look(low, high, effect=0.02, greater_is_better=False).decision == "worse"
    same = Arm.proportion(10_000, 100_000)
    assert look(same, same, effect=0.02).decision == "no relevant difference"
    assert look(Arm.proportion(30, 300), Arm.proportion(33, 300), effect=0.02).decision == "continue"
    few = look(Arm.proportion(5, 50), Arm.proportion(49, 50), effect=0.02)
    assert few.decision == "not enough evidence"
    assert (few.low, few.high) == (-math.inf, math.inf)


def test_p_only_falls_and_agrees_with_the_interval() -> None:
    rng = np.random.default_rng(2)
    a, b = np.cumsum(rng.random(5000) < 0.2), np.cumsum(rng.random(5000) < 0.25)
    best = 1.0
    for n in range(100, 5001, 50):
        one = look(Arm.proportion(int(a[n - 1]), n), Arm.proportion(int(b[n - 1]), n), effect=0.05)
        kept = look(Arm.proportion(int(a[n - 1]), n), Arm.proportion(int(b[n - 1]), n), effect=0.05, best_p=best)
        assert (one.p < 0.05) == (one.low > 0 or one.high < 0)
        assert kept.p <= best
        best = kept.p
    assert best < 0.05


def test_numeric_arms() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(10, 2, 4000), rng.normal(10.5, 2, 3000)
    arms = [Arm.sample(len(v), float(v.sum()), float((v**2).sum())) for v in (x, y)]
    assert arms[0].variance == pytest.approx(x.var(ddof=1))
    found = look(arms[0], arms[1], effect=0.3)
    assert found.decision == "better"
    assert found.low < y.mean() - x.mean() < found.high
    constant = Arm.sample(500, 500.0, 500.0)
    assert look(constant, constant, effect=0.1).decision == "not enough evidence"


def test_what_cannot_be_planned() -> None:
    for call in (
        lambda: sequential.plan_proportions(0.0, 0.1),
        lambda: sequential.plan_proportions(0.95, 0.1),
        lambda: sequential.plan(1.0, 1.0, 0.0),
        lambda: sequential.plan(1.0, 1.0, 0.1, power=1.5),
        lambda: look(Arm.proportion(1, 2), Arm.proportion(1, 2), effect=0.1, alpha=2.0),
        lambda: Arm.proportion(3, 2),
    ):
        with pytest.raises(BadInput) as caught:
            call()
        assert caught.value.hint


def test_an_honest_assignment_is_rarely_called_odd_and_a_skewed_one_is() -> None:
    rng = np.random.default_rng(8)
    odd = 0
    for _ in range(300):
        hits = np.cumsum(rng.random(4000) < 0.3)
        odd += any(sequential.mismatch(n - int(hits[n - 1]), int(hits[n - 1]), 0.3) < 0.05 for n in range(50, 4000, 50))
    assert binomial_sf(odd, 300, 0.05) > 1e-4, odd
    assert sequential.mismatch(7000, 2400, 0.3) < 1e-6
    assert sequential.mismatch(0, 0, 0.3) == 1.0


def test_rows_that_come_in_groups_widen_an_arm() -> None:
    rng = np.random.default_rng(9)
    rates = rng.beta(1, 1, 2000)
    totals = rng.binomial(10, rates).astype(float)
    grouped = Arm.grouped(totals, np.full(2000, 10.0))
    assert grouped.n == 2000 and grouped.mean == pytest.approx(totals.sum() / 20000)
    # A key's mean varies by 1/12 + E[p (1 - p)] / 10 = 1/12 + 1/60.
    assert grouped.variance == pytest.approx(1 / 12 + 1 / 60, rel=0.1)
