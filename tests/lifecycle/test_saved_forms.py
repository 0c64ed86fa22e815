"""What `holdfast train` keeps of each kind of estimator: a safe format where there is one, a signed pickle where it was asked
for, and otherwise a refusal that names the mend."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from holdfast.registry import package as packages
from holdfast.registry import versions
from holdfast.workspace import Workspace
from tests.lifecycle import project

OWN = '''
"""A step of somebody's own, which no safe format holds."""
import numpy as np


class Filled:
    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return np.nan_to_num(np.asarray(X))

    def fit_transform(self, X, y=None):
        return self.transform(X)

    def get_params(self, deep=True):
        return {}

    def set_params(self, **params):
        return self
'''
MORE = """
from own import Filled

COMMON = {name: getattr(train, name) for name in ("features", "spine", "label", "split")}


def stack(data):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(Filled(), LogisticRegression()).fit(data.X, data.y)


@hf.model("own", **COMMON)
def own_model(data, params):
    return stack(data)


@hf.model("own_pickled", pickled=True, **COMMON)
def own_pickled(data, params):
    return stack(data)


@hf.model("boosted", **COMMON)
def boosted(data, params):
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=5, max_depth=3).fit(data.X, data.y)


@hf.model("light", **COMMON)
def light(data, params):
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=5, num_leaves=6, verbose=-1).fit(data.X, data.y)


@hf.model("absent", **COMMON)
def absent(data, params):
    import no_such_library


@hf.model("three", task="multiclass", select="log_loss", **COMMON)
def three(data, params):
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=3).fit(data.X, [int(y) + (i % 2) for i, y in enumerate(data.y)])


hf_own = hf.Service("own_service", model=own_pickled, gate=hf.Gate(
    hf.at_least("roc_auc", 0.5, sample=30), hf.deterministic(served=True), hf.pipeline(sample=0.3),
))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = project.make(tmp_path_factory.mktemp("forms") / "churn")
    (made / "own.py").write_text(OWN)
    (made / "definitions.py").write_text((made / "definitions.py").read_text() + MORE)
    return made


def train(root: Path, name: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return project.holdfast(root, "train", name, check=check)


def package_of(root: Path, reference: str) -> Any:
    with Workspace.open(root, create=False) as ws:
        return packages.load(ws.objects, versions.resolve(ws.ledger, reference).content)


@pytest.mark.parametrize(
    ("name", "library", "kept"), [("boosted", "xgboost", "xgboost"), ("light", "lightgbm", "lightgbm")]
)
def test_boosters_keep_their_own_formats(root: Path, name: str, library: str, kept: str) -> None:
    pytest.importorskip(library)
    train(root, name)
    assert package_of(root, f"{name}@1").format == kept


def test_three_classes_are_registered_with_their_profile(root: Path) -> None:
    train(root, "three")
    package = package_of(root, "three@1")
    assert package.classes == [0, 1, 2] and package.reference_file in package.files


def test_steps_of_ones_own_are_refused_with_the_mend(root: Path) -> None:
    refused = train(root, "own", check=False)
    assert refused.returncode == 1 and "own.Filled" in refused.stderr and "pickled=True" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_library_that_is_not_installed_is_named(root: Path) -> None:
    refused = train(root, "absent", check=False)
    assert refused.returncode == 1 and "pip install no_such_library" in refused.stderr


def test_a_pickle_that_was_asked_for_is_signed_measured_and_served(root: Path) -> None:
    """The gate loads it here, in a second process, in a real server, and fits it again for the pipeline."""
    train(root, "own_pickled")
    package = package_of(root, "own_pickled@1")
    assert package.format == "pickle" and packages.SIGNATURES in package.files
    done = project.holdfast(root, "check", "own_pickled@1", "--json", check=False)
    results = json.loads(done.stdout)["results"]
    assert {r["outcome"] for r in results} == {"pass"}, [r for r in results if r["outcome"] != "pass"]
    groups = {r["group"] for r in results if r["check"] == "determinism"}
    assert {"two processes", "in process against HTTP"} <= groups
