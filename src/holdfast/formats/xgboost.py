"""XGBoost's own JSON or UBJSON, read by XGBoost itself after it was understood and written anew (``xgboost_document``)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from holdfast.core.errors import BadInput, Unavailable
from holdfast.core.records import Package
from holdfast.formats.onnx import shape_scores
from holdfast.formats.xgboost_document import rewritten

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
    document = rewritten(data)
    booster = xgboost.Booster({"nthread": threads})
    try:
        booster.load_model(bytearray(document))
        width = booster.num_features()
        best = booster.attr("best_iteration")
        rounds = (0, int(best) + 1) if best is not None else (0, 0)
        config = json.loads(booster.save_config())["learner"]
        linear = config["gradient_booster"]["name"] == "gblinear"
    except Exception as error:  # noqa: BLE001  a foreign parser raises what it likes
        raise BadInput(f"xgboost cannot read this model: {_line(error)}") from None
    if width != len(package.inputs):
        raise BadInput(f"this model takes {width} inputs, the package has {len(package.inputs)}")

    def in_place(rows: Any) -> Any:
        return booster.inplace_predict(rows, iteration_range=rounds, validate_features=False)

    def by_matrix(rows: Any) -> Any:
        return booster.predict(xgboost.DMatrix(rows, nthread=threads), validate_features=False)

    return BoosterPredictor(by_matrix if linear else in_place, task=package.task)


def dump(model: Any) -> bytes:
    """A fitted booster, or scikit-learn wrapper of one, as UBJSON.

    Raises:
        BadInput: it is not fitted.
    """
    try:
        booster = model.get_booster() if hasattr(model, "get_booster") else model
        return bytes(booster.save_raw("ubj"))
    except Exception as error:  # noqa: BLE001  a foreign writer raises what it likes
        raise BadInput(f"xgboost cannot write this model: {_line(error)}") from None


def own_scores(model: Any, task: str) -> Any:
    """What the model itself answers for rows, as ``Predictor.scores`` promises it."""
    if hasattr(model, "get_booster"):
        own = model.predict_proba if task != "regression" else model.predict
    else:
        import xgboost

        own = lambda rows: model.predict(xgboost.DMatrix(rows), validate_features=False)  # noqa: E731
    return lambda rows: np.asarray(shape_scores(own(rows), task))


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
