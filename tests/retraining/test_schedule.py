"""Ticks between two instants: none lost, none twice, over daylight saving."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.errors import BadInput
from holdfast.core.identity import DAY, HOUR, MINUTE, iso, to_us
from holdfast.retraining import schedule

START = to_us("2026-01-01T00:00:00Z")


def texts(*args: object) -> list[str]:
    return [iso(t) for t in schedule.due(*args)]  # type: ignore[arg-type]


def test_every_day_at_two() -> None:
    ticks = texts("0 2 * * *", "UTC", START, START + 3 * DAY)
    assert ticks == ["2026-01-01T02:00:00Z", "2026-01-02T02:00:00Z", "2026-01-03T02:00:00Z"]


def test_ends_are_open_and_closed() -> None:
    two = START + 2 * HOUR
    assert schedule.due("0 2 * * *", "UTC", two, two) == []
    assert schedule.due("0 2 * * *", "UTC", two - 1, two) == [two]
    assert schedule.due("0 2 * * *", "UTC", two, two + DAY - 1) == []
    assert schedule.due("0 2 * * *", "UTC", two, two - DAY) == []


def test_spring_and_autumn_in_berlin() -> None:
    spring = to_us("2026-03-28T12:00:00Z")
    ticks = texts("30 2 * * *", "Europe/Berlin", spring, spring + 2 * DAY)
    assert len(ticks) == 2
    assert ticks[0].startswith("2026-03-29T01:")  # 02:30 does not exist: right after the change, at 03:xx local
    autumn = to_us("2026-10-24T12:00:00Z")
    assert texts("30 2 * * *", "Europe/Berlin", autumn, autumn + 2 * DAY) == [
        "2026-10-25T00:30:00Z",
        "2026-10-26T01:30:00Z",
    ]


@pytest.mark.parametrize("cron", ["0 2 * * *", "*/15 * * * *", "30 2 * * 0", "0 0 1 * *"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
@given(cuts=st.lists(st.integers(0, 400 * 24 * 60), min_size=1, max_size=6), base=st.integers(0, 300))
@settings(derandomize=True, max_examples=15, deadline=None)
def test_looking_often_or_once_is_the_same(cron: str, zone: str, cuts: list[int], base: int) -> None:
    span = 8 * DAY if cron.startswith("*") else 400 * DAY
    start = START + base * DAY
    ends = sorted({start + c * MINUTE % span for c in cuts} | {start + span})
    once = schedule.due(cron, zone, start, ends[-1])
    often: list[int] = []
    last = start
    for end in ends:
        often += schedule.due(cron, zone, last, end)
        last = max(last, end)
    assert often == once
    assert len(set(once)) == len(once)
    assert once == sorted(once)


def test_a_long_sleep_keeps_the_newest() -> None:
    ticks = schedule.due("* * * * *", "UTC", START, START + 30 * DAY)
    assert len(ticks) == schedule.KEPT
    assert ticks[-1] == START + 30 * DAY


def test_following() -> None:
    assert schedule.following("0 2 * * *", "UTC", START + 2 * HOUR) == START + 26 * HOUR


@pytest.mark.parametrize(
    ("cron", "zone"),
    [("0 25 * * *", "UTC"), ("nonsense", "UTC"), ("0 2 * * *", "Europe/Berlln"), ("0 2 * * *", "../etc/passwd")],
)
def test_what_cannot_be_used_says_so(cron: str, zone: str) -> None:
    with pytest.raises(BadInput) as caught:
        schedule.due(cron, zone, 0, DAY)
    assert caught.value.hint
