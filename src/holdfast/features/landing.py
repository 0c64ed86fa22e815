"""Pushed rows as parquet files, so that training sees the events that serving saw.

``landed/index.json`` names the files per source and how far into the journal they go; it is replaced atomically after
the files are on the disk, so a reader sees whole files or none, and a crash leaves files that nobody names.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.core.records import Json
from holdfast.features import journal
from holdfast.features.journal import Position, Pushed
from holdfast.features.rows import ARRIVED

if TYPE_CHECKING:
    import pyarrow as pa


class Index(msgspec.Struct):
    """What has been landed. ``times`` are each source's (timestamp, arrival) column names."""

    segment: int = 0
    offset: int = 0
    files: dict[str, list[str]] = {}
    times: dict[str, tuple[str | None, str | None]] = {}

    @property
    def position(self) -> Position:
        return Position(self.segment, self.offset)


def features_home(home: Path) -> Path:
    """Where the feature stage keeps its files, under the workspace's folder."""
    return home if home.name == "features" else home / "features"


def read_index(home: Path) -> Index:
    """The index, or an empty one."""
    try:
        return msgspec.json.decode((home / "landed" / "index.json").read_bytes(), type=Index)
    except FileNotFoundError:
        return Index()


def land(home: Path, *, times: dict[str, tuple[str | None, str | None]] | None = None) -> Index:
    """Write what the journal holds beyond the index as parquet, one file per source; the new index.

    ``times`` tells which columns are instants, for sources the index does not know yet.
    """
    folder = home / "landed"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        index = read_index(home)
        known = {**index.times, **_read_times(home), **(times or {})}
        by_source: dict[str, list[Pushed]] = {}
        end = index.position
        for pushed in journal.read(home / "journal", after=index.position):
            by_source.setdefault(pushed.source, []).append(pushed)
            end = pushed.end
        if not by_source:
            return index
        files = {k: list(v) for k, v in index.files.items()}
        for source, pushes in by_source.items():
            name = f"{source}/{index.segment:012d}-{index.offset}-{end.segment:012d}-{end.offset}.parquet"
            _write(folder / name, to_table(pushes, *known.get(source, (None, None))))
            files.setdefault(source, []).append(name)
        new = Index(end.segment, end.offset, files, known)
        _replace(folder / "index.json", msgspec.json.encode(new))
        return new


def landed(home: Path, source: str) -> list[Path]:
    """The parquet files with the pushed rows of a source, everything acknowledged until now included. Empty where
    nothing was pushed. May be called by any process while another one pushes."""
    home = features_home(home)
    if not (home / "journal").is_dir() and not (home / "landed").is_dir():
        return []
    return [home / "landed" / name for name in land(home).files.get(source, [])]


def to_table(pushes: Iterable[Pushed], timestamp: str | None, arrival: str | None) -> pa.Table:
    """Pushed rows as one Arrow table; instants as timestamps, and the time of the push beside sources without arrival."""
    import pyarrow as pa

    rows: list[Json] = []
    came: list[int] = []
    for pushed in pushes:
        rows += pushed.rows
        came += [pushed.arrived] * len(pushed.rows)
    columns: dict[str, Any] = {}
    instant = pa.timestamp("us", tz="UTC")
    for name in dict.fromkeys(k for row in rows for k in row):
        values = [row.get(name) for row in rows]
        if name in (timestamp, arrival):
            columns[name] = pa.array(values, pa.int64()).cast(instant)
        else:
            columns[name] = to_array(values)  # a column without any value has Arrow's null type, which joins with all
    if arrival is None:
        columns[ARRIVED] = pa.array(came, pa.int64())
    return pa.table(columns)


def to_array(values: list[Any]) -> pa.Array:
    """A column nobody declared: integers among floats become floats, any other mixture text."""
    import pyarrow as pa

    kinds = {type(v) for v in values if v is not None}
    if kinds == {int, float}:
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    if len(kinds) > 1:
        return pa.array([None if v is None else str(v) for v in values], pa.string())
    return pa.array(values)


def remember_times(home: Path, times: dict[str, tuple[str | None, str | None]]) -> None:
    """Keep which columns are instants beside the journal, for whoever lands it."""
    path = home / "journal" / "times.json"
    merged = {**_read_times(home), **times}
    data = msgspec.json.encode(merged, order="sorted")
    if not path.exists() or path.read_bytes() != data:
        _replace(path, data)


def _read_times(home: Path) -> dict[str, tuple[str | None, str | None]]:
    try:
        return msgspec.json.decode(
            (home / "journal" / "times.json").read_bytes(), type=dict[str, tuple[str | None, str | None]]
        )
    except FileNotFoundError:
        return {}


def _write(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary)
    with temporary.open("rb") as f:
        os.fsync(f.fileno())
    temporary.replace(path)
    journal._sync_folder(path.parent)


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)
    journal._sync_folder(path.parent)


@contextmanager
def _locked(folder: Path) -> Any:
    with (folder / "lock").open("a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield
