"""Many small files, several processes: the same results in the same order, whatever becomes of a process."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.data.conftest import content

from holdfast.core.errors import BadInput, Damaged, NotFound
from holdfast.data import cache as caches
from holdfast.data import crew, hashing, repository, snapshot, status, transfer, twin
from holdfast.data.repository import Repository


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Processes for everything but the very few; those that were started."""
    made: list[Any] = []
    start = crew._Hand

    def noted(job: Any) -> Any:
        made.append(start(job))
        return made[-1]

    monkeypatch.setattr(crew, "MANY", 2 * hashing.GROUP)
    monkeypatch.setattr(crew, "_Hand", noted)
    monkeypatch.setattr(twin, "processors", lambda: 3)
    yield made
    assert all(hand._process is None for hand in made), "one was left behind"


def files(folder: Path, count: int) -> list[str]:
    for at in range(count):
        (folder / f"{at}").write_bytes(b"%d" % at * (at % 7))
    return [str(folder / f"{at}") for at in range(count)]


def test_files_are_named_as_one_process_names_them(tmp_path: Path, hands: list[Any]) -> None:
    paths = files(tmp_path, 20 * hashing.GROUP)
    assert list(crew.in_processes(hashing.named, paths)) == [hashing.named(path) for path in paths]
    assert len(hands) == 2


def test_what_a_dead_process_had_is_done_here(tmp_path: Path, hands: list[Any]) -> None:
    paths = files(tmp_path, 20 * hashing.GROUP)
    results = iter(crew.in_processes(hashing.named, paths))
    first = next(results)
    for hand in hands:
        os.kill(hand._process.pid, signal.SIGKILL)
    assert [first, *results] == [hashing.named(path) for path in paths]
    assert len(hands) == 2


def test_an_error_in_a_process_is_raised_here(tmp_path: Path, hands: list[Any]) -> None:
    paths = files(tmp_path, 10 * hashing.GROUP)
    os.unlink(paths[-1])
    os.mkfifo(paths[-1])
    with pytest.raises(BadInput, match="not a regular file"):
        list(crew.in_processes(hashing.named, paths))


def test_who_stops_taking_ends_the_processes(tmp_path: Path, hands: list[Any]) -> None:
    paths = files(tmp_path, 40 * hashing.GROUP)
    before = threading.active_count()
    results = iter(crew.in_processes(hashing.named, paths))
    next(results)
    pids = [hand._process.pid for hand in hands]
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_few_files_start_no_process(tmp_path: Path, hands: list[Any]) -> None:
    assert len(list(crew.in_processes(hashing.named, files(tmp_path, hashing.GROUP), turns=True))) == hashing.GROUP
    assert not hands


@pytest.mark.parametrize("count", [0, 1, crew.SAMPLE, 3 * hashing.GROUP + 1])
def test_work_that_does_not_wait_is_done_in_turn(count: int) -> None:
    names: set[str] = set()

    def work(item: int) -> int:
        names.add(threading.current_thread().name)
        return item * item

    assert list(crew.in_processes(work, range(count), turns=True)) == [item * item for item in range(count)]
    assert len(names) == min(count, 1) or count > crew.SAMPLE  # a busy machine may look like a disk


def test_work_that_waits_is_spread_over_threads() -> None:
    names: set[str] = set()

    def work(item: int) -> int:
        names.add(threading.current_thread().name)
        time.sleep(0.0002)
        return -item

    count = 3 * hashing.GROUP + 1
    assert list(crew.in_processes(work, range(count), turns=True)) == [-item for item in range(count)]
    assert len(names) > 1


@pytest.mark.parametrize("wrong", [3, hashing.GROUP + 3])
def test_in_turn_the_first_error_ends_it_too(wrong: int) -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == wrong:
            raise ValueError("no")
        return item

    items: Sequence[int] = range(crew.MANY - 1)
    with pytest.raises(ValueError, match="no"):
        list(crew.in_processes(work, items, turns=True))
    assert len(begun) < crew.MANY - 1


@pytest.mark.parametrize("kind", ["copy", "hardlink", "symlink"])
def test_a_folder_goes_round_as_with_one_process(
    repo: Repository, kind: str, hands: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (repo.root / ".dvc" / "config").open("a") as config:
        config.write(f"[cache]\n    type = {kind}\n")
    mine = repository.open_at(repo.root)
    (repo.root / "data").mkdir()
    files(repo.root / "data", 5 * hashing.GROUP)
    before = content(repo.root / "data")
    monkeypatch.setattr(crew, "MANY", 1 << 30)
    alone = snapshot.identify(repo.root / "data")
    monkeypatch.setattr(crew, "MANY", hashing.GROUP)
    assert snapshot.add(repo.root, Path("data")).md5 == alone.md5
    transfer.push(mine)
    for folder in (repo.cache, repo.root / "data"):
        shutil.rmtree(folder)
    moved, done = transfer.pull(mine)
    assert (moved.objects, done.files) == (len(set(before.values())) + 1, len(before))
    assert content(repo.root / "data") == before and status.outs(mine) == []
    assert not os.listdir(repo.cache / "holdfast-tmp") and len(hands) >= 4
    linked = repo.root / "data" / "1"
    assert (linked.is_symlink(), linked.stat().st_nlink) == (kind == "symlink", 2 if kind == "hardlink" else 1)


def test_a_damaged_object_is_found_and_nothing_half_done_stays(repo: Repository, hands: list[Any]) -> None:
    (repo.root / "data").mkdir()
    for at in range(5 * hashing.GROUP):
        (repo.root / "data" / f"{at}").write_bytes(b"%d" % at)
    snapshot.add(repo.root, Path("data"))
    transfer.push(repo)
    far = caches.Cache(repo.root.parent / "store")
    damaged = Path(far.path(hashing.md5_of(b"500")))
    damaged.chmod(0o644)
    damaged.write_bytes(b"501")
    shutil.rmtree(repo.cache)
    with pytest.raises(Damaged, match=hashing.md5_of(b"500")):
        transfer.fetch(repo)
    assert not caches.of(repo).has(hashing.md5_of(b"500")) and not os.listdir(repo.cache / "holdfast-tmp")
    damaged.unlink()
    with pytest.raises(NotFound, match=r"data/500 \(cee63112\)"):
        transfer.fetch(repo)
    damaged.write_bytes(b"500")
    transfer.fetch(repo)
    assert caches.of(repo).has(hashing.md5_of(b"500"))


def test_what_a_hand_made_before_it_died_is_made_anew(repo: Repository) -> None:
    (repo.root / "a").write_bytes(b"a")
    cache = caches.of(repo)
    item = (str(repo.root / "a"), cache.temporary(), str(cache.root))
    first = caches.taken(item)
    os.chmod(item[1], 0o600)
    Path(item[1]).write_bytes(b"half")
    os.chmod(item[1], 0o444)
    assert caches.taken(item) == first
    assert Path(item[1]).read_bytes() == b"a" and os.stat(item[1]).st_mode & 0o777 == 0o444
