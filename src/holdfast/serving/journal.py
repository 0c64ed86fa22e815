"""Writing the prediction log: one writer thread per replica, natural group commit, never in the way of an answer.

``durable``: an offered batch resolves to True after the group's fdatasync. ``buffered``: True at once while the log
is healthy; a killed process may lose the last ``TICK`` of it, a power cut the last ``SYNC``. When the disk refuses,
answers say ``logged: false``, the loss is counted, writing is tried again: nothing here fails or slows a prediction.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdfast.core.identity import new_id
from holdfast.serving import segments
from holdfast.serving.segments import Batch, Layout

if TYPE_CHECKING:
    import pyarrow as pa

TICK = 0.02
SYNC = 1.0
MAX_PENDING = 200_000
SEGMENT_BYTES = 8 << 20
_GROUP_ROWS = 20_000
log = logging.getLogger("holdfast.serving.journal")


class Journal:
    """The prediction log of one replica process. ``offer`` is called from one event loop."""

    def __init__(
        self,
        folder: Path,
        *,
        mode: Literal["durable", "buffered"] = "buffered",
        replica: str = "0",
        segment_bytes: int = SEGMENT_BYTES,
        sync: Callable[[int], None] = os.fdatasync if hasattr(os, "fdatasync") else os.fsync,
    ) -> None:
        self.folder = folder
        self.mode = mode
        self.replica = replica
        self.healthy = True
        self.written = 0
        self.failures = 0
        self._sync_file = sync
        self._segment_bytes = segment_bytes
        # Shared by two threads: the loop appends on the right, the writer takes from the left. Each counts for itself.
        self._pending: deque[tuple[Batch, asyncio.Future[bool] | None]] = deque()
        self._offered = 0
        self._settled = 0
        self._refused = 0
        self._given_up = 0
        self._wake = threading.Event()
        self._stop = False
        self._file: int | None = None
        self._offset = 0
        self._dirty = False
        self._synced = 0.0
        self._layouts: dict[int, tuple[int, Layout]] = {}
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Rows offered and not yet written."""
        return self._offered - self._settled

    @property
    def lost(self) -> int:
        """Rows the log does not have: refused because too many were waiting, or given up after a failed write."""
        return self._refused + self._given_up

    def offer(self, batch: Batch) -> bool | asyncio.Future[bool]:
        """Take a batch. What it returns, or resolves to, is whether the log promises to have it."""
        n = len(batch.ids)
        if self.pending + n > MAX_PENDING or self._stop:
            self._refused += n
            return False
        self._offered += n
        if self.mode == "durable":
            future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._pending.append((batch, future))
            self._wake.set()
            return future
        self._pending.append((batch, None))
        if not self._wake.is_set():
            self._wake.set()
        return self.healthy

    def close(self, timeout: float = 5.0) -> None:
        """Write what is pending and close the segment."""
        self._stop = True
        self._wake.set()
        self._thread.join(timeout)

    # --- the writer thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            stopping = self._stop
            idle = None if not self._dirty else max(SYNC - (time.monotonic() - self._synced), 0.001)
            if not stopping and not self._pending:
                self._wake.wait(idle)
            if self.mode == "buffered" and not self._stop:
                time.sleep(TICK)
            self._wake.clear()
            pending = [self._pending.popleft() for _ in range(len(self._pending))]
            if pending:
                self._group(pending, final=stopping)
            if self._dirty and (stopping or time.monotonic() - self._synced >= SYNC):
                self._sync()
            if stopping and not self._pending:
                self._close_segment()
                return

    def _group(self, pending: list[tuple[Batch, asyncio.Future[bool] | None]], *, final: bool) -> None:
        rows = sum(len(b.ids) for b, _ in pending)
        try:
            self._write([b for b, _ in pending])
        except OSError as problem:
            self.failures += 1
            if self.healthy:
                log.error("the prediction log cannot be written: %s; answers go on, marked logged: false", problem)
            self.healthy = False
            self._abandon()
            if self.mode == "buffered" and not final and self.pending < MAX_PENDING:
                self._pending.extendleft(reversed(pending))
                time.sleep(0.25)
                return
            self._given_up += rows
            ok = False
        except Exception:
            # Rows that cannot be written down must not take the log of all others with them.
            if len(pending) > 1:
                for one in pending:
                    self._group([one], final=final)
                return
            log.exception("%d predictions cannot be written down", rows)
            self.failures += 1
            self._given_up += rows
            ok = False
        else:
            if not self.healthy:
                log.warning("the prediction log is written again")
            self.healthy = ok = True
            self.written += rows
        self._settled += rows
        self._resolve([f for _, f in pending if f is not None], ok)

    def _write(self, batches: list[Batch]) -> None:
        if self._file is None:
            self._open_segment()
        out: list[bytes] = []
        layouts = dict(self._layouts)
        groups: dict[tuple[int, int], list[Batch]] = {}
        for batch in batches:
            groups.setdefault((id(batch.layout), batch.scores.shape[-1] if batch.scores.ndim > 1 else 1), []).append(
                batch
            )
        for (key, _), members in groups.items():
            if key not in layouts:
                layouts[key] = (len(layouts), members[0].layout)
                out.append(segments.layout_frame(layouts[key][0], members[0].layout))
            number = layouts[key][0]
            part: list[Batch] = []
            rows = 0
            for member in members:
                part.append(member)
                rows += len(member.ids)
                if rows >= _GROUP_ROWS:
                    out.append(segments.rows_frame(number, part))
                    part, rows = [], 0
            if part:
                out.append(segments.rows_frame(number, part))
        assert self._file is not None
        self._layouts = layouts  # all of it could be written down, so it will be, or the segment is given up
        data = memoryview(b"".join(out))
        done = 0
        while done < len(data):
            done += os.write(self._file, data[done:])
        if self.mode == "durable":
            self._sync_file(self._file)
        else:
            self._dirty = True
        self._offset += len(data)
        if self._offset >= self._segment_bytes:
            if self._dirty:
                self._sync()
            self._close_segment()

    def _open_segment(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{new_id()}-{self.replica}"
        hidden, final = self.folder / f".{name}.tmp", self.folder / f"{name}{segments.SUFFIX}"
        fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # Held while the segment may still grow: a reader that gets the lock knows the segment is closed.
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.write(fd, segments.MAGIC)
            hidden.rename(final)
            if self.mode == "durable":
                folder = os.open(self.folder, os.O_RDONLY)
                try:
                    self._sync_file(fd)
                    os.fsync(folder)
                finally:
                    os.close(folder)
        except OSError:
            os.close(fd)
            hidden.unlink(missing_ok=True)
            raise
        self._file, self._offset = fd, len(segments.MAGIC)
        self._layouts = {}

    def _abandon(self) -> None:
        """Give up the open segment after a failed write; its torn tail is cut off where that works."""
        if self._file is not None:
            import contextlib

            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._offset)
            self._close_segment()

    def _close_segment(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None
        self._dirty = False

    def _sync(self) -> None:
        self._synced = time.monotonic()
        self._dirty = False
        if self._file is not None:
            try:
                self._sync_file(self._file)
            except OSError as problem:
                self.failures += 1
                self.healthy = False
                log.error("the prediction log cannot be synced: %s", problem)
                self._close_segment()

    def _resolve(self, futures: list[asyncio.Future[bool]], ok: bool) -> None:
        if not futures:
            return
        import contextlib

        with contextlib.suppress(RuntimeError):  # the loop may be closed when a stopping replica writes its last group
            futures[0].get_loop().call_soon_threadsafe(_settle, futures, ok)


def _settle(futures: list[asyncio.Future[bool]], ok: bool) -> None:
    for future in futures:
        if not future.done():
            future.set_result(ok)


def read(
    folder: Path,
    *,
    since: int | None = None,
    until: int | None = None,
    environment: str | None = "production",
    **options: Any,
) -> pa.Table:
    """The prediction log with since <= request_time < until; see ``serving.predictions.read``."""
    from holdfast.serving import predictions

    return predictions.read(folder, since=since, until=until, environment=environment, **options)


def compact(folder: Path) -> int:
    """Turn closed segments into Parquet; the number of segments turned."""
    from holdfast.serving import predictions

    return predictions.compact(folder)
