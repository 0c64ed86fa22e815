"""One SQL database through its driver, for the ledger and the run store alike: a connection per thread, transactions that
nest, errors in Holdfast's words.

Statements are written once, with ``?`` for parameters; values are never part of a statement's text. What SQLite and
PostgreSQL do differently (opening, locks, clocks, errors) is in ``sql_sqlite`` and ``sql_postgres``.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from holdfast.core.errors import BadConfig

Dialect = Literal["sqlite", "postgresql"]
Durability = Literal["normal", "full"]
_STATEMENT_PARAMETERS = 500


def open_database(url: str, *, durability: Durability, setting: str) -> Database:
    """``sqlite:///relative.db``, ``sqlite:////absolute.db`` or ``postgresql://user@host/database``.

    Args:
        url: where it is.
        durability: "full": a commit that returned survives a power cut; "normal" (SQLite only): a killed process loses
            nothing, a power cut may lose the last moments.
        setting: the setting that the URL came from, for errors.

    Raises:
        BadConfig: the URL names no database, or the driver is not installed.
        Unavailable: it cannot be reached (PostgreSQL: at once; SQLite: at first use).
    """
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme == "sqlite":
        from holdfast.backends.sql_sqlite import SqliteDatabase, sqlite_path

        return SqliteDatabase(sqlite_path(url, setting), durability=durability)
    if scheme in ("postgresql", "postgres"):
        from holdfast.backends.sql_postgres import PostgresDatabase

        return PostgresDatabase(url, setting=setting)
    raise BadConfig(
        f"{setting}: no store behind a {scheme or 'bare'!r} URL",
        hint=f"write {setting} like sqlite:///.holdfast/store.db or postgresql://user@host/database",
    )


class Database(ABC):
    """Connections to one database, safe over threads and forks."""

    dialect: Dialect
    poll_seconds: float
    """How often a watcher should look for what other processes wrote."""

    def __init__(self) -> None:
        self._start()
        self._abandoned: list[Any] = []

    def _start(self) -> None:
        self._pid = os.getpid()
        self._local = threading.local()
        self._open: list[tuple[threading.Thread, Any]] = []
        self._guard = threading.Lock()
        # Writers of one process queue here instead of spinning on SQLite's file lock.
        self._writer = threading.Lock()

    # --- what the two do differently ---

    @abstractmethod
    def _connect(self) -> Any:
        """A new driver connection in autocommit mode."""

    @abstractmethod
    def _statement(self, sql: str) -> str:
        """A statement in the driver's own way of marking parameters."""

    @abstractmethod
    def _usable(self, connection: Any) -> bool:
        """Whether a kept connection may still be used."""

    @abstractmethod
    def _begin(self, exclusive: str | None) -> Any:
        """Open a transaction on this thread's connection, holding the lock ``exclusive``; the connection."""

    @abstractmethod
    def _in_driver_transaction(self, connection: Any) -> bool: ...

    @abstractmethod
    def translated(self, error: Exception) -> Exception:
        """A driver's error in Holdfast's words; any other error as it is."""

    @abstractmethod
    def has_table(self, name: str) -> bool: ...

    @abstractmethod
    def ruler(self) -> tuple[str, int]:
        """(which clock, microseconds): a clock that all who share this database share, and that nobody sets back."""

    # --- statements ---

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Run one statement; a cursor. Outside of a transaction it commits by itself."""
        connection = self._connection()
        try:
            return connection.execute(self._statement(sql), parameters)
        except Exception as error:
            raise self.translated(error) from error

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for many rows."""
        if not rows:
            return
        cursor = self._connection().cursor()
        try:
            cursor.executemany(self._statement(sql), rows)
        except Exception as error:
            raise self.translated(error) from error
        finally:
            cursor.close()

    def insert_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run an INSERT for many rows of one width; ``{}`` stands where a row's values go."""
        if rows:
            self.executemany(sql.replace("{}", f"({marks(len(rows[0]))})"), rows)

    def select_in(self, sql: str, values: Sequence[Any], before: Sequence[Any] = ()) -> list[Any]:
        """Rows of a statement whose ``{in}`` takes a list of any length, asked for in pieces."""
        found: list[Any] = []
        for start in range(0, len(values), _STATEMENT_PARAMETERS):
            piece = values[start : start + _STATEMENT_PARAMETERS]
            found += self.execute(sql.replace("{in}", marks(len(piece))), [*before, *piece]).fetchall()
        return found

    def committed(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query over what is committed, whatever transaction this thread has open."""
        if self.in_transaction:
            connection = self._opened()
            try:
                return self._rows(connection, sql, parameters)
            finally:
                connection.close()
        for attempt in (1, 2, 3):
            connection = self._connection()
            try:
                return self._rows(connection, sql, parameters)
            except Exception:
                # The connection died while it was idle; a query may be asked again.
                if attempt == 3 or self._usable(connection):
                    raise
        raise AssertionError("unreachable")

    def _rows(self, connection: Any, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            rows: list[tuple[Any, ...]] = connection.execute(self._statement(sql), parameters).fetchall()
        except Exception as error:
            raise self.translated(error) from error
        return rows

    # --- transactions ---

    @property
    def in_transaction(self) -> bool:
        """Whether this thread has a transaction open."""
        return self._pid == os.getpid() and getattr(self._local, "depth", 0) > 0

    @contextmanager
    def transaction(self, *, exclusive: str | None = None) -> Iterator[None]:
        """Everything inside commits together or not at all; blocks of one thread nest into one. ``exclusive`` names a
        lock that is held to the end against all other processes. (SQLite has one writer anyway.)"""
        if self.in_transaction:
            self._local.depth += 1
            try:
                yield
            except BaseException:
                # A failed inner block may be caught outside: the whole must not commit half of it.
                self._local.spoiled = True
                raise
            finally:
                self._local.depth -= 1
            return
        self._after_fork()
        if self.dialect == "sqlite":
            with self._writer:
                yield from self._transact(exclusive)
        else:
            yield from self._transact(exclusive)

    @contextmanager
    def at_once(self) -> Iterator[bool]:
        """As ``core.ports.RunStore.at_once``; a database across a network never is."""
        yield False

    def tidy(self) -> None:  # noqa: B027 - there is nothing to do where ``at_once`` never begins
        """As ``core.ports.RunStore.tidy``."""

    def _transact(self, exclusive: str | None) -> Iterator[Any]:
        try:
            connection = self._begin(exclusive)
        except Exception as error:
            raise self.translated(error) from error
        yield from self._begun(connection)

    def _begun(self, connection: Any) -> Iterator[Any]:
        local = self._local
        local.depth, local.spoiled = 1, False
        try:
            yield True
            if local.spoiled:
                raise RuntimeError("a nested transaction failed and the outer one went on")
            connection.execute("COMMIT")
        except BaseException as error:
            self._undo(connection)
            told = self.translated(error) if isinstance(error, Exception) else error
            if told is error:
                raise
            raise told from error
        finally:
            local.depth = 0

    def _undo(self, connection: Any) -> None:
        try:
            if self._in_driver_transaction(connection):
                connection.execute("ROLLBACK")
        except Exception:  # noqa: BLE001 - what broke the transaction is told; a connection that cannot undo is dropped
            self._drop(connection)

    # --- connections ---

    def _connection(self) -> Any:
        """This thread's connection."""
        self._after_fork()
        connection = getattr(self._local, "connection", None)
        if connection is None or not self._usable(connection):
            connection = self._opened()
            self._local.connection = connection
            with self._guard:
                for thread, old in [pair for pair in self._open if not pair[0].is_alive()]:
                    self._open.remove((thread, old))
                    old.close()
                self._open.append((threading.current_thread(), connection))
        return connection

    def _opened(self) -> Any:
        try:
            return self._connect()
        except Exception as error:
            raise self.translated(error) from error

    def _drop(self, connection: Any) -> None:
        connection.close()
        if getattr(self._local, "connection", None) is connection:
            self._local.connection = None

    def _after_fork(self) -> None:
        # A child that closed or used its parent's connections would drop the parent's locks; it leaves them be.
        if self._pid != os.getpid():
            self._abandoned.append((self._local, self._open))
            self._start()

    def close(self) -> None:
        """Close every thread's connection. Safe to call twice; a later call opens anew."""
        self._after_fork()
        with self._guard:
            for _, connection in self._open:
                connection.close()
            self._open.clear()
            self._local = threading.local()


def marks(count: int) -> str:
    """``?,?,?``"""
    return ",".join("?" * count)
