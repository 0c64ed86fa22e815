"""How keys and rows become bytes, once and for all: canonical, typed (the integer 1 is not the string "1"), 64-bit exact."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import msgspec

from holdfast.core.errors import BadInput
from holdfast.core.identity import to_us

NEVER = -(1 << 63)
"""The event time of rows of a static source: before everything."""

INT_LOW, INT_HIGH = -(1 << 63), (1 << 63) - 1
_LONGEST = 400
_pack = msgspec.msgpack.Encoder().encode

LATEST = b"L"
BASE = b"B"
TAIL = b"T"


def view_prefix(version: str) -> bytes:
    """Eight bytes that all keys of one view version start with."""
    return bytes.fromhex(version[:16])


def encode_key(values: Sequence[Any]) -> bytes:
    """One entity's join key values (none of them null) as bytes: MessagePack, hashed where a store could not hold it."""
    packed = _pack(values)
    if len(packed) > _LONGEST:
        return b"\xc1" + hashlib.blake2b(packed, digest_size=32).digest()
    return packed


def dtype_of(value: object) -> str:
    """The column type of one plain value."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64"
    if isinstance(value, float):
        return "float64"
    if isinstance(value, datetime):
        return "timestamp"
    return "string"


def plain(value: Any) -> Any:
    """A value as rows carry it: None (NaN included), bool, int, float, str, or an aware datetime in UTC.

    Raises:
        BadInput: nested or binary values, integers beyond 64 bits.
    """
    kind = type(value)
    if value is None or kind is str or kind is bool:
        return value
    if kind is int:
        if not INT_LOW <= value <= INT_HIGH:
            raise BadInput(f"the integer {value} does not fit 64 bits")
        return value
    if kind is float:
        return None if value != value else value
    if isinstance(value, datetime):
        if hasattr(value, "to_pydatetime"):
            value = value.to_pydatetime(warn=False)
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if hasattr(value, "item") and not isinstance(value, bytes):
        return plain(value.item())
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "as_integer_ratio"):
        return float(value)
    raise BadInput(
        f"a value of type {type(value).__name__} cannot be in a feature row",
        hint="use numbers, text, booleans or instants",
    )


def cast(value: Any, dtype: str) -> Any:
    """``value`` (as ``plain`` gives it) as ``dtype``; timestamps become microseconds UTC. Exact or refused.

    Raises:
        BadInput: it is not such a value.
    """
    if value is None:
        return None
    kind = type(value)
    if dtype == "float64":
        if kind is float:
            return value
        if kind is int or kind is bool:
            return float(value)
    elif dtype == "int64":
        if kind is int or kind is bool:
            return int(value)
        if kind is float and value.is_integer() and INT_LOW <= value < -float(INT_LOW):
            return int(value)
    elif dtype == "string":
        if kind is str:
            return value
    elif dtype == "bool":
        if kind is bool:
            return value
        if value in (0, 1):
            return bool(value)
    elif dtype == "timestamp":
        return to_us(value)
    raise BadInput(f"{value!r} is not {'an' if dtype == 'int64' else 'a'} {dtype}")


def content_id(row: Mapping[str, Any]) -> int:
    """What one event is recognised by: a signed 64-bit BLAKE2b over its non-null columns, in name order. 5 and 5.0 are
    the same, a null and an absent column are the same."""
    items: list[Any] = []
    for name in sorted(row):
        value = row[name]
        if value is None:
            continue
        if type(value) is float and value.is_integer() and math.fabs(value) < 2**53:
            value = int(value)
        items.append(name)
        items.append(value)
    return int.from_bytes(hashlib.blake2b(_pack(items), digest_size=8).digest(), "little", signed=True)
