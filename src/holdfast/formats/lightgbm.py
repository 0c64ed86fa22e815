"""LightGBM's own text, read by LightGBM itself after its counts are checked for sense."""

from __future__ import annotations

import re

from holdfast.core.errors import BadInput, TooMuch, Unavailable
from holdfast.core.records import Package
from holdfast.formats.xgboost import BoosterPredictor

NAME = "lightgbm"
LEAVES = 1 << 20
_COUNT = re.compile(rb"^(num_leaves|num_class|num_tree_per_iteration|max_feature_idx|num_cat)=(-?\d+)", re.MULTILINE)


def parse(data: bytes, package: Package, *, threads: int = 1) -> BoosterPredictor:
    """A predictor from LightGBM text.

    Raises:
        TooMuch: it claims absurd counts. Unavailable: lightgbm is not installed. BadInput: it cannot be read.
    """
    for name, value in _COUNT.findall(data):
        if len(value) > 9 or not 0 <= int(value) <= LEAVES:
            raise TooMuch(f"this LightGBM model claims {name.decode()}={value.decode()[:20]}")
    try:
        import lightgbm
    except ImportError:
        raise Unavailable("this model needs lightgbm", hint="pip install lightgbm") from None
    try:
        booster = lightgbm.Booster(model_str=data.decode("utf-8"))
    except Exception as error:  # noqa: BLE001  a foreign parser raises what it likes
        raise BadInput(f"lightgbm cannot read this model: {str(error).splitlines()[0][:200]}") from None
    if booster.num_feature() != len(package.inputs):
        raise BadInput(f"this model takes {booster.num_feature()} inputs, the package has {len(package.inputs)}")
    return BoosterPredictor(lambda x: booster.predict(x, num_threads=threads), task=package.task)
