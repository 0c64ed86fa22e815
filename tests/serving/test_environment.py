"""The environment a model was made in: kept to, made where asked for, never guessed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.core.errors import Refused, Unavailable
from holdfast.core.identity import canonical, digest
from holdfast.core.records import FileRef, Package
from holdfast.lifecycle import release
from holdfast.registry import package as packages
from holdfast.registry import versions
from holdfast.serving import environment
from holdfast.workspace import Workspace
from tests.lifecycle.project import holdfast
from tests.serving.world import fields, serving

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def package(kind: str = "skops", **libraries: str) -> Package:
    named = {k.replace("_", "-"): v for k, v in libraries.items()}
    return Package(
        name="toy", format=kind, task="binary", model_file="m", files={}, inputs=fields(), request=fields(), outputs=[],
        environment={"packages": named, "python": "3.11.4"},
    )  # fmt: skip


def test_another_feature_release_is_refused_and_the_mend_is_named() -> None:
    mine = metadata.version("scikit-learn")
    environment.check(package(scikit_learn=mine))
    environment.check(package(scikit_learn=".".join(mine.split(".")[:2]) + ".99"))
    environment.check(package("onnx", scikit_learn="0.1.0"))
    with pytest.raises(Refused, match=r"0\.1\.0") as caught:
        environment.check(package(scikit_learn="0.1.0"))
    assert "--env auto" in (caught.value.hint or "")


def test_one_process_holds_one_release_of_a_library() -> None:
    environment.together(package(scikit_learn="1.5.1"), package(scikit_learn="1.5.2"))
    environment.together(package(scikit_learn="1.5.1"), package("onnx", scikit_learn="1.6.0"))
    with pytest.raises(Refused, match="one process"):
        environment.together(package(scikit_learn="1.5.1"), package(scikit_learn="1.6.0"))


def test_what_was_recorded_is_what_is_installed() -> None:
    recorded = {
        "python": "3.11.4",
        "packages": {"numpy": "1.26.4", "pytest": "8.0.0", "holdfast": "0.0.9", "scipy": "1.11.0"},
    }
    base = {"holdfast": "0.1.0", "numpy": "2.4.0", "msgspec": "0.19.0"}
    found = environment.needs(package(scikit_learn="1.5.2"), recorded, base)
    assert found.python == "3.11"
    assert found.requirements == ["msgspec==0.19.0", "numpy==1.26.4", "scikit-learn==1.5.2"]
    assert "scipy==1.11.0" in found.constraints and not any(c.startswith("holdfast") for c in found.constraints)
    assert found.name == environment.needs(package(scikit_learn="1.5.2"), recorded, base).name
    assert found.name != environment.needs(package(scikit_learn="1.5.1"), recorded, base).name


def test_a_container_gets_what_reads_the_model_and_its_features() -> None:
    kinds = {"onnx": "onnxruntime", "lightgbm": "lightgbm", "skops": "scikit-learn"}
    for kind, reader in kinds.items():
        assert reader in environment.closure(environment.roots(package(kind))), kind
    assert "scikit-learn" not in environment.closure(environment.roots(package("onnx")))
    with_features = msgspec.structs.replace(package("onnx"), plan={"views": []})
    assert "redis" in environment.closure(environment.roots(with_features))
    with pytest.raises(Refused, match="no-such-library") as caught:
        environment.closure(["no-such-library>=2"])
    assert "pip install 'no-such-library>=2'" in (caught.value.hint or "")


def test_a_python_that_is_not_here_is_said(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"Python 2\.6"):
        environment.ensure(tmp_path, environment.Needs("2.6", [], []))


def test_an_environment_is_made_once_and_half_made_ones_anew(tmp_path: Path) -> None:
    wanted = environment.Needs(HERE, [], [])
    half = tmp_path / wanted.name
    half.mkdir()
    (half / "junk").touch()
    python = environment.ensure(tmp_path, wanted)
    assert not (half / "junk").exists()
    code = "import holdfast, sys; print(sys.prefix); import importlib.util as u; print(u.find_spec('numpy'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == [str(half), "None"]
    stamp = (half / "complete").stat().st_mtime_ns
    assert environment.ensure(tmp_path, wanted) == python and (half / "complete").stat().st_mtime_ns == stamp


def test_what_pip_cannot_install_is_said_and_nothing_half_made_is_used(tmp_path: Path) -> None:
    wanted = environment.Needs(HERE, ["./no-such-folder-here"], [])
    with pytest.raises(Unavailable, match="no-such-folder"):
        environment.ensure(tmp_path, wanted)
    assert not (tmp_path / wanted.name / "complete").exists()


DEFINITIONS = """
import holdfast as hf

@hf.model("toy")
def train(data, params):
    raise NotImplementedError

service = hf.Service("toy", model=train)
"""


def made_for(workspace: Workspace, wanted: environment.Needs) -> Path:
    """Its environment; where no package installer reaches an index, that is said loudly."""
    try:
        return environment.ensure(workspace.path("environments", "."), wanted)
    except Unavailable as problem:
        if os.environ.get("HOLDFAST_REQUIRE_SERVICES") == "1":
            pytest.fail(f"--env auto cannot be tested: {problem.message}")
        pytest.skip("no package installer reaches an index: --env auto is not tested here")


@pytest.mark.peer
@pytest.mark.timeout(900)
def test_a_model_of_an_older_library_is_deployed_in_an_environment_made_for_it(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Fitted with an older scikit-learn in an environment of its own; refused here, deployed and served there."""
    older = "1.7.2"
    recorded: dict[str, Any] = {
        "python": f"{HERE}.0", "packages": {"scikit-learn": older, "skops": metadata.version("skops"), "numpy": metadata.version("numpy")},
    }  # fmt: skip
    workspace.objects.put(canonical(recorded))
    made = msgspec.structs.replace(
        package(scikit_learn=older), model_file="m.skops", golden_file="golden.json", classes=[0, 1], threshold=0.5,
        environment={"digest": digest(recorded), "python": recorded["python"], "packages": {"scikit-learn": older}},
    )  # fmt: skip
    wanted = environment.needs(made, recorded, environment.closure(["holdfast", "skops"]))
    python = made_for(workspace, wanted)
    fit = (
        "import sys, skops.io, sklearn; from sklearn.linear_model import LogisticRegression\n"
        f"assert sklearn.__version__ == {older!r}\n"
        "fitted = LogisticRegression().fit([[0.0, 1.0], [1.0, 0.0], [0.2, 0.9], [0.8, 0.1]], [0, 1, 0, 1])\n"
        "skops.io.dump(fitted, sys.argv[1])\n"
        "print(fitted.predict_proba([[0.0, 1.0]])[0, 1])\n"
    )
    score = float(subprocess.run([python, "-c", fit, tmp_path / "m.skops"], check=True, capture_output=True).stdout)
    row = {"a": 0.0, "b": 1.0}
    files = {
        "m.skops": (tmp_path / "m.skops").read_bytes(),
        "golden.json": canonical({"rows": [{"inputs": row, "request": row, "request_time": 1, "score": score}]}),
    }
    refs = {n: FileRef(sha256=workspace.objects.put(data), size=len(data)) for n, data in files.items()}
    content = packages.store(workspace.objects, msgspec.structs.replace(made, files=refs))
    versions.create(workspace.ledger, "toy", content=content, run_id=None, at=1, actor="t")
    (workspace.root / "definitions.py").write_text(DEFINITIONS)

    refused = holdfast(workspace.root, "deploy", "toy@1", check=False)
    assert refused.returncode == 1 and older in refused.stderr and "--env auto" in refused.stderr
    assert release.current(workspace.ledger, "toy", "staging") is None  # said before anything moved
    deployed = holdfast(workspace.root, "deploy", "toy@1", "--env", "auto")
    assert "smoke test passed: 1 golden rows" in deployed.stderr and "rollout promoted" in deployed.stderr
    with serving(workspace, "--replicas", "1") as server:
        assert server.predict(row)[0] == 503
        assert older in server.until(lambda: server.ask("GET", "/health/ready")[1]["problem"])
    with serving(workspace, "--replicas", "1", "--env", "auto") as server:
        server.until_version(1)
        status, answer = server.predict(row)
        assert status == 200 and answer["predictions"][0]["output"] == 0
        assert answer["predictions"][0]["score"] == pytest.approx(score, abs=1e-9)
        running = Path(f"/proc/{server.state['replicas'][0]}/cmdline").read_bytes()
        assert running.startswith(str(python).encode())
