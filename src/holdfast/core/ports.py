"""What the outside must fulfil. The contract is written here; ``holdfast.testing`` proves it for any backend.

Arguments after the first are keyword-only, so a port can grow without breaking an implementer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from holdfast.core.records import Entry, Json
from holdfast.core.tracking import (
    Artifact,
    Clause,
    DatasetInput,
    Experiment,
    LoggedModel,
    Metric,
    ModelOutput,
    ModelStatus,
    Order,
    Point,
    Run,
    RunStatus,
    View,
)

T = TypeVar("T")
Buffer = bytes | memoryview


class Clock(Protocol):
    def now(self) -> int:
        """Business time, microseconds UTC. In a replay this is the replayed time; leases and timeouts never use it."""


class LedgerTransaction(Protocol):
    """Serialised against every other writer: what is read here is still true when it commits."""

    def get(self, table: str, key: str) -> Json | None:
        """The current-state row, or None."""

    def scan(self, table: str, *, prefix: str = "") -> list[tuple[str, Json]]:
        """All rows whose key starts with ``prefix``, in key order."""

    def put(self, table: str, key: str, value: Mapping[str, Any]) -> None:
        """Set the current-state row."""

    def delete(self, table: str, key: str) -> None:
        """Remove the current-state row; nothing if absent."""

    def append(self, kind: str, *, subject: str, body: Mapping[str, Any], at: int, actor: str = "") -> Entry:
        """Add an entry to the chain."""


class Ledger(Protocol):
    """The append-only, hash-chained record of what happened, and the current-state tables it implies.

    Thread and process safe. When a transaction's ``with`` block ends without error, everything in it is durable (it
    survives SIGKILL and, with synchronous=FULL, a power cut) and visible at once to everyone; otherwise none of it is.
    An entry once returned is never changed.
    """

    def transaction(self) -> AbstractContextManager[LedgerTransaction]:
        """Open a serialised read-write transaction. Keep it short: every other writer waits."""

    def append(self, kind: str, *, subject: str, body: Mapping[str, Any], at: int, actor: str = "") -> Entry:
        """One entry in a transaction of its own."""

    def read(self, *, after: int = 0, limit: int = 1000) -> list[Entry]:
        """Entries with sequence > ``after``, oldest first."""

    def query(
        self,
        *,
        kind: str | None = None,
        subject: str | None = None,
        since: int | None = None,
        until: int | None = None,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> list[Entry]:
        """Entries that match all given; ``kind`` may end in ``*``; since <= at < until."""

    def watch(self, *, after: int, timeout: float) -> list[Entry]:
        """As ``read``, but wait up to ``timeout`` seconds for the first entry. Empty when none came."""

    def get(self, table: str, key: str) -> Json | None:
        """The committed current-state row, or None."""

    def scan(self, table: str, *, prefix: str = "") -> list[tuple[str, Json]]:
        """Committed rows whose key starts with ``prefix``, in key order."""

    def lease(self, name: str, *, holder: str, seconds: float) -> bool:
        """Take or renew a lease by real time. True if ``holder`` now has it until ``seconds`` from now."""

    def release_lease(self, name: str, *, holder: str) -> None:
        """Give a lease back; nothing if somebody else holds it."""

    def state_tip(self) -> tuple[int, str]:
        """(number, hash) of the last change of the current-state rows, to be anchored."""

    def verify(self, *, anchor: tuple[int, str] | None = None, state: tuple[int, str] | None = None) -> int:
        """Walk the chain, and hold the current-state rows against what the chain of their changes says they are; return
        the number of entries.

        Args:
            anchor: (sequence, hash) of an entry that must be there; ``state``: the same of a ``state_tip``.

        Raises:
            Damaged: an entry was edited, removed or reordered, an anchored end was cut off, or a row was edited, put in or
                taken out behind the ledger's back; the error names it.
        """

    def close(self) -> None:
        """Release connections. Safe to call twice."""


class Objects(Protocol):
    """Content-addressed bytes, named by SHA-256 (64 hex).

    ``put*`` return after the bytes are durable under their final name; an object is never visible half written.
    Reads verify: wrong bytes raise ``Damaged`` and are never returned.
    """

    def put(self, data: bytes) -> str:
        """Store bytes, return their SHA-256. Storing twice is storing once."""

    def put_file(self, path: Path) -> str:
        """Store a file's bytes without loading them whole, return their SHA-256."""

    def get(self, sha256: str) -> bytes:
        """The bytes.

        Raises:
            NotFound: no such object.
            Damaged: the stored bytes have another hash.
        """

    def fetch(self, sha256: str) -> Path:
        """A local, read-only, verified file with these bytes; for remote stores, a cached copy."""

    def exists(self, sha256: str) -> bool: ...

    def size(self, sha256: str) -> int: ...

    def list(self) -> Iterator[str]:
        """All object names, in no order."""

    def delete(self, sha256: str) -> None:
        """Remove; nothing if absent. Only garbage collection calls this."""


class RunStore(Protocol):
    """Experiments, runs and what they logged. Thread and process safe; a write that returned survives SIGKILL.

    Unless said otherwise a method raises ``NotFound`` for an unknown id, ``BadInput`` for a write to something deleted.
    """

    def transaction(self) -> AbstractContextManager[None]:
        """All calls of this thread inside the block commit together or not at all. Blocks may nest."""

    def at_once(self) -> AbstractContextManager[bool]:
        """A transaction for a thread that must not wait: True where one began at once and will commit without waiting for the
        disk; False where that cannot be said, and then nothing began. What is written so wants a ``tidy`` now and then."""

    def tidy(self) -> None:
        """Do what ``at_once`` put off; may wait for the disk."""

    def remembered(self, request_id: str) -> bytes | None:
        """The answer kept for a request id, or None. Asked inside ``transaction`` it makes a write exactly-once."""

    def remember(self, request_id: str, answer: bytes, *, at: int) -> None:
        """Keep the answer of a request; part of the open transaction."""

    # experiments
    def create_experiment(
        self,
        name: str,
        *,
        at: int,
        artifact_uri: str | None = None,
        tags: Mapping[str, str] | None = None,
        experiment_id: str | None = None,
    ) -> Experiment:
        """A new experiment.

        Raises:
            Conflict: the name is taken.
        """

    def get_experiment(self, experiment_id: str) -> Experiment: ...

    def find_experiment(self, name: str) -> Experiment | None:
        """By name, deleted ones too."""

    def update_experiment(
        self,
        experiment_id: str,
        *,
        at: int,
        name: str | None = None,
        deleted: bool | None = None,
        tags: Mapping[str, str | None] | None = None,
    ) -> Experiment:
        """Change what is given; a tag of None is removed."""

    def search_experiments(
        self,
        *,
        where: Sequence[Clause] = (),
        order: Sequence[Order] = (),
        view: View = "active",
        limit: int = 1000,
        token: str | None = None,
    ) -> tuple[list[Experiment], str | None]:
        """A page and the token of the next one, None at the end."""

    # runs
    def create_run(
        self,
        experiment_id: str,
        *,
        at: int,
        name: str = "",
        user: str = "",
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
        started: int | None = None,
        status: RunStatus = "RUNNING",
    ) -> Run: ...

    def get_run(self, run_id: str) -> Run: ...

    def update_run(
        self,
        run_id: str,
        *,
        at: int,
        status: RunStatus | None = None,
        ended: int | None = None,
        name: str | None = None,
        deleted: bool | None = None,
    ) -> Run:
        """Change what is given."""

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str | None] | None = None,
    ) -> None:
        """Log all of it or nothing. The same metric point twice is one point; a tag of None is removed.

        Raises:
            BadInput: a param has another value already.
        """

    def metric_history(
        self, run_id: str, key: str, *, limit: int = 25_000, token: str | None = None
    ) -> tuple[list[Point], str | None]:
        """Points of a series ordered by (at, step, value), NaN last, a page at a time."""

    def log_inputs(self, run_id: str, *, datasets: Sequence[DatasetInput] = (), models: Sequence[str] = ()) -> None:
        """Datasets and logged models a run read; twice is once."""

    def log_outputs(self, run_id: str, models: Sequence[ModelOutput]) -> None: ...

    def dataset_summaries(self, experiment_ids: Sequence[str], *, limit: int) -> list[Json]:
        """``{experiment_id, name, digest, context}`` of datasets that runs read, each once."""

    def search_runs(
        self,
        experiment_ids: Sequence[str],
        *,
        where: Sequence[Clause] = (),
        order: Sequence[Order] = (),
        view: View = "active",
        limit: int = 1000,
        token: str | None = None,
    ) -> tuple[list[Run], str | None]:
        """A page of runs (ties: newest start first, then id) and the token of the next one."""

    # logged models
    def create_model(
        self,
        experiment_id: str,
        *,
        at: int,
        name: str = "",
        model_type: str = "",
        run_id: str | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> LoggedModel: ...

    def get_model(self, model_id: str) -> LoggedModel: ...

    def update_model(
        self,
        model_id: str,
        *,
        at: int,
        status: ModelStatus | None = None,
        deleted: bool | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str | None] | None = None,
    ) -> LoggedModel: ...

    def search_models(
        self,
        experiment_ids: Sequence[str],
        *,
        where: Sequence[Clause] = (),
        datasets: Sequence[tuple[str, str | None]] = (),
        order: Sequence[Order] = (),
        limit: int = 100,
        token: str | None = None,
    ) -> tuple[list[LoggedModel], str | None]: ...

    # artifacts: an index of paths; the bytes are objects
    def put_artifact(self, path: str, *, sha256: str, size: int, at: int) -> None: ...

    def get_artifact(self, path: str) -> Artifact | None: ...

    def list_artifacts(self, prefix: str) -> list[Artifact]:
        """All files under a folder (``prefix`` without trailing slash; '' for all), at any depth, by path."""

    def delete_artifacts(self, path: str) -> int:
        """Forget a file, or everything under a folder; the number forgotten."""

    def purge(self, *, before: int) -> list[str]:
        """Hard-delete experiments, runs and logged models deleted before an instant, with all they logged. Returns the
        SHA-256 of artifact bytes no remaining artifact names."""

    def close(self) -> None: ...


Merge = Callable[[Sequence[Buffer | None]], Sequence[Buffer | None] | None]
"""Given the stored values of one group of keys (None where absent), the values to store (None removes, the very
object that was given stays), or None to leave the group as it is. Pure: a store may call it again when another writer
was faster. Buffers are valid during the call."""


class OnlineStore(Protocol):
    """Online feature rows as bytes by key. The one upsert rule is not written here but in ``features``: every write is a
    merge of what is stored with what is new, and merges are idempotent and order-free, so a store only has to
    apply them atomically. Durability on return is not promised: the push journal is the truth, the store can be rebuilt.

    Many threads and processes may read while one process writes.
    """

    waits: bool
    """Whether a call may have to wait for another machine: then it has no place on an event loop."""

    def fetch(self, keys: Sequence[bytes], *, use: Callable[[list[Buffer | None]], T]) -> T:
        """``use`` of the stored values in the keys' order (None where absent), all from one moment. The buffers are valid
        only until ``use`` returns."""

    def update(
        self, groups: Sequence[tuple[Sequence[bytes], Merge]], *, meta: Mapping[str, bytes] | None = None
    ) -> None:
        """Merge each group of keys, in order, and set ``meta`` marks. A group is written whole or not at all; a mark only
        after everything before it. A merge that raises leaves nothing of its batch."""

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All (key, value) whose key starts with ``prefix``, in key order where the store has one."""

    def drop(self, prefix: bytes) -> int:
        """Remove all keys that start with ``prefix``; the number removed."""

    def clear(self) -> None:
        """Remove everything, marks included."""

    def meta_get(self, name: str) -> bytes | None:
        """A mark set by ``update``, or None."""

    def flush(self) -> None:
        """Hand what is written to the disk, where there is one."""

    def close(self) -> None:
        """Release the store. Safe to call twice."""


class FeatureLookup(Protocol):
    """A compiled feature service, as serving sees it: no registry, no planning per request."""

    columns: Sequence[str]
    waits: bool
    """Whether ``rows`` may have to wait for another machine: then it has no place on an event loop."""

    def rows(self, requests: Sequence[Json], *, at: Sequence[int]) -> list[Json]:
        """Feature values (on-demand ones included) by column name, one dict per request, as known at ``at``.

        Raises:
            BadInput: an entity key is missing or of the wrong type; the message names it.
            Unavailable: the online store does not answer.
        """

    def fresh_until(self) -> dict[str, int]:
        """The instant (µs) up to which each view has been materialized; views that never were are left out."""


class Predictor(Protocol):
    """A loaded model. ``matrix`` rows are the package's inputs in order, float64 with NaN for null."""

    def scores(self, matrix: Any) -> Any:
        """ndarray (n,) of P(class 1) for binary, (n, k) for multiclass, (n,) of values for regression."""


class Engine(Protocol):
    """Runs SQL over files and Arrow tables, spilling to disk."""

    def query(self, sql: str, *, tables: Mapping[str, Any] | None = None) -> Any:
        """A pyarrow Table. ``tables`` are Arrow tables visible under their names."""

    def stream(self, sql: str, *, tables: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """As ``query``, in pyarrow RecordBatches, so that a result larger than memory can be walked."""

    def close(self) -> None: ...


class Launcher(Protocol):
    """Starts jobs: here a subprocess, elsewhere an existing cluster engine."""

    def run(
        self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path, timeout: float | None = None
    ) -> int:
        """Run to the end, output appended to ``log``; the exit status. The job dies with its parent."""


Progress = Callable[[int, int | None, str], None]
"""(done, total or None, what): long work reports to it; the CLI draws it, everyone else passes a no-op."""
