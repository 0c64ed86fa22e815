"""The ledger on SQLite or PostgreSQL: one hash chain, the current-state rows beside it, leases.

The chain, the queries and the checks are here and the same for both; connections, locks and errors are ``sql_database``'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from holdfast.backends import ledger_state
from holdfast.backends.ledger_schema import FIRST_TABLE, STEPS
from holdfast.backends.ledger_state import GENESIS
from holdfast.backends.sql_database import Database, open_database
from holdfast.backends.sql_schema import upgrade
from holdfast.core.errors import BadInput, Damaged, OurTurn
from holdfast.core.identity import canonical, digest
from holdfast.core.records import Entry, Json

_COLUMNS = "sequence, kind, subject, at, actor, body, previous, hash"
_WALK = 2_000
_LOCK = "holdfast ledger"


class SqlLedger:
    """Fulfils ``core.ports.Ledger``.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or ``postgresql://user@host/database``.

    Raises:
        BadConfig: another scheme, or a store written by a newer Holdfast.
        Unavailable: the database cannot be reached or written.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._database = open_database(url, durability="full", setting="ledger.url")
        upgrade(self._database, "ledger", STEPS, first_table=FIRST_TABLE)
        self._news = threading.Condition()

    # --- writing ---------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[_Transaction]:
        with self._alone():
            transaction = _Transaction(self._database)
            try:
                yield transaction
                transaction.seal()
            finally:
                transaction.over = True
        if transaction.appended:
            with self._news:
                self._news.notify_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A transaction that no other writer of the chain overlaps."""
        if self._database.in_transaction:
            raise OurTurn("a ledger transaction was opened inside another", hint="use the transaction that is open")
        with self._database.transaction(exclusive=_LOCK):
            yield

    def append(self, kind: str, *, subject: str, body: Mapping[str, Any], at: int, actor: str = "") -> Entry:
        _encode(body)
        with self.transaction() as transaction:
            return transaction.append(kind, subject=subject, body=body, at=at, actor=actor)

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, *, after: int = 0, limit: int = 1000) -> list[Entry]:
        rows = self._database.committed(
            f"SELECT {_COLUMNS} FROM ledger_entries WHERE sequence > ? ORDER BY sequence LIMIT ?", (after, limit)
        )
        return [_entry(row) for row in rows]

    def query(
        self,
        *,
        kind: str | None = None,
        subject: str | None = None,
        since: int | None = None,
        until: int | None = None,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> list[Entry]:
        wanted: list[str] = []
        values: list[Any] = []
        if kind is not None and kind.endswith("*"):
            _prefix("kind", kind[:-1], wanted, values)
        elif kind is not None:
            wanted.append("kind = ?")
            values.append(_text(kind, "kind"))
        if subject is not None:
            wanted.append("subject = ?")
            values.append(_text(subject, "subject"))
        if since is not None:
            wanted.append("at >= ?")
            values.append(since)
        if until is not None:
            wanted.append("at < ?")
            values.append(until)
        where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
        order = "DESC" if newest_first else "ASC"
        rows = self._database.committed(
            f"SELECT {_COLUMNS} FROM ledger_entries {where} ORDER BY sequence {order} LIMIT ?", (*values, limit)
        )
        return [_entry(row) for row in rows]

    def watch(self, *, after: int, timeout: float) -> list[Entry]:
        deadline = time.monotonic() + timeout
        while True:
            with self._news:
                # The look and the wait are under one lock, so a commit of this process cannot fall between them.
                found = self.read(after=after)
                left = deadline - time.monotonic()
                if found or left <= 0:
                    return found
                self._news.wait(min(left, self._database.poll_seconds))

    def get(self, table: str, key: str) -> Json | None:
        return _one(self._database.committed(_GET, (_text(table, "table"), _text(key, "key"))))

    def scan(self, table: str, *, prefix: str = "") -> list[tuple[str, Json]]:
        return _rows(self._database.committed(*_scan(table, prefix)))

    # --- leases ----------------------------------------------------------------------------------------------------

    def lease(self, name: str, *, holder: str, seconds: float) -> bool:
        ruler, now = self._database.ruler()
        values = (_text(name, "lease"), _text(holder, "holder"), ruler, now + round(seconds * 1e6))
        with self._alone():
            row = self._database.execute(
                "INSERT INTO ledger_leases (name, holder, ruler, expires) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (name)"
                " DO UPDATE SET holder = excluded.holder, ruler = excluded.ruler, expires = excluded.expires"
                " WHERE ledger_leases.holder = excluded.holder OR ledger_leases.ruler <> excluded.ruler"
                " OR ledger_leases.expires <= ? RETURNING name",
                (*values, now),
            ).fetchone()
        return row is not None

    def release_lease(self, name: str, *, holder: str) -> None:
        with self._alone():
            self._database.execute("DELETE FROM ledger_leases WHERE name = ? AND holder = ?", (name, holder))

    # --- audit -----------------------------------------------------------------------------------------------------

    def state_tip(self) -> tuple[int, str]:
        return ledger_state.tip(self._database)

    def verify(self, *, anchor: tuple[int, str] | None = None, state: tuple[int, str] | None = None) -> int:
        count = self._verify_entries(anchor)
        walk = ledger_state.Walk(anchor=state)
        walk.on(self._database)
        with self._alone():
            # Rows and the last changes as of one moment; the long walk before it kept nobody waiting.
            walk.on(self._database)
            last = self._database.execute("SELECT max(sequence) FROM ledger_entries").fetchone()
            rows = self._database.execute("SELECT tab, key, value FROM ledger_state").fetchall()
            walk.compare(rows, last=int(last[0] or 0))
        return count

    def _verify_entries(self, anchor: tuple[int, str] | None) -> int:
        previous, count = GENESIS, 0
        self._nothing_before_the_first()
        while True:
            rows = self._database.committed(
                f"SELECT {_COLUMNS} FROM ledger_entries WHERE sequence > ? ORDER BY sequence LIMIT ?", (count, _WALK)
            )
            for row in rows:
                entry = _entry(row)
                _check_link(entry, expected=count + 1, previous=previous, stored=row[5])
                if anchor is not None and entry.sequence == anchor[0] and entry.hash != anchor[1]:
                    raise Damaged(
                        f"ledger entry {entry.sequence} is not the one that was anchored: the chain was rewritten",
                        hint="restore the ledger from a backup made before the anchor stopped matching",
                    )
                previous, count = entry.hash, entry.sequence
            if len(rows) < _WALK:
                break
        if anchor is not None and count < anchor[0]:
            raise Damaged(
                f"the ledger ends at entry {count}, but entry {anchor[0]} was anchored: its end was cut off",
                hint="restore the ledger from a backup that holds the anchored entry",
            )
        return count

    def _nothing_before_the_first(self) -> None:
        rows = self._database.committed("SELECT sequence FROM ledger_entries WHERE sequence <= 0 LIMIT 1")
        if rows:
            raise Damaged(f"ledger entry {rows[0][0]} stands before the first: it was put in from outside")

    def close(self) -> None:
        self._database.close()


class _Transaction:
    """What ``SqlLedger.transaction`` yields; of no use once the block has ended."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tip: tuple[int, str] | None = None
        self._changes: ledger_state.Changes = {}
        self.appended = False
        self.over = False

    def _execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
        if self.over:
            raise RuntimeError("this ledger transaction is over")
        return self._database.execute(sql, parameters)

    def get(self, table: str, key: str) -> Json | None:
        return _one(self._execute(_GET, (_text(table, "table"), _text(key, "key"))).fetchall())

    def scan(self, table: str, *, prefix: str = "") -> list[tuple[str, Json]]:
        return _rows(self._execute(*_scan(table, prefix)).fetchall())

    def put(self, table: str, key: str, value: Mapping[str, Any]) -> None:
        text = _encode(value)[0]
        written = self._execute(
            "INSERT INTO ledger_state (tab, key, value) VALUES (?, ?, ?)"
            " ON CONFLICT (tab, key) DO UPDATE SET value = excluded.value WHERE ledger_state.value <> excluded.value",
            (_text(table, "table"), _text(key, "key"), text),
        )
        if written.rowcount:  # what is as it was is no change: who waits says the same at every turn
            self._changes.setdefault(table, {})[key] = ledger_state.row_digest(text)

    def delete(self, table: str, key: str) -> None:
        self._execute("DELETE FROM ledger_state WHERE tab = ? AND key = ?", (_text(table, "table"), _text(key, "key")))
        self._changes.setdefault(table, {})[key] = None

    def seal(self) -> None:
        """Chain what was changed; the last thing before the commit."""
        if self._changes:
            ledger_state.append(self._database, self._changes, sequence=self._last()[0])

    def append(self, kind: str, *, subject: str, body: Mapping[str, Any], at: int, actor: str = "") -> Entry:
        text, decoded = _encode(body)
        sequence, previous = self._last()
        sequence += 1
        link: dict[str, Any] = {
            "sequence": sequence,
            "kind": _text(kind, "kind"),
            "subject": _text(subject, "subject"),
            "at": int(at),
            "actor": _text(actor, "actor"),
            "body": decoded,
            "previous": previous,
        }
        name = digest(link)
        self._execute(
            f"INSERT INTO ledger_entries ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (sequence, kind, subject, int(at), actor, text, previous, name),
        )
        self._tip, self.appended = (sequence, name), True
        return Entry(**link, hash=name)

    def _last(self) -> tuple[int, str]:
        """(sequence, hash) of the last entry."""
        if self._tip is None:
            row = self._execute("SELECT sequence, hash FROM ledger_entries ORDER BY sequence DESC LIMIT 1").fetchone()
            self._tip = (row[0], row[1]) if row else (0, GENESIS)
        return self._tip


_GET = "SELECT value FROM ledger_state WHERE tab = ? AND key = ?"


def _text(value: str, what: str) -> str:
    """Text that both databases keep as it is."""
    if "\0" in value or (not value.isascii() and _has_surrogate(value)):
        raise BadInput(f"{value!r} cannot be a ledger {what}", hint="use text without NUL and lone surrogates")
    return value


def _has_surrogate(value: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in value)


def _encode(value: Mapping[str, Any]) -> tuple[str, Json]:
    """(canonical text, what it reads back as): what is returned is exactly what is stored."""
    try:
        data = canonical(value)
        decoded = msgspec.json.decode(data)
        lasting = isinstance(decoded, dict) and canonical(decoded) == data
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise BadInput(
            f"the ledger cannot keep this value: {error}", hint="use JSON values: text, numbers, lists, tables"
        ) from None
    if not lasting:
        raise BadInput(
            "the ledger cannot keep this value without changing it",
            hint="use a table of text, 64-bit numbers, lists, tables",
        )
    return data.decode(), decoded


def _entry(row: tuple[Any, ...]) -> Entry:
    try:
        body = msgspec.json.decode(row[5])
        if not isinstance(body, dict):
            raise TypeError("not a table")
    except (msgspec.MsgspecError, TypeError, ValueError):
        raise Damaged(
            f"ledger entry {row[0]} was edited: its body is not readable", hint="restore the ledger from a backup"
        ) from None
    return Entry(
        sequence=row[0], kind=row[1], subject=row[2], at=row[3], actor=row[4], body=body, previous=row[6], hash=row[7]
    )


def _check_link(entry: Entry, *, expected: int, previous: str, stored: str) -> None:
    mend = "restore the ledger from a backup; `holdfast audit show` lists what is there"
    if entry.sequence != expected:
        raise Damaged(f"ledger entry {expected} is missing: the next one is {entry.sequence}", hint=mend)
    if entry.previous != previous:
        raise Damaged(
            f"ledger entry {entry.sequence} does not follow the one before it: entries were removed or reordered",
            hint=mend,
        )
    link = {name: getattr(entry, name) for name in ("sequence", "kind", "subject", "at", "actor", "body", "previous")}
    # The text is compared too: another spelling of the same body is an edit as well.
    if digest(link) != entry.hash or canonical(entry.body).decode() != stored:
        raise Damaged(f"ledger entry {entry.sequence} was edited: its hash does not match", hint=mend)


def _scan(table: str, prefix: str) -> tuple[str, tuple[Any, ...]]:
    wanted, values = ["tab = ?"], [_text(table, "table")]
    _prefix("key", _text(prefix, "key"), wanted, values)
    return f"SELECT key, value FROM ledger_state WHERE {' AND '.join(wanted)} ORDER BY key", tuple(values)


def _prefix(column: str, prefix: str, wanted: list[str], values: list[Any]) -> None:
    """Conditions for ``column`` starting with ``prefix``, as a range that an index serves."""
    if not prefix:
        return
    wanted.append(f"{column} >= ?")
    values.append(prefix)
    end = prefix.rstrip("\U0010ffff")
    if end:
        following = ord(end[-1]) + 1
        wanted.append(f"{column} < ?")
        values.append(end[:-1] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following))


def _one(rows: list[tuple[Any, ...]]) -> Json | None:
    return _rows([("", rows[0][0])])[0][1] if rows else None


def _rows(rows: list[tuple[Any, ...]]) -> list[tuple[str, Json]]:
    return [(key, msgspec.json.decode(value)) for key, value in rows]
