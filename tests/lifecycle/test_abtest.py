"""A/B tests over a real prediction log and label store: planned before, assigned by hash, stopped by their rule."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import holdfast as hf
from holdfast.cli.main import cli
from holdfast.core.errors import BadDefinition, BadInput, Conflict, NotApproved, NotFound
from holdfast.core.identity import DAY, HOUR
from holdfast.core.records import LabelRecord
from holdfast.lifecycle import abtest, release, rollouts, way_back
from holdfast.monitoring.labels import LabelStore
from holdfast.registry import versions
from holdfast.serving import route
from holdfast.workspace import Workspace
from tests.lifecycle.test_release import SERVICE, T0, live_champion, version

WISH = hf.ABTest("label", effect=0.05, baseline=0.2, guardrails={"accuracy": 0.02})


@pytest.fixture
def ws(tmp_path: Path):
    with Workspace.open(tmp_path) as ws:
        live_champion(ws)
        yield ws


def traffic(
    ws: Workspace,
    n: int,
    *,
    at: int,
    rates: tuple[float, float] = (0.2, 0.2),
    seed: int = 1,
    per_key: int = 1,
    errors: float = 0.0,
    skewed: float = 0.0,
    forced: bool = False,
    slow: int = 1,
) -> None:
    """``n`` keys ask and are labelled; ``rates`` are the truth's means under champion and challenger."""
    live = release.current(ws.ledger, "s", "production")
    assert live is not None and live.champion is not None
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    for k in range(n):
        key = f"{seed}-{k}"
        arm = route.choose(live, key).arm
        if arm == "challenger" and rng.random() < skewed:
            continue
        rate = rates[arm == "challenger"]
        rate = rng.beta(rate * 2, (1 - rate) * 2) if per_key > 1 else rate
        if forced:
            arm = "challenger"
        for i in range(per_key):
            name = f"{key}-{i}"
            truth = float(rng.random() < rate)
            failed = arm == "challenger" and rng.random() < errors
            number = live.challenger.version if arm == "challenger" and live.challenger else live.champion.version
            row = {
                "id": name, "service": "s", "environment": "production", "version": number, "arm": arm, "key": key,
                "request_time": at, "received": at, "score": float(rng.random()), "output": int(truth),
                "latency_us": int(rng.integers(800, 1200)) * (slow if arm == "challenger" else 1), "replica": "0",
            }  # fmt: skip
            rows.append(row)
            if failed:
                rows[-1] = {**row, "score": None, "output": None}
                rows.append({**row, "arm": "champion", "version": live.champion.version})
            labels.append(LabelRecord(prediction_id=name, value=truth, at=at))
    folder = ws.path("predictions", "s")
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{seed}.parquet")
    LabelStore(ws.path("labels", "s")).append(labels)


def begun(ws: Workspace, wish: hf.ABTest = WISH):
    return abtest.begin(ws, SERVICE, version(ws), wish, at=T0)


def shares(ws: Workspace) -> tuple[int, float]:
    live = release.current(ws.ledger, "s", "production")
    assert live is not None and live.champion is not None
    return live.champion.version, live.challenger.weight if live.challenger else 0.0


def test_the_plan_is_made_before_and_kept(ws) -> None:
    test = begun(ws)
    planned = test.plan["planned"]
    assert planned["control"] == planned["treatment"] > test.plan["single_look"]["control"] > 500
    assert shares(ws) == (1, 50.0)
    (entry,) = ws.ledger.query(kind="abtest.begun", subject="s")
    assert entry.body["plan"]["planned"] == planned


def test_a_better_challenger_becomes_champion_and_the_decision_is_kept(ws) -> None:
    test = begun(ws)
    traffic(ws, 6000, at=T0 + HOUR, rates=(0.2, 0.35))
    ended = abtest.advance(ws, SERVICE, now=T0 + 2 * HOUR)
    assert ended is not None and ended.status == "better", ended
    assert shares(ws) == (2, 0.0) and versions.resolve(ws.ledger, "m@champion").version == 2
    (entry,) = ws.ledger.query(kind="abtest.ended", subject="s")
    kept = entry.body["result"]
    assert kept["low"] > 0 and kept["keys"] == kept["labelled"] and abs(sum(kept["keys"]) - 6000) == 0
    assert abtest.advance(ws, SERVICE, now=T0 + 3 * HOUR).id == test.id
    assert len(ws.ledger.query(kind="abtest.ended")) == 1


def test_no_good_news_before_its_time_and_bad_news_at_once(ws) -> None:
    begun(ws, hf.ABTest("label", effect=0.05, baseline=0.2, at_least="7d"))
    traffic(ws, 6000, at=T0 + HOUR, rates=(0.2, 0.35))
    assert abtest.advance(ws, SERVICE, now=T0 + DAY).status == "running"
    assert shares(ws) == (1, 50.0)
    assert abtest.advance(ws, SERVICE, now=T0 + 7 * DAY).status == "better"
    with pytest.raises(NotFound):
        abtest.stop(ws, SERVICE, at=T0, reason="too late")


def test_a_worse_challenger_goes_at_once(ws) -> None:
    begun(ws, hf.ABTest("label", effect=0.05, baseline=0.35, at_least="7d"))
    traffic(ws, 6000, at=T0 + HOUR, rates=(0.35, 0.2))
    assert abtest.advance(ws, SERVICE, now=T0 + DAY).status == "worse"
    assert shares(ws) == (1, 0.0)


def test_equal_arms_end_as_no_relevant_difference_or_undecided(ws) -> None:
    begun(ws, hf.ABTest("label", effect=0.1, baseline=0.2))
    traffic(ws, 8000, at=T0 + HOUR)
    assert abtest.advance(ws, SERVICE, now=T0 + 2 * HOUR).status == "no relevant difference"
    wish = hf.ABTest("label", effect=0.001, baseline=0.2, at_most="30d")
    abtest.begin(ws, SERVICE, version(ws), wish, at=T0 + 2 * HOUR)
    assert abtest.advance(ws, SERVICE, now=T0 + 31 * DAY).status == "undecided"
    assert shares(ws) == (1, 0.0)


@pytest.mark.parametrize(
    ("how", "says"),
    [({"errors": 0.2}, "error_rate"), ({"slow": 30}, "latency_ratio")],
)
def test_guardrails_stop_a_test(ws, how, says) -> None:
    begun(ws)
    traffic(ws, 3000, at=T0 + HOUR, **how)
    ended = abtest.advance(ws, SERVICE, now=T0 + 2 * HOUR)
    assert ended.status == "guardrail" and says in ended.reason
    assert shares(ws) == (1, 0.0)
    assert any(e.body for e in ws.ledger.query(kind="incident*", subject="s")), "somebody is told"


def test_a_guardrail_metric_stops_a_test(ws) -> None:
    begun(ws, hf.ABTest("accuracy", effect=0.4, baseline=0.5, guardrails={"label": 0.02}))
    traffic(ws, 9000, at=T0 + HOUR, rates=(0.4, 0.2))
    ended = abtest.advance(ws, SERVICE, now=T0 + 2 * HOUR)
    assert ended.status == "guardrail" and "label" in ended.reason


def test_keys_that_did_not_come_in_as_assigned_make_a_test_invalid(ws) -> None:
    begun(ws)
    traffic(ws, 3000, at=T0 + HOUR, skewed=0.3)
    assert abtest.advance(ws, SERVICE, now=T0 + 2 * HOUR).status == "invalid"


def test_failed_requests_count_for_the_arm_they_were_assigned_to_and_forced_ones_for_nobody(ws) -> None:
    test = begun(ws, hf.ABTest("label", effect=0.05, baseline=0.2, max_error_rate=0.9))
    traffic(ws, 2000, at=T0 + HOUR, errors=0.1)
    look = abtest.status(ws, test, now=T0 + 2 * HOUR)
    assert sum(look["keys"]) == 2000 and look["forced"] == 0 and look["p_assignment"] > 0.01
    traffic(ws, 500, at=T0 + HOUR, seed=2, forced=True)
    look = abtest.status(ws, test, now=T0 + 2 * HOUR)
    assert 150 < look["forced"] < 350 and sum(look["keys"]) == 2500 - look["forced"]


def test_rows_of_one_key_are_not_taken_for_independent(ws) -> None:
    test = begun(ws, hf.ABTest("label", effect=0.05, baseline=0.2))
    traffic(ws, 800, at=T0 + HOUR, per_key=10)
    look = abtest.status(ws, test, now=T0 + 2 * HOUR)
    assert look["n_control"] == look["keys"][0] and look["rows"][0] == 10 * look["keys"][0]
    naive = 2 * 2 * np.sqrt(0.2 * 0.8 / 4000)
    assert look["high"] - look["low"] > 2 * naive


def test_one_thing_at_a_time(ws) -> None:
    begun(ws)
    with pytest.raises(Conflict):
        rollouts.begin(ws, SERVICE, version(ws), at=T0)
    with pytest.raises(Conflict):
        release.set_weight(ws, SERVICE, 10, at=T0, reason="")
    with pytest.raises(Conflict):
        begun(ws)
    way_back.rollback(ws, "s", at=T0, reason="enough")
    assert shares(ws) == (1, 0.0) and abtest.of(ws.ledger, "s").status == "stopped"
    with pytest.raises(NotApproved):
        abtest.begin(ws, SERVICE, version(ws, verdict="fail"), WISH, at=T0)


def test_a_baseline_is_measured_or_asked_for(ws) -> None:
    with pytest.raises(BadInput, match="baseline"):
        abtest.plan(ws, SERVICE, hf.ABTest("label", effect=0.05), now=T0)
    traffic(ws, 2000, at=T0 + HOUR, rates=(0.3, 0.3))
    found = abtest.plan(ws, SERVICE, hf.ABTest("label", effect=0.05), now=T0 + DAY)
    assert found["baseline"] == pytest.approx(0.3, abs=0.05) and found["days"] > 0


def test_what_cannot_be_tested_is_said_at_once() -> None:
    for wrong in (
        {"metric": "joy", "effect": 1},
        {"metric": "label", "effect": 0},
        {"metric": "label", "effect": 1, "weight": 100},
    ):
        with pytest.raises(BadDefinition):
            hf.ABTest(**wrong)


def test_by_hand(ws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "definitions.py").write_text(
        "import holdfast as hf\n\n\n@hf.model('m')\ndef train(data, params):\n    return None\n\n\n"
        "s = hf.Service('s', model=train, gate=hf.Gate(hf.at_least('roc_auc', 0.5)), abtest=hf.ABTest('label', effect=0.05, baseline=0.2))\n"
    )
    version(ws)
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, ["release", "abtest", *words])
        assert (done.exit_code != 0) == bool(code), done.output
        return done.output

    assert "keys needed" in run("plan", "s")
    assert json.loads(run("start", "s", "m@2", "--effect", "0.04", "--json"))["plan"]["effect"] == 0.04
    look = json.loads(run("status", "s", "--json"))
    assert look["test"]["status"] == "running" and look["look"]["decision"] == "not enough evidence"
    assert "running" in run("look", "s")
    assert "stopped" in run("stop", "s", "--reason", "enough")
    run("stop", "s", code=1)
