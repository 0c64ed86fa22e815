"""Drift: silent when nothing is wrong, awake when something is, and clear about what it saw."""

import zlib
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from holdfast.core.definitions import Drift
from holdfast.core.errors import BadInput, Damaged
from holdfast.core.records import Signal
from holdfast.monitoring import drift
from holdfast.stats import distance
from tests.monitoring.streams import DAY, START, World, change, stream

RULE = Drift()
WORLD = World(columns=10)


def made(seed: int = 1, world: World = WORLD, days: int = 7, rows: int = 2000) -> tuple[bytes, pa.Table, np.ndarray]:
    reference, times, window, later = stream(np.random.default_rng(seed), world, days, rows)
    return drift.profile(reference, times, columns=reference.column_names), window, later


def alarms(
    profile: bytes, window: pa.Table, times: np.ndarray | None, rule: Drift = RULE
) -> dict[tuple[str, str], Signal]:
    found = drift.compare(profile, window, drift=rule, times=times)
    assert [s.alarm for s in found] == sorted((s.alarm for s in found), reverse=True)
    return {(s.family, s.name): s for s in found if s.alarm}


@pytest.fixture(scope="module")
def base() -> tuple[bytes, pa.Table, np.ndarray]:
    return made()


Base = tuple[bytes, pa.Table, np.ndarray]


def test_nothing_wrong_nothing_said(base: Base) -> None:
    profile, window, times = base
    found = drift.compare(profile, window, drift=RULE, times=times)
    assert not [s for s in found if s.alarm]
    families = {s.family for s in found}
    assert families == {"shape", "mix", "missing", "unseen", "tail", "dependence", "prediction"}
    for s in found:
        assert s.value is not None
        assert s.floor is not None
        assert s.p is not None
        assert 0 <= s.p <= 1
        assert s.n > 0


def _blank(share: float, values: np.ndarray) -> list[float | None]:
    rng = np.random.default_rng(0)
    return [None if rng.random() < share or v != v else float(v) for v in values]


def _mix(values: np.ndarray) -> list[str]:
    rng = np.random.default_rng(0)
    return [("d" if rng.random() < 0.15 else str(v)) for v in values]


def _new(values: np.ndarray) -> list[str]:
    return ["zebra" if i % 100 == 0 else str(v) for i, v in enumerate(values)]


def _far(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(values)) % 60 == 0, 40.0, values)


@pytest.mark.parametrize(
    ("family", "name", "how", "direction"),
    [
        ("shape", "x0", lambda v: v + 0.3, "higher"),
        ("shape", "x0", lambda v: v - 0.3, "lower"),
        ("shape", "x0", lambda v: v * 1.5, "reshaped"),
        ("shape", "x2", lambda v: v + (np.arange(len(v)) % 4 == 0), "higher"),
        ("prediction", "score", lambda v: v * 0.8, "lower"),
        ("missing", "x0", partial(_blank, 0.06), "higher"),
        ("mix", "c1", _mix, "more 'd'"),
        ("unseen", "c1", _new, "higher"),
        ("tail", "x0", _far, "above"),
    ],
)
def test_each_change_is_named_with_its_family_and_direction(
    base: Base, family: str, name: str, how: object, direction: str
) -> None:
    profile, window, times = base
    found = alarms(profile, change(window, name, how), times)  # type: ignore[arg-type]
    assert (family, name) in found
    assert found[family, name].direction == direction
    assert found[family, name].message
    assert {n for f, n in found if f != "dependence"} == {name}


def test_a_broken_tie_between_columns_is_dependence() -> None:
    rng = np.random.default_rng(5)
    n = 24_000
    times = np.sort(rng.integers(0, 60 * DAY, n)) + START
    a = rng.normal(size=n)
    both = pa.table({"a": a, "b": 0.6 * a + 0.8 * rng.normal(size=n), "c": rng.normal(size=n)})
    profile = drift.profile(both, times, columns=["a", "b", "c"])
    later = np.sort(rng.integers(60 * DAY, 67 * DAY, 2000)) + START
    window = pa.table({k: rng.normal(size=2000) for k in "abc"})
    found = alarms(profile, window, later)
    assert set(found) == {("dependence", "a × b")}
    assert found["dependence", "a × b"].direction == "lower"


def test_a_missing_column_and_a_changed_type_are_alarms(base: Base) -> None:
    profile, window, times = base
    gone = alarms(profile, window.drop_columns(["x0"]), times)
    assert "not in the predictions" in gone["missing", "x0"].message
    text = alarms(profile, change(window, "x0", lambda v: ["n/a"] * len(v)), times)
    assert text["missing", "x0"].value == 1.0
    assert not alarms(profile, change(window, "x0", lambda v: [str(x) for x in v]), times)


def test_constants_move_only_when_they_move() -> None:
    n = 6000
    times = np.linspace(0, 30 * DAY - 1, n).astype(np.int64)
    reference = pa.table({"k": np.full(n, 5.0)})
    profile = drift.profile(reference, times, columns=["k"])
    later = np.linspace(30 * DAY, 37 * DAY - 1, 1000).astype(np.int64)
    for value, moved in (
        (5.0, False),
        (5.0 + 1e-9, False),
        (5.0 - 1e-9, False),
        (5.1, True),
        (4.9, True),
        (np.inf, True),
    ):
        assert bool(alarms(profile, pa.table({"k": np.full(1000, value)}), later)) == moved, value


def test_missing_values_do_not_hide_a_shift(base: Base) -> None:
    profile, window, times = base
    shifted = change(window, "x0", lambda v: [None] + [float(x) + 5 for x in v[1:]])
    assert ("shape", "x0") in alarms(profile, shifted, times)


def test_too_few_rows_say_nothing(base: Base) -> None:
    profile, window, times = base
    few = change(window.slice(0, 150), "x0", lambda v: v + 10)
    found = drift.compare(profile, few, drift=RULE, times=times[:150])
    assert found
    assert not any(s.alarm for s in found)
    assert all(s.value is None for s in found)
    assert "200 are needed" in found[0].message
    blank = drift.compare(
        profile, change(window, "x0", lambda v: [1.0] * 50 + [None] * (len(v) - 50)), drift=RULE, times=times
    )
    assert next(s for s in blank if (s.family, s.name) == ("shape", "x0")).value is None
    assert any(s.alarm and s.family == "missing" and s.name == "x0" for s in blank)


def test_one_weekday_is_compared_with_its_like() -> None:
    """In a world with weekly and daily cycles a day, and even a morning, is no drift; without times it would be."""
    world = World(columns=10, weekly=0.8, hourly=0.8)
    profile, window, times = made(3, world, days=1, rows=1200)
    assert not alarms(profile, window, times)
    assert alarms(profile, window, None)
    morning = times % DAY < DAY // 4
    assert not alarms(profile, window.filter(pa.array(morning)), times[morning])


def test_columns_of_the_prediction_log_are_found(base: Base) -> None:
    profile, window, times = base
    renamed = window.rename_columns(
        [
            f"features.{n}" if n.startswith("x") else f"inputs.{n}" if n.startswith("c") else n
            for n in window.column_names
        ]
    )
    logged = renamed.append_column("request_time", pa.array(times))
    assert drift.compare(profile, logged, drift=RULE) == drift.compare(profile, window, drift=RULE, times=times)


def test_only_the_declared_columns_are_watched(base: Base) -> None:
    profile, window, times = base
    found = drift.compare(profile, window, drift=Drift(columns=["x0", "c1"]), times=times)
    assert {s.name for s in found} <= {"x0", "c1", "score"}
    with pytest.raises(BadInput, match="nope"):
        drift.compare(profile, window, drift=Drift(columns=["nope"]), times=times)


def test_profiles_refuse_what_they_cannot_hold() -> None:
    table = pa.table({"x": [1.0, 2.0], "t": pa.array([1, 2], pa.timestamp("us"))})
    with pytest.raises(BadInput, match="no column"):
        drift.profile(table, np.array([1, 2]), columns=["y"])
    with pytest.raises(BadInput, match="cannot be watched"):
        drift.profile(table, np.array([1, 2]), columns=["t"])
    with pytest.raises(BadInput, match="times"):
        drift.profile(table, np.array([1]), columns=["x"])
    with pytest.raises(BadInput, match="no rows"):
        drift.profile(table.slice(0, 0), np.array([], np.int64), columns=["x"])


def test_damaged_profiles_are_told(base: Base) -> None:
    profile, window, times = base
    for bad in (
        b"",
        b"HFP1",
        b"pickle" + profile,
        profile[:-40],
        profile[:30] + b"\x00" + profile[31:],
        b"HFP1" + zlib.compress(b"\xc1"),
    ):
        with pytest.raises(Damaged):
            drift.compare(bad, window, drift=RULE, times=times)


def test_a_profile_is_a_summary_and_the_same_for_the_same_rows() -> None:
    first, *_ = made(9)
    again, *_ = made(9)
    assert first == again
    assert len(first) < 400_000


def test_a_nearly_empty_or_odd_reference_still_answers() -> None:
    n = 500
    times = np.full(n, START)
    table = pa.table({
        "void": pa.array([None] * n, pa.float64()), "inf": np.where(np.arange(n) % 2 == 0, np.inf, -np.inf),
        "flag": pa.array([True, False] * (n // 2)), "none": pa.array([None] * n, pa.string()), "int": np.arange(n),
    })  # fmt: skip
    profile = drift.profile(table, times, columns=table.column_names)
    assert not alarms(profile, table, times)
    moved = table.set_column(2, "flag", pa.array([True] * n))
    assert ("mix", "flag") in alarms(profile, moved, times)


def test_a_storm_is_one_event_however_many_rows_it_has() -> None:
    """Storms strike one day in twenty, before and in the window: many far values, no drift. Spread over all days they
    are."""
    rng = np.random.default_rng(6)

    def days(count: int, stormy: set[int]) -> np.ndarray:
        parts = []
        for d in range(count):
            x = rng.normal(size=300)
            if d in stormy:
                x[:60] += 9 + d / 50  # each a little stronger than the one before
            parts.append(x)
        return np.concatenate(parts)

    times = np.repeat(np.arange(60) * DAY, 300) + np.tile(np.arange(300) * (DAY // 300), 60) + START
    profile = drift.profile(pa.table({"x": days(60, {5, 40})}), times, columns=["x"])
    later = times[: 7 * 300] + 60 * DAY
    assert not alarms(profile, pa.table({"x": days(7, {3, 4})}), later)
    spread = days(7, set())
    spread[::30] = 30.0
    assert ("tail", "x") in alarms(profile, pa.table({"x": spread}), later)


def test_multiclass_scores_are_watched_by_their_likeliest_class() -> None:
    rng = np.random.default_rng(2)
    times = np.sort(rng.integers(0, 30 * DAY, 3000)) + START

    def scores(n: int, sharp: float) -> pa.Table:
        raw = rng.dirichlet([sharp, 1.0, 1.0], n)
        return pa.table({"score": pa.array(raw.tolist())})

    profile = drift.profile(scores(3000, 1.0), times, columns=["score"])
    later = np.sort(rng.integers(30 * DAY, 37 * DAY, 1000)) + START
    assert not alarms(profile, scores(1000, 1.0), later)
    assert set(alarms(profile, scores(1000, 4.0), later)) == {("prediction", "score")}


def test_naive_rule_is_the_naive_rule() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=900), rng.normal(0.1, size=700)
    got = drift.naive_ks({"a": a, "only": a}, {"a": b, "other": b})
    assert set(got) == {"a"}
    assert got["a"] == pytest.approx(stats.ks_2samp(a, b, method="asymp").pvalue, abs=0.01)
    assert np.isnan(drift.naive_ks({"a": a}, {"a": np.full(9, np.nan)})["a"])


def test_profile_ks_is_the_exact_one_within_a_cut() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.gamma(2, size=20_000), rng.gamma(2.2, size=5_000)
    times = np.linspace(0, 28 * DAY - 1, len(a)).astype(np.int64)
    profile = drift.profile(pa.table({"x": a}), times, columns=["x"])
    [shape] = [s for s in drift.compare(profile, pa.table({"x": b}), drift=RULE) if s.family == "shape"]
    assert shape.value == pytest.approx(distance.ks_statistic(a, b), abs=0.003)
