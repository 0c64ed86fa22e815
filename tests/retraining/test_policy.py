"""The retraining policy: who asks, who refuses, and what must hold whatever comes."""

import random
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.definitions import Retrain
from holdfast.core.identity import DAY, HOUR, to_us
from holdfast.core.records import Cycle, Report, RetrainOrder, Signal
from holdfast.retraining import policy
from holdfast.retraining.policy import NoOrder, propose

T0 = to_us("2026-02-01T00:00:00Z")


def drifted(
    end: int, *names: str, version: int | None = 1, family: str = "shape", outcome: str | None = None
) -> Report:
    signals = [Signal(name=n, family=family, statistic="ks", value=0.2, floor=0.05, alarm=True) for n in names]
    return Report(
        id=f"d{end}", service="s", kind="drift", version=version, start=end - 7 * DAY, end=end,
        outcome=outcome or ("alarm" if names else "ok"), signals=signals, rows=1000,
    )  # type: ignore[arg-type] # fmt: skip


def measured(
    end: int,
    value: float,
    low: float,
    high: float,
    *,
    metric: str = "roc_auc",
    version: int | None = 1,
    outcome: str = "ok",
) -> Report:
    signal = Signal(name=metric, family="performance", statistic="metric", value=value, low=low, high=high, n=500)
    return Report(
        id=f"p{end}", service="s", kind="performance", version=version, start=end - 7 * DAY, end=end, outcome=outcome,
        signals=[signal], rows=1000, labelled=500,
    )  # type: ignore[arg-type] # fmt: skip


def cycle(at: int, status: str = "promoted", *, trigger: str = "drift", version: int | None = 1) -> Cycle:
    order = RetrainOrder(id=f"o{at}", service="s", trigger=trigger, reason="", at=at)  # type: ignore[arg-type]
    ended = None if status == "running" else at + HOUR
    return Cycle(id=f"c{at:020d}", service="s", order=order, status=status, version=version, started=at, ended=ended)  # type: ignore[arg-type]


HISTORY = [cycle(T0, trigger="first")]
NOW = T0 + 40 * DAY


def ask(
    reports: list[Report], retrain: Retrain, history: list[Cycle] = HISTORY, now: int = NOW, **kwargs: object
) -> RetrainOrder | NoOrder:
    return propose(reports, history, retrain, now, **kwargs)  # type: ignore[arg-type]


def guard(result: RetrainOrder | NoOrder) -> str:
    assert isinstance(result, NoOrder), result
    assert result.reason
    return result.guard


# --- drift ------------------------------------------------------------------------------------------------------------


def test_drift_must_persist_about_the_same_thing() -> None:
    wish = Retrain(on_drift=True)
    assert guard(ask([], wish)) == "nothing asks"
    assert guard(ask([drifted(NOW - DAY), drifted(NOW, "x")], wish)) == "nothing asks"
    assert guard(ask([drifted(NOW - DAY, "y"), drifted(NOW, "x")], wish)) == "nothing asks"
    assert guard(ask([drifted(NOW - DAY, "x"), drifted(NOW)], wish)) == "nothing asks"
    order = ask([drifted(NOW - DAY, "x", "y"), drifted(NOW, "z", "x")], wish)
    assert isinstance(order, RetrainOrder)
    assert order.trigger == "drift"
    assert "x" in order.reason
    assert order.reports == [f"d{NOW - DAY}", f"d{NOW}"]
    assert isinstance(ask([drifted(NOW, "x")], wish, persist=1), RetrainOrder)
    assert guard(ask([drifted(NOW - DAY, "x"), drifted(NOW, "x")], wish, persist=3)) == "nothing asks"


def test_silence_neither_confirms_nor_clears_drift() -> None:
    quiet = drifted(NOW - DAY, outcome="not enough evidence")
    assert isinstance(
        ask([drifted(NOW - 2 * DAY, "x"), quiet, drifted(NOW, "x")], Retrain(on_drift=True)), RetrainOrder
    )
    assert (
        guard(ask([drifted(NOW, "x"), quiet, drifted(NOW - DAY, outcome="no data")], Retrain(on_drift=True)))
        == "nothing asks"
    )


def test_only_reports_on_the_live_version_count() -> None:
    wish = Retrain(on_drift=True)
    old = [drifted(NOW - DAY, "x", version=1), drifted(NOW, "x", version=1)]
    history = [*HISTORY, cycle(T0 + 10 * DAY, version=2)]
    assert guard(ask(old, wish, history)) == "nothing asks"
    assert isinstance(ask(old, wish, history, live_version=1), RetrainOrder)
    unnamed = [drifted(NOW - DAY, "x", version=None), drifted(NOW, "x", version=None)]
    assert isinstance(ask(unnamed, wish, history), RetrainOrder)
    assert guard(ask(unnamed, wish, [*HISTORY, cycle(NOW - 3 * DAY, version=2)])) == "nothing asks"


def test_reports_from_the_future_do_not_count() -> None:
    assert guard(ask([drifted(NOW + DAY, "x"), drifted(NOW + 2 * DAY, "x")], Retrain(on_drift=True))) == "nothing asks"


# --- decay ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("high", "asks"), [(0.69, True), (0.70, False), (0.75, False)])
def test_when_below_needs_the_whole_interval(high: float, asks: bool) -> None:
    result = ask([measured(NOW, 0.65, 0.6, high)], Retrain(when_below=("roc_auc", 0.70)))
    assert isinstance(result, RetrainOrder) == asks


def test_when_drops_is_against_the_versions_own_figure() -> None:
    wish = Retrain(when_drops=("roc_auc", 0.03))
    reports = [measured(NOW, 0.65, 0.6, 0.69)]
    assert guard(ask(reports, wish)) == "nothing asks"
    order = ask(reports, wish, last_version_metrics={"roc_auc": 0.73})
    assert isinstance(order, RetrainOrder)
    assert order.trigger == "degradation"
    assert "0.73" in order.reason
    assert guard(ask(reports, wish, last_version_metrics={"roc_auc": 0.71})) == "nothing asks"


def test_where_lower_is_better_the_sides_turn() -> None:
    wish = Retrain(when_drops=("log_loss", 0.05))
    assert isinstance(
        ask([measured(NOW, 0.6, 0.56, 0.64, metric="log_loss")], wish, last_version_metrics={"log_loss": 0.5}),
        RetrainOrder,
    )
    assert (
        guard(ask([measured(NOW, 0.6, 0.54, 0.64, metric="log_loss")], wish, last_version_metrics={"log_loss": 0.5}))
        == "nothing asks"
    )


def test_a_report_without_enough_labels_is_passed_over() -> None:
    reports = [measured(NOW - DAY, 0.8, 0.78, 0.82), measured(NOW, 0.5, 0.4, 0.6, outcome="not enough evidence")]
    assert guard(ask(reports, Retrain(when_below=("roc_auc", 0.70)))) == "nothing asks"


# --- schedule ---------------------------------------------------------------------------------------------------------

NIGHTLY = Retrain(schedule="0 2 * * *", cooldown="1h")


def test_the_schedule_asks_once_for_all_missed_ticks() -> None:
    order = ask([], NIGHTLY)
    assert isinstance(order, RetrainOrder)
    assert order.trigger == "schedule"
    assert order.tick == NOW - DAY + 2 * HOUR
    assert guard(ask([], NIGHTLY, last_tick=order.tick)) == "nothing asks"
    assert guard(ask([], NIGHTLY, [*HISTORY, cycle(NOW - HOUR, trigger="schedule")])) == "nothing asks"
    assert guard(ask([], NIGHTLY, [])) == "nothing asks"


def test_a_refused_tick_is_named_so_that_it_gets_its_outcome() -> None:
    refused = ask([], NIGHTLY, open_order=RetrainOrder(id="o", service="s", trigger="manual", reason=""))
    assert isinstance(refused, NoOrder)
    assert refused.guard == "under way"
    assert refused.tick == NOW - DAY + 2 * HOUR


def test_ids_are_of_the_thing_not_of_the_moment() -> None:
    first, later = ask([], NIGHTLY), ask([], NIGHTLY, now=NOW + HOUR)
    assert isinstance(first, RetrainOrder)
    assert isinstance(later, RetrainOrder)
    assert first.id == later.id
    assert ask([], NIGHTLY, now=NOW + DAY).id != first.id  # type: ignore[union-attr]


# --- guards -----------------------------------------------------------------------------------------------------------

WISH = Retrain(on_drift=True, cooldown="7d", budget=3, budget_window="60d", breaker=2)
DRIFT = [drifted(NOW - DAY, "x", version=None), drifted(NOW, "x", version=None)]


def test_freeze() -> None:
    frozen = Retrain(on_drift=True, freeze=[("2026-03-10", "2026-03-20")])
    reports = [drifted(NOW - DAY, "x"), drifted(NOW, "x")]
    assert to_us("2026-03-10") <= NOW < to_us("2026-03-20")
    assert guard(ask(reports, frozen)) == "freeze"
    assert isinstance(ask(reports, frozen, now=to_us("2026-03-20")), RetrainOrder)


def test_one_at_a_time() -> None:
    assert guard(ask(DRIFT, WISH, [*HISTORY, cycle(NOW - 20 * DAY, "running", version=None)])) == "under way"


def test_cooldown_and_its_backoff() -> None:
    reports = [drifted(NOW - DAY, "x"), drifted(NOW, "x")]
    assert guard(ask(reports, WISH, [*HISTORY, cycle(NOW - 7 * DAY + 1, "failed")])) == "cooldown"
    assert isinstance(ask(reports, WISH, [*HISTORY, cycle(NOW - 7 * DAY, "failed")]), RetrainOrder)
    assert guard(ask(reports, WISH, [*HISTORY, cycle(NOW - 7 * DAY, "rejected")])) == "cooldown"
    assert isinstance(ask(reports, WISH, [*HISTORY, cycle(NOW - 14 * DAY, "rejected")]), RetrainOrder)
    assert isinstance(ask(reports, WISH, [*HISTORY, cycle(NOW - 7 * DAY, "rejected")], backoff=1.0), RetrainOrder)


def test_budget() -> None:
    reports = [drifted(NOW - DAY, "x"), drifted(NOW, "x")]
    spent = [cycle(T0 + i * DAY, "promoted", trigger="manual") for i in range(3)]
    refused = ask(reports, WISH, spent)
    assert guard(refused) == "budget"
    assert isinstance(ask(reports, WISH, spent, now=T0 + 62 * DAY), RetrainOrder)


@pytest.mark.parametrize(
    ("statuses", "refused"),
    [
        (["failed"], False),
        (["failed", "failed"], True),
        (["failed", "rolled back"], True),
        (["failed", "rejected", "blocked"], True),
        (["failed", "promoted", "failed"], False),
        (["rejected", "rejected", "rejected"], False),
    ],
)
def test_breaker(statuses: list[str], refused: bool) -> None:
    wish = Retrain(on_drift=True, cooldown="0s", budget=99, breaker=2)
    history = [*HISTORY, *(cycle(T0 + (i + 1) * DAY, s) for i, s in enumerate(statuses))]
    result = ask([drifted(NOW - DAY, "x"), drifted(NOW, "x")], wish, history)
    if refused:
        assert guard(result) == "breaker"
        assert isinstance(result, NoOrder)
        assert result.alert
        mended = [*history, cycle(NOW - 20 * DAY, "failed", trigger="manual")]
        assert isinstance(ask([drifted(NOW - DAY, "x"), drifted(NOW, "x")], wish, mended), RetrainOrder)
    else:
        assert isinstance(result, RetrainOrder)


# --- what always holds ------------------------------------------------------------------------------------------------

times = st.integers(0, 80).map(lambda d: T0 + d * DAY)
reports_of = st.lists(
    st.one_of(
        st.builds(
            lambda end, names, v: drifted(end, *names, version=v),
            times,
            st.sets(st.sampled_from("xyz")),
            st.sampled_from([None, 1, 2]),
        ),
        st.builds(
            lambda end, value, half, v: measured(end, value, value - half, value + half, version=v),
            times,
            st.floats(0.4, 0.9),
            st.floats(0, 0.2),
            st.sampled_from([None, 1, 2]),
        ),
    ),
    max_size=14,
)
histories = st.lists(
    st.builds(
        lambda at, status, trigger, version: cycle(at, status, trigger=trigger, version=version),
        times,
        st.sampled_from(["promoted", "promoted", "rejected", "rolled back", "failed", "blocked", "running"]),
        st.sampled_from(["drift", "schedule", "manual", "first"]),
        st.sampled_from([1, 2]),
    ),
    max_size=6,
)
wishes = st.builds(
    Retrain,
    schedule=st.sampled_from([None, "0 2 * * *", "0 0 * * 1"]),
    on_drift=st.booleans(),
    when_below=st.sampled_from([None, ("roc_auc", 0.6)]),
    when_drops=st.sampled_from([None, ("roc_auc", 0.05)]),
    cooldown=st.sampled_from(["0s", "2d", "20d"]),
    budget=st.integers(0, 5),
    budget_window=st.sampled_from(["10d", "100d"]),
    breaker=st.integers(0, 3),
    freeze=st.sampled_from([(), (("2026-02-10", "2026-03-10"),)]),
)


@given(reports_of, histories, wishes, times, st.integers(1, 3), st.randoms(use_true_random=False))
@settings(derandomize=True, max_examples=400, deadline=None)
def test_whatever_comes(
    reports: list[Report], history: list[Cycle], wish: Retrain, now: int, persist: int, chance: random.Random
) -> None:
    own = {"roc_auc": 0.75}
    result = propose(reports, history, wish, now, last_version_metrics=own, persist=persist)
    shuffled, mixed = list(reports), list(history)
    chance.shuffle(shuffled)
    chance.shuffle(mixed)
    if len({r.id for r in reports}) == len(reports) and len({c.id for c in history}) == len(history):
        assert propose(shuffled, mixed, wish, now, last_version_metrics=own, persist=persist) == result
    if isinstance(result, NoOrder):
        assert result.reason
        assert (result.guard == "nothing asks") == (not result.asked)
        return
    assert result.reason
    assert result.at == now
    assert not any(c.status == "running" for c in history)
    recent = [c for c in history if now - Retrain_window(wish) < c.order.at <= now]
    assert len(recent) < wish.budget
    assert all(now - c.order.at >= int(wish.cooldown) for c in history)  # type: ignore[call-overload]
    assert not any(to_us(a) <= now < to_us(b) for a, b in wish.freeze)
    assert not wish.breaker or policy.breaker(history) < wish.breaker
    assert set(result.reports) <= {r.id for r in reports if r.end <= now}
    if result.trigger == "drift":
        assert wish.on_drift
        assert len(result.reports) >= persist
    if result.trigger == "schedule":
        assert result.tick is not None
        assert result.tick <= now


def Retrain_window(wish: Retrain) -> int:
    return int(wish.budget_window)  # type: ignore[call-overload]


@given(reports_of, histories, wishes, st.integers(1, 3))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_day_after_day_the_guards_hold_over_what_it_ordered(
    reports: list[Report], history: list[Cycle], wish: Retrain, persist: int
) -> None:
    """Play it forward: every order becomes a cycle; cooldown and budget hold over the whole run, no tick is answered
    twice."""
    cycles = [cycle(T0, trigger="first")]
    ordered: list[RetrainOrder] = []
    for day in range(81):
        now = T0 + day * DAY
        result = propose(reports, cycles, wish, now, last_version_metrics={"roc_auc": 0.75}, persist=persist)
        if isinstance(result, RetrainOrder):
            ordered.append(result)
            status = history[len(ordered) % len(history)].status if history else "promoted"
            done = cycle(now, "rejected" if status == "running" else status)
            cycles.append(msgspec.structs.replace(done, order=result))
    gaps = [b.at - a.at for a, b in pairwise(ordered)]
    assert all(g >= int(wish.cooldown) for g in gaps)  # type: ignore[call-overload]
    for order in ordered:
        assert sum(1 for o in ordered if order.at - Retrain_window(wish) < o.at <= order.at) <= wish.budget
    ticks = [o.tick for o in ordered if o.tick is not None]
    assert len(set(ticks)) == len(ticks)
    assert len({o.id for o in ordered}) == len(ordered)
