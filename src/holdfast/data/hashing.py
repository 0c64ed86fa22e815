"""Both names of a file's bytes (MD5 for DVC, SHA-256 for the ledger) from one read, and the copy made in the same read.

MD5 here is a name, never a proof: wherever integrity matters the SHA-256 stands beside it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple, Protocol, TypeVar

from holdfast.core.errors import BadInput, Conflict
from holdfast.core.files import begin_sync
from holdfast.data.tree import signature

SMALL = 1 << 20
PIECE = 1 << 20
PIECES = 8
"""Of a large file in memory at once."""
WRITTEN = 512 << 10
"""A piece is written in parts of this size: larger writes took several times as long where it was measured."""
AHEAD = 8 << 20
GROUP = 128
"""Files handed to a thread or a process at a time, at most."""
WORKERS = min(16, 4 * (os.cpu_count() or 1))
T = TypeVar("T")
R = TypeVar("R")
Item = TypeVar("Item", contravariant=True)


class Hand(Protocol[Item, R]):
    """Somebody who works on groups of items elsewhere."""

    def work(self, items: Sequence[Item]) -> list[R] | None:
        """The results in the items' order; None where they have to be done by whoever asks."""

    def dismiss(self) -> None:
        """End it, whatever it is at."""


class Digest(NamedTuple):
    """Names of a file's bytes, and the stat they were read under."""

    md5: str
    sha256: str
    stat: tuple[int, int, int, int]
    mode: int = 0o644

    @property
    def size(self) -> int:
        return self.stat[0]


def open_regular(path: str | os.PathLike[str]) -> tuple[int, os.stat_result]:
    """Open a file for reading, never waiting on a pipe.

    Raises:
        BadInput: it is not a regular file.
        OSError: as ``open``.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise BadInput(f"{os.fspath(path)} is not a regular file")
    return fd, status


def digest(
    path: str | os.PathLike[str], *, copy_to: int | None = None, on_bytes: Callable[[int], None] | None = None
) -> Digest:
    """Hash a file; with ``copy_to`` the same bytes are written to that descriptor.

    Raises:
        Conflict: the file changed while it was read.
        BadInput: not a regular file.
    """
    fd, before = open_regular(path)
    try:
        if before.st_size <= SMALL:
            md5, sha256, count = small(fd, before.st_size, copy_to)
        else:
            md5, sha256, count = _large(fd, copy_to, on_bytes)
        after = os.fstat(fd)
    finally:
        os.close(fd)
    if signature(before) != signature(after) or count != after.st_size:
        raise changed(path)
    return Digest(md5, sha256, signature(after), stat.S_IMODE(after.st_mode))


def changed(path: str | os.PathLike[str]) -> Conflict:
    return Conflict(f"{os.fspath(path)} changed while it was read", hint="wait until it is written, then run again")


def named(path: str) -> tuple[str, str, tuple[int, int, int, int], int]:
    """``digest`` as plain values, for another process.

    Raises:
        Conflict, BadInput: as ``digest``.
    """
    found = digest(path)
    return found.md5, found.sha256, found.stat, found.mode


def small(fd: int, size: int, copy_to: int | None = None) -> tuple[str, str, int]:
    """Both names of an open file of this size, and how many bytes were read."""
    data = os.read(fd, size + 1)
    while len(data) < size:  # whether it grew meanwhile, the stat after says
        more = os.read(fd, size + 1 - len(data))
        if not more:
            break
        data += more
    if copy_to is not None:
        write_all(copy_to, data)
    return hashlib.md5(data, usedforsecurity=False).hexdigest(), hashlib.sha256(data).hexdigest(), len(data)


def write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _writer(fd: int) -> Callable[[memoryview], None]:
    """Writes pieces of a large file one after the other, and has the disk begin with them before the last one."""
    written = begun = 0

    def write(piece: memoryview) -> None:
        nonlocal written, begun
        for at in range(0, len(piece), WRITTEN):
            part = piece[at : at + WRITTEN]
            write_all(fd, part)
            written += len(part)
            if written - begun >= AHEAD:
                begin_sync(fd, begun, written - begun)
                begun = written

    return write


class _Beside(threading.Thread):
    """Works on the pieces handed to it, in their order, beside the thread that reads them."""

    def __init__(self, work: Callable[[memoryview], object]) -> None:
        super().__init__(daemon=True)
        self.work = work
        self.pieces: SimpleQueue[memoryview | None] = SimpleQueue()
        self.free = threading.Semaphore(PIECES)
        self.start()

    def run(self) -> None:
        while (piece := self.pieces.get()) is not None:
            self.work(piece)
            self.free.release()


def _large(fd: int, copy_to: int | None, on_bytes: Callable[[int], None] | None) -> tuple[str, str, int]:
    """MD5 takes as long as all the rest, so it has a thread of its own, which may fall behind by some pieces: with one
    thread a kind of work, in step with each other, two cores were idle a quarter of the time."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    write = _writer(copy_to) if copy_to is not None else None
    buffers = [memoryview(bytearray(PIECE)) for _ in range(PIECES)]
    beside = _Beside(md5.update)
    count = 0
    try:
        for buffer in itertools.cycle(buffers):
            beside.free.acquire()
            got = os.readv(fd, [buffer])
            if not got:
                break
            piece = buffer[:got]
            beside.pieces.put(piece)
            sha256.update(piece)
            if write is not None:
                write(piece)
            count += got
            if on_bytes is not None:
                on_bytes(got)
    finally:
        beside.pieces.put(None)
        beside.join()
    return md5.hexdigest(), sha256.hexdigest(), count


def is_little(files: int, size: Callable[[], int]) -> bool:
    """Whether files on this machine (so many, so many bytes) are done sooner than threads for them are started."""
    return files <= 256 and size() <= 16 << 20


class _Stopped(Exception):
    """A group was left undone because the whole has ended."""


def in_parallel(
    work: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int = WORKERS,
    alone: bool = False,
    beside: Sequence[Hand[T, R]] = (),
) -> Iterable[R]:
    """Results in the items' order; one by one where they are very few or ``alone`` says so. The first error ends it;
    nothing new is begun after it. Each of ``beside`` has a thread that hands it whole groups."""
    if alone or len(items) < 4:
        yield from map(work, items)
        return
    # Handing over one small file at a time costs more than hashing it.
    step = max(1, min(GROUP, len(items) // ((workers + len(beside)) * 4)))
    groups = [items[at : at + step] for at in range(0, len(items), step)]
    results: list[list[R] | BaseException] = [[] for _ in groups]
    ready = [threading.Semaphore(0) for _ in groups]
    turns, ended = itertools.count(), threading.Event()

    def here(group: Sequence[T]) -> list[R]:
        done = []
        for item in group:
            if ended.is_set():
                raise _Stopped
            done.append(work(item))
        return done

    def labour(hand: Hand[T, R] | None) -> None:
        # Groups are begun in order, so whoever fails has only groups behind it that will not be done.
        while not ended.is_set() and (at := next(turns)) < len(groups):
            try:
                done = hand.work(groups[at]) if hand is not None else None
                results[at] = here(groups[at]) if done is None else done
            except BaseException as error:  # noqa: BLE001  (raised again where the results are taken)
                results[at] = error
                ended.set()
            ready[at].release()

    # Not concurrent.futures: importing it takes as long as hashing a few hundred small files.
    threads = [
        threading.Thread(target=labour, args=(hand,), name=f"holdfast-data-{at}", daemon=True)
        for at, hand in enumerate([*[None] * min(workers, len(groups)), *beside])
    ]
    for thread in threads:
        thread.start()

    def end() -> None:
        ended.set()
        for hand in beside:
            hand.dismiss()
        for thread in threads:
            thread.join()

    try:
        for at, one in enumerate(ready):
            one.acquire()
            outcome, results[at] = results[at], []
            if isinstance(outcome, BaseException):
                end()
                raise next(
                    (e for e in results if isinstance(e, BaseException) and not isinstance(e, _Stopped)), outcome
                )
            yield from outcome
    finally:
        end()


def tree_sha256(members: Iterable[tuple[str, str, int]]) -> str:
    """The SHA-256 name of a folder: over the canonical JSON (UTF-8, no blanks) of its sorted [path, sha256, size] triples."""
    from json.encoder import encode_basestring as quoted

    text = ",".join([f'[{quoted(path)},"{sha256}",{size}]' for path, sha256, size in sorted(members)])
    return hashlib.sha256(f"[{text}]".encode()).hexdigest()


def same_bytes(path: Path, md5: str) -> bool:
    """Whether a file is there with these bytes."""
    try:
        fd, _ = open_regular(path)
    except (OSError, BadInput):
        return False
    with open(fd, "rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5


def copy_md5(path: str, fd: int | None) -> str:
    """The MD5 of a file whose bytes are written to ``fd`` in the same read."""
    source, status = open_regular(path)
    try:
        if status.st_size <= SMALL:
            data = os.read(source, status.st_size + 1)
            if fd is not None:
                write_all(fd, data)
            return hashlib.md5(data, usedforsecurity=False).hexdigest()
        digest = hashlib.md5(usedforsecurity=False)
        buffer = memoryview(bytearray(PIECE))
        write = _writer(fd) if fd is not None else None
        while got := os.readv(source, [buffer]):
            digest.update(buffer[:got])
            if write is not None:
                write(buffer[:got])
        return digest.hexdigest()
    finally:
        os.close(source)


def copied(item: tuple[str, str]) -> tuple[str, int] | None:
    """Copy a file, (path, fresh name), in the same read as its MD5 is worked out: that and its size. None if there is none.
    What was done half is done anew."""
    path, target = item
    try:
        source, status = open_regular(path)
    except FileNotFoundError:
        return None
    os.close(source)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        return copy_md5(path, fd), status.st_size
    finally:
        os.close(fd)


def md5_of(data: bytes) -> str:
    """The MD5 name of bytes."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
