"""UBJSON (draft 12) as XGBoost writes it, read to look inside before the library does. Bounded by the bytes there are."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from holdfast.core.errors import BadInput, TooMuch

DEPTH = 64
_NUMBERS = {b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}
_LETTERS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q", b"d": ">f", b"D": ">d"}
_CONSTANTS = {b"Z": None, b"T": True, b"F": False, b"N": None}


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if size < 0 or size > len(self.data) - self.at:
            raise BadInput("this file claims more bytes than it has")
        found = self.data[self.at : self.at + size]
        self.at += size
        return found

    def marker(self) -> bytes:
        found = self.take(1)
        while found == b"N":
            found = self.take(1)
        return found

    def number(self, kind: bytes) -> Any:
        code = _LETTERS.get(kind)
        if code is None:
            raise BadInput(f"a number was expected where {kind!r} stands")
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def length(self) -> int:
        count = self.number(self.marker())
        if not isinstance(count, int) or count < 0:
            raise BadInput("a length is negative or no whole number")
        return count

    def text(self) -> str:
        return self.take(self.length()).decode("utf-8", "replace")

    def value(self, kind: bytes, depth: int) -> Any:
        if depth > DEPTH:
            raise TooMuch(f"this file nests deeper than {DEPTH}")
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if kind in _NUMBERS:
            return self.number(kind)
        if kind == b"S":
            return self.text()
        if kind == b"C":
            return self.take(1).decode("latin-1")
        if kind == b"[":
            return self.array(depth)
        if kind == b"{":
            return self.object(depth)
        raise BadInput(f"{kind!r} is no UBJSON value")

    def header(self) -> tuple[bytes | None, int | None]:
        """The optional type and count of a container."""
        kind: bytes | None = None
        count: int | None = None
        if self.data[self.at : self.at + 1] == b"$":
            self.take(1)
            kind = self.take(1)
        if self.data[self.at : self.at + 1] == b"#":
            self.take(1)
            count = self.length()
        elif kind is not None:
            raise BadInput("a typed container has no length")
        # Each member takes at least a byte, but for constants, of which nobody needs millions.
        if (
            count is not None
            and count > len(self.data) - self.at
            and (kind is None or kind not in _CONSTANTS or count > 1 << 20)
        ):
            raise BadInput("a container claims more members than the file has bytes")
        return kind, count

    def array(self, depth: int) -> Any:
        kind, count = self.header()
        if kind in _NUMBERS and count is not None:
            dtype = np.dtype(_NUMBERS[kind])
            return np.frombuffer(self.take(count * dtype.itemsize), dtype=dtype)
        found: list[Any] = []
        while count is None or len(found) < count:
            one = kind or self.marker()
            if count is None and one == b"]":
                break
            found.append(self.value(one, depth + 1))
        return found

    def object(self, depth: int) -> dict[str, Any]:
        kind, count = self.header()
        found: dict[str, Any] = {}
        members = 0
        while count is None or members < count:
            if count is None and self.data[self.at : self.at + 1] == b"}":
                self.take(1)
                break
            name = self.text()
            found[name] = self.value(kind or self.marker(), depth + 1)
            members += 1
        return found


def read(data: bytes) -> Any:
    """The value in UBJSON bytes; typed arrays of numbers as NumPy arrays.

    Raises:
        BadInput: it is no UBJSON, or claims what it does not hold. TooMuch: it nests absurdly deep.
    """
    reader = _Reader(data)
    found = reader.value(reader.marker(), 0)
    if reader.at != len(data):
        raise BadInput("the file goes on after its value")
    return found
