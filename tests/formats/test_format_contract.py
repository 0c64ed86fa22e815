"""The contract of formats over every format here, and over one of somebody else's found by entry point."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast import formats
from holdfast.core.errors import BadInput
from holdfast.testing import hostile
from holdfast.testing.format import FormatContract, Written, package_of

sklearn = pytest.importorskip("sklearn")
pytest.importorskip("skops")
pytest.importorskip("onnxruntime")
RNG = np.random.default_rng(5)
X = np.round(RNG.normal(size=(300, 4)), 3)
Y = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(int)


def write(model: Any, folder: Path, kind: str, task: str = "binary") -> Written:
    saved = formats.save(model, folder, sample=X[:100], task=task, columns=list("abcd"))
    name = saved.model_file if saved.format == kind else str(saved.original_file)
    data = (folder / name).read_bytes()
    scores = model.predict_proba(X)[:, 1] if task == "binary" else model.predict(X)
    return Written(data, package_of(data, says=kind, task=task, width=4, classes=[0, 1]), X, scores)


class TestOnnx(FormatContract):
    @pytest.fixture
    def written(self, tmp_path: Path) -> Written:
        from sklearn.ensemble import RandomForestClassifier

        return write(RandomForestClassifier(5, max_depth=4, random_state=0).fit(X, Y), tmp_path / "m", "onnx")


class TestSkops(FormatContract):
    @pytest.fixture
    def written(self, tmp_path: Path) -> Written:
        from sklearn.linear_model import LogisticRegression

        return write(LogisticRegression().fit(X, Y), tmp_path / "m", "skops")


class TestXgboost(FormatContract):
    @pytest.fixture
    def written(self, tmp_path: Path) -> Written:
        xgboost = pytest.importorskip("xgboost")
        return write(xgboost.XGBClassifier(n_estimators=4, max_depth=3, n_jobs=1).fit(X, Y), tmp_path / "m", "xgboost")


class TestLightgbm(FormatContract):
    @pytest.fixture
    def written(self, tmp_path: Path) -> Written:
        lightgbm = pytest.importorskip("lightgbm")
        model = lightgbm.LGBMClassifier(n_estimators=4, num_leaves=6, n_jobs=1, verbose=-1).fit(X, Y)
        return write(model, tmp_path / "m", "lightgbm")


class TestSafetensors(FormatContract):
    @pytest.fixture
    def written(self) -> Written:
        from tests.formats.test_hostile_files import safetensors

        weight, bias = RNG.normal(size=(1, 4)).astype("<f4"), np.array([0.3], dtype="<f4")
        header = {
            "0.weight": {"dtype": "F32", "shape": [1, 4], "data_offsets": [0, 16]},
            "0.bias": {"dtype": "F32", "shape": [1], "data_offsets": [16, 20]},
        }
        data = safetensors(header, weight.tobytes() + bias.tobytes())
        scores = 1 / (1 + np.exp(-(X @ weight[0].astype(float) + float(bias[0]))))
        return Written(data, package_of(data, says="safetensors", task="binary", width=4), X, scores)


class LineFormat:
    """A third party's: a magic word and d + 1 doubles."""

    name = "line"

    @staticmethod
    def recognises(data: bytes) -> bool:
        return data.startswith(b"LINE")

    @staticmethod
    def parse(data: bytes, package: Any, *, threads: int = 1) -> Any:
        width = len(package.inputs)
        if len(data) != 4 + 8 * (width + 1):
            raise BadInput(f"a line of {width} inputs has {4 + 8 * (width + 1)} bytes, this file has {len(data)}")
        values = np.array(struct.unpack(f"<{width + 1}d", data[4:]))

        class Line:
            def scores(self, matrix: Any) -> Any:
                return np.asarray(matrix, dtype=np.float64) @ values[:-1] + values[-1]

        return Line()


class TestSomebodyElses(FormatContract):
    mutants = 3

    @pytest.fixture(autouse=True)
    def installed(self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        """A real installed distribution with an entry point, as pip would leave it; children see it too."""
        site = tmp_path_factory.mktemp("site")
        facts = site / "line_format-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: line-format\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(
            "[holdfast.formats]\nline = tests.formats.test_format_contract:LineFormat\n"
        )
        monkeypatch.syspath_prepend(str(site))

    @pytest.fixture
    def written(self) -> Written:
        values = RNG.normal(size=5)
        data = b"LINE" + struct.pack("<5d", *values)
        return Written(data, package_of(data, says="line", task="regression", width=4), X, X @ values[:-1] + values[-1])


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", [TestOnnx, TestSkops, TestXgboost, TestLightgbm, TestSafetensors])
def test_many_damaged_copies(kind: Any, seed: int, tmp_path: Path) -> None:
    """250 damaged copies of each format a seed; hours of it by raising the range."""
    make = kind.written.__wrapped__ if hasattr(kind.written, "__wrapped__") else kind.written
    arguments = (kind(), tmp_path) if kind is not TestSafetensors else (kind(),)
    written = make(*arguments)
    outcomes = hostile.attack(list(hostile.mutants(written.data, 250, seed=seed)), written.package, seconds=600)
    bad = [o for o in outcomes if o.kind not in ("refused", "loaded") or o.did or o.grew > FormatContract.growth]
    assert bad == []
