"""ONNX: what replicas run. Parsed only after the guard has walked it; ONNX Runtime, CPU, few threads."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from holdfast.core.errors import BadInput, Unavailable
from holdfast.core.records import Package
from holdfast.formats import onnx_guard

NAME = "onnx"
_NUMPY = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}


class OnnxPredictor:
    """A ``Predictor`` over an ONNX session. The matrix goes in as one (n, d) tensor of the type the graph declares."""

    def __init__(self, session: Any, *, task: str, width: int) -> None:
        inputs = session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _NUMPY:
            raise BadInput(
                f"an ONNX model takes one matrix of numbers; this one takes {[(i.name, i.type) for i in inputs]}",
                hint="export it with one float or double input of shape (None, number of inputs)",
            )
        shape = inputs[0].shape
        if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != width):
            raise BadInput(f"this ONNX model takes {shape}, the package has {width} inputs")
        self._run = session.run
        self._input = inputs[0].name
        self._dtype = _NUMPY[inputs[0].type]
        self._task = task
        self._output = _score_output(session.get_outputs(), task)

    def scores(self, matrix: Any) -> Any:
        feed = np.ascontiguousarray(matrix, dtype=self._dtype)
        try:
            found = self._run([self._output], {self._input: feed})
        except Exception as error:  # noqa: BLE001  what a graph does wrong shows only when it runs
            raise BadInput(f"ONNX Runtime cannot run this model: {_line(error)}") from None
        return shape_scores(found[0], self._task)


def _score_output(outputs: list[Any], task: str) -> str:
    """The output with the scores: the one so named, else the first of real numbers."""
    real = [o for o in outputs if o.type in ("tensor(float)", "tensor(double)")]
    for wanted in ("score", "scores", "probabilities", "output_probability", "probability", "variable"):
        for output in real:
            if output.name == wanted:
                return str(output.name)
    if not real:
        raise BadInput(
            f"this ONNX model has no output of real numbers, it gives {[(o.name, o.type) for o in outputs]}",
            hint="export probabilities as a tensor (skl2onnx: zipmap=False)",
        )
    return str(real[0].name)


def shape_scores(raw: Any, task: str) -> Any:
    """Any model's answer as ``Predictor.scores`` promises it: (n,) of P(1), (n, k), or (n,) of values; float64.

    Raises:
        BadInput: the answer has another shape.
    """
    values = np.asarray(raw, dtype=np.float64)
    if task == "multiclass":
        if values.ndim != 2:
            raise BadInput(f"a multiclass model gave scores of shape {values.shape}, not (rows, classes)")
        return values
    if values.ndim == 2 and values.shape[1] == 2 and task == "binary":
        return np.ascontiguousarray(values[:, 1])
    if values.ndim == 2 and values.shape[1] == 1:
        return values[:, 0]
    if values.ndim != 1:
        raise BadInput(f"a {task} model gave scores of shape {values.shape}, not (rows,)")
    return values


def parse(data: bytes, package: Package, *, threads: int = 1) -> OnnxPredictor:
    """A predictor from the bytes of an ONNX model.

    Raises:
        BadInput, NotTrusted, TooMuch: as ``onnx_guard.inspect``, or the runtime cannot run it.
        Unavailable: onnxruntime is not installed.
    """
    onnx_guard.inspect(data)
    # The official builds tell their maker about models and machines; it is read when the library is first loaded, and the
    # call is for those who loaded it before us. An operator who wants it sets the variable.
    quiet = os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1") == "1"
    try:
        import onnxruntime
    except ImportError:
        raise Unavailable("onnxruntime is not installed", hint="pip install 'holdfast[onnx]'") from None
    if quiet:
        onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 4
    # Spinning threads would burn a core that other replicas need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  other people's parsers raise anything; all of it is bad input here
        raise BadInput(f"ONNX Runtime cannot run this model: {_line(error)}") from None
    return OnnxPredictor(session, task=package.task, width=len(package.inputs))


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
