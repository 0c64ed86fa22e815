"""Natural micro-batching: one thread per version takes whatever has queued, as one call, and answers each its share.

Nobody waits for a batch to fill. The queue is bounded: a version that hangs fills it and is then refused at once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from holdfast.core.errors import HoldfastError
from holdfast.serving.model import Loaded, ModelFailed

MAX_BATCH_ROWS = 2048

Done = Callable[[Any], None]


class Job:
    """Rows that want one version's answer. ``done`` gets (matrix, scores) or an exception, on the event loop."""

    __slots__ = ("at", "clock", "done", "dropped", "names", "rows")

    def __init__(self, rows: Sequence[tuple[Any, ...]], names: tuple[str, ...], at: Sequence[int], done: Done) -> None:
        self.rows = rows
        self.names = names
        self.at = at
        self.done = done
        self.dropped = False
        self.clock: list[int] | None = None


class Batcher:
    """The queue and thread of one loaded version. Created on the event loop."""

    def __init__(self, model: Loaded, *, queue_rows: int = 4096, on_batch: Callable[[int], None] | None = None) -> None:
        self.model = model
        self._queue: deque[Job] = deque()
        self._rows = 0
        self._limit = queue_rows
        self._ready = threading.Condition()
        self._loop = asyncio.get_running_loop()
        self._stop = False
        self._on_batch = on_batch or (lambda n: None)
        self._thread: threading.Thread | None = None
        self._since = 0.0

    @property
    def running(self) -> float:
        """Seconds that the model call now under way has taken; 0 when there is none."""
        since = self._since
        return time.monotonic() - since if since else 0.0

    @property
    def queued(self) -> int:
        """Rows taken in and not yet answered."""
        return self._rows

    def submit(self, job: Job) -> bool:
        """Queue a job; False when the queue is full (a lone job of any size is always taken)."""
        n = len(job.rows)
        with self._ready:
            if self._stop or (self._rows and self._rows + n > self._limit):
                return False
            self._rows += n
            self._queue.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"model-{self.model.version}", daemon=True)
                self._thread.start()
            self._ready.notify()
        return True

    async def run(
        self,
        rows: Sequence[tuple[Any, ...]],
        names: tuple[str, ...],
        at: Sequence[int],
        timeout: float,
        *,
        clock: list[int] | None = None,
    ) -> Any:
        """(matrix, scores) of the rows. ``clock`` as in ``Loaded.evaluate``: the instants of the batch they were part of.

        Raises:
            ModelFailed: the version failed, did not answer within ``timeout`` seconds, or its queue is full.
            BadInput: the lookup refused a row.
        """
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(result: Any) -> None:
            if not future.done():
                if isinstance(result, BaseException):
                    future.set_exception(result)
                else:
                    future.set_result(result)

        job = Job(rows, names, at, done)
        job.clock = clock
        if not self.submit(job):
            raise ModelFailed(f"version {self.model.version} has a full queue", number="HF922")
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            job.dropped = True
            raise ModelFailed(
                f"version {self.model.version} did not answer within {timeout:g} s", number="HF921"
            ) from None

    def close(self) -> None:
        """Stop after the running batch; queued jobs are answered with a failure."""
        with self._ready:
            self._stop = True
            self._ready.notify()

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._queue and not self._stop:
                    self._ready.wait()
                if self._stop and not self._queue:
                    return
                jobs = [self._queue.popleft()]
                rows = len(jobs[0].rows)
                # Only jobs with the same columns can share a call.
                while (
                    self._queue
                    and self._queue[0].names == jobs[0].names
                    and rows + len(self._queue[0].rows) <= MAX_BATCH_ROWS
                ):
                    rows += len(self._queue[0].rows)
                    jobs.append(self._queue.popleft())
            live = [j for j in jobs if not j.dropped]
            self._since = time.monotonic()
            results = self._answer(live)
            self._since = 0.0
            with self._ready:
                self._rows -= rows
            try:
                self._loop.call_soon_threadsafe(self._deliver, live, results)
            except RuntimeError:  # the loop is closed: the replica is stopping
                return

    def _answer(self, jobs: list[Job]) -> list[Any]:
        if not jobs:
            return []
        if len(jobs) == 1:
            return [self._one(jobs[0])]
        rows = [r for j in jobs for r in j.rows]
        clock: list[int] | None = [] if any(j.clock is not None for j in jobs) else None
        try:
            matrix, scores = self.model.evaluate(rows, jobs[0].names, [t for j in jobs for t in j.at], clock=clock)
        except Exception:  # noqa: BLE001 - one bad job must not fail its neighbours: each again on its own
            return [self._one(j) for j in jobs]
        out, at = [], 0
        for job in jobs:
            if job.clock is not None and clock is not None:
                job.clock += clock
            end = at + len(job.rows)
            out.append((matrix[at:end], scores[at:end]))
            at = end
        return out

    def _one(self, job: Job) -> Any:
        try:
            return self.model.evaluate(job.rows, job.names, job.at, clock=job.clock)
        except HoldfastError as problem:
            return problem
        except Exception as problem:  # noqa: BLE001 - delivered to whoever waits
            failure = ModelFailed(f"version {self.model.version} failed: {type(problem).__name__}")
            failure.__cause__ = problem
            return failure

    def _deliver(self, jobs: list[Job], results: list[Any]) -> None:
        self._on_batch(sum(len(j.rows) for j in jobs))
        for job, result in zip(jobs, results, strict=True):
            job.done(result)
