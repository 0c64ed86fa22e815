"""XGBoost's model document (JSON or UBJSON), read strictly and written anew: the library's own reader trusts its counts and
indices, and damaged files have ended the process. What it is given is only what was understood here.

Layout: ``learner`` with ``learner_model_param``, ``objective``, ``gradient_booster`` (gbtree, dart around gbtree, gblinear) and
per tree arrays over ``num_nodes`` nodes; a leaf has children −1 and its value in ``split_conditions`` (XGBoost's model schema).
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from holdfast.core.errors import BadInput, TooMuch
from holdfast.formats import ubjson

LIMIT = 1 << 24
"""Most inputs, classes, or nodes of a tree."""
CATEGORIES = 1 << 20
ROOT = 2147483647
_NUMBER = re.compile(r"\[?[-+0-9.eE, ]{1,400}\]?\Z", re.ASCII)
_WORD = re.compile(r"[a-z][a-z0-9_:]{0,60}\Z")
_STRUCTURE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError)


def rewritten(data: bytes) -> bytes:
    """The same model as JSON that holds only what was checked.

    Raises:
        BadInput: it is no whole model, or not one tree a split. TooMuch: it claims absurd counts.
    """
    if data.lstrip()[:1] == b"{" and data[:2] not in (b"{L", b"{i", b"{U", b"{l"):
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            raise BadInput("this xgboost model is not JSON") from None
    else:
        document = ubjson.read(data)
    try:
        made = _document(document)
        return json.dumps(made, allow_nan=False).encode()
    except _STRUCTURE as error:
        raise BadInput(f"this is not a whole xgboost model: {type(error).__name__} {str(error)[:100]}") from None


def _document(document: Any) -> Any:
    learner = document["learner"]
    given = learner["learner_model_param"]
    shape = {
        name: _number(given.get(name, default))
        for name, default in (("base_score", "0.5"), ("num_class", "0"), ("num_target", "1"))
    }
    shape["num_feature"] = _number(given["num_feature"])
    shape["boost_from_average"] = _number(given.get("boost_from_average", "1"))
    width, classes = _count(shape["num_feature"], LIMIT), _count(shape["num_class"], LIMIT)
    if _count(shape["num_target"], LIMIT) != 1:
        raise BadInput("this xgboost model has several targets", hint="fit one model for each")
    objective: dict[str, Any] = {"name": _word(learner["objective"]["name"])}
    for name, params in learner["objective"].items():
        if isinstance(params, dict):
            objective[_word(name)] = {_word(k): _number(v) for k, v in params.items()}
    attributes = learner.get("attributes", {})
    kinds = learner.get("feature_types", [])
    types = [k for k in kinds if k in ("float", "int", "i", "q", "c")]
    return {
        "version": [int(v) for v in document["version"]][:3],
        "learner": {
            "attributes": {k: _number(attributes[k]) for k in ("best_iteration", "best_score") if k in attributes},
            "feature_names": [], "feature_types": types if len(types) == len(kinds) == width else [],
            "gradient_booster": _booster(learner["gradient_booster"], width, max(classes, 1)),
            "learner_model_param": shape, "objective": objective,
        },
    }  # fmt: skip


def _booster(given: Any, width: int, outputs: int) -> Any:
    match given["name"]:
        case "gbtree" if "weight_drop" in given["model"]:
            # As xgboost 3.4 writes dart. Its older form is read by every release, this one passed over by those before.
            model = given["model"]
            return _dart(_forest(model, width, outputs), model["weight_drop"])
        case "gbtree":
            return {"name": "gbtree", "model": _forest(given["model"], width, outputs)}
        case "dart":
            return _dart(_forest(given["gbtree"]["model"], width, outputs), given["weight_drop"])
        case "gblinear":
            model = {"weights": _floats(given["model"]["weights"], (width + 1) * outputs)}
            rounds = given["model"].get("boosted_rounds")
            return {
                "name": "gblinear",
                "model": model | ({"boosted_rounds": int(rounds)} if rounds is not None else {}),
            }
        case other:
            raise BadInput(f"this xgboost model has a booster we do not know: {str(other)[:40]!r}")


def _dart(forest: Any, weights: Any) -> Any:
    return {
        "name": "dart",
        "gbtree": {"name": "gbtree", "model": forest},
        "weight_drop": _floats(weights, len(forest["trees"])),
    }


def _forest(given: Any, width: int, outputs: int) -> Any:
    trees = [_tree(tree, i, width) for i, tree in enumerate(given["trees"])]
    parallel = _count(_number(given["gbtree_model_param"].get("num_parallel_tree", "1")), LIMIT)
    belongs = [int(v) for v in given["tree_info"]]
    if len(belongs) != len(trees) or any(not 0 <= v < outputs for v in belongs):
        raise BadInput("the trees of this xgboost model belong to outputs it does not have")
    made = {
        "gbtree_model_param": {"num_trees": str(len(trees)), "num_parallel_tree": str(parallel)},
        "tree_info": belongs,
        "trees": trees,
    }
    if "iteration_indptr" in given:
        rounds = [int(v) for v in given["iteration_indptr"]]
        if rounds[0] != 0 or rounds[-1] != len(trees) or any(b < a for a, b in zip(rounds, rounds[1:], strict=False)):  # noqa: RUF007
            raise BadInput("the rounds of this xgboost model are not those of its trees")
        made["iteration_indptr"] = rounds
    return made


def _tree(given: Any, number: int, width: int) -> Any:
    params = given["tree_param"]
    nodes = _count(_number(params["num_nodes"]), LIMIT)
    if nodes < 1 or _count(_number(params.get("size_leaf_vector", "1")), LIMIT) > 1:
        raise BadInput("a tree of this xgboost model has no nodes, or leaves of several values")
    left, right = _ints(given["left_children"], nodes), _ints(given["right_children"], nodes)
    kinds = _ints(given["split_type"], nodes) if "split_type" in given else np.zeros(nodes, dtype=np.int64)
    cuts = np.asarray(given["split_conditions"], dtype=np.float64)
    if len(cuts) != nodes:
        raise BadInput(f"a tree of this xgboost model has {len(cuts)} split_conditions for {nodes} nodes")
    reached = np.zeros(nodes, dtype=bool)
    parents = np.full(nodes, ROOT, dtype=np.int64)
    reached[0], stack = True, [0]
    while stack:
        node = stack.pop()
        children = [int(left[node]), int(right[node])]
        if children == [-1, -1]:
            continue
        for child in children:
            if not 0 < child < nodes or reached[child]:
                raise BadInput("the nodes of a tree of this xgboost model are no tree")
            reached[child], parents[child] = True, node
            stack.append(child)
    # What pruning left behind is never met: it is written as leaves.
    left, right = np.where(reached, left, -1), np.where(reached, right, -1)
    inner = reached & (left >= 0)
    indices = np.where(inner, _ints(given["split_indices"], nodes), 0)
    if ((indices < 0) | (indices >= width)).any() or ((kinds < 0) | (kinds > 1)).any():
        raise BadInput("a tree of this xgboost model asks for inputs it does not have")
    kinds = np.where(inner, kinds, 0)
    cuts = np.where(reached & (kinds == 0), cuts, 0.0)
    if not np.isfinite(cuts).all():
        raise BadInput("a cut or a leaf of this xgboost model is no number")
    zeros = [0.0] * nodes
    return {
        "id": number, "left_children": left.tolist(), "right_children": right.tolist(), "parents": parents.tolist(),
        "split_indices": indices.tolist(), "split_conditions": cuts.tolist(), "split_type": kinds.tolist(),
        "default_left": [int(bool(v)) for v in _ints(given["default_left"], nodes)],
        "base_weights": cuts.tolist(), "loss_changes": zeros, "sum_hessian": zeros, **_categories(given, np.flatnonzero(kinds)),
        "tree_param": {"num_nodes": str(nodes), "num_feature": str(width), "size_leaf_vector": "1", "num_deleted": "0"},
    }  # fmt: skip


def _categories(given: Any, splits: Any) -> Any:
    """The categories each categorical split sends to the right, one list after the other."""
    held = [int(v) for v in given.get("categories_nodes", [])]
    values = np.asarray(given.get("categories", []), dtype=np.int64)
    starts = [int(v) for v in given.get("categories_segments", [])]
    sizes = [int(v) for v in given.get("categories_sizes", [])]
    if (
        len({*held}) != len(held)
        or len(held) != len(starts)
        or len(held) != len(sizes)
        or not {*splits.tolist()} <= {*held}
    ):
        raise BadInput("the categories of a tree of this xgboost model are not those of its splits")
    made: dict[str, list[int]] = {
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
    }
    for node, start, size in sorted(zip(held, starts, sizes, strict=True)):
        if node not in splits:
            continue
        some = values[start : start + size] if start >= 0 and size > 0 else values[:0]
        if len(some) != size or (len(some) and not 0 <= int(some.min()) <= int(some.max()) < CATEGORIES):
            raise BadInput("a split of this xgboost model has categories it does not list")
        made["categories_nodes"].append(node)
        made["categories_segments"].append(len(made["categories"]))
        made["categories_sizes"].append(size)
        made["categories"] += some.tolist()
    return made


def _number(value: Any) -> str:
    text = str(value)
    if not _NUMBER.match(text):
        raise BadInput(f"a number of this xgboost model is {text[:40]!r}")
    return text


def _word(value: Any) -> str:
    if not isinstance(value, str) or not _WORD.match(value):
        raise BadInput(f"a name in this xgboost model is {str(value)[:40]!r}")
    return value


def _count(text: str, limit: int) -> int:
    if not 0 <= int(text) <= limit:
        raise TooMuch(f"this xgboost model claims {text[:40]} inputs, classes or nodes")
    return int(text)


def _ints(values: Any, size: int) -> Any:
    found = np.asarray(values)
    if found.shape != (size,) or found.dtype.kind not in "iub":
        raise BadInput(f"a list of this xgboost model has shape {found.shape} where {size} whole numbers belong")
    return found.astype(np.int64)


def _floats(values: Any, size: int) -> list[float]:
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (size,) or not np.isfinite(found).all():
        raise BadInput(f"a list of this xgboost model has shape {found.shape} where {size} numbers belong")
    return [float(v) for v in found]
