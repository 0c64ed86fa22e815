"""A fitted scikit-learn estimator as an ONNX graph that gives the same scores.

Trees are written by us, because the usual converter drops the way of missing values through a forest: a forest
compares float32 inputs with float64 cuts, so the graph rounds inputs the same way and cuts are rounded down to float32
(x <= cut then holds for exactly the same x); gradient boosting compares float64 inputs with float64 cuts, and so does
its graph. Scaling, imputing and linear models are float64 throughout. Anything else goes through skl2onnx where it is
installed. Whether the result is used is decided by ``formats.save``, on rows, never here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

OPSET = 18
ML_OPSET = 3


class CannotCompile(Exception):
    """No ONNX graph for this estimator; the text says why. The original serves then."""


def compile_estimator(estimator: Any, *, width: int, task: str) -> bytes:
    """ONNX bytes: input ``X`` float64 (n, width), output ``score`` (n, 1) or (n, classes).

    Raises:
        CannotCompile: no graph can be made.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise CannotCompile("onnx is not installed (pip install 'holdfast[sklearn]')") from None
    try:
        return _Graph(width, task).build(estimator)
    except CannotCompile as own:
        try:
            return _with_skl2onnx(estimator, width)
        except Exception as error:  # noqa: BLE001  other people's parsers raise anything; all of it is bad input here
            raise CannotCompile(
                f"{own}; skl2onnx: {str(error).strip().splitlines()[0][:200] if str(error) else error!r}"
            ) from None


def _with_skl2onnx(estimator: Any, width: int) -> bytes:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType

    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "predict_proba") else None
    model = to_onnx(
        estimator, initial_types=[("X", DoubleTensorType([None, width]))], options=options,
        target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
    )  # fmt: skip
    return bytes(model.SerializeToString())


class _Graph:
    """Builds the graph step by step; ``self.last`` names the tensor so far."""

    def __init__(self, width: int, task: str) -> None:
        self.width, self.task = width, task
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.last = "X"
        self.count = 0

    def build(self, estimator: Any) -> bytes:
        from onnx import TensorProto, checker, helper

        steps = [s for _, s in estimator.steps] if type(estimator).__name__ == "Pipeline" else [estimator]
        width = self.width
        for step in steps[:-1]:
            width = self._transform(step, width)
        columns = self._final(steps[-1], width)
        self.nodes.append(helper.make_node("Identity", [self.last], ["score"]))
        kind = self.kind
        graph = helper.make_graph(
            self.nodes, "holdfast",
            [helper.make_tensor_value_info("X", TensorProto.DOUBLE, [None, self.width])],
            [helper.make_tensor_value_info("score", kind, [None, columns])],
            self.weights,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="holdfast", ir_version=9)
        checker.check_model(model)
        return bytes(model.SerializeToString())

    # --- small steps --------------------------------------------------------------------------------------------------

    def _name(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def _weight(self, values: Any, dtype: Any = np.float64) -> str:
        from onnx import numpy_helper

        name = self._name()
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=dtype), name))
        return name

    def _op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        from onnx import helper

        self.last = self._name()
        self.nodes.append(helper.make_node(kind, list(inputs), [self.last], domain=domain or None, **attributes))
        return self.last

    def _transform(self, step: Any, width: int) -> int:
        kind = type(step).__name__
        x = self.last
        if step in (None, "passthrough"):
            return width
        if kind == "SimpleImputer":
            fill = np.asarray(step.statistics_, dtype=np.float64)
            if step.add_indicator or not (isinstance(step.missing_values, float) and np.isnan(step.missing_values)):
                raise CannotCompile("SimpleImputer with an indicator or other missing values")
            if np.isnan(fill).any() or fill.shape != (width,):
                raise CannotCompile("SimpleImputer that drops columns")
            self._op("Where", self._op("IsNaN", x), self._weight(fill), x)
        elif kind == "StandardScaler":
            if step.with_mean:
                self._op("Sub", self.last, self._weight(step.mean_))
            if step.with_std:
                self._op("Div", self.last, self._weight(step.scale_))
        elif kind == "RobustScaler":
            if step.with_centering:
                self._op("Sub", self.last, self._weight(step.center_))
            if step.with_scaling:
                self._op("Div", self.last, self._weight(step.scale_))
        elif kind == "MinMaxScaler":
            if step.clip:
                raise CannotCompile("MinMaxScaler that clips")
            self._op("Add", self._op("Mul", x, self._weight(step.scale_)), self._weight(step.min_))
        else:
            raise CannotCompile(f"no graph of ours for {kind}")
        return width

    def _final(self, model: Any, width: int) -> int:
        from onnx import TensorProto

        if getattr(model, "n_features_in_", width) != width:
            raise CannotCompile("the estimator was fitted on another number of columns")
        kind = type(model).__name__
        if kind in _FORESTS:
            self.kind = TensorProto.FLOAT
            return self._forest(model)
        if kind in ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor"):
            self.kind = TensorProto.FLOAT
            return self._boosting(model)
        if kind in ("LogisticRegression", "LinearRegression", "Ridge", "Lasso", "ElasticNet"):
            self.kind = TensorProto.DOUBLE
            return self._linear(model)
        raise CannotCompile(f"no graph of ours for {kind}")

    def _linear(self, model: Any) -> int:
        coefficients = np.atleast_2d(model.coef_)
        intercept = np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64), (coefficients.shape[0],))
        if type(model).__name__ != "LogisticRegression" and coefficients.shape[0] != 1:
            raise CannotCompile("a linear model of several targets")
        self._op("Add", self._op("MatMul", self.last, self._weight(coefficients.T)), self._weight(intercept))
        if type(model).__name__ != "LogisticRegression":
            return 1
        if coefficients.shape[0] == 1:
            self._op("Sigmoid", self.last)
            return 1
        self._op("Softmax", self.last, axis=1)
        return int(coefficients.shape[0])

    # --- trees --------------------------------------------------------------------------------------------------------

    def _forest(self, model: Any) -> int:
        from onnx import TensorProto

        trees = [t.tree_ for t in getattr(model, "estimators_", [model])]
        classifier = hasattr(model, "classes_")
        if getattr(model, "n_outputs_", 1) != 1:
            raise CannotCompile("a forest of several outputs")
        classes = len(model.classes_) if classifier else 1
        targets = 1 if classes == 2 else classes
        self._op("Cast", self.last, to=TensorProto.FLOAT)
        builder = _Trees(np.float32)
        for tree in trees:
            values = np.asarray(tree.value[:, 0, :], dtype=np.float64)
            if classifier:
                total = values.sum(axis=1, keepdims=True)
                values = values / np.where(total == 0, 1, total)
                values = values[:, 1:2] if classes == 2 else values
            values = values / len(trees)
            missing_left = getattr(tree, "missing_go_to_left", np.zeros(tree.node_count))
            builder.add(tree.feature, tree.threshold, tree.children_left, tree.children_right, missing_left,
                        tree.children_left < 0, values)  # fmt: skip
        self._trees(builder, targets, None)
        return targets

    def _boosting(self, model: Any) -> int:
        if getattr(model, "is_categorical_", None) is not None and np.any(model.is_categorical_):
            raise CannotCompile("gradient boosting with categorical columns")
        rounds = model._predictors
        targets = len(rounds[0]) if rounds else 1
        if not rounds:
            raise CannotCompile("gradient boosting without a single tree")
        builder = _Trees(np.float64)
        for one_round in rounds:
            for target, predictor in enumerate(one_round):
                nodes = predictor.nodes
                leaf = nodes["is_leaf"].astype(bool)
                values = np.zeros((len(nodes), targets))
                values[:, target] = nodes["value"]
                builder.add(nodes["feature_idx"], nodes["num_threshold"], nodes["left"], nodes["right"],
                            nodes["missing_go_to_left"], leaf, values, only=target)  # fmt: skip
        base = np.asarray(model._baseline_prediction, dtype=np.float64).reshape(-1)
        self._trees(builder, targets, base)
        if type(model).__name__.endswith("Classifier"):
            if targets == 1:
                self._op("Sigmoid", self.last)
            else:
                self._op("Softmax", self.last, axis=1)
        elif model.loss in ("poisson", "gamma"):
            self._op("Exp", self.last)
        return targets

    def _trees(self, builder: _Trees, targets: int, base: Any) -> None:
        attributes = builder.attributes(targets)
        if base is not None:
            attributes["base_values"] = [float(b) for b in np.broadcast_to(base, (targets,))]
        self._op("TreeEnsembleRegressor", self.last, domain="ai.onnx.ml", **attributes)


_FORESTS = frozenset({
    "RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor",
    "DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor",
})  # fmt: skip


class _Trees:
    """Collects nodes of many trees as the flat lists TreeEnsembleRegressor takes."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.trees: list[tuple[Any, ...]] = []

    def add(
        self,
        feature: Any,
        cut: Any,
        left: Any,
        right: Any,
        missing_left: Any,
        leaf: Any,
        values: Any,
        *,
        only: int | None = None,
    ) -> None:
        cut = np.asarray(cut, dtype=np.float64)
        if self.dtype is np.float32:
            rounded = cut.astype(np.float32)
            above = rounded.astype(np.float64) > cut
            cut = np.where(above, np.nextafter(rounded, np.float32(-np.inf)), rounded)
        leaf = np.asarray(leaf, dtype=bool)
        self.trees.append((
            np.where(leaf, 0, feature).astype(np.int64), np.where(leaf, 0.0, cut),
            np.where(leaf, 0, left).astype(np.int64), np.where(leaf, 0, right).astype(np.int64),
            np.where(leaf, 0, np.asarray(missing_left).astype(np.int64)), leaf, values, only,
        ))  # fmt: skip

    def attributes(self, targets: int) -> dict[str, Any]:
        from onnx import helper

        ids = [np.full(len(t[0]), i, dtype=np.int64) for i, t in enumerate(self.trees)]
        nodes = [np.arange(len(t[0]), dtype=np.int64) for t in self.trees]
        modes = [m for t in self.trees for m in np.where(t[5], b"LEAF", b"BRANCH_LEQ").tolist()]
        target_tree, target_node, target_id, weight = [], [], [], []
        for i, t in enumerate(self.trees):
            leaves = np.flatnonzero(t[5])
            for column in range(targets) if t[7] is None else (t[7],):
                target_tree.append(np.full(len(leaves), i, dtype=np.int64))
                target_node.append(leaves)
                target_id.append(np.full(len(leaves), column, dtype=np.int64))
                weight.append(t[6][leaves, column])
        cuts = np.concatenate([t[1] for t in self.trees])
        weights = np.concatenate(weight)
        out: dict[str, Any] = {
            "n_targets": targets,
            "aggregate_function": "SUM",
            "nodes_treeids": np.concatenate(ids).tolist(),
            "nodes_nodeids": np.concatenate(nodes).tolist(),
            "nodes_featureids": np.concatenate([t[0] for t in self.trees]).tolist(),
            "nodes_modes": modes,
            "nodes_truenodeids": np.concatenate([t[2] for t in self.trees]).tolist(),
            "nodes_falsenodeids": np.concatenate([t[3] for t in self.trees]).tolist(),
            "nodes_missing_value_tracks_true": np.concatenate([t[4] for t in self.trees]).tolist(),
            "target_treeids": np.concatenate(target_tree).tolist(),
            "target_nodeids": np.concatenate(target_node).tolist(),
            "target_ids": np.concatenate(target_id).tolist(),
        }
        if self.dtype is np.float64:
            from onnx import TensorProto

            out["nodes_values_as_tensor"] = helper.make_tensor("cuts", TensorProto.DOUBLE, cuts.shape, cuts.tolist())
            out["target_weights_as_tensor"] = helper.make_tensor(
                "weights", TensorProto.DOUBLE, weights.shape, weights.tolist()
            )
        else:
            out["nodes_values"] = cuts.astype(np.float32).tolist()
            out["target_weights"] = weights.astype(np.float32).tolist()
        return out
