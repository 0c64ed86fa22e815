"""SQLite: WAL, one writer at a time, readers that never wait.

With "full" durability a commit has reached the disk when it returns. Files on network file systems are refused by SQLite's
WAL, not by us.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from holdfast.backends.sql_database import Database, Dialect, Durability, marks
from holdfast.core.errors import BadConfig, Damaged, OurTurn, Unavailable

BUSY_SECONDS = 60.0
_ROWS = 100


class SqliteDatabase(Database):
    """Connections to one SQLite file, made with its folder at first use.

    Args:
        path: the database file.
        durability: "full" waits for the disk at each commit; "normal" leaves that to the next checkpoint.
    """

    dialect: Dialect = "sqlite"
    poll_seconds = 0.02

    def __init__(self, path: Path, *, durability: Durability) -> None:
        super().__init__()
        self.path = path
        self._durability = durability

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        try:
            _retried(connection, "PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._durability == 'full' else 'NORMAL'}")
            if sys.platform == "darwin" and self._durability == "full":
                # fsync on macOS leaves the drive's cache alone; these do not.
                connection.execute("PRAGMA fullfsync = 1")
                connection.execute("PRAGMA checkpoint_fullfsync = 1")
            # LIKE means what it means on PostgreSQL; ILIKE is written with lower().
            connection.execute("PRAGMA case_sensitive_like = ON")
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("PRAGMA cache_size = -16000")
            connection.execute("PRAGMA wal_autocheckpoint = 4000")
        except BaseException:
            connection.close()
            raise
        return connection

    def _statement(self, sql: str) -> str:
        return sql

    def _usable(self, connection: Any) -> bool:
        return True

    def _begin(self, exclusive: str | None) -> sqlite3.Connection:
        connection: sqlite3.Connection = self._connection()
        _retried(connection, "BEGIN IMMEDIATE")
        return connection

    @contextmanager
    def at_once(self) -> Iterator[bool]:
        """As ``core.ports.RunStore.at_once``."""
        self._after_fork()
        if self._durability == "full" or self.in_transaction or not self._writer.acquire(blocking=False):
            yield False
            return
        try:
            connection: sqlite3.Connection = self._connection()
            if not self._begin_at_once(connection):
                yield False
                return
            yield from self._begun(connection)
        finally:
            self._writer.release()

    def _begin_at_once(self, connection: sqlite3.Connection) -> bool:
        try:
            if getattr(self._local, "hurried", None) is not connection:
                # A checkpoint waits for the disk; whoever uses this calls ``tidy`` from a thread that may wait.
                connection.execute("PRAGMA wal_autocheckpoint = 0")
                self._local.hurried = connection
            connection.execute("PRAGMA busy_timeout = 0")
            try:
                connection.execute("BEGIN IMMEDIATE")
            finally:
                connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")
        except sqlite3.Error as error:
            if _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                return False
            raise self.translated(error) from error
        return True

    def tidy(self) -> None:
        """As ``core.ports.RunStore.tidy``: move what is in the log into the file, as far as readers allow."""
        self.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def insert_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """A hundred rows a statement: half the time of one each."""
        whole = len(rows) - len(rows) % _ROWS
        if whole:
            several = sql.replace("{}", ",".join([f"({marks(len(rows[0]))})"] * _ROWS))
            for start in range(0, whole, _ROWS):
                self.execute(several, list(chain.from_iterable(rows[start : start + _ROWS])))
        super().insert_many(sql, rows[whole:])

    def _in_driver_transaction(self, connection: sqlite3.Connection) -> bool:
        return connection.in_transaction

    def has_table(self, name: str) -> bool:
        sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return self.execute(sql, (name,)).fetchone() is not None

    def ruler(self) -> tuple[str, int]:
        """The time since this machine's boot, named by the boot."""
        return _boot_ruler()

    def translated(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.Error):
            return error
        code = _code(error)
        if code == sqlite3.SQLITE_FULL:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Unavailable(
                f"the store {self.path} was locked by another process for more than {BUSY_SECONDS:.0f} s",
                hint="find the process that holds it (`fuser` shows it), end it, and run again",
            )
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            return Unavailable(
                f"the store {self.path} cannot be opened for writing ({error})",
                hint="check that its folder exists, is on a writable disk and belongs to you",
            )
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return Damaged(f"the store {self.path} is not a sound database ({error})", hint="restore it from a backup")
        if code == sqlite3.SQLITE_IOERR:
            return Unavailable(
                f"the disk refused a read or write of {self.path} ({error})", hint="check the disk, then run again"
            )
        if code == sqlite3.SQLITE_CONSTRAINT:
            return OurTurn(f"the store {self.path} refused a row ({error})")
        return OurTurn(f"the store {self.path}: {error}")


def sqlite_path(url: str, setting: str) -> Path:
    """The file of a ``sqlite:///…`` URL: three slashes relative to the current folder, four absolute.

    Raises:
        BadConfig: it names no file.
    """
    path = unquote(url.partition("://")[2])
    if not path.startswith("/") or len(path) < 2:
        raise BadConfig(f"{setting}: {url!r} names no file", hint="write it like sqlite:///.holdfast/store.db")
    return Path(path[1:])


def _retried(connection: sqlite3.Connection, statement: str) -> None:
    """Run a statement that takes a lock. SQLite's own waiting is unfair under many writers, and it does not wait at all for
    some of them (two processes that turn an empty file to WAL at once), so the limit is on the whole."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            if _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() >= deadline:
                raise
            time.sleep(0.005)
        else:
            return


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _boot_ruler() -> tuple[str, int]:
    # Wall clocks jump; a lease must not. After a reboot every lease is void, which another boot's name says.
    try:
        boot = _BOOT or _read_boot()
        return boot, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    except (OSError, AttributeError):
        return "wall", time.time_ns() // 1000


_BOOT = ""


def _read_boot() -> str:
    global _BOOT
    _BOOT = "boot:" + Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return _BOOT
