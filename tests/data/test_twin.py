"""A copy of the process does a part of the work: the same results, and whatever becomes of the copy, no harm."""

from __future__ import annotations

import marshal
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data.conftest import fill

from holdfast.core.errors import NotFound
from holdfast.data import tree, twin

linux = pytest.mark.skipif(sys.platform != "linux", reason="copies are only made on Linux")


def alone(code: str, where: Path) -> str:
    """What a process prints that has one thread, as a command has. A test's own may have several."""
    start = (
        "import os, sys\nfrom pathlib import Path\nfrom holdfast.data import tree, twin\ntwin.processors = lambda: 2\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start + code], cwd=where, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@linux
def test_a_job_is_done_by_a_copy_that_leaves_nothing_behind(tmp_path: Path) -> None:
    code = """
sys.stdout.write("once ")  # not flushed yet: a copy must not print it as well
before = os.listdir("/proc/self/fd")
kept = [1, 2]
result = twin.begin(lambda: (os.getpid(), [*kept, 3], "ä"))
kept.append("later")
pid, values, text = result()
print(pid != os.getpid(), values, text, os.listdir("/proc/self/fd") == before)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("nobody left")
"""
    assert alone(code, tmp_path) == "once True [1, 2, 3] ä True\nnobody left\n"


@linux
@pytest.mark.parametrize(
    "job",
    [
        "lambda: 1 / 0",
        "lambda: os.kill(os.getpid(), 9)",
        "lambda: sys.exit(3)",
        "lambda: object()",
        "lambda: os.abort()",
    ],
)
def test_a_job_that_ends_badly_has_no_result_and_says_nothing(job: str, tmp_path: Path) -> None:
    assert alone(f"print(twin.begin({job})())", tmp_path) == "None\n"


@linux
def test_a_large_result_comes_whole(tmp_path: Path) -> None:
    assert alone("print(len(twin.begin(lambda: bytes(5_000_000))()))", tmp_path) == "5000000\n"


@linux
def test_no_copy_of_a_process_with_several_threads_or_one_processor(tmp_path: Path) -> None:
    code = """
import threading
twin.processors = lambda: 1
print(twin.begin(lambda: 1))
twin.processors = lambda: 2
end = threading.Event()
thread = threading.Thread(target=end.wait)
thread.start()
print(twin.begin(lambda: 1))
end.set()
thread.join()
while len(os.listdir("/proc/self/task")) > 1:
    pass  # the system takes a moment to see that it has ended
print(twin.begin(lambda: 1)())
"""
    assert alone(code, tmp_path) == "None\nNone\n1\n"


# --- the walk in halves -----------------------------------------------------------------------------------------------


def at_once(job: Callable[[], Any]) -> Callable[[], Any]:
    """A stand-in for the copy: what it sees, it sees now."""
    try:
        found = marshal.loads(marshal.dumps(job()))
    except Exception:  # as the copy, which then has no result
        found = None
    return lambda: found


def world(folder: Path, seed: int) -> int:
    """Folders, files, links, hidden names, folders that are passed over. How many files count."""
    rng = random.Random(seed)
    folders = [""]
    for at in range(rng.randrange(1, 9)):
        folders.append(f"{rng.choice(folders)}{rng.choice(['d', '.d', 'ä', ' '])}{at}/")
        (folder / folders[-1]).mkdir()
    for at in range(rng.randrange(0, 40)):
        place = folder / f"{rng.choice(folders)}{rng.choice(['f', '.f', 'ö'])}{at}"
        if rng.random() < 0.1:
            place.symlink_to(sys.executable)
        elif rng.random() < 0.1:
            place.symlink_to(folder)  # to a folder: passed over
        else:
            place.write_bytes(bytes(rng.randrange(5)))
    if rng.random() < 0.3:
        fill(
            folder, {".git/a": b"x", f"{rng.choice(folders)}sub/.dvc/config": b"", f"{rng.choice(folders)}sub/b": b"x"}
        )
    return len(tree.listing(folder).paths)


def same(one: tree.Listing, other: tree.Listing) -> bool:
    return (one.paths, one.stats, one.links) == (other.paths, other.stats, other.links)


@pytest.mark.parametrize("seed", range(60))
def test_two_halves_are_the_whole(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = world(tmp_path, seed)
    whole = tree.listing(tmp_path)
    monkeypatch.setattr(tree, "MANY", 1)
    monkeypatch.setattr(twin, "begin", at_once)
    for expected in {1, 2, 3, count, count + 5, 2 * count, 3 * count} - {0}:
        assert same(tree.listing(tmp_path, expected=expected), whole), expected


@pytest.mark.parametrize("change", ["added early", "added late", "removed early", "removed late", "renamed"])
def test_a_folder_that_changes_between_the_two_looks(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, {f"{at // 10}/{at}": b"x" for at in range(40)})
    paths = tree.listing(tmp_path).paths
    early, late = tmp_path / paths[2], tmp_path / paths[-3]

    def changed(job: Callable[[], Any]) -> Callable[[], Any]:
        result = at_once(job)
        if change == "added early":
            early.with_name("new").write_bytes(b"y")
        elif change == "added late":
            late.with_name("new").write_bytes(b"y")
        elif change == "removed early":
            early.unlink()
        elif change == "removed late":
            late.unlink()
        else:
            late.rename(late.with_name("other"))
        return result

    monkeypatch.setattr(tree, "MANY", 1)
    monkeypatch.setattr(twin, "begin", changed)
    found = tree.listing(tmp_path, expected=40)
    assert same(found, tree.listing(tmp_path))


def test_what_cannot_be_tracked_is_named_by_whoever_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {f"{at}/{at}": b"x" for at in range(9)})
    monkeypatch.setattr(tree, "MANY", 1)
    monkeypatch.setattr(twin, "begin", at_once)
    (tmp_path / "7" / "link").symlink_to("nowhere")
    with pytest.raises(NotFound, match="7/link is a broken link"):
        tree.listing(tmp_path, expected=9)


@linux
def test_a_real_copy_takes_the_second_half(tmp_path: Path) -> None:
    fill(tmp_path, {f"data/{at % 20}/{at}": b"x" * (at % 5) for at in range(3000)})
    code = """
begun = []
begin = twin.begin
def noted(job):
    begun.append(begin(job))
    return begun[-1]
twin.begin = noted
asked = []
walk = tree._walk
def walked(folder, ignore, part):
    asked.append(part)
    return walk(folder, ignore, part)
tree._walk = walked
halves = tree.listing(Path("data"), expected=3000)
whole = tree.listing(Path("data"))
print(len(begun), begun[0] is not None, asked[0], halves.paths == whole.paths, halves.stats == whole.stats, len(whole.paths))
"""
    assert alone(code, tmp_path) == "1 True range(0, 1500) True True 3000\n"
    assert os.listdir(tmp_path) == ["data"]
