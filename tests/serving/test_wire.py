"""HTTP as hostile and sloppy clients speak it."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from holdfast.core.errors import BadInput
from holdfast.serving.wire import Connection, Limits, Listener, Request, Response

Story = Callable[[str, int, Listener], Awaitable[None]]


def handler(request: Request) -> Response | Awaitable[Response]:
    if request.path == "/slow":

        async def slow() -> Response:
            await asyncio.sleep(0.05)
            return Response(200, b'"slow"')

        return slow()
    if request.path == "/bad":
        raise BadInput("no", number="HF199")
    if request.path == "/boom":
        raise RuntimeError("secret")
    if request.path == "/large":
        return Response(200, b"x" * 3_000_000)
    return Response(200, json.dumps([request.method, request.path, request.query.decode(), len(request.body)]).encode())


def play(story: Story, *, timeout: float = 30.0, **limits: Any) -> list[str]:
    refused: list[str] = []

    async def run() -> None:
        listener = Listener(handler, limits=Limits(**limits), on_refused=refused.append)
        listener.start()
        server = await asyncio.get_running_loop().create_server(listener.connection, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with asyncio.timeout(timeout):
            await story(host, port, listener)
        server.close()
        await listener.drain(0.5)

    asyncio.run(run())
    return refused


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def say(host: str, port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    got = await answer(reader)
    writer.close()
    return got


def post(path: str, body: bytes = b"", *extra: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: h", f"content-length: {len(body)}", *extra, "", ""]
    return "\r\n".join(lines).encode() + body


def test_answers_come_in_order_on_one_connection() -> None:
    async def story(host: str, port: int, _: Listener) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        data = post("/slow") + post("/a?q=1", b"xy") + post("/slow") + post("/%62")
        # The bytes arrive in pieces of any size.
        rng = random.Random(3)
        while data:
            n = rng.randrange(1, 40)
            writer.write(data[:n])
            await writer.drain()
            data = data[n:]
            await asyncio.sleep(0)
        bodies = [json.loads((await answer(reader))[2]) for _ in range(4)]
        assert bodies == ["slow", ["POST", "/a", "q=1", 2], "slow", ["POST", "/b", "", 0]]
        writer.close()

    play(story)


def test_many_pipelined_requests_are_all_answered() -> None:
    async def story(host: str, port: int, _: Listener) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"".join(post("/slow" if i % 50 == 0 else f"/{i}") for i in range(300)))
        for i in range(300):
            status, _, body = await answer(reader)
            assert status == 200 and (json.loads(body) == "slow" if i % 50 == 0 else json.loads(body)[1] == f"/{i}")
        writer.close()

    play(story, pipeline=8)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"\x00\x01garbage\r\n\r\n", 400, "HF101"),
        (
            b"GET / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "HF101",
        ),
        (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: -5\r\n\r\n", 400, "HF101"),
        (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1001\r\n\r\n", 413, "HF440"),
        (
            b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n",
            413,
            "HF440",
        ),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nhost: h\r\n\r\n", 414, "HF442"),
        (b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 40_000 + b"\r\n\r\n", 431, "HF443"),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % i for i in range(200)) + b"\r\n", 431, "HF443"),
        (b"GET /%ff HTTP/1.1\r\nhost: h\r\n\r\n", 400, "HF101"),
    ],
)
def test_what_cannot_be_taken_is_refused_and_the_connection_closed(data: bytes, status: int, code: str) -> None:
    async def story(host: str, port: int, _: Listener) -> None:
        got, headers, body = await say(host, port, data)
        assert (got, json.loads(body)["error"]["code"], headers["connection"]) == (status, code, "close")
        assert (await say(host, port, post("/a")))[0] == 200

    assert code in play(story, body=1000)


def test_a_client_that_is_still_sending_hears_why_it_is_refused() -> None:
    """An ordinary client sends all of its body before it reads an answer: it is not cut off meanwhile."""

    def ordinary(host: str, port: int, headers: dict[str, str]) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(host, port, timeout=20)
        connection.request("POST", "/a", b"x" * (8 << 20), headers)
        said = connection.getresponse()
        return said.status, json.loads(said.read())["error"]["code"]

    async def story(host: str, port: int, listener: Listener) -> None:
        for _ in range(3):
            assert await asyncio.to_thread(ordinary, host, port, {}) == (413, "HF440")
            assert await asyncio.to_thread(ordinary, host, port, {"x": "y" * 40_000}) == (431, "HF443")
        while listener.open:  # they have closed, and so are their connections
            await asyncio.sleep(0.01)

    play(story, body=1000, arrival=20.0)


def test_a_refused_client_that_sends_for_ever_is_cut() -> None:
    async def story(host: str, port: int, listener: Listener) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(post("/a", b"x" * 2000))
        assert (await answer(reader))[0] == 413 and await reader.read() == b""
        while listener.open:
            writer.write(b"x" * 1000)
            await asyncio.sleep(0.01)
        writer.close()

    play(story, body=1000, arrival=0.3)


@pytest.mark.parametrize("after", [b"rubbish\r\n\r\n", post("/a", b"x" * 2000), post("/a", b"", "x: " + "y" * 40_000)])
def test_a_refusal_waits_for_the_answers_before_it(after: bytes) -> None:
    async def story(host: str, port: int, _: Listener) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(post("/slow") + post("/b") + after + post("/never"))
        assert (await answer(reader))[2] == b'"slow"'
        assert b"/b" in (await answer(reader))[2]
        assert (await answer(reader))[0] in (400, 413, 431)
        assert await reader.read() == b""
        writer.close()

    assert len(play(story, body=1000)) == 1


def test_slow_bodies_and_idle_connections_do_not_stay() -> None:
    async def story(host: str, port: int, listener: Listener) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nabc")
        assert (await answer(reader))[0] == 408
        idle_reader, idle = await asyncio.open_connection(host, port)
        assert await idle_reader.read() == b""
        assert not listener.open
        writer.close()
        idle.close()

    assert play(story, arrival=0.2, idle=0.2) == ["HF441"]


def test_slow_heads_silence_and_answers_that_nobody_takes_do_not_stay() -> None:
    async def story(host: str, port: int, listener: Listener) -> None:
        dripping_reader, dripping = await asyncio.open_connection(host, port)
        silent_reader, silent = await asyncio.open_connection(host, port)
        deaf_reader, deaf = await asyncio.open_connection(host, port)
        # Nothing of the 30 MB is read: the reader's buffer fills and its socket with it.
        deaf.write(post("/large") * 10)
        dripping.write(b"POST /a HTTP/1.1\r\nhost: h\r\n")
        told = asyncio.ensure_future(answer(dripping_reader))
        while not told.done():
            dripping.write(b"x: y\r\n")
            await asyncio.sleep(0.05)
        assert told.result()[0] == 408
        assert await silent_reader.read() == b""
        while listener.open:
            await asyncio.sleep(0.05)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await deaf_reader.readexactly(30_000_000)
        for writer in (dripping, silent, deaf):
            writer.close()

    assert play(story, arrival=0.3, idle=30) == ["HF441"]


def test_a_slow_answer_is_not_a_slow_client() -> None:
    async def story(host: str, port: int, _: Listener) -> None:
        assert (await say(host, port, post("/slow")))[0] == 200

    assert play(story, arrival=0.01, idle=0.01) == []


def test_errors_are_answers_without_internals() -> None:
    async def story(host: str, port: int, _: Listener) -> None:
        status, _, body = await say(host, port, post("/bad"))
        assert (status, json.loads(body)["error"]["code"]) == (400, "HF199")
        status, _, body = await say(host, port, post("/boom"))
        assert status == 500 and b"secret" not in body and b"Traceback" not in body

    play(story)


def test_head_close_old_http_and_expect_continue() -> None:
    async def story(host: str, port: int, _: Listener) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"HEAD /a HTTP/1.1\r\nhost: h\r\n\r\n" + post("/b", b"", "connection: close"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200") and b"content-length: 0" not in head
        assert (await answer(reader))[1]["connection"] == "close" and await reader.read() == b""
        status, headers, _ = await say(host, port, b"GET / HTTP/1.0\r\n\r\n")
        assert (status, headers["connection"]) == (200, "close")
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"POST /c HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(b"ab")
        assert json.loads((await answer(reader))[2])[3] == 2
        writer.close()

    play(story)


def test_connections_are_bounded_and_a_client_that_does_not_read_is_held() -> None:
    async def story(host: str, port: int, listener: Listener) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"".join(post("/large") for _ in range(30)))
        await asyncio.sleep(0.2)
        (connection,) = listener.open
        # Not all 90 MB are waiting in memory: the next request starts when the last answer is on its way.
        assert connection._paused and len(connection._waiting) > 5
        (_, other), (late, third) = [await asyncio.open_connection(host, port) for _ in range(2)]
        assert (await answer(late))[0] == 503
        for _ in range(30):
            assert len((await answer(reader))[2]) == 3_000_000
        for w in (writer, other, third):
            w.close()

    play(story, connections=2)


def test_draining_lets_running_requests_end() -> None:
    async def story(host: str, port: int, listener: Listener) -> None:
        idle_reader, idle = await asyncio.open_connection(host, port)
        busy_reader, busy = await asyncio.open_connection(host, port)
        busy.write(post("/slow"))
        await asyncio.sleep(0.02)
        await listener.drain(5)
        status, headers, body = await answer(busy_reader)
        assert (status, headers["connection"], json.loads(body)) == (200, "close", "slow")
        assert await idle_reader.read() == b""
        idle.close()
        busy.close()

    play(story)


def _fuzz(seed: int, rounds: int) -> None:
    """Mutated requests: the server answers or closes, and still serves others."""
    print(f"seed {seed}")
    rng = random.Random(seed)

    async def story(host: str, port: int, listener: Listener) -> None:
        for _ in range(rounds):
            data = bytearray(post("/a", b'{"rows": [1]}', "content-type: application/json"))
            for _ in range(rng.randrange(1, 6)):
                at = rng.randrange(len(data))
                data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(bytes(data))
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 5)
            writer.close()
        assert (await say(host, port, post("/a")))[0] == 200
        await asyncio.sleep(0.1)
        assert not [c for c in listener.open if isinstance(c, Connection) and not c.idle]

    play(story, timeout=30 + rounds / 20, arrival=0.5, idle=0.5)


def test_mutated_requests() -> None:
    _fuzz(4, 150)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_mutated_requests_for_long() -> None:
    _fuzz(5, 50_000)
