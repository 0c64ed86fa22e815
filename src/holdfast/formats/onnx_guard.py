"""Looking into an ONNX file before the runtime does: a walk over its protobuf bytes that loads nothing.

Field numbers are those of onnx.proto3 (ONNX IR). Refused: external data, operators outside the two standard domains,
functions and training graphs (not needed for inference), tensors whose claimed size is absurd or is not in the file,
joins that multiply the input, nesting deeper than 8 graphs. What a graph takes while it runs is bounded by the replica.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from holdfast.core.errors import BadInput, NotTrusted, TooMuch

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
ELEMENTS = 1 << 30
NODES = 1_000_000
REPEATS = 1 << 16
"""Most times the input may be repeated in any tensor."""
_SIZES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}
_GROWERS = frozenset({"ConstantOfShape", "Expand", "Tile", "Range", "Resize", "Upsample", "Pad", "EyeLike", "OneHot",
                      "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Scan",
                      "Loop"})  # fmt: skip
# What an attribute holds by the million, in runs of one kind: numbers behind one-byte tags (varints, four bytes, eight bytes)
# and strings of up to 31 bytes (field 9). Runs are bounded, so that other threads get their turn; what begins a kind begins
# no other, so nothing is ever matched twice (possessive: half the time, which the event loop of a replica pays too).
_PLAIN = re.compile(
    rb"(?>(?:[%s][\x80-\xff]{0,9}+[\x00-\x7f]){1,4096}+|(?:[%s][\s\S]{4}){1,4096}+|(?:[%s][\s\S]{8}){1,4096}+|(?:\x4a(?:%s)){1,4096}+)"
    % (
        *(b"".join(b"\\x%02x" % tag for tag in range(8 + wire, 128, 8)) for wire in (0, 5, 1)),
        b"|".join(b"\\x%02x[\\s\\S]{%d}" % (size, size) for size in range(32)),
    )
)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise BadInput("not an ONNX file: a number runs past its end")
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7


def fields(data: memoryview, *, plain: bool = True) -> Iterator[tuple[int, int, int, memoryview]]:
    """(field number, wire type, number, bytes) of one protobuf message; without ``plain``, an attribute's
    numbers and short strings are passed over (a forest has a million of them).

    Raises:
        BadInput: the bytes are no protobuf message.
    """
    at, end = 0, len(data)
    while at < end:
        if not plain and (run := _PLAIN.match(data, at)):
            at = run.end()
            continue
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise BadInput("not an ONNX file: field 0")
        if wire == 0:
            value, at = _varint(data, at)
            yield number, wire, value, data[:0]
        elif wire == 2:
            size, at = _varint(data, at)
            if size > end - at:
                raise BadInput("not an ONNX file: a field is longer than the file")
            yield number, wire, size, data[at : at + size]
            at += size
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            if size > end - at:
                raise BadInput("not an ONNX file: it is cut off")
            yield number, wire, int.from_bytes(data[at : at + size], "little"), data[at : at + size]
            at += size
        else:
            raise BadInput(f"not an ONNX file: wire type {wire}")


def inspect(data: bytes) -> dict[str, int]:
    """Walk the model; {"nodes": …, "tensors": …}.

    Raises:
        BadInput: it is no ONNX model.
        NotTrusted: it points outside itself, or uses operators we do not run.
        TooMuch: it claims an absurd size.
    """
    seen = {"nodes": 0, "tensors": 0}
    graphs = 0
    for number, wire, _, body in fields(memoryview(data)):
        if number == 7 and wire == 2:
            graphs += 1
            _graph(body, seen, 0)
        elif number == 8 and wire == 2:
            domain = next((bytes(b).decode("utf-8", "replace") for n, w, _, b in fields(body) if n == 1 and w == 2), "")
            _check_domain(domain)
        elif number in (20, 25):
            raise NotTrusted(
                "this ONNX model carries training graphs or functions of its own", hint="export it for inference only"
            )
    if graphs != 1:
        raise BadInput("not an ONNX model: it has no graph")
    return {name: seen[name] for name in ("nodes", "tensors")}


def _check_domain(domain: str) -> None:
    if domain not in DOMAINS:
        raise NotTrusted(
            f"this ONNX model uses operators of domain {domain!r}",
            hint="export it with the standard operators (ai.onnx, ai.onnx.ml)",
        )


def _graph(data: memoryview, seen: dict[str, int], depth: int) -> None:
    if depth > 8:
        raise TooMuch("this ONNX model nests graphs deeper than 8")
    for number, wire, _, body in fields(data):
        if wire != 2:
            continue
        if number == 1:
            _node(body, seen, depth)
        elif number == 5:
            _tensor(body, seen)
        elif number == 15:
            _sparse(body, seen)


def _node(data: memoryview, seen: dict[str, int], depth: int) -> None:
    seen["nodes"] += 1
    if seen["nodes"] > NODES:
        raise TooMuch(f"this ONNX model has more than {NODES} operators")
    inputs: list[str] = []
    outputs: list[str] = []
    kind = ""
    for number, wire, _, body in fields(data):
        if number in (1, 2) and wire == 2:
            (inputs if number == 1 else outputs).append(bytes(body).decode("utf-8", "replace"))
        if number == 4 and wire == 2:
            kind = bytes(body).decode("utf-8", "replace")
        if number == 7 and wire == 2:
            _check_domain(bytes(body).decode("utf-8", "replace"))
        elif number == 4 and wire == 2 and bytes(body).decode("utf-8", "replace") in _GROWERS:
            raise NotTrusted(
                f"this ONNX model uses {bytes(body).decode()}, which makes tensors of any size out of nothing",
                hint="export the model without it (fixed shapes, constants folded)",
            )
        elif number == 5 and wire == 2:
            _attribute(body, seen, depth)
    # Joining is the one way left to make much of little: how often may the input be repeated in what comes out?
    sizes = [seen.get("of " + name, 1) for name in inputs] or [1]
    size = sum(sizes) if kind == "Concat" else max(sizes)
    if size > REPEATS:
        raise TooMuch(f"this ONNX model joins its input with itself more than {REPEATS} times")
    if size > 1:
        seen.update({"of " + name: size for name in outputs})


def _attribute(data: memoryview, seen: dict[str, int], depth: int) -> None:
    for number, wire, _, body in fields(data, plain=False):
        if wire != 2:
            continue
        if number in (5, 10):
            _tensor(body, seen)
        elif number in (6, 11):
            _graph(body, seen, depth + 1)
        elif number in (22, 23):
            _sparse(body, seen)


def _sparse(data: memoryview, seen: dict[str, int]) -> None:
    elements = 1
    for number, wire, value, body in fields(data):
        if number in (1, 2) and wire == 2:
            _tensor(body, seen)
        elif number == 3:
            for dim in _dims(wire, value, body):
                elements *= dim
    if elements > ELEMENTS:
        raise TooMuch("a sparse tensor of this ONNX model unpacks to an absurd size")


def _dims(wire: int, value: int, body: memoryview) -> list[int]:
    if wire == 0:
        return [value]
    out, at = [], 0
    while at < len(body):
        number, at = _varint(body, at)
        out.append(number)
    return out


def _tensor(data: memoryview, seen: dict[str, int]) -> None:
    seen["tensors"] += 1
    dims: list[int] = []
    kind, raw, held = 0, -1, 0
    for number, wire, value, body in fields(data):
        if number == 1:
            dims += _dims(wire, value, body)
        elif number == 2 and wire == 0:
            kind = value
        elif number == 13 or (number == 14 and value == 1):
            raise NotTrusted(
                "this ONNX model keeps its weights in other files",
                hint="save it as one file (save_as_external_data=False)",
            )
        elif number == 9 and wire == 2:
            raw = len(body)
        elif number in (4, 5, 6, 7, 10, 11):
            held += len(body) if wire == 2 else 1
    elements = 1
    for dim in dims:
        if dim >= 1 << 63:
            raise BadInput("a tensor of this ONNX model has a negative size")
        elements *= dim
        if elements > ELEMENTS:
            raise TooMuch(
                "a tensor of this ONNX model claims an absurd size", hint=f"at most {ELEMENTS} elements are read"
            )
    if raw >= 0 and kind in _SIZES and raw != elements * _SIZES[kind]:
        raise BadInput("a tensor of this ONNX model has not the bytes its shape claims")
    if raw < 0 and kind != 8 and elements > 0 and held < elements:
        raise BadInput("a tensor of this ONNX model has fewer values than its shape claims")
