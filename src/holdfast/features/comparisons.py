"""The plainest ``where`` expressions as functions: comparisons of declared columns with constants, under AND and OR.

They say of a row what the SQL engine says of it, and are the only ones here for which that is so for every value: numbers
compare as one type, text by code points, nothing is cast, nothing can fail. ``filters`` asks the engine first.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from holdfast.core.records import Json

Told: TypeAlias = Callable[[Json], "bool | None"]
"""What an expression is for a row: true, false, or null."""
TYPES: dict[str, type] = {"int64": int, "float64": float, "string": str}
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "<>": operator.ne, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_DIGITS = 15
"""Numbers of so many digits are the same as a decimal and as a float."""
_token = re.compile(
    r"[ \t\n]*(?:(?P<text>'(?:[^'\x00]|'')*')(?!')|(?P<number>-?[0-9]+(?:\.[0-9]+)?)(?![\w.])|(?P<word>[A-Za-z_][A-Za-z0-9_]*)(?![\w.$'\"(])"
    r"|(?P<sign><=|>=|<>|!=|=|<|>)(?![-+*/<>~!@#%^&|`?=]*[<>~!@#%^&|`?=*/])|(?P<bracket>[()])|(?P<end>\Z))"
).match


class Comparison(NamedTuple):
    """``told`` looks at ``columns`` only, whose values are null or of these types."""

    told: Told
    columns: Mapping[str, type]


class _Other(Exception):
    """It is some other expression."""


def read(expression: str, schema: Mapping[str, str]) -> Comparison | None:
    """The expression as a function, or None where it is not of these."""
    try:
        reader = _Reader(expression, schema)
        told = reader.either()
        reader.take("end")
    except (_Other, RecursionError):
        return None
    return Comparison(told, reader.columns)


class _Reader:
    def __init__(self, text: str, schema: Mapping[str, str]) -> None:
        self._text, self._schema = text, schema
        self.columns: dict[str, type] = {}
        self._next(0)

    def _next(self, at: int) -> None:
        found = _token(self._text, at)
        if found is None or found.lastgroup is None:
            raise _Other
        self._kind, self._word, self._at = found.lastgroup, found[found.lastgroup], found.end()

    def take(self, kind: str, *words: str) -> str:
        """The next token, which has to be one of these."""
        word = self._word
        if self._kind != kind or (words and word.upper() not in words):
            raise _Other
        if kind != "end":
            self._next(self._at)
        return word

    def _has(self, kind: str, word: str) -> bool:
        if self._kind == kind and self._word.upper() == word:
            self._next(self._at)
            return True
        return False

    def either(self) -> Told:
        parts = [self._both()]
        while self._has("word", "OR"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else _until(True, parts)

    def _both(self) -> Told:
        parts = [self._one()]
        while self._has("word", "AND"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else _until(False, parts)

    def _one(self) -> Told:
        if self._has("bracket", "("):
            inner = self.either()
            self.take("bracket", ")")
            return inner
        name = self.take("word")
        expected = TYPES.get(self._schema.get(name, ""))
        if expected is None:
            raise _Other
        self.columns[name] = expected
        if self._has("word", "IS"):
            known = self._has("word", "NOT")
            self.take("word", "NULL")
            return lambda row: (row[name] is None) is not known
        compare = _OPERATORS[self.take("sign")]
        if expected is str:
            constant: Any = self.take("text")[1:-1].replace("''", "'")
        else:
            constant = _number(self.take("number"), expected)

        def told(row: Json) -> bool | None:
            value = row[name]
            return None if value is None else compare(value, constant)

        return told


def _number(text: str, expected: type) -> int | float:
    if len(text.replace(".", "").lstrip("-")) > _DIGITS or (expected is int and "." in text):
        raise _Other
    return expected(text)  # type: ignore[no-any-return]


def _until(decides: bool, parts: Sequence[Told]) -> Told:
    """OR (where true decides) or AND (where false does)."""

    def told(row: Json) -> bool | None:
        found: bool | None = not decides
        for part in parts:
            one = part(row)
            if one is decides:
                return decides
            if one is None:
                found = None
        return found

    return told
