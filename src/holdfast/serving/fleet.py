"""Replicas as processes: started, watched, restarted with backoff, killed when they hang, drained when told to stop.

One replica takes the public socket itself: nothing stands between it and its callers, and connections that come while
it restarts wait in the socket's queue. Several stand behind the balancer, which runs in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from holdfast.core.errors import Unavailable
from holdfast.serving.balancer import HEALTH_EVERY, HEALTH_TIMEOUT, Backend, Balancer, BalancerOptions
from holdfast.serving.wire import Limits, Request, Response

log = logging.getLogger("holdfast.serving.fleet")
FIRST_BACKOFF, LAST_BACKOFF, SETTLED = 0.1, 5.0, 10.0
HUNG_AFTER = 3
# A replica's model runs on one thread; the machine is filled by replicas.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")

Command = Callable[[str, str], Sequence[str]]


class Worker:
    """One replica process and what became of it."""

    def __init__(self, name: str, argv: Sequence[str], pass_fds: Sequence[int]) -> None:
        self.name = name
        self.argv = list(argv)
        self.pass_fds = tuple(pass_fds)
        self.process: subprocess.Popen[bytes] | None = None
        self.backoff = FIRST_BACKOFF
        self.started = 0.0
        self.again = 0.0
        self.stopping = False

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.argv, pass_fds=self.pass_fds, env={**_ONE_THREAD, **os.environ}, stdin=subprocess.DEVNULL
        )
        self.started = time.monotonic()

    def tend(self) -> bool:
        """Start again when it is time; True when the process was found dead just now."""
        if self.stopping:
            return False
        if self.again:
            if time.monotonic() >= self.again:
                self.again = time.monotonic() + self.backoff  # where it cannot be started now
                self.start()
                self.again = 0.0
            return False
        if self.process is None:
            return False
        status = self.process.poll()
        if status is None:
            if self.backoff > FIRST_BACKOFF and time.monotonic() - self.started > SETTLED:
                self.backoff = FIRST_BACKOFF
            return False
        log.warning("replica %s ended with status %s; starting it again in %.1f s", self.name, status, self.backoff)
        self.again = time.monotonic() + self.backoff
        self.backoff = min(self.backoff * 2, LAST_BACKOFF)
        return True

    def signal(self, number: int) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Fleet:
    """The replicas of one service and environment, behind one address.

    Args:
        command: (replica name, where to listen: ``fd:N`` or ``unix:PATH``, lifeline descriptor as text) → argv.
        on_change: called with the replicas' pids whenever one starts or ends.
        wanted: how many replicas there should be, asked now and then; None = as many as there are.
    """

    def __init__(
        self,
        command: Callable[[str, str, int], Sequence[str]],
        *,
        replicas: int,
        listen: socket.socket,
        limits: Limits | None = None,
        options: BalancerOptions | None = None,
        guard: Callable[[Request], Response | None] | None = None,
        on_change: Callable[[list[int]], None] | None = None,
        direct: bool | None = None,
        wanted: Callable[[], int | None] | None = None,
    ) -> None:
        self._command = command
        self._wanted = wanted
        self._listen = listen
        self._on_change = on_change or (lambda pids: None)
        self._lifeline, self._lifeline_end = os.pipe()
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast-"))
        self._count = 0
        self._known: list[int] = []
        self.workers: list[Worker] = []
        self.direct = replicas == 1 if direct is None else direct
        self.balancer: Balancer | None = None
        if self.direct:
            argv = command("0", f"fd:{listen.fileno()}", self._lifeline)
            self.workers.append(Worker("0", argv, (listen.fileno(), self._lifeline)))
        else:
            self.balancer = Balancer([], options=options, limits=limits, guard=guard)
            for _ in range(replicas):
                self._add()

    def _add(self) -> Worker:
        assert self.balancer is not None
        name = str(self._count)
        self._count += 1
        path = self._folder / f"{name}.sock"
        worker = Worker(name, self._command(name, f"unix:{path}", self._lifeline), (self._lifeline,))
        self.workers.append(worker)
        self.balancer.backends.append(Backend(name, path))
        return worker

    @property
    def pids(self) -> list[int]:
        return [w.pid for w in self.workers if w.pid is not None]

    async def run(
        self, *, on_ready: Callable[[], None] | None = None, stop: asyncio.Event | None = None, startup: float = 60.0
    ) -> None:
        """Serve until SIGTERM, SIGINT or ``stop``."""
        loop = asyncio.get_running_loop()
        stop = stop or asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError, RuntimeError):
                loop.add_signal_handler(number, stop.set)
        for worker in self.workers:
            worker.start()
        tasks: list[asyncio.Task[Any]] = [loop.create_task(self._tend())]
        server = None
        try:
            if self.balancer is not None:
                self.balancer.listener.start()
                tasks += [loop.create_task(self._check(b)) for b in self.balancer.backends]
                server = await loop.create_server(self.balancer.listener.connection, sock=self._listen, backlog=1024)
            await self._wait_live(startup, stop)
            if on_ready is not None and not stop.is_set():
                on_ready()
            tasks.append(loop.create_task(self._check_alone() if self.balancer is None else self._follow()))
            await stop.wait()
        finally:
            if server is not None and self.balancer is not None:
                server.close()
                await self.balancer.listener.drain()
            for task in tasks:
                task.cancel()
            # A lone replica has the socket too: once it takes no more, callers are to be refused, not left in the queue.
            self._listen.close()
            await self._stop_workers()
            os.close(self._lifeline_end)
            os.close(self._lifeline)
            shutil.rmtree(self._folder, ignore_errors=True)

    async def scale(self, replicas: int) -> None:
        """Change the number of replicas behind the balancer; those that leave finish what they have first."""
        assert self.balancer is not None
        while len(self.workers) < replicas:
            worker = self._add()
            worker.again = time.monotonic()  # `_tend` starts it
            asyncio.get_running_loop().create_task(self._check(self.balancer.backends[-1]))
        leaving = []
        while len(self.workers) > max(replicas, 1):
            worker, backend = self.workers.pop(), self.balancer.backends.pop()
            worker.stopping = backend.draining = True
            leaving.append((worker, backend))
        for worker, backend in leaving:
            end = time.monotonic() + 35
            while backend.pending and time.monotonic() < end:
                await asyncio.sleep(0.02)
            worker.signal(signal.SIGTERM)
            await asyncio.to_thread(self._reap, worker)

    # --- watching ---------------------------------------------------------------------------------------------------

    async def _tend(self) -> None:
        said = ""
        while True:
            # A full disk, or a machine that starts no more processes, must not end this: it is tried again.
            problems: list[str] = []
            for worker in list(self.workers):
                try:
                    died = worker.tend()
                except OSError as problem:
                    problems.append(f"replica {worker.name} cannot be started: {problem}")
                    continue
                if died and self.balancer is not None:
                    self.balancer.restarts.labels(worker.name).inc()
                    for backend in self.balancer.backends:
                        if backend.name == worker.name:
                            backend.forget()
            pids = self.pids
            if pids != self._known:
                try:
                    self._on_change(pids)
                except OSError as problem:
                    problems.append(f"which replicas there are cannot be written down: {problem}")
                else:
                    self._known = pids
            now = "; ".join(problems)
            if now and now != said:
                log.error("%s", now)
            said = now
            await asyncio.sleep(0.02)

    async def _check(self, backend: Backend) -> None:
        assert self.balancer is not None
        while backend in self.balancer.backends:
            health = await self.balancer.check(backend)
            if backend.missed >= HUNG_AFTER:
                backend.missed = 0
                for worker in self.workers:
                    if worker.name == backend.name:
                        log.warning("replica %s does not answer; it is killed and started again", worker.name)
                        worker.signal(signal.SIGKILL)
            await asyncio.sleep(HEALTH_EVERY if health == "ready" else 0.05)

    async def _check_alone(self) -> None:
        """Kill a lone replica whose process lives and does not answer."""
        missed, worker = 0, self.workers[0]
        while True:
            await asyncio.sleep(1.0)
            if worker.pid is None or time.monotonic() - worker.started < SETTLED:
                missed = 0
                continue
            missed = 0 if await asyncio.to_thread(_answers, self._listen, HEALTH_TIMEOUT) else missed + 1
            if missed >= HUNG_AFTER:
                missed = 0
                log.warning("replica %s does not answer; it is killed and started again", worker.name)
                worker.signal(signal.SIGKILL)

    async def _follow(self) -> None:
        """Scale to what is wanted."""
        while True:
            await asyncio.sleep(0.2)
            number = self._wanted() if self._wanted is not None else None
            if number is not None and number != len(self.workers):
                log.info("scaling from %d to %d replicas", len(self.workers), number)
                await self.scale(number)

    async def _wait_live(self, startup: float, stop: asyncio.Event) -> None:
        """Until a replica answers at all (it may still have no release)."""
        end = time.monotonic() + startup
        while not stop.is_set():
            if self.balancer is None:
                if await asyncio.to_thread(_answers, self._listen):
                    return
            elif all(b.health != "down" for b in self.balancer.backends):
                return
            if time.monotonic() > end:
                raise Unavailable(f"no replica came up within {startup:g} s", hint="see the replicas' messages above")
            await asyncio.sleep(0.02)

    async def _stop_workers(self) -> None:
        for worker in self.workers:
            worker.stopping = True
            worker.signal(signal.SIGTERM)
        await asyncio.gather(*(asyncio.to_thread(self._reap, w) for w in self.workers))

    @staticmethod
    def _reap(worker: Worker, timeout: float = 15.0) -> None:
        if worker.process is None:
            return
        try:
            worker.process.wait(timeout)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


def listen(host: str, port: int) -> socket.socket:
    """The public socket. Raises OSError where the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.listen(1024)
    sock.setblocking(False)
    return sock


def _answers(sock: socket.socket, timeout: float = 1.0) -> bool:
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    try:
        with socket.create_connection((host, port), timeout=timeout) as client:
            client.settimeout(timeout)
            client.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            return client.recv(16).startswith(b"HTTP/1.1 ")
    except OSError:
        return False
