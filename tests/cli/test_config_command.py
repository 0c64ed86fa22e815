"""`holdfast config`, `audit`, `completion`, as a person or a script runs them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys

import pytest

from holdfast.workspace import Workspace


@pytest.fixture
def holdfast(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}

    def run(*arguments, **variables):
        return subprocess.run(
            [sys.executable, "-m", "holdfast.cli.main", *arguments],
            cwd=tmp_path, env={**environment, **variables}, capture_output=True, text=True,
        )  # fmt: skip

    return run


@pytest.fixture
def filled(tmp_path):
    with Workspace.open(tmp_path) as workspace:
        for i in range(3):
            workspace.ledger.append(f"model.{i}", subject=f"m@{i}", body={"i": i}, at=i * 1_000_000, actor="ann")
    return tmp_path


def test_config_shows_values_origins_and_no_secret(holdfast, tmp_path):
    (tmp_path / "holdfast.toml").write_text(
        '[server]\ntoken = "hunter2"\n[ledger]\nurl = "postgresql://a:hunter2@h/d"\n'
    )
    for arguments in (("config",), ("config", "--json")):
        done = holdfast(*arguments, HOLDFAST_SERVE_PORT="9")
        assert done.returncode == 0 and "hunter2" not in done.stdout + done.stderr
    settings = json.loads(done.stdout)["settings"]
    assert settings["serve.port"] == {
        "value": 9, "from": "environment variable HOLDFAST_SERVE_PORT", "variable": "HOLDFAST_SERVE_PORT",
    }  # fmt: skip
    assert settings["server.token"] == {"value": "***", "from": "holdfast.toml:2", "variable": "HOLDFAST_SERVER_TOKEN"}
    assert settings["clock"]["from"] == "default"
    assert not (tmp_path / ".holdfast").exists()


def test_config_of_a_broken_file(holdfast, tmp_path):
    (tmp_path / "holdfast.toml").write_text("[serve]\nprot = 1\n")
    done = holdfast("config", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "HF110"
    assert "holdfast.toml:2" in done.stderr and "serve.port" in done.stderr and "Traceback" not in done.stderr


def test_audit_where_there_is_no_store(holdfast, tmp_path):
    for command in ("verify", "show", "anchor"):
        done = holdfast("audit", command)
        assert done.returncode == 1 and "holdfast init" in done.stderr
    assert os.listdir(tmp_path) == []


def test_audit_show(holdfast, filled):
    shown = json.loads(holdfast("audit", "show", "--json").stdout)
    assert [e["sequence"] for e in shown] == [3, 2, 1]
    shown = json.loads(
        holdfast("audit", "show", "--kind", "model.*", "--since", "1970-01-01T00:00:01Z", "--json").stdout
    )
    assert [e["subject"] for e in shown] == ["m@2", "m@1"]
    done = holdfast("audit", "show", "--since", "soon")
    assert done.returncode == 1 and "not an instant" in done.stderr


def test_audit_finds_a_cut_end_only_past_an_anchor_and_an_edit_always(holdfast, filled):
    anchored = holdfast("audit", "anchor", "--to", "elsewhere").stdout.strip()
    assert json.loads(holdfast("audit", "verify", "--json").stdout) == {
        "entries": 3, "anchors": 1, "sound": True, "log_parts": {"sound": 0, "merged": 0, "open": 0, "segments": 0},
    }  # fmt: skip
    connection = sqlite3.connect(filled / ".holdfast" / "ledger.db")
    connection.execute("DROP TRIGGER ledger_entries_no_delete")
    connection.execute("DELETE FROM ledger_entries WHERE sequence = 3")
    connection.commit()
    done = holdfast("audit", "verify")
    assert done.returncode == 2 and "cut off" in done.stderr
    (filled / ".holdfast" / "anchors.jsonl").unlink()
    assert holdfast("audit", "verify").returncode == 0
    assert holdfast("audit", "verify", "--anchor", anchored).returncode == 2
    assert (filled / "elsewhere").read_text().count("\n") == 1
    connection.execute("DROP TRIGGER ledger_entries_no_update")
    connection.execute("UPDATE ledger_entries SET actor = 'eve' WHERE sequence = 1")
    connection.commit()
    done = holdfast("audit", "verify")
    assert done.returncode == 2 and "entry 1 was edited" in done.stderr


def test_audit_of_wrong_anchors(holdfast, filled):
    done = holdfast("audit", "verify", "--anchor", "3")
    assert done.returncode == 1 and "SEQUENCE:HASH" in done.stderr
    assert holdfast("audit", "verify", "--anchor", "2:" + "0" * 64).returncode == 2
    assert holdfast("audit", "anchor").returncode == 0
    anchors = filled / ".holdfast" / "anchors.jsonl"
    anchors.write_text(anchors.read_text() + '{"sequence": 9')
    done = holdfast("audit", "verify")
    assert done.returncode == 0 and "not whole" in done.stderr
    anchors.write_text("nonsense\n" + anchors.read_text())
    assert holdfast("audit", "verify").returncode == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(holdfast, shell):
    done = holdfast("completion", shell)
    assert done.returncode == 0 and "_HOLDFAST_COMPLETE" in done.stdout


def test_completion_for_an_unknown_shell(holdfast):
    assert holdfast("completion", SHELL="/bin/ksh").returncode == 1
    assert holdfast("completion", "ksh").returncode == 1
