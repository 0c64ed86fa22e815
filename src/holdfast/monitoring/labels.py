"""The label store: the truth by prediction id, appended by any process, the latest word winning.

Segment files ``<ordinal of the first record>.labels`` hold frames of little-endian u32 length, u32 CRC-32 and a
MessagePack list [ids, values, instants, sequences, sources]. A frame is acknowledged after fsync; a torn last frame
was never acknowledged and is cut off by the next writer. Writers take turns by a file lock; readers need none."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from holdfast.core import files
from holdfast.core.errors import BadInput, Damaged
from holdfast.core.records import LabelRecord

_HEAD = struct.Struct("<II")
_SUFFIX = ".labels"
_SEGMENT_BYTES = 16 << 20
_FRAME_BYTES = 64 << 20


@dataclass
class _Segment:
    """How far a segment was read, and how many records that were."""

    upto: int = 0
    records: int = 0


class LabelStore:
    """Labels of one service under ``folder``; made on the first append. Thread and process safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._read: dict[str, _Segment] = {}
        self._ends: dict[str, _Segment] = {}
        self._latest: dict[str, tuple[int, int, Any]] = {}
        self._mutex = threading.Lock()

    def append(self, records: Sequence[LabelRecord]) -> int:
        """Add labels durably; returns how many. A record without a sequence gets its ordinal in the store, so that of
        labels with the same instant the one that came last wins. Adding the same label again changes nothing.

        Raises:
            BadInput: an id is empty or too long, or a value is not a number, text or boolean.
            OSError: the disk refused; nothing was added.
        """
        if not records:
            return 0
        for record in records:
            _check(record)
        with self._mutex, self._turn():
            path, size, ordinal = self._end()
            frame = msgspec.msgpack.encode([
                [r.prediction_id for r in records],
                [r.value for r in records],
                [r.at for r in records],
                [r.sequence or ordinal + i + 1 for i, r in enumerate(records)],
                [r.source for r in records],
            ])  # fmt: skip
            if len(frame) > _FRAME_BYTES:
                raise BadInput(f"{len(records)} labels at once are too many", hint="append them in parts of 100,000")
            if size >= _SEGMENT_BYTES:
                path, size = self.folder / f"{ordinal:020d}{_SUFFIX}", 0
            self._write(path, size, _HEAD.pack(len(frame), zlib.crc32(frame)) + frame)
        return len(records)

    def read(self, since: int | None = None, *, ids: Iterable[str] | None = None) -> pa.Table:
        """The latest label of every prediction: columns prediction_id, value, at, sequence; in order of ``at``.

        ``value`` is float64 where all values are numbers or booleans, text otherwise. ``since`` keeps labels with
        at >= since, ``ids`` those of these predictions. What was read once is kept, so reading again costs only what
        is new.

        Raises:
            Damaged: acknowledged bytes are not what was written.
        """
        with self._mutex:
            self._refresh()
            if ids is None:
                found = list(self._latest.items())
            else:
                found = [(i, label) for i in dict.fromkeys(ids) if (label := self._latest.get(i)) is not None]
        if since is not None:
            found = [f for f in found if f[1][0] >= since]
        found.sort(key=_order)
        values = [label[2] for _, label in found]
        if all(not isinstance(v, str) for v in values):
            array = pa.array([float(v) for v in values], pa.float64())
        else:
            array = pa.array([_text(v) for v in values], pa.string())
        return pa.table({
            "prediction_id": pa.array([i for i, _ in found], pa.string()), "value": array,
            "at": pa.array([label[0] for _, label in found], pa.int64()),
            "sequence": pa.array([label[1] for _, label in found], pa.int64()),
        })  # fmt: skip

    def count(self) -> dict[str, int]:
        """How many labels were added (``added``), and of how many predictions (``predictions``)."""
        with self._mutex:
            self._refresh()
            return {"added": sum(s.records for s in self._read.values()), "predictions": len(self._latest)}

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            files.sync_folder(self.folder.parent)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _end(self) -> tuple[Path, int, int]:
        """The segment to write to, its acknowledged length, and how many records the store holds."""
        segments = self._segments()
        if not segments:
            return self.folder / f"{0:020d}{_SUFFIX}", 0, 0
        # Who only appends walks what is new in the last segment, and keeps no label in memory.
        last = segments[-1]
        known = self._ends.setdefault(last.name, _Segment())
        for _ in self._scan(last, known, last=True):
            pass
        return last, known.upto, int(last.stem) + known.records

    def _write(self, path: Path, size: int, data: bytes) -> None:
        fresh = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            os.ftruncate(descriptor, size)
            try:
                done = 0
                while done < len(data):
                    done += os.pwrite(descriptor, data[done:], size + done)
                files.sync(descriptor)
            except BaseException:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if fresh:
            files.sync_folder(self.folder)

    def _segments(self) -> list[Path]:
        return sorted(self.folder.glob(f"*{_SUFFIX}")) if self.folder.is_dir() else []

    def _refresh(self) -> None:
        segments = self._segments()
        for i, path in enumerate(segments):
            known = self._read.setdefault(path.name, _Segment())
            if i == len(segments) - 1 or not known.upto or path.stat().st_size > known.upto:
                for ids, values, instants, sequences, _ in self._scan(path, known, last=i == len(segments) - 1):
                    for label in zip(ids, instants, sequences, values, strict=True):
                        before = self._latest.get(label[0])
                        if before is None or before[:2] < label[1:3]:
                            self._latest[label[0]] = label[1:]

    def _scan(self, path: Path, known: _Segment, *, last: bool) -> Iterator[list[Any]]:
        """The frames behind what is ``known`` of a segment, which is moved on."""
        with path.open("rb") as f:
            f.seek(known.upto)
            data = f.read()
        at = 0
        while at + _HEAD.size <= len(data):
            length, crc = _HEAD.unpack_from(data, at)
            frame = data[at + _HEAD.size : at + _HEAD.size + length]
            if len(frame) < length or zlib.crc32(frame) != crc:
                break
            columns = msgspec.msgpack.decode(frame)
            yield columns
            known.records += len(columns[0])
            known.upto += _HEAD.size + length
            at += _HEAD.size + length
        rest = len(data) - at
        # A torn end is normal only where the next frame would begin; whole frames behind it mean lost bytes.
        if rest and (not last or _frame_follows(data, at)):
            raise Damaged(
                f"labels are damaged: {path.name} at byte {known.upto}",
                hint="restore the file from a backup, or remove it to go on without these labels",
            )


def _frame_follows(data: bytes, at: int) -> bool:
    """True if a whole, valid frame lies right behind a broken one whose length still reads right."""
    if at + _HEAD.size > len(data):
        return False
    length, _ = _HEAD.unpack_from(data, at)
    after = at + _HEAD.size + length
    if after + _HEAD.size > len(data):
        return False
    size, crc = _HEAD.unpack_from(data, after)
    frame = data[after + _HEAD.size : after + _HEAD.size + size]
    return bool(len(frame) == size and size > 0 and zlib.crc32(frame) == crc)


def _check(record: LabelRecord) -> None:
    if not record.prediction_id or len(record.prediction_id) > 256:
        raise BadInput(
            f"a label needs the id of its prediction, not {record.prediction_id[:40]!r}",
            hint="take `id` from the answer of /predict",
        )
    value: object = record.value
    if not isinstance(value, bool | int | float | str) or value != value:
        raise BadInput(
            f"the label of {record.prediction_id} is {value!r}",
            hint="a label is a number, a text or a boolean; leave unknown labels out",
        )
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        raise BadInput(f"the label of {record.prediction_id} is too large a number", hint="send class names as text")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _order(item: tuple[str, tuple[int, int, Any]]) -> tuple[int, int, str]:
    return item[1][0], item[1][1], item[0]
