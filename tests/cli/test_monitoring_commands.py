"""``holdfast labels``, ``monitor`` and ``backtest``: what they print, and what they say to mistakes."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.cli.main import main
from holdfast.core.identity import DAY, to_us
from holdfast.core.records import Signal
from holdfast.monitoring import alerts, report
from holdfast.workspace import Workspace

DEFINITIONS = """
import holdfast as hf

@hf.model("m")
def train(data, params):
    return None

fraud = hf.Service("fraud", model=train, retrain=hf.Retrain(on_drift=True, cooldown="1d"))
"""
T0 = to_us("2026-03-01T00:00:00Z")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    monkeypatch.chdir(tmp_path)
    with Workspace.open(tmp_path):
        pass
    return tmp_path


@pytest.fixture
def run(project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["holdfast", *argv])
        with pytest.raises(SystemExit) as stop:
            main(list(argv))
        out = capsys.readouterr()
        assert "Traceback" not in out.out + out.err
        return int(stop.value.code or 0), out.out, out.err

    return call


@pytest.fixture
def reported(project: Path) -> Path:
    with Workspace.open(project) as workspace:
        for day in range(30):
            moved = day >= 4
            signal = Signal(
                name="amount",
                family="shape",
                statistic="ks",
                value=0.2 if moved else 0.01,
                floor=0.05,
                p=0.0,
                n=900,
                alarm=moved,
                direction="higher",
            )
            one = report.build("drift", "fraud", 1, T0 + (day - 7) * DAY, T0 + day * DAY, [signal], rows=900)
            report.store(workspace.ledger, one)
            alerts.raise_for(workspace.ledger, one)
    return project


def test_labels_add_and_count(run: Run, project: Path) -> None:
    (project / "truth.csv").write_text(
        "prediction_id,value,at\na,1,2026-01-01T00:00:00Z\nb,,2026-01-01T00:00:00Z\nc,0,2026-01-02T00:00:00Z\n"
    )
    status, out, err = run("labels", "add", "truth.csv", "--service", "fraud")
    assert (status, out) == (0, "2 labels added to fraud\n")
    assert "1 rows without a value" in err
    pq.write_table(pa.table({"who": ["a", "d"], "late": [0, 1]}), project / "more.parquet")
    status, out, _ = run("labels", "add", "more.parquet", "-s", "fraud", "--id", "who", "--value", "late", "--json")
    assert json.loads(out) == {"added": 2, "without_value": 0}
    status, out, _ = run("labels", "count", "--json")
    assert json.loads(out) == [{"service": "fraud", "added": 4, "predictions": 3}]
    assert "fraud" in run("labels", "count", "fraud")[1]


@pytest.mark.parametrize(
    ("file", "text", "argv", "says"),
    [
        ("a.csv", "prediction_id,value\na,1\n", ["--service", "frod"], "did you mean 'fraud'"),
        ("a.csv", "prediction_id,value\na,1\n", ["--service", "../x"], "cannot be the name"),
        ("a.csv", "id,value\na,1\n", ["--service", "fraud"], "no column 'prediction_id'"),
        ("a.csv", "prediction_id,value\n,1\n", ["--service", "fraud", "--at", "nope"], "no column 'nope'"),
        ("a.csv", "prediction_id,value,at\na,1,soon\n", ["--service", "fraud"], "is not an instant"),
        ("a.xlsx", "x", ["--service", "fraud"], "cannot be read"),
        ("a.parquet", "not parquet", ["--service", "fraud"], "error"),
        ("a.csv", "", ["--service", "fraud"], "error"),
    ],
)
def test_labels_that_cannot_be_added(run: Run, project: Path, file: str, text: str, argv: list[str], says: str) -> None:
    (project / file).write_text(text)
    status, _, err = run("labels", "add", file, *argv)
    assert status == 1
    assert says in err
    assert not (project / ".holdfast" / "labels" / "x").exists()
    assert run("labels", "count", "fraud", "--json")[1].count('"added": 0') == 1


def test_a_missing_file_and_a_missing_service_are_the_users_turn(run: Run) -> None:
    assert run("labels", "add", "nothing.csv", "-s", "fraud")[0] == 1
    assert run("labels", "add")[0] == 1
    for argv in (
        ["show", "nope"],
        ["drift", "nope"],
        ["incidents", "nope"],
        ["alerts", "nope"],
        ["run", "nope"],
        ["outliers", "nope"],
    ):
        status, _, err = run("monitor", *argv)
        assert status == 1, argv
        assert "unknown service 'nope'" in err


def test_nothing_yet_is_said(run: Run) -> None:
    assert "no report" in run("monitor", "show", "fraud")[2]
    assert "no drift report" in run("monitor", "drift", "fraud")[2]
    assert "no incidents" in run("monitor", "incidents")[2]
    assert "nothing waits" in run("monitor", "alerts")[2]
    status, _, err = run("monitor", "run", "fraud")
    assert status == 1
    assert "nothing answers" in err
    assert "holdfast deploy m@latest" in err
    status, _, err = run("monitor", "system", "fraud")
    assert status == 1
    assert "does not run here" in err
    status, _, err = run("monitor", "alerts", "--test")
    assert status == 1
    assert "no address" in err
    status, _, err = run("backtest", "fraud")
    assert status == 1
    assert "no report" in err


def test_reports_and_incidents_are_shown(run: Run, reported: Path) -> None:
    rows = json.loads(run("monitor", "show", "fraud", "--limit", "50", "--json")[1])
    assert [r["outcome"] for r in rows] == ["ok"] * 4 + ["alarm"] * 26
    assert "amount" in run("monitor", "show", "fraud", "--limit", "3")[1]
    one = json.loads(run("monitor", "show", "fraud", rows[-1]["id"][:10], "--json")[1])
    assert one["id"] == rows[-1]["id"]
    assert run("monitor", "show", "fraud", "zzz")[0] == 1
    assert "ALARM" in run("monitor", "drift", "fraud")[1]
    [incident] = json.loads(run("monitor", "incidents", "fraud", "--json")[1])
    assert (incident["status"], incident["seen"]) == ("open", 26)
    assert "is yours" in run("monitor", "incidents", "--ack", incident["id"], "--note", "looking")[1]
    assert "is resolved" in run("monitor", "incidents", "--resolve", incident["id"])[1]
    assert run("monitor", "incidents", "--resolve", incident["id"])[0] == 1
    assert run("monitor", "incidents", "--open", "--json")[1].strip() == "[]"
    waiting = json.loads(run("monitor", "alerts", "--json")[1])
    assert [m["event"] for m in waiting] == ["opened", "resolved"]


def test_backtest_with_other_settings(run: Run, reported: Path) -> None:
    found = json.loads(run("backtest", "fraud", "--json")[1])["backtest"]
    assert found["orders"] >= 2
    assert found["really"] == 0
    assert json.loads(run("backtest", "fraud", "--cooldown", "30d", "--json")[1])["backtest"]["orders"] == 1
    assert json.loads(run("backtest", "fraud", "--persist", "27", "--json")[1])["backtest"]["orders"] == 0
    weekly = json.loads(run("backtest", "fraud", "--no-drift", "--schedule", "0 0 * * *", "--json")[1])
    assert weekly["settings"]["schedule"] == "0 0 * * *"
    assert all(s["trigger"] == "schedule" for s in weekly["backtest"]["steps"] if s["order"])
    status, out, err = run("backtest", "fraud", "--orders")
    assert status == 0
    assert "ORDER" in out
    assert "estimate" in err
    for argv, says in (
        (["--schedule", "nonsense"], "not a schedule"),
        (["--no-drift"], "nothing can ask"),
        (["--when-below", "roc_auc"], "METRIC=NUMBER"),
        (["--when-drops", "nope=0.1"], "unknown metric"),
        (["--cooldown", "soon"], "not a length of time"),
        (["--since", "later"], "not an instant"),
        (["--budget", "-1"], "range"),
    ):
        status, _, err = run("backtest", "fraud", *argv)
        assert status == 1, argv
        assert says in err


def test_the_test_message_arrives_and_shows_no_secret(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "http://127.0.0.1:9/secret-path")
    (project / "definitions.py").write_text(
        DEFINITIONS.replace("retrain=", 'monitor=hf.Monitor(alerts=["env:HOOK"]), retrain=')
    )
    status, out, err = run("monitor", "alerts", "--test")
    assert status == 1
    assert "env:HOOK" in out
    assert "secret-path" not in out + err
