"""LightGBM's own text, read by LightGBM itself after it was understood and written anew (``lightgbm_text``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.core.errors import BadInput, Unavailable
from holdfast.core.records import Package
from holdfast.formats.lightgbm_text import rewritten
from holdfast.formats.onnx import shape_scores
from holdfast.formats.xgboost import BoosterPredictor

NAME = "lightgbm"


def parse(data: bytes, package: Package, *, threads: int = 1) -> BoosterPredictor:
    """A predictor from LightGBM text.

    Raises:
        TooMuch: it claims absurd counts. Unavailable: lightgbm is not installed. BadInput: it cannot be read.
    """
    text = rewritten(data)
    try:
        import lightgbm
    except ImportError:
        raise Unavailable("this model needs lightgbm", hint="pip install lightgbm") from None
    try:
        booster = lightgbm.Booster(model_str=text)
    except Exception as error:  # noqa: BLE001  a foreign parser raises what it likes
        raise BadInput(f"lightgbm cannot read this model: {str(error).splitlines()[0][:200]}") from None
    if booster.num_feature() != len(package.inputs):
        raise BadInput(f"this model takes {booster.num_feature()} inputs, the package has {len(package.inputs)}")
    return BoosterPredictor(lambda x: booster.predict(x, num_threads=threads), task=package.task)


def dump(model: Any) -> bytes:
    """A fitted booster, or scikit-learn wrapper of one, as LightGBM's text (up to its best iteration).

    Raises:
        BadInput: it is not fitted.
    """
    try:
        booster = model.booster_ if hasattr(model, "booster_") else model
        return str(booster.model_to_string()).encode()
    except Exception as error:  # noqa: BLE001  a foreign writer raises what it likes
        raise BadInput(f"lightgbm cannot write this model: {str(error).splitlines()[0][:200]}") from None


def own_scores(model: Any, task: str) -> Any:
    """What the model itself answers for rows, as ``Predictor.scores`` promises it."""
    own = model.predict_proba if task != "regression" and hasattr(model, "predict_proba") else model.predict
    return lambda rows: np.asarray(shape_scores(own(rows), task))
