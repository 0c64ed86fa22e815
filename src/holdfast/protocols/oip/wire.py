"""The protocol's bodies, as structs; field names are the protocol's. Source: inference_rest.md at commit 011728e."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from holdfast.core.errors import BadInput, did_you_mean
from holdfast.core.records import FieldSpec

# What each of our types may be sent as; the first is what metadata says.
DATATYPES: dict[str, tuple[str, ...]] = {
    "float64": ("FP64", "FP32", "FP16", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8"),
    "int64": ("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8"),
    "bool": ("BOOL",),
    "string": ("BYTES",),
    "timestamp": ("INT64", "BYTES"),
}
_BITS = {"8": 8, "16": 16, "32": 32, "64": 64}


class Tensor(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] | None = None


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[Wanted] | None = None


class InferResponse(msgspec.Struct, omit_defaults=True):
    model_name: str
    outputs: list[Tensor]
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = None


def decode(body: bytes) -> InferRequest:
    """An inference request.

    Raises:
        BadInput: not JSON of the protocol's shape.
    """
    try:
        return msgspec.json.decode(body, type=InferRequest)
    except RecursionError:
        raise BadInput("the JSON is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise BadInput(f"not an inference request: {problem}") from None


def rows(request: InferRequest, fields: Sequence[FieldSpec]) -> list[dict[str, Any]]:
    """The tensors, one per field by name, each of shape [n] or [n, 1], as n rows.

    Raises:
        BadInput: a tensor is unknown, given twice, of another datatype, or its data does not fill its shape.
    """
    known = {f.name: f for f in fields}
    if not request.inputs:
        raise BadInput("the request has no inputs", hint=f"send a tensor for each of {', '.join(known)}")
    columns: dict[str, list[Any]] = {}
    for tensor in request.inputs:
        field = known.get(tensor.name)
        if field is None:
            raise BadInput(
                f"unknown input {tensor.name!r}",
                hint=f"{did_you_mean(tensor.name, known, kind='input')}; one tensor of shape [n] per name",
            )
        if tensor.name in columns:
            raise BadInput(f"input {tensor.name!r} is given twice")
        columns[tensor.name] = _column(tensor, field)
    sizes = {len(c) for c in columns.values()}
    if len(sizes) > 1:
        raise BadInput(f"inputs have different numbers of rows: {sorted(sizes)}")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _column(tensor: Tensor, field: FieldSpec) -> list[Any]:
    if tensor.datatype not in DATATYPES[field.dtype]:
        raise BadInput(f"input {tensor.name!r} is {tensor.datatype}", hint=f"send it as {DATATYPES[field.dtype][0]}")
    shape = tensor.shape
    if any(isinstance(s, bool) or s < 0 for s in shape) or not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        raise BadInput(f"input {tensor.name!r} has shape {shape}", hint="send shape [n] or [n, 1]")
    data = tensor.data
    if len(shape) == 2 and any(isinstance(v, list) for v in data):
        if not all(isinstance(v, list) and len(v) == 1 for v in data):
            raise BadInput(f"input {tensor.name!r} is ragged")
        data = [v[0] for v in data]
    if len(data) != shape[0]:
        raise BadInput(f"input {tensor.name!r} has {len(data)} values for shape {shape}")
    _in_range(tensor, data)
    return data


def _in_range(tensor: Tensor, data: Sequence[Any]) -> None:
    """Whole numbers under integer datatypes, and within their width."""
    kind = tensor.datatype.rstrip("0123456789")
    if kind not in ("INT", "UINT"):
        return
    bits = _BITS[tensor.datatype[len(kind) :]]
    low, high = (0, 2**bits) if kind == "UINT" else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    for i, value in enumerate(data):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not low <= value < high):
            raise BadInput(f"input {tensor.name!r}, row {i}: {value!r} is not {tensor.datatype}")


def output(name: str, values: Sequence[Any]) -> Tensor:
    """Outputs as a tensor: scores (n) or (n, k), classes, or values."""
    if values and isinstance(values[0], list):
        width = len(values[0])
        return Tensor(name, [len(values), width], "FP64", [v for row in values for v in row])
    if all(isinstance(v, bool) for v in values):
        datatype = "BOOL"
    elif all(isinstance(v, int) for v in values):
        datatype = "INT64"
    elif all(isinstance(v, int | float) for v in values):
        datatype = "FP64"
    else:
        datatype, values = "BYTES", [str(v) for v in values]
    return Tensor(name, [len(values)], datatype, list(values))
