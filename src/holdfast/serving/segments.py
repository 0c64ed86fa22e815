"""The bytes of the prediction log: append-only segment files of checksummed frames, each a small columnar batch.

A frame is ``<u32 length> <u32 crc32 of payload> <payload>``, little endian; the payload is MessagePack, tagged:

- ``["layout", number, {…}]``: names for the columns of later frames of this segment (one per model version seen)
- ``["rows", number, n, k, ids, arms, keys, request_times, received, latencies, scores, outputs, inputs, features]``:
  instants and latencies as packed int64, scores (n × k) and features (n × d) as packed float64 with NaN for null

A torn last frame (crash while writing) is recognised by length or checksum and ends the segment.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from holdfast.core.records import Json, Record

MAGIC = b"HFLOG1\n\0"
SUFFIX = ".segment"
_HEAD = struct.Struct("<II")
_MAX_FRAME = 1 << 30
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


class Layout(Record, frozen=True, kw_only=True):
    """What the columns of a batch are. ``same`` = the inputs are the features, and are kept once."""

    service: str
    environment: str
    version: int
    replica: str
    inputs: list[tuple[str, str]]
    features: list[str]
    same: bool = False


class Batch:
    """Rows answered together by one arm. ``scores`` is (n, k) and ``matrix`` (n, d), float64, NaN for null."""

    __slots__ = (
        "arm",
        "ids",
        "inputs",
        "keys",
        "latency",
        "layout",
        "matrix",
        "outputs",
        "received",
        "request_times",
        "scores",
    )

    def __init__(
        self,
        layout: Layout,
        *,
        arm: str,
        ids: Sequence[str],
        keys: Sequence[str],
        request_times: Sequence[int],
        received: int,
        latency: int,
        scores: Any,
        outputs: Sequence[Any],
        inputs: Sequence[Sequence[Any]] | None,
        matrix: Any,
    ) -> None:
        self.layout = layout
        self.arm = arm
        self.ids = ids
        self.keys = keys
        self.request_times = request_times
        self.received = received
        self.latency = latency
        self.scores = scores
        self.outputs = outputs
        self.inputs = inputs
        self.matrix = matrix


def frame(payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def layout_frame(number: int, layout: Layout) -> bytes:
    return frame(_encoder.encode(["layout", number, layout]))


def rows_frame(number: int, batches: Sequence[Batch]) -> bytes:
    """One frame for batches of one layout and one score width."""
    if len(batches) == 1:
        b = batches[0]
        n = len(b.ids)
        ids, keys, outputs, inputs = b.ids, b.keys, b.outputs, b.inputs
        arms = [b.arm] * n
        scores, matrix = np.asarray(b.scores, dtype="<f8"), np.asarray(b.matrix, dtype="<f8")
        times = struct.pack(f"<{n}q", *b.request_times)
        received, latency = struct.pack("<q", b.received) * n, struct.pack("<q", b.latency) * n
    else:
        ids = [i for b in batches for i in b.ids]
        keys = [k for b in batches for k in b.keys]
        outputs = [o for b in batches for o in b.outputs]
        arms = [b.arm for b in batches for _ in b.ids]
        inputs = None if batches[0].inputs is None else [r for b in batches for r in b.inputs or ()]
        n = len(ids)
        scores = np.concatenate([np.asarray(b.scores, dtype="<f8").reshape(len(b.ids), -1) for b in batches])
        matrix = np.concatenate([b.matrix for b in batches]).astype("<f8", copy=False)
        times = struct.pack(f"<{n}q", *[t for b in batches for t in b.request_times])
        received = struct.pack(f"<{n}q", *[b.received for b in batches for _ in b.ids])
        latency = struct.pack(f"<{n}q", *[b.latency for b in batches for _ in b.ids])
    width = scores.size // n if n else 1
    body = [
        "rows",
        number,
        n,
        width,
        ids,
        arms,
        keys,
        times,
        received,
        latency,
        scores.tobytes(),
        outputs,
        inputs,
        matrix.tobytes(),
    ]
    return frame(_encoder.encode(body))


def frames(data: bytes | memoryview, start: int = 0) -> Iterator[tuple[int, list[Any]]]:
    """(offset after the frame, decoded payload) of each whole frame from ``start``; stops at the first torn one."""
    view = memoryview(data)
    at, size = start, len(view)
    if at == 0:
        if bytes(view[: len(MAGIC)]) != MAGIC:
            return
        at = len(MAGIC)
    while at + _HEAD.size <= size:
        length, crc = _HEAD.unpack_from(view, at)
        end = at + _HEAD.size + length
        if length > _MAX_FRAME or end > size:
            return
        payload = view[at + _HEAD.size : end]
        if zlib.crc32(payload) != crc:
            return
        yield end, _decoder.decode(payload)
        at = end


def layout_of(value: Json) -> Layout:
    return msgspec.convert(value, Layout)
