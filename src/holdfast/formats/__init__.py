"""How a model is written down and read back safely.

``save`` keeps a fitted estimator as it is and, where a faster equivalent verifies on rows, compiled (ONNX). ``load`` reads
a package: content decides the format, the hash is verified before the first byte is parsed, what runs code (pickle, MLflow
python_function) is refused unless this store signed it or the operator trusts that hash, and nothing ever falls back to
another loader.
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
from holdfast.core.records import FieldSpec, Json, Package
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


def save(
    estimator: Any, folder: Path, *, sample: np.ndarray, task: str, columns: Sequence[str], pickled: bool = False
) -> Saved:
    """Write a fitted model into ``folder``: XGBoost and LightGBM in their own formats, a ``torch.nn.Sequential`` of linear
    layers as safetensors, anything else as scikit-learn estimators are written (skops, and ONNX where that agrees).

    Args:
        sample: (n, d) float64, NaN for null: rows like those the model will meet. All of them are scored by both.
        task: binary, multiclass or regression.
        columns: names of the d inputs, in order.
        pickled: write a pickle where nothing safe can hold the estimator. Only the store that signs it will load it.

    Raises:
        BadInput: it cannot be written, gives no probabilities, or the sample does not fit it.
        NotTrusted: it holds types that are not on the list of model types.
    """
    sample = np.ascontiguousarray(sample, dtype=np.float64)
    if sample.ndim != 2 or sample.shape[1] != len(columns) or not len(sample):
        raise BadInput(
            f"the sample has shape {sample.shape}, the model has {len(columns)} inputs", hint="give at least one row"
        )
    kind, name, data, scores = _write_down(estimator, task=task, pickled=pickled)
    classes = _plain(getattr(estimator, "classes_", [])) if task != "regression" else []
    if task == "binary" and not classes and kind in ("xgboost", "lightgbm", "safetensors"):
        classes = [0, 1]
    if task == "binary" and len(classes) != 2:
        raise BadInput(f"a binary model has two classes, this one saw {classes} in training")
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / name, data)
    if kind == "skops":
        from holdfast.formats import skops

        compiled, equivalence = _compile(skops.load_estimator(data), sample, task=task)
        if compiled is not None:
            _write(folder / "model.onnx", compiled)
            return Saved("onnx", "model.onnx", name, ["model.onnx", name], classes, equivalence)
        return Saved(kind, name, name, [name], classes, equivalence)
    equivalence = _read_back(data, kind, scores, sample, task=task, estimator=estimator)
    return Saved(kind, name, name, [name], classes, equivalence)


def _write_down(
    estimator: Any, *, task: str, pickled: bool
) -> tuple[str, str, bytes, Callable[[np.ndarray], np.ndarray]]:
    """(format, file name, bytes, the estimator's own scores of rows)."""
    from holdfast.formats.onnx import shape_scores

    family = type(estimator).__module__.partition(".")[0]
    if _is_torch(estimator):
        from holdfast.formats import safetensors

        return "safetensors", "model.safetensors", safetensors.dump(estimator), safetensors.own_scores(estimator, task)
    if family == "xgboost":
        from holdfast.formats import xgboost

        return "xgboost", "model.ubj", xgboost.dump(estimator), xgboost.own_scores(estimator, task)
    if family == "lightgbm":
        from holdfast.formats import lightgbm

        return "lightgbm", "model.txt", lightgbm.dump(estimator), lightgbm.own_scores(estimator, task)
    if task != "regression" and not hasattr(estimator, "predict_proba"):
        raise BadInput(f"{type(estimator).__name__} gives no probabilities", hint="wrap it in CalibratedClassifierCV")
    from holdfast.formats import pickle, skops

    own = estimator.predict if task == "regression" else estimator.predict_proba
    scores = lambda rows: np.asarray(shape_scores(own(rows), task))  # noqa: E731
    try:
        return "skops", "model.skops", skops.dump(estimator), scores
    except (BadInput, NotTrusted) as error:
        if not pickled:
            raise type(error)(
                f"no safe format holds this {type(estimator).__name__}: {error.message}",
                hint="build it of scikit-learn's own parts, export it to ONNX, or allow a pickle that only this store will load: "
                "pickled=True in @hf.model(…) or hf.save_model(…)",
            ) from None
    return "pickle", "model.pkl", pickle.dump(estimator), scores


def _is_torch(estimator: Any) -> bool:
    """Told from the names of its bases: importing torch to ask would cost seconds."""
    return any(c.__module__ == "torch.nn.modules.module" for c in type(estimator).__mro__)


def _read_back(
    data: bytes, kind: str, own: Callable[[np.ndarray], np.ndarray], sample: np.ndarray, *, task: str, estimator: Any
) -> Json:
    """The written model gives the scores of the fitted one, on the sample and on rows made from it.

    Raises:
        BadInput: it does not.
    """
    facts: Json = {"tolerance": TOLERANCE, "against": type(estimator).__name__, "input": "float64", "compiled": False,
                   "reason": f"{kind} serves as it is"}  # fmt: skip
    inputs = [FieldSpec(name=f"x{i}", dtype="float64") for i in range(sample.shape[1])]
    probe = Package(
        name="probe", format=kind, task=cast(Any, task), model_file="", files={}, inputs=inputs, request=[], outputs=[]
    )  # fmt: skip
    after = parse(data, probe, sha256="", trusted=lambda _: True)
    for what, rows in _stress(sample):
        try:
            expected = own(rows)
        except ValueError:
            if what == "sample":
                raise BadInput("the estimator does not score the sample rows") from None
            continue
        gap = _gap(expected, after.scores(rows))
        facts[what] = {"rows": len(rows), "largest": gap}
        if not gap <= TOLERANCE:
            raise BadInput(
                f"the {kind} file of this {type(estimator).__name__} differs from it by {gap:.3g} on {what} rows",
                hint="give an objective whose scores are probabilities (binary:logistic, multi:softprob), or export ONNX",
            )
    return facts


def _gap(expected: Any, got: Any) -> float:
    """Largest difference relative to max(1, |score|); rows that both leave without a number agree. Infinite where the
    shapes differ, or one has a number and the other none."""
    expected, got = np.asarray(expected, dtype=np.float64), np.asarray(got, dtype=np.float64)
    if expected.shape != got.shape or (np.isfinite(expected) != np.isfinite(got)).any():
        return float("inf")
    whole = np.isfinite(expected)
    return float(np.max(np.abs(expected - got)[whole] / np.maximum(1.0, np.abs(expected[whole])), initial=0.0))


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
        trusted: says whether a file of this SHA-256 may run code (pickle, python_function): this store signed it, or the
            operator vouches for it (``registry.package.vouched``); None trusts none.

    Raises:
        Damaged: a file is not what the manifest names.
        NotTrusted: its format can run code and nobody vouches for it.
        BadInput, TooMuch, Unavailable: it cannot be read, safely or at all.
    """
    name = package.original_file if original else package.model_file
    if not name:
        raise NotFound(f"package {package.name} keeps no original model")
    if package.format == "mlflow_pyfunc":
        from holdfast.formats import mlflow_pyfunc

        return cast(Predictor, mlflow_pyfunc.load(folder, package, trusted=trusted))
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
    other = plugin(data, package.format) if kind in ("unknown", "zip") else None
    if other is not None:
        return cast(Predictor, other.parse(data, package, threads=threads))
    raise NotTrusted(f"{name} is of no model format that Holdfast reads ({kind})", hint="save it as ONNX or with skops")


def plugin(data: bytes, says: str) -> Any:
    """The format of somebody else's (entry points of group ``holdfast.formats``) that the package names and that knows
    these bytes; None where there is none. Only what no reader here knows is ever offered, so a pickle never is."""
    from importlib.metadata import entry_points

    for point in entry_points(group="holdfast.formats", name=says):
        found = point.load()
        if found.recognises(data):
            return found
    return None


def _compile(estimator: Any, sample: np.ndarray, *, task: str) -> tuple[bytes | None, Json]:
    """ONNX bytes that agree with the original on every row of the sample and of what is made from it; or why not."""
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
            gap = _gap(expected, got)
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
