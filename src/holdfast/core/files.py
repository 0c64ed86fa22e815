"""Writing files so that they are there, whole, after a crash: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_FEW = 8
_BEGIN_WRITING = 2  # SYNC_FILE_RANGE_WRITE
_FULL_SYNC = 51  # F_FULLFSYNC of macOS: fsync there does not empty the drive's cache.


def sync(descriptor: int) -> None:
    """Return when the bytes of an open file, or the names in an open folder, are on the disk."""
    if sys.platform == "darwin":
        import fcntl

        try:
            fcntl.fcntl(descriptor, _FULL_SYNC)
        except OSError:
            os.fsync(descriptor)  # a file system without it, e.g. a network one
        return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(paths: Sequence[str], folder: str) -> None:
    """Return when the bytes of many closed files, and all names on the file system of ``folder``, are on the disk.

    One request to the file system where it takes one (Linux), which is a hundred times cheaper than one a file.
    """
    if len(paths) > _FEW and sync_file_system(folder):
        return
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)
    for parent in {Path(path).parent for path in paths}:
        sync_folder(parent)


def sync_file_system(folder: str) -> bool:
    """Return when all on the file system of ``folder`` is on the disk. False where there is no such request."""
    if sys.platform != "linux":
        return False
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        return False
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if call(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), folder)
    finally:
        os.close(descriptor)
    return True


def begin_sync(descriptor: int, offset: int, length: int) -> None:
    """Have a range of an open file begin its way to the disk while others of its bytes are still worked out, so that the
    sync at the end has less to wait for. Promises nothing; nothing happens where the system has no call for it."""
    if sys.platform != "linux":
        return
    import ctypes

    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _BEGIN_WRITING)


@contextmanager
def replacing(path: Path, *, mode: int = 0o644, scratch: Path | None = None) -> Iterator[IO[bytes]]:
    """A file to write; when the block ends well it durably takes the name ``path``, otherwise nothing changes.

    Args:
        mode: permission bits of the new file, before the umask.
        scratch: folder of the temporary file, on the same file system; beside ``path`` when None.
    """
    temporary = (scratch or path.parent) / f".{path.name[:40]}.{os.getpid()}.{os.urandom(6).hex()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as f:
            yield f
            f.flush()
            sync(f.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Durably give ``path`` these bytes; readers see the old file or the new one."""
    with replacing(path, mode=mode) as f:
        f.write(data)
