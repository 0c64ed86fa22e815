"""The spool's door for the training process: HTTP on loopback, open only to who has the run's own token."""

from __future__ import annotations

import hmac
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from holdfast.training.spool import Answer, Spool

MOST_BYTES = 2 << 30
PATIENCE_SECONDS = 3300.0
"""A call that only the server can answer waits so long; the client's own limit is set a little higher."""


class SpoolServer:
    """Listens while the ``with`` block runs.

    Attributes:
        url: for MLFLOW_TRACKING_URI.
        token: for MLFLOW_TRACKING_TOKEN.
    """

    def __init__(self, spool: Spool, *, patience: float = PATIENCE_SECONDS) -> None:
        self.token = secrets.token_urlsafe(32)
        handler = type(
            "Handler", (_Handler,), {"spool": spool, "expected": f"Bearer {self.token}", "patience": patience}
        )
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="holdfast-spool-server", daemon=True)

    def __enter__(self) -> SpoolServer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    spool: Spool
    expected: str
    patience: float
    timeout = 3600

    def _answer(self) -> None:
        given = self.headers.get("Authorization", "")
        length = self.headers.get("Content-Length", "0")
        if not hmac.compare_digest(given.encode("latin-1", "replace"), self.expected.encode()):
            self.close_connection = True
            self._send(Answer(401, b'{"error_code": "UNAUTHENTICATED", "message": "this is the spool of another run"}'))
            return
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = self._chunks()
        elif length.isdigit() and int(length) <= MOST_BYTES:
            body = self.rfile.read(int(length))
        else:
            self.close_connection = True
            self._send(Answer(413, b'{"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "too big for the spool"}'))
            return
        answer = self.spool.handle(self.command, self.path, dict(self.headers), body, patience=self.patience)
        self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

    def _chunks(self) -> bytes:
        body = bytearray()
        while size := int(self.rfile.readline(32).split(b";")[0], 16):
            if len(body) + size > MOST_BYTES:
                raise ConnectionError("too big for the spool")
            body += self.rfile.read(size)
            self.rfile.readline(8)
        while self.rfile.readline(1024).strip():
            pass
        return bytes(body)

    def _send(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Say nothing: stdout and stderr belong to the training process."""
