"""``holdfast data``: every moving command as a person types it, with its words, its JSON, and its refusals."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.data.conftest import GIT, commit, content, fill, git

from holdfast.cli.main import main
from holdfast.data import repository

Call = Callable[..., str]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with a remote, entered."""
    folder = tmp_path / "work"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    repository.initialise(folder)
    (folder / ".dvc" / "config").write_text("[core]\n    remote = r\n['remote \"r\"']\n    url = ../../store\n")
    monkeypatch.chdir(folder)
    for key, value in GIT.items():
        monkeypatch.setenv(key, value)
    return folder


@pytest.fixture
def data(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls ``holdfast data …``; what it printed. With a status other than 0 also what it told on stderr, and a mend."""

    def call(*words: str, status: int = 0, at: str = ".") -> str:
        monkeypatch.chdir(root / at)
        monkeypatch.setattr("sys.argv", ["holdfast", "data", *words])
        with pytest.raises(SystemExit) as left:
            main(["data", *words])
        said = capsys.readouterr()
        assert left.value.code == status, (words, left.value.code, said)
        assert "Traceback" not in said.err + said.out
        return said.out if not status else said.out + said.err

    return call


def refused(data: Call, *words: str, says: str) -> None:
    told = data(*words, status=1)
    assert says in told and ("hint:" in told or "Try '" in told), told


def tables(root: Path) -> None:
    pl.DataFrame({"id": range(300), "v": [float(i % 9) for i in range(300)]}).write_parquet(root / "t.parquet")


def test_push_fetch_pull_checkout(root: Path, data: Call) -> None:
    fill(root, {"d/a": b"a", "d/sub/b": b"b", "one": b"1"})
    data("add", "d", "one")
    assert data("status", "-c") == "".join(f"{name}: new: push it\n" for name in ("d", "d/a", "d/sub/b", "one"))
    assert data("push") == "4 objects pushed, 0 were there\n"
    assert data("status", "--cloud") == "Cache and remote hold the same.\n"
    assert json.loads(data("push", "--verify", "--json"))["already"] == 4
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(root / "d")
    assert json.loads(data("status", "-r", "r", "one", "--json")) == {"one": "deleted"}
    refused(data, "status", "-r", "other", says="other")
    assert data("pull", "d/sub/b").startswith("2 objects fetched, 1 files placed")
    assert content(root / "d") == {"sub/b": b"b"}
    assert json.loads(data("fetch", "--json"))["objects"] == 2
    data("checkout")
    assert content(root / "d") == {"a": b"a", "sub/b": b"b"}
    assert data("status") == "Data is as its pointers say.\n"
    (root / "d" / "a").write_bytes(b"mine")
    assert data("status", "--files") == "d.dvc: d: modified\n    ~ a\n"
    refused(data, "checkout", says="would be lost")
    data("checkout", "--force", at="d")
    refused(data, "pull", "nothing", says="not tracked")
    refused(data, "push", "-r", "other", says="unknown remote 'other'")


def test_one_file_of_a_folder_and_the_end_of_tracking(root: Path, data: Call) -> None:
    fill(root, {"d/a": b"a", "d/b": b"b"})
    data("add", "d")
    data("push")
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(root / "d")
    fill(root, {"d/c": b"ccc"})
    assert json.loads(data("add", "d/c", "--json"))[0]["files"] == 3
    assert "1 files dropped" in data("remove", "d/b")
    data("push")
    data("pull")
    assert content(root / "d") == {"a": b"a", "c": b"ccc"}
    assert data("remove", "d.dvc") == "d.dvc removed\n"
    assert content(root / "d") and not (root / "d.dvc").exists()
    refused(data, "remove", "d", says="no pointer")
    refused(data, "remove", says="Missing argument")


def test_import_import_url_update(root: Path, data: Call, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    git(source, "init", "-q", "-b", "main")
    fill(source, {"plain/x": b"x"})
    commit(source, "one")
    assert data("import", "../source", "plain").startswith("plain: ")
    assert json.loads(data("import-url", "../source/plain/x", "y", "--json"))["files"] is None
    fill(source, {"plain/x": b"second"})
    commit(source, "two")
    assert data("update", "--dry-run") == "plain: update available\ny: update available\n"
    assert [one["changed"] for one in json.loads(data("update", "--json"))] == [True, True]
    assert (root / "y").read_bytes() == (root / "plain" / "x").read_bytes() == b"second"
    assert "unchanged" in data("update")
    refused(data, "import", "../source", "gone", says="no 'gone'")
    refused(data, "import", "../source", "plain", says="there already")
    refused(data, "import-url", "../gone", says="does not exist")
    fill(root, {"own": b"o"})
    data("add", "own")
    refused(data, "update", "own", says="no import")


def test_gc_names_who_needs_what(root: Path, data: Call) -> None:
    fill(root, {"x": b"one"})
    first = json.loads(data("add", "x", "--json"))[0]["md5"]
    commit(root, "one")
    git(root, "tag", "v1")
    fill(root, {"x": b"two"})
    second = json.loads(data("add", "x", "--json"))[0]["md5"]
    fill(root, {"x": b"three"})
    data("add", "x")
    refused(data, "gc", first, says="needed by branch main")
    planned = json.loads(data("gc", "--dry-run", "--json"))
    assert planned["removed"] == [second] and planned["needed_by"]["the workspace (x.dvc)"] == 1
    assert data("gc").startswith("1 objects removed (3 bytes), 2 kept")
    refused(data, "gc", "12345678", says="no version")
    refused(data, "gc", first, "--dry-run", says="--dry-run")
    commit(root, "three")
    git(root, "update-ref", "refs/heads/old", "v1")
    refused(data, "gc", first, says="old")


def test_scrub_tells_and_mends(root: Path, data: Call) -> None:
    fill(root, {"x": b"one"})
    md5 = json.loads(data("add", "x", "--json"))[0]["md5"]
    data("push")
    place = root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    place.chmod(0o644)
    place.write_bytes(b"oNe")
    told = data("scrub", status=1)
    assert f"damaged: {md5}: not mended" in told and "needed by x in the workspace" in told
    assert "mended from" in data("scrub", "--repair")
    assert data("scrub", "--cloud") == "2 objects read, 0 damaged\n"


def test_log_and_diff_of_a_table(root: Path, data: Call) -> None:
    tables(root)
    data("add", "t.parquet")
    commit(root, "first")
    changed = (
        pl.read_parquet(root / "t.parquet").tail(299).with_columns(v=pl.col("v") + (pl.col("id") == 5), w=pl.lit(1))
    )
    changed.write_parquet(root / "t.parquet")
    told = data("diff", "t.parquet")
    assert "rows 300 → 299: 0 added, 1 removed, 1 changed by id" in told and "columns added: w" in told
    data("add", "t.parquet", "--no-check")
    commit(root, "second")
    entries = json.loads(data("log", "t.parquet", "--json"))
    assert [(e["subject"], e["rows"], e["columns"]) for e in entries] == [("second", 299, 3), ("first", 300, 2)]
    assert "second" in data("log", "t.parquet")
    assert json.loads(data("diff", "t.parquet", "HEAD~1", "HEAD", "--json"))["table"]["changed"] == 1
    assert data("diff", "t.parquet") == "the same\n"
    refused(data, "diff", "t.parquet", "--key", "nope", "HEAD~1", says="not a column of both")
    refused(data, "diff", "t.parquet", "nope", says="nope")
    refused(data, "log", "other.parquet", says="no commit tracks")


def test_migrate(root: Path, data: Call) -> None:
    text = b"a\r\n"
    old = hashlib.md5(b"a\n").hexdigest()
    fill(root, {"x.dvc": f"outs:\n- md5: {old}\n  size: 3\n  path: x\n".encode()})
    fill(root / ".dvc" / "cache", {f"{old[:2]}/{old[2:]}": text})
    assert data("migrate", "--dvc-files", "--dry-run") == "1 objects would be migrated, 1 files would be rewritten\n"
    assert data("migrate", "--dvc-files") == "1 objects migrated, 1 files rewritten\n"
    data("checkout")
    assert (root / "x").read_bytes() == text
    gone = "ab" * 16
    fill(root, {"y.dvc": f"outs:\n- md5: {gone}\n  size: 3\n  path: y\n".encode()})
    assert "y.dvc: y: its object is not in the cache" in data("migrate", "--dvc-files", status=1)


def test_stages(root: Path, data: Call) -> None:
    fill(root, {"in": b"in", "dvc.yaml": b"stages:\n  s:\n    cmd: cp in out\n    deps: [in]\n    outs: [out]\n"})
    fill(root, {"sub/dvc.yaml": b"stages:\n  s:\n    cmd: cp ../out o\n    deps: [../out]\n    outs: [o]\n"})
    assert "s: changed outs: out: deleted" in data("status")
    data("repro", "--dry")
    assert not (root / "out").exists()
    data("repro")
    assert (root / "out").exists() and not (root / "sub" / "o").exists()
    data("repro", "-P")
    assert (root / "sub" / "o").read_bytes() == b"in"
    assert data("dag") == "s\nsub/dvc.yaml:s ← s\n"
    assert json.loads(data("dag", "--json")) == {"s": [], "sub/dvc.yaml:s": ["s"]}
    fill(root, {"in": b"other"})
    assert json.loads(data("status", "--json"))["changed"] == {"s": [{"changed deps": {"in": "modified"}}]}
    assert data("status", "sub/o") == "Data is as its pointers say.\n"
    refused(data, "repro", "nope", says="unknown stage")
    fill(root, {"dvc.yaml": b"stages: {s: {cmd: 'exit 4', outs: [z]}}\n"})
    refused(data, "repro", says="status 4")


def test_every_command_helps_and_needs_a_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.cli.data import MOVES

    monkeypatch.chdir(tmp_path)
    needed: dict[str, list[str]] = {
        "log": ["x"], "diff": ["x"], "import": ["u", "p"], "import-url": ["u"], "remove": ["x"],
    }  # fmt: skip

    def call(*words: str) -> tuple[Any, str]:
        monkeypatch.setattr("sys.argv", ["holdfast", *words])
        with pytest.raises(SystemExit) as left:
            main(list(words))
        said = capsys.readouterr()
        return left.value.code, said.out + said.err

    for name in MOVES:
        status, told = call("data", name, "--help")
        assert status == 0 and "Usage: holdfast data" in told
        status, told = call("data", name, *needed.get(name, []))
        assert status == 1 and "no data is tracked" in told and "hint:" in told, (name, told)
    assert os.listdir(tmp_path) == []


def test_no_repository_is_begun_around_a_path_that_lies_elsewhere(root: Path, data: Call) -> None:
    other = root.parent / "elsewhere"
    fill(other, {"x.csv": b"a\n1\n"})
    for words in (("add", str(other / "x.csv")), ("add", "--no-check", "../elsewhere/x.csv")):
        refused(data, *words, says="lies outside")
    assert sorted(p.name for p in other.iterdir()) == ["x.csv"]


@pytest.mark.parametrize("begun", [False, True])
def test_the_top_is_not_tracked_and_nothing_begins_around_it(root: Path, data: Call, begun: bool) -> None:
    fill(root, {"d/a": b"a"})
    if not begun:
        shutil.rmtree(root / ".dvc")
    beside = sorted(root.parent.iterdir())
    for words, at in (((".",), "."), ((str(root),), "."), (("..",), "d")):
        for more in ((), ("--no-check",)):
            told = data("add", *words, *more, status=1, at=at)
            assert "is the top of a repository" in told and "not a git repository" not in told
    assert sorted(root.parent.iterdir()) == beside
    data("add", "d")


def test_there_is_no_history_before_the_first_commit(root: Path, data: Call) -> None:
    fill(root, {"one": b"1"})
    data("add", "one")
    refused(data, "log", "one", says="no commit tracks one")
    commit(root, "first")
    assert "first" in data("log", "one")


def test_a_name_that_is_mistyped_among_others_adds_nothing(root: Path, data: Call) -> None:
    fill(root, {"a": b"1", "b": b"2", "d/x": b"3", "d/y": b"4"})
    refused(data, "add", "a", "nope", "b", says="nope does not exist; nothing was added")
    assert not list(root.glob("[!.]*.dvc"))
    data("add", "d")
    (root / "d" / "y").unlink()
    data("add", "a", "d/y")
    assert "nfiles: 1" in (root / "d.dvc").read_text() and (root / "a.dvc").exists()
