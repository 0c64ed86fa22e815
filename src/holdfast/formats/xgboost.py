"""XGBoost's own JSON or UBJSON, read by XGBoost itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.core.errors import BadInput, Unavailable
from holdfast.core.records import Package
from holdfast.formats.onnx import shape_scores

NAME = "xgboost"


class BoosterPredictor:
    """A ``Predictor`` over a native booster."""

    def __init__(self, predict: Any, *, task: str) -> None:
        self._predict, self._task = predict, task

    def scores(self, matrix: Any) -> Any:
        return shape_scores(self._predict(np.ascontiguousarray(matrix, dtype=np.float64)), self._task)


def parse(data: bytes, package: Package, *, threads: int = 1) -> BoosterPredictor:
    """A predictor from XGBoost's own format.

    Raises:
        Unavailable: xgboost is not installed. BadInput: it cannot read the file, or the inputs are of another number.
    """
    try:
        import xgboost
    except ImportError:
        raise Unavailable("this model needs xgboost", hint="pip install xgboost") from None
    booster = xgboost.Booster({"nthread": threads})
    try:
        booster.load_model(bytearray(data))
    except Exception as error:  # noqa: BLE001  a foreign parser raises what it likes
        raise BadInput(f"xgboost cannot read this model: {str(error).splitlines()[0][:200]}") from None
    if booster.num_features() != len(package.inputs):
        raise BadInput(f"this model takes {booster.num_features()} inputs, the package has {len(package.inputs)}")
    return BoosterPredictor(lambda x: booster.inplace_predict(x, validate_features=False), task=package.task)
