"""XGBoost and LightGBM: saved, loaded, equal, and refused where they lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.formats.test_sklearn import COLUMNS, labels, package, rows

from holdfast import formats
from holdfast.core.errors import BadInput, TooMuch, UsersTurn
from holdfast.formats import ubjson, xgboost_document

xgboost = pytest.importorskip("xgboost")
lightgbm = pytest.importorskip("lightgbm")
X, MORE = rows(600), rows(900, seed=8)


def xgb(kind: str, **params: Any) -> Any:
    return getattr(xgboost, kind)(n_estimators=12, max_depth=4, n_jobs=1, random_state=0, **params)


def lgb(kind: str, **params: Any) -> Any:
    return getattr(lightgbm, kind)(n_estimators=12, num_leaves=8, n_jobs=1, random_state=0, verbose=-1, **params)


CASES = [
    (lambda: xgb("XGBClassifier"), "binary"),
    (lambda: xgb("XGBClassifier"), "multiclass"),
    (lambda: xgb("XGBRegressor"), "regression"),
    (lambda: xgb("XGBRegressor", objective="count:poisson"), "regression"),
    (lambda: xgb("XGBClassifier", booster="dart", rate_drop=0.3), "binary"),
    (lambda: xgb("XGBRFClassifier"), "binary"),
    (lambda: lgb("LGBMClassifier"), "binary"),
    (lambda: lgb("LGBMClassifier"), "multiclass"),
    (lambda: lgb("LGBMRegressor"), "regression"),
    (lambda: lgb("LGBMClassifier", boosting_type="dart"), "binary"),
]


def truth(task: str) -> Any:
    return (
        np.abs(np.nan_to_num(X[:, 0])) if task == "regression" else labels(X, classes=3 if task == "multiclass" else 2)
    )


def own(model: Any, task: str, x: Any) -> Any:
    if task == "regression":
        return model.predict(x)
    proba = model.predict_proba(x)
    return proba[:, 1] if task == "binary" else proba


@pytest.mark.parametrize(("make", "task"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_what_is_loaded_scores_as_what_was_saved(tmp_path: Path, make: Any, task: str) -> None:
    model = make().fit(X, truth(task))
    saved = formats.save(model, tmp_path, sample=X[:200], task=task, columns=COLUMNS)
    assert saved.format == type(model).__module__.partition(".")[0] and saved.equivalence["missing"]["largest"] <= 1e-5
    loaded = formats.load(tmp_path, package(saved, tmp_path, task=task))
    np.testing.assert_allclose(loaded.scores(MORE), own(model, task, MORE), rtol=1e-6, atol=1e-7)
    again = formats.load(tmp_path, package(saved, tmp_path, task=task), original=True)
    np.testing.assert_array_equal(again.scores(MORE), loaded.scores(MORE))


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_only_the_rounds_up_to_the_best_count(tmp_path: Path, library: str) -> None:
    """Early stopping: the wrapper answers with its best iteration, and so must the file."""
    y = labels(X)
    rng = np.random.default_rng(0)
    noise = rng.permutation(y[400:])
    if library == "xgboost":
        model = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=3, learning_rate=0.8, n_jobs=1)
        model.fit(X[:400], y[:400], eval_set=[(X[400:], noise)], verbose=False)
        assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    else:
        model = lightgbm.LGBMClassifier(n_estimators=60, learning_rate=0.8, n_jobs=1, verbose=-1)
        model.fit(X[:400], y[:400], eval_set=[(X[400:], noise)], callbacks=[lightgbm.early_stopping(3, verbose=False)])
        assert model.best_iteration_ < 60
    saved = formats.save(model, tmp_path, sample=X[:200], task="binary", columns=COLUMNS)
    loaded = formats.load(tmp_path, package(saved, tmp_path))
    np.testing.assert_allclose(loaded.scores(MORE), own(model, "binary", MORE), rtol=1e-6, atol=1e-7)


def test_a_linear_booster_and_a_bare_one(tmp_path: Path) -> None:
    y = labels(X)
    filled = np.nan_to_num(X)
    linear = xgboost.XGBClassifier(booster="gblinear", n_estimators=5, n_jobs=1).fit(filled, y)
    bare = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(X, label=y), 8)
    for model, x in ((linear, filled), (bare, X)):
        folder = tmp_path / type(model).__name__
        saved = formats.save(model, folder, sample=x[:100], task="binary", columns=COLUMNS)
        got = formats.load(folder, package(saved, folder)).scores(x)
        expected = (
            model.predict_proba(x)[:, 1] if hasattr(model, "predict_proba") else model.predict(xgboost.DMatrix(x))
        )
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
        assert saved.classes == [0, 1]


def test_an_objective_without_probabilities_is_refused(tmp_path: Path) -> None:
    """Hinge loss gives classes, softmax without prob gives one class: neither are scores."""
    bare = xgboost.train(
        {"objective": "multi:softmax", "num_class": 3}, xgboost.DMatrix(X, label=labels(X, classes=3)), 3
    )
    with pytest.raises(BadInput):
        formats.save(bare, tmp_path, sample=X[:50], task="multiclass", columns=COLUMNS)


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_another_number_of_inputs_is_refused(tmp_path: Path, library: str) -> None:
    model = (xgb("XGBClassifier") if library == "xgboost" else lgb("LGBMClassifier")).fit(X, labels(X))
    saved = formats.save(model, tmp_path, sample=X[:50], task="binary", columns=COLUMNS)
    with pytest.raises(BadInput, match="6 inputs"):
        formats.load(tmp_path, package(saved, tmp_path, columns=COLUMNS[:4]))


def test_json_is_read_like_ubjson() -> None:
    booster = xgb("XGBClassifier").fit(X, labels(X)).get_booster()
    text, binary = json.loads(bytes(booster.save_raw("json"))), ubjson.read(bytes(booster.save_raw("ubj")))
    assert set(text["learner"]) == set(binary["learner"])
    trees = (
        text["learner"]["gradient_booster"]["model"]["trees"],
        binary["learner"]["gradient_booster"]["model"]["trees"],
    )
    np.testing.assert_allclose(trees[0][0]["split_conditions"], trees[1][0]["split_conditions"], rtol=1e-6)
    np.testing.assert_array_equal(trees[0][0]["left_children"], trees[1][0]["left_children"])


def lie(change: Any) -> bytes:
    document = json.loads(bytes(xgb("XGBClassifier").fit(X, labels(X)).get_booster().save_raw("json")))
    change(document["learner"])
    return json.dumps(document).encode()


def tree(learner: Any) -> Any:
    return learner["gradient_booster"]["model"]["trees"][0]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda m: m["learner_model_param"].update(num_feature=str(1 << 40)), TooMuch),
        (lambda m: m["learner_model_param"].update(num_class=str(1 << 30)), TooMuch),
        (lambda m: tree(m)["tree_param"].update(num_nodes=str(1 << 30)), UsersTurn),
        (lambda m: tree(m)["left_children"].__setitem__(0, 1 << 20), BadInput),
        (lambda m: tree(m)["left_children"].__setitem__(3, 0), BadInput),
        (lambda m: tree(m)["split_indices"].__setitem__(0, 10_000), BadInput),
        (lambda m: tree(m)["split_conditions"].pop(), BadInput),
        (lambda m: m.pop("learner_model_param"), BadInput),
        (lambda m: m.update(gradient_booster=7), BadInput),
    ],
)
def test_xgboost_documents_that_lie(tmp_path: Path, change: Any, error: Any) -> None:
    from tests.formats.test_hostile_files import load

    with pytest.raises(error):
        load(tmp_path, lie(change), says="xgboost", name="model.json", width=6)


@pytest.mark.parametrize(
    "data",
    [
        b"{L",
        b"{L" + b"\xff" * 8,
        b"{L\0\0\0\0\0\0\0\7learner[$l#L\x7f" + b"\xff" * 7,
        b"{L\0\0\0\0\0\0\0\7learner" + b"[" * 5000,
    ],
)
def test_ubjson_that_lies(data: bytes) -> None:
    with pytest.raises(UsersTurn):
        ubjson.read(data)


def test_lightgbm_with_categories_unseen_and_missing(tmp_path: Path) -> None:
    """Category splits survive being read and written anew."""
    x = X.copy()
    x[:, 5] = np.round(np.abs(x[:, 5]) * 3)
    x[::13, 5] = np.nan
    y = labels(x) ^ np.isin(x[:, 5], (1, 4))
    model = lightgbm.LGBMClassifier(
        n_estimators=20, num_leaves=15, n_jobs=1, verbose=-1, min_data_per_group=5, cat_smooth=1
    )
    model.fit(x, y, categorical_feature=[5])
    assert "num_cat=1" in model.booster_.model_to_string()
    saved = formats.save(model, tmp_path, sample=x[:200], task="binary", columns=COLUMNS)
    fresh = MORE.copy()
    fresh[:, 5] = np.round(np.abs(fresh[:, 5]) * 3)
    fresh[::4, 5], fresh[1::4, 5] = np.nan, 200.0
    got = formats.load(tmp_path, package(saved, tmp_path)).scores(fresh)
    np.testing.assert_allclose(got, model.predict_proba(fresh)[:, 1], rtol=1e-6, atol=1e-7)


def test_a_model_of_stumps_that_never_split(tmp_path: Path) -> None:
    """A constant label: trees of one leaf."""
    model = lgb("LGBMRegressor").fit(X[:50], np.full(50, 3.0))
    saved = formats.save(model, tmp_path, sample=X[:50], task="regression", columns=COLUMNS)
    got = formats.load(tmp_path, package(saved, tmp_path, task="regression")).scores(MORE)
    np.testing.assert_allclose(got, model.predict(MORE), rtol=1e-9)


def test_xgboost_with_categories_unseen_and_missing(tmp_path: Path) -> None:
    """Codes as category columns: splits over sets survive being read and written anew."""
    x = X.copy()
    x[:, 5] = np.round(np.abs(x[:, 5]) * 3)
    x[::13, 5] = np.nan
    y = labels(x) ^ np.isin(x[:, 5], (1, 4))
    matrix = xgboost.DMatrix(x, label=y, feature_types=["q"] * 5 + ["c"], enable_categorical=True)
    model = xgboost.train(
        {"objective": "binary:logistic", "max_cat_to_onehot": 1, "max_depth": 5, "nthread": 1}, matrix, 10
    )
    trees = ubjson.read(bytes(model.save_raw("ubj")))["learner"]["gradient_booster"]["model"]["trees"]
    assert any(np.any(t["split_type"]) for t in trees)
    folder = tmp_path / "m"
    folder.mkdir()
    data = bytes(model.save_raw("ubj"))
    (folder / "model.ubj").write_bytes(data)
    made = formats.Saved("xgboost", "model.ubj", "model.ubj", ["model.ubj"], [0, 1])
    fresh = MORE.copy()
    fresh[:, 5] = np.round(np.abs(fresh[:, 5]) * 3)
    fresh[::4, 5] = np.nan
    got = formats.load(folder, package(made, folder)).scores(fresh)
    expected = model.predict(xgboost.DMatrix(fresh, feature_types=["q"] * 5 + ["c"], enable_categorical=True))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


def test_dart_is_kept_in_the_form_every_xgboost_reads() -> None:
    """From 3.4 on the weights of the trees lie in gbtree's model, where earlier releases pass over them."""
    model = xgb("XGBClassifier", booster="dart", rate_drop=0.3).fit(X, truth("binary"))
    document = json.loads(bytes(model.get_booster().save_raw("json")))
    booster = document["learner"]["gradient_booster"]
    older = newer = booster
    if booster["name"] == "dart":
        model = {**booster["gbtree"]["model"], "weight_drop": booster["weight_drop"]}
        newer = {"name": "gbtree", "model": model}
    else:
        model = dict(booster["model"])
        older = {"name": "dart", "weight_drop": model.pop("weight_drop"), "gbtree": {"name": "gbtree", "model": model}}
    made = []
    for form in (older, newer):
        document["learner"]["gradient_booster"] = form
        made.append(xgboost_document.rewritten(json.dumps(document).encode()))
    assert made[0] == made[1]
    kept = json.loads(made[0])["learner"]["gradient_booster"]
    assert kept["name"] == "dart" and len(kept["weight_drop"]) == len(kept["gbtree"]["model"]["trees"])
