"""Steps happen once: outcome and effect commit together, whoever does them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from holdfast.backends.ledger_sql import SqlLedger
from holdfast.core.errors import Conflict
from holdfast.lifecycle.durable import Steps, holding


@pytest.fixture
def ledger(tmp_path: Path):
    ledger = SqlLedger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


def steps(ledger, key="cycle/1"):
    return Steps(ledger, key, now=lambda: 5, actor="t")


def test_a_step_is_done_once_and_remembered(ledger):
    calls = []

    def work():
        calls.append(1)
        return {"n": len(calls)}, None

    assert steps(ledger).once("fit", work) == {"n": 1}
    assert steps(ledger).once("fit", work) == {"n": 1}
    assert calls == [1]
    assert [e.body["step"] for e in ledger.query(kind="step")] == ["fit"]


def test_effect_and_outcome_commit_together(ledger):
    def effect(joined):
        with joined.transaction() as tx:
            tx.put("models", "m/1", {"v": 1})
        return {"version": 1}

    assert steps(ledger).once("register", lambda: ({"content": "c"}, effect)) == {"content": "c", "version": 1}
    assert ledger.get("models", "m/1") == {"v": 1}


def test_a_failing_effect_leaves_nothing(ledger):
    def effect(joined):
        joined.append("half", subject="m", body={}, at=1)
        raise Conflict("no")

    with pytest.raises(Conflict):
        steps(ledger).once("register", lambda: ({}, effect))
    assert steps(ledger).outcome("register") is None
    assert ledger.query(kind="half") == []


def test_two_workers_at_once_have_one_effect(ledger):
    barrier = threading.Barrier(2)
    outcomes = []

    def run():
        def work():
            barrier.wait(10)

            def effect(joined):
                with joined.transaction() as tx:
                    row = tx.get("count", "n") or {"n": 0}
                    tx.put("count", "n", {"n": row["n"] + 1})

            return {"by": threading.get_ident()}, effect

        outcomes.append(steps(ledger).once("register", work))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert outcomes[0] == outcomes[1]
    assert ledger.get("count", "n") == {"n": 1}


def test_a_lease_excludes_and_returns(ledger):
    with holding(ledger, "controller", "a", seconds=5) as ours:
        assert ours()
        with pytest.raises(Conflict), holding(ledger, "controller", "b"):
            pass
    with holding(ledger, "controller", "b") as ours:
        assert ours()
