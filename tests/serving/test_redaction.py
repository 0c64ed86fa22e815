"""What a release keeps out of the prediction log is never on disk in clear, and what it samples is the same everywhere."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import pytest

import holdfast as hf
from holdfast.core.errors import BadDefinition
from holdfast.core.records import FieldSpec
from holdfast.serving import predictions
from holdfast.serving.redaction import Keeping
from holdfast.workspace import Workspace
from tests.serving.world import add_package, arm, fields, in_process, put_release

SECRET = "4711-0815-1234-9876"


def keeping(policy: dict[str, Any]) -> Keeping:
    return Keeping(
        policy, inputs=[("card", "string"), ("a", "float64")], features=["a", "b"], keys=["card"],
        known={"card", "a", "b"}, secret=b"k" * 32,
    )  # fmt: skip


def test_each_way_to_redact() -> None:
    row = [(SECRET, 2.0)]
    assert keeping({"redact": {"card": "drop"}}).rows(row) == [(2.0,)]
    assert keeping({"redact": {"card": "mask"}}).rows(row) == [("***9876", 2.0)]
    assert keeping({"redact": {"card": "mask"}}).rows([("short", 2.0)]) == [("***", 2.0)]
    (hashed, _), = keeping({"redact": {"card": "hash"}}).rows(row)  # fmt: skip
    assert len(hashed) == 32 and hashed == keeping({"redact": {"card": "hash"}}).rows(row)[0][0]
    other = Keeping(
        {"redact": {"card": "hash"}},
        inputs=[("card", "string")],
        features=[],
        keys=[],
        known={"card"},
        secret=b"o" * 32,
    )
    assert other.rows([(SECRET,)])[0][0] != hashed
    assert keeping({"redact": {"a": "mask"}}).rows(row) == [(SECRET, None)]
    assert keeping({"redact": {"a": "hash"}}).features == ["b"]
    assert keeping({"redact": {"card": "hash"}}).hides_key and not keeping({"redact": {"a": "drop"}}).hides_key
    assert keeping({"redact": {"crad": "drop"}}).unknown == ["crad"]


def test_a_sample_is_a_share_and_the_same_for_the_same_ids() -> None:
    ids = [f"id-{i}" for i in range(20_000)]
    chosen = keeping({"sample": 0.1}).chosen(ids)
    assert chosen is not None and 1800 < len(chosen) < 2200
    assert keeping({"sample": 0.1}).chosen(ids) == chosen
    more = keeping({"sample": 0.5}).chosen(ids)
    assert set(chosen) < set(more or ())
    assert keeping({}).chosen(ids) is None


def test_definitions_say_what_cannot_be() -> None:
    for wrong in ({"sample": 0}, {"redact": {"a": "burn"}}, {"mode": "maybe"}, {"key": "eat"}):
        with pytest.raises(BadDefinition):
            hf.PredictionLog(**wrong)
    assert hf.PredictionLog("durable").policy == {}


def on_disk(workspace: Workspace) -> bytes:
    folder = workspace.path("predictions", "toy")
    return b"".join(p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file())


REQUEST = [FieldSpec(name="card", dtype="string", nullable=False), *fields()]


@pytest.mark.parametrize("how", ["drop", "hash", "mask"])
@pytest.mark.parametrize("failing", [False, True])
def test_nothing_in_clear_on_disk(workspace: Workspace, how: str, failing: bool) -> None:
    content = add_package(workspace, request=REQUEST)
    policy = {"sample": 1.0, "redact": {"card": how, "a": how}, "key": "hash"}
    extra: dict[str, Any] = {"challenger": arm(9, "0" * 64, 100.0)} if failing else {"shadow": arm(1, content)}
    put_release(workspace, 1, arm(1, content), log=policy, **extra)

    async def story(replica: Any, ask: Any) -> None:
        body = {"rows": [{"card": SECRET, "a": 0.123456789, "b": 0.25}]}
        answer = await ask("POST", "/predict", body, {"x-holdfast-key": SECRET})
        assert answer.status == 200 and json.loads(answer.body)["predictions"][0]["logged"]
        while replica.journal.written < 2:  # the other arm's row comes when it comes
            await asyncio.sleep(0.01)

    in_process(workspace, story)
    before = on_disk(workspace)
    for clear in (SECRET.encode(), struct.pack("<d", 0.123456789), struct.pack(">d", 0.123456789), b"0.123456789"):
        assert clear not in before
    table = predictions.read(workspace.path("predictions", "toy"))
    assert table.num_rows == 2
    names = set(table.column_names)
    assert "features.a" not in names and "features.b" in names
    assert ("inputs.card" in names) == (how != "drop")
    rows = table.to_pylist()
    if how == "mask":
        assert rows[0]["inputs.card"] == "***9876"
    assert all(r["key"] != SECRET and len(r["key"]) == 32 for r in rows)
    assert all(r["features.b"] == (None if r["score"] is None else 0.25) for r in rows)
    after = on_disk(workspace)
    assert SECRET.encode() not in after


def test_a_misspelt_field_closes_the_log_and_nothing_else(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)), log={"redact": {"bb": "drop"}})

    async def story(replica: Any, ask: Any) -> None:
        answer = await ask("POST", "/predict", {"rows": [{"a": 1.0, "b": 0.0}]})
        assert answer.status == 200 and not json.loads(answer.body)["predictions"][0]["logged"]
        assert "'bb'" in json.loads((await ask("GET", "/health/ready")).body)["problem"]
        assert b"holdfast_unlogged_total 1.0" in (await ask("GET", "/metrics")).body

    in_process(workspace, story)
    assert predictions.read(workspace.path("predictions", "toy")).num_rows == 0


def test_what_the_sample_leaves_out_is_said_and_is_no_alarm(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)), log={"sample": 0.25})
    said: dict[str, bool] = {}

    async def story(replica: Any, ask: Any) -> None:
        answer = await ask("POST", "/predict", {"rows": [{"a": 1.0, "b": float(i)} for i in range(200)]})
        said.update({p["id"]: p["logged"] for p in json.loads(answer.body)["predictions"]})
        text = (await ask("GET", "/metrics")).body
        assert b"holdfast_unlogged_total 0.0" in text
        assert f"holdfast_sampled_out_total {200 - sum(said.values())}.0".encode() in text

    in_process(workspace, story)
    table = predictions.read(workspace.path("predictions", "toy"))
    assert set(table["id"].to_pylist()) == {i for i, logged in said.items() if logged} and 20 < table.num_rows < 90
    assert sorted(table["inputs.b"].to_pylist()) == sorted(table["features.b"].to_pylist())
