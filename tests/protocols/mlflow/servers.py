"""A control plane in a process of its own, for clients that are processes too, and for being killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HOLDFAST = [sys.executable, "-m", "holdfast.cli.main"]


class Server:
    """``holdfast server`` over the workspace at ``root``, on a free port (the same one after a restart)."""

    def __init__(self, root: Path, *, settings: dict[str, str] | None = None) -> None:
        self.root = root
        self.environment = {**os.environ, **(settings or {}), "HOLDFAST_ACTOR": "tester"}
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait for the ready line.

        Raises:
            RuntimeError: it ended instead.
        """
        self.process = subprocess.Popen(
            [*HOLDFAST, "server", "--port", str(self.port)],
            cwd=self.root,
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        seen = ""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            line = self.process.stderr.readline()
            seen += line
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found[1])
                return
            if not line and self.process.poll() is not None:
                break
        raise RuntimeError(f"the server did not start: {seen}")

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
