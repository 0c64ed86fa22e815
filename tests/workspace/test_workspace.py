"""The workspace: settings become live ports; keys, paths, clocks."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from holdfast.backends.clock import ReplayClock, SystemClock
from holdfast.core.errors import BadInput, Damaged, NotFound
from holdfast.workspace import Workspace


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith("HOLDFAST_") and n != "HOLDFAST_REQUIRE_SERVICES"]:
        monkeypatch.delenv(name)
    (tmp_path / "holdfast.toml").write_text("")
    return tmp_path


def test_open_finds_the_project_from_below(project):
    (project / "a" / "b").mkdir(parents=True)
    with Workspace.open(project / "a" / "b") as workspace:
        assert workspace.root == project
        assert workspace.home == project / ".holdfast"
        assert (project / ".holdfast" / ".gitignore").read_text() == "*\n"


def test_open_without_create_makes_nothing(project):
    with pytest.raises(NotFound):
        Workspace.open(project, create=False)
    assert not (project / ".holdfast").exists()


def test_opening_loads_no_backend(project):
    code = (
        "import sys; from holdfast.workspace import Workspace; Workspace.open().path('x');"
        "print([m for m in sys.modules if m.startswith('holdfast.backends')])"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_ports_are_opened_once_and_where_the_settings_say(project):
    (project / "holdfast.toml").write_text('[ledger]\nurl = "sqlite:///store/l.db"\n[objects]\nurl = "blobs"\n')
    with Workspace.open(project) as workspace:
        assert workspace.ledger is workspace.ledger
        workspace.ledger.append("k", subject="s", body={}, at=1)
        name = workspace.objects.put(b"x")
    assert (project / "store" / "l.db").is_file()
    assert (project / "blobs" / name[:2] / name[2:]).is_file()
    with Workspace.open(project, overrides={"objects.url": f"file://{project}/other"}) as workspace:
        workspace.objects.put(b"x")
        assert len(workspace.ledger.read()) == 1
    assert (project / "other").is_dir()


def test_closing_twice_and_opening_again(project):
    workspace = Workspace.open(project)
    workspace.ledger.append("k", subject="s", body={}, at=1)
    workspace.close()
    workspace.close()
    assert len(workspace.ledger.read()) == 1
    workspace.close()


def test_a_key_is_made_once_and_for_the_owner_only(project):
    with Workspace.open(project) as workspace:
        key = workspace.secret("releases")
        assert len(key) == 32 and workspace.secret("releases") == key != workspace.secret("packages")
        path = workspace.home / "keys" / "releases"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert sorted(os.listdir(path.parent)) == ["packages", "releases"]
        with pytest.raises(BadInput):
            workspace.secret("../x")
        path.chmod(0o600)
        path.write_bytes(b"short")
        with pytest.raises(Damaged):
            workspace.secret("releases")


def test_processes_that_race_for_a_key_agree(project):
    Workspace.open(project)
    code = "from holdfast.workspace import Workspace; print(Workspace.open().secret('k').hex())"
    racing = [subprocess.Popen([sys.executable, "-c", code], cwd=project, stdout=subprocess.PIPE) for _ in range(6)]
    assert len({p.communicate()[0] for p in racing}) == 1


def test_actor(project, monkeypatch):
    with Workspace.open(project) as workspace:
        assert "@" in workspace.actor
    monkeypatch.setenv("HOLDFAST_ACTOR", "ci")
    with Workspace.open(project) as workspace:
        assert workspace.actor == "ci"


def test_clocks(project):
    with Workspace.open(project) as workspace:
        assert isinstance(workspace.clock, SystemClock)
        assert abs(workspace.clock.now() - __import__("time").time() * 1e6) < 60e6
    (project / "holdfast.toml").write_text('clock = "replay"')
    with Workspace.open(project) as workspace:
        clock = workspace.clock
        assert isinstance(clock, ReplayClock)
        with pytest.raises(NotFound):
            clock.now()
        clock.set(123)
        assert clock.now() == 123
        with Workspace.open(project) as other:
            other.clock.set(5)
        assert clock.now() == 5
        (workspace.home / "clock").write_text("noon")
        with pytest.raises(BadInput):
            clock.now()


def test_a_missing_folder():
    with pytest.raises(NotFound):
        Workspace.open(__import__("pathlib").Path("/no/such/folder"))
