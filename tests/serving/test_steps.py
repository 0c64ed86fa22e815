from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.definitions import Rollout as Declared
from holdfast.core.identity import DAY, HOUR, MINUTE
from holdfast.core.records import Rollout
from holdfast.serving import steps


def started(declared: Declared) -> Rollout:
    return Rollout(
        id="r", service="s", model="m", version=2, content="c", plan=steps.plan(declared), step=0, entered=0, started=0
    )


def moved(rollout: Rollout, move: steps.Move, now: int) -> Rollout:
    """What lifecycle does with a move."""
    status = {"promote": "promoted", "rollback": "rolled back", "abort": "aborted"}.get(move.action, rollout.status)
    entered = now if move.step != rollout.step else rollout.entered
    return msgspec.structs.replace(rollout, step=move.step, entered=entered, status=status)


def test_plan_runs_from_smoke_to_champion() -> None:
    names = [s["step"] for s in steps.plan(Declared(shadow="1h", canary=[1, 25]))]
    assert names == ["smoke", "shadow", "canary", "canary", "champion"]
    assert [s["step"] for s in steps.plan(Declared(canary=[]))] == ["smoke", "champion"]


def test_a_step_bakes_before_it_is_left() -> None:
    rollout = started(Declared(canary=[5, 50], bake="30m"))
    rollout = moved(rollout, steps.next(rollout, "pass", 0), 0)
    assert rollout.step == 1
    assert steps.next(rollout, "pass", 30 * MINUTE - 1).action == "hold"
    move = steps.next(rollout, "pass", 30 * MINUTE)
    assert (move.action, move.weight, move.step) == ("advance", 50.0, 2)
    rollout = moved(rollout, move, 30 * MINUTE)
    assert steps.next(rollout, "pass", HOUR) == steps.Move("promote", 100.0, 3, "canary at 50 % passed")


def test_failure_goes_back_at_once_and_silence_never_promotes() -> None:
    rollout = started(Declared(canary=[5], bake="30m", give_up="2d"))
    rollout = moved(rollout, steps.next(rollout, "pass", 0), 0)
    assert steps.next(rollout, "fail", 1)[:2] == ("rollback", 0.0)
    for verdict in (None, "not enough evidence"):
        assert steps.next(rollout, verdict, 2 * DAY - 1)[:2] == ("hold", 5.0)
        assert steps.next(rollout, verdict, 2 * DAY)[:2] == ("abort", 0.0)


def test_an_ended_rollout_stays_ended() -> None:
    for status in steps.ENDED:
        rollout = msgspec.structs.replace(started(Declared()), status=status)
        assert steps.next(rollout, "pass", DAY)[:2] == ("hold", 0.0)
        assert steps.weight(rollout) == 0.0


weights = st.lists(st.floats(0.01, 100.0), max_size=6).map(sorted)
verdicts = st.lists(
    st.tuples(st.sampled_from(["pass", "fail", "not enough evidence", None]), st.integers(0, 3 * HOUR)), max_size=60
)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(weights, st.integers(0, HOUR), st.integers(0, HOUR), verdicts)
def test_any_sequence_ends_at_the_top_or_goes_back(
    canary: list[float], shadow: int, bake: int, sequence: list[tuple[str, int]]
) -> None:
    rollout = started(Declared(canary=canary, shadow=shadow, bake=bake, give_up="1d"))
    now, seen, passed = 0, [0.0], set()
    # Whatever comes first, in the end nothing is known for long: every rollout must have an end.
    for verdict, wait in [*sequence, *[(None, DAY)] * 2]:
        now += wait
        before = rollout
        move = steps.next(rollout, verdict, now)
        if verdict == "pass":
            passed.add(before.step)
        if move.action in ("advance", "promote"):
            assert verdict == "pass" and move.step == before.step + 1 and before.step in passed
            assert now - before.entered >= before.plan[before.step]["bake"]
        if move.action in ("rollback", "abort"):
            assert move.weight == 0.0
        rollout = moved(rollout, move, now)
        if rollout.status == "running":
            seen.append(move.weight)
        else:
            break
    assert rollout.status in steps.ENDED
    assert seen == sorted(seen)
    if rollout.status == "promoted":
        assert 0 in passed and rollout.plan[rollout.step]["step"] == "champion"
        assert passed >= set(range(len(rollout.plan) - 1))


@settings(derandomize=True, max_examples=100, deadline=None)
@given(weights, st.integers(0, HOUR), st.integers(0, HOUR))
def test_passing_all_the_way_always_arrives(canary: list[float], shadow: int, bake: int) -> None:
    rollout, now = started(Declared(canary=canary, shadow=shadow, bake=bake)), 0
    for _ in range(2 * len(rollout.plan) + 2):
        now += HOUR
        rollout = moved(rollout, steps.next(rollout, "pass", now), now)
    assert rollout.status == "promoted"
