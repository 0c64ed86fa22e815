"""The balancer against replicas that misbehave, without processes: plain unix-socket servers stand in for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from holdfast.serving.balancer import Backend, Balancer, BalancerOptions
from holdfast.serving.wire import Listener, Request, Response

Handler = Callable[[Request], Any]


class Replicas:
    """Replicas on unix sockets; ``kill`` cuts one off mid-request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: dict[str, tuple[asyncio.AbstractServer, Listener]] = {}

    async def start(self, name: str, handler: Handler) -> Backend:
        def door(request: Request) -> Any:
            return Response(200, b"{}") if request.path == "/health/ready" else handler(request)

        listener = Listener(door)
        path = self.folder / f"{name}.sock"
        server = await asyncio.get_running_loop().create_unix_server(listener.connection, str(path))
        self.servers[name] = (server, listener)
        return Backend(name, path)

    def kill(self, name: str) -> None:
        server, listener = self.servers.pop(name)
        server.close()
        for connection in list(listener.open):
            connection._transport.abort()

    def stop(self) -> None:
        for name in list(self.servers):
            self.kill(name)


def play(tmp_path: Path, story: Callable[[Replicas], Awaitable[None]]) -> None:
    async def run() -> None:
        replicas = Replicas(tmp_path)
        async with asyncio.timeout(30):
            await story(replicas)
        replicas.stop()

    asyncio.run(run())


def ask(balancer: Balancer, path: str = "/predict", body: bytes = b"{}", **headers: str) -> Any:
    named = {k.replace("_", "-").encode(): v.encode() for k, v in headers.items()}
    answer = balancer.handle(Request("POST", path.encode(), path, b"", named, body))
    return answer if not isinstance(answer, Response) else _done(answer)


async def _done(answer: Response) -> Response:
    return answer


def echo(seen: list[dict[bytes, bytes]]) -> Handler:
    def handler(request: Request) -> Response:
        seen.append(dict(request.headers))
        return Response(200, request.body, headers=((b"x-told", b"yes"),))

    return handler


async def ready(balancer: Balancer) -> None:
    for backend in balancer.backends:
        assert await balancer.check(backend) == "ready"


def test_a_dying_replicas_request_is_asked_again_with_its_id(tmp_path: Path) -> None:
    async def story(replicas: Replicas) -> None:
        first: list[dict[bytes, bytes]] = []
        second: list[dict[bytes, bytes]] = []

        def dies(request: Request) -> Any:
            first.append(dict(request.headers))
            replicas.kill("a")
            return asyncio.get_running_loop().create_future()

        a = await replicas.start("a", dies)
        b = await replicas.start("b", echo(second))
        balancer = Balancer([a, b])
        await ready(balancer)
        b.pending = 1
        answer = await ask(balancer, body=b"hello", x_holdfast_key="k", connection="close", transfer_encoding="chunked")
        assert (answer.status, answer.body, dict(answer.headers)[b"x-told"]) == (200, b"hello", b"yes")
        assert first[0][b"x-holdfast-prediction-id"] == second[0][b"x-holdfast-prediction-id"]
        assert b"x-holdfast-retry" not in first[0] and second[0][b"x-holdfast-retry"] == b"1"
        assert second[0][b"x-holdfast-key"] == b"k" and b"transfer-encoding" not in second[0]
        assert a.health == "down"
        # A caller cannot pretend to be a retry, and its own id is kept.
        await ask(balancer, x_holdfast_retry="1", x_holdfast_prediction_id="mine")
        assert second[1][b"x-holdfast-prediction-id"] == b"mine" and b"x-holdfast-retry" not in second[1]

    play(tmp_path, story)


def test_a_request_that_kills_replicas_is_given_up(tmp_path: Path) -> None:
    async def story(replicas: Replicas) -> None:
        deaths: list[str] = []

        def killer(name: str) -> Handler:
            def handler(request: Request) -> Any:
                deaths.append(name)
                replicas.kill(name)
                return asyncio.get_running_loop().create_future()

            return handler

        balancer = Balancer([await replicas.start(n, killer(n)) for n in ("a", "b", "c")])
        await ready(balancer)
        answer = await ask(balancer)
        assert (answer.status, json.loads(answer.body)["error"]["code"], len(deaths)) == (502, "HF516", 2)

    play(tmp_path, story)


def test_bounded_queue_deadline_and_nobody_up(tmp_path: Path) -> None:
    async def story(replicas: Replicas) -> None:
        slow = await replicas.start("slow", lambda request: asyncio.sleep(60))
        balancer = Balancer([slow], options=BalancerOptions(max_pending=3, deadline=0.3, wait_for_replica=0.2))
        assert (await ask(balancer)).status == 503
        await ready(balancer)
        answers = await asyncio.gather(*(ask(balancer) for _ in range(5)))
        codes = sorted((a.status, json.loads(a.body)["error"]["code"]) for a in answers)
        assert codes == [(503, "HF513")] * 2 + [(504, "HF512")] * 3
        assert all(dict(a.headers)[b"retry-after"] == b"1" for a in answers if a.status == 503)
        assert balancer.pending == 0 and slow.pending == 0

    play(tmp_path, story)


def test_the_least_busy_ready_replica_is_asked_and_a_restarting_one_waited_for(tmp_path: Path) -> None:
    async def story(replicas: Replicas) -> None:
        seen: dict[str, list[dict[bytes, bytes]]] = {"a": [], "b": []}
        a, b = [await replicas.start(n, echo(seen[n])) for n in ("a", "b")]
        balancer = Balancer([a, b])
        await ready(balancer)
        for _ in range(10):
            await ask(balancer)
        assert len(seen["a"]) == len(seen["b"]) == 5
        a.pending = 3
        for _ in range(4):
            await ask(balancer)
        assert len(seen["b"]) == 9
        a.pending = 0
        b.draining = True
        await ask(balancer)
        assert len(seen["a"]) == 6
        a.health = "down"
        waiting = asyncio.ensure_future(ask(balancer))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await balancer.check(a)
        assert (await waiting).status == 200

    play(tmp_path, story)


def test_an_idle_connection_the_replica_closed_is_not_a_death(tmp_path: Path) -> None:
    async def story(replicas: Replicas) -> None:
        seen: list[dict[bytes, bytes]] = []
        a = await replicas.start("a", echo(seen))
        balancer = Balancer([a])
        await ready(balancer)
        await ask(balancer)
        for connection in list(replicas.servers["a"][1].open):
            connection.shut()
        await asyncio.sleep(0.05)
        assert (await ask(balancer)).status == 200
        assert b"x-holdfast-retry" not in seen[1]

    play(tmp_path, story)


def test_metrics_of_all_replicas_are_one_text(tmp_path: Path) -> None:
    async def story(replicas: Replicas) -> None:
        text = b'# HELP x_total X\n# TYPE x_total counter\nx_total{v="1"} 2.0\n# HELP y Y\n# TYPE y gauge\ny 1.0\n'
        balancer = Balancer(
            [await replicas.start(n, lambda request: Response(200, text, b"text/plain")) for n in ("a", "b")]
        )
        await ready(balancer)
        merged = (await ask(balancer, "/metrics")).body.decode()
        assert merged.count("# TYPE x_total counter") == 1
        for line in ('x_total{replica="a",v="1"} 2.0', 'x_total{replica="b",v="1"} 2.0', 'y{replica="b"} 1.0'):
            assert line in merged.splitlines()
        assert 'holdfast_replica_healthy{name="a"} 1.0' in merged

    play(tmp_path, story)


async def speaking(folder: Path, name: str, *pieces: bytes) -> Backend:
    """A replica that says these bytes, in these pieces, to whatever it is asked."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.005)

    path = folder / f"{name}.sock"
    await asyncio.start_unix_server(answer, str(path))
    backend = Backend(name, path)
    backend.health = "ready"
    return backend


def test_answers_come_whole_however_they_arrive(tmp_path: Path) -> None:
    async def story(replicas: Replicas) -> None:
        large = bytes(range(256)) * 20_000

        def handler(request: Request) -> Response:
            return Response(201, request.body + large, b"application/octet-stream", ((b"x-a", b"1"), (b"x-b", b"2: 3")))

        balancer = Balancer([await replicas.start("a", handler)])
        await ready(balancer)
        for _ in range(3):
            answer = await ask(balancer, body=b"z" * 300_000)
            assert answer.body == b"z" * 300_000 + large and answer.status == 201
            assert (answer.type, answer.headers) == (b"application/octet-stream", ((b"x-a", b"1"), (b"x-b", b"2: 3")))
        said = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\nbody"
        cut = Balancer([await speaking(tmp_path, "cut", *(said[i : i + 1] for i in range(len(said))))])
        for _ in range(2):
            assert (await ask(cut)).body == b"body"
        assert cut.backends[0].pending == 0

    play(tmp_path, story)


def test_what_is_no_answer_is_a_death_and_is_not_mixed_up_with_the_next(tmp_path: Path) -> None:
    async def story(replicas: Replicas) -> None:
        for number, said in enumerate(
            (
                b"HTTP/1.1 200 OK\r\n\r\n",
                b"nonsense\r\n\r\n",
                b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
            )
        ):
            balancer = Balancer([await speaking(tmp_path, f"{number}{name}", said) for name in ("a", "b")])
            answer = await ask(balancer)
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (502, "HF516")
            assert balancer.pending == 0 and all(b.pending == 0 for b in balancer.backends)

    play(tmp_path, story)


def test_a_head_request_and_a_replica_that_is_leaving(tmp_path: Path) -> None:
    async def story(replicas: Replicas) -> None:
        a = await replicas.start("a", lambda request: Response(200, b"[1]"))
        balancer = Balancer([a])
        await ready(balancer)
        for method in ("HEAD", "GET", "HEAD"):
            answer: Any = balancer.handle(Request(method, b"/release", "/release", b"", {}, b""))
            assert (await answer).body == b"[1]"
        replicas.servers["a"][1].draining = True
        for _ in range(3):  # each answer closes its connection; the next request opens another
            assert (await ask(balancer)).body == b"[1]"
        assert balancer.pending == 0 and a.pending == 0

    play(tmp_path, story)


def test_a_late_answer_reaches_nobody_else(tmp_path: Path) -> None:
    async def story(replicas: Replicas) -> None:
        async def slowly(request: Request) -> Response:
            if request.body == b"slow":
                await asyncio.sleep(0.4)
            return Response(200, request.body)

        balancer = Balancer([await replicas.start("a", slowly)], options=BalancerOptions(deadline=0.2))
        await ready(balancer)
        slow, quick = [asyncio.ensure_future(ask(balancer, body=b)) for b in (b"slow", b"quick")]
        assert (await quick).body == b"quick" and (await slow).status == 504
        for i in range(20):
            assert (await ask(balancer, body=str(i).encode())).body == str(i).encode()
            await asyncio.sleep(0.02)
        assert balancer.pending == 0 and balancer.backends[0].pending == 0

    play(tmp_path, story)
