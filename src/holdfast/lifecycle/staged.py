"""A version in staging, and its smoke test: golden rows through a real server of it, recorded under its content."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.definitions import Service
from holdfast.core.errors import Unavailable
from holdfast.core.records import Arm, Evidence, Json, ModelVersion, Release
from holdfast.lifecycle import approval
from holdfast.lifecycle.approval import SMOKES
from holdfast.lifecycle.release import project_files, publish

if TYPE_CHECKING:
    from holdfast.workspace import Workspace

START_SECONDS, PROBLEM_SECONDS = 60.0, 5.0
MAKING_SECONDS = 1800.0


def stage(ws: Workspace, service: Service, version: ModelVersion, *, at: int, reason: str = "") -> Release:
    """Make ``version`` the staging release of a service."""
    under = approval.terms_of(ws, service)
    with ws.ledger.transaction() as tx:
        release = publish(
            tx, Release(service=service.name, model=version.name, environment="staging", sequence=0,
                        champion=Arm(version=version.version, content=version.content, weight=100.0), salt=service.name, reason=reason),
            service=service, under=under, at=at, actor=ws.actor,
        )  # fmt: skip
    project_files(ws, service.name)
    return release


@contextmanager
def fleet(
    ws: Workspace, service: str, environment: str, *, replicas: int = 1, port: int = 0, where: str | None = None,
    arguments: tuple[str, ...] = (),
) -> Iterator[Json]:  # fmt: skip
    """A serving fleet as a child process while the block runs; yields what it wrote about itself once ready. ``where``
    is the Python it runs in, ``here`` or ``auto``; by default what ``serve.environment`` says."""
    where = where or ws.settings.serve.environment
    about = ws.path("run", f"{service}-{environment}.json")
    about.unlink(missing_ok=True)
    log = ws.path("logs", f"{service}-{environment}.log")
    command = [
        sys.executable, "-m", "holdfast.cli.main", "serve", service, "--environment", environment,
        "--replicas", str(replicas), "--port", str(port), "--env", where, *arguments,
    ]  # fmt: skip
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=ws.root, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        yield _wait_ready(about, process, log, seconds=MAKING_SECONDS if where == "auto" else START_SECONDS)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(about: Path, process: subprocess.Popen[bytes], log: Path, *, seconds: float) -> Json:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise Unavailable(
                f"the server ended at its start: {lines[-1] if lines else process.returncode}", hint=f"its log is {log}"
            )
        if about.exists():
            info: Json = json.loads(about.read_text(encoding="utf-8"))
            if info.get("pid") == process.pid or _alive(info.get("pid")):
                return info
        time.sleep(0.02)
    raise Unavailable(f"the server was not ready in {seconds:.0f} s", hint=f"its log is {log}")


def _alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (OSError, TypeError, ValueError):
        return False
    return True


def smoke(ws: Workspace, service: Service, version: ModelVersion, *, at: int, where: str | None = None) -> Evidence:
    """Send the package's golden rows through a real staging server; every one must be answered by this version with a
    finite score. Recorded under the exact content."""
    from holdfast.registry import package as packages

    manifest = packages.load(ws.objects, version.content)
    problems: list[str] = []
    answered = 0
    if manifest.golden_file is None:
        problems.append("the package has no golden rows")
    else:
        golden = json.loads(ws.objects.get(manifest.files[manifest.golden_file].sha256))["rows"]
        with fleet(ws, service.name, "staging", where=where, arguments=("--replay",)) as about:
            lacking = wait_loaded(about["address"])
            if lacking:
                problems.append(lacking)
            for row in golden if not lacking else []:
                status, answer = _post(
                    about["address"] + "/predict", {"rows": [row["request"]], "request_time": row["request_time"]}
                )
                predictions = answer.get("predictions") or [{}]
                if status != 200:
                    problems.append(f"HTTP {status}: {str(answer)[:200]}")
                elif predictions[0].get("version") != version.version:
                    problems.append(f"answered by version {predictions[0].get('version')}")
                elif not _scored(predictions[0].get("score")):
                    problems.append(f"score is {predictions[0].get('score')!r}")
                else:
                    answered += 1
    evidence = Evidence(
        check="smoke", figure=float(answered), n=answered + len(problems), layer="live", how="golden rows through a staging server",
        details={"problems": problems[:5]},
    )  # fmt: skip
    outcome = "fail" if problems or not answered else "pass"
    with ws.ledger.transaction() as tx:
        body = {
            "version": version.version,
            "content": version.content,
            "outcome": outcome,
            "answered": answered,
            "problem": problems[0] if problems else "",
        }
        tx.put(SMOKES, f"{service.name}/{version.content}", {**body, "at": at})
        tx.append("smoke", subject=service.name, body=body, at=at, actor=ws.actor)
    return evidence


def _scored(score: Any) -> bool:
    """Whether an answer's score is a number, or a number for each class."""
    return isinstance(score, int | float) or (
        isinstance(score, list) and bool(score) and all(isinstance(s, int | float) for s in score)
    )


def wait_loaded(address: str) -> str:
    """Wait until the server says it is ready, for START_SECONDS, or PROBLEM_SECONDS once it says what it lacks; empty when
    it is ready, else that."""
    deadline, problem = time.monotonic() + START_SECONDS, ""
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address + "/health/ready", timeout=5):  # noqa: S310  (our own loopback address)
                return ""
        except urllib.error.HTTPError as error:
            with suppress(ValueError):
                told = json.loads(error.read()).get("problem") or ""
                if told and not problem:
                    deadline = min(deadline, time.monotonic() + PROBLEM_SECONDS)
                problem = told
        except OSError:
            pass
        time.sleep(0.05)
    return problem or f"the server was not ready in {START_SECONDS:.0f} s"


def _post(url: str, body: Json) -> tuple[int, Json]:
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})  # noqa: S310  (our own loopback address)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with suppress(ValueError):
            return error.code, json.loads(error.read())
        return error.code, {}
    except (OSError, ValueError) as error:
        return 0, {"error": str(error)}
