"""Request heads seen before. A kept-alive client sends the same bytes before each body: they are parsed once.

Nothing is guessed: a head is remembered after llhttp has read it, as exactly these bytes followed by exactly so many of a
body, and only a whole request that begins with the same bytes and is as long is taken for it. A prediction id on the last
line may differ, because the balancer writes one for each request.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MOST_BYTES = 2048
MOST = 512
ID = b"x-holdfast-prediction-id"
_LINE = b"\r\n" + ID + b": "
_ID_LINE = re.compile(re.escape(_LINE) + rb"([0-9A-Za-z._-]{1,64})").fullmatch
# Other methods (CONNECT), and these headers, change how the bytes after the head are read or what may follow.
_METHODS = frozenset(("GET", "HEAD", "POST"))
_NEVER = frozenset((b"expect", b"transfer-encoding", b"upgrade"))
_KEEP = b"keep-alive"


class Head(NamedTuple):
    """What a head says. ``length`` is the body's."""

    method: str
    target: bytes
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    length: int


class Heads:
    """The heads one listener remembers, bounded in number and size."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def find(self, data: bytes) -> tuple[Head, dict[bytes, bytes], bytes] | None:
        """Head, headers and body of ``data`` where it is one whole request with a head seen before. The headers are the
        caller's to change."""
        end = data.find(b"\r\n\r\n", 0, MOST_BYTES)
        if end < 0:
            return None
        line = max(data.rfind(b"\r\n", 0, end), 0)
        named = _ID_LINE(data, line, end) if data.startswith(_LINE, line) else None
        head = self._known.get(data[:end] if named is None else data[:line])
        if head is None or len(data) != end + 4 + head.length:
            return None
        headers = head.headers.copy()
        if named is not None:
            headers[ID] = named[1]
        return head, headers, data[end + 4 :]

    def remember(self, data: bytes, head: Head) -> None:
        """Keep what was read from the beginning of ``data``, if the request is all of it. For requests that keep their connection."""
        end = data.find(b"\r\n\r\n", 0, MOST_BYTES)
        if end < 0 or len(data) != end + 4 + head.length or head.method not in _METHODS:
            return
        if not _NEVER.isdisjoint(head.headers) or head.headers.get(b"connection", _KEEP).lower() != _KEEP:
            return
        line = data.rfind(b"\r\n", 0, end)
        named = line >= 0 and _ID_LINE(data, line, end) is not None
        key = data[:line] if named else data[:end]
        if ID in key.lower():
            return
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[key] = head._replace(headers={n: v for n, v in head.headers.items() if n != ID})
