"""scikit-learn estimators: saved, compiled, loaded, equal; where they cannot be equal, the original serves."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast import formats
from holdfast.core.errors import BadInput, Damaged, NotFound, NotTrusted
from holdfast.core.identity import file_sha256
from holdfast.core.records import FieldSpec, FileRef, Package

pytest.importorskip("sklearn")
pytest.importorskip("skops")
pytest.importorskip("onnxruntime")

from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

COLUMNS = [f"c{i}" for i in range(6)]


def rows(n: int = 1500, seed: int = 3, *, holes: bool = True) -> Any:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    x[:, 1] = np.round(x[:, 1] * 1e6)  # large whole numbers
    x[:, 2] = np.round(x[:, 2])  # few distinct values, so cuts fall right between
    x[:, 3] = 1.7e9 + rng.integers(0, 10_000, n)  # differences that float32 cannot hold
    if holes:
        x[:, [0, 1, 2]] = np.where(rng.random((n, 3)) < 0.15, np.nan, x[:, [0, 1, 2]])
    return x


def labels(x: Any, seed: int = 4, *, classes: int = 2) -> Any:
    rng = np.random.default_rng(seed)
    signal = np.nan_to_num(x[:, 0]) + np.isnan(x[:, 1]) + 2 * (x[:, 3] > 1.7e9 + 5000) + rng.normal(size=len(x))
    return np.digitize(signal, np.quantile(signal, np.arange(1, classes) / classes))


def package(saved: formats.Saved, folder: Path, *, task: str = "binary", columns: list[str] = COLUMNS) -> Package:
    return Package(
        name="m", format=saved.format, task=task, model_file=saved.model_file, original_file=saved.original_file,
        files={f: FileRef(sha256=file_sha256(folder / f), size=(folder / f).stat().st_size) for f in saved.files},
        inputs=[FieldSpec(name=c, dtype="float64") for c in columns], request=[], outputs=[], classes=saved.classes,
        equivalence=saved.equivalence,
    )  # fmt: skip


CASES = [
    (RandomForestClassifier(20, max_depth=10, random_state=0), "binary", True),
    (RandomForestClassifier(10, max_depth=6, random_state=0), "multiclass", True),
    (ExtraTreesClassifier(10, max_depth=8, random_state=0), "binary", True),
    (DecisionTreeClassifier(max_depth=5, random_state=0), "binary", True),
    (HistGradientBoostingClassifier(max_iter=30, random_state=0), "binary", True),
    (HistGradientBoostingClassifier(max_iter=10, random_state=0), "multiclass", True),
    (HistGradientBoostingRegressor(max_iter=20, random_state=0), "regression", True),
    (HistGradientBoostingRegressor(loss="poisson", max_iter=20, random_state=0), "regression", True),
    (RandomForestRegressor(10, max_depth=8, random_state=0), "regression", True),
    (make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()), "binary", True),
    (make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression()), "multiclass", True),
    (make_pipeline(SimpleImputer(strategy="constant", fill_value=-1), MinMaxScaler(), Ridge()), "regression", True),
    (make_pipeline(SimpleImputer(), RandomForestClassifier(10, max_depth=6, random_state=0)), "binary", True),
]


@pytest.mark.parametrize(
    ("estimator", "task", "compiled"),
    CASES,
    ids=lambda c: type(c).__name__ if not isinstance(c, bool | str) else str(c),
)
def test_saved_and_loaded_it_scores_the_same(estimator: Any, task: str, compiled: bool, tmp_path: Path) -> None:
    x = rows()
    y = labels(x, classes=3 if task == "multiclass" else 2)
    y = np.nan_to_num(x[:, 0]) ** 2 + y if task == "regression" else y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(x, y)
    saved = formats.save(estimator, tmp_path, sample=x, task=task, columns=COLUMNS)
    assert saved.equivalence["compiled"] is compiled, saved.equivalence
    assert saved.format == ("onnx" if compiled else "skops")
    made = package(saved, tmp_path, task=task)
    fresh = rows(4000, seed=99)  # rows neither fitted on nor verified on
    fresh[::7] = np.nan
    expected = estimator.predict(fresh) if task == "regression" else estimator.predict_proba(fresh)
    expected = expected[:, 1] if task == "binary" else expected
    served, original = formats.load(tmp_path, made), formats.load(tmp_path, made, original=True)
    np.testing.assert_allclose(original.scores(fresh), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(served.scores(fresh), expected, rtol=1e-5, atol=1e-5)
    assert served.scores(fresh).shape == expected.shape
    assert served.scores(fresh[:1]).shape == expected[:1].shape


def test_what_cannot_be_compiled_is_served_as_it_is(tmp_path: Path) -> None:
    x = rows(holes=False)
    x[:, 5] = np.round(np.abs(x[:, 5]) * 2)
    y = labels(x)
    model = HistGradientBoostingClassifier(max_iter=10, categorical_features=[5], random_state=0).fit(x, y)
    saved = formats.save(model, tmp_path, sample=x, task="binary", columns=COLUMNS)
    assert (saved.format, saved.model_file) == ("skops", "model.skops")
    assert "reason" in saved.equivalence
    assert not (tmp_path / "model.onnx").exists()
    loaded = formats.load(tmp_path, package(saved, tmp_path))
    np.testing.assert_array_equal(loaded.scores(x), model.predict_proba(x)[:, 1])


def test_a_graph_that_differs_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever compiles wrongly is caught on rows, not trusted."""
    from holdfast.formats import compile_onnx

    x = rows()
    y = labels(x)
    model = RandomForestClassifier(10, random_state=0).fit(x, y)
    other = RandomForestClassifier(10, random_state=1).fit(x, y)
    real = compile_onnx.compile_estimator
    monkeypatch.setattr(compile_onnx, "compile_estimator", lambda _estimator, **kw: real(other, **kw))
    saved = formats.save(model, tmp_path, sample=x, task="binary", columns=COLUMNS)
    assert saved.format == "skops"
    assert "differs" in saved.equivalence["reason"]


def test_a_changed_byte_is_seen_before_parsing(tmp_path: Path) -> None:
    x = rows()
    saved = formats.save(
        DecisionTreeClassifier(max_depth=3).fit(x, labels(x)), tmp_path, sample=x, task="binary", columns=COLUMNS
    )
    made = package(saved, tmp_path)
    data = bytearray((tmp_path / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(bytes(data))
    with pytest.raises(Damaged):
        formats.load(tmp_path, made)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(NotFound):
        formats.load(tmp_path, made)


def test_content_decides_never_the_name(tmp_path: Path) -> None:
    x = rows()
    saved = formats.save(
        DecisionTreeClassifier(max_depth=3).fit(x, labels(x)), tmp_path, sample=x, task="binary", columns=COLUMNS
    )
    (tmp_path / "model.onnx").write_bytes((tmp_path / "model.skops").read_bytes())
    with pytest.raises(NotTrusted, match="says onnx but holds skops"):
        formats.load(tmp_path, package(saved, tmp_path))


@pytest.mark.parametrize("estimator", [GradientBoostingClassifier(n_estimators=5, random_state=0)])
def test_other_estimators_still_save(estimator: Any, tmp_path: Path) -> None:
    x = rows(holes=False)
    estimator.fit(x, labels(x))
    saved = formats.save(estimator, tmp_path, sample=x, task="binary", columns=COLUMNS)
    loaded = formats.load(tmp_path, package(saved, tmp_path))
    np.testing.assert_allclose(loaded.scores(x), estimator.predict_proba(x)[:, 1], atol=1e-5)


def test_clear_refusals(tmp_path: Path) -> None:
    x = rows(holes=False)
    model = DecisionTreeClassifier(max_depth=2).fit(x, labels(x))
    with pytest.raises(BadInput, match="shape"):
        formats.save(model, tmp_path, sample=x[:, :3], task="binary", columns=COLUMNS)
    with pytest.raises(BadInput, match="no probabilities"):
        formats.save(Ridge().fit(x, x[:, 0]), tmp_path, sample=x, task="binary", columns=COLUMNS)
    three = DecisionTreeClassifier(max_depth=2).fit(x, labels(x, classes=3))
    with pytest.raises(BadInput, match="two classes"):
        formats.save(three, tmp_path, sample=x, task="binary", columns=COLUMNS)


def test_categories_and_their_encoders_agree_also_where_unseen_or_missing(tmp_path: Path) -> None:
    """One-hot and ordinal codes: whichever form serves, it answers as the original on rows neither was made from."""
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    x = rows(holes=False)
    x[:, 4], x[:, 5] = np.round(np.abs(x[:, 4]) * 2), np.round(np.abs(x[:, 5]))
    y = labels(x) ^ (x[:, 4] == 1)
    for encoder in (
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    ):
        columns = ColumnTransformer([("codes", encoder, [4, 5])], remainder="passthrough")
        model = make_pipeline(columns, RandomForestClassifier(10, max_depth=6, random_state=0)).fit(x, y)
        folder = tmp_path / type(encoder).__name__
        saved = formats.save(model, folder, sample=x, task="binary", columns=COLUMNS)
        fresh = rows(500, seed=21, holes=False)
        fresh[:, 4], fresh[:, 5] = np.round(np.abs(fresh[:, 4]) * 2), np.round(np.abs(fresh[:, 5]))
        fresh[::3, 4] = 77.0  # a category nobody saw
        fresh[1::5, 0] = np.nan
        got = formats.load(folder, package(saved, folder)).scores(fresh)
        np.testing.assert_allclose(got, model.predict_proba(fresh)[:, 1], atol=1e-5)


def test_boosting_with_categories_unseen_and_missing(tmp_path: Path) -> None:
    x = rows(holes=False)
    x[:, 5] = np.round(np.abs(x[:, 5]) * 2)
    model = HistGradientBoostingClassifier(max_iter=15, categorical_features=[5], random_state=0)
    x[::11, 5] = np.nan
    y = labels(x) ^ (x[:, 5] == 1)
    saved = formats.save(model.fit(x, y), tmp_path, sample=x, task="binary", columns=COLUMNS)
    fresh = rows(500, seed=22)
    fresh[:, 5] = np.round(np.abs(fresh[:, 5]) * 2)
    fresh[::4, 5], fresh[1::4, 5] = np.nan, 200.0
    got = formats.load(tmp_path, package(saved, tmp_path)).scores(fresh)
    np.testing.assert_allclose(got, model.predict_proba(fresh)[:, 1], atol=1e-5)
