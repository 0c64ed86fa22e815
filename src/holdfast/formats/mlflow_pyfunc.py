"""MLflow ``python_function``: a folder of somebody's code. Run only when exactly these files are vouched for, and only in
the environment the model says it was made in.

``MLmodel`` is read as plain YAML before anything of the folder is imported. What is vouched for is ``tree_digest``: one
SHA-256 over the names and hashes of all files, because any of them can hold code.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.core.errors import BadInput, NotTrusted, Unavailable
from holdfast.core.identity import digest
from holdfast.core.records import SIGNATURES, FileRef, Package
from holdfast.formats.files import read_verified
from holdfast.formats.onnx import shape_scores

NAME = "mlflow_pyfunc"
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;#]+)")


def tree_digest(files: Mapping[str, FileRef]) -> str:
    """One SHA-256 (64 hex) over the names and hashes of all files."""
    return digest({name: ref.sha256 for name, ref in sorted(files.items())})


def own_files(package: Package) -> dict[str, FileRef]:
    """What MLflow logged, without what packaging laid beside it. Only these files are vouched for, and only these are laid
    out for MLflow to load."""
    ours = {package.golden_file, package.reference_file, SIGNATURES}
    return {name: ref for name, ref in package.files.items() if name not in ours}


class PyfuncPredictor:
    """A ``Predictor`` over a loaded python_function model; rows go in as a frame with the package's column names."""

    def __init__(self, model: Any, columns: list[str], *, task: str) -> None:
        self._model, self._columns, self._task = model, columns, task

    def scores(self, matrix: Any) -> Any:
        import pandas as pd

        frame = pd.DataFrame(np.asarray(matrix, dtype=np.float64), columns=self._columns)
        values = shape_scores(np.asarray(self._model.predict(frame)), self._task)
        if self._task != "regression" and not ((values >= 0) & (values <= 1)).all():
            raise BadInput(
                "this python_function model gives no probabilities",
                hint="let its predict return the probability of the second class (or one column per class)",
            )
        return values


def load(folder: Path, package: Package, *, trusted: Callable[[str], bool] | None) -> PyfuncPredictor:
    """The model, from a private copy of the verified files.

    Raises:
        NotTrusted: nobody vouches for these files; the hint is the command that would.
        Unavailable: MLflow is not installed, or this is not the environment the model was made in.
        Damaged, BadInput: the files are not what the manifest names, or MLflow cannot load them.
    """
    own = own_files(package)
    held = tree_digest(own)
    if trusted is None or not trusted(held):
        raise NotTrusted(
            f"this model is a python_function of MLflow ({held[:12]}…): loading it runs whatever code it holds",
            hint="log it with skops or as ONNX; or, if you know who made it, "
            f"run `holdfast models trust {held} --reason …`",
        )
    files = {name: read_verified(folder, package, name) for name in own}
    require_environment(files)
    try:
        import mlflow.pyfunc
    except ImportError:
        raise Unavailable("this model needs mlflow", hint="pip install mlflow") from None
    with tempfile.TemporaryDirectory(prefix="holdfast-pyfunc-") as private:
        for name, data in files.items():
            target = Path(private, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        try:
            model = mlflow.pyfunc.load_model(private)
        except Exception as error:  # noqa: BLE001  a trusted program may still fail in any way
            raise BadInput(f"this trusted model cannot be loaded: {type(error).__name__}: {str(error)[:300]}") from None
    return PyfuncPredictor(model, [f.name for f in package.inputs], task=package.task)


def require_environment(files: Mapping[str, bytes]) -> None:
    """This is the environment the model was made in: the same Python (first two numbers), every pinned package.

    Raises:
        Unavailable: it is not; all differences are named. BadInput: the model does not say.
    """
    flavor = (_yaml(files.get("MLmodel", b"")).get("flavors") or {}).get("python_function")
    if not isinstance(flavor, dict):
        raise BadInput("MLmodel names no python_function flavor")
    made_with = str(flavor.get("python_version", ""))
    here = ".".join(map(str, sys.version_info[:3]))
    differ = []
    if made_with and made_with.split(".")[:2] != here.split(".")[:2]:
        differ.append(f"Python {made_with} (here {here})")
    if "requirements.txt" not in files or not made_with:
        raise BadInput(
            "this model does not say which environment it was made in",
            hint="log it again with MLflow, which writes requirements.txt and the Python version beside it",
        )
    for name, version in _PIN.findall(files["requirements.txt"].decode("utf-8", "replace")):
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "missing"
        if found != version:
            differ.append(f"{name}=={version} (here {found})")
    if differ:
        raise Unavailable(
            f"this python_function was made in another environment: {', '.join(differ[:8])}",
            hint="install its requirements.txt into a virtual environment and run this command there",
        )


def _yaml(data: bytes) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe", pure=True).load(data.decode())
    except (YAMLError, UnicodeDecodeError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
