"""Requests in, answers and errors out, in the shapes MLflow's clients know.

A request's fields are declared per route; a wrong or missing one is a 400 that names it. Error codes and the texts
their users match on are facts of the protocol.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import parse_qsl

import msgspec

from holdfast.core.errors import (
    BadInput,
    Conflict,
    HoldfastError,
    NotAllowed,
    NotFound,
    Refused,
    TooMuch,
    Unavailable,
    UsersTurn,
)
from holdfast.core.records import Json

INT64 = 2**63
Type = Literal["str", "int", "float", "bool", "strings", "objects", "any"]


class ProtocolError(UsersTurn):
    """An error with a code of MLflow's own that the family tree does not tell apart."""

    def __init__(self, code: str, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Field(msgspec.Struct, frozen=True):
    """One field of a request: its type, and whether it must be there (and not empty)."""

    type: Type
    required: bool = False


class Route(msgspec.Struct, frozen=True):
    """One endpoint. ``writes`` says where its effect is stored, so that a repeated request id can be answered; ``quick`` that
    it writes a few rows to the run store and does nothing else, so that it need not have a thread."""

    method: str
    path: str
    handler: Callable[..., Json]
    fields: dict[str, Field]
    writes: Literal["", "runs", "ledger"] = ""
    quick: bool = False


def optional(**types: Type) -> dict[str, Field]:
    """Fields that may be left out."""
    return {name: Field(kind) for name, kind in types.items()}


def required(**types: Type) -> dict[str, Field]:
    """Fields that must be there."""
    return {name: Field(kind, True) for name, kind in types.items()}


# --- requests ---------------------------------------------------------------------------------------------------------


def decode(body: bytes) -> Json:
    """A JSON object from a body (empty: no fields).

    Raises:
        ProtocolError: not JSON, not an object, or nested deeper than the parser goes (it stops by itself).
    """
    if not body.strip():
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("BAD_REQUEST", f"The request body is not JSON: {str(error)[:200]}") from None
    if isinstance(value, str):
        # Old clients send a JSON string that holds the object.
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError:
            value = None
    if not isinstance(value, dict):
        raise ProtocolError("BAD_REQUEST", "The request body must be a JSON object.")
    return value


def query_fields(raw: bytes, fields: Mapping[str, Field]) -> Json:
    """The fields of a query string; numbers and truths are read as what the field is."""
    found: Json = {}
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=10_000, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise ProtocolError("BAD_REQUEST", "The query string cannot be read.") from None
    for name, text in pairs:
        field = fields.get(name)
        kind = field.type if field else "str"
        if kind == "strings":
            found.setdefault(name, []).append(text)
        elif kind == "int":
            found[name] = int(text) if _is_int(text) else text
        elif kind == "bool":
            found[name] = {"true": True, "false": False}.get(text.lower(), text)
        else:
            found[name] = text
    return found


def _is_int(text: str) -> bool:
    return text.lstrip("-").isascii() and text.lstrip("-").isdigit() and len(text) <= 20


def check(values: Json, fields: Mapping[str, Field]) -> Json:
    """The declared fields of a request, checked; undeclared ones are left out, as the protocol allows.

    Raises:
        BadInput: one is missing, or of another type; the text names it.
    """
    checked: Json = {}
    for name, field in fields.items():
        value = values.get(name)
        if value is None:
            if field.required:
                raise missing(name)
            continue
        checked[name] = _typed(name, value, field.type)
        if field.required and value == "":
            raise missing(name)
    return checked


def missing(name: str) -> BadInput:
    """The protocol's text for a field that must be there."""
    return BadInput(
        f"Missing value for required parameter '{name}'. See the API docs for more information about request "
        f"parameters."
    )


def invalid(name: str, value: object, why: str = "") -> BadInput:
    """The protocol's text for a field that cannot be used."""
    shown = msgspec.json.encode(value).decode() if not isinstance(value, str) else f'"{value}"'
    shown = shown if len(shown) <= 200 else shown[:200] + "…"
    return BadInput(f"Invalid value {shown} for parameter '{name}' supplied{': ' + why if why else '.'}")


def _typed(name: str, value: Any, kind: Type) -> Any:
    match kind:
        case "str":
            if not isinstance(value, str):
                raise invalid(name, value)
            return clean(name, value)
        case "bool":
            if not isinstance(value, bool):
                raise invalid(name, value)
            return value
        case "int":
            return integer(name, value)
        case "float":
            return number(name, value)
        case "any":
            return value
        case "strings":
            if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
                raise invalid(name, value)
            return [clean(name, v) for v in value]
        case _:
            if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
                raise invalid(name, value)
            return value


def clean(name: str, text: str) -> str:
    """Text without NUL, which no database keeps."""
    if "\0" in text:
        raise invalid(name, text, "a NUL character cannot be stored")
    return text


def integer(name: str, value: Any) -> int:
    """An int64, from a number or (as protobuf's JSON allows) its text."""
    if isinstance(value, str) and _is_int(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -INT64 <= value < INT64:
        raise invalid(name, value)
    return value


def number(name: str, value: Any) -> float:
    """A double; ``"NaN"``, ``"Infinity"`` and ``"-Infinity"`` are how JSON carries those."""
    if isinstance(value, str):
        named = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
        if value in named:
            return named[value]
        raise invalid(name, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(name, value)
    try:
        return float(value)
    except OverflowError:
        raise invalid(name, str(value)) from None


def objects(name: str, values: Sequence[Any], fields: Mapping[str, Field]) -> list[Json]:
    """Each object of a list, checked; errors name it like ``metrics[3].key``."""
    found = []
    for place, value in enumerate(values):
        one: Json = {}
        for field_name, field in fields.items():
            inner = value.get(field_name)
            where = f"{name}[{place}].{field_name}"
            if inner is None:
                if field.required:
                    raise missing(where)
                continue
            one[field_name] = _typed(where, inner, field.type)
        found.append(one)
    return found


# --- answers ----------------------------------------------------------------------------------------------------------


def encode(value: Json) -> bytes:
    """An answer as JSON."""
    return msgspec.json.encode(value)


def shown_number(value: float) -> float | str:
    """A double as JSON carries it."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def failure(error: HoldfastError) -> tuple[int, Json]:
    """(status, body) of an error. The hint follows the message."""
    status, code = _code(error)
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    return status, {"error_code": code, "message": message}


def _code(error: HoldfastError) -> tuple[int, str]:
    match error:
        case ProtocolError():
            return error.status, error.code
        case NotFound():
            return 404, "RESOURCE_DOES_NOT_EXIST"
        case Conflict() if error.number == "HF421":
            return 400, "INVALID_PARAMETER_VALUE"
        case Conflict():
            return 400, "RESOURCE_ALREADY_EXISTS"
        case NotAllowed():
            return error.status, "UNAUTHENTICATED" if error.status == 401 else "PERMISSION_DENIED"
        case TooMuch():
            return 413, "BAD_REQUEST"
        case Unavailable():
            return 503, "TEMPORARILY_UNAVAILABLE"
        case Refused():
            return 400, "INVALID_PARAMETER_VALUE"
        case UsersTurn() if error.status == 408:
            return 408, "DEADLINE_EXCEEDED"
        case UsersTurn():
            return 400, "INVALID_PARAMETER_VALUE"
    return 500, "INTERNAL_ERROR"
