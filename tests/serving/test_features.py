"""A service whose features come from the store: entity keys alone are enough, offline and online agree on the log."""

from __future__ import annotations

import json
from typing import Any

import pytest

import holdfast as hf
from holdfast.core.records import FieldSpec
from holdfast.features.lookup import compile_plan
from holdfast.features.push import Pusher
from holdfast.serving import journal
from holdfast.workspace import Workspace
from tests.serving.world import add_package, arm, in_process, probability, put_release

T0 = 1_700_000_000_000_000
SECOND = 1_000_000

payments = hf.Source("payments", "data/payments.parquet", timestamp="paid_at", schema={"card": int, "amount": float})
card = hf.Entity("card")
activity = hf.FeatureView("activity", [card], payments, [hf.Aggregation("amount", ["mean", "count"], windows=["1h"])])


@hf.on_demand
def ratio(amount, activity__amount_mean_1h):
    return amount / activity__amount_mean_1h


service = hf.FeatureService(
    "svc", [activity, ratio], request={"amount": float}, hidden=["activity__amount_mean_1h", "amount"]
)


def package(workspace: Workspace) -> str:
    assert service.columns() == ["activity__amount_count_1h", "ratio"]
    return add_package(
        workspace,
        plan=compile_plan(service),
        request=[FieldSpec(name="card", dtype="int64", nullable=False), FieldSpec(name="amount", dtype="float64")],
        inputs=[FieldSpec(name=n, dtype="float64", low=0.0, high=1.5) for n in service.columns()],
    )


def test_features_are_looked_up_by_entity_key_as_of_the_request(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(1, package(workspace)))
    with Pusher(workspace.home, workspace.online, service.views) as pusher:
        pusher.push(
            "payments", [{"card": 7, "paid_at": T0 + i * SECOND, "amount": 10.0 + 10 * i} for i in range(3)], arrived=T0
        )

    async def story(replica: Any, ask: Any) -> None:
        rows = [{"card": 7, "amount": 30.0}, {"card": 7, "amount": 30.0}, {"card": 8, "amount": 1.0}]
        at = [T0, T0 + 2 * SECOND, T0]
        answer = await ask("POST", "/predict", {"rows": rows[:2], "request_time": at[:2]})
        scores = [p["score"] for p in json.loads(answer.body)["predictions"]]
        expected = [probability({"a": 1, "b": 3.0}), probability({"a": 3, "b": 1.5})]
        assert scores == pytest.approx(expected, abs=1e-6)
        text = replica.render_metrics().decode()
        assert 'holdfast_out_of_range_total{field="ratio"} 1.0' in text
        # How fresh the store is, as far as it was ever materialized.
        assert b"holdfast_feature_fresh_until_seconds{" not in (await ask("GET", "/metrics")).body
        workspace.online.update([], meta={f"upto/{activity.version}": str(T0).encode()})
        assert b'holdfast_feature_fresh_until_seconds{view="activity"} 1.7e+09' in (await ask("GET", "/metrics")).body
        for row, status, word in (
            ({"amount": 1.0}, 422, "'card' is missing"),
            ({"card": "x", "amount": 1.0}, 422, "'card' is text"),
        ):
            answer = await ask("POST", "/predict", {"rows": [row], "request_time": T0})
            assert answer.status == status and word in json.loads(answer.body)["error"]["message"]

    in_process(workspace, story, replay=True)
    log = journal.read(workspace.path("predictions", "toy")).to_pylist()
    assert [r["key"] for r in log] == ["7", "7"]
    assert [(r["inputs.card"], r["inputs.amount"]) for r in log] == [(7, 30.0), (7, 30.0)]
    assert [r["features.activity__amount_count_1h"] for r in log] == [1.0, 3.0]
    assert [r["features.ratio"] for r in log] == [3.0, 1.5]
