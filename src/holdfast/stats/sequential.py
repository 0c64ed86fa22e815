"""A/B tests that may be looked at any time, and how many samples to plan for.

The difference of two arms' means is watched by a normal-mixture martingale over its information I = 1 / variance of the
estimate (Robbins 1970, Ann. Math. Stat. 41; as an asymptotic confidence sequence: Waudby-Smith et al. 2024, Ann.
Stat. 52). With Z the estimate, M = (1 + f I)^(-1/2) exp(f I^2 Z^2 / (2 (1 + f I))), f the mixture's variance; M stays
below 1 / alpha for ever with probability 1 - alpha when the arms are equal, so looking after every row costs nothing
but width. Variances are estimated, which needs some rows first: nothing is said before ``LEAST`` in each arm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

from holdfast.core.errors import BadInput

LEAST = 100
Decision = Literal["better", "worse", "no relevant difference", "continue", "not enough evidence"]
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Arm:
    """What one arm showed so far: rows, mean, variance of a row. ``proportion`` and ``sample`` make one."""

    n: int
    mean: float
    variance: float

    @classmethod
    def proportion(cls, hits: int, n: int) -> Arm:
        """An arm of yes/no rows. The variance is that of one more hit and one more miss, so it is never zero."""
        if not 0 <= hits <= n:
            raise BadInput(f"{hits} hits among {n} rows cannot be", hint="hits are between 0 and n")
        smooth = (hits + 1) / (n + 2)
        return cls(n, hits / n if n else math.nan, smooth * (1 - smooth))

    @classmethod
    def sample(cls, n: int, total: float, squares: float) -> Arm:
        """An arm of numeric rows from their sum and sum of squares."""
        if n < 2:
            return cls(n, total if n else math.nan, math.nan)
        mean = total / n
        return cls(n, mean, max(0.0, (squares - n * mean * mean) / (n - 1)))

    @classmethod
    def grouped(cls, totals: Any, counts: Any) -> Arm:
        """An arm whose rows come in groups (all rows of one key), from each group's sum and number of rows, both (n,).

        Keys are what was assigned, so they are the sample: rows of one key resemble each other. The mean is that of
        the rows; its variance is that of the ratio sum / count, linearised (the delta method, as Deng et al. 2018, KDD).
        """
        n = len(totals)
        rows = float(counts.sum()) if n else 0.0
        if not rows:
            return cls(n, math.nan, math.nan)
        mean = float(totals.sum()) / rows
        if n < 2:
            return cls(n, mean, math.nan)
        if counts.max() == 1 and float(((totals == 0) | (totals == 1)).mean()) == 1.0:
            return cls.proportion(int(totals.sum()), n)
        around = (totals - mean * counts) * (n / rows)
        return cls(n, mean, float((around * around).sum()) / (n - 1))


@dataclass(frozen=True)
class Look:
    """The state of a test: treatment minus control, its always-valid interval and p-value, and what that decides."""

    difference: float
    low: float
    high: float
    p: float
    n_control: int
    n_treatment: int
    decision: Decision


def look(
    control: Arm,
    treatment: Arm,
    *,
    effect: float,
    alpha: float = 0.05,
    greater_is_better: bool = True,
    best_p: float = 1.0,
) -> Look:
    """Look at a running test; may be done after every row.

    Args:
        effect: the smallest difference that matters, > 0; the interval is narrowest around the sample planned for it,
            and a test ends as "no relevant difference" when the whole interval lies within it.
        best_p: the smallest p of the looks before (p only ever falls).

    Raises:
        BadInput: effect or alpha cannot be used.
    """
    _check(effect, alpha)
    if min(control.n, treatment.n) < LEAST:
        return Look(
            treatment.mean - control.mean, -math.inf, math.inf, best_p, control.n, treatment.n, "not enough evidence"
        )
    variance = control.variance / control.n + treatment.variance / treatment.n
    difference = treatment.mean - control.mean
    if variance <= 0:
        # Constant arms: nothing varies, so nothing can be learnt about chance.
        return Look(difference, -math.inf, math.inf, best_p, control.n, treatment.n, "not enough evidence")
    information = 1 / variance
    mixture = tightest(effect, alpha)
    grown = 1 + mixture * information
    half = math.sqrt(grown / (mixture * information**2) * math.log(grown / alpha**2))
    log_m = mixture * information**2 * difference**2 / (2 * grown) - math.log(grown) / 2
    p = min(best_p, 1.0, math.exp(-log_m) if log_m > -700 else 1.0)
    low, high = difference - half, difference + half
    decision: Decision = "continue"
    if low > 0 or high < 0:
        decision = "better" if (low > 0) == greater_is_better else "worse"
    elif -effect < low and high < effect:
        decision = "no relevant difference"
    return Look(difference, low, high, p, control.n, treatment.n, decision)


def tightest(effect: float, alpha: float) -> float:
    """The mixture variance that makes the interval narrowest at the information at which a fixed test of 80 % power for
    ``effect`` would end."""
    planned = ((_NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(0.8)) / effect) ** 2
    # The minimiser of grown / (f I^2) log(grown / alpha^2) over f solves x = log(x + 1) - 2 log(alpha), x = f I.
    x = 1.0
    for _ in range(100):
        x = math.log(1 + x) - 2 * math.log(alpha)
    return x / planned


def mismatch(n_control: int, n_treatment: int, share: float, *, strength: float = 100.0) -> float:
    """The always-valid p-value of the assignment: how odd these counts are if a key meets the treatment with
    probability ``share``. A small one means that the arms were not filled by the assignment, and nothing else holds.

    The mixture is a beta prior of ``strength`` pseudo-counts around ``share`` (Lindon and Malek 2022, NeurIPS).
    """
    if not 0 < share < 1:
        return 1.0
    a, b = strength * share, strength * (1 - share)
    log_m = (
        _log_beta(a + n_treatment, b + n_control)
        - _log_beta(a, b)
        - n_treatment * math.log(share)
        - n_control * math.log1p(-share)
    )
    return min(1.0, math.exp(-log_m)) if log_m > 0 else 1.0


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def plan_proportions(
    base: float, effect: float, *, alpha: float = 0.05, power: float = 0.8, ratio: float = 1.0, sequential: bool = True
) -> tuple[int, int]:
    """(control, treatment) rows to see base -> base + effect. ``ratio`` is treatment rows per control row; with
    ``sequential``, the rows by which an always-valid test has that power, else those of a single look at the end.

    Raises:
        BadInput: the rates or the wish cannot be.
    """
    if not (0 < base < 1 and 0 < base + effect < 1):
        raise BadInput(f"rates {base} and {base + effect} cannot be tested", hint="both must lie between 0 and 1")
    other = base + effect
    return plan(
        base * (1 - base),
        other * (1 - other),
        abs(effect),
        alpha=alpha,
        power=power,
        ratio=ratio,
        sequential=sequential,
    )


def plan(
    variance_control: float,
    variance_treatment: float,
    effect: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    ratio: float = 1.0,
    sequential: bool = True,
) -> tuple[int, int]:
    """(control, treatment) rows to see a difference of means of ``effect``, from the variances of single rows.

    Raises:
        BadInput: the wish cannot be met.
    """
    _check(effect, alpha)
    if not 0 < power < 1 or ratio <= 0 or variance_control < 0 or variance_treatment < 0:
        raise BadInput("power lies between 0 and 1, ratio above 0, variances not below 0", hint="mend the plan")
    z_power = _NORMAL.inv_cdf(power)
    if sequential:
        mixture = tightest(effect, alpha)

        def enough(information: float) -> bool:
            grown = 1 + mixture * information
            half = math.sqrt(grown / (mixture * information**2) * math.log(grown / alpha**2))
            return effect >= half + z_power / math.sqrt(information)

        information = 1 / effect**2
        while not enough(information):
            information *= 1.01
    else:
        information = ((_NORMAL.inv_cdf(1 - alpha / 2) + z_power) / effect) ** 2
    control = math.ceil(information * (variance_control + variance_treatment / ratio))
    return max(control, LEAST), max(math.ceil(control * ratio), LEAST)


def _check(effect: float, alpha: float) -> None:
    if not effect > 0 or not 0 < alpha < 1:
        raise BadInput(
            f"effect {effect} or alpha {alpha} cannot be used", hint="effect is above 0, alpha between 0 and 1"
        )
