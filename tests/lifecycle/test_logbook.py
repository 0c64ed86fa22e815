"""Sealed parts of the prediction log: any edit or removal is found; merging and crashes are not mistaken for one."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from holdfast.cli.main import cli
from holdfast.core.errors import Damaged
from holdfast.lifecycle import logbook
from holdfast.serving import predictions
from holdfast.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path):
    with Workspace.open(tmp_path) as ws:
        yield ws


def part(ws: Workspace, number: int, rows: int = 3) -> Path:
    folder = ws.path("predictions", "s")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:04d}.parquet"
    made = [
        {
            "id": f"{number}-{i}", "service": "s", "environment": "production", "version": 1, "arm": "champion", "key": "k",
            "request_time": number * 100 + i, "received": 1, "score": 0.5, "output": 1, "latency_us": 1, "replica": "0",
        }
        for i in range(rows)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(made), path)
    return path


def test_a_sealed_part_is_known_by_its_digest(ws) -> None:
    part(ws, 1)
    assert logbook.verify(ws) == (0, 0, 1, 0)
    assert logbook.seal(ws, "s", at=1) == 1 and logbook.seal(ws, "s", at=2) == 0
    (entry,) = ws.ledger.query(kind="log.sealed")
    assert entry.body["rows"] == 3 and (entry.body["first"], entry.body["last"]) == (100, 102)
    assert logbook.verify(ws) == (1, 0, 0, 0)


@pytest.mark.parametrize("how", ["edited", "removed", "replaced"])
def test_tampering_is_found(ws, how: str) -> None:
    path = part(ws, 1)
    logbook.seal(ws, "s", at=1)
    if how == "edited":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "removed":
        path.unlink()
    else:
        part(ws, 1, rows=2)
    with pytest.raises(Damaged, match=r"0001\.parquet"):
        logbook.verify(ws)


def test_small_parts_are_merged_and_stay_accounted_for(ws) -> None:
    for number in range(8):
        part(ws, number)
    logbook.seal(ws, "s", at=1)
    assert logbook.verify(ws) == (1, 8, 0, 0)
    assert predictions.read(ws.path("predictions", "s")).num_rows == 24
    (left,) = predictions.parts(ws.path("predictions", "s"))
    left.unlink()
    with pytest.raises(Damaged):
        logbook.verify(ws)


def test_an_altered_part_is_never_merged_away(ws) -> None:
    for number in range(7):
        part(ws, number)
    logbook.seal(ws, "s", at=1)
    part(ws, 3, rows=1)
    part(ws, 7)
    with pytest.raises(Damaged, match="altered"):
        logbook.seal(ws, "s", at=2)
    assert len(predictions.parts(ws.path("predictions", "s"))) == 8
    assert not list(ws.path("predictions", "s").glob("merged-*"))


def test_readers_do_not_merge(ws) -> None:
    for number in range(9):
        part(ws, number)
    predictions.read(ws.path("predictions", "s"))
    assert len(predictions.parts(ws.path("predictions", "s"))) == 9


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_around_the_seal_of_a_merge_loses_nothing(ws, monkeypatch, when: str) -> None:
    for number in range(8):
        part(ws, number)
    real = logbook._record

    def crash(workspace, service, paths, *, at):
        merged = any(p.name.startswith("merged-") for p in paths)
        if merged and when == "before":
            raise KeyboardInterrupt
        real(workspace, service, paths, at=at)
        if merged:
            raise KeyboardInterrupt

    monkeypatch.setattr(logbook, "_record", crash)
    with pytest.raises(KeyboardInterrupt):
        logbook.seal(ws, "s", at=1)
    monkeypatch.undo()
    assert predictions.read(ws.path("predictions", "s")).num_rows == 24
    logbook.seal(ws, "s", at=2)
    assert predictions.read(ws.path("predictions", "s")).num_rows == 24
    if when == "before":
        assert logbook.verify(ws) == (1, 8, 0, 0)


def test_the_audit_shows_it(ws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = part(ws, 1)
    monkeypatch.chdir(tmp_path)
    run = CliRunner()
    assert "1 new parts sealed" in run.invoke(cli, ["audit", "seal"]).output
    assert "1 sealed parts unaltered" in run.invoke(cli, ["audit", "verify"]).output
    path.unlink()
    done = run.invoke(cli, ["audit", "verify"])
    assert done.exit_code != 0 and isinstance(done.exception, Damaged)
