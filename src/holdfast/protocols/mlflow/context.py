"""What the routes work on, and who asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from holdfast.core.errors import NotAllowed
from holdfast.core.ports import Clock, Ledger, LedgerTransaction, Objects, RunStore
from holdfast.core.records import Entry, Json
from holdfast.registry.approval import Terms


@dataclass(frozen=True)
class Context:
    """The stores, the clock, the gate's terms per model name, and the caller's name for the ledger."""

    runs: RunStore
    ledger: Ledger
    objects: Objects
    clock: Clock
    policy: Callable[[str], str | Terms]
    protected: tuple[str, ...]
    actor: str = ""
    may_approve: bool = True

    def by(self, actor: str, may_approve: bool) -> Context:
        """The same for one caller."""
        return replace(self, actor=actor, may_approve=may_approve)

    def require_approver(self, what: str) -> None:
        """Refuse an approval by somebody whose token does not allow it.

        Raises:
            NotAllowed: the caller's role is below ``approve``.
        """
        if not self.may_approve:
            raise NotAllowed(f"{what} needs a token of role 'approve'", hint="use another token")

    def now(self) -> int:
        return self.clock.now()

    def within(self, tx: LedgerTransaction) -> Context:
        """The same, with every ledger call inside an open transaction."""
        return replace(self, ledger=JoinedLedger(self.ledger, tx))


class JoinedLedger:
    """A ledger whose transactions all join one that is open already: what a handler does and the record that it was
    done commit together."""

    def __init__(self, ledger: Ledger, tx: LedgerTransaction) -> None:
        self._ledger = ledger
        self._tx = tx

    def transaction(self) -> AbstractContextManager[LedgerTransaction]:
        return self._joined()

    @contextmanager
    def _joined(self) -> Iterator[LedgerTransaction]:
        yield self._tx

    def get(self, table: str, key: str) -> Json | None:
        return self._tx.get(table, key)

    def scan(self, table: str, *, prefix: str = "") -> list[tuple[str, Json]]:
        return self._tx.scan(table, prefix=prefix)

    def append(self, kind: str, *, subject: str, body: Any, at: int, actor: str = "") -> Entry:
        return self._tx.append(kind, subject=subject, body=body, at=at, actor=actor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)
