"""A step whose outcome is recorded once and survives a crash.

``Steps.once(name, work)`` looks in the ledger whether the step has an outcome; if not, it does the work and records the
outcome in the same transaction as the step's effects on the ledger. Outside effects (files, processes) must be named by
content or by the step, so that doing one twice changes nothing. Who holds the lease acts; a crashed holder's lease
expires and the next one carries on at the first step without an outcome.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

from holdfast.core.errors import Conflict
from holdfast.core.ports import Ledger, LedgerTransaction
from holdfast.core.records import Entry, Json

STEPS = "steps"
# An order's lease runs out before the controller's, so that the next controller finds it free.
CONTROLLER_SECONDS = 9.0
ORDER_SECONDS = 6.0


class Joined:
    """A ledger whose transaction is one already open: what a stage writes through it commits with the step's outcome."""

    def __init__(self, tx: LedgerTransaction) -> None:
        self._tx = tx

    def transaction(self) -> AbstractContextManager[LedgerTransaction]:
        return nullcontext(self._tx)

    def append(self, kind: str, *, subject: str, body: Mapping[str, Any], at: int, actor: str = "") -> Entry:
        return self._tx.append(kind, subject=subject, body=body, at=at, actor=actor)

    def get(self, table: str, key: str) -> Json | None:
        return self._tx.get(table, key)

    def scan(self, table: str, *, prefix: str = "") -> list[tuple[str, Json]]:
        return self._tx.scan(table, prefix=prefix)


Effect = Callable[[Ledger], Json | None]
"""Runs inside the recording transaction; what it returns is merged into the outcome."""


class Steps:
    """The steps of one cycle or rollout, under ``key``."""

    def __init__(self, ledger: Ledger, key: str, *, now: Callable[[], int], actor: str) -> None:
        self.ledger, self.key, self.now, self.actor = ledger, key, now, actor

    def outcome(self, name: str) -> Json | None:
        """The recorded outcome, or None."""
        return self.ledger.get(STEPS, f"{self.key}/{name}")

    def once(self, name: str, work: Callable[[], tuple[Json, Effect | None]]) -> Json:
        """The step's outcome: the recorded one, or that of ``work`` (outcome, effect on the ledger), now recorded."""
        known = self.outcome(name)
        if known is not None:
            return known
        outcome, effect = work()
        with self.ledger.transaction() as tx:
            known = tx.get(STEPS, f"{self.key}/{name}")
            if known is not None:  # another holder was faster; its outcome is the one that happened
                return known
            if effect is not None:
                outcome = {**outcome, **(effect(cast(Ledger, Joined(tx))) or {})}
            tx.put(STEPS, f"{self.key}/{name}", outcome)
            tx.append(
                "step",
                subject=self.key,
                body={"step": name, "outcome": _slim(outcome)},
                at=self.now(),
                actor=self.actor,
            )
        return outcome


def _slim(outcome: Json) -> Json:
    """What the chain keeps of an outcome: its scalars; the whole lies in the state table."""
    return {k: v for k, v in outcome.items() if isinstance(v, str | int | float | bool) or v is None}


@contextmanager
def holding(
    ledger: Ledger, name: str, holder: str, *, seconds: float = CONTROLLER_SECONDS
) -> Iterator[Callable[[], bool]]:
    """Hold a lease while the block runs, renewed from a thread. Yields a function that says whether it is still ours.

    Raises:
        Conflict: somebody else holds it.
    """
    if not ledger.lease(name, holder=holder, seconds=seconds):
        raise Conflict(
            f"{name} is held by another process", hint="it ends by itself; the next holder carries on where it stopped"
        )
    stop, lost = threading.Event(), threading.Event()

    def renew() -> None:
        while not stop.wait(seconds / 3):
            try:
                if not ledger.lease(name, holder=holder, seconds=seconds):
                    lost.set()
                    return
            except Exception:  # noqa: BLE001, S112  (a database hiccup: the lease outlives a missed renewal)
                continue

    thread = threading.Thread(target=renew, name=f"lease {name}", daemon=True)
    thread.start()
    try:
        yield lambda: not lost.is_set()
    finally:
        stop.set()
        thread.join()
        ledger.release_lease(name, holder=holder)
