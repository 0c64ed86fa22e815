"""Networks of torch: stacks of linear layers as safetensors, anything else by ONNX. Runs where torch is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.formats.test_hostile_files import digest

from holdfast import formats
from holdfast.core.errors import BadInput
from holdfast.core.records import FieldSpec, FileRef, Package

torch = pytest.importorskip("torch")
nn = torch.nn
X = np.random.default_rng(0).normal(size=(64, 4))
COLUMNS = list("abcd")


def package(saved: formats.Saved, folder: Path, task: str) -> Package:
    files = {
        n: FileRef(sha256=digest((folder / n).read_bytes()), size=(folder / n).stat().st_size) for n in saved.files
    }
    return Package(
        name="m", format=saved.format, task=task, model_file=saved.model_file, original_file=saved.original_file, files=files,
        inputs=[FieldSpec(name=c, dtype="float64") for c in COLUMNS], request=[], outputs=[], classes=saved.classes,
    )  # fmt: skip


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, lambda: nn.GELU(approximate="tanh")])
@pytest.mark.parametrize(("task", "outputs"), [("binary", 1), ("multiclass", 3), ("regression", 1)])
def test_a_stack_of_linear_layers(tmp_path: Path, activation: Any, task: str, outputs: int) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(4, 8), activation(), nn.Dropout(0.5), nn.Linear(8, 8, bias=False), activation(), nn.Linear(8, outputs)
    )
    if task == "multiclass":
        model.classes_ = [0, 1, 2]
    saved = formats.save(model, tmp_path, sample=X, task=task, columns=COLUMNS)
    assert saved.format == "safetensors"
    model.eval()
    with torch.no_grad():
        out = model(torch.as_tensor(X, dtype=torch.float32)).double()
    expected = {"binary": torch.sigmoid(out)[:, 0], "multiclass": torch.softmax(out, 1), "regression": out[:, 0]}[task]
    got = formats.load(tmp_path, package(saved, tmp_path, task)).scores(X)
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 1)),
        nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()),
        nn.LSTM(4, 4),
    ],
)
def test_another_architecture_is_told_to_go_by_onnx(tmp_path: Path, model: Any) -> None:
    with pytest.raises(BadInput, match="Sequential") as refused:
        formats.save(model, tmp_path, sample=X, task="binary", columns=COLUMNS)
    assert "onnx" in (refused.value.hint or "")


def test_what_torch_wrote_as_safetensors_is_read(tmp_path: Path) -> None:
    """The file of the safetensors library itself, not only ours."""
    library = pytest.importorskip("safetensors.torch")
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    data = library.save(model.state_dict(), metadata={"holdfast.activation": "relu"})
    (tmp_path / "m.safetensors").write_bytes(data)
    saved = formats.Saved("safetensors", "m.safetensors", None, ["m.safetensors"], [0, 1])
    got = formats.load(tmp_path, package(saved, tmp_path, "binary")).scores(X)
    with torch.no_grad():
        np.testing.assert_allclose(
            got, torch.sigmoid(model(torch.as_tensor(X, dtype=torch.float32)))[:, 0].numpy(), atol=1e-6
        )


def test_an_exported_network_is_read_as_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1), nn.Sigmoid()).eval()
    target = tmp_path / "m.onnx"
    torch.onnx.export(
        model, (torch.zeros(2, 4),), str(target), input_names=["X"], output_names=["score"], dynamo=False,
        dynamic_axes={"X": {0: "n"}, "score": {0: "n"}},
    )  # fmt: skip
    saved = formats.Saved("onnx", "m.onnx", None, ["m.onnx"], [0, 1])
    got = formats.load(tmp_path, package(saved, tmp_path, "binary")).scores(X)
    with torch.no_grad():
        np.testing.assert_allclose(got, model(torch.as_tensor(X, dtype=torch.float32))[:, 0].numpy(), atol=1e-5)
