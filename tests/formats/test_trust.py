"""What runs code when it is loaded: only this store's own, signed, or what the operator vouches for."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.formats.own_models import ByHand
from tests.peers.environments import ROOT, python_of

import holdfast as hf
from holdfast import formats
from holdfast.core.errors import BadInput, NotTrusted, Unavailable
from holdfast.core.identity import digest
from holdfast.core.records import Arm, FieldSpec, FileRef, Package
from holdfast.formats import mlflow_pyfunc
from holdfast.registry import foreign, waivers
from holdfast.registry import package as packages
from holdfast.server import dataplane
from holdfast.workspace import Workspace

pytest.importorskip("skops")
X = np.random.default_rng(0).normal(size=(50, 2))


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    with Workspace.open(tmp_path) as opened:
        yield opened


def test_what_no_safe_format_holds_is_pickled_only_when_asked(ws: Workspace) -> None:
    with pytest.raises((BadInput, NotTrusted)):
        hf.save_model(ByHand(2.0), "mine", X=X)
    version = hf.save_model(ByHand(2.0), "mine", X=X, pickled=True)
    assert packages.load(ws.objects, version.content).format == "pickle"
    np.testing.assert_allclose(hf.load_model("mine@1").scores(X), ByHand(2.0).predict_proba(X)[:, 1])


def test_a_replica_loads_what_this_store_signed_and_no_other_store_does(
    ws: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    version = hf.save_model(ByHand(2.0), "mine", X=X, pickled=True)
    loaded = dataplane.loader(ws)(Arm(version=1, content=version.content))
    np.testing.assert_allclose(loaded.score(X)[:, 0], ByHand(2.0).predict_proba(X)[:, 1])
    manifest = packages.load(ws.objects, version.content)
    with Workspace.open(tmp_path_factory.mktemp("elsewhere")) as other:
        for ref in manifest.files.values():
            other.objects.put_file(ws.objects.fetch(ref.sha256))
        assert packages.store(other.objects, manifest) == version.content
        with pytest.raises(NotTrusted, match="pickle"):
            dataplane.loader(other)(Arm(version=1, content=version.content))


def test_a_signature_is_for_its_bytes(ws: Workspace, tmp_path: Path) -> None:
    """Bytes put under a signature made for others, a signature somebody made up, and one that is no JSON: all refused."""
    import pickle

    data, key = pickle.dumps(ByHand(1.0)), ws.secret("package")
    for signed in (
        packages.signatures([digest(b"other")], key),
        packages.signatures([digest(data)], b"k" * 32),
        json.dumps({digest(data): ""}).encode(),
        b"\x80nothing",
    ):
        folder = tmp_path / digest(signed)[:8]
        folder.mkdir()
        files = {"m.pkl": data, packages.SIGNATURES: signed}
        for name, held in files.items():
            (folder / name).write_bytes(held)
        package = Package(
            name="m", format="pickle", task="binary", model_file="m.pkl", files={n: FileRef(sha256=digest(d), size=len(d)) for n, d in files.items()},
            inputs=[FieldSpec(name="a", dtype="float64")] * 2, request=[], outputs=[],
        )  # fmt: skip
        with pytest.raises(NotTrusted):
            formats.load(folder, package, trusted=packages.vouched(package, folder, key))


# --- MLflow python_function -------------------------------------------------------------------------------------------

MLMODEL = """
flavors:
  python_function:
    loader_module: holdfast_evil
    python_version: {python}
"""


def tree(ws: Workspace, files: dict[str, bytes]) -> str:
    return foreign.pin(
        ws.objects, {name: FileRef(sha256=ws.objects.put(data), size=len(data)) for name, data in files.items()}
    )


def as_package(ws: Workspace, content: str, **more: Any) -> Package:
    inputs = [FieldSpec(name=n, dtype="float64") for n in "ab"]
    return foreign.as_package(ws.objects, content, name="m", inputs=inputs, task="binary", classes=[0, 1], **more)


def python_here() -> str:
    import platform

    return platform.python_version()


def test_python_function_runs_nothing_until_its_files_are_vouched_for(ws: Workspace, tmp_path: Path) -> None:
    mark = tmp_path / "touched"
    evil = f"open({str(mark)!r}, 'w')\n".encode()
    files = {
        "MLmodel": MLMODEL.format(python=python_here()).encode(),
        "requirements.txt": b"",
        "code/holdfast_evil.py": evil,
    }
    package = as_package(ws, tree(ws, files))
    assert package.format == "mlflow_pyfunc"
    folder = packages.unpack(ws.objects, package, tmp_path / "p")
    with pytest.raises(NotTrusted) as refused:
        formats.load(folder, package, trusted=packages.vouched(package, folder, ws.secret("package")))
    held = mlflow_pyfunc.tree_digest(package.files)
    assert f"holdfast models trust {held}" in (refused.value.hint or "") and not mark.exists()
    # One byte of its code is another model: the trust does not carry over.
    waivers.trust(ws.ledger, held, reason="ours", at=1, actor="ann")
    other = as_package(ws, tree(ws, {**files, "code/holdfast_evil.py": evil + b"#"}))
    folder = packages.unpack(ws.objects, other, tmp_path / "q")
    with pytest.raises(NotTrusted):
        formats.load(folder, other, trusted=lambda value: waivers.trusted(ws.ledger, value))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("python", "requirements", "told"),
    [
        ("3.7.1", b"", "Python 3.7.1"),
        (None, b"numpy==0.0.1\n", "numpy==0.0.1"),
        (None, b"no-such-thing[x]==1.0 ; a\n", "missing"),
    ],
)
def test_python_function_runs_in_its_environment_or_not_at_all(
    ws: Workspace, tmp_path: Path, python: str | None, requirements: bytes, told: str
) -> None:
    files = {"MLmodel": MLMODEL.format(python=python or python_here()).encode(), "requirements.txt": requirements}
    package = as_package(ws, tree(ws, files))
    folder = packages.unpack(ws.objects, package, tmp_path / "p")
    with pytest.raises(Unavailable, match="another environment") as refused:
        formats.load(folder, package, trusted=lambda _: True)
    assert told in refused.value.message


def test_python_function_that_does_not_say_its_environment(ws: Workspace, tmp_path: Path) -> None:
    package = as_package(ws, tree(ws, {"MLmodel": MLMODEL.format(python=python_here()).encode()}))
    folder = packages.unpack(ws.objects, package, tmp_path / "p")
    with pytest.raises(BadInput, match="environment"):
        formats.load(folder, package, trusted=lambda _: True)


LOGGED = """
import sys, json, mlflow, numpy as np
from pathlib import Path

class Half(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return 1 / (1 + np.exp(-model_input["a"].to_numpy() - 2 * model_input["b"].to_numpy()))

mlflow.pyfunc.save_model(sys.argv[1], python_model=Half(), pip_requirements=[f"mlflow=={mlflow.__version__}"])
from holdfast import formats
from holdfast.core.identity import file_sha256
from holdfast.core.records import FieldSpec, FileRef, Package
from holdfast.formats import mlflow_pyfunc
folder = Path(sys.argv[1])
files = {str(p.relative_to(folder)): FileRef(sha256=file_sha256(p), size=p.stat().st_size) for p in folder.rglob("*") if p.is_file()}
package = Package(name="m", format="mlflow_pyfunc", task="binary", model_file="MLmodel", files=files, request=[], outputs=[],
                  inputs=[FieldSpec(name=n, dtype="float64") for n in "ab"])
model = formats.load(folder, package, trusted={mlflow_pyfunc.tree_digest(files)}.__contains__)
print(json.dumps(model.scores(np.array([[0.0, 0.0], [1.0, -0.5], [2.0, 3.0]])).tolist()))
"""


def test_a_real_python_function_model_gives_its_own_answers(tmp_path: Path) -> None:
    """Saved and loaded with the real MLflow, in its own environment, with this Holdfast beside it."""
    site = Path(np.__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{site}", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/m.db"}
    done = subprocess.run(
        [str(python_of("mlflow")), "-W", "ignore", "-c", LOGGED, str(tmp_path / "model")], capture_output=True, text=True, env=env, timeout=240
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    got = json.loads(done.stdout.strip().splitlines()[-1])
    np.testing.assert_allclose(got, [0.5, 0.5, 1 / (1 + np.exp(-8.0))])
