"""Pickle, joblib, cloudpickle: programs, not data. Run only when the operator trusts exactly these bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from holdfast.core.errors import BadInput, NotTrusted
from holdfast.core.records import Package

NAME = "pickle"


def dump(estimator: Any) -> bytes:
    """An estimator as pickle bytes, for the store that will sign them.

    Raises:
        BadInput: it cannot be pickled, or is defined where no other process finds it.
    """
    import pickle

    try:
        data = pickle.dumps(estimator, protocol=5)
    except Exception as error:  # noqa: BLE001  other people's classes raise what they like
        raise BadInput(
            f"{type(estimator).__name__} cannot be pickled: {error}",
            hint="define its class in a module, not in a function",
        ) from None
    if type(estimator).__module__ == "__main__":
        raise BadInput(
            f"{type(estimator).__name__} is defined in the notebook itself, where no replica finds it",
            hint="move the class into a module of the project",
        )
    return data


def parse(
    data: bytes, package: Package, *, sha256: str, trusted: Callable[[str], bool] | None, threads: int = 1
) -> Any:
    """A predictor from a pickled estimator whose hash is trusted.

    Raises:
        NotTrusted: nobody vouches for these bytes; the hint is the command that would.
    """
    if trusted is None or not trusted(sha256):
        raise NotTrusted(
            f"this model is a pickle ({sha256[:12]}…): loading it runs whatever program it holds",
            hint=f"save it as ONNX or with skops; or, if you know who made it, run `holdfast models trust {sha256}`",
        )
    from holdfast.formats.skops import SklearnPredictor

    try:
        import joblib

        estimator = joblib.load(io.BytesIO(data))
    except ImportError:
        raise BadInput("this trusted pickle needs joblib", hint="pip install 'holdfast[sklearn]'") from None
    except Exception as error:  # noqa: BLE001  a trusted program may still fail in any way
        raise BadInput(f"this trusted pickle cannot be loaded: {type(error).__name__}: {error}") from None
    return SklearnPredictor(estimator, task=package.task)
