"""hf.save_model and hf.load_model: the registry from a notebook."""

from __future__ import annotations

import numpy as np
import pytest

import holdfast as hf
from holdfast.core.errors import BadInput, NotFound


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    from sklearn.linear_model import LogisticRegression

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, 2))
    y = (X[:, 0] + X[:, 1] > 0).astype(int)
    return LogisticRegression().fit(X, y), X


def test_saved_is_loaded_with_the_same_answers(fitted):
    model, X = fitted
    version = hf.save_model(model, "toy", X=X, columns=["a", "b"])
    assert (version.name, version.version) == ("toy", 1)
    loaded = hf.load_model("toy@latest")
    np.testing.assert_allclose(loaded.scores(X), model.predict_proba(X)[:, 1], atol=1e-5)
    assert (loaded.predict(X) == model.predict(X)).all()
    assert loaded.content == version.content


def test_frames_are_bound_by_name(fitted):
    import pandas as pd

    model, X = fitted
    hf.save_model(model, "toy", X=pd.DataFrame(X, columns=["a", "b"]))
    loaded = hf.load_model("toy@1")
    turned = pd.DataFrame({"b": X[:, 1], "a": X[:, 0]})
    np.testing.assert_allclose(loaded.scores(turned), model.predict_proba(X)[:, 1], atol=1e-5)
    with pytest.raises(BadInput, match="'b'"):
        loaded.scores(turned[["a"]])


def test_names_that_lead_nowhere(fitted):
    model, X = fitted
    hf.save_model(model, "toy", X=X)
    with pytest.raises(NotFound):
        hf.load_model("toy@9")
    with pytest.raises(BadInput, match="no rows"):
        hf.save_model(model, "toy", X=X[:0])


def test_what_cannot_be_saved_is_refused_by_name_and_leaves_no_running_run(fitted, tmp_path):
    import pandas as pd
    from sklearn.linear_model import Ridge

    from holdfast.workspace import Workspace

    model, X = fitted
    words = pd.DataFrame({"a": X[:, 0], "kind": ["flat"] * len(X)})
    for estimator, rows, columns, says in (
        (Ridge(), X, None, "Ridge"),
        ("x", X, None, "no model"),
        (model, words, None, "column 'kind' is not numbers"),
        (model, X, ["a", "a"], "'a'"),
        (model, X[0], None, "shape"),
        (model, X[:, :1], None, "features"),
    ):
        with pytest.raises(BadInput, match=says):
            hf.save_model(estimator, "toy", X=rows, columns=columns)
    odd = type("Odd", (), {"predict": lambda self, rows: rows[:, 0], "save_model": None})()
    with pytest.raises(Exception):  # noqa: B017 - whatever it is, the run has to end
        hf.save_model(odd, "toy", X=X)
    with Workspace.open() as ws:
        experiments = [e.experiment_id for e in ws.runs.search_experiments()[0]]
        statuses = {run.status for run in ws.runs.search_runs(experiments)[0]}
    assert "RUNNING" not in statuses


def test_rows_that_are_no_numbers_are_refused_by_name(fitted):
    model, X = fitted
    hf.save_model(model, "toy", X=X, columns=["a", "b"])
    loaded = hf.load_model("toy")
    with pytest.raises(BadInput, match="not numbers"):
        loaded.predict([["x", "y"]])
    with pytest.raises(BadInput, match="None names no model version"):
        hf.load_model(None)
