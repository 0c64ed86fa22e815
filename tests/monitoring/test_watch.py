"""One look at a service: both reports, the floors its retraining watches, estimates beside realised figures."""

import numpy as np
import pyarrow as pa
import pytest

import holdfast as hf
from holdfast.core.definitions import Service
from holdfast.monitoring import drift, watch
from tests.monitoring.streams import DAY, World, stream

WORLD = World(columns=6)


def service(**retrain: object) -> Service:
    @hf.model("m")
    def train(data: object, params: object) -> None:
        return None

    monitor = hf.Monitor(every="1d", window="7d", drift=hf.Drift(window="7d"), metrics=["roc_auc", "precision"])
    return hf.Service("s", model=train, monitor=monitor, retrain=hf.Retrain(**retrain))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made() -> tuple[bytes, pa.Table, pa.Table, int]:
    rng = np.random.default_rng(12)
    reference, times, log, at = stream(rng, WORLD, 21, 6000)
    n = log.num_rows
    log = log.append_column("id", pa.array([f"p{i}" for i in range(n)])).append_column("request_time", pa.array(at))
    log = log.append_column("version", pa.array(np.ones(n, np.int64))).append_column("arm", pa.array(["champion"] * n))
    truth = (rng.random(n) < np.asarray(log["score"])).astype(float)
    labels = pa.table({"prediction_id": log["id"], "value": truth, "at": at, "sequence": np.arange(n)})
    return (
        drift.profile(reference, times, columns=reference.column_names),
        log,
        labels,
        int(at.max()) // DAY * DAY + DAY,
    )


def test_both_reports(made: tuple[bytes, pa.Table, pa.Table, int]) -> None:
    profile, log, labels, now = made
    first, second = watch.look(service(), log, labels, version=1, profile=profile, now=now, threshold=0.5)
    assert (first.kind, first.outcome, first.end - first.start) == ("drift", "ok", 7 * DAY)
    assert first.details["outliers"]["rows"] <= 3
    assert (second.kind, second.outcome) == ("performance", "ok")
    assert second.rows == first.rows == second.labelled
    families = {(s.name, s.family) for s in second.signals}
    assert {
        ("roc_auc", "performance"),
        ("precision", "performance"),
        ("coverage", "labels"),
        ("roc_auc", "estimate"),
    } <= families
    again = watch.look(service(), log, labels, version=1, profile=profile, now=now, threshold=0.5)
    assert again == [first, second]


def test_decay_alarms_at_the_level_that_retraining_watches(made: tuple[bytes, pa.Table, pa.Table, int]) -> None:
    profile, log, labels, now = made
    for wish, own, alarm in (
        ({"when_below": ("roc_auc", 0.99)}, {}, True),
        ({"when_drops": ("roc_auc", 0.03)}, {"roc_auc": 0.99}, True),
        ({"when_drops": ("roc_auc", 0.03)}, {"roc_auc": 0.2}, False),
        ({"when_drops": ("roc_auc", 0.03)}, {}, False),
    ):
        _, report = watch.look(service(**wish), log, labels, version=1, profile=profile, now=now, own=own)
        assert (report.outcome == "alarm") == alarm
    both = service(when_below=("roc_auc", 0.6), when_drops=("roc_auc", 0.1))
    assert watch.floors(both, {"roc_auc": 0.9}) == {"roc_auc": pytest.approx(0.8)}
    assert watch.floors(service(when_drops=("log_loss", 0.1)), {"log_loss": 0.5}) == {"log_loss": pytest.approx(0.6)}


def test_other_versions_and_empty_windows_say_nothing(made: tuple[bytes, pa.Table, pa.Table, int]) -> None:
    profile, log, labels, now = made
    for kwargs in ({"version": 2, "now": now}, {"version": 1, "now": now + 40 * DAY}):
        found = watch.look(service(), log, labels, profile=profile, **kwargs)  # type: ignore[arg-type]
        assert [r.outcome for r in found] == ["no data", "no data"]
    late = watch.look(service(), log, labels.slice(0, 0), version=1, profile=profile, now=now)
    assert [r.outcome for r in late] == ["ok", "not enough evidence"]
    assert [r.kind for r in watch.look(service(), log, labels, version=1, profile=None, now=now)] == ["performance"]
