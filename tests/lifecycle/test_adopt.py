"""Versions that an MLflow client logged: measured on a file of rows, packaged, loaded by a replica; refused with the mend
where they would run code that nobody vouches for."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from holdfast.core.definitions import Gate, Model, Service, at_least, deterministic, not_worse_than_champion
from holdfast.core.errors import BadInput, Conflict, NotFound, NotTrusted
from holdfast.core.identity import digest
from holdfast.core.records import Arm, FileRef, ModelVersion, Release
from holdfast.lifecycle import adopt, decision, notebook, outside
from holdfast.lifecycle.release import RELEASES
from holdfast.registry import foreign, versions, waivers
from holdfast.registry import package as packages
from holdfast.server import dataplane
from holdfast.workspace import Workspace
from tests.formats.own_models import ByHand

skops = pytest.importorskip("skops.io")
MLMODEL = """
flavors:
  sklearn: {{pickled_model: {file}, serialization_format: {how}}}
  python_function: {{loader_module: mlflow.sklearn, python_version: 3.11.0}}
signature:
  inputs: '[{{"type": "double", "name": "a"}}, {{"type": "double", "name": "b"}}]'
"""
RNG = np.random.default_rng(4)
X = RNG.normal(size=(400, 2))
Y = (X[:, 0] + X[:, 1] + 0.3 * RNG.normal(size=400) > 0).astype(int)


@pytest.fixture
def ws(tmp_path: Path) -> Any:
    (tmp_path / "project").mkdir()
    with Workspace.open(tmp_path / "project") as opened:
        lines = [
            f"{i},{b!r},{a!r},{y},2026-01-{1 + i % 9:02d}T00:00:00Z"
            for i, ((a, b), y) in enumerate(zip(X.tolist(), Y, strict=True))
        ]
        (tmp_path / "rows.csv").write_text("\n".join(["id,b,a,y,at", *lines]) + "\n")
        yield opened


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return tmp_path / "rows.csv"


def fitted() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(20, max_depth=4, random_state=0).fit(X, Y)


def logged(ws: Workspace, data: bytes, *, file: str, how: str) -> ModelVersion:
    """A version as the server registers what a client logged."""
    tree = {"MLmodel": MLMODEL.format(file=file, how=how).encode(), file: data}
    content = foreign.pin(ws.objects, {n: FileRef(sha256=ws.objects.put(d), size=len(d)) for n, d in tree.items()})
    return versions.create(ws.ledger, "fraud", content=content, run_id=None, at=1, actor="ann")


def replica(ws: Workspace, version: ModelVersion) -> Any:
    loaded = dataplane.loader(ws)(Arm(version=version.version, content=version.content))
    loaded.warm()  # it proves itself on the rows kept at packaging
    return loaded


def test_a_skops_model_is_compiled_and_answers_as_before(ws: Workspace, rows: Path) -> None:
    estimator = fitted()
    before = logged(ws, skops.dumps(estimator), file="model.skops", how="skops")
    with pytest.raises(BadInput) as refused:
        dataplane.loader(ws)(Arm(version=1, content=before.content))
    assert "holdfast models package" in str(refused.value.hint)
    made = adopt.adopt(ws, before, data=rows, label="y", timestamp="at", at=5)
    assert (made.name, made.version, made.source) == ("fraud", 2, "package of fraud@1")
    package = packages.load(ws.objects, made.content)
    assert package.format == "onnx" and [f.name for f in package.inputs] == ["a", "b"] and package.classes == [0, 1]
    assert package.inputs[0].low == X[:, 0].min()
    loaded = replica(ws, made)
    assert len(loaded.golden) == 20
    np.testing.assert_allclose(loaded.score(X)[:, 0], estimator.predict_proba(X)[:, 1], atol=1e-5)
    gate = Gate(at_least("accuracy", 0.8), deterministic())
    for version in (before, made):
        verdict = outside.check_file(ws, version, gate, data=rows, label="y", at=6)
        assert verdict.outcome == "pass" and verdict.content == version.content


def test_the_reference_profile_is_kept_by_day(ws: Workspace, rows: Path) -> None:
    from holdfast.monitoring import reference

    version = logged(ws, skops.dumps(fitted()), file="model.skops", how="skops")
    days = []
    for timestamp in ("at", None):
        made = adopt.adopt(ws, version, data=rows, label="y", timestamp=timestamp, at=5)
        package = packages.load(ws.objects, made.content)
        profile = reference.load(ws.objects.get(package.files[str(package.reference_file)].sha256))
        days.append(len(profile.calendar.days))
    assert days == [9, 1]


def test_a_pickle_is_refused_until_it_is_trusted_and_then_written_safely(ws: Workspace, rows: Path) -> None:
    estimator = fitted()
    data = pickle.dumps(estimator)
    version = logged(ws, data, file="model.pkl", how="cloudpickle")
    gate = Gate(at_least("accuracy", 0.8))
    for ask in (
        lambda: adopt.adopt(ws, version, data=rows, label="y", at=5),
        lambda: outside.check_file(ws, version, gate, data=rows, label="y", at=5),
    ):
        with pytest.raises(NotTrusted) as refused:
            ask()
        assert f"holdfast models trust {digest(data)}" in str(refused.value.hint)
    waivers.trust(ws.ledger, digest(data), reason="ann logged it", at=2, actor="ann")
    assert outside.check_file(ws, version, gate, data=rows, label="y", at=5).outcome == "pass"
    made = adopt.adopt(ws, version, data=rows, label="y", at=5)
    assert packages.load(ws.objects, made.content).format == "onnx"
    np.testing.assert_allclose(replica(ws, made).score(X)[:, 0], estimator.predict_proba(X)[:, 1], atol=1e-5)


def test_a_trusted_pickle_that_nothing_safe_holds_is_signed_by_this_store(
    ws: Workspace, rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = pickle.dumps(ByHand(2.0))
    version = logged(ws, data, file="model.pkl", how="pickle")
    waivers.trust(ws.ledger, digest(data), reason="ann logged it", at=2, actor="ann")
    made = adopt.adopt(ws, version, data=rows, label="y", at=5)
    package = packages.load(ws.objects, made.content)
    assert package.format == "pickle" and "MLmodel" not in package.files
    np.testing.assert_allclose(replica(ws, made).score(X)[:, 0], ByHand(2.0).predict_proba(X)[:, 1])
    with Workspace.open(tmp_path_factory.mktemp("elsewhere")) as other:
        for ref in package.files.values():
            other.objects.put_file(ws.objects.fetch(ref.sha256))
        packages.store(other.objects, package)
        with pytest.raises(NotTrusted):
            replica(other, made)


def test_bad_input_names_the_mend(ws: Workspace, rows: Path) -> None:
    version = logged(ws, skops.dumps(fitted()), file="model.skops", how="skops")
    with pytest.raises(NotFound, match="'lable'"):
        adopt.adopt(ws, version, data=rows, label="lable", at=5)
    with pytest.raises(NotFound, match="no file"):
        adopt.adopt(ws, version, data=rows.with_name("none.csv"), label="y", at=5)
    short = rows.with_name("short.csv")
    short.write_text("a,y\n0.5,1\n")
    with pytest.raises(NotFound, match="'b'"):
        adopt.adopt(ws, version, data=short, label="y", at=5)
    packaged = notebook.save(ws, fitted(), "other", X=X, columns=["a", "b"])
    with pytest.raises(Conflict) as refused:
        adopt.adopt(ws, packaged, data=rows, label="y", at=5)
    assert "holdfast check other@1" in str(refused.value.hint)


def test_a_package_is_measured_like_one_trained_here(ws: Workspace, rows: Path) -> None:
    """Asked through a real server, compared with the service's champion on the same rows, and recorded why."""
    gate = Gate(
        at_least("accuracy", 0.8),
        deterministic(served=True),
        not_worse_than_champion("roc_auc", margin=0.05),
        decision_record=True,
    )
    service = Service("fraud", model=Model("fraud"), gate=gate)
    first = notebook.save(ws, fitted(), "fraud", X=X, columns=["a", "b"])
    arm = Arm(version=first.version, content=first.content, weight=100.0)
    live = Release(service="fraud", model="fraud", environment="production", sequence=1, champion=arm)
    with ws.ledger.transaction() as tx:
        tx.put(RELEASES, "fraud/production", msgspec.to_builtins(live))
    made = adopt.adopt(
        ws,
        logged(ws, skops.dumps(fitted()), file="model.skops", how="skops"),
        data=rows,
        label="y",
        timestamp="at",
        at=5,
    )
    verdict = outside.check_file(ws, made, gate, data=rows, label="y", service=service, at=6)
    assert verdict.outcome == "pass", verdict.results
    named = {(r.check, r.group) for r in verdict.results}
    assert {("determinism", "in process against HTTP"), ("determinism", "compiled against original")} <= named
    assert any(r.check == "champion(roc_auc)" and r.figure == pytest.approx(0.0, abs=1e-6) for r in verdict.results)
    record = decision.get(ws, made)
    assert record["content"] == made.content and {f["feature"] for f in record["why_these_features"]["importance"]} == {
        "a",
        "b",
    }
