"""Pages over rows that are sorted here and not in SQL (the registry's: hundreds, not millions)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from functools import cmp_to_key
from typing import Any, TypeVar

import msgspec

from holdfast.core.errors import BadInput
from holdfast.core.identity import digest

T = TypeVar("T")
Key = tuple[Callable[[Any], Any], bool]


def page(
    rows: Sequence[T], keys: Sequence[Key], *, limit: int, token: str | None, query: Sequence[Any]
) -> tuple[list[T], str | None]:
    """One page of ``rows`` sorted by ``keys`` (value, ascending; together unique), and the token of the next. The token
    says where the last row stood, so rows added meanwhile shift nothing."""

    def compare(a: Sequence[Any], b: Sequence[Any]) -> int:
        for (_, ascending), x, y in zip(keys, a, b, strict=True):
            if x != y:
                return (-1 if x < y else 1) * (1 if ascending else -1)
        return 0

    mark = digest(msgspec.to_builtins(list(query)))[:12]
    placed = sorted((([value(r) for value, _ in keys], r) for r in rows), key=lambda p: cmp_to_key(compare)(p[0]))
    if token:
        after = _read(token, mark, placed[0][0] if placed else None)
        placed = [p for p in placed if compare(p[0], after) > 0]
    following = None
    if len(placed) > limit:
        following = base64.urlsafe_b64encode(msgspec.json.encode([mark, placed[limit - 1][0]])).decode()
    return [r for _, r in placed[:limit]], following


def _read(token: str, mark: str, example: Sequence[Any] | None) -> list[Any]:
    try:
        belongs, values = msgspec.json.decode(base64.urlsafe_b64decode(token), type=tuple[str, list[Any]])
    except (ValueError, TypeError, binascii.Error, msgspec.DecodeError):
        belongs, values = "", []
    fits = example is None or [type(v) for v in values] == [type(v) for v in example]
    if belongs != mark or not fits:
        raise BadInput("Invalid page token", hint="pass back next_page_token unchanged, with the same filter and order")
    return values
