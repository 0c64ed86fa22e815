"""The current-state rows proved: every transaction's changes to them are kept as digests in a chain of their own, and the
rows must be what that chain says they are.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from holdfast.backends.sql_database import Database
from holdfast.core.errors import Damaged
from holdfast.core.identity import canonical, digest

GENESIS = "0" * 64
_WALK = 2_000
_SHOWN = 5
_COLUMNS = "number, sequence, rows, previous, hash"
_MEND = "restore the ledger from a backup; the entries themselves are checked apart from this"

# table -> key -> SHA-256 of the row's text; None where the row was removed.
Changes = dict[str, dict[str, str | None]]


def row_digest(text: str) -> str:
    """The digest of a row's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def append(database: Database, changes: Changes, *, sequence: int) -> None:
    """Chain what the open transaction changes, made while the chain of entries was ``sequence`` long."""
    tip = database.execute("SELECT number, hash FROM ledger_changes ORDER BY number DESC LIMIT 1").fetchone()
    if tip is None:
        # A store from before changes were kept: what is there now is where the chain begins.
        everything = database.execute("SELECT tab, key, value FROM ledger_state").fetchall()
        for tab, key, value in everything:
            changes.setdefault(tab, {}).setdefault(key, row_digest(value))
    number, previous = (tip[0] + 1, tip[1]) if tip else (1, GENESIS)
    text = canonical(changes).decode()
    name = digest({"number": number, "sequence": sequence, "rows": row_digest(text), "previous": previous})
    database.execute(
        f"INSERT INTO ledger_changes ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)", (number, sequence, text, previous, name)
    )


def tip(database: Database) -> tuple[int, str]:
    """(number, hash) of the last change, to be anchored; (0, GENESIS) where there is none."""
    rows = database.committed("SELECT number, hash FROM ledger_changes ORDER BY number DESC LIMIT 1")
    return (int(rows[0][0]), str(rows[0][1])) if rows else (0, GENESIS)


class Walk:
    """What the changes, walked from the first, say the rows are."""

    def __init__(self, *, anchor: tuple[int, str] | None = None) -> None:
        self.rows: dict[tuple[str, str], str] = {}
        self.number, self.previous = 0, GENESIS
        self.sequence = 0
        """The longest the chain of entries has been when a row was changed."""
        self._anchor = anchor

    def on(self, database: Database) -> None:
        """Walk to the present end.

        Raises:
            Damaged: a change was edited, removed or reordered, or is not the one that was anchored.
        """
        while True:
            found = database.committed(
                f"SELECT {_COLUMNS} FROM ledger_changes WHERE number > ? ORDER BY number LIMIT ?", (self.number, _WALK)
            )
            for row in found:
                self._take(row)
            if len(found) < _WALK:
                return

    def _take(self, row: tuple[Any, ...]) -> None:
        number, sequence, text, previous, name = row
        link = {"number": number, "sequence": sequence, "rows": row_digest(text), "previous": previous}
        if number != self.number + 1 or previous != self.previous or digest(link) != name:
            raise Damaged(f"change {number} of the ledger's rows was edited, removed or reordered", hint=_MEND)
        if self._anchor is not None and number == self._anchor[0] and name != self._anchor[1]:
            raise Damaged(f"change {number} of the ledger's rows is not the one that was anchored", hint=_MEND)
        try:
            changes = msgspec.json.decode(text, type=Changes)
        except msgspec.MsgspecError:
            raise Damaged(f"change {number} of the ledger's rows is not readable", hint=_MEND) from None
        for tab, keys in changes.items():
            for key, value in keys.items():
                if value is None:
                    self.rows.pop((tab, key), None)
                else:
                    self.rows[tab, key] = value
        self.number, self.previous = number, name
        self.sequence = max(self.sequence, sequence)

    def compare(self, rows: list[tuple[Any, ...]], *, last: int) -> None:
        """Hold the rows that are there (table, key, text) and the number of the last entry against the chain.

        Raises:
            Damaged: naming the rows that were edited, put in or taken out, or where entries are gone from the end.
        """
        if self.sequence > last:
            raise Damaged(
                f"the ledger ends at entry {last}, but rows were changed at entry {self.sequence}: its end was cut off",
                hint="restore the ledger from a backup that holds that entry",
            )
        if self._anchor is not None and self.number < self._anchor[0]:
            raise Damaged(
                f"the changes of the ledger's rows end at {self.number}, but {self._anchor[0]} was anchored", hint=_MEND
            )
        there = {(tab, key): row_digest(text) for tab, key, text in rows}
        if not self.number and there:
            return  # nothing was written since changes are kept; the first write begins with these rows
        wrong = [f"{tab}/{key} was edited" for (tab, key), d in there.items() if self.rows.get((tab, key), d) != d]
        wrong += [f"{tab}/{key} was put in from outside" for tab, key in there if (tab, key) not in self.rows]
        wrong += [f"{tab}/{key} was taken out" for tab, key in self.rows if (tab, key) not in there]
        if wrong:
            more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise Damaged(
                f"the ledger's current rows are not what its chain says: {'; '.join(sorted(wrong)[:_SHOWN])}{more}",
                hint=_MEND,
            )
