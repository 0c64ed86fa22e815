"""SQLite under the ledger: WAL, synchronous=FULL, one writer at a time, readers that never wait.

A commit has reached the disk when it returns. Files on network file systems are refused by SQLite's WAL, not by us.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.core.errors import BadConfig, Conflict, Damaged, HoldfastError, OurTurn, Unavailable

BUSY_SECONDS = 60.0
_KEPT_READERS = 8


class SqliteDatabase:
    """Connections to one SQLite file, safe over threads and forks.

    Args:
        path: the database file; its folder is made.
        schema: the number of the newest schema, kept in ``PRAGMA user_version``.
    """

    shared = False

    def __init__(self, path: Path, *, schema: int) -> None:
        self.path = path
        self.poll_seconds = 0.02
        self._schema = schema
        self._pid = os.getpid()
        self._writer: sqlite3.Connection | None = None
        self._write_lock = threading.Lock()
        self._writing_thread: int | None = None
        self._readers: list[sqlite3.Connection] = []
        self._orphans: list[Any] = []
        with translated(path):
            if self._version() != schema:
                self._migrate()

    # --- opening -------------------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        connection.execute("PRAGMA synchronous=FULL")
        if sys.platform == "darwin":
            # fsync on macOS leaves the drive's cache alone; these do not.
            connection.execute("PRAGMA fullfsync=1")
            connection.execute("PRAGMA checkpoint_fullfsync=1")
        return connection

    def _version(self) -> int | None:
        if not self.path.exists():
            return None
        connection = self._connect()
        try:
            return int(connection.execute("PRAGMA user_version").fetchone()[0])
        finally:
            connection.close()

    def _migrate(self) -> None:
        """Make or bring forward the store; one process does it while the others wait at the lock file."""
        import fcntl

        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            version = self._version()
            if version is not None and version > self._schema:
                raise BadConfig(
                    f"{self.path} was written by a newer Holdfast (schema {version}; this one knows {self._schema})",
                    hint="upgrade this installation: pip install --upgrade holdfast",
                )
            if version == self._schema:
                return
            from holdfast.backends.ledger_schema import migrate

            connection = self._connect()
            try:
                connection.execute("PRAGMA journal_mode=WAL")
            finally:
                connection.close()
            migrate("sqlite", self._connect, begin=["BEGIN IMMEDIATE"], finish=f"PRAGMA user_version={self._schema}")
        finally:
            os.close(lock)

    def _after_fork(self) -> None:
        # A child that closed or used its parent's connections would drop the parent's locks; it leaves them be.
        if self._pid != os.getpid():
            self._orphans.append((self._writer, self._readers))
            self._writer, self._readers = None, []
            self._write_lock, self._writing_thread = threading.Lock(), None
            self._pid = os.getpid()

    # --- use -----------------------------------------------------------------------------------------------------

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A serialised transaction, durable when the block ends; undone when it ends with an error."""
        self._after_fork()
        if self._writing_thread == threading.get_ident():
            raise OurTurn("a ledger transaction was opened inside another", hint="use the transaction that is open")
        with self._write_lock:
            self._writing_thread = threading.get_ident()
            try:
                with translated(self.path):
                    if self._writer is None:
                        self._writer = self._connect()
                    _begin(self._writer)
                try:
                    with translated(self.path):
                        yield self._writer
                except BaseException:
                    self._undo()
                    raise
                with translated(self.path):
                    try:
                        self._writer.execute("COMMIT")
                    except BaseException:
                        self._undo()
                        raise
            finally:
                self._writing_thread = None

    def _undo(self) -> None:
        writer = self._writer
        if writer is None:
            return
        try:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
        except sqlite3.Error:
            self._writer = None
            writer.close()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query over what is committed."""
        self._after_fork()
        with translated(self.path):
            try:
                connection = self._readers.pop()
            except IndexError:
                connection = self._connect()
            try:
                rows = connection.execute(sql, parameters).fetchall()
            except BaseException:
                connection.close()
                raise
            if len(self._readers) < _KEPT_READERS:
                self._readers.append(connection)
            else:
                connection.close()
            return rows

    def ruler(self) -> tuple[str, int]:
        """(which clock, microseconds): a clock that all processes here share and nobody can set back."""
        return _boot_ruler()

    def close(self) -> None:
        self._after_fork()
        with self._write_lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            while self._readers:
                self._readers.pop().close()


def _begin(connection: sqlite3.Connection) -> None:
    """Take the write lock. SQLite's own waiting is unfair under many writers, so the limit is on the whole."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(0.005)
        else:
            return


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors in Holdfast's words."""
    try:
        yield
    except sqlite3.Error as error:
        raise _told(error, path) from error


def _told(error: sqlite3.Error, path: Path) -> HoldfastError | OSError:
    code = _code(error)
    if code in (sqlite3.SQLITE_FULL,):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Conflict(
            f"the store {path} was locked by another process for more than {BUSY_SECONDS:.0f} s",
            hint="find the process that holds it (`fuser` shows it), end it, and run again",
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return Unavailable(
            f"the store {path} cannot be opened for writing ({error})",
            hint="check that its folder exists, is on a writable disk and belongs to you",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Damaged(f"the store {path} is not a sound database ({error})", hint="restore it from a backup")
    if code == sqlite3.SQLITE_IOERR:
        return Unavailable(
            f"the disk refused a read or write of {path} ({error})", hint="check the disk, then run again"
        )
    if code == sqlite3.SQLITE_CONSTRAINT:
        return OurTurn(f"the store {path} refused a row ({error})")
    return OurTurn(f"the store {path}: {error}")


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
