"""Verbs of `holdfast data` without options go a shorter way: it does and says what the usual way does and says."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.data import repository, snapshot

CLEAN = "Data is as its pointers say.\n"
SHORT = "import sys; sys.argv[1:] = {args!r}; from holdfast.cli.start import main; main()"
SPY = """
import os, sys
sys.argv[1:] = {args!r}
def left(status):
    print("click" in sys.modules, status)
    raise SystemExit
os._exit = left
from holdfast.cli.start import main
main()
"""
USUAL = "import sys; sys.argv[1:] = {args!r}; from holdfast.cli.main import main; main()"


def ask(way: str, where: Path, *args: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", way.format(args=list(args or ("data", "status")))]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def root(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    repository.initialise(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(b"one")
    snapshot.add(tmp_path, tmp_path / "data")
    return tmp_path


def _changed(root: Path) -> None:
    (root / "data" / "a").write_bytes(b"other")


def _deleted(root: Path) -> None:
    (root / "data" / "a").unlink()
    (root / "data").rmdir()


def _bad_pointer(root: Path) -> None:
    (root / "data.dvc").write_text("outs: 3\n")


def _bad_config(root: Path) -> None:
    (root / ".dvc" / "config").write_text("[core\n")


def _quarantine(root: Path) -> None:
    folder = root / ".holdfast" / "datasets"
    folder.mkdir(parents=True)
    notice = {"name": "data", "quarantined": [{"path": "aside/a", "why": ["too old"]}]}
    (folder / "data.json").write_text(json.dumps(notice))


def _stage(root: Path) -> None:
    (root / "dvc.yaml").write_text("stages:\n  fit:\n    cmd: 'true'\n    deps: [data]\n")


@pytest.mark.parametrize(
    "spoil", [_changed, _deleted, _bad_pointer, _bad_config, _quarantine, _stage], ids=lambda spoil: spoil.__name__
)
def test_what_is_not_clean_is_said_the_usual_way(root: Path, spoil: object) -> None:
    assert callable(spoil)
    spoil(root)
    said = ask(SHORT, root)
    assert said == ask(USUAL, root)
    assert CLEAN not in said[1]


def _no_remote(root: Path) -> None:
    (root / ".dvc" / "config").write_text("")


def _lost(root: Path) -> None:
    shutil.rmtree(root / ".dvc" / "cache")
    _changed(root)


def _another_version(root: Path) -> None:
    pointer = (root / "data.dvc").read_text()
    _changed(root)
    snapshot.add(root, root / "data")
    (root / "data.dvc").write_text(pointer)


def _table(root: Path) -> None:
    (root / "data" / "table.csv").write_text("a,b\n" + "".join(f"{at},{at * 2}\n" for at in range(50)))


def _bad_table(root: Path) -> None:
    _table(root)
    assert ask(USUAL, root, "data", "add", "data")[0] == 0
    (root / "data" / "table.csv").write_text("a,c\n1,x\n")


def _nothing(root: Path) -> None:
    """As it is."""


@pytest.mark.parametrize(
    ("words", "spoil"),
    [
        (words, spoil)
        for words in ("add data", "add data/a", "add none", "add", "checkout", "checkout data", "push", "fetch", "pull", "pull none")
        for spoil in (_nothing, _changed, _deleted, _another_version, _no_remote, _lost, _bad_pointer)
    ]
    + [("add data", _table), ("add data", _bad_table), ("add new", _nothing), ("add new data", _changed)],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)  # fmt: skip
def test_both_ways_do_and_say_the_same(words: str, spoil: Callable[[Path], None], root: Path, tmp_path: Path) -> None:
    (root / ".dvc" / "config").write_text("[core]\n    remote = r\n['remote \"r\"']\n    url = ../store\n")
    (root / "new").write_bytes(b"new")
    spoil(root)
    outcomes = []
    for way in (SHORT, USUAL):
        place = tmp_path / "worlds" / "way"
        shutil.copytree(root, place, symlinks=True, ignore=shutil.ignore_patterns("worlds", "tmp"))
        said = ask(way, place, "data", *words.split())
        kept = {
            str(file.relative_to(place.parent)): file.read_bytes()
            for file in place.parent.rglob("*")
            if file.is_file() and not {"tmp", ".git"}.intersection(file.relative_to(place).parts)
        }
        outcomes.append((said, kept))
        shutil.rmtree(place.parent)
    assert outcomes[0] == outcomes[1]
    assert "Traceback" not in outcomes[0][0][2] and outcomes[0][0][0] in (0, 1)


@pytest.mark.parametrize("words", ["add data", "status data", "checkout", "push", "fetch", "pull"])
def test_no_verb_loads_the_command_line_library(root: Path, words: str) -> None:
    (root / ".dvc" / "config").write_text("[core]\n    remote = r\n['remote \"r\"']\n    url = ../store\n")
    said = ask(SPY, root, "data", *words.split())
    assert said[1].endswith("False 0\n"), said


def test_an_interrupted_verb_ends_as_the_usual_way(root: Path) -> None:
    code = (
        "import os, signal\nfrom holdfast.data import checkout\n"
        "checkout.checkout = lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)\n"
    )
    said = [ask(code + way, root, "data", "checkout") for way in (SHORT, USUAL)]
    assert said[0] == said[1] == (130, "", "\ninterrupted\n")


def test_versions_are_told_whole_as_json(root: Path) -> None:
    _changed(root)
    status, out, _ = ask(SHORT, root, "data", "add", "data", "--json")
    (version,) = json.loads(out)
    assert status == 0
    assert (version["name"], version["path"], version["files"], version["size"]) == ("data", "data", 1, 5)
    assert version["md5"] in (root / "data.dvc").read_text() and len(version["sha256"]) == 64


def test_clean_data_is_clean_without_the_command_line_library(root: Path) -> None:
    assert ask(SHORT, root) == ask(USUAL, root) == (0, CLEAN, "")
    assert ask(SHORT, root / "data") == (0, CLEAN, "")
    assert ask(SPY, root) == (0, CLEAN + "False 0\n", "")


def test_elsewhere_and_with_options_it_is_the_usual_way(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    nowhere = tmp_path_factory.mktemp("nowhere")
    assert ask(SHORT, nowhere) == ask(USUAL, nowhere)
    assert json.loads(ask(SHORT, root, "data", "status", "--json")[1])["changed"] == {}
    assert ask(SHORT, root, "data", "status", "data")[:2] == (0, CLEAN)
    assert ask(SHORT, root, "data", "statsu")[0] == 1


def test_a_closed_pipe_is_no_traceback(root: Path) -> None:
    command = [sys.executable, "-c", SHORT.format(args=["data", "status"])]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        assert "Traceback" not in child.stderr.read()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize(("words", "status"), [("status", 0), ("add data", 0), ("status none", 1), ("add none", 1)])
def test_without_anybody_to_tell_the_work_is_done(root: Path, words: str, status: int, closed: str) -> None:
    _changed(root)
    command = f"{sys.executable} -c {shlex.quote(SHORT.format(args=['data', *words.split()]))} {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=root, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == status
    assert "Traceback" not in done.stdout + done.stderr and "HF900" not in done.stderr
    assert done.stdout == "" or ">&-" not in closed.replace("2>&-", "")
    assert (ask(USUAL, root)[1] == CLEAN) == (words == "add data")


def test_letters_a_terminal_does_not_have_are_escaped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    for way in (SHORT, USUAL):
        status, out, err = ask(way, root, "data", "add", "data")
        assert (status, err.replace("add data: 100 % a\n", "")) == (0, "")
        assert "\\u2013" in out  # no rows: it is no table


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["dag", "--json"], ["push"]])
@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&- <&-", ">/dev/full", ">/dev/full 2>&1"])
def test_a_closed_or_full_stream_is_no_traceback(root: Path, words: list[str], streams: str) -> None:
    code = SHORT.format(args=["data", *words])
    line = ["sh", "-c", f'exec "$0" -c "$1" {streams}', sys.executable, code]
    done = subprocess.run(line, cwd=root, capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr and "defect" not in done.stderr
    expected = 1 if words == ["push"] or "full" in streams else 0
    assert done.returncode == expected, (done.stdout, done.stderr)
