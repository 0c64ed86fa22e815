"""``holdfast up``: everything of a project on this machine; Ctrl-C stops it all."""

from __future__ import annotations

from collections.abc import Callable

import click

from holdfast.cli.output import say


@click.command()
@click.option(
    "--no-loop", is_flag=True, help="Leave the controller out: nothing is monitored, retrained or rolled out."
)
def up(no_loop: bool) -> None:
    """Start the server, the feature server, a fleet per service and the loop; print their addresses; stop with Ctrl-C.

    A part that dies is started again; a part that dies at once three times brings everything down with its last words.
    """
    import os
    import signal
    import subprocess
    import sys
    import threading
    import time

    from holdfast.cli.loop import services_of
    from holdfast.core.errors import Unavailable
    from holdfast.core.project import require_root
    from holdfast.workspace import Workspace

    require_root()
    with Workspace.open() as ws:
        services = services_of(ws, ())
        settings = ws.settings
        replay = ["--replay"] if settings.clock == "replay" else []
        commands: dict[str, list[str]] = {"server": ["server"], "features": ["features", "serve"]}
        for number, service in enumerate(services):
            port = settings.serve.port + number if settings.serve.port else 0
            commands[f"serve-{service.name}"] = ["serve", service.name, "--port", str(port), *replay]
        if not no_loop:
            commands["loop"] = ["loop", "run"]
        addresses = {
            "MLflow and registry": _address(settings.server.host, settings.server.port),
            "features": _address(settings.features.host, settings.features.port),
        }
        for number, service in enumerate(services):
            port = settings.serve.port + number if settings.serve.port else 0
            addresses[f"service {service.name}"] = _address(settings.serve.host, port, "/predict")
        stop = threading.Event()
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, lambda *_: stop.set())
        root, logs = ws.root, {name: ws.path("logs", f"{name}.log") for name in commands}

    def start(name: str) -> subprocess.Popen[bytes]:
        with logs[name].open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "holdfast.cli.main", *commands[name]], cwd=root, stdout=out, stderr=out,
                stdin=subprocess.DEVNULL, env={**os.environ}, start_new_session=True, preexec_fn=_ends_with_us(),
            )  # fmt: skip

    children = {name: (start(name), time.monotonic()) for name in commands}
    early: dict[str, int] = dict.fromkeys(commands, 0)
    for name, address in addresses.items():
        say(f"{name:>24}  {address}")
    say(f"{'logs':>24}  {logs['server'].parent}\n{'stop':>24}  Ctrl-C")
    try:
        while not stop.wait(0.2):
            for name, (child, since) in list(children.items()):
                if child.poll() is None:
                    continue
                early[name] = early[name] + 1 if time.monotonic() - since < 10 else 0
                if early[name] >= 3:
                    words = logs[name].read_text(encoding="utf-8", errors="replace").strip().splitlines()
                    raise Unavailable(
                        f"{name} does not stay up: {_last_words(words) or child.returncode}",
                        hint=f"its log is {logs[name]}; is another `holdfast up` running?",
                    )
                say(f"{name} ended with {child.returncode}; starting it again")
                children[name] = (start(name), time.monotonic())
    finally:
        for child, _ in children.values():
            if child.poll() is None:
                child.terminate()
        for child, _ in children.values():
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()


def _ends_with_us() -> Callable[[], None] | None:
    """What a child does first, so that none is left holding its port when this process is killed (Linux)."""
    import ctypes
    import os
    import signal
    import sys

    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def prepare() -> None:
        libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _last_words(lines: list[str]) -> str:
    """The last error of a log, or its last line."""
    return next((line for line in reversed(lines) if line.startswith("error[")), lines[-1] if lines else "")


def _address(host: str, port: int, path: str = "") -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}{path}" if port else f"a free port of {host}; its log says which"
