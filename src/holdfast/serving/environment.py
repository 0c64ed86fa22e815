"""Serve in the environment a model was made in, or refuse: a fitted object read by another release of its library may
answer differently without an error. Compiled models (ONNX) carry their own arithmetic and are free of this."""

from __future__ import annotations

from importlib import metadata

from holdfast.core.errors import Refused
from holdfast.core.records import Package

# Libraries whose objects are read back by themselves, by format.
_LIBRARIES = {
    "skops": ("scikit-learn",), "joblib": ("scikit-learn",), "pickle": ("scikit-learn",), "cloudpickle": ("scikit-learn",),
    "xgboost": ("xgboost",), "lightgbm": ("lightgbm",),
}  # fmt: skip


def check(package: Package) -> None:
    """Compare the libraries that will read the model with those recorded in ``package.environment["packages"]``.

    A package without such a record is not judged.

    Raises:
        Refused: a library is missing, or is of another feature release (first two numbers).
    """
    recorded = package.environment.get("packages") or {}
    for library in _LIBRARIES.get(package.format, ()):
        made_with = recorded.get(library)
        if made_with is None:
            continue
        try:
            here = metadata.version(library)
        except metadata.PackageNotFoundError:
            here = "missing"
        if _release(here) != _release(str(made_with)):
            raise Refused(
                f"{package.name} was made with {library} {made_with}; here it is {here}",
                hint=f"pip install '{library}=={made_with}', or package the model again (compiled to ONNX it does not matter)",
                number="HF451",
            )


def _release(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])
