"""Neural networks as safetensors: named arrays, and in the header's metadata how the layers follow each other.

The file is a u64 length, a JSON header, raw little-endian bytes. The header is checked against the bytes before any
array is made: offsets contiguous and inside the file, sizes equal to shape times type (safetensors format note).
Served are stacks of linear layers as ``torch.nn.Sequential`` names them (``0.weight``, ``0.bias``, ``2.weight`` …), with
``holdfast.activation`` (relu, tanh, gelu) in the metadata; anything else is exported to ONNX instead.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from holdfast.core.errors import BadInput, TooMuch
from holdfast.core.records import Package
from holdfast.formats.onnx import shape_scores

NAME = "safetensors"
HEADER = 25_000_000
_TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "U8": np.uint8}


def tensors(data: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """(arrays by name, metadata) of a safetensors file.

    Raises:
        BadInput: the header lies about the bytes. TooMuch: it is absurdly large.
    """
    size = int.from_bytes(data[:8], "little")
    if size > HEADER:
        raise TooMuch(f"the header of this safetensors file claims {size} bytes")
    if len(data) < 8 + size:
        raise BadInput("the header of this safetensors file is longer than the file")
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        raise BadInput("the header of this safetensors file is not JSON") from None
    if not isinstance(header, dict):
        raise BadInput("the header of this safetensors file is not an object")
    metadata = header.pop("__metadata__", {})
    body = memoryview(data)[8 + size :]
    spans = []
    out: dict[str, Any] = {}
    for name, entry in header.items():
        try:
            dtype, shape, (start, end) = _TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            whole = all(type(v) is int and v >= 0 for v in (*shape, start, end))
        except (KeyError, TypeError, ValueError):
            raise BadInput(f"tensor {name!r} of this safetensors file is of no type or shape we read") from None
        if not whole or end > len(body) or end - start != math.prod(shape) * np.dtype(dtype).itemsize:
            raise BadInput(f"tensor {name!r} of this safetensors file claims bytes it does not have")
        spans.append((start, end))
        out[name] = np.frombuffer(body[start:end], dtype=dtype).reshape(shape)
    spans.sort()
    at = 0
    for start, end in spans:
        if start != at:
            raise BadInput("the tensors of this safetensors file overlap or leave holes")
        at = end
    if at != len(body):
        raise BadInput("this safetensors file has bytes that belong to no tensor")
    return out, metadata if isinstance(metadata, dict) else {}


class StackPredictor:
    """Linear layers with one activation between them; sigmoid or softmax at the end for classes."""

    def __init__(self, layers: list[tuple[Any, Any]], activation: str, *, task: str) -> None:
        self._layers, self._task = layers, task
        self._between = _ACTIVATIONS[activation]

    def scores(self, matrix: Any) -> Any:
        values = np.asarray(matrix, dtype=np.float64)
        for index, (weight, bias) in enumerate(self._layers):
            values = values @ weight.T + bias
            if index + 1 < len(self._layers):
                values = self._between(values)
        if self._task == "binary" and values.shape[1] == 1:
            values = 0.5 * (1 + np.tanh(values / 2))
        elif self._task != "regression":
            values = np.exp(values - values.max(axis=1, keepdims=True))
            values /= values.sum(axis=1, keepdims=True)
        return shape_scores(values, self._task)


_ACTIVATIONS: dict[str, Any] = {
    "relu": lambda v: np.maximum(v, 0),
    "tanh": np.tanh,
    "gelu": lambda v: 0.5 * v * (1 + np.tanh(0.7978845608028654 * (v + 0.044715 * v**3))),
    "identity": lambda v: v,
}


def parse(data: bytes, package: Package, *, threads: int = 1) -> StackPredictor:
    """A predictor from a stack of linear layers.

    Raises:
        BadInput: the file lies, or holds another architecture.
    """
    found, metadata = tensors(data)
    activation = metadata.get("holdfast.activation", "relu")
    numbers = sorted({int(n.split(".")[0]) for n in found if n.split(".")[0].isdigit()})
    wanted = {f"{i}.{part}" for i in numbers for part in ("weight", "bias")}
    if not numbers or set(found) != wanted or activation not in _ACTIVATIONS:
        raise BadInput(
            "this safetensors file is no stack of linear layers", hint="export the network to ONNX and package that"
        )
    layers = [(found[f"{i}.weight"].astype(np.float64), found[f"{i}.bias"].astype(np.float64)) for i in numbers]
    width = len(package.inputs)
    for weight, bias in layers:
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise BadInput(f"a layer has shape {weight.shape} where {width} values come in")
        width = weight.shape[0]
    return StackPredictor(layers, str(activation), task=package.task)


def dump(model: Any) -> bytes:
    """A ``torch.nn.Sequential`` of linear layers, with one kind of activation between them, as safetensors.

    Its last layer gives logits (one for binary, k for k classes) or values: a sigmoid or softmax of its own is left out by
    the caller, because serving applies it.

    Raises:
        BadInput: it is of another architecture.
    """
    layers = list(model) if type(model).__name__ == "Sequential" else []
    linear = [(i, layer) for i, layer in enumerate(layers) if type(layer).__name__ == "Linear"]
    others = [layer for layer in layers if type(layer).__name__ not in ("Linear", "Dropout", "Identity")]
    kinds = {type(layer).__name__.lower() for layer in others} or {"identity"}
    between = len(kinds) == 1 and kinds <= set(_ACTIVATIONS) and len(others) in (0, len(linear) - 1)
    if (
        not linear
        or not between
        or type(layers[-1]).__name__ != "Linear"
        or (kinds == {"gelu"} and others[0].approximate != "tanh")
    ):
        raise BadInput(
            "only a torch.nn.Sequential of Linear layers with one kind of activation (ReLU, Tanh, GELU(approximate='tanh')) is"
            " written as safetensors",
            hint="export the network with torch.onnx and register that file",
        )
    header: dict[str, Any] = {"__metadata__": {"holdfast.activation": kinds.pop()}}
    body = b""
    for i, layer in linear:
        width = len(layer.weight)
        bias = layer.bias.detach().cpu().numpy() if layer.bias is not None else np.zeros(width, dtype=np.float32)
        for part, values in (("weight", layer.weight.detach().cpu().numpy()), ("bias", bias)):
            array = np.ascontiguousarray(values, dtype="<f8" if values.dtype == np.float64 else "<f4")
            header[f"{i}.{part}"] = {"dtype": "F64" if array.itemsize == 8 else "F32", "shape": list(array.shape),
                                     "data_offsets": [len(body), len(body) + array.nbytes]}  # fmt: skip
            body += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def own_scores(model: Any, task: str) -> Any:
    """What the network itself answers for rows, in evaluation mode, as ``Predictor.scores`` promises it."""

    def scores(rows: Any) -> Any:
        import torch  # type: ignore[import-not-found,unused-ignore]

        model.eval()
        with torch.no_grad():
            dtype = next(model.parameters()).dtype
            out = model(torch.as_tensor(np.ascontiguousarray(rows), dtype=dtype)).double()
            if task == "binary" and out.shape[1] == 1:
                out = torch.sigmoid(out)
            elif task != "regression":
                out = torch.softmax(out, dim=1)
        return np.asarray(shape_scores(out.numpy(), task))

    return scores
