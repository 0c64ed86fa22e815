"""The backtest: with the settings that really ran it says what really happened; with others it says what would have."""

import random
from itertools import pairwise

import msgspec
import pytest

from holdfast.core.definitions import Retrain
from holdfast.core.identity import DAY, HOUR, to_us
from holdfast.core.records import Cycle, Report, RetrainOrder, Signal
from holdfast.lifecycle import backtest
from holdfast.retraining import policy

T0 = to_us("2026-02-01T00:00:00Z")


def world(seed: int, wish: Retrain, days: int = 120) -> tuple[list[Report], list[Cycle]]:
    """Play a service day by day under ``wish``: reports on its live version, cycles by the policy, chance outcomes."""
    chance = random.Random(seed)
    first = RetrainOrder(id="first", service="s", trigger="first", reason="", at=T0 - DAY)
    cycles = [
        Cycle(id="c0", service="s", order=first, status="promoted", version=1, started=T0 - DAY, ended=T0 - DAY + HOUR)
    ]
    reports: list[Report] = []
    version, stale, last_tick = 1, 0, T0 - 1
    for day in range(days):
        now = T0 + day * DAY
        stale += 1
        alarm = stale > 12 and chance.random() < 0.7
        signals = [Signal(name="x", family="shape", statistic="ks", value=0.2, floor=0.05, alarm=alarm)]
        outcome = "alarm" if alarm else "ok"
        reports.append(
            Report(
                id=f"d{day}",
                service="s",
                kind="drift",
                version=version,
                start=now - 7 * DAY,
                end=now,
                outcome=outcome,
                signals=signals,
                at=now,
            )
        )
        result = policy.propose(reports, cycles, wish, now, service="s", last_tick=last_tick, live_version=version)
        last_tick = max(last_tick, result.tick or last_tick)
        if isinstance(result, RetrainOrder):
            status = chance.choice(["promoted", "promoted", "rejected", "rolled back"])
            number = len(cycles) + 1
            cycles.append(
                Cycle(
                    id=result.id,
                    service="s",
                    order=result,
                    status=status,
                    version=number,
                    started=now,
                    ended=now + HOUR,
                    training_seconds=10.0,
                )
            )  # type: ignore[arg-type]
            if status == "promoted":
                version, stale = number, 0
    return reports, cycles


WISHES = [
    Retrain(on_drift=True, cooldown="3d", budget=50),
    Retrain(schedule="0 0 * * 1", cooldown="1d", budget=50, breaker=0),
    Retrain(schedule="0 0 1 * *", on_drift=True, cooldown="10d", budget=4, budget_window="60d"),
]


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("seed", range(6))
def test_the_same_settings_say_what_happened(wish: Retrain, seed: int) -> None:
    reports, cycles = world(seed, wish)
    found = backtest.replay(reports, cycles, wish, service="s")
    assert found.diverged is None
    assert [s.at for s in found.steps if s.order] == [c.order.at for c in cycles[1:]]
    assert [s.trigger for s in found.steps if s.order] == [c.order.trigger for c in cycles[1:]]
    assert all(s.real for s in found.steps if s.order)
    assert found.orders == found.really == len(cycles) - 1
    assert found.training_seconds == found.training_seconds_really == 10.0 * (len(cycles) - 1)


@pytest.mark.parametrize("seed", range(6))
def test_other_settings_keep_their_own_limits(seed: int) -> None:
    reports, cycles = world(seed, WISHES[0])
    slow = backtest.replay(reports, cycles, Retrain(on_drift=True, cooldown="30d", budget=2), service="s")
    times = [s.at for s in slow.steps if s.order]
    assert len(times) <= 2
    assert all(b - a >= 30 * DAY for a, b in pairwise(times))
    assert slow.refused
    assert slow.diverged is not None
    nightly = backtest.replay(reports, cycles, Retrain(schedule="0 0 * * *", cooldown="1d", budget=999), service="s")
    assert nightly.orders > slow.orders
    silent = backtest.replay(reports, cycles, Retrain(when_below=("roc_auc", 0.5)), service="s")
    assert silent.orders == 0
    assert silent.diverged is not None


def test_manual_cycles_are_given() -> None:
    reports, cycles = world(1, WISHES[0])
    manual = msgspec.structs.replace(
        cycles[0],
        id="m",
        order=RetrainOrder(id="m", service="s", trigger="manual", reason="", at=T0 + 5 * DAY),
        started=T0 + 5 * DAY,
        ended=T0 + 5 * DAY + HOUR,
    )
    found = backtest.replay(reports, [*cycles, manual], Retrain(on_drift=True, cooldown="200d"), service="s")
    assert not [s for s in found.steps if s.order]
    assert "cooldown" in found.refused


def test_nothing_reported_is_nothing_ordered() -> None:
    assert backtest.replay([], [], WISHES[0], service="s").orders == 0
