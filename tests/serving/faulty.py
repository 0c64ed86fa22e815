"""A replica process whose challenger is as bad as asked for: ``python -m tests.serving.faulty '{json}'``."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from holdfast.core.records import Arm, Package, Release
from holdfast.serving.journal import Journal
from holdfast.serving.model import Loaded
from holdfast.serving.predict import Options
from holdfast.serving.replica import Replica, stamp_of
from tests.serving.world import fields

PACKAGE = Package(
    name="toy", format="onnx", task="binary", model_file="m", files={}, inputs=fields(), request=fields(), outputs=[],
    classes=["no", "yes"],
)  # fmt: skip


def good(matrix: Any) -> Any:
    """The first input is the probability."""
    return np.asarray(matrix[:, 0], dtype=np.float64)


def error(matrix: Any) -> Any:
    raise RuntimeError("a secret path")


class Crash:
    """Behaves while it is warmed up, then takes the whole process with it."""

    def __init__(self) -> None:
        self.warm: Any = None

    def __call__(self, matrix: Any) -> Any:
        self.warm = matrix[0] if self.warm is None else self.warm
        if (matrix != self.warm).any():
            os._exit(139)
        return good(matrix)


class Model:
    def __init__(self, scores: Callable[[Any], Any]) -> None:
        self.scores = scores


def command(folder: Path, release: Path, *, fault: str) -> Callable[[str, str, int], Sequence[str]]:
    """A fleet's command for such replicas."""

    def argv(name: str, listen: str, lifeline: int) -> Sequence[str]:
        told = {
            "folder": str(folder),
            "release": str(release),
            "name": name,
            "listen": listen,
            "lifeline": lifeline,
            "fault": fault,
        }
        return [sys.executable, "-m", "tests.serving.faulty", json.dumps(told)]

    return argv


async def main(told: dict[str, Any]) -> None:
    path = Path(told["release"])
    crash = Crash()
    models = {1: good, 2: {"crash": crash, "error": error, "good": good}[told["fault"]]}

    def read() -> Release:
        return msgspec.json.decode(path.read_bytes(), type=Release)

    def load(arm: Arm) -> Loaded:
        return Loaded(version=arm.version, content=arm.content, package=PACKAGE, predictor=Model(models[arm.version]))

    replica = Replica(
        service="s", environment="production", name=told["name"], release=read, stamp=stamp_of(path), load=load,
        journal=Journal(Path(told["folder"]), replica=told["name"]), now=lambda: time.time_ns() // 1000,
        options=Options(balanced=True),
    )  # fmt: skip
    kind, _, where = told["listen"].partition(":")
    place: Any = Path(where)
    if kind == "fd":
        place = socket.socket(fileno=int(where))
        place.setblocking(False)
    await replica.run(place, lifeline=told["lifeline"])


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
