"""One SQL database, SQLite or PostgreSQL, through its driver: a connection per thread, nesting transactions.

Statements are written once, with ``?`` for parameters; values are never part of a statement's text.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from holdfast.core.errors import BadConfig, Unavailable

Dialect = Literal["sqlite", "postgresql"]
_BUSY_SECONDS = 30.0
_STATEMENT_PARAMETERS = 500


class Database:
    """``sqlite:///relative.db``, ``sqlite:////absolute.db`` or ``postgresql://…``.

    Raises:
        BadConfig: the URL names neither.
        Unavailable: the server cannot be reached (at first use).
    """

    def __init__(self, url: str, *, synchronous: str = "normal") -> None:
        self.url = url
        parts = urlsplit(url)
        scheme = parts.scheme.split("+")[0]
        self._local = threading.local()
        self._open: list[Any] = []
        self._guard = threading.Lock()
        # Writers of one process queue here instead of spinning on SQLite's file lock.
        self._writer = threading.RLock()
        if scheme == "sqlite":
            self.dialect: Dialect = "sqlite"
            self._synchronous = {"normal": "NORMAL", "full": "FULL"}[synchronous]
            path = unquote(parts.path)
            self._path = Path(path[1:] if path.startswith("/") else path)
            self._connect: Callable[[], Any] = self._connect_sqlite
        elif scheme in ("postgresql", "postgres"):
            self.dialect = "postgresql"
            self._dsn = "postgresql" + url[len(parts.scheme) :]
            self._connect = self._connect_postgresql
        else:
            raise BadConfig(
                f"cannot keep runs in {parts.scheme or url!r}", hint="use sqlite:///path or postgresql://user@host/db"
            )

    # --- statements ---

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Run one statement; a cursor. Outside of a transaction it commits by itself."""
        connection = self._connection()
        try:
            return connection.execute(sql if self.dialect == "sqlite" else _percent(sql), parameters)
        except Exception as error:
            raise self._translated(error) from error

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for many rows."""
        if not rows:
            return
        connection = self._connection()
        try:
            if self.dialect == "sqlite":
                connection.executemany(sql, rows)
            else:
                with connection.cursor() as cursor:
                    cursor.executemany(_percent(sql), rows)
        except Exception as error:
            raise self._translated(error) from error

    def select_in(self, sql: str, values: Sequence[Any], before: Sequence[Any] = ()) -> list[Any]:
        """Rows of a statement whose ``{in}`` takes a list of any length, asked for in pieces."""
        found: list[Any] = []
        for start in range(0, len(values), _STATEMENT_PARAMETERS):
            piece = values[start : start + _STATEMENT_PARAMETERS]
            found += self.execute(sql.replace("{in}", marks(len(piece))), [*before, *piece]).fetchall()
        return found

    def has_table(self, name: str) -> bool:
        if self.dialect == "sqlite":
            return (
                self.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)).fetchone()
                is not None
            )
        return self.execute("SELECT to_regclass(?)", (name,)).fetchone()[0] is not None

    # --- transactions ---

    @property
    def in_transaction(self) -> bool:
        """Whether this thread has a transaction open."""
        return getattr(self._local, "depth", 0) > 0

    @contextmanager
    def transaction(self, *, exclusive: str | None = None) -> Iterator[None]:
        """Everything inside commits together or not at all; blocks of one thread nest into one. ``exclusive`` names a
        lock that is held to the end against all other processes."""
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
        if self.dialect == "sqlite":
            with self._writer:
                yield from self._transact("BEGIN IMMEDIATE", None)
        else:
            yield from self._transact("BEGIN", exclusive)

    def _transact(self, begin: str, exclusive: str | None) -> Iterator[None]:
        connection = self._connection()
        self.execute(begin)
        self._local.depth, self._local.spoiled = 1, False
        try:
            if exclusive is not None:
                self.execute("SELECT pg_advisory_xact_lock(hashtext(?))", (exclusive,))
            yield
            if self._local.spoiled:
                raise RuntimeError("a nested transaction failed and the outer one went on")
            self.execute("COMMIT")
        except BaseException:
            if self.dialect == "sqlite":
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            elif not connection.closed:
                connection.execute("ROLLBACK")
            raise
        finally:
            self._local.depth = 0

    # --- connections ---

    def _connection(self) -> Any:
        connection = getattr(self._local, "connection", None)
        if connection is None or (self.dialect == "postgresql" and connection.closed):
            connection = self._connect()
            self._local.connection = connection
            with self._guard:
                self._open.append(connection)
        return connection

    def _connect_sqlite(self) -> Any:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS, cached_statements=512
            )
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                # Two processes that turn an empty file to WAL at once: SQLite does not wait for this one.
                connection.close()
                if "lock" not in str(error) or time.monotonic() > deadline:
                    raise Unavailable(
                        f"cannot open {self._path.name}: {error}", hint="is another program holding it?"
                    ) from error
                time.sleep(0.02)
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        # LIKE means what it means on PostgreSQL; ILIKE is written with lower().
        connection.execute("PRAGMA case_sensitive_like = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA cache_size = -16000")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        return connection

    def _connect_postgresql(self) -> Any:
        try:
            import psycopg
        except ImportError as error:
            raise BadConfig("PostgreSQL needs its driver", hint="pip install 'holdfast[postgres]'") from error
        try:
            return psycopg.connect(self._dsn, autocommit=True, connect_timeout=10)
        except psycopg.OperationalError as error:
            raise Unavailable(
                f"PostgreSQL cannot be reached: {str(error).splitlines()[0]}",
                hint="is it running, and is runs.url right?",
            ) from error

    def _translated(self, error: Exception) -> Exception:
        text = str(error)
        if isinstance(error, sqlite3.OperationalError) and (
            "locked" in text or "disk is full" in text or "readonly" in text
        ):
            return Unavailable(
                f"the run store cannot be written now: {text}", hint="free some room or wait, then try again"
            )
        if self.dialect == "postgresql":
            import psycopg

            if isinstance(error, psycopg.OperationalError):
                return Unavailable(
                    f"PostgreSQL: {text.splitlines()[0] if text else 'connection lost'}", hint="try again"
                )
        return error

    def close(self) -> None:
        """Close every thread's connection. Safe to call twice."""
        with self._guard:
            for connection in self._open:
                connection.close()
            self._open.clear()
        self._local = threading.local()


def marks(count: int) -> str:
    """``?,?,?``"""
    return ",".join("?" * count)


_translated_sql: dict[str, str] = {}


def _percent(sql: str) -> str:
    """``?`` to psycopg's ``%s``; statements hold neither sign otherwise."""
    known = _translated_sql.get(sql)
    if known is None:
        known = sql.replace("?", "%s")
        if len(_translated_sql) < 2000:
            _translated_sql[sql] = known
    return known
