"""`holdfast run` and `holdfast reproduce`, with scripts that speak MLflow's protocol by plain HTTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

CLIENT = """
import json, os, random, sys, urllib.request
def call(path, body, method="POST"):
    request = urllib.request.Request(os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/" + path, method=method,
        data=body if isinstance(body, bytes) else json.dumps(body).encode(),
        headers={"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"], "Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=60).read()
run = os.environ["MLFLOW_RUN_ID"]
"""
TRAIN = (
    CLIENT
    + """
random.seed(int(os.environ["HOLDFAST_SEED"]))
call("mlflow/runs/log-parameter", {"run_id": run, "key": "rate", "value": "0.1"})
for step in range(5):
    call("mlflow/runs/log-metric", {"run_id": run, "key": "loss", "value": random.random(), "timestamp": step, "step": step})
call(f"mlflow-artifacts/artifacts/0/{run}/artifacts/model.txt", open("weights.txt", "rb").read(), "PUT")
"""
)


@pytest.fixture
def environment(tmp_path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HOLDFAST_", "MLFLOW_"))}
    who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {**kept, **who, "GIT_CONFIG_GLOBAL": "/dev/null"}


@pytest.fixture
def project(tmp_path, environment):
    root = tmp_path / "project"
    root.mkdir()
    (root / "train.py").write_text(TRAIN)
    (root / "weights.txt").write_text("weights")
    (root / "holdfast.toml").write_text("")
    (root / ".gitignore").write_text(".holdfast/\n__pycache__/\n")
    for arguments in (("init", "-q"), ("add", "."), ("commit", "-qm", "first")):
        subprocess.run(["git", *arguments], cwd=root, env=environment, check=True)
    return root


@pytest.fixture
def holdfast(project, environment):
    def run(*arguments, **variables):
        return subprocess.run(
            [sys.executable, "-m", "holdfast.cli.main", *arguments],
            cwd=project, env={**environment, **variables}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    return run


def stored(project, run_id):
    from holdfast.workspace import Workspace

    with Workspace.open(project) as workspace:
        return workspace.runs.get_run(run_id), [p.value for p in workspace.runs.metric_history(run_id, "loss")[0]]


def test_a_script_is_tracked_and_can_be_done_again(holdfast, project):
    (project / "weights.txt").write_text("changed after the commit")
    done = holdfast("run", "--seed", "5", "--json", "--", sys.executable, "train.py")
    assert done.returncode == 0, done.stderr
    run_id = json.loads(done.stdout)["run_id"]
    run, losses = stored(project, run_id)
    assert run.status == "FINISHED" and run.params == {"rate": "0.1"} and len(losses) == 5
    code = json.loads(run.tags["holdfast.code"])
    assert code["dirty"] and len(code["commit"]) == 40 and code["diff_sha256"]
    assert run.tags["holdfast.seed"] == "5" and run.tags["holdfast.exit_status"] == "0"
    assert json.loads(run.tags["holdfast.command"])[1] == "train.py"
    assert os.listdir(project / ".holdfast" / "spool") == []

    (project / "train.py").write_text("raise SystemExit('the working files are not used')")
    again = holdfast("reproduce", run_id, "--json")
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert summary["same"] and summary["digest"]["then"] == summary["digest"]["now"] and not summary["differences"]


def test_what_differs_is_named(holdfast, project):
    (project / "train.py").write_text(TRAIN + "call('mlflow/runs/set-tag', {'run_id': run, 'key': 'x', 'value': 'y'})\n"
        "call('mlflow/runs/log-metric', {'run_id': run, 'key': 'pid', 'value': os.getpid(), 'timestamp': 1})\n")  # fmt: skip
    run_id = json.loads(holdfast("run", "--seed", "5", "--json", "--", sys.executable, "train.py").stdout)["run_id"]
    again = holdfast("reproduce", run_id, "--json")
    assert again.returncode == 1, again.stderr
    assert [d["what"] for d in json.loads(again.stdout)["differences"]] == ["metric pid"]


def test_a_script_that_fails(holdfast, project):
    done = holdfast("run", "--json", "--", sys.executable, "-c", "raise SystemExit(7)")
    summary = json.loads(done.stdout)
    assert done.returncode == 1 and summary["exit_status"] == 7
    assert stored(project, summary["run_id"])[0].status == "FAILED"


def test_a_server_that_is_away_does_not_stop_training_and_gets_everything_later(holdfast, project):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    away = {"HOLDFAST_SERVER_URL": f"http://127.0.0.1:{port}"}
    done = holdfast("run", "--seed", "5", "--wait", "0", "--json", "--", sys.executable, "train.py", **away)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["waiting"] > 5 and "--deliver" in done.stderr
    # The same workspace answers as its own server now; any server that gets the calls would do.
    delivered = holdfast("run", "--deliver", "--json")
    assert json.loads(delivered.stdout) == {"waiting": 0}, delivered.stderr
    run, losses = stored(project, summary["run_id"])
    assert run.status == "FINISHED" and run.params == {"rate": "0.1"} and len(losses) == 5
    assert json.loads(holdfast("run", "--deliver", "--json").stdout) == {"waiting": 0}
    assert len(stored(project, summary["run_id"])[1]) == 5


def test_bad_input(holdfast, project):
    done = holdfast("run", "--", "no-such-program")
    assert done.returncode == 1 and "no-such-program" in done.stderr
    for arguments, words in (
        (("run",), "no command"),
        (("reproduce", "nope"), "not found"),
        (("run", "--seed", "-1", "--", "true"), "seed"),
    ):
        done = holdfast(*arguments)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def artifact(project, run_id, path):
    from holdfast.workspace import Workspace

    with Workspace.open(project) as workspace:
        run = workspace.runs.get_run(run_id)
        found = workspace.runs.get_artifact(f"{run.artifact_uri.removeprefix('mlflow-artifacts:/')}/{path}")
        assert found is not None
        return json.loads(workspace.objects.fetch(found.sha256).read_bytes())


READER = """
import os, pathlib, subprocess, sys, tempfile
open("data/tracked.csv").read()
pathlib.Path("loose.csv").read_text()
open("weights.txt").read()
open("made.txt", "w").write("x"); open("made.txt").read()
with tempfile.NamedTemporaryFile("w+") as f:
    f.write("x"); f.flush(); open(f.name).read()
subprocess.run([sys.executable, "-c", "open('data/child.csv').read()"], check=True)
import pyarrow.parquet as pq
pq.read_table("table.parquet")
"""


def test_the_files_that_were_read_are_bound_to_the_run_and_put_back(holdfast, project):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (project / "data").mkdir()
    for name in ("tracked", "child", "never"):
        (project / "data" / f"{name}.csv").write_text(f"a,b\n1,{name}\n")
    pq.write_table(pa.table({"a": [1]}), project / "table.parquet")
    assert holdfast("data", "add", "data").returncode == 0
    (project / "loose.csv").write_text("a\n1\n")
    (project / "read.py").write_text(READER)
    (project / ".gitignore").write_text(".holdfast/\n/data\n/loose.csv\n/table.parquet\n")
    done = holdfast("run", "--json", "--", sys.executable, "read.py")
    assert done.returncode == 0, done.stderr
    run_id = json.loads(done.stdout)["run_id"]
    reads = {r["path"]: r for r in artifact(project, run_id, "holdfast/reads.json")}
    assert set(reads) == {"data/tracked.csv", "data/child.csv", "loose.csv", "weights.txt", "table.parquet"}
    assert [reads[p]["how"] for p in ("data/tracked.csv", "weights.txt")] == ["tracked", "git"]
    assert all(r["md5"] and r["sha256"] for r in reads.values())
    assert "loose.csv was read and was not tracked" in done.stderr
    run, _ = stored(project, run_id)
    assert {d.name for d in run.datasets} == {"data", "loose.csv", "table.parquet"}
    # What was read is put back by its hash, whatever lies there now.
    (project / "loose.csv").write_text("other")
    (project / "table.parquet").unlink()
    again = holdfast("reproduce", run_id, "--json")
    summary = json.loads(again.stdout)
    assert again.returncode == 0 and summary["same"] and summary["causes"] == [], again.stderr
    remade = {r["path"]: r["sha256"] for r in artifact(project, summary["again"], "holdfast/reads.json")}
    assert remade == {p: r["sha256"] for p, r in reads.items()}


DRAWS = (
    CLIENT
    + """
import numpy as np
draws = {"random": random.random(), "numpy": float(np.random.random()), "hash": float(hash("x") % 1000)}
for key, value in draws.items():
    call("mlflow/runs/log-metric", {"run_id": run, "key": key, "value": value, "timestamp": 1})
"""
)


def test_what_draws_at_random_is_seeded_before_the_script_runs(holdfast, project):
    (project / "draw.py").write_text(DRAWS)
    drawn = {}
    for seed in ("7", None):
        given = ["--seed", seed] if seed else []
        done = holdfast("run", *given, "--json", "--", sys.executable, "draw.py")
        run, _ = stored(project, json.loads(done.stdout)["run_id"])
        assert run.tags["holdfast.seeded"] == "PYTHONHASHSEED, numpy, random"
        values = {m.key: m.value for m in run.metrics}
        assert drawn.setdefault(run.tags["holdfast.seed"], values) == values
    # A seed that nobody chose was drawn, and recorded.
    assert len(drawn) == 2 and len({v["numpy"] for v in drawn.values()}) == 2
    again = holdfast("reproduce", run.run_id, "--json")
    assert json.loads(again.stdout)["same"], again.stderr


FAKE_IPYTHON = """
import asyncio
class Result:
    def __init__(self, count, success): self.execution_count, self.success = count, success
class InteractiveShell:
    async def run_cell_async(self, raw_cell, count=None, silent=False):
        try: exec(raw_cell, {})
        except Exception: return Result(count, False)
        return Result(count, True)
    def run(self, count, source): return asyncio.run(self.run_cell_async(source, count=count))
"""


def test_notebook_cells_are_kept_in_the_order_they_ran(holdfast, project):
    package = project / "IPython" / "core"
    package.mkdir(parents=True)
    (project / "IPython" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "interactiveshell.py").write_text(FAKE_IPYTHON)
    (project / "notebook.py").write_text(
        "from IPython.core.interactiveshell import InteractiveShell\nshell = InteractiveShell()\n"
        "shell.run(2, 'x = 2')\nshell.run(1, 'x = 1')\nshell.run(3, '1 / 0')\n"
    )
    done = holdfast("run", "--json", "--", sys.executable, "notebook.py")
    run_id = json.loads(done.stdout)["run_id"]
    cells = artifact(project, run_id, "holdfast/cells.json")
    assert cells == [
        {"count": 2, "source": "x = 2", "ok": True},
        {"count": 1, "source": "x = 1", "ok": True},
        {"count": 3, "source": "1 / 0", "ok": False},
    ]
    assert stored(project, run_id)[0].tags["holdfast.cells"] == "3"


def test_a_sitecustomize_of_the_users_own_still_runs(holdfast, project, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text("import builtins\nbuiltins.own_was_here = 1\n")
    (project / "own.py").write_text(
        "import sys, sitecustomize\nassert own_was_here and 'own' in sitecustomize.__file__\n"
        "assert not any('observer' in p for p in sys.path)\n"
    )
    done = holdfast("run", "--", sys.executable, "own.py", PYTHONPATH=str(tmp_path / "own"))
    assert done.returncode == 0, done.stderr
