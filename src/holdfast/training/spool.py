"""Tracking calls that survive a tracking outage: kept in a local journal, delivered once and in order.

While the server answers, a call is passed through and the caller gets the server's own answer. When it does not, writes
are kept and acknowledged here, and everything after them queues behind; reads are answered from what was seen before,
or wait. Each write carries ``X-Holdfast-Request-Id``, by which the server does it once however often it arrives.

The journal is SQLite in WAL with synchronous=NORMAL: a killed process loses nothing acknowledged, a power cut may lose
the last moments.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import secrets
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from holdfast.core.errors import BadConfig, Conflict

REQUEST_ID = "X-Holdfast-Request-Id"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
API = "/api/2.0/mlflow/"
# Writes whose answer the client does not need, or that can be answered here.
SPOOLED = frozenset(
    API + path
    for path in (
        "runs/create", "runs/update", "runs/log-metric", "runs/log-parameter", "runs/log-batch", "runs/set-tag",
        "runs/delete-tag", "runs/log-inputs", "runs/outputs", "runs/log-model",
    )
)  # fmt: skip
_READS = frozenset(
    API + path
    for path in (
        "experiments/search", "runs/search", "metrics/search", "registered-models/search", "model-versions/search",
        "registered-models/get-latest-versions", "logged-models/search",
    )
)  # fmt: skip
_KEPT_HEADERS = frozenset({"content-type", "accept", "range", "user-agent"})
_AWAY = frozenset({502, 503, 504})
_BACKOFF = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Answer(msgspec.Struct, frozen=True):
    """What goes back to the client."""

    status: int
    body: bytes
    kind: str = "application/json"
    headers: dict[str, str] = {}


class Away(Exception):
    """The server did not answer; whether it did what was asked is not known."""


class Spool:
    """Fulfils the tracking calls of one run.

    Args:
        path: the journal's file. One process at a time; a file left by a dead one is taken over, its calls delivered.
        upstream: ``http(s)://host:port`` of the tracking server.
        token: for the server, never shown to the training process.
        timeout: seconds after which a silent server counts as away.

    Raises:
        Conflict: another process holds the journal.
        BadConfig: the URL cannot be used.
    """

    def __init__(self, path: Path, upstream: str, *, token: str | None = None, timeout: float = 10.0) -> None:
        self._journal = Journal(path)
        self._server = Upstream(upstream, token=token, timeout=timeout)
        self._writes = threading.Lock()
        self._news = threading.Condition()
        self._seen: dict[str, Answer] = {}
        self._runs: dict[str, dict[str, Any]] = {}
        self._closing = False
        self.refused: list[tuple[str, int, str]] = []
        self._sender = threading.Thread(target=self._send_all, name="holdfast-spool", daemon=True)
        self._sender.start()

    # --- what the training process asks ----------------------------------------------------------------------------

    def handle(self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, patience: float) -> Answer:
        """Answer one call. ``patience``: seconds that a call which only the server can answer may wait for it."""
        path = target.partition("?")[0]
        kept = {k: v for k, v in headers.items() if k.lower() in _KEPT_HEADERS}
        if method in ("GET", "HEAD") or path in _READS:
            return self._read(method, target, kept, body, patience)
        with self._writes:
            spooled = path in SPOOLED or (path.startswith(ARTIFACTS) and method == "PUT")
            if not spooled:
                return self._ask(method, target, kept, body, patience)
            call = self._journal.call(method, target, kept, body)
            if self._journal.empty():
                try:
                    answer = self._server.ask(call)
                except Away:
                    pass
                else:
                    self._learn(path, body, answer)
                    return answer
            self._journal.add(call)
            with self._news:
                self._news.notify_all()
            return self._made_up(path, body)

    def _read(self, method: str, target: str, headers: Mapping[str, str], body: bytes, patience: float) -> Answer:
        # A read behind waiting writes would not see them: let them go first, if they can.
        key = f"{method} {target} {body.decode('latin-1')}"
        known = self._seen.get(key)
        self.drain(1.0 if known or self._local(target) else patience)
        if self._journal.empty():
            try:
                answer = self._server.ask(self._journal.call(method, target, headers, body))
            except Away:
                pass
            else:
                if answer.status == 200 and len(answer.body) < 1 << 20:
                    self._seen[key] = answer
                    self._learn_run(answer)
                return answer
        local = self._local(target)
        if local is not None:
            return local
        return known or self._ask(method, target, headers, body, patience)

    def _ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes, patience: float) -> Answer:
        """Wait for the server, so that training pauses rather than dies."""
        call = self._journal.call(method, target, headers, body)
        deadline = time.monotonic() + patience
        attempt = 0
        while True:
            if self.drain(max(deadline - time.monotonic(), 0)):
                with suppress(Away):
                    return self._server.ask(call)
            if time.monotonic() >= deadline:
                return _error(503, "TEMPORARILY_UNAVAILABLE", "the tracking server is away and only it can answer this")
            time.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])
            attempt += 1

    # --- what is answered here while the server is away -----------------------------------------------------------

    def know_run(self, run: Mapping[str, Any]) -> None:
        """Remember a run in MLflow's form (``{"info": {…}, "data": {…}}``), to answer for it while the server is away."""
        info = run.get("info", {})
        if isinstance(info, dict) and "run_id" in info:
            self._runs[str(info["run_id"])] = {"info": dict(info), "data": dict(run.get("data") or {})}

    def _learn(self, path: str, body: bytes, answer: Answer) -> None:
        if answer.status == 200 and path == API + "runs/create":
            self._learn_run(answer)
        elif answer.status == 200 and path == API + "runs/update":
            self._made_up(path, body)

    def _learn_run(self, answer: Answer) -> None:
        with suppress(msgspec.MsgspecError):
            value = msgspec.json.decode(answer.body)
            if isinstance(value, dict) and isinstance(value.get("run"), dict):
                self.know_run(value["run"])

    def _local(self, target: str) -> Answer | None:
        path, _, query = target.partition("?")
        if path != API + "runs/get":
            return None
        from urllib.parse import parse_qs

        asked = parse_qs(query)
        found = self._runs.get((asked.get("run_id") or asked.get("run_uuid") or [""])[0])
        return _json({"run": found}) if found else None

    def _made_up(self, path: str, body: bytes) -> Answer:
        """The answer to a write that is kept: what the server will say when it is delivered."""
        try:
            asked: Any = msgspec.json.decode(body) if body and not path.startswith(ARTIFACTS) else {}
        except msgspec.MsgspecError:
            asked = {}
        if path == API + "runs/update" and isinstance(asked, dict):
            run = self._runs.setdefault(
                str(asked.get("run_id", "")), {"info": {"run_id": asked.get("run_id")}, "data": {}}
            )
            run["info"].update({k: asked[k] for k in ("status", "end_time", "run_name") if k in asked})
            return _json({"run_info": run["info"]})
        if path == API + "runs/create" and isinstance(asked, dict):
            return _json({"run": self._planned(asked)})
        return _json({})

    def _planned(self, asked: dict[str, Any]) -> dict[str, Any]:
        tags = [t for t in asked.get("tags") or [] if isinstance(t, dict)]
        run_id = next((str(t.get("value")) for t in tags if t.get("key") == "holdfast.run_id"), "")
        experiment = str(asked.get("experiment_id") or "0")
        info = {
            "run_id": run_id,
            "run_uuid": run_id,
            "run_name": asked.get("run_name", ""),
            "experiment_id": experiment,
            "status": "RUNNING",
            "start_time": asked.get("start_time", 0),
            "artifact_uri": f"mlflow-artifacts:/{experiment}/{run_id}/artifacts",
            "lifecycle_stage": "active",
            "user_id": asked.get("user_id", ""),
        }
        run = {"info": info, "data": {"tags": [t for t in tags if t.get("key") != "holdfast.run_id"]}}
        self.know_run(run)
        return run

    # --- delivery --------------------------------------------------------------------------------------------------

    def drain(self, seconds: float) -> bool:
        """Wait until every kept call is delivered, at most so long; whether it is."""
        deadline = time.monotonic() + seconds
        with self._news:
            while not self._journal.empty():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._news.notify_all()
                self._news.wait(min(left, 0.25))
        return True

    @property
    def waiting(self) -> int:
        """How many calls are kept and not delivered."""
        return self._journal.count()

    def _send_all(self) -> None:
        attempt = 0
        while not self._closing:
            call = self._journal.first()
            if call is None:
                attempt = 0
                with self._news:
                    self._news.wait(0.25)
                continue
            try:
                answer = self._server.ask(call)
            except Away:
                with self._news:
                    self._news.wait(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])
                attempt += 1
                continue
            attempt = 0
            if answer.status >= 400:
                # The training process was told yes; what the server refuses for good is kept to be looked at.
                self.refused.append((call.target, answer.status, answer.body[:500].decode(errors="replace")))
            self._journal.done(call, answer)
            with self._news:
                self._news.notify_all()

    def close(self) -> None:
        """Stop. What was not delivered stays in the journal; an empty journal is removed. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        with self._news:
            self._news.notify_all()
        self._sender.join(self._server.timeout + 5)
        self._journal.close()


class Call(msgspec.Struct, frozen=True):
    """One call as it is kept and sent."""

    request_id: str
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Journal:
    """Calls in order, in one SQLite file that one process holds."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._held = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._held)
            raise Conflict(
                f"the spool {path.name} is in use by another process", hint="it delivers by itself; nothing to do"
            ) from None
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS calls (sequence INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL,"
            " method TEXT NOT NULL, target TEXT NOT NULL, headers BLOB NOT NULL, body BLOB NOT NULL)"
        )
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS refused (sequence INTEGER PRIMARY KEY AUTOINCREMENT, method TEXT NOT NULL,"
            " target TEXT NOT NULL, body BLOB NOT NULL, status INTEGER NOT NULL, answer BLOB NOT NULL)"
        )
        self._count = int(self._db.execute("SELECT count(*) FROM calls").fetchone()[0])
        self._prefix = secrets.token_hex(12)
        self._number = 0

    def call(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Call:
        """A call with a request id that no other ever has."""
        with self._lock:
            self._number += 1
            return Call(f"{self._prefix}-{self._number}", method, target, dict(headers), body)

    def add(self, call: Call) -> None:
        """Keep a call behind those kept before; it survives this process once this returns."""
        with self._lock:
            self._db.execute(
                "INSERT INTO calls (request_id, method, target, headers, body) VALUES (?, ?, ?, ?, ?)",
                (call.request_id, call.method, call.target, msgspec.json.encode(call.headers), call.body),
            )
            self._count += 1

    def first(self) -> Call | None:
        """The oldest call."""
        with self._lock:
            row = self._db.execute(
                "SELECT request_id, method, target, headers, body FROM calls ORDER BY sequence LIMIT 1"
            ).fetchone()
        return None if row is None else Call(row[0], row[1], row[2], msgspec.json.decode(row[3]), bytes(row[4]))

    def done(self, call: Call, answer: Answer) -> None:
        """Forget a delivered call; one that the server refused is put aside."""
        with self._lock:
            self._db.execute("BEGIN")
            if answer.status >= 400:
                self._db.execute(
                    "INSERT INTO refused (method, target, body, status, answer) VALUES (?, ?, ?, ?, ?)",
                    (call.method, call.target, call.body, answer.status, answer.body[:10_000]),
                )
            self._db.execute("DELETE FROM calls WHERE request_id = ?", (call.request_id,))
            self._db.execute("COMMIT")
            self._count -= 1

    def empty(self) -> bool:
        return self._count == 0

    def count(self) -> int:
        return self._count

    def close(self) -> None:
        """Let go; a journal with nothing in it leaves no file."""
        with self._lock:
            aside = self._db.execute("SELECT count(*) FROM refused").fetchone()[0]
            self._db.close()
        if not self._count and not aside:
            for suffix in ("-wal", "-shm", ""):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            self.path.with_suffix(".lock").unlink(missing_ok=True)
        os.close(self._held)


class Upstream:
    """The tracking server over HTTP; a connection per thread, kept open."""

    def __init__(self, url: str, *, token: str | None, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadConfig(f"server.url {url!r} cannot be used", hint="write it like http://127.0.0.1:5000")
        self._https, self._host = parts.scheme == "https", parts.hostname
        self._port = parts.port or (443 if self._https else 80)
        self._base = parts.path.rstrip("/")
        self._token = token
        self.timeout = timeout
        self._local = threading.local()

    def ask(self, call: Call) -> Answer:
        """The server's answer.

        Raises:
            Away: there was none, or it was that of a proxy before a dead server.
        """
        headers = {**call.headers, REQUEST_ID: call.request_id, "Content-Length": str(len(call.body))}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        for fresh in (False, True):
            connection = self._connection(fresh)
            try:
                connection.request(call.method, self._base + call.target, body=call.body, headers=headers)
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException, ssl.SSLError) as error:
                connection.close()
                # A kept connection may simply have grown old; the request id makes the second try safe.
                if fresh or isinstance(error, TimeoutError):
                    raise Away(str(error)) from error
                continue
            if response.status in _AWAY or (response.status == 429):
                raise Away(f"status {response.status}")
            passed = ("content-range", "etag", "content-disposition", "accept-ranges")
            return Answer(
                response.status,
                body,
                response.headers.get("content-type", "application/json"),
                {k: v for k, v in response.headers.items() if k.lower() in passed},
            )
        raise AssertionError("unreachable")

    def _connection(self, fresh: bool) -> http.client.HTTPConnection:
        kept: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if kept is None or fresh:
            make: Callable[..., http.client.HTTPConnection] = (
                http.client.HTTPSConnection if self._https else http.client.HTTPConnection
            )
            kept = self._local.connection = make(self._host, self._port, timeout=self.timeout)
        return kept


def _json(value: object) -> Answer:
    return Answer(200, msgspec.json.encode(value))


def _error(status: int, code: str, message: str) -> Answer:
    return Answer(status, msgspec.json.encode({"error_code": code, "message": message}))
