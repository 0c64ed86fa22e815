from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.core.errors import BadData, BadInput
from holdfast.core.records import FieldSpec, Package
from holdfast.server.dataplane import loader
from holdfast.serving import batch
from holdfast.serving.model import Loaded
from holdfast.workspace import Workspace
from tests.serving.world import add_package, arm, fields, in_process, put_release


def loaded(workspace: Workspace, **changes: Any) -> Loaded:
    return loader(workspace)(arm(1, add_package(workspace, **changes)))


def test_a_batch_gives_what_requests_give(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "PART_ROWS", 100)
    rng = np.random.default_rng(5)
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    rows = {"b": rng.normal(size=950), "name": [f"r{i}" for i in range(950)], "a": rng.normal(size=950)}
    pq.write_table(pa.table(rows), source, row_group_size=300)
    assert batch.score_file(loaded(workspace), source, target, now=0).rows == 950
    out = pq.read_table(target)
    assert out.column_names == ["b", "name", "a", "score", "output"] and out["name"].to_pylist() == rows["name"]
    put_release(workspace, 1, arm(1, add_package(workspace)))

    async def story(_: Any, ask: Any) -> None:
        answer = await ask(
            "POST", "/predict", {"rows": [{"a": a, "b": b} for a, b in zip(rows["a"], rows["b"], strict=True)]}
        )
        told = json.loads(answer.body)["predictions"]
        assert [p["output"] for p in told] == out["output"].to_pylist()
        np.testing.assert_allclose([p["score"] for p in told], out["score"].to_numpy(), atol=1e-7)

    in_process(workspace, story)


@pytest.mark.parametrize(
    ("table", "error", "words"),
    [
        ({"a": [1.0]}, BadData, "'b' is missing"),
        ({"a": [1.0, None], "b": [1.0, 1.0]}, BadData, "row 1: field 'a' is null"),
        ({"a": ["x"], "b": [1.0]}, BadData, "'a' is string"),
        ({"a": [True], "b": [1.0]}, BadData, "'a' is bool"),
        ({"a": [1.0, 2.0, 99.0], "b": [1.0, 1.0, 1.0]}, BadData, "row 2: field 'a' is 99"),
        ({"a": pa.array([], pa.float64()), "b": pa.array([], pa.float64())}, BadInput, "no rows"),
    ],
)
def test_bad_tables_are_named_and_leave_nothing(
    workspace: Workspace, tmp_path: Path, table: dict[str, Any], error: type[Exception], words: str
) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table(table), source)
    request = [*fields(low=-10.0, high=10.0, strict=True)]
    with pytest.raises(error, match=words):
        batch.score_file(loaded(workspace, request=request), source, target, now=0)
    assert [p.name for p in tmp_path.glob("*out*")] == []


BLOCK = 200_000  # rows that fill more than the megabyte a CSV's types are guessed from


def test_a_csv_is_read_as_the_signature_says_not_as_it_begins(workspace: Workspace, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.parquet"
    source.write_text("a,card,b\n" + "1,007,2\n" * BLOCK + "0.5,x9,0.25\n")
    request = [*fields(), FieldSpec(name="card", dtype="string")]
    model = loaded(workspace, request=request)
    assert batch.score_file(model, source, target, now=0).rows == BLOCK + 1
    out = pq.read_table(target)
    assert out["card"].to_pylist()[0] == "007" and out["a"].to_pylist()[-1] == 0.5
    np.testing.assert_allclose(
        [out["score"][0].as_py(), out["score"][-1].as_py()], model.score(np.array([[1.0, 2.0], [0.5, 0.25]]))[:, 0]
    )


@pytest.mark.parametrize("end", ["x,1\n", "1,2,3\n", '"1,2\n', "\xff,1\n"])
def test_a_file_that_goes_wrong_on_the_way_is_named_and_leaves_nothing(
    workspace: Workspace, tmp_path: Path, end: str
) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.parquet"
    source.write_bytes(("a,b\n" + "0.5,0.25\n" * BLOCK + end).encode("latin-1"))
    with pytest.raises(BadInput, match=r"in\.csv cannot be read"):
        batch.score_file(loaded(workspace), source, target, now=0)
    assert [p.name for p in tmp_path.glob("*out*")] == []


def test_a_damaged_table_is_named_and_leaves_nothing(workspace: Workspace, tmp_path: Path) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    repeating = (np.arange(50_000) // 10).astype(np.float64)
    pq.write_table(pa.table({"a": repeating, "b": repeating}), source, compression="snappy", use_dictionary=False)
    data = bytearray(source.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 400] = b"\xff" * 400
    source.write_bytes(data)
    with pytest.raises(BadInput, match=r"in\.parquet cannot be read"):
        batch.score_file(loaded(workspace), source, target, now=0)
    assert [p.name for p in tmp_path.glob("*out*")] == []


class Doubling:
    """A lookup that knows one feature: twice the key, plus the second of the request."""

    columns = ("double",)
    waits = False

    def rows(self, requests: Any, *, at: Any) -> list[dict[str, Any]]:
        return [{"double": 2.0 * r["card"] + t / 1e6} for r, t in zip(requests, at, strict=True)]


class Echo:
    def scores(self, matrix: Any) -> Any:
        return matrix[:, 0]


def doubling() -> Loaded:
    package = Package(
        name="toy",
        format="onnx",
        task="regression",
        model_file="m",
        files={},
        outputs=[],
        request=[FieldSpec(name="card", dtype="int64", nullable=False)],
        inputs=[FieldSpec(name="double", dtype="float64")],
    )
    return Loaded(version=1, content="c", package=package, predictor=Echo(), lookup=Doubling())


def test_features_that_another_machine_keeps_are_not_waited_for_on_the_event_loop() -> None:
    model = doubling()
    assert model.inline(1)
    model.lookup.waits = True  # type: ignore[union-attr]
    assert not model.inline(1)


def test_features_are_looked_up_as_of_each_row(tmp_path: Path) -> None:
    model = doubling()
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(
        pa.table({"card": [1, 2], "when": pa.array([3_000_000, 4_000_000], pa.timestamp("us", "UTC"))}), source
    )
    batch.score_file(model, source, target, now=0, at="when", keep=False)
    assert pq.read_table(target).to_pydict() == {"score": [5.0, 8.0], "output": [5.0, 8.0]}


def test_the_command_line_scores_with_the_champion(workspace: Workspace, tmp_path: Path) -> None:
    put_release(workspace, 1, arm(3, add_package(workspace)))
    source = tmp_path / "in.csv"
    source.write_text("a,b\n0.5,0.25\n-2,1\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "holdfast.cli.main",
            "batch",
            "toy",
            str(source),
            str(tmp_path / "out.parquet"),
            "--json",
        ],
        cwd=workspace.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 2
    assert pq.read_table(tmp_path / "out.parquet")["output"].to_pylist() == [1, 0]


def test_a_target_that_is_named_as_text_is_refused_before_anything_is_scored(
    workspace: Workspace, tmp_path: Path
) -> None:
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table({"a": [1.0], "b": [2.0]}), source)
    with pytest.raises(BadInput, match="Parquet") as caught:
        batch.score_file(loaded(workspace), source, tmp_path / "out.CSV", now=0)
    assert "out.parquet" in str(caught.value.hint)
    assert sorted(p.name for p in tmp_path.glob("out*")) == []
