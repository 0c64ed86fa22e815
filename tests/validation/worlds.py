"""Small worlds for the gate: rows, a model given by its scores, groups. No file, no fitting."""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.core.records import FieldSpec, Package
from holdfast.validation.evidence import Context


class Given:
    """A predictor that computes its scores from the rows by a plain function."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def scores(self, matrix: Any) -> Any:
        return self.function(np.asarray(matrix, dtype=np.float64))


def package(columns: int, *, task: str = "binary", threshold: float | None = 0.5, **more: Any) -> Package:
    inputs = [FieldSpec(name=f"x{i}", dtype="float64") for i in range(columns)]
    classes = [0, 1] if task == "binary" else []
    return Package(
        name="m", format="onnx", task=task, model_file="model.onnx", files={}, inputs=inputs, request=inputs,
        outputs=[FieldSpec(name="score", dtype="float64")],
        classes=more.pop("classes", classes), threshold=threshold, **more,
    )  # fmt: skip


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def world(
    n: int = 4000, *, seed: int = 0, columns: int = 3, strength: float = 1.5, groups: int = 3
) -> tuple[Any, Any, Any]:
    """(X, y, group): the label depends on the first two columns, the group on nothing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, columns))
    y = (rng.random(n) < sigmoid(strength * (x[:, 0] + x[:, 1]))).astype(int)
    return x, y, np.array([f"g{i}" for i in rng.integers(0, groups, size=n)])


def honest(x: Any) -> Any:
    """The best score there is in ``world``."""
    return sigmoid(1.5 * (x[:, 0] + x[:, 1]))


def context(x: Any, y: Any, function: Any = honest, **more: Any) -> Context:
    made = more.pop("package", None) or package(x.shape[1])
    return Context(Given(function), made, x, y, **more)
