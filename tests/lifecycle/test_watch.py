"""A turn of the monitors over a real workspace: reports, incidents and pages, once however often it is taken."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from holdfast.core.errors import NotFound
from holdfast.core.records import Arm, FileRef, LabelRecord, Package, Release
from holdfast.lifecycle import watch
from holdfast.monitoring import alerts, drift, report
from holdfast.monitoring.labels import LabelStore
from holdfast.registry import package, versions
from holdfast.serving import journal, release_file
from holdfast.workspace import Workspace
from tests.monitoring.streams import DAY, World, change, stream

DEFINITIONS = """
import holdfast as hf

@hf.model("m")
def train(data, params):
    return None

fraud = hf.Service(
    "fraud", model=train,
    monitor=hf.Monitor(every="1d", window="7d", drift=hf.Drift(window="7d"), metrics=["roc_auc", "recall"]),
    retrain=hf.Retrain(on_drift=True, when_below=("roc_auc", 0.99)),
)
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workspace, pa.Table, int]:
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    rng = np.random.default_rng(3)
    reference, times, log, at = stream(rng, World(columns=5), 21, 4500)
    n = log.num_rows
    log = log.append_column("id", pa.array([f"p{i}" for i in range(n)])).append_column("request_time", pa.array(at))
    log = log.append_column("version", pa.array(np.ones(n, np.int64))).append_column("arm", pa.array(["champion"] * n))
    workspace = Workspace.open(tmp_path)
    profile = workspace.objects.put(drift.profile(reference, times, columns=reference.column_names))
    manifest = Package(
        name="m",
        format="onnx",
        task="binary",
        model_file="model.onnx",
        inputs=[],
        request=[],
        outputs=[],
        classes=[0, 1],
        threshold=0.4,
        files={"reference.bin": FileRef(sha256=profile, size=1), "model.onnx": FileRef(sha256=profile, size=1)},
        reference_file="reference.bin",
    )
    content = package.store(workspace.objects, manifest)
    version = versions.create(workspace.ledger, "m", content=content, run_id=None, at=1, actor="t")
    release = Release(
        service="fraud",
        model="m",
        environment="production",
        sequence=1,
        champion=Arm(version=version.version, content=content),
    )
    release_file.write(workspace.home / "releases", release, workspace.secret("release"))
    truth = np.random.default_rng(4).random(n) < np.asarray(log["score"])
    LabelStore(workspace.path("labels", "fraud")).append(
        [LabelRecord(prediction_id=f"p{i}", value=int(truth[i]), at=int(at[i])) for i in range(n)]
    )
    monkeypatch.setattr(journal, "read", lambda folder, **kwargs: log)
    return workspace, log, int(at.max()) // DAY * DAY + DAY


def test_a_turn(made: tuple[Workspace, pa.Table, int], monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, log, now = made
    first = watch.tick(workspace, "fraud", now=now)
    assert [(r.kind, r.outcome, r.version) for r in first] == [("drift", "ok", 1), ("performance", "alarm", 1)]
    assert first[1].labelled == first[1].rows > 1000
    assert report.recent(workspace.ledger, "fraud") == first
    entries = len(workspace.ledger.read())
    assert watch.tick(workspace, "fraud", now=now) == first
    assert len(workspace.ledger.read()) == entries
    [incident] = alerts.incidents(workspace.ledger, "fraud")
    assert (incident.thing, incident.seen) == ("performance", 1)
    assert alerts.waiting(workspace.ledger) == []  # nobody is configured: nothing is kept and nothing is sent

    monkeypatch.setattr(journal, "read", lambda folder, **kwargs: change(log, "x0", lambda v: v + 1.0))
    later = watch.tick(workspace, "fraud", now=now + 1)
    assert later[0].outcome == "alarm"
    assert {i.thing for i in alerts.incidents(workspace.ledger, "fraud", resolved=False)} == {"performance", "drift"}


def test_silence_is_told_when_somebody_could_have_asked(
    made: tuple[Workspace, pa.Table, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, log, now = made
    with workspace.ledger.transaction() as tx:
        tx.append("release", subject="fraud", body={}, at=now, actor="t")
    monkeypatch.setattr(journal, "read", lambda folder, **kwargs: log.slice(0, 0))
    assert {r.outcome for r in watch.tick(workspace, "fraud", now=now + DAY)} == {"no data"}
    assert alerts.incidents(workspace.ledger, "fraud") == [], "a service of yesterday is not silent for a week"
    watch.tick(workspace, "fraud", now=now + 8 * DAY)
    assert {i.thing for i in alerts.incidents(workspace.ledger, "fraud")} == {"drift: no data", "performance: no data"}


def test_a_version_that_has_just_come_is_not_silent(
    made: tuple[Workspace, pa.Table, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, log, now = made
    others = log.set_column(log.column_names.index("version"), "version", pa.array(np.full(log.num_rows, 7)))
    monkeypatch.setattr(journal, "read", lambda folder, **kwargs: others)
    assert {r.outcome for r in watch.tick(workspace, "fraud", now=now)} == {"no data"}
    assert alerts.incidents(workspace.ledger, "fraud") == []


def test_a_dead_address_fails_no_monitor(made: tuple[Workspace, pa.Table, int]) -> None:
    workspace, _, now = made
    (workspace.root / "definitions.py").write_text(
        DEFINITIONS.replace('every="1d"', 'every="1d", alerts=["http://127.0.0.1:9/x"]')
    )
    again = Workspace.open(workspace.root)
    assert [r.kind for r in watch.tick(again, "fraud", now=now)] == ["drift", "performance"]
    [message] = alerts.waiting(again.ledger)
    assert message.tries == 1
    assert message.error


def test_nothing_to_watch_says_so(tmp_path: Path) -> None:
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    with Workspace.open(tmp_path) as workspace:
        with pytest.raises(NotFound, match="nothing answers"):
            watch.tick(workspace, "fraud", now=1)
        with pytest.raises(NotFound, match="unknown service"):
            watch.tick(workspace, "frud", now=1)


def test_holdout_figures_by_plain_name() -> None:
    assert (
        watch.holdout({"tune_roc_auc": 0.7, "test_roc_auc": 0.6, "tune_f1": 0.4, "fit_seconds": 3.0})["roc_auc"] == 0.6
    )
    assert watch.holdout({"tune_f1": 0.4})["f1"] == 0.4
