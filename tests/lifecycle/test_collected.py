"""What containers logged, brought home: each answer once, however often and when a volume is copied; nothing false taken."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from holdfast.cli.main import cli
from holdfast.core.errors import BadInput, NotFound
from holdfast.core.records import LabelRecord
from holdfast.lifecycle import collected, logbook
from holdfast.monitoring.labels import LabelStore
from holdfast.serving import journal, predictions, segments
from holdfast.serving.journal import Journal
from holdfast.workspace import Workspace
from tests.serving.test_journal import batch, write


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    (tmp_path / "home").mkdir()
    with Workspace.open(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """The .holdfast of a container."""
    return tmp_path / "container"


def logged(container: Path, *ids: str, at: int = 10) -> Path:
    """A segment with these predictions, as a replica leaves it."""
    folder = container / "predictions" / "svc"
    before = set(folder.glob("*")) if folder.is_dir() else set()

    async def run() -> None:
        log = Journal(folder, mode="durable")
        for name in ids:  # each in a frame of its own
            assert await log.offer(batch(name, at=at))  # type: ignore[misc]
        await asyncio.to_thread(log.close)

    asyncio.run(run())
    (path,) = set(folder.glob(f"*{segments.SUFFIX}")) - before
    return path


def home(ws: Workspace) -> list[str]:
    return list(journal.read(ws.path("predictions", "svc"))["id"].to_pylist())


def collect(ws: Workspace, *folders: Path) -> tuple[int, int, int, dict[str, str]]:
    return tuple(collected.collect(ws, "svc", folders, at=5))


@pytest.mark.parametrize("below", ["", "predictions", "predictions/svc"])
def test_every_answer_comes_home_once(ws: Workspace, container: Path, tmp_path: Path, below: str) -> None:
    logged(container, "a", "b")
    other = tmp_path / "second"
    logged(other, "c", at=20)
    write(ws.path("predictions", "svc"), batch("own", at=1))
    assert collect(ws, container / below, other / below) == (3, 2, 0, {})
    assert sorted(home(ws)) == ["a", "b", "c", "own"]
    assert collect(ws, container / below, other / below) == (0, 0, 0, {})
    # A third copy of the same volume, elsewhere, holds the same log.
    shutil.copytree(container, tmp_path / "copy")
    assert collect(ws, tmp_path / "copy" / below) == (0, 0, 0, {})
    assert sorted(home(ws)) == ["a", "b", "c", "own"]
    assert len(list((container / "predictions" / "svc").iterdir())) == 1  # nothing was changed or left there
    assert logbook.verify(ws).open == 0 and logbook.verify(ws).sound == 3


def test_a_copy_taken_while_the_replica_writes_is_whole_in_the_end(ws: Workspace, container: Path) -> None:
    """Whatever byte a copy ends at, its whole frames are taken, and a later copy brings the rest; merging between is no
    matter."""
    path = logged(container, "a", "b", "c", "d")
    data = path.read_bytes()
    ends = [end for end, _ in segments.frames(data)]
    assert len(ends) == 5  # the names of the columns, and four answers
    taken = 0
    for cut in [0, 3, ends[0] + 1, ends[1], ends[1] + 9, ends[0], ends[-1] - 1, len(data)]:
        path.write_bytes(data[:cut])
        rows, _, _, problems = collect(ws, container)
        taken += rows
        assert not problems
        assert len(home(ws)) == taken == len(set(home(ws)))
        predictions.merge(ws.path("predictions", "svc"), before_removal=lambda target, sources: None)
    assert sorted(home(ws)) == ["a", "b", "c", "d"]


def test_killed_between_the_part_and_the_ledger_it_is_taken_once(
    ws: Workspace, container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged(container, "a", "b")
    with monkeypatch.context() as broken:
        broken.setattr(type(ws.ledger), "transaction", lambda self: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            collect(ws, container)
    assert sorted(home(ws)) == ["a", "b"]
    collect(ws, container)
    assert sorted(home(ws)) == ["a", "b"] and collect(ws, container) == (0, 0, 0, {})
    assert logbook.verify(ws).sound == 1


def test_what_is_no_log_or_another_services_stays_where_it_is(ws: Workspace, container: Path) -> None:
    good = logged(container, "a")
    rubbish = good.with_name("0rubbish.segment")
    rubbish.write_bytes(b"rubbish, and long enough")
    lying = good.with_name("1lying.segment")
    lying.write_bytes(segments.MAGIC + segments.frame(b"\x93\xa6layout\x01\x80"))
    deep = good.with_name("2deep.segment")
    deep.write_bytes(segments.MAGIC + segments.frame(b"\x91" * 100_000))
    rows, files, _, problems = collect(ws, container)
    assert (rows, files) == (1, 1) and set(problems) == {str(rubbish), str(lying), str(deep)}
    good.rename(container / "predictions" / "svc" / "altered.segment")
    (container / "predictions" / "svc" / "altered.segment").write_bytes(good_with(b"z", container))
    with pytest.raises(NotFound, match="no predictions of 'other'"):
        collected.collect(ws, "other", [container], at=5)
    (container / "predictions" / "svc").rename(container / "predictions" / "other")
    _, _, _, problems = collected.collect(ws, "other", [container], at=5)
    assert any("'svc'" in said for said in problems.values())


def good_with(name: bytes, container: Path) -> bytes:
    path = logged(container, name.decode())
    data = path.read_bytes()
    path.unlink()
    return data


def test_a_log_that_changed_behind_what_was_read_is_told(ws: Workspace, container: Path) -> None:
    path = logged(container, "a")
    collect(ws, container)
    path.write_bytes(good_with(b"z", container))
    assert "collected before" in collect(ws, container)[3][str(path)]
    assert home(ws) == ["a"]


def test_labels_come_home_and_the_newest_counts(ws: Workspace, container: Path) -> None:
    logged(container, "a", "b")
    theirs, ours = LabelStore(container / "labels" / "svc"), LabelStore(ws.path("labels", "svc"))
    theirs.append([LabelRecord(prediction_id=i, value=v, at=10, source="http") for i, v in (("a", 1), ("b", 0))])
    ours.append([LabelRecord(prediction_id="b", value=1, at=11, source="file")])
    assert collect(ws, container)[2] == 1
    assert collect(ws, container)[2] == 0
    theirs.append([LabelRecord(prediction_id="a", value=0, at=12, source="http")])
    assert collect(ws, container)[2] == 1
    known = {r["prediction_id"]: r["value"] for r in LabelStore(ws.path("labels", "svc")).read().to_pylist()}
    assert known == {"a": 0.0, "b": 1.0}


def test_bad_folders_name_the_mend(ws: Workspace, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no folder"):
        collect(ws, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="no predictions of 'svc'"):
        collect(ws, tmp_path / "empty")
    write(ws.path("predictions", "svc"), batch("own"))
    with pytest.raises(BadInput, match="own"):
        collect(ws, ws.home)


def test_the_command_says_what_came_and_fails_where_something_stayed(
    ws: Workspace, container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = logged(container, "a")
    monkeypatch.chdir(ws.root)
    told = CliRunner().invoke(cli, ["monitor", "collect", "svc", str(container)])
    assert told.exit_code == 0 and "1 predictions from 1 files, 0 labels" in told.output
    path.with_name("bad.segment").write_bytes(b"bad")
    told = CliRunner().invoke(cli, ["monitor", "collect", "svc", str(container)])
    assert told.exit_code == 1 and "bad.segment" in told.output
