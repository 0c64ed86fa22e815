"""A head seen before is not parsed again: whatever was said before on a listener, a request is read as on a fresh one."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable
from typing import Any

import pytest

from holdfast.serving import heads
from holdfast.serving.wire import Limits, Listener, Request, Response


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.said = b""
        self.closed = False

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1)

    def write(self, data: bytes) -> None:
        self.said += data

    def close(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closed = True


def echo(request: Request) -> Response:
    told = [
        request.method, request.path, request.query.decode(), request.target.decode(),
        {n.decode("latin-1"): v.decode("latin-1") for n, v in sorted(request.headers.items())}, request.body.decode("latin-1"),
    ]  # fmt: skip
    request.headers[b"x-left-behind"] = b"by a handler"
    return Response(200, json.dumps(told).encode())


def say(listener: Listener, pieces: Iterable[bytes]) -> tuple[bytes, bool]:
    """What a new connection answers to these pieces, and whether it closed."""

    async def run() -> tuple[bytes, bool]:
        connection, wire = listener.connection(), Wire()
        connection.connection_made(wire)
        for piece in pieces:
            connection.data_received(piece)
            for _ in range(4):
                await asyncio.sleep(0)
        connection.connection_lost(None)
        return wire.said, wire.closed

    return asyncio.run(run())


def post(body: bytes = b'{"a": 1}', *lines: str, length: int | None = None, target: str = "/predict") -> bytes:
    size = len(body) if length is None else length
    return (
        "\r\n".join([f"POST {target} HTTP/1.1", "host: h", f"content-length: {size}", *lines, "", ""]).encode() + body
    )


REQUESTS = [
    post(),
    post(b'{"a": 2}'),
    post(b"\r\n\r\n1234"),
    post(b'{"a": 1}', length=7),
    post(b'{"a": 1}', length=9),
    post(b'{"a": 1}', "x-holdfast-prediction-id: one"),
    post(b'{"a": 1}', "x-holdfast-prediction-id: two"),
    post(b'{"a": 1}', "x-holdfast-prediction-id: no id"),
    post(b'{"a": 1}', "x-holdfast-prediction-id: "),
    post(b'{"a": 1}', "X-Holdfast-Prediction-Id: one", "x-holdfast-prediction-id: two"),
    post(b'{"a": 1}', "x-holdfast-prediction-id: one", "x-other: 1"),
    post(b'{"a": 1}', "x-other: 1", "x-holdfast-prediction-id: one"),
    post(b'{"a": 1}', "connection: close"),
    post(b'{"a": 1}', "connection: keep-alive"),
    post(b'{"a": 1}', "connection: keep-alive, close"),
    post(b'{"a": 1}', "connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"),
    post(b'{"a": 1}', "connection: keep-alive", "connection: close"),
    post(b'{"a": 1}', "connection: close", "connection: keep-alive"),
    post(b"8\r\n{\"a\": 1}\r\n0\r\n\r\n", "transfer-encoding: chunked"),
    post(b'{"a": 1}', "expect: 100-continue"),
    post(b'{"a": 1}', "content-length: 3"),
    post(b'{"a": 1}', target="/a%20b?q=%41"),
    post() + post(b"12345678"),
    post() + b"rubbish",
    b"\r\n" + post(),
    b"\r\n\r\n" + post(),
    post().replace(b"\r\n", b"\n"),
    post().replace(b"HTTP/1.1", b"HTTP/1.0"),
    b"GET /release HTTP/1.1\r\nhost: h\r\n\r\n",
    b"HEAD /release HTTP/1.1\r\nhost: h\r\n\r\n",
    b"GET /release HTTP/1.1\r\nhost: h\r\n\r\nGET /release HTTP/1.1\r\nhost: h\r\n\r\n",
    b"CONNECT h:1 HTTP/1.1\r\nhost: h\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: h\r\n\r\n",
    b"GET /release HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\n\r\n",
    b"\x00\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("second", REQUESTS)
def test_a_request_reads_as_on_a_fresh_listener_whatever_came_before(second: bytes) -> None:
    alone = say(Listener(echo), [second])
    for first in REQUESTS:
        listener = Listener(echo)
        say(listener, [first])
        assert say(listener, [second]) == alone
        assert say(listener, [second]) == alone


def test_in_any_pieces_on_kept_connections_too() -> None:
    rng = random.Random(5)
    kept = [
        r for r in REQUESTS if not say(Listener(echo), [r])[1] and say(Listener(echo), [r])[0].count(b"HTTP/1.1 2") == 1
    ]
    assert len(kept) > 12
    listener = Listener(echo)
    for _ in range(200):
        chosen = rng.choices(kept, k=4)
        whole = b"".join(say(Listener(echo), [r])[0] for r in chosen)
        assert say(listener, chosen) == (whole, False)
        data = b"".join(chosen)
        cuts = sorted(rng.sample(range(len(data)), 5))
        assert say(listener, [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]) == (whole, False)


def test_ids_are_the_callers_own_and_handlers_change_only_their_copy() -> None:
    listener = Listener(echo)
    for name in ("first", "second", "third"):
        said, _ = say(listener, [post(b"{}", f"x-holdfast-prediction-id: {name}")])
        told = json.loads(said.partition(b"\r\n\r\n")[2])
        assert told[4] == {"content-length": "2", "host": "h", "x-holdfast-prediction-id": name}
    said, _ = say(listener, [post(b"{}")])
    assert json.loads(said.partition(b"\r\n\r\n")[2])[4] == {"content-length": "2", "host": "h"}


def test_what_is_remembered_is_bounded() -> None:
    listener = Listener(echo)
    for i in range(3 * heads.MOST):
        say(listener, [post(b"{}", f"x-unique: {i}")])
    say(listener, [post(b"{}", "x-long: " + "y" * heads.MOST_BYTES)])
    known = listener.heads._known
    assert 0 < len(known) <= heads.MOST and all(len(k) <= heads.MOST_BYTES for k in known)


def test_limits_hold_for_what_was_seen_before() -> None:
    listener = Listener(echo, limits=Limits(body=10))
    for _ in range(3):
        assert b"413" in say(listener, [post(b"x" * 11)])[0].split(b"\r\n")[0]
        assert b"200" in say(listener, [post(b"x" * 10)])[0].split(b"\r\n")[0]


def _differ(seed: int, rounds: int) -> None:
    """Mutated requests mean the same to a listener that has seen all those before as to a fresh one."""
    rng = random.Random(seed)
    listener = Listener(echo)
    again: list[bytes] = []
    for _ in range(rounds):
        data = bytearray(rng.choice(REQUESTS))
        for _ in range(rng.randrange(3)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.choice([b"\r\n", b":", b" ", b"1", b"x", b"", rng.randbytes(2)])
        again.append(bytes(data))
        chosen = rng.choice(again[-20:])
        assert say(listener, [chosen]) == say(Listener(echo), [chosen]), (seed, chosen)


def test_mutated_heads_mean_the_same() -> None:
    _differ(7, 400)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_mutated_heads_mean_the_same_for_long() -> None:
    _differ(8, 100_000)
