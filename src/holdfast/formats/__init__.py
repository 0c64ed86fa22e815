"""How a model is written down and read back safely.

``save`` keeps a fitted estimator as it is (skops) and, where a faster equivalent verifies on rows, compiled (ONNX).
``load`` reads a package: content decides the format, the hash is verified before the first byte is parsed, pickle is
refused unless the operator trusts that hash, and nothing ever falls back to another loader.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from holdfast.core.errors import BadInput, NotFound, NotTrusted
from holdfast.core.ports import Predictor
from holdfast.core.records import Json, Package
from holdfast.formats.files import read_verified
from holdfast.formats.sniff import sniff

TOLERANCE = 1e-5
"""Most by which a compiled model's score may differ from the original's on any row looked at."""


@dataclass(frozen=True)
class Saved:
    """What ``save`` wrote. ``equivalence`` says how the compiled model was compared, or why there is none."""

    format: str
    model_file: str
    original_file: str | None
    files: list[str]
    classes: list[Any]
    equivalence: Json = field(default_factory=dict)


def save(estimator: Any, folder: Path, *, sample: np.ndarray, task: str, columns: Sequence[str]) -> Saved:
    """Write a fitted scikit-learn estimator into ``folder``.

    Args:
        sample: (n, d) float64, NaN for null: rows like those the model will meet. All of them are scored by both.
        task: binary, multiclass or regression.
        columns: names of the d inputs, in order.

    Raises:
        BadInput: it cannot be written, gives no probabilities, or the sample does not fit it.
        NotTrusted: it holds types that are not on the list of model types.
    """
    from holdfast.formats import skops

    sample = np.ascontiguousarray(sample, dtype=np.float64)
    if sample.ndim != 2 or sample.shape[1] != len(columns) or not len(sample):
        raise BadInput(
            f"the sample has shape {sample.shape}, the model has {len(columns)} inputs", hint="give at least one row"
        )
    if task != "regression" and not hasattr(estimator, "predict_proba"):
        raise BadInput(f"{type(estimator).__name__} gives no probabilities", hint="wrap it in CalibratedClassifierCV")
    data = skops.dump(estimator)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "model.skops", data)
    classes = _plain(getattr(estimator, "classes_", [])) if task != "regression" else []
    if task == "binary" and len(classes) != 2:
        raise BadInput(f"a binary model has two classes, this one saw {classes} in training")
    compiled, equivalence = _compile(skops.load_estimator(data), sample, task=task)
    if compiled is None:
        return Saved("skops", "model.skops", "model.skops", ["model.skops"], classes, equivalence)
    _write(folder / "model.onnx", compiled)
    return Saved("onnx", "model.onnx", "model.skops", ["model.onnx", "model.skops"], classes, equivalence)


def load(
    folder: Path,
    package: Package,
    *,
    original: bool = False,
    threads: int = 1,
    trusted: Callable[[str], bool] | None = None,
) -> Predictor:
    """The model of an unpacked package, ready to score.

    Args:
        original: the model as it was fitted, instead of the one compiled for serving.
        trusted: says whether the operator trusts a file of this SHA-256 to run code (pickle); None trusts none.

    Raises:
        Damaged: a file is not what the manifest names.
        NotTrusted: its format can run code and nobody vouches for it.
        BadInput, TooMuch, Unavailable: it cannot be read, safely or at all.
    """
    name = package.original_file if original else package.model_file
    if not name:
        raise NotFound(f"package {package.name} keeps no original model")
    data = read_verified(folder, package, name)
    return parse(data, package, sha256=package.files[name].sha256, threads=threads, trusted=trusted, name=name)


def parse(
    data: bytes,
    package: Package,
    *,
    sha256: str,
    threads: int = 1,
    trusted: Callable[[str], bool] | None = None,
    name: str = "the model",
) -> Predictor:
    """A predictor from bytes whose hash is already verified. What the bytes are decides who reads them."""
    kind = sniff(data)
    if (
        name == package.model_file
        and package.format in ("onnx", "skops", "safetensors", "xgboost", "lightgbm")
        and kind != package.format
    ):
        raise NotTrusted(
            f"{name} says {package.format} but holds {kind}", hint="package the model again from its source"
        )
    if kind == "onnx":
        from holdfast.formats import onnx

        return onnx.parse(data, package, threads=threads)
    if kind == "skops":
        from holdfast.formats import skops

        return skops.parse(data, package, threads=threads)
    if kind == "safetensors":
        from holdfast.formats import safetensors

        return safetensors.parse(data, package, threads=threads)
    if kind == "xgboost":
        from holdfast.formats import xgboost

        return xgboost.parse(data, package, threads=threads)
    if kind == "lightgbm":
        from holdfast.formats import lightgbm

        return lightgbm.parse(data, package, threads=threads)
    if kind in ("pickle", "joblib"):
        from holdfast.formats import pickle

        found: Predictor = pickle.parse(data, package, sha256=sha256, trusted=trusted, threads=threads)
        return found
    raise NotTrusted(f"{name} is of no model format that Holdfast reads ({kind})", hint="save it as ONNX or with skops")


def _compile(estimator: Any, sample: np.ndarray, *, task: str) -> tuple[bytes | None, Json]:
    """ONNX bytes that agree with the original on every row of the sample and of what is made from it; or why not."""
    from holdfast.core.records import FieldSpec
    from holdfast.formats import onnx, skops
    from holdfast.formats.compile_onnx import CannotCompile, compile_estimator

    width = sample.shape[1]
    facts: Json = {"tolerance": TOLERANCE, "against": type(estimator).__name__, "input": "float64", "compiled": False}
    try:
        data = compile_estimator(estimator, width=width, task=task)
    except CannotCompile as reason:
        return None, {**facts, "reason": str(reason)}
    inputs = [FieldSpec(name=f"x{i}", dtype="float64") for i in range(width)]
    probe = Package(
        name="probe",
        format="onnx",
        task=cast(Any, task),
        model_file="",
        files={},
        inputs=inputs,
        request=[],
        outputs=[],
    )
    before = skops.SklearnPredictor(estimator, task=task)
    try:
        after = onnx.parse(data, probe)
        for kind, rows in _stress(sample):
            try:
                expected = before.scores(rows)
            except ValueError:
                if kind == "sample":
                    raise BadInput("the estimator does not score the sample rows") from None
                continue  # what the original refuses (NaN, say) is refused by name before it reaches the compiled model
            got = after.scores(rows)
            gap = (
                float(np.max(np.abs(expected - got) / np.maximum(1.0, np.abs(expected))))
                if np.isfinite(got).all()
                else float("inf")
            )
            facts[kind] = {"rows": len(rows), "largest": gap}
            if not gap <= TOLERANCE:
                return None, {**facts, "reason": f"the compiled model differs by {gap:.3g} on {kind} rows"}
    except BadInput as error:
        if "does not score" in error.message:
            raise
        return None, {**facts, "reason": error.message}
    except NotTrusted as error:
        return None, {**facts, "reason": error.message}
    return data, {**facts, "compiled": True}


def _stress(sample: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The sample, and rows made from it that meet the model where conversions go wrong: columns mixed independently,
    values missing, values far out, values next to each other at the precision of float32."""
    rng = np.random.default_rng(7)
    some = sample[rng.integers(0, len(sample), size=min(2000, max(len(sample), 200)))]
    mixed = np.column_stack([rng.permutation(some[:, j]) for j in range(some.shape[1])])
    holes = np.where(rng.random(mixed.shape) < 0.3, np.nan, mixed)
    far = mixed * np.where(rng.random(mixed.shape) < 0.2, rng.choice([-1e6, 1e3, 1e9], size=mixed.shape), 1.0)
    near = mixed.astype(np.float32).astype(np.float64)
    return [("sample", sample), ("mixed", mixed), ("missing", holes), ("extreme", far), ("rounded", near)]


def _plain(values: Any) -> list[Any]:
    return [v.item() if hasattr(v, "item") else v for v in values]


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
