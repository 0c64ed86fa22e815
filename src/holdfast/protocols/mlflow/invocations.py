"""MLflow's scoring protocol on a replica: ``POST /invocations`` (JSON and CSV), ``/ping``, ``/health``, ``/version``.

Body shapes as MLflow's documentation of the scoring server names them: ``dataframe_split``, ``dataframe_records``,
``instances``, ``inputs``. Rows are bound by column name.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec

from holdfast.core.errors import BadInput, HoldfastError
from holdfast.core.records import FieldSpec
from holdfast.serving.predict import Answer, State
from holdfast.serving.replica import Replica
from holdfast.serving.wire import Request, Response

_SHAPES = ("dataframe_split", "dataframe_records", "instances", "inputs")
_HINT = f"send one of {', '.join(_SHAPES)}"
# The MLflow release whose scoring protocol this follows; clients only print it.
_VERSION = b"3.0.0"


def mount(replica: Replica) -> None:
    """Add the protocol to a replica."""
    for path in ("/ping", "/health"):
        replica.route("GET", path, lambda _: Response(200 if replica.predictions.state is not None else 503, b"\n"))
    replica.route("GET", "/version", lambda _: Response(200, _VERSION, b"text/plain"))

    def invocations(request: Request) -> Response | Awaitable[Response]:
        kind = request.headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
        if kind not in (b"application/json", b"text/csv"):
            return _problem(415, "BAD_REQUEST", "send application/json or text/csv")
        try:
            read = from_csv if kind == b"text/csv" else from_json

            def decode(state: State) -> tuple[list[tuple[Any, ...]], Any]:
                return state.schema.convert(read(request.body, state.schema.fields)), None

            answers = replica.predictions.answer(request, decode)
        except HoldfastError as problem:
            return _refused(problem)
        return _answer(answers) if isinstance(answers, list) else _later(answers)

    replica.route("POST", "/invocations", invocations)


async def _later(answers: Awaitable[list[Answer]]) -> Response:
    try:
        return _answer(await answers)
    except HoldfastError as problem:
        return _refused(problem)


def _answer(answers: list[Answer]) -> Response:
    body = {
        "predictions": [a.output for a in answers],
        "scores": [a.score for a in answers],
        "ids": [a.id for a in answers],
    }
    return Response(200, msgspec.json.encode(body))


def from_json(body: bytes, fields: Sequence[FieldSpec]) -> list[dict[str, Any]]:
    """Rows of a JSON body.

    Raises:
        BadInput: it has none of the four shapes, or the shape is not filled.
    """
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise BadInput("the JSON is nested too deeply", hint=_HINT) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise BadInput(f"not JSON: {problem}", hint=_HINT) from None
    shapes = [s for s in _SHAPES if s in value] if isinstance(value, dict) else []
    if len(shapes) != 1:
        raise BadInput("the body has not exactly one of the input shapes", hint=_HINT)
    extra = set(value) - {shapes[0], "params"}
    if extra:
        raise BadInput(f"unknown key {sorted(extra)[0]!r}", hint=_HINT)
    if value.get("params"):
        raise BadInput("this model takes no params")
    data = value[shapes[0]]
    if shapes[0] == "dataframe_split":
        return _split(data)
    if isinstance(data, dict):
        return _columns(data)
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        names = ", ".join(f.name for f in fields)
        raise BadInput(
            "rows must name their fields", hint=f"send dataframe_split with columns, or records; fields: {names}"
        )
    return data


def _split(data: Any) -> list[dict[str, Any]]:
    if (
        not isinstance(data, dict)
        or not isinstance(data.get("columns"), list)
        or not isinstance(data.get("data"), list)
    ):
        raise BadInput("dataframe_split needs columns and data")
    columns = data["columns"]
    if len(set(map(str, columns))) != len(columns) or not all(isinstance(c, str) for c in columns):
        raise BadInput("dataframe_split has a column twice, or one that is not text")
    out = []
    for i, row in enumerate(data["data"]):
        if not isinstance(row, list) or len(row) != len(columns):
            raise BadInput(f"row {i} of dataframe_split does not have {len(columns)} values")
        out.append(dict(zip(columns, row, strict=True)))
    return out


def _columns(data: dict[str, Any]) -> list[dict[str, Any]]:
    columns = {name: v if isinstance(v, list) else [v] for name, v in data.items()}
    sizes = {len(v) for v in columns.values()}
    if len(sizes) != 1:
        raise BadInput(f"columns have different lengths: {sorted(sizes)}")
    flat = {n: [x[0] if isinstance(x, list) and len(x) == 1 else x for x in v] for n, v in columns.items()}
    return [dict(zip(flat, values, strict=True)) for values in zip(*flat.values(), strict=True)]


def from_csv(body: bytes, fields: Sequence[FieldSpec]) -> list[dict[str, Any]]:
    """Rows of a CSV body with a header; an empty cell is null.

    Raises:
        BadInput: not text, a row too long or short, or a cell that is not of its field's type.
    """
    try:
        reader = csv.reader(io.StringIO(body.decode("utf-8")), strict=True)
        header = next(reader, [])
        kinds = {f.name: f.dtype for f in fields}
        out = []
        for i, cells in enumerate(reader):
            if not cells:
                continue
            if len(cells) != len(header):
                raise BadInput(f"row {i} has {len(cells)} cells, the header {len(header)}")
            out.append({n: _cell(i, n, c, kinds.get(n, "string")) for n, c in zip(header, cells, strict=True)})
    except (UnicodeDecodeError, csv.Error) as problem:
        raise BadInput(f"not CSV: {problem}", hint="send UTF-8 text with a header line") from None
    return out


def _cell(row: int, name: str, text: str, dtype: str) -> Any:
    if text == "":
        return None
    try:
        if dtype == "float64":
            return float(text)
        if dtype == "int64":
            return int(text)
    except ValueError:
        raise BadInput(f"row {row}: field {name!r} is {text[:40]!r}, not a number") from None
    if dtype == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    return text


def _refused(problem: HoldfastError) -> Response:
    code = (
        "BAD_REQUEST"
        if problem.status < 500
        else "TEMPORARILY_UNAVAILABLE"
        if problem.status == 503
        else "INTERNAL_ERROR"
    )
    text = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
    return _problem(problem.status, code, text)


def _problem(status: int, code: str, message: str) -> Response:
    return Response(status, msgspec.json.encode({"error_code": code, "message": message}))
