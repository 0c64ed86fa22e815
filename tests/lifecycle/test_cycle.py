"""One cycle in a small project, through the commands a user has: from data to a traced prediction."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from holdfast.lifecycle import build, loop, needs, release, staged
from holdfast.registry import versions
from holdfast.workspace import Workspace

from .project import NOW, holdfast, make, set_clock


@pytest.fixture(scope="module")
def live(tmp_path_factory) -> Path:
    """A project whose first model answers."""
    root = make(tmp_path_factory.mktemp("churn"))
    holdfast(root, "loop", "order", "churn", "--reason", "first")
    holdfast(root, "loop", "run", "--once")
    return root


def test_the_first_cycle_ends_promoted(live):
    cycles = json.loads(holdfast(live, "loop", "cycles", "--json").stdout)
    assert [(c["status"], c["version"]) for c in cycles] == [("promoted", 1)]
    status = json.loads(holdfast(live, "status", "--json", check=False).stdout)
    assert status["services"][0]["approved"] == "churn@1"
    assert "churn@1" in status["services"][0]["production"]


def test_every_record_names_the_one_before(live):
    with Workspace.open(live) as ws:
        version = versions.get(ws.ledger, "churn", 1)
        record = build.training_set(ws.ledger, version.training_set or "")
        assert set(record.datasets) == {"events"} and set(record.features) == {"activity", "amount_ratio"}
        assert version.run_id and ws.runs.get_run(version.run_id).status == "FINISHED"
        assert ws.objects.exists(version.content) and ws.objects.exists(record.content)
        assert ws.ledger.verify() > 0


def test_a_prediction_is_traced_to_bytes_and_commit(live):
    with Workspace.open(live) as ws:
        service = ws.project().services["churn"]
        with staged.fleet(ws, service.name, "production", arguments=("--replay",)) as about:
            staged.wait_loaded(about["address"])
            body = {"rows": [{"customer_id": 7, "amount": 50.0}], "request_time": NOW}
            request = urllib.request.Request(
                about["address"] + "/predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=20) as response:
                prediction = json.loads(response.read())["predictions"][0]
        head = (live / ".git" / "refs" / "heads" / "main").read_text().strip()
    found = json.loads(holdfast(live, "trace", prediction["id"], "--json").stdout)
    assert found["version"]["version"] == prediction["version"] == 1
    assert found["prediction"]["score"] == pytest.approx(prediction["score"])
    assert found["release"]["sequence"] == 1
    assert len(found["run"]["id"]) == 32
    assert len(found["training_set"]["digest"]) == 64
    assert set(found["features"]) == {"activity", "amount_ratio"}
    assert len(found["datasets"]["events"]["sha256"]) == 64
    assert found["commit"]["hash"] == head
    text = holdfast(live, "trace", prediction["id"]).stdout
    assert head in text and "model version" in text


def test_unknown_ids_are_refused_with_a_mend(live):
    for words in (
        ("trace", "nothing"),
        ("why", "nothing"),
        ("deploy", "churn@99"),
        ("check", "chrun@1"),
        ("release", "status", "chur"),
    ):
        done = holdfast(live, *words, check=False)
        assert done.returncode == 1, words
        assert "hint:" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_rejected_candidate_never_answers(live):
    """A gate nobody can pass: the cycle is rejected, the champion stays, deploy by hand is refused."""
    source = (live / "definitions.py").read_text()
    (live / "definitions.py").write_text(
        source.replace('hf.at_least("roc_auc", 0.6)', 'hf.at_least("roc_auc", 0.9999)')
    )
    try:
        set_clock(live, NOW + 1_000_000)
        holdfast(live, "loop", "order", "churn", "--reason", "too strict")
        holdfast(live, "loop", "run", "--once")
        cycles = json.loads(holdfast(live, "loop", "cycles", "--json").stdout)
        assert cycles[-1]["status"] == "rejected" and "roc_auc" in cycles[-1]["reason"]
        refused = holdfast(live, "deploy", f"churn@{cycles[-1]['version']}", check=False)
        assert refused.returncode == 1 and "HF420" in refused.stderr
        with Workspace.open(live) as ws:
            now = release.current(ws.ledger, "churn", "production")
            assert now is not None and now.champion is not None and now.champion.version == 1
    finally:
        (live / "definitions.py").write_text(source)


def test_ticking_twice_is_ticking_once(live):
    with Workspace.open(live) as ws:
        service = ws.project().services["churn"]
        loop.tick(ws, service, now=NOW, holder="a")
        entries = len(ws.ledger.read(limit=10_000))
        loop.tick(ws, service, now=NOW, holder="a")
        assert len(ws.ledger.read(limit=10_000)) == entries


def test_what_is_live_is_not_rolled_out_against_itself(live):
    before = json.loads(holdfast(live, "release", "status", "churn", "--json").stdout)
    assert "in production already" in holdfast(live, "deploy", "churn@1").stdout
    assert json.loads(holdfast(live, "release", "status", "churn", "--json").stdout) == before


def test_rollback_without_an_earlier_champion_is_refused(live):
    done = holdfast(live, "rollback", "churn", check=False)
    assert done.returncode == 1 and "no other champion" in done.stderr


def test_the_decision_record_says_why(live):
    found = json.loads(holdfast(live, "models", "decision", "churn@1", "--json").stdout)
    assert found["why_this_model"]["candidates"][found["why_this_model"]["chosen"]]["metrics"]["roc_auc"] > 0.5
    assert len(found["why_this_threshold"]["curve"]) > 50
    features = [f["feature"] for f in found["why_these_features"]["importance"]]
    assert set(features) == {"activity__amount_count_1d", "activity__amount_mean_1d", "activity__amount_count_7d",
                             "activity__amount_mean_7d", "amount_ratio", "amount"}  # fmt: skip
    assert "Why this threshold" in holdfast(live, "models", "decision", "churn@1").stdout


def test_why_tells_the_story_of_every_cycle(live):
    cycles = json.loads(holdfast(live, "loop", "cycles", "--json").stdout)
    first = json.loads(holdfast(live, "why", cycles[0]["id"], "--json").stdout)
    assert set(first["steps"]) == {"data", "features", "fit", "register", "gate", "staging", "rollout"}
    assert [m["action"] for m in first["rollout"]["history"]] == ["promote"]
    later = json.loads(holdfast(live, "why", cycles[1]["id"], "--json").stdout)
    assert later["cycle"]["status"] == "rejected" and later["rollout"] is None


def test_data_gc_is_told_who_needs_a_version(live):
    with Workspace.open(live) as ws:
        admitted = ws.ledger.query(kind="dataset.admitted", subject="events", limit=1)[0].body["md5"]
        who = [name for md5, name in needs.of_data(ws) if md5 == admitted]
        run_id = versions.get(ws.ledger, "churn", 1).run_id
    assert who[0] == "model churn@1, which serves churn (production)"
    assert f"run {run_id}" in who and "the current version of events" in who
