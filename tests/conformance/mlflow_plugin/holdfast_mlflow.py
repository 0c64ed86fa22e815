"""A pytest plugin that runs MLflow's own tests, unmodified, against Holdfast's control plane.

From a checkout of MLflow, in an environment with its test requirements:

    HOLDFAST="/path/to/holdfast" PYTHONPATH=<this folder> \\
        pytest -p holdfast_mlflow tests/tracking/test_rest_tracking.py tests/tracking/test_model_registry.py \\
        tests/tracking/test_mlflow_artifacts.py

``HOLDFAST`` is the command to run (default: ``holdfast`` on the path). Every server those tests start becomes a Holdfast
server over a new, empty workspace. Tests named in ``not_applicable.txt`` are skipped, each with its reason; a name there
that matches no collected test of a collected file is reported, so the list cannot rot.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LIST = Path(__file__).with_name("not_applicable.txt")
_unmatched: list[str] = []


@contextlib.contextmanager
def holdfast_server(port: int = 0) -> Iterator[str]:
    """A Holdfast control plane in a process of its own; its URL."""
    command = shlex.split(os.environ.get("HOLDFAST", "holdfast"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYTHONPATH"))}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "holdfast.toml").touch()
        process = subprocess.Popen(
            [*command, "server", "--port", str(port)], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        try:
            seen, deadline = "", time.monotonic() + 60
            while (found := re.search(r"http://[^:]+:\d+", seen)) is None:
                line = process.stderr.readline()
                seen += line
                if (not line and process.poll() is not None) or time.monotonic() > deadline:
                    raise RuntimeError(f"Holdfast did not start: {seen}")
            yield found[0]
        finally:
            process.terminate()
            process.wait(30)
            process.stderr.close()


class HoldfastServerThread:
    """Takes the place of the helper that runs MLflow's application in a thread."""

    def __init__(self, app: Any = None, port: int = 0, **_: Any) -> None:
        self._server = holdfast_server(port or 0)

    def __enter__(self) -> str:
        import mlflow

        # MLflow runs its server in this process and the tests' own calls share its store: here they share the server.
        url = self._server.__enter__()
        mlflow.set_tracking_uri(url)
        return url

    def __exit__(self, *exception: Any) -> None:
        self._server.__exit__(*exception)


@contextlib.contextmanager
def init_server(*_: Any, **__: Any) -> Iterator[str]:
    """Takes the place of the helper that starts ``mlflow server``; what store it asks for does not matter."""
    import mlflow

    mlflow.set_tracking_uri(None)
    with holdfast_server() as url:
        yield url


def pytest_sessionstart(session: pytest.Session) -> None:
    """Put our server where the checkout's helpers put theirs, before any test module imports them."""
    helpers = importlib.import_module("tests.tracking.integration_test_utils")
    helpers._init_server = init_server  # type: ignore[attr-defined]
    if hasattr(helpers, "ServerThread"):
        helpers.ServerThread = HoldfastServerThread


@contextlib.contextmanager
def launch_server(_host: str, port: int, *_: Any) -> Iterator[None]:
    """Takes the place of a test module's own way to start ``mlflow server`` on a port."""
    with holdfast_server(port):
        yield None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot apply, with the reason from the list."""
    for module in {item.module for item in items if isinstance(item, pytest.Function)}:
        if hasattr(module, "_launch_server"):
            module._launch_server = launch_server
    used: set[str] = set()
    files = {item.nodeid.split("::")[0] for item in items}
    rules = read_list()
    for item in items:
        for pattern, reason in rules:
            if fnmatch.fnmatchcase(item.nodeid.split("[")[0], pattern):
                used.add(pattern)
                item.add_marker(pytest.mark.skip(reason=reason))
                break
    _unmatched[:] = [p for p, _ in rules if p not in used and p.split("::")[0] in files]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many passed, failed and could not apply; and names of the list that are gone."""
    stats = terminalreporter.stats
    counts = {kind: len(stats.get(kind, [])) for kind in ("passed", "failed", "error", "skipped")}
    terminalreporter.write_line(f"holdfast: {counts}")
    for file in sorted(
        {
            r.nodeid.split("::")[0]
            for found in stats.values()
            for r in found
            if "::" in (getattr(r, "nodeid", None) or "")
        }
    ):
        mine = {
            kind: sum(r.nodeid.startswith(f"{file}::") for r in stats.get(kind, [])) for kind in (*counts, "xfailed")
        }
        terminalreporter.write_line(f"holdfast: {file} {mine}")
    for pattern in _unmatched:
        terminalreporter.write_line(f"holdfast: {pattern} matches no test any more", yellow=True)


def read_list() -> list[tuple[str, str]]:
    """(pattern of node ids, reason) of each line."""
    rules = []
    for line in LIST.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            pattern, _, reason = line.partition(" ")
            if not reason.strip():
                raise ValueError(f"{pattern} has no reason")
            rules.append((pattern, reason.strip()))
    return rules
