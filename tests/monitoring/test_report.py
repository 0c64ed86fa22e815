"""Reports: what counts as ok, one per window, and where they are found again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.backends.ledger_sql import SqlLedger
from holdfast.core.ports import Ledger
from holdfast.core.records import Signal
from holdfast.monitoring import report


def signal(value: float | None = 0.1, alarm: bool = False) -> Signal:
    return Signal(name="x", family="shape", statistic="ks", value=value, alarm=alarm)


@pytest.mark.parametrize(
    ("kind", "signals", "rows", "labelled", "outcome"),
    [
        ("drift", [], 0, 0, "no data"),
        ("drift", [signal()], 1000, 0, "ok"),
        ("drift", [signal()], 50, 0, "not enough evidence"),
        ("drift", [signal(None)], 1000, 0, "not enough evidence"),
        ("drift", [signal(), signal(alarm=True)], 1000, 0, "alarm"),
        ("performance", [signal()], 1000, 0, "not enough evidence"),
        ("performance", [signal()], 1000, 300, "ok"),
        (
            "performance",
            [Signal(name="coverage", family="labels", statistic="coverage", value=0.3)],
            1000,
            300,
            "not enough evidence",
        ),
        ("performance", [signal(alarm=True)], 1000, 20, "alarm"),
    ],
)
def test_outcomes(kind: str, signals: list[Signal], rows: int, labelled: int, outcome: str) -> None:
    assert report.build(kind, "s", 1, 0, 10, signals, rows=rows, labelled=labelled, minimum=200).outcome == outcome


def test_one_window_is_one_report(ledger: Ledger) -> None:
    first = report.build("drift", "s", 1, 0, 10, [signal()], rows=900)
    again = report.build("drift", "s", 1, 0, 10, [], rows=901, at=77)
    assert first.id == again.id
    assert report.store(ledger, first)
    assert not report.store(ledger, again)
    assert report.recent(ledger, "s") == [first]
    assert [e.kind for e in ledger.read()] == ["report.made"]
    others = [
        report.build("drift", "s", 2, 0, 10, []),
        report.build("performance", "s", 1, 0, 10, []),
        report.build("drift", "t", 1, 0, 10, []),
    ]
    assert len({first.id, *(o.id for o in others)}) == 4


def test_found_again(ledger: Ledger) -> None:
    made = [
        report.build(kind, "s", 1, end - 7, end, [signal()], rows=9)
        for end in (10, 9, 1000)
        for kind in ("drift", "performance")
    ]
    for one in made:
        report.store(ledger, one)
    report.store(ledger, report.build("drift", "s2", 1, 0, 10, []))
    assert [r.end for r in report.recent(ledger, "s", kind="drift")] == [9, 10, 1000]
    assert [r.end for r in report.recent(ledger, "s", kind="drift", limit=2)] == [10, 1000]
    assert [r.end for r in report.recent(ledger, "s", since=10, until=1000)] == [10, 10]
    assert report.find(ledger, made[0].id) == made[0]
    assert report.find(ledger, made[0].id[:12]) == made[0]
    assert report.find(ledger, "zzz") is None
    assert report.find(ledger, "") is None


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=12, unique=True),
    st.one_of(st.none(), st.integers(-5, 70)),
    st.one_of(st.none(), st.integers(-5, 70)),
)
@settings(derandomize=True, max_examples=40, deadline=None)
def test_a_stretch_is_the_same_as_looking_at_all(
    tmp_path_factory: pytest.TempPathFactory, ends: list[int], since: int | None, until: int | None
) -> None:
    ledger = SqlLedger(f"sqlite:///{tmp_path_factory.mktemp('l')}/l.db")
    hours = 11 * 3_600_000_000
    for end in ends:
        report.store(ledger, report.build("drift", "s", 1, 0, end * hours + 5, [signal()], rows=9))
    report.store(ledger, report.build("drift", "s1", 1, 0, 99 * hours, [signal()], rows=9))
    low, high = None if since is None else since * hours, None if until is None else until * hours
    found = [r.end for r in report.recent(ledger, "s", since=low, until=high)]
    assert found == sorted(
        e * hours + 5 for e in ends if (low is None or e * hours + 5 >= low) and (high is None or e * hours + 5 < high)
    )
    ledger.close()
