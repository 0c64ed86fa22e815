"""Orders to retrain and what became of scheduled ticks: each has exactly one outcome, whoever asks and whoever dies.

Tables: ``ticks`` (key service/tick) holds a tick's one outcome, an order or a reasoned skip; ``orders`` (key
service/id) an order's state open → claimed → done. Every change is one ledger transaction. A claim is worked on under
a lease in real time; when its holder dies the next one carries on with the same order, and only the present holder's
finish counts."""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.core.errors import Conflict, NotFound
from holdfast.core.ports import Ledger, LedgerTransaction
from holdfast.core.records import RetrainOrder

ORDERS = "orders"
TICKS = "ticks"


def place(ledger: Ledger, order: RetrainOrder, *, actor: str = "policy") -> bool:
    """Place an order; True if this call did. False if it is known already, its tick has an outcome, or another order
    of the service is not finished: then nothing changes."""
    with ledger.transaction() as tx:
        return place_in(tx, order, actor=actor)


def place_in(tx: LedgerTransaction, order: RetrainOrder, *, actor: str = "policy") -> bool:
    """``place`` inside a transaction of the caller's."""
    if tx.get(ORDERS, _order(order)) is not None:
        return False
    if order.tick is not None and tx.get(TICKS, _tick(order.service, order.tick)) is not None:
        return False
    if any(row["status"] != "done" for _, row in tx.scan(ORDERS, prefix=f"{order.service}/")):
        return False
    tx.put(
        ORDERS,
        _order(order),
        {"order": msgspec.to_builtins(order), "status": "open", "holder": "", "outcome": "", "finished": None},
    )
    if order.tick is not None:
        tx.put(
            TICKS,
            _tick(order.service, order.tick),
            {"tick": order.tick, "order": order.id, "outcome": "ordered", "at": order.at},
        )
    tx.append(
        "order.placed",
        subject=order.service,
        at=order.at,
        actor=actor,
        body={
            "order": order.id,
            "trigger": order.trigger,
            "reason": order.reason,
            "reports": order.reports,
            "tick": order.tick,
        },
    )
    return True


def skip(ledger: Ledger, service: str, tick: int, *, reason: str, at: int, actor: str = "policy") -> bool:
    """Record that a tick does not lead to an order, and why; True if this call did, False if it has an outcome."""
    with ledger.transaction() as tx:
        key = _tick(service, tick)
        if tx.get(TICKS, key) is not None:
            return False
        tx.put(TICKS, key, {"tick": tick, "order": None, "outcome": f"skipped: {reason}", "at": at})
        tx.append("tick.skipped", subject=service, at=at, actor=actor, body={"tick": tick, "reason": reason})
        return True


def last_tick(ledger: Ledger, service: str) -> int | None:
    """The newest tick of a service that has an outcome."""
    rows = ledger.scan(TICKS, prefix=f"{service}/")
    return int(rows[-1][1]["tick"]) if rows else None


def claim(ledger: Ledger, service: str, *, holder: str, at: int, seconds: float = 60.0) -> RetrainOrder | None:
    """Take the service's unfinished order to work on it, or None if there is none or somebody else works on it.

    Renew with ``renew`` well within ``seconds`` (real time).
    """
    if not ledger.lease(_lease(service), holder=holder, seconds=seconds):
        return None
    with ledger.transaction() as tx:
        waiting = [(key, row) for key, row in tx.scan(ORDERS, prefix=f"{service}/") if row["status"] != "done"]
        if waiting:
            key, row = min(waiting, key=lambda item: (item[1]["order"]["at"], item[0]))
            order = msgspec.convert(row["order"], RetrainOrder)
            if row["holder"] != holder or row["status"] != "claimed":
                tx.put(ORDERS, key, {**row, "status": "claimed", "holder": holder})
                tx.append(
                    "order.claimed",
                    subject=service,
                    at=at,
                    actor=holder,
                    body={"order": order.id, "after": row["holder"]},
                )
            return order
    ledger.release_lease(_lease(service), holder=holder)
    return None


def renew(ledger: Ledger, service: str, *, holder: str, seconds: float = 60.0) -> bool:
    """Keep a claim; False if it was lost, and work on it must stop."""
    return ledger.lease(_lease(service), holder=holder, seconds=seconds)


def finish(ledger: Ledger, service: str, order_id: str, *, holder: str, outcome: str, at: int) -> bool:
    """Record an order's one outcome; False if it has that outcome already.

    Raises:
        NotFound: no such order.
        Conflict: somebody else holds it now, or it ended otherwise.
    """
    with ledger.transaction() as tx:
        done = finish_in(tx, service, order_id, holder=holder, outcome=outcome, at=at)
    ledger.release_lease(_lease(service), holder=holder)
    return done


def finish_in(tx: LedgerTransaction, service: str, order_id: str, *, holder: str, outcome: str, at: int) -> bool:
    """``finish`` inside a transaction of the caller's, beside the effect it stands for."""
    key = f"{service}/{order_id}"
    row = tx.get(ORDERS, key)
    if row is None:
        raise NotFound(f"service {service!r} has no order {order_id}", hint="see `holdfast loop`")
    if row["status"] == "done":
        if row["outcome"] == outcome:
            return False
        raise Conflict(f"order {order_id} ended already: {row['outcome']}", hint="its first outcome stands")
    if row["holder"] != holder:
        raise Conflict(
            f"order {order_id} is held by {row['holder'] or 'nobody'} now",
            hint="the lease ran out; let its new holder finish",
        )
    tx.put(ORDERS, key, {**row, "status": "done", "outcome": outcome, "finished": at})
    tx.append("order.finished", subject=service, at=at, actor=holder, body={"order": order_id, "outcome": outcome})
    return True


def unfinished(ledger: Ledger, service: str) -> RetrainOrder | None:
    """The order that is placed and not finished, if any."""
    for _, row in ledger.scan(ORDERS, prefix=f"{service}/"):
        if row["status"] != "done":
            return msgspec.convert(row["order"], RetrainOrder)
    return None


def outcomes(ledger: Ledger, service: str) -> list[dict[str, Any]]:
    """Every order of a service with its state, oldest first."""
    return sorted(
        (row for _, row in ledger.scan(ORDERS, prefix=f"{service}/")),
        key=lambda r: (r["order"]["at"], r["order"]["id"]),
    )


def _order(order: RetrainOrder) -> str:
    return f"{order.service}/{order.id}"


def _tick(service: str, tick: int) -> str:
    return f"{service}/{tick:020d}"


def _lease(service: str) -> str:
    return f"order/{service}"
