"""Hostile model files: refused, nothing executed, no file touched, memory bounded."""

from __future__ import annotations

import io
import json
import pickle
import resource
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import formats
from holdfast.core.errors import BadInput, NotTrusted, TooMuch, UsersTurn
from holdfast.core.identity import digest
from holdfast.core.records import FieldSpec, FileRef, Package
from holdfast.formats import onnx_guard
from holdfast.formats.files import read_bounded, read_zip
from holdfast.formats.sniff import FORMATS, sniff


def package(data: bytes, *, says: str = "onnx", name: str = "model.onnx", width: int = 2) -> Package:
    return Package(
        name="m", format=says, task="binary", model_file=name, files={name: FileRef(sha256=digest(data), size=len(data))},
        inputs=[FieldSpec(name=f"x{i}", dtype="float64") for i in range(width)], request=[], outputs=[], classes=[0, 1],
    )  # fmt: skip


def load(folder: Path, data: bytes, **more: Any) -> Any:
    trusted = more.pop("trusted", None)
    made = package(data, **more)
    (folder / made.model_file).write_bytes(data)
    return formats.load(folder, made, trusted=trusted)


@pytest.fixture
def bounded() -> Iterator[None]:
    """Nothing in the test may take more than 256 MB beyond what is there."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024


class Touch:
    """What a pickle does when it is loaded: touch a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(("says", "name"), [("pickle", "model.pkl"), ("onnx", "model.onnx"), ("skops", "model.skops")])
def test_a_pickle_under_any_name_runs_nothing(tmp_path: Path, protocol: int, says: str, name: str) -> None:
    mark = tmp_path / "touched"
    with pytest.raises(NotTrusted):
        load(tmp_path, pickle.dumps(Touch(mark), protocol=protocol), says=says, name=name)
    assert not mark.exists()


def test_a_pickle_says_how_to_trust_it_and_trust_is_for_these_bytes_only(tmp_path: Path) -> None:
    sklearn = pytest.importorskip("sklearn.tree")
    x = np.random.default_rng(0).normal(size=(50, 2))
    data = pickle.dumps(sklearn.DecisionTreeClassifier().fit(x, x[:, 0] > 0))
    with pytest.raises(NotTrusted) as refused:
        load(tmp_path, data, says="pickle", name="model.pkl")
    assert f"holdfast models trust {digest(data)}" in str(refused.value)
    trusted = {digest(data)}.__contains__
    assert load(tmp_path, data, says="pickle", name="model.pkl", trusted=trusted).scores(x).shape == (50,)
    with pytest.raises(NotTrusted):
        load(tmp_path, data + b" ", says="pickle", name="model.pkl", trusted=trusted)


def test_joblib_and_npz_with_objects(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    mark = tmp_path / "touched"
    for compress in (0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3)):
        held = io.BytesIO()
        joblib.dump(Touch(mark), held, compress=compress)
        with pytest.raises(NotTrusted):
            load(tmp_path, held.getvalue())
    held = io.BytesIO()
    np.savez(held, a=np.array([Touch(mark)], dtype=object))
    with pytest.raises(NotTrusted):
        load(tmp_path, held.getvalue())
    assert not mark.exists()


def zipped(members: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return held.getvalue()


def node(module: str, name: str, loader: str, **content: Any) -> dict[str, Any]:
    return {"__module__": module, "__class__": name, "__loader__": loader, **content}


@pytest.mark.parametrize(
    "schema",
    [
        node("os", "system", "FunctionNode"),
        node("builtins", "eval", "FunctionNode"),
        node("builtins", "eval", "TypeNode"),
        node("subprocess", "Popen", "ObjectNode", content=node("builtins", "dict", "DictNode")),
        node("builtins", "list", "ListNode", content=[node("posix", "system", "FunctionNode")]),
        node("sklearn.ensemble._forest", "RandomForestClassifier", "MethodNode"),
        node("sklearn.utils._testing", "assert_run_python_script_without_output", "FunctionNode"),
        node("functools", "partial", "ReduceNode"),
        node("sklearn.ensemble.os", "system", "FunctionNode"),
        node("operator", "attrgetter", "OperatorFuncNode"),
        {"__module__": ["sklearn"], "__class__": "x", "__loader__": "ObjectNode"},
        {"__class__": "Popen"},
    ],
)
def test_skops_types_off_our_list(tmp_path: Path, schema: dict[str, Any]) -> None:
    """Whatever the file says about trust: the list is ours."""
    schema |= {"trusted": True, "_skops_version": "0.16", "protocol": 2}
    data = zipped({"schema.json": json.dumps(schema).encode(), "trusted.json": b'["os.system"]'})
    with pytest.raises(NotTrusted):
        load(tmp_path, data, says="skops", name="model.skops")


def test_skops_nested_and_broken(tmp_path: Path, bounded: None) -> None:
    for schema in (b"{" * 10, b"[" * 100_000, b"not json", b""):
        with pytest.raises(UsersTurn):
            load(tmp_path, zipped({"schema.json": schema}), says="skops", name="model.skops")


def test_zip_bombs(tmp_path: Path, bounded: None) -> None:
    bomb = zipped({"schema.json": b"0" * (64 << 20)})
    assert len(bomb) < 100_000
    with pytest.raises(TooMuch):
        load(tmp_path, bomb, says="skops", name="model.skops")
    # A member that says it is small and is not.
    liar = bytearray(zipped({"schema.json": b"0" * (20 << 20)}))
    at = liar.rindex(b"PK\x01\x02")
    struct.pack_into("<I", liar, at + 24, 100)
    with pytest.raises(UsersTurn):
        read_zip(bytes(liar), what="it")
    many = zipped({f"f{i}": b"" for i in range(10_001)})
    with pytest.raises(TooMuch):
        read_zip(many, what="it")


@pytest.mark.parametrize("name", ["../up", "/etc/x", "a/../../b", "a\\b"])
def test_zip_names_that_lead_out(name: str) -> None:
    with pytest.raises(BadInput):
        read_zip(zipped({name: b"x", "schema.json": b"{}"}), what="it")


class TestOnnx:
    @pytest.fixture
    def graph(self) -> Any:
        return pytest.importorskip("onnx").helper

    def model(self, helper: Any, nodes: list[Any], weights: tuple[Any, ...] = (), **more: Any) -> Any:
        x = helper.make_tensor_value_info("X", 11, [None, 2])
        y = helper.make_tensor_value_info("score", 11, [None, 1])
        return helper.make_model(helper.make_graph(nodes, "g", [x], [y], list(weights)), ir_version=9, **more)

    def test_weights_in_other_files(self, graph: Any, tmp_path: Path) -> None:
        tensor = graph.make_tensor("w", 11, [2, 1], [1.0, 2.0])
        tensor.ClearField("double_data")
        tensor.data_location = 1
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "../../../../etc/passwd"
        made = self.model(graph, [graph.make_node("MatMul", ["X", "w"], ["score"])], (tensor,))
        with pytest.raises(NotTrusted, match="other files"):
            load(tmp_path, made.SerializeToString())

    def test_operators_of_others(self, graph: Any, tmp_path: Path) -> None:
        made = self.model(graph, [graph.make_node("Run", ["X"], ["score"], domain="com.evil")])
        with pytest.raises(NotTrusted, match=r"com\.evil"):
            load(tmp_path, made.SerializeToString())

    @pytest.mark.parametrize("kind", ["ConstantOfShape", "Tile", "Expand", "Loop", "Scan", "RandomNormal"])
    def test_operators_that_make_any_size(self, graph: Any, tmp_path: Path, kind: str, bounded: None) -> None:
        made = self.model(graph, [graph.make_node(kind, ["X"], ["score"])])
        with pytest.raises(NotTrusted, match=kind):
            load(tmp_path, made.SerializeToString())

    @pytest.mark.parametrize("dims", [[1 << 40], [1 << 20, 1 << 20], [1 << 62, 4], [1000, 1000]])
    def test_absurd_sizes(self, graph: Any, tmp_path: Path, dims: list[int], bounded: None) -> None:
        tensor = graph.make_tensor("w", 1, [1], [1.0])
        tensor.ClearField("dims")
        tensor.dims.extend(dims)
        made = self.model(graph, [graph.make_node("MatMul", ["X", "w"], ["score"])], (tensor,))
        with pytest.raises(UsersTurn):
            load(tmp_path, made.SerializeToString())

    def test_hidden_in_a_subgraph(self, graph: Any, tmp_path: Path) -> None:
        inner = graph.make_graph([graph.make_node("Run", ["X"], ["z"], domain="com.evil")], "inner", [], [])
        made = self.model(graph, [graph.make_node("If", ["X"], ["score"], then_branch=inner, else_branch=inner)])
        with pytest.raises(NotTrusted, match=r"com\.evil"):
            load(tmp_path, made.SerializeToString())


def safetensors(header: Any, body: bytes = b"", *, size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + body


W = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}
B = {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}


@pytest.mark.parametrize(
    "data",
    [
        safetensors({"0.weight": W, "0.bias": B}, b"\0" * 11),
        safetensors({"0.weight": {**W, "shape": [1 << 40, 1 << 40]}, "0.bias": B}, b"\0" * 12),
        safetensors({"0.weight": W, "0.bias": {**B, "data_offsets": [4, 8]}}, b"\0" * 12),
        safetensors({"0.weight": {**W, "data_offsets": [-8, 0]}, "0.bias": B}, b"\0" * 12),
        safetensors({"0.weight": {**W, "dtype": "OBJ"}, "0.bias": B}, b"\0" * 12),
        safetensors({"0.weight": W, "0.bias": B}, b"\0" * 12, size=90_000_000),
        safetensors({"0.weight": W, "0.bias": B}, b"\0" * 400),
        safetensors({"0.weight": 3}, b""),
        safetensors(b'{"a": ' + b"[" * 100_000, b""),
        safetensors({"other": W}, b"\0" * 8),
    ],
)
def test_safetensors_with_lying_headers(tmp_path: Path, data: bytes, bounded: None) -> None:
    with pytest.raises(UsersTurn):
        load(tmp_path, data, says="safetensors", name="model.safetensors")


def test_safetensors_that_tell_the_truth(tmp_path: Path) -> None:
    body = np.array([1.0, -2.0, 0.5], dtype="<f4").tobytes()
    model = load(tmp_path, safetensors({"0.weight": W, "0.bias": B}, body), says="safetensors", name="m.safetensors")
    x = np.array([[0.0, 0.0], [1.0, 1.0], [3.0, -1.0]])
    np.testing.assert_allclose(model.scores(x), 1 / (1 + np.exp(-(x @ [1.0, -2.0] + 0.5))))


def lightgbm_text(change: bytes) -> bytes:
    """A whole model of one stump, with one line changed."""
    text = (
        b"tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nlabel_index=0\nmax_feature_idx=1\nobjective=binary sigmoid:1\n\n"
        b"Tree=0\nnum_leaves=2\nnum_cat=0\nsplit_feature=0\nthreshold=0.5\ndecision_type=2\nleft_child=-1\nright_child=-2\n"
        b"leaf_value=-1 1\nis_linear=0\nshrinkage=1\n\nend of trees\n"
    )
    key = change.partition(b"=")[0] + b"="
    return b"\n".join(change if change and line.startswith(key) else line for line in text.split(b"\n"))


def test_lightgbm_by_hand_is_read(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    model = load(tmp_path, lightgbm_text(b""), says="lightgbm", name="m.txt")
    np.testing.assert_allclose(model.scores([[0.0, 0.0], [1.0, 0.0]]), 1 / (1 + np.exp([1.0, -1.0])))


@pytest.mark.parametrize(
    "line",
    [
        b"left_child=0", b"left_child=-3", b"right_child=-1", b"split_feature=2", b"split_feature=0 1", b"threshold=x", b"leaf_value=1",
        b"decision_type=1", b"num_cat=1", b"objective=binary sigmoid:0", b"objective=evil", b"is_linear=1", b"Tree=7", b"num_leaves=3",
        b"num_tree_per_iteration=2", b"end of trees",
    ],
)  # fmt: skip
def test_lightgbm_that_is_no_model(tmp_path: Path, line: bytes) -> None:
    data = lightgbm_text(line) if line != b"end of trees" else lightgbm_text(b"").partition(b"end of trees")[0]
    with pytest.raises(BadInput):
        load(tmp_path, data, says="lightgbm", name="m.txt")


@pytest.mark.parametrize("count", [b"num_leaves=99999999999999999999", b"num_leaves=-5", b"num_class=99999999"])
def test_lightgbm_with_absurd_counts(tmp_path: Path, count: bytes) -> None:
    with pytest.raises(TooMuch):
        load(tmp_path, lightgbm_text(count), says="lightgbm", name="m.txt")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a//b", "", ".", "link", "folder", "a\\b"])
def test_files_outside_the_package(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "p"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(BadInput):
        read_bounded(folder, name)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_never_surprise(data: bytes) -> None:
    assert sniff(data) in FORMATS
    for parse in (lambda: onnx_guard.inspect(data), lambda: read_zip(data, what="it")):
        try:
            parse()
        except UsersTurn:
            continue


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 10_000))
def test_damaged_onnx_never_surprises(at: int, byte: int, cut: int) -> None:
    """A real model with one byte changed and its end cut: the guard answers or refuses, and nothing else."""
    data = bytearray(REAL)
    data[at % len(data)] = byte
    try:
        onnx_guard.inspect(bytes(data[: len(data) - cut % 50]))
    except UsersTurn:
        return


def _real() -> bytes:
    from sklearn.tree import DecisionTreeClassifier

    from holdfast.formats.compile_onnx import compile_estimator

    x = np.random.default_rng(0).normal(size=(200, 2))
    return compile_estimator(DecisionTreeClassifier(max_depth=4).fit(x, x[:, 0] > 0), width=2, task="binary")


REAL = _real()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


_FIELDS = st.one_of(
    st.tuples(st.integers(1, 40), st.just(0), st.integers(0, (1 << 64) - 1).map(_varint)),
    st.tuples(st.integers(1, 40), st.just(1), st.binary(min_size=8, max_size=8)),
    st.tuples(st.integers(1, 40), st.just(5), st.binary(min_size=4, max_size=4)),
    st.tuples(
        st.sampled_from([5, 6, 9, 9, 9, 22]), st.just(2), st.binary(max_size=200).map(lambda b: _varint(len(b)) + b)
    ),
)


@given(st.lists(_FIELDS, max_size=40), st.integers(0, 30))
def test_what_is_passed_over_in_runs_hides_nothing(found: list[tuple[int, int, bytes]], cut: int) -> None:
    """Every message that may hold a tensor or a graph is seen, whatever lies between, and what is cut off is refused."""
    data = b"".join(_varint(number << 3 | wire) + value for number, wire, value in found)
    data = data[: len(data) - cut] if cut < len(data) else data

    def told(**how: bool) -> list[tuple[int, bytes]] | str:
        try:
            fields = onnx_guard.fields(memoryview(data), **how)
            return [(number, bytes(body)) for number, wire, _, body in fields if wire == 2 and number != 9]
        except BadInput:
            return "refused"

    assert told(plain=False) == told()
