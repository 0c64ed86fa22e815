"""PostgreSQL under the ledger: an advisory lock makes the chain a total order; commits wait for the disk.

Needs the extra ``holdfast[postgres]``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from holdfast.core.errors import BadConfig, Damaged, HoldfastError, OurTurn, Unavailable

# One lock per schema: two ledgers in one database do not wait for each other.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '.holdfast ledger', 0))"
_MIGRATION_LOCK = "SELECT pg_advisory_lock(hashtextextended(current_schema() || '.holdfast ledger migration', 0))"
_DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
_KEPT = 8


class PostgresDatabase:
    """Connections to one PostgreSQL database, safe over threads and forks.

    Args:
        url: a libpq URL, e.g. ``postgresql://holdfast@db.internal/holdfast``.
        schema: the number of the newest schema, kept in the version table.
    """

    shared = True

    def __init__(self, url: str, *, schema: int) -> None:
        try:
            import psycopg
        except ImportError:
            raise BadConfig(
                "PostgreSQL needs the psycopg driver, which is not installed", hint="pip install 'holdfast[postgres]'"
            ) from None
        self._psycopg = psycopg
        self._url = _libpq(url)
        self.poll_seconds = 0.1
        self._schema = schema
        self._pid = os.getpid()
        self._idle: list[Any] = []
        self._writing = threading.local()
        self._orphans: list[Any] = []
        self._ensure()

    # --- opening -------------------------------------------------------------------------------------------------

    def _connect(self) -> Any:
        with self._translated():
            connection = self._psycopg.connect(self._url, autocommit=True, connect_timeout=10)
            connection.execute(_DURABLE)
            return connection

    def _version(self) -> int | None:
        with self._connection() as connection:
            found = connection.execute("SELECT to_regclass('ledger_version') IS NOT NULL").fetchone()[0]
            if not found:
                return None
            row = connection.execute("SELECT version_num FROM ledger_version").fetchone()
            return int(row[0]) if row else None

    def _ensure(self) -> None:
        version = self._version()
        if version == self._schema:
            return
        if version is not None and version > self._schema:
            raise BadConfig(
                f"the ledger was written by a newer Holdfast (schema {version}, this one knows {self._schema})",
                hint="upgrade this installation: pip install --upgrade holdfast",
            )
        with self._connection() as waiting:
            # One process migrates; the others wait here, and then find nothing to do and load no schema tools.
            try:
                waiting.execute(_MIGRATION_LOCK)
                if self._version() != self._schema:
                    from holdfast.backends.ledger_schema import migrate

                    migrate("postgresql+psycopg", self._connect, begin=["BEGIN", _LOCK])
            finally:
                waiting.close()  # the lock is the session's

    # --- use -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """A connection for one use; given back only if it is still sound and idle."""
        if self._pid != os.getpid():
            self._orphans.append(self._idle)
            self._idle, self._pid, self._writing = [], os.getpid(), threading.local()
        connection = None
        while connection is None and self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if connection.closed:
                connection = None
        connection = connection or self._connect()
        try:
            with self._translated():
                yield connection
        finally:
            idle = not connection.closed and connection.info.transaction_status.name == "IDLE"
            if idle and len(self._idle) < _KEPT:
                self._idle.append(connection)
            else:
                connection.close()

    @contextmanager
    def write(self) -> Iterator[Any]:
        """A serialised transaction, durable when the block ends; undone when it ends with an error."""
        if getattr(self._writing, "open", False):
            raise OurTurn("a ledger transaction was opened inside another", hint="use the transaction that is open")
        with self._begun() as connection:
            writing = self._writing
            writing.open = True
            try:
                try:
                    yield _Positional(connection)
                except BaseException:
                    self._undo(connection)
                    raise
                connection.execute("COMMIT")
            finally:
                writing.open = False

    @contextmanager
    def _begun(self) -> Iterator[Any]:
        # An idle connection may have died with the server; nothing has been done yet, so trying a new one is safe.
        for attempt in (1, 2, 3):
            with self._connection() as connection:
                try:
                    connection.execute("BEGIN")
                    connection.execute(_LOCK)
                except self._psycopg.OperationalError:
                    if attempt == 3 or not connection.closed:
                        raise
                    continue
                yield connection
                return

    def _undo(self, connection: Any) -> None:
        try:
            connection.execute("ROLLBACK")
        except self._psycopg.Error:
            connection.close()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query over what is committed."""
        for attempt in (1, 2, 3):
            with self._connection() as connection:
                try:
                    rows: list[tuple[Any, ...]] = connection.execute(_format(sql), parameters).fetchall()
                except self._psycopg.OperationalError:
                    if attempt == 3 or not connection.closed:
                        raise
                    continue
                return rows
        raise AssertionError("unreachable")

    def ruler(self) -> tuple[str, int]:
        """(which clock, microseconds): the server's clock, the one that all hosts share."""
        return "server", int(self.read("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")[0][0])

    def close(self) -> None:
        while self._idle and self._pid == os.getpid():
            self._idle.pop().close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._psycopg.Error as error:
            raise self._told(error) from error

    def _told(self, error: Any) -> HoldfastError:
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, self._psycopg.errors.DataCorrupted | self._psycopg.errors.IndexCorrupted):
            return Damaged(f"PostgreSQL reports damage: {text}", hint="restore the database from a backup")
        if isinstance(error, self._psycopg.errors.InsufficientPrivilege):
            return Unavailable(
                f"PostgreSQL refuses: {text}", hint="grant the role of ledger.url the rights to create and write tables"
            )
        if isinstance(error, self._psycopg.OperationalError):
            return Unavailable(
                f"PostgreSQL cannot be reached or stopped answering: {text}",
                hint="check ledger.url and that the server runs; what was not acknowledged may or may not be there",
            )
        return OurTurn(f"PostgreSQL: {text}")


class _Positional:
    """A connection that takes ``?`` for parameters, like SQLite's."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        return self._connection.execute(_format(sql), parameters)


def _format(sql: str) -> str:
    return sql.replace("?", "%s")


def _libpq(url: str) -> str:
    """SQLAlchemy's spellings of the scheme as libpq knows them."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql{separator}{rest}" if scheme.startswith("postgres") else url
