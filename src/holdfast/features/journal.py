"""The push journal: what was pushed, in fsynced segment files; the truth that the online store is a cache of.

A record is length, CRC-32 and MessagePack of (source, arrived, rows). A torn record at the end of the last segment was
never acknowledged and is cut off when the journal is opened for writing.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from holdfast.core.errors import Conflict, Unavailable
from holdfast.core.records import Json

SEGMENT_BYTES = 32 << 20
_HEAD = struct.Struct("<II")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(type=tuple[str, int, list[dict[str, object]]]).decode


class Position(NamedTuple):
    """A place in the journal: everything before it is included."""

    segment: int
    offset: int


class Pushed(NamedTuple):
    """One push, and where it ends."""

    source: str
    arrived: int
    rows: list[Json]
    end: Position


def segments(folder: Path) -> list[int]:
    """The numbers of the segments there are, in order."""
    return sorted(int(p.stem) for p in folder.glob("*.log") if p.stem.isdigit())


def read(folder: Path, *, after: Position = Position(0, 0)) -> Iterator[Pushed]:
    """The whole records after a place, in order; stops silently at a torn end, which was never acknowledged."""
    for number in segments(folder):
        if number < after.segment:
            continue
        offset = after.offset if number == after.segment else 0
        data = (folder / f"{number:012d}.log").read_bytes()
        for source, arrived, rows, end in _records(data, offset):
            yield Pushed(source, arrived, rows, Position(number, end))


def _records(data: bytes, offset: int) -> Iterator[tuple[str, int, list[Json], int]]:
    while offset + _HEAD.size <= len(data):
        length, crc = _HEAD.unpack_from(data, offset)
        end = offset + _HEAD.size + length
        body = data[offset + _HEAD.size : end]
        if length == 0 or len(body) < length or zlib.crc32(body) != crc:
            return
        source, arrived, rows = _decode(body)
        yield source, arrived, rows, end
        offset = end


class Journal:
    """The one writer. ``durable=False`` leaves the fsync to the kernel: a power cut may lose the last seconds.

    Raises:
        Conflict: another process writes to this journal.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder
        self.durable = durable
        folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._lock_file, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._lock_file)
            raise Conflict(
                f"another process (pid {holder}) pushes features here",
                hint="push through it (POST /push of `holdfast features serve`), or stop it first",
            ) from None
        os.ftruncate(self._lock_file, 0)
        os.pwrite(self._lock_file, str(os.getpid()).encode(), 0)
        self._write_lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._synced = Position(0, 0)
        self._broken = False
        numbers = segments(folder)
        self._open(numbers[-1] if numbers else 1)

    def _open(self, number: int) -> None:
        path = self.folder / f"{number:012d}.log"
        fresh = not path.exists()
        data = b"" if fresh else path.read_bytes()
        whole = max((end for _, _, _, end in _records(data, 0)), default=0)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if whole < len(data):
            os.ftruncate(self._file, whole)
        os.fsync(self._file)
        _sync_folder(self.folder)
        self.end = Position(number, whole)
        self._synced = self.end

    def append(self, source: str, rows: list[Json], arrived: int) -> Position:
        """Write one record; it is acknowledged only after ``sync`` of the returned place.

        Raises:
            Unavailable: the disk takes no more; nothing was written.
        """
        body = _encode((source, arrived, rows))
        record = _HEAD.pack(len(body), zlib.crc32(body)) + body
        with self._write_lock:
            if self._broken:
                raise Unavailable(
                    "the push journal cannot be written", hint="free disk space and restart the feature server"
                )
            if self.end.offset >= SEGMENT_BYTES:
                self._roll()
            try:
                done = 0
                while done < len(record):
                    done += os.write(self._file, record[done:])
            except OSError as error:
                try:
                    os.ftruncate(self._file, self.end.offset)
                except OSError:
                    self._broken = True
                raise Unavailable(
                    f"the push journal cannot be written: {error.strerror}",
                    hint="free disk space and push again; nothing was taken",
                ) from error
            self.end = Position(self.end.segment, self.end.offset + len(record))
            return self.end

    def sync(self, upto: Position) -> None:
        """Return when everything before ``upto`` is on the disk; concurrent callers share one fsync.

        Raises:
            Unavailable: the disk failed; what came after the last success is not acknowledged.
        """
        if not self.durable or self._synced >= upto:
            return
        with self._sync_lock:
            if self._synced >= upto:
                return
            with self._write_lock:
                end, file = self.end, self._file
            try:
                os.fsync(file)
            except OSError as error:
                self._broken = True  # after a failed fsync the kernel may have dropped the pages: nothing more is taken
                raise Unavailable(
                    f"the push journal cannot be synced: {error.strerror}",
                    hint="check the disk and restart the feature server",
                ) from error
            self._synced = end

    def roll(self) -> None:
        """Close the current segment and start the next, if there is anything in it."""
        with self._sync_lock, self._write_lock:
            if self.end.offset:
                self._roll()

    def _roll(self) -> None:
        os.fsync(self._file)
        old = self._file
        self._open(self.end.segment + 1)
        os.close(old)

    def forget(self, before: int) -> None:
        """Remove segments with a lower number (landed and applied)."""
        for number in segments(self.folder):
            if number < before and number < self.end.segment:
                (self.folder / f"{number:012d}.log").unlink(missing_ok=True)

    def close(self) -> None:
        """Sync and give the journal to the next writer."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            os.close(self._lock_file)
            self._file = -1


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
