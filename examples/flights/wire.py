"""A small HTTP client with kept-alive connections: the airline's system, as the service sees it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit


class Client:
    """Posts JSON to one address. Several requests may be under way at once, one a connection."""

    def __init__(self, address: str, connections: int = 3) -> None:
        parts = urlsplit(address)
        self._where = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._open = [http.client.HTTPConnection(*self._where, timeout=60) for _ in range(connections)]
        self.requests = 0
        self.failed: list[str] = []

    def post_all(self, requests: Sequence[tuple[str, Any]]) -> list[Any]:
        """Post each (path, body) at once; the decoded answers in order, None where one failed (kept in ``failed``)."""
        answers: list[Any] = []
        for begin in range(0, len(requests), len(self._open)):
            part = requests[begin : begin + len(self._open)]
            sent = [self._send(slot, path, body) for slot, (path, body) in enumerate(part)]
            answers += [
                self._receive(slot, path) if ok else None
                for slot, (ok, (path, _)) in enumerate(zip(sent, part, strict=True))
            ]
        return answers

    def _send(self, slot: int, path: str, body: Any) -> bool:
        self.requests += 1
        data = json.dumps(body)
        for attempt in (1, 2):  # a kept-alive connection may have been closed while idle: that is no failed request
            try:
                self._open[slot].request("POST", path, data, {"Content-Type": "application/json"})
                return True
            except (OSError, http.client.HTTPException) as error:
                self._open[slot].close()
                self._open[slot] = http.client.HTTPConnection(*self._where, timeout=60)
                if attempt == 2:
                    self.failed.append(f"{path}: {error!r}")
        return False

    def _receive(self, slot: int, path: str) -> Any:
        try:
            response = self._open[slot].getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._open[slot].close()
            self._open[slot] = http.client.HTTPConnection(*self._where, timeout=60)
            self.failed.append(f"{path}: {error!r}")
            return None
        if response.status != 200:
            self.failed.append(f"{path}: HTTP {response.status} {data[:200]!r}")
            return None
        return json.loads(data) if data else {}
