"""PostgreSQL: advisory locks where the order matters, commits that wait for the disk.

Needs the extra ``holdfast[postgres]``.
"""

from __future__ import annotations

from typing import Any

from holdfast.backends.sql_database import Database, Dialect
from holdfast.core.errors import BadConfig, Damaged, OurTurn, Unavailable

# One lock per schema: two stores in one database do not wait for each other.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '.' || %s, 0))"
_DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"


class PostgresDatabase(Database):
    """Connections to one PostgreSQL database.

    Args:
        url: a libpq URL, e.g. ``postgresql://holdfast@db.internal/holdfast``.
        setting: the setting it came from, for errors.
    """

    dialect: Dialect = "postgresql"
    poll_seconds = 0.1

    def __init__(self, url: str, *, setting: str) -> None:
        super().__init__()
        try:
            import psycopg
        except ImportError:
            raise BadConfig(
                "PostgreSQL needs the psycopg driver, which is not installed", hint="pip install 'holdfast[postgres]'"
            ) from None
        self._psycopg = psycopg
        self._url = _libpq(url)
        self._setting = setting
        self._spelled: dict[str, str] = {}

    def _connect(self) -> Any:
        connection = self._psycopg.connect(self._url, autocommit=True, connect_timeout=10)
        connection.execute(_DURABLE)
        return connection

    def _statement(self, sql: str) -> str:
        # psycopg wants %s; statements hold neither sign otherwise.
        known = self._spelled.get(sql)
        if known is None:
            known = sql.replace("?", "%s")
            if len(self._spelled) < 2000:
                self._spelled[sql] = known
        return known

    def _usable(self, connection: Any) -> bool:
        return not connection.closed

    def _begin(self, exclusive: str | None) -> Any:
        # An idle connection may have died with the server; nothing has been done yet, so trying a new one is safe.
        for attempt in (1, 2, 3):
            connection = self._connection()
            try:
                connection.execute("BEGIN")
                if exclusive is not None:
                    connection.execute(_LOCK, (exclusive,))
            except self._psycopg.OperationalError:
                if attempt == 3 or not connection.closed:
                    self._undo(connection)
                    raise
            else:
                return connection
        raise AssertionError("unreachable")

    def _in_driver_transaction(self, connection: Any) -> bool:
        return not connection.closed and connection.info.transaction_status.name != "IDLE"

    def has_table(self, name: str) -> bool:
        # Not to_regclass: it may answer from a cache of names filled before this transaction waited for its lock.
        sql = "SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = current_schema() AND tablename = ?"
        return self.execute(sql, (name,)).fetchone() is not None

    def ruler(self) -> tuple[str, int]:
        """The server's clock, the one that all hosts share."""
        sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        return "server", int(self.committed(sql)[0][0])

    def translated(self, error: Exception) -> Exception:
        psycopg = self._psycopg
        if not isinstance(error, psycopg.Error):
            return error
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, psycopg.errors.DataCorrupted | psycopg.errors.IndexCorrupted):
            return Damaged(f"PostgreSQL reports damage: {text}", hint="restore the database from a backup")
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return Unavailable(
                f"PostgreSQL refuses: {text}",
                hint=f"grant the role of {self._setting} the rights to create and write tables",
            )
        if isinstance(error, psycopg.OperationalError):
            return Unavailable(
                f"PostgreSQL cannot be reached or stopped answering: {text}",
                hint=f"check {self._setting} and that the server runs; what was not acknowledged may or may not be there",
            )
        return OurTurn(f"PostgreSQL: {text}")


def _libpq(url: str) -> str:
    """SQLAlchemy's spellings of the scheme as libpq knows them."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql{separator}{rest}" if scheme.startswith("postgres") else url
