"""What the outside must fulfil. The contract is written here; ``holdfast.testing`` proves it for any backend.

Arguments after the first are keyword-only, so a port can grow without breaking an implementer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from holdfast.core.records import Entry, Json

T = TypeVar("T")


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

    def verify(self, *, anchor: tuple[int, str] | None = None) -> int:
        """Walk the chain; return the number of entries.

        Raises:
            Damaged: an entry was edited, removed, reordered, or the chain is shorter than ``anchor`` (sequence, hash).
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


class OnlineStore(Protocol):
    """Newest feature rows and windowed events by entity key. One upsert rule everywhere: a row replaces another of the
    same (view, key) iff its (event time, arrival, sequence) is greater; an event is identified by its id, so late,
    repeated and reordered writes end in the same state. Values are as written; ttl is applied by the reader.
    """

    def write(self, rows: Iterable[tuple[str, bytes, int, int, int, bytes]]) -> None:
        """Upsert (view version, encoded key, event time, arrival, sequence, encoded values). Durable on return is not
        promised: the push journal is the truth, the store can be rebuilt from it."""

    def read(self, view: str, keys: Sequence[bytes]) -> list[tuple[int, int, int, bytes] | None]:
        """(event time, arrival, sequence, values) per key, in the keys' order; None where unknown."""

    def append_events(self, view: str, events: Iterable[tuple[bytes, int, int, int, bytes]]) -> None:
        """Add (encoded key, event time, arrival, sequence, encoded values) events of a windowed view. An event with the
        same (key, event time, arrival, sequence) is the same event."""

    def read_events(self, view: str, keys: Sequence[bytes], *, after: int, upto: int) -> list[list[tuple[int, int, int, bytes]]]:
        """Per key the events with after < event time <= upto, ordered by (event time, arrival, sequence)."""

    def expire_events(self, view: str, *, before: int) -> int:
        """Drop events with event time <= before; the number dropped."""

    def drop(self, view: str) -> None:
        """Forget a view version."""

    def meta_get(self, name: str) -> bytes | None: ...

    def meta_set(self, name: str, value: bytes) -> None: ...

    def close(self) -> None: ...


class FeatureLookup(Protocol):
    """A compiled feature service, as serving sees it: no registry, no planning per request."""

    columns: Sequence[str]

    def rows(self, requests: Sequence[Json], *, at: Sequence[int]) -> list[Json]:
        """Feature values (on-demand ones included) by column name, one dict per request, as known at ``at``.

        Raises:
            BadInput: an entity key is missing or of the wrong type; the message names it.
        """


class Predictor(Protocol):
    """A loaded model. ``matrix`` rows are the package's inputs in order, float64 with NaN for null."""

    def scores(self, matrix: Any) -> Any:
        """ndarray (n,) of P(class 1) for binary, (n, k) for multiclass, (n,) of values for regression."""


class Engine(Protocol):
    """Runs SQL over files and Arrow tables, spilling to disk."""

    def query(self, sql: str, *, tables: Mapping[str, Any] | None = None) -> Any:
        """A pyarrow Table. ``tables`` are Arrow tables visible under their names."""

    def close(self) -> None: ...


class Launcher(Protocol):
    """Starts jobs: here a subprocess, elsewhere an existing cluster engine."""

    def run(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path, timeout: float | None = None) -> int:
        """Run to the end, output appended to ``log``; the exit status. The job dies with its parent."""


Progress = Callable[[int, int | None, str], None]
"""(done, total or None, what): long work reports to it; the CLI draws it, everyone else passes a no-op."""
