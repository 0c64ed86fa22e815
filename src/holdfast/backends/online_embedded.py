"""The embedded online store: LMDB. Many processes read, one writes; a reader never waits for the writer.

Written without fsync: after a crash of the process nothing is lost (the pages are the kernel's). After a power cut pages
may be torn, and LMDB has no checksums to see it, so each writer leaves a note (``unsynced/``, with the kernel's boot id)
before its first write after a sync and takes it back when it has synced. A note of another boot, a file that is shorter
than its pages, or one LMDB refuses, means: the store is set aside and begun anew, and ``discarded`` says so until it is
filled again from files and the push journal, which are the truth (``holdfast features rebuild``; the feature server does
it at its start).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from holdfast.core.errors import Damaged, Unavailable
from holdfast.core.files import sync, sync_folder
from holdfast.core.ports import Buffer, Merge

T = TypeVar("T")
_META = b"\x00meta/"
_GROWS = 24
_MAP_SIZE = 1 << 40  # address space only: the file grows with what is in it


_REBUILD = "stop the feature server, remove the store's folder, run `holdfast features rebuild`"


class EmbeddedOnlineStore:
    """LMDB under ``path`` (a folder, made when missing).

    Raises:
        Unavailable: the folder cannot be opened.
    """

    waits = False

    def __init__(self, path: Path, *, map_size: int = _MAP_SIZE, readers: int = 1024) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._closed = False
        self._resizing = threading.Lock()
        self._note: Path | None = None
        with _alone(self.path):
            if _torn_by_power_cut(self.path):
                _set_aside(self.path)
            try:
                self._env = self._open(map_size, readers)
            except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError):
                _set_aside(self.path)
                self._env = self._open(map_size, readers)
            if self._is_short():
                self._env.close()
                _set_aside(self.path)
                self._env = self._open(map_size, readers)
        self._env.reader_check()

    def _open(self, map_size: int, readers: int) -> lmdb.Environment:
        try:
            return lmdb.open(
                str(self.path), map_size=map_size, max_readers=readers, sync=False, metasync=False, max_spare_txns=64
            )
        except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError):
            raise
        except lmdb.Error as error:
            raise Unavailable(
                f"the online store cannot be opened: {error}",
                hint=f"check that {self.path.name}/ is readable and on a local disk",
            ) from error

    def _is_short(self) -> bool:
        """Whether the file ends before its last page: reading there would kill the process."""
        pages = self._env.info()["last_pgno"] + 1
        return int(pages) * int(self._env.stat()["psize"]) > (self.path / "data.mdb").stat().st_size

    @property
    def discarded(self) -> list[str]:
        """Names of the stores that were set aside and not made good for yet."""
        return sorted(p.name for p in self.path.glob("torn-*.mdb"))

    def made_good(self) -> None:
        """What was set aside is no longer needed: the store is full again."""
        self.flush()
        for name in self.discarded:
            (self.path / name).unlink(missing_ok=True)

    def fetch(self, keys: Sequence[bytes], *, use: Callable[[list[Buffer | None]], T]) -> T:
        try:
            txn = self._env.begin(buffers=True)
        except lmdb.MapResizedError:
            self._adopt_size()
            txn = self._env.begin(buffers=True)
        try:
            get = txn.get
            return use([get(key) for key in keys])
        except (lmdb.CorruptedError, lmdb.PageNotFoundError) as error:
            raise Damaged("the online store is damaged", hint=_REBUILD) from error
        finally:
            txn.abort()

    def update(
        self, groups: Sequence[tuple[Sequence[bytes], Merge]], *, meta: Mapping[str, bytes] | None = None
    ) -> None:
        for attempt in range(_GROWS):
            try:
                self._update(groups, meta or {})
                return
            except lmdb.MapResizedError:
                self._adopt_size()
            except lmdb.MapFullError:
                if attempt == _GROWS - 1:
                    raise
                with self._resizing:
                    self._env.set_mapsize(self._env.info()["map_size"] * 2)
            except lmdb.DiskError as error:
                raise Unavailable(
                    "the online store cannot be written", hint="the disk is full: free some room"
                ) from error
            except (lmdb.CorruptedError, lmdb.PageNotFoundError) as error:
                raise Damaged("the online store is damaged", hint=_REBUILD) from error

    def _update(self, groups: Sequence[tuple[Sequence[bytes], Merge]], meta: Mapping[str, bytes]) -> None:
        with self._env.begin(write=True, buffers=True) as txn:
            if self._note is None:
                self._leave_note()
            get, put = txn.get, txn.put
            for keys, merge in groups:
                stored = [get(key) for key in keys]
                values = merge(stored)
                if values is None:
                    continue
                for key, value, old in zip(keys, values, stored, strict=True):
                    if value is old:
                        continue
                    if value is None:
                        txn.delete(key)
                    else:
                        put(key, value)
            for name, value in meta.items():
                put(_META + name.encode(), value)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._env.begin() as txn, txn.cursor() as cursor:
            found = cursor.set_range(prefix) if prefix else cursor.first()
            while found:
                key, value = cursor.item()
                if not key.startswith(prefix):
                    return
                if not key.startswith(_META):
                    yield key, value
                found = cursor.next()

    def drop(self, prefix: bytes) -> int:
        removed = 0
        with self._env.begin(write=True) as txn, txn.cursor() as cursor:
            self._leave_note()
            found = cursor.set_range(prefix) if prefix else cursor.first()
            while found:
                if not cursor.key().startswith(prefix):
                    break
                if cursor.key().startswith(_META):
                    found = cursor.next()
                    continue
                found = cursor.delete()
                removed += 1
        return removed

    def clear(self) -> None:
        with self._env.begin(write=True) as txn:
            self._leave_note()
            txn.drop(self._env.open_db(txn=txn), delete=False)

    def meta_get(self, name: str) -> bytes | None:
        value: bytes | None = self.fetch([_META + name.encode()], use=lambda v: None if v[0] is None else bytes(v[0]))
        return value

    def flush(self) -> None:
        """Everything written is on the disk when this returns."""
        with self._env.begin(write=True):  # nobody is between his note and his commit
            note, self._note = self._note, None
        gone = [
            n for n in (self.path / "unsynced").glob("*") if not _alive(n)
        ]  # of the killed; the sync is for them too
        self._env.sync(True)
        for done in (*gone, *([note] if note is not None else [])):
            done.unlink(missing_ok=True)

    def _leave_note(self) -> None:
        """Say that something is about to be written that may not reach the disk. Only inside a write transaction."""
        if self._note is not None:
            return
        folder = self.path / "unsynced"
        folder.mkdir(exist_ok=True)
        note = folder / f"{os.getpid()}-{time.time_ns()}"
        with note.open("w") as f:
            f.write(_boot())
            f.flush()
            sync(f.fileno())
        sync_folder(folder)
        sync_folder(self.path)
        self._note = note

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with contextlib.suppress(lmdb.Error, OSError):
                self.flush()
            self._env.close()

    def _adopt_size(self) -> None:
        with self._resizing:
            self._env.set_mapsize(0)

    def __enter__(self) -> EmbeddedOnlineStore:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _boot() -> str:
    """What names this run of the kernel; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _torn_by_power_cut(folder: Path) -> bool:
    """Whether the machine went down while something written was not on the disk. A note of this boot is a writer at work,
    or one that was killed: its pages are safe with the kernel."""
    now = _boot()
    for note in (folder / "unsynced").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if note.read_text().strip() != now or (not now and not _alive(note)):
                return True
    return False


def _alive(note: Path) -> bool:
    try:
        os.kill(int(note.name.partition("-")[0]), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def _set_aside(folder: Path) -> None:
    """Keep the store under another name, for whoever looks into it; the next one opened is new."""
    with contextlib.suppress(FileNotFoundError):
        (folder / "data.mdb").rename(folder / f"torn-{time.time_ns()}.mdb")
    (folder / "lock.mdb").unlink(missing_ok=True)
    for note in (folder / "unsynced").glob("*"):
        note.unlink(missing_ok=True)
    sync_folder(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "opening").open("a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield
