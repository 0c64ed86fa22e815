"""A request against a model's signature: by name, never by position.

The happy path is one typed decode in C (a msgspec struct made from the signature). Only a request that fails it is
looked at again, slowly, to name the row, the field and the mend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from holdfast.core.errors import BadData, BadInput, HoldfastError, TooMuch, did_you_mean
from holdfast.core.identity import to_us
from holdfast.core.records import FieldSpec

_TYPES: dict[str, Any] = {"int64": int, "float64": float, "string": str, "bool": bool, "timestamp": int | str}
_SAY = {
    "int64": "a whole number",
    "float64": "a number",
    "string": "text",
    "bool": "true or false",
    "timestamp": "an instant",
}
_INT64 = 1 << 63


class Row(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Base of the row types made per signature."""


class Schema:
    """What a caller may send: the fields of one signature, and ``optional`` ones that only other arms need.

    ``names`` is the order of the values in the tuples that ``decode`` returns.
    """

    def __init__(
        self, fields: Sequence[FieldSpec], *, optional: Sequence[FieldSpec] = (), max_rows: int = 100_000
    ) -> None:
        mine = {f.name for f in fields}
        self.fields = [*fields, *(f for f in optional if f.name not in mine)]
        self.required = [f.name for f in fields if not f.nullable]
        self.names = tuple(f.name for f in self.fields)
        self.max_rows = max_rows
        self._timestamps = [i for i, f in enumerate(self.fields) if f.dtype == "timestamp"]
        self._known = {f.name: f for f in self.fields}
        members: list[Any] = []
        for i, f in enumerate(self.fields):
            kind = _annotated(f)
            if f.nullable or f.name not in mine:
                members.append((f"f{i}", kind | None, None))
            else:
                members.append((f"f{i}", kind))
        self._optional = {f.name for f in self.fields if f.name not in mine}
        row: Any = msgspec.defstruct(
            "Row", members, bases=(Row,), kw_only=True, rename={f"f{i}": n for i, n in enumerate(self.names)}
        )
        self._list: Any = list[row]
        body = msgspec.defstruct(
            "Body",
            [("rows", list[row]), ("request_time", list[int | str] | int | str | None, None)],
            forbid_unknown_fields=True,
        )
        self._decoder: Any = msgspec.json.Decoder(body)
        self._tuple = msgspec.structs.astuple

    def decode(self, body: bytes) -> tuple[list[tuple[Any, ...]], Any]:
        """The rows of ``{"rows": [{…}, …]}`` as tuples in the order of ``names``, and the raw ``request_time``.

        Raises:
            BadInput: not JSON of that shape.
            BadData: a field is missing, extra, null, of the wrong type or out of a strict range; names row and field.
            TooMuch: more rows than ``max_rows``.
        """
        try:
            parsed = self._decoder.decode(body)
            rows = parsed.rows
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return self._slowly(body)
        return self._tuples(rows), parsed.request_time

    def convert(self, rows: Sequence[Any]) -> list[tuple[Any, ...]]:
        """As ``decode``, for rows that are already dicts."""
        try:
            made = msgspec.convert(rows, self._list)
        except (msgspec.MsgspecError, RecursionError):
            made = msgspec.convert(self._whole(rows), self._list)
        return self._tuples(made)

    def _tuples(self, rows: list[Any]) -> list[tuple[Any, ...]]:
        if len(rows) > self.max_rows:
            raise TooMuch(
                f"{len(rows)} rows in one request; at most {self.max_rows}",
                hint="send several requests, or use `holdfast batch`",
            )
        if not rows:
            raise BadInput("the request has no rows", hint='send {"rows": [{…}]}', number="HF102")
        out = [self._tuple(r) for r in rows]
        if self._timestamps:
            out = [self._instants(i, row) for i, row in enumerate(out)]
        return out

    def _instants(self, number: int, row: tuple[Any, ...]) -> tuple[Any, ...]:
        values = list(row)
        for i in self._timestamps:
            if values[i] is not None:
                try:
                    values[i] = to_us(values[i])
                except HoldfastError as problem:
                    raise _bad(number, self.names[i], problem.message, problem.hint, "HF134") from None
        return tuple(values)

    # --- explaining a refusal ---------------------------------------------------------------------------------------

    def _slowly(self, body: bytes) -> tuple[list[tuple[Any, ...]], Any]:
        """What the typed decode refused: raise with row, field and mend, or take it (whole numbers written 2.0)."""
        example = (
            '{"rows": [{'
            + ", ".join(f'"{n}": …' for n in self.names[:3])
            + ("}]}" if len(self.names) <= 3 else ", …}]}")
        )
        try:
            value = msgspec.json.decode(body)
        except RecursionError:
            raise BadInput("the JSON is nested too deeply", hint=f"send {example}", number="HF103") from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            raise BadInput(
                f"not JSON: {problem}", hint=f"send {example}; JSON has no NaN, use null", number="HF101"
            ) from None
        if not isinstance(value, dict) or not isinstance(value.get("rows"), list):
            raise BadInput("the request has no list of 'rows'", hint=f"send {example}", number="HF102")
        extra = sorted(set(value) - {"rows", "request_time"})
        if extra:
            raise BadInput(f"unknown key {extra[0]!r} beside 'rows'", hint=f"send {example}", number="HF104")
        rows = self._whole(value["rows"])
        when = value.get("request_time")
        for instant in when if isinstance(when, list) else [when]:
            if instant is not None and (isinstance(instant, bool) or not isinstance(instant, int | str)):
                raise BadInput(
                    "'request_time' is not an instant or a list of them",
                    hint="send microseconds or ISO 8601",
                    number="HF105",
                )
        return self._tuples(msgspec.convert(rows, self._list)), when

    def _whole(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """The rows with whole numbers as int; raises for the first that cannot be used."""
        if len(rows) > self.max_rows:
            raise TooMuch(
                f"{len(rows)} rows in one request; at most {self.max_rows}",
                hint="send several requests, or use `holdfast batch`",
            )
        whole = [f.name for f in self.fields if f.dtype == "int64"]
        out = []
        for i, row in enumerate(rows):
            if not isinstance(row, dict):
                raise BadData(f"row {i} is not an object", hint="a row names its fields: {name: value}", number="HF131")
            problem = self._explain_row(i, row)
            if problem is not None:
                raise problem
            out.append({**row, **{n: int(row[n]) for n in whole if isinstance(row.get(n), float)}})
        return out

    def _explain_row(self, i: int, row: dict[str, Any]) -> HoldfastError | None:
        for name in row:
            if name not in self._known:
                return _bad(
                    i, name, "is not a field of this model", did_you_mean(str(name), self.names, kind="field"), "HF132"
                )
        for f in self.fields:
            if f.name not in row:
                if not f.nullable and f.name not in self._optional:
                    return _bad(i, f.name, "is missing", f"send {_SAY[f.dtype]}", "HF131")
                continue
            problem = self._explain_value(i, f, row[f.name])
            if problem is not None:
                return problem
        return None

    def _explain_value(self, i: int, f: FieldSpec, value: Any) -> HoldfastError | None:
        if value is None:
            if f.nullable or f.name in self._optional:
                return None
            return _bad(i, f.name, "is null", f"send {_SAY[f.dtype]}; this field may not be null", "HF133")
        allowed: Any = {"int64": int, "float64": (int, float), "string": str, "bool": bool, "timestamp": (int, str)}[
            f.dtype
        ]
        whole = f.dtype == "int64" and isinstance(value, float) and value.is_integer()
        if (not isinstance(value, allowed) and not whole) or (isinstance(value, bool) and f.dtype != "bool"):
            return _bad(i, f.name, f"is {_kind(value)}, not {_SAY[f.dtype]}", f"send {_SAY[f.dtype]}", "HF134")
        if isinstance(value, float) and not math.isfinite(value):
            return _bad(i, f.name, f"is {value}", "send a finite number, or null", "HF135")
        if isinstance(value, int) and f.dtype in ("int64", "timestamp") and not -_INT64 <= value < _INT64:
            return _bad(i, f.name, "does not fit in 64 bits", "send a smaller number", "HF135")
        if f.strict and f.dtype in ("int64", "float64"):
            low, high = f.low if f.low is not None else -math.inf, f.high if f.high is not None else math.inf
            if not low <= value <= high:
                return _bad(
                    i,
                    f.name,
                    f"is {value:g}, outside [{low:g}, {high:g}]",
                    "the signature is strict about this range",
                    "HF136",
                )
        return None


def _annotated(f: FieldSpec) -> Any:
    kind = _TYPES[f.dtype]
    if f.dtype == "int64":
        low = math.ceil(f.low) if f.strict and f.low is not None else -_INT64
        high = math.floor(f.high) if f.strict and f.high is not None else _INT64 - 1
        return Annotated[int, msgspec.Meta(ge=max(low, -_INT64), le=min(high, _INT64 - 1))]
    if f.dtype == "float64" and f.strict and (f.low is not None or f.high is not None):
        bounds: dict[str, Any] = {}
        if f.low is not None:
            bounds["ge"] = f.low
        if f.high is not None:
            bounds["le"] = f.high
        return Annotated[float, msgspec.Meta(**bounds)]
    return kind


def _kind(value: Any) -> str:
    names = {bool: "true/false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _bad(row: int, name: str, what: str, hint: str | None, number: str) -> BadData:
    return BadData(f"row {row}: field {name!r} {what}", hint=hint, number=number)
