"""A real server for one version that is being measured: started, asked, its log read back, and nothing of it left.

It answers under a name of its own (``check-…``), so that neither staging nor production of any service is touched. It is
what a client meets: features looked up, the prediction log written, HTTP in between.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.definitions import Rule
from holdfast.core.errors import HoldfastError
from holdfast.core.records import Arm, Json, ModelVersion, Package, Release

if TYPE_CHECKING:
    from holdfast.validation.served import Served
    from holdfast.workspace import Workspace

ROWS = 500
"""Most rows that are asked."""
_PREFIX = "check-"


def wanted(rules: Sequence[Rule]) -> bool:
    """Whether a rule asks for what a real server answers."""
    return any(str(option).startswith("served") for rule in rules for option in rule.options)


def ask(
    ws: Workspace, version: ModelVersion, package: Package, requests: Sequence[Json], times: Sequence[int]
) -> Served:
    """What a server of ``version`` answers to ``requests`` as of ``times`` (µs); one that does not start refuses all."""
    from holdfast.lifecycle import staged
    from holdfast.serving import predictions, release_file
    from holdfast.validation import served

    _sweep(ws)
    name = f"{_PREFIX}{version.content[:12]}-{os.getpid()}"
    folder = ws.path("releases", ".")
    arm = Arm(version=version.version, content=version.content, weight=100.0)
    temporary = Release(
        service=name, model=version.name, environment="staging", sequence=1, champion=arm, salt=name, reason="check"
    )
    try:
        release_file.write(folder, temporary, ws.secret("release"))
        try:
            with staged.fleet(ws, name, "staging", arguments=("--replay", "--log", "buffered")) as about:
                staged.wait_loaded(about["address"])
                found = served.ask(about["address"], requests, times)
        except HoldfastError as error:
            return served.Served(seconds=np.empty(0), scores=[], problems=[error.message], refused=len(requests))
        # The server has ended, so its log is written to the last row.
        table = predictions.read(ws.path("predictions", name), environment="staging", ids=[i for i in found.ids if i])
        return replace(found, inputs=_inputs(table, found.ids, package))
    finally:
        _remove(ws, name)


def _inputs(table: Any, ids: Sequence[str], package: Package) -> Any:
    """(n, d) the features of each id as served, NaN for null; None where one is not in the log."""
    place = {name: i for i, name in enumerate(table.column("id").to_pylist())}
    columns = [f"features.{spec.name}" for spec in package.inputs]
    if any(name not in place for name in ids) or any(c not in table.column_names for c in columns):
        return None
    rows = np.array([place[name] for name in ids], dtype=np.int64)
    matrix = [table.column(c).to_numpy(zero_copy_only=False).astype(np.float64)[rows] for c in columns]
    return np.column_stack(matrix) if matrix else None


def _remove(ws: Workspace, name: str) -> None:
    shutil.rmtree(ws.path("predictions", name), ignore_errors=True)
    ws.path("logs", f"{name}-staging.log").unlink(missing_ok=True)
    ws.path("run", f"{name}-staging.json").unlink(missing_ok=True)
    folder = ws.path("releases", ".")
    for file in (f"{name}.staging.json", f".{name}.staging.json.lock"):
        (folder / file).unlink(missing_ok=True)


def _sweep(ws: Workspace) -> None:
    """What a check that was killed left behind: its process is no more."""
    for path in ws.path("releases", ".").glob(f"{_PREFIX}*.staging.json"):
        name = path.name.removesuffix(".staging.json")
        pid = name.rpartition("-")[2]
        if pid.isdigit() and not _alive(int(pid)):
            _remove(ws, name)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
