"""LightGBM's model text (version 4), read strictly and written anew: the library's own reader trusts every count, index and
offset in it, and a damaged file ends the process. What it is given is only what was understood here.

Grammar: ``key=value`` lines of the header up to ``Tree=0``; per tree the arrays of ``num_leaves`` − 1 splits and
``num_leaves`` leaves; a child ≥ 0 is a split, a child < 0 the leaf ~child (LightGBM, ``src/io/tree.cpp``). Linear trees
are refused. Offsets (``tree_sizes``) and the training parameters at the end are left out: predictions do not need them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from holdfast.core.errors import BadInput, TooMuch

LIMIT = 1 << 20
"""Most leaves of a tree, classes, inputs, or categories of a split."""
_OBJECTIVES = frozenset({
    "binary", "regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie", "multiclass",
    "multiclassova", "cross_entropy", "cross_entropy_lambda", "lambdarank", "rank_xendcg", "custom", "none",
})  # fmt: skip
_OPTION = re.compile(r"(sigmoid|num_class|alpha|fair_c|c|tweedie_variance_power|sqrt|max_delta_step):?([0-9.eE+-]*)\Z")
_INT = re.compile(r"-?\d{1,18}\Z")
_FLOAT = re.compile(r"[-+]?((\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][-+]?\d{1,5})?|inf|nan)\Z", re.ASCII)


def rewritten(data: bytes) -> str:
    """The same model as text that holds only what was checked.

    Raises:
        BadInput: it is no whole LightGBM model, or a linear one. TooMuch: it claims absurd counts.
    """
    try:
        lines = data.decode("ascii", "replace").replace("\r", "").split("\n")
    except ValueError:
        raise BadInput("this LightGBM model is not text") from None
    starts = [i for i, line in enumerate(lines) if line.startswith("Tree=")]
    end = next((i for i, line in enumerate(lines) if line.startswith("end of trees")), None)
    if lines[0] != "tree" or end is None or not starts or starts[-1] > end:
        raise BadInput(
            "this is not a whole LightGBM model: its trees do not end", hint="save it again with booster.save_model"
        )
    header, text = _header(lines[1 : starts[0]])
    for number, (start, stop) in enumerate(zip(starts, [*starts[1:], end], strict=True)):
        if lines[start] != f"Tree={number}":
            raise BadInput(f"tree {number} of this LightGBM model is called {lines[start][:40]!r}")
        text += ["", lines[start], *_tree(_keys(lines[start + 1 : stop]), header["width"])]
    if len(starts) % header["per_round"]:
        raise BadInput(f"{len(starts)} trees are no whole rounds of {header['per_round']}")
    return "\n".join([*text, "", "", "end of trees", ""])


def _keys(lines: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if equals:
            found[name] = value
        elif line.strip():
            found[line.strip()] = ""
    return found


def _header(lines: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    keys = _keys(lines)
    classes, per_round = _count(keys, "num_class"), _count(keys, "num_tree_per_iteration")
    width = _count(keys, "max_feature_idx", least=0) + 1
    if per_round != classes:
        raise BadInput(f"this LightGBM model has {per_round} trees a round for {classes} outputs")
    objective = _objective(keys.get("objective", ""), classes)
    out = [
        "tree", "version=v4", f"num_class={classes}", f"num_tree_per_iteration={per_round}", "label_index=0", f"max_feature_idx={width - 1}",
    ]  # fmt: skip
    out += [f"objective={objective}"] if objective else []
    out += ["average_output"] if "average_output" in keys else []
    out += [
        "feature_names=" + " ".join(f"Column_{i}" for i in range(width)),
        "feature_infos=" + " ".join(["none"] * width),
    ]
    return {"width": width, "per_round": per_round}, out


def _objective(text: str, classes: int) -> str:
    name, *options = text.split()[:6] or [""]
    if not name:
        return ""
    if name not in _OBJECTIVES:
        raise BadInput(f"this LightGBM model has an objective we do not know: {name[:40]!r}")
    kept = []
    for option in options:
        match = _OPTION.match(option)
        if match is None or (match[2] and not _FLOAT.match(match[2])):
            raise BadInput(f"this LightGBM model has an objective option we do not know: {option[:40]!r}")
        if match[1] == "num_class" and match[2] != str(classes):
            raise BadInput(f"the objective of this LightGBM model is over {match[2]} classes, the model over {classes}")
        if match[1] == "sigmoid" and not float(match[2] or 0) > 0:
            raise BadInput("the sigmoid of this LightGBM model is not positive")
        kept.append(option)
    if name.startswith("multiclass") and f"num_class:{classes}" not in kept:
        raise BadInput("this LightGBM model does not say over how many classes its objective is")
    if name not in ("multiclass", "multiclassova", "custom", "none") and classes != 1:
        raise BadInput(f"objective {name} has one output, this LightGBM model {classes}")
    return " ".join([name, *kept])


def _tree(keys: dict[str, str], width: int) -> list[str]:
    leaves = _count(keys, "num_leaves")
    categories = _count(keys, "num_cat", least=0)
    if keys.get("is_linear", "0").strip() not in ("", "0"):
        raise BadInput(
            "this LightGBM model has linear trees, which are not read",
            hint="fit it with linear_tree=False, or export it to ONNX",
        )
    shrinkage = _floats(keys, "shrinkage", 1) if "shrinkage" in keys else [1.0]
    values = _floats(keys, "leaf_value", leaves)
    out = [f"num_leaves={leaves}", f"num_cat={categories}"]
    if leaves == 1:
        if categories:
            raise BadInput("a tree of this LightGBM model has categories and no split")
        return [*out, "leaf_value=" + _text(values), "is_linear=0", "shrinkage=" + _text(shrinkage)]
    splits = leaves - 1
    feature = _ints(keys, "split_feature", splits, 0, width - 1)
    cut = _floats(keys, "threshold", splits)
    decision = _ints(keys, "decision_type", splits, 0, 15)
    left = _ints(keys, "left_child", splits, -leaves, splits - 1)
    right = _ints(keys, "right_child", splits, -leaves, splits - 1)
    if sorted([*left, *right]) != [*range(-leaves, 0), *range(1, splits)] or any(
        0 <= child <= at for side in (left, right) for at, child in enumerate(side)
    ):
        raise BadInput("the splits of a tree of this LightGBM model are no tree")
    for name, size in (
        ("split_gain", splits),
        ("leaf_weight", leaves),
        ("internal_value", splits),
        ("internal_weight", splits),
    ):
        out.append(f"{name}=" + _text(_floats(keys, name, size) if keys.get(name, "").strip() else [0.0] * size))
    for name, size in (("leaf_count", leaves), ("internal_count", splits)):
        out.append(
            f"{name}=" + _text(_ints(keys, name, size, 0, (1 << 31) - 1) if keys.get(name, "").strip() else [0] * size)
        )
    if categories:
        bounds = _ints(keys, "cat_boundaries", categories + 1, 0, LIMIT)
        if bounds[0] != 0 or any(b <= a for a, b in pairwise(bounds)):
            raise BadInput("the categories of a tree of this LightGBM model overlap")
        masks = _ints(keys, "cat_threshold", bounds[-1], 0, (1 << 32) - 1)
        out += ["cat_boundaries=" + _text(bounds), "cat_threshold=" + _text(masks)]
    for kind, value in zip(decision, cut, strict=True):
        if kind & 1 and not (0 <= value < categories and value == int(value)):
            raise BadInput("a split of this LightGBM model asks for categories it does not have")
    return [
        *out, "split_feature=" + _text(feature), "threshold=" + _text(cut), "decision_type=" + _text(decision), "left_child=" + _text(left),
        "right_child=" + _text(right), "leaf_value=" + _text(values), "is_linear=0", "shrinkage=" + _text(shrinkage),
    ]  # fmt: skip


def _text(values: Sequence[Any]) -> str:
    return " ".join(repr(v) for v in values)


def _count(keys: dict[str, str], name: str, *, least: int = 1) -> int:
    text = keys.get(name, "").strip()
    if not _INT.match(text):
        if len(text) > 18:
            raise TooMuch(f"this LightGBM model claims {name}={text[:20]}")
        raise BadInput(f"this LightGBM model does not say its {name}")
    if not least <= int(text) <= LIMIT:
        raise TooMuch(f"this LightGBM model claims {name}={text[:20]}")
    return int(text)


def _words(keys: dict[str, str], name: str, size: int) -> list[str]:
    words = keys.get(name, "").split()
    if len(words) != size:
        raise BadInput(f"a tree of this LightGBM model has {len(words)} {name} where {size} belong")
    return words


def _ints(keys: dict[str, str], name: str, size: int, low: int, high: int) -> list[int]:
    words = _words(keys, name, size)
    if not all(_INT.match(w) for w in words) or any(not low <= int(w) <= high for w in words):
        raise BadInput(f"a {name} of this LightGBM model is outside {low} to {high}")
    return [int(w) for w in words]


def _floats(keys: dict[str, str], name: str, size: int) -> list[float]:
    words = _words(keys, name, size)
    if not all(_FLOAT.match(w) for w in words):
        raise BadInput(f"a {name} of this LightGBM model is no number")
    return [float(w) for w in words]
