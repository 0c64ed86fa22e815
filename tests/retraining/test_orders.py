"""Orders and ticks: exactly one outcome each, with two schedulers, with kills, with late holders."""

import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from holdfast.backends.ledger_sql import SqlLedger
from holdfast.core.errors import Conflict, NotFound
from holdfast.core.identity import DAY, HOUR
from holdfast.core.ports import Ledger
from holdfast.core.records import RetrainOrder
from holdfast.retraining import orders


def order(key: str = "o1", at: int = 5, tick: int | None = None) -> RetrainOrder:
    return RetrainOrder(id=key, service="s", trigger="schedule", reason="why", at=at, tick=tick)


def test_one_order_at_a_time_and_each_once(ledger: Ledger) -> None:
    assert orders.place(ledger, order())
    assert not orders.place(ledger, order())
    assert not orders.place(ledger, order("o2"))
    assert orders.unfinished(ledger, "s") == order()
    assert orders.claim(ledger, "s", holder="a", at=6) == order()
    assert orders.finish(ledger, "s", "o1", holder="a", outcome="promoted", at=7)
    assert orders.unfinished(ledger, "s") is None
    assert not orders.place(ledger, order())
    assert orders.place(ledger, order("o2"))
    assert [r["outcome"] for r in orders.outcomes(ledger, "s")] == ["promoted", ""]
    assert [e.kind for e in ledger.read()] == ["order.placed", "order.claimed", "order.finished", "order.placed"]


def test_a_tick_has_one_outcome(ledger: Ledger) -> None:
    assert orders.last_tick(ledger, "s") is None
    assert orders.skip(ledger, "s", 100, reason="cooldown", at=101)
    assert not orders.skip(ledger, "s", 100, reason="other", at=102)
    assert not orders.place(ledger, order(tick=100))
    assert orders.place(ledger, order(tick=200))
    assert not orders.skip(ledger, "s", 200, reason="late", at=201)
    assert orders.last_tick(ledger, "s") == 200
    assert orders.place(ledger, RetrainOrder(id="o", service="other", trigger="schedule", reason="", tick=100))
    assert orders.last_tick(ledger, "other") == 100


def test_claims_are_held_by_one(ledger: Ledger) -> None:
    assert orders.claim(ledger, "s", holder="a", at=0) is None
    orders.place(ledger, order())
    assert orders.claim(ledger, "s", holder="a", at=6) == order()
    assert orders.claim(ledger, "s", holder="b", at=6) is None
    assert orders.claim(ledger, "s", holder="a", at=6) == order()
    assert orders.renew(ledger, "s", holder="a")
    assert not orders.renew(ledger, "s", holder="b")


def test_who_lost_the_lease_cannot_finish(ledger: Ledger) -> None:
    orders.place(ledger, order())
    assert orders.claim(ledger, "s", holder="a", at=6, seconds=0.05) == order()
    time.sleep(0.1)
    assert orders.claim(ledger, "s", holder="b", at=7) == order()
    with pytest.raises(Conflict):
        orders.finish(ledger, "s", "o1", holder="a", outcome="promoted", at=8)
    assert orders.finish(ledger, "s", "o1", holder="b", outcome="rejected", at=8)
    assert not orders.finish(ledger, "s", "o1", holder="b", outcome="rejected", at=9)
    with pytest.raises(Conflict, match="rejected"):
        orders.finish(ledger, "s", "o1", holder="b", outcome="promoted", at=9)
    with pytest.raises(NotFound):
        orders.finish(ledger, "s", "nope", holder="b", outcome="promoted", at=9)


# One scheduler: business time runs, every due tick is proposed, placed or skipped, claimed, worked on and finished.
_SCHEDULER = """
import sys, time
from holdfast.backends.ledger_sql import SqlLedger
from holdfast.core.definitions import Retrain
from holdfast.core.identity import HOUR
from holdfast.core.records import RetrainOrder
from holdfast.retraining import orders, policy
url, name, start, end = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
ledger = SqlLedger(url)
wish = Retrain(schedule="0 */6 * * *", cooldown="0s", budget=10**6)
now = start
print("go", flush=True)
while now <= end:
    held = orders.claim(ledger, "s", holder=name, at=now, seconds=0.3)
    if held is not None:
        try:
            with ledger.transaction() as tx:
                orders.finish_in(tx, "s", held.id, holder=name, outcome="promoted", at=now)
                row = tx.get("effects", held.id) or {"times": 0}
                tx.put("effects", held.id, {"times": row["times"] + 1, "by": name})
        except Exception as error:
            print("lost", type(error).__name__, flush=True)
        continue
    last = orders.last_tick(ledger, "s")
    last = start - 1 if last is None else last
    waiting = orders.unfinished(ledger, "s")
    result = policy.propose([], [], wish, now, service="s", last_tick=last, open_order=waiting)
    if isinstance(result, RetrainOrder):
        orders.place(ledger, result, actor=name)
        continue
    if result.tick is not None:
        orders.skip(ledger, "s", result.tick, reason=result.guard, at=now, actor=name)
    if orders.unfinished(ledger, "s") is not None:
        time.sleep(0.01)
        continue
    now += HOUR
    time.sleep(0.004)
print("end", flush=True)
"""


def _run(folder: Path, kills: int, seed: int, days: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    url = f"sqlite:///{folder}/ledger.db"
    SqlLedger(url).close()
    start, end = 20_000 * DAY, (20_000 + days) * DAY

    def launch(i: int) -> "subprocess.Popen[str]":
        argv = [sys.executable, "-c", _SCHEDULER, url, f"w{i}", str(start), str(end)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        return process

    running = [launch(0), launch(1)]
    alive = 0
    for i in range(kills):
        time.sleep(chance.uniform(0.05, 0.4))
        victim = running.pop(chance.randrange(2))
        alive += victim.poll() is None
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        running.append(launch(i + 2))
    for process in running:
        out, _ = process.communicate(timeout=120)
        assert out.endswith("end\n")
    assert alive or not kills
    ledger = SqlLedger(url)
    ticks = [row for _, row in ledger.scan("ticks", prefix="s/")]
    numbers = [t["tick"] for t in ticks]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) == end
    done = orders.outcomes(ledger, "s")
    assert all(r["status"] == "done" and r["outcome"] == "promoted" for r in done)
    assert {t["order"] for t in ticks if t["order"]} == {r["order"]["id"] for r in done}
    effects = ledger.scan("effects")
    assert len(effects) == len(done)
    assert all(row["times"] == 1 for _, row in effects)
    entries = ledger.query(limit=100_000)
    for kind in ("order.placed", "order.finished"):
        named = [e.body["order"] for e in entries if e.kind == kind]
        assert len(named) == len(set(named)) == len(done)
    # Ticks without an outcome of their own were missed while nobody looked, and are covered by a later one.
    assert all((b - a) % (6 * HOUR) == 0 for a, b in pairwise(numbers))
    ledger.verify()
    ledger.close()


def test_two_schedulers_and_kills(tmp_path: Path) -> None:
    _run(tmp_path, kills=3, seed=41, days=6)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(8))
def test_two_schedulers_and_many_kills(tmp_path: Path, seed: int) -> None:
    _run(tmp_path, kills=25, seed=seed, days=40)
