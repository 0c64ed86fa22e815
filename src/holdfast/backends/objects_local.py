"""Objects in a folder: ``ab/cdef…`` named by SHA-256, read-only, written whole or not at all, verified when read."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from holdfast.core.errors import BadInput, Damaged, NotFound
from holdfast.core.files import replacing, sync, sync_folder

_NAME = re.compile(r"[0-9a-f]{64}\Z")
_PIECE = 1 << 20
_STALE_SECONDS = 24 * 3600


class LocalObjects:
    """Fulfils ``core.ports.Objects``.

    Args:
        root: the folder; made when something is first put.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._scratch = root / "tmp"
        self._verified: dict[str, tuple[int, ...]] = {}
        self._lock = threading.Lock()
        self._swept = False

    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        path = self._path(name)
        if self._settle(name, len(data)):
            return name
        self._make(path)
        with replacing(path, mode=0o444, scratch=self._scratch) as f:
            f.write(data)
        sync_folder(self._root)
        return name

    def put_file(self, path: Path) -> str:
        # Hashed while copied: what is stored is what was hashed, even if the file is changed meanwhile.
        self._make(self._root / "00" / "x")
        scratch = self._scratch / f"{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}"
        try:
            size, name = _copy(path, scratch)
            final = self._path(name)
            if self._settle(name, size):
                return name
            self._make(final)
            scratch.replace(final)
        finally:
            scratch.unlink(missing_ok=True)
        sync_folder(final.parent)
        sync_folder(self._root)
        return name

    def get(self, sha256: str) -> bytes:
        path = self._path(sha256)
        with _opened(path, sha256) as f:
            data = f.read()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _damaged(sha256)
        return data

    def fetch(self, sha256: str) -> Path:
        path = self._path(sha256)
        with _opened(path, sha256) as f:
            self._check(sha256, f)
        return path

    def _check(self, sha256: str, f: BufferedReader) -> None:
        """Verify an open object; once per state of the file. Its change time cannot be set by hand."""
        mark = _mark(os.fstat(f.fileno()))
        if self._verified.get(sha256) == mark:
            return
        if hashlib.file_digest(f, "sha256").hexdigest() != sha256:
            raise _damaged(sha256)
        self._verified[sha256] = mark

    @contextmanager
    def receiving(self, sha256: str) -> Iterator[Callable[[bytes], object]]:
        """Take in an object piece by piece; it is kept only if the bytes are the named ones.

        Raises:
            Damaged: other bytes came.
        """
        path, hashed = self._path(sha256), hashlib.sha256()
        self._make(path)
        with replacing(path, mode=0o444, scratch=self._scratch) as f:

            def write(piece: bytes) -> None:
                hashed.update(piece)
                f.write(piece)

            yield write
            if hashed.hexdigest() != sha256:
                raise _damaged(sha256)

    def exists(self, sha256: str) -> bool:
        try:
            return stat.S_ISREG(self._path(sha256).lstat().st_mode)
        except FileNotFoundError:
            return False

    def size(self, sha256: str) -> int:
        with _opened(self._path(sha256), sha256) as f:
            return os.fstat(f.fileno()).st_size

    def list(self) -> Iterator[str]:
        try:
            shards = sorted(entry.name for entry in os.scandir(self._root) if len(entry.name) == 2)
        except FileNotFoundError:
            return
        for shard in shards:
            for entry in os.scandir(self._root / shard):
                if _NAME.match(shard + entry.name):
                    yield shard + entry.name

    def delete(self, sha256: str) -> None:
        path = self._path(sha256)
        self._verified.pop(sha256, None)
        try:
            path.unlink()
        except FileNotFoundError:
            return
        sync_folder(path.parent)

    def touched(self, sha256: str) -> float:
        """Seconds since 1970 when the object was last put; garbage collection spares what is young."""
        return self._path(sha256).lstat().st_mtime

    def _path(self, sha256: str) -> Path:
        if not _NAME.match(sha256):
            raise BadInput(
                f"{sha256!r} is not the name of an object", hint="an object is named by 64 hexadecimal digits"
            )
        return self._root / sha256[:2] / sha256[2:]

    def _settle(self, sha256: str, size: int) -> bool:
        """Whether the object is already there, sound; if so it is made durable and young, as if written now."""
        path = self._path(sha256)
        try:
            with _opened(path, sha256) as f:
                if os.fstat(f.fileno()).st_size != size:
                    return False
                self._check(sha256, f)
                with suppress(OSError):
                    os.utime(f.fileno())
                    self._verified[sha256] = _mark(os.fstat(f.fileno()))
        except (NotFound, Damaged):
            return False
        # Whoever wrote it may have died between the rename and the sync of the folders.
        sync_folder(path.parent)
        sync_folder(self._root)
        return True

    def _make(self, path: Path) -> None:
        if not self._root.is_dir():
            self._root.mkdir(parents=True, exist_ok=True)
            sync_folder(self._root.parent)
        path.parent.mkdir(exist_ok=True)
        self._scratch.mkdir(exist_ok=True)
        with self._lock:
            if self._swept:
                return
            self._swept = True
        for entry in os.scandir(self._scratch):
            with suppress(OSError):
                if time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                    Path(entry.path).unlink()


def _copy(source: Path, target: Path) -> tuple[int, str]:
    """Copy durably into a new read-only file; (size, SHA-256) of what was copied."""
    hashed, size = hashlib.sha256(), 0
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    with source.open("rb") as f, os.fdopen(descriptor, "wb", buffering=0) as out:
        while piece := f.read(_PIECE):
            hashed.update(piece)
            size += len(piece)
            view = memoryview(piece)
            while view:
                view = view[out.write(view) :]
        sync(out.fileno())
    return size, hashed.hexdigest()


def _opened(path: Path, name: str) -> BufferedReader:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(
            f"there is no object {name}", hint="it was never stored here, or garbage collection removed it"
        ) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _damaged(name) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _damaged(name)
    return os.fdopen(descriptor, "rb")


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _damaged(name: str) -> Damaged:
    return Damaged(
        f"object {name} does not hold the bytes it was stored with",
        hint="put the original again, or restore it from a backup",
    )
