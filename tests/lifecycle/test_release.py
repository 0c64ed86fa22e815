"""Rollouts over a prediction log: good challengers reach 100 %, bad ones go back at once, silence is never success."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

import holdfast as hf
from holdfast.core.errors import Conflict, NotApproved, NotFound
from holdfast.core.identity import DAY, HOUR
from holdfast.core.records import Arm, Evidence, LabelRecord, ModelVersion, Package, Verdict
from holdfast.lifecycle import approval, release, rollouts, way_back
from holdfast.registry import live_verdicts, versions
from holdfast.registry import package as packages
from holdfast.serving import journal
from holdfast.validation.rules import digest_of
from holdfast.workspace import Workspace

T0 = 1_700_000_000_000_000


@hf.model("m")
def train(data, params):
    return None


SERVICE = hf.Service(
    "s",
    model=train,
    gate=hf.Gate(hf.at_least("roc_auc", 0.5)),
    rollout=hf.Rollout(canary=[10, 50], bake="1h", minimum=50, give_up="2d"),
)


@pytest.fixture
def ws(tmp_path: Path):
    with Workspace.open(tmp_path) as ws:
        yield ws


def version(
    ws: Workspace, *, verdict: str | None = "pass", smoke: str | None = "pass", task: str = "binary"
) -> ModelVersion:
    """A registered version with the approvals asked for."""
    number = len(versions.list(ws.ledger, "m"))
    manifest = Package(
        name="m",
        format="onnx",
        task=task,
        model_file="m.onnx",
        files={"m.onnx": _file(ws, b"%d" % number)},
        inputs=[],
        request=[],
        outputs=[],
    )
    made = versions.create(ws.ledger, "m", content=packages.store(ws.objects, manifest), run_id=None, at=T0, actor="t")
    if verdict:
        found = Verdict(
            model="m",
            version=made.version,
            content=made.content,
            outcome=verdict,
            results=[],
            rules=digest_of(SERVICE.gate.rules),
            evidence="e",
            at=T0,
        )
        versions.attach_verdict(ws.ledger, found, at=T0, actor="t")
    if smoke:
        with ws.ledger.transaction() as tx:
            tx.put(approval.SMOKES, f"s/{made.content}", {"outcome": smoke})
    return made


def _file(ws: Workspace, data: bytes):
    from holdfast.core.records import FileRef

    return FileRef(sha256=ws.objects.put(data), size=len(data))


def log(monkeypatch, *, challenger: str, n: int = 400, version: int = 2) -> None:
    """A prediction log in which the challenger behaves as named."""
    rng = np.random.default_rng(3)

    def rows(arm: str, v: int, kind: str) -> dict:
        score = rng.beta(2, 5, n)
        if kind == "constant":
            score = np.full(n, 0.9)
        return {
            "id": [f"{arm}{i}" for i in range(n)], "arm": [arm] * n, "version": [v] * n,
            "score": [None if kind == "errors" and i % 5 == 0 else float(s) for i, s in enumerate(score)],
            "output": [None if kind == "errors" and i % 5 == 0 else float(s >= 0.5) for i, s in enumerate(score)],
            "latency_us": [int(x * (50 if kind == "slow" else 1)) for x in rng.integers(800, 1200, n)],
            "request_time": [T0] * n,
        }  # fmt: skip

    sides = [rows("champion", 1, "good")] + (
        [] if challenger == "silent" else [rows("challenger", version, challenger)]
    )
    schema = pa.schema([
        ("id", pa.string()), ("arm", pa.string()), ("version", pa.int64()), ("score", pa.float64()), ("output", pa.float64()),
        ("latency_us", pa.int64()), ("request_time", pa.int64()),
    ])  # fmt: skip
    table = pa.concat_tables([pa.table(side, schema=schema) for side in sides])
    monkeypatch.setattr(journal, "read", lambda *a, **k: table)


def live_champion(ws: Workspace) -> ModelVersion:
    first = version(ws)
    rollouts.begin(ws, SERVICE, first, at=T0)
    rollout = rollouts.advance(ws, SERVICE, now=T0)
    assert rollout is not None and rollout.status == "promoted"
    return first


def walk(ws: Workspace, *, hours: int) -> list[tuple[str, float]]:
    seen = []
    for hour in range(1, hours + 1):
        rollouts.advance(ws, SERVICE, now=T0 + hour * HOUR)
        now = release.current(ws.ledger, "s", "production")
        rollout = release.rollout_of(ws.ledger, "s")
        assert now is not None and now.champion is not None and rollout is not None
        seen.append((rollout.status, now.challenger.weight if now.challenger else 0.0))
    return seen


def test_the_first_version_goes_live_after_smoke(ws):
    live_champion(ws)
    now = release.current(ws.ledger, "s", "production")
    assert now is not None and now.champion is not None and now.champion.version == 1 and now.challenger is None
    assert versions.resolve(ws.ledger, "m@champion").version == 1
    assert versions.get(ws.ledger, "m", 1).stage == "Production"


def test_the_release_file_follows_the_ledger(ws):
    from holdfast.serving import release_file

    live_champion(ws)
    path = release_file.path(ws.home / "releases", "s", "production")
    path.unlink()
    release.project_files(ws, "s")
    found = release_file.read(ws.home / "releases", "s", "production", ws.secret("release"))
    known = release.current(ws.ledger, "s", "production")
    assert (
        found is not None and known is not None and (found.sequence, found.champion) == (known.sequence, known.champion)
    )


def test_a_good_challenger_takes_each_step_and_becomes_champion(ws, monkeypatch):
    live_champion(ws)
    log(monkeypatch, challenger="good")
    rollouts.begin(ws, SERVICE, version(ws), at=T0)
    rollouts.advance(ws, SERVICE, now=T0)
    seen = walk(ws, hours=4)
    assert [w for _, w in seen[:2]] == [50.0, 0.0] and seen[-1][0] == "promoted"
    assert versions.get(ws.ledger, "m", 2).stage == "Production"
    assert versions.get(ws.ledger, "m", 1).stage == "Archived"


def test_what_live_traffic_said_stays_with_the_version(ws, monkeypatch):
    """The verdict that ended each step and its evidence, also of the one that was sent back; a new name takes them along."""
    live_champion(ws)
    for challenger, number in (("good", 2), ("slow", 3)):
        log(monkeypatch, challenger=challenger, version=number)
        rollouts.begin(ws, SERVICE, version(ws), at=T0)
        rollouts.advance(ws, SERVICE, now=T0)
        walk(ws, hours=3)
    good, slow = (live_verdicts.of(ws.ledger, "m", n, content=versions.get(ws.ledger, "m", n).content) for n in (2, 3))
    assert [(v.step, v.weight, v.verdict.outcome) for v in good] == [("canary", 10.0, "pass"), ("canary", 50.0, "pass")]
    assert [(v.step, v.weight, v.verdict.outcome) for v in slow] == [("canary", 10.0, "fail")]
    for one in (*good, *slow):
        kept = msgspec.json.decode(ws.objects.get(one.verdict.evidence), type=list[Evidence])
        assert {e.layer for e in kept} == {"live"} and {r.check for r in one.verdict.results} <= {e.check for e in kept}
    assert live_verdicts.of(ws.ledger, "m", 2, content="other bytes") == []
    with ws.ledger.transaction() as tx:
        live_verdicts.rename(tx, "m", "renamed")
    moved = live_verdicts.of(ws.ledger, "renamed", 2, content=good[0].verdict.content)
    assert [v.verdict.model for v in moved] == ["renamed", "renamed"]


@pytest.mark.parametrize(("task", "check"), [("binary", "live(roc_auc_drop)"), ("regression", "live(r2_drop)")])
def test_truth_that_flows_is_measured_as_the_task_asks(ws, monkeypatch, task, check):
    from holdfast.monitoring.labels import LabelStore

    first = version(ws, task=task)
    rollouts.begin(ws, SERVICE, first, at=T0)
    rollouts.advance(ws, SERVICE, now=T0)
    log(monkeypatch, challenger="good")
    scores = journal.read().select(["id", "score"]).to_pylist()
    truth = {r["id"]: float(r["score"] > 0.3) if task == "binary" else r["score"] for r in scores}
    store = LabelStore(ws.home / "labels" / "s")
    # The champion is always right, the challenger's truth has nothing to do with what it said.
    rng = np.random.default_rng(1)
    store.append(
        [
            LabelRecord(prediction_id=i, value=v if i.startswith("champion") else float(rng.choice([0, 1])), at=T0)
            for i, v in truth.items()
        ]
    )
    rollouts.begin(ws, SERVICE, version(ws, task=task), at=T0)
    rollouts.advance(ws, SERVICE, now=T0)
    assert walk(ws, hours=1) == [("rolled back", 0.0)]
    rollout = release.rollout_of(ws.ledger, "s")
    assert rollout is not None and check in rollout.reason, rollout.reason


@pytest.mark.parametrize("kind", ["errors", "slow", "constant"])
def test_a_bad_challenger_goes_back_at_once(ws, monkeypatch, kind):
    live_champion(ws)
    log(monkeypatch, challenger=kind)
    rollouts.begin(ws, SERVICE, version(ws), at=T0)
    rollouts.advance(ws, SERVICE, now=T0)
    seen = walk(ws, hours=1)
    assert seen == [("rolled back", 0.0)]
    now = release.current(ws.ledger, "s", "production")
    assert now is not None and now.champion is not None and now.champion.version == 1
    rollout = release.rollout_of(ws.ledger, "s")
    assert rollout is not None
    reason = rollout.reason
    assert {"errors": "error_rate", "slow": "latency_ratio", "constant": "score_shift"}[kind] in reason, reason
    assert versions.get(ws.ledger, "m", 1).stage == "Production"


def test_silence_holds_and_then_gives_up(ws, monkeypatch):
    live_champion(ws)
    log(monkeypatch, challenger="silent")
    rollouts.begin(ws, SERVICE, version(ws), at=T0)
    rollouts.advance(ws, SERVICE, now=T0)
    seen = walk(ws, hours=47)
    assert set(seen) == {("running", 10.0)}
    rollout = rollouts.advance(ws, SERVICE, now=T0 + 2 * DAY)
    assert rollout is not None and rollout.status == "aborted"
    now = release.current(ws.ledger, "s", "production")
    assert now is not None and now.challenger is None


@pytest.mark.parametrize(
    ("verdict", "smoke"),
    [(None, "pass"), ("fail", "pass"), ("not enough evidence", "pass"), ("pass", None), ("pass", "fail")],
)
def test_no_door_to_production_without_verdict_and_smoke(ws, verdict, smoke):
    candidate = version(ws, verdict=verdict, smoke=smoke)
    with pytest.raises(NotApproved):
        rollouts.begin(ws, SERVICE, candidate, at=T0)
    assert release.current(ws.ledger, "s", "production") is None
    assert release.rollout_of(ws.ledger, "s") is None


def test_a_verdict_for_other_bytes_does_not_count(ws):
    first, second = version(ws), version(ws, verdict=None)
    stolen = Verdict(
        model="m",
        version=second.version,
        content=first.content,
        outcome="pass",
        results=[],
        rules=digest_of(SERVICE.gate.rules),
        evidence="e",
    )
    with ws.ledger.transaction() as tx:
        import msgspec

        tx.put("verdicts", f"m/{second.version:010d}", msgspec.to_builtins(stolen))
    with pytest.raises(NotApproved):
        rollouts.begin(ws, SERVICE, second, at=T0)


def test_one_rollout_at_a_time(ws, monkeypatch):
    live_champion(ws)
    log(monkeypatch, challenger="good")
    rollouts.begin(ws, SERVICE, version(ws), at=T0)
    with pytest.raises(Conflict, match="being rolled out"):
        rollouts.begin(ws, SERVICE, version(ws), at=T0)


def test_rollback_returns_to_the_champion_before(ws, monkeypatch):
    live_champion(ws)
    with pytest.raises(NotFound):
        way_back.rollback(ws, "s", at=T0, reason="r")
    log(monkeypatch, challenger="good")
    rollouts.begin(ws, SERVICE, version(ws), at=T0)
    rollouts.advance(ws, SERVICE, now=T0)
    walk(ws, hours=3)
    back = way_back.rollback(ws, "s", at=T0 + DAY, reason="bad feeling")
    assert back.champion is not None and back.champion.version == 1 and back.reason == "bad feeling"
    with pytest.raises(NotFound, match="no other champion before") as again:
        way_back.rollback(ws, "s", at=T0 + DAY + 1, reason="pressed twice")
    assert "deploy" in str(again.value.hint)


def test_rollbacks_go_back_one_after_the_other_and_never_to_what_one_left(ws):
    def goes_live(at: int) -> int:
        made = version(ws)
        rollouts.begin(ws, SERVICE, made, at=at)
        rollouts.advance(ws, SERVICE, now=at)
        with ws.ledger.transaction() as tx:
            live = release.current(ws.ledger, "s", "production")
            arm = Arm(version=made.version, content=made.content)
            change = msgspec.structs.replace(live, champion=arm, challenger=None, shadow=None)
            release.publish(tx, change, service=SERVICE, under=approval.terms_of(ws, SERVICE), at=at, actor="t")
            tx.delete(release.ROLLOUTS, "s")
        return made.version

    def back(at: int) -> int:
        given = way_back.rollback(ws, "s", at=at, reason="r").champion
        assert given is not None
        return given.version

    one, two, three = (goes_live(T0 + n) for n in range(3))
    assert (back(T0 + 10), back(T0 + 11)) == (two, one)
    four = goes_live(T0 + 12)
    assert four not in (one, two, three) and back(T0 + 13) == one, "two and three were left by a rollback"
    with pytest.raises(NotFound):
        way_back.rollback(ws, "s", at=T0 + 14, reason="r")


def test_rollback_ends_a_running_canary(ws, monkeypatch):
    live_champion(ws)
    log(monkeypatch, challenger="good")
    rollouts.begin(ws, SERVICE, version(ws), at=T0)
    rollouts.advance(ws, SERVICE, now=T0)
    back = way_back.rollback(ws, "s", at=T0 + HOUR, reason="enough")
    assert back.challenger is None and back.champion is not None and back.champion.version == 1
    rollout = release.rollout_of(ws.ledger, "s")
    assert rollout is not None and rollout.status == "rolled back"
    again = rollouts.advance(ws, SERVICE, now=T0 + 2 * HOUR)
    assert again is not None and again.status == "rolled back", "an ended rollout came back to life"
