"""Hostile model files, each read in a child with a limit on memory, an audit hook and canaries: refused, nothing run, no
file touched, no program started, memory bounded."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.formats.test_hostile_files import node, safetensors, zipped

from holdfast.testing import hostile
from holdfast.testing.format import package_of

pytest.importorskip("skops")
pytest.importorskip("onnxruntime")
BOUND = 192 << 20


class Run:
    """What a pickle does when it is loaded: start a program that writes into the folder it stands in."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (subprocess.run, ([sys.executable, "-c", "open('pwned', 'w')"],))


class Write:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (Path("canary"), "dead"))


def onnx_files() -> dict[str, bytes]:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper

    def model(nodes: list[Any], weights: tuple[Any, ...] = (), outputs: int = 1) -> bytes:
        x = helper.make_tensor_value_info("X", 11, [None, 2])
        y = helper.make_tensor_value_info("score", 11, [None, outputs])
        return bytes(
            helper.make_model(helper.make_graph(nodes, "g", [x], [y], list(weights)), ir_version=9).SerializeToString()
        )

    outside = {}
    for where in ("canary", "/etc/passwd", "../../../../etc/passwd", "file:///etc/passwd"):
        tensor = helper.make_tensor("w", 11, [2, 1], [1.0, 2.0])
        tensor.ClearField("double_data")
        tensor.data_location = 1
        for key, value in (("location", where), ("offset", "0"), ("length", "16")):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        outside[f"external {where}"] = model([helper.make_node("MatMul", ["X", "w"], ["score"])], (tensor,))
    huge = helper.make_tensor("w", 1, [1], [1.0])
    huge.ClearField("dims")
    huge.dims.extend([1 << 20, 1 << 20])
    # A few bytes that multiply: each Concat doubles what came before.
    doubling = [helper.make_node("Concat", [f"t{i - 1}" if i else "X"] * 2, [f"t{i}"], axis=0) for i in range(40)]
    return {
        **outside, "absurd shape": model([helper.make_node("MatMul", ["X", "w"], ["score"])], (huge,)),
        "made of nothing": model([helper.make_node("ConstantOfShape", ["X"], ["score"])]),
        "doubling": model([*doubling, helper.make_node("Identity", ["t39"], ["score"])]),
    }  # fmt: skip


def files() -> dict[str, bytes]:
    joblib = pytest.importorskip("joblib")
    made: dict[str, bytes] = {}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        made[f"pickle {protocol}"] = pickle.dumps(Run(), protocol=protocol)
        made[f"pickle that writes {protocol}"] = pickle.dumps(Write(), protocol=protocol)
    for compress in (0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)):
        held = io.BytesIO()
        joblib.dump(Run(), held, compress=compress)
        made[f"joblib {compress}"] = held.getvalue()
    for compressed in (np.savez, np.savez_compressed):
        held = io.BytesIO()
        compressed(held, a=np.array([Run()], dtype=object))
        made[f"npz {compressed.__name__}"] = held.getvalue()
    held = io.BytesIO()
    np.save(held, np.array([Run()], dtype=object))
    made["npy"] = held.getvalue()
    made["pickle in a zip"] = zipped({"archive/data.pkl": pickle.dumps(Run()), "archive/version": b"3"})
    made["skops that trusts itself"] = zipped({
        "schema.json": json.dumps(node("subprocess", "run", "FunctionNode") | {"trusted": ["subprocess.run"]}).encode(),
        "trusted.json": b'["subprocess.run"]',
    })  # fmt: skip
    made["skops with a pickle beside it"] = zipped({"schema.json": b"{}", "model.pkl": pickle.dumps(Run())})
    made["skops with objects in an array"] = zipped({
        "schema.json": json.dumps(node("numpy", "ndarray", "NdArrayNode", type="numpy", file="a.npy")).encode(), "a.npy": made["npy"],
    })  # fmt: skip
    made["a zip bomb"] = zipped({"schema.json": b"0" * (100 << 20)})
    made["a zip in a zip"] = zipped(
        {f"{i}.zip": zipped({"a": b"\0" * (8 << 20)}) for i in range(4)} | {"schema.json": b"{}"}
    )
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        link = zipfile.ZipInfo("schema.json")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    made["a link in a zip"] = held.getvalue()
    made["safetensors of 2^60 values"] = safetensors(
        {"0.weight": {"dtype": "F32", "shape": [1 << 30, 1 << 30], "data_offsets": [0, 8]}}, b"\0" * 8
    )
    made["safetensors with a header of 10^18 bytes"] = safetensors({}, size=10**18)
    made["safetensors of empty layers"] = safetensors(
        {f"{i}.weight": {"dtype": "F32", "shape": [0, 1 << 40], "data_offsets": [0, 0]} for i in range(99)}
    )
    made["safetensors that nest"] = safetensors(b'{"a":' * 90_000)
    made["xgboost of 2^40 inputs"] = (
        b'{"learner": {"learner_model_param": {"num_feature": "1099511627776"}, "gradient_booster": {}}, "version": [2,0,0]}'
    )
    made["ubjson that claims"] = b"{L\0\0\0\0\0\0\0\7learner[$D#L\x00\x00\x7f\xff\xff\xff\xff\xff"
    made["lightgbm of 10^9 leaves"] = (
        b"tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nmax_feature_idx=1\n\nTree=0\nnum_leaves=1000000000\nend of trees\n"
    )
    return made | onnx_files()


def test_hostile_files_are_refused_in_silence() -> None:
    """Under the wrong name, which is the likelier way in."""
    cases = files()
    package = package_of(b"", says="onnx", task="binary", width=2, name="model.onnx", classes=[0, 1])
    outcomes = dict(zip(cases, hostile.attack(list(cases.values()), package), strict=True))
    wrong = {k: o for k, o in outcomes.items() if o.kind != "refused" or o.did or o.grew > BOUND + 3 * len(cases[k])}
    assert not wrong, wrong


def test_the_watch_sees_what_it_must_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof can fail: a reader that runs what it is given is caught, in what it did and in what it left."""
    (tmp_path / "sitecustomize.py").write_text(
        "import pickle\n"
        "from holdfast import formats\n"
        "class M:\n"
        "    def scores(self, rows): return [0.0]\n"
        "formats.parse = lambda data, package, **k: (pickle.loads(data), M())[1]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    package = package_of(b"", says="pickle", task="binary", width=2)
    ran, wrote, ate = hostile.attack([pickle.dumps(Run()), pickle.dumps(Write()), pickle.dumps(Eat())], package)
    assert any("subprocess" in d for d in ran.did) and any("open" in d and "canary" in d for d in wrote.did)
    assert ate.kind == "surprise" and "MemoryError" in ate.detail
    assert any("folder holds" in d for o in (ran, wrote, ate) for d in o.did)


class Eat:
    def __reduce__(self) -> tuple[Any, ...]:
        return (bytearray, (8 << 30,))
