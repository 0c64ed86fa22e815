"""A package loaded by a fresh interpreter: what another process makes of it, and what it takes.

``run`` is the parent's side; a child module's ``main`` calls ``load`` and answers in files of the place it is given. The
child may run exactly what this process was allowed to run: the hashes that are vouched for here are handed to it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from holdfast.core.errors import Unavailable
from holdfast.core.ports import Predictor
from holdfast.core.records import Package
from holdfast.validation.evidence import Context

TIMEOUT = 120.0


class Failed(Exception):
    """The process could not do it; the message is its last line."""


def run(context: Context, module: str, place: Path, rows: Any, *, env: Mapping[str, str] | None = None) -> str:
    """Run ``module`` over the package in ``context.folder`` and ``rows``; what it printed.

    Raises:
        Failed: it ended with an error.
        Unavailable: it took too long, or there is no package.
    """
    if context.folder is None:
        raise Unavailable("there is no package to load")
    np.save(place / "rows.npy", rows)
    (place / "package.json").write_bytes(msgspec.json.encode(context.package))
    (place / "vouched.json").write_bytes(msgspec.json.encode(_vouched(context)))
    argv = [sys.executable, "-m", module, str(context.folder.resolve()), str(place)]
    told = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    if context.package.format == "pickle":
        # The classes of a pickle may be the project's own, importable here because its definitions were loaded.
        told["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    try:
        done = subprocess.run(argv, env=told, capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"the process took over {TIMEOUT:g} s") from None
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Failed(lines[-1] if lines else f"it ended with {done.returncode}")
    return done.stdout.decode("utf-8", "replace")


def _vouched(context: Context) -> list[str]:
    """The hashes of the package that may run code here: its files, and all of them together."""
    from holdfast.formats import mlflow_pyfunc

    asked = [ref.sha256 for ref in context.package.files.values()]
    asked.append(mlflow_pyfunc.tree_digest(mlflow_pyfunc.own_files(context.package)))
    return [value for value in asked if context.trusted is not None and context.trusted(value)]


def load(folder: str, place: str) -> tuple[Predictor, Any]:
    """(the model, the rows) in the child."""
    from holdfast import formats

    package = msgspec.json.decode((Path(place) / "package.json").read_bytes(), type=Package)
    vouched = set(msgspec.json.decode((Path(place) / "vouched.json").read_bytes(), type=list[str]))
    rows = np.load(Path(place) / "rows.npy", allow_pickle=False)
    return formats.load(Path(folder), package, trusted=vouched.__contains__), rows
