"""How a thing is called: hashes, ids, names, instants, durations.

Instants are int64 microseconds since 1970-01-01 UTC everywhere inside Holdfast. Nanoseconds are floored, naive
input is read as UTC (``on_naive`` tells the caller, who gives notice once).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import time
import tokenize
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from holdfast.core.errors import BadInput

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _END = -62_135_596_800_000_000, 253_402_300_800_000_000  # the years that datetime knows
_UNITS = {"us": 1, "ms": 1_000, "s": SECOND, "m": MINUTE, "min": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|m|h|d|w)\s*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}\Z")
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
# Each byte as one of 32 letters, all equally likely.
_LETTERS = bytes(_CROCKFORD.encode()[b & 31] for b in range(256))


def canonical(value: object) -> bytes:
    """The one byte string a value is hashed and stored as: JSON, keys sorted, no spaces, UTF-8."""
    return msgspec.json.encode(value, order="sorted")


def digest(value: object) -> str:
    """SHA-256 (64 hex) of bytes as they are, of anything else in canonical form."""
    return hashlib.sha256(value if isinstance(value, bytes) else canonical(value)).hexdigest()


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, read in pieces.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with Path(path).open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def new_id(at: int | None = None) -> str:
    """A 26 character id (ULID: 48 bits of milliseconds, 80 of chance), sortable by time of making."""
    ms = (time.time_ns() // 1_000_000) if at is None else max(at // 1000, 0)
    return _time_part(ms) + secrets.token_bytes(16).translate(_LETTERS).decode()


def _time_part(ms: int) -> str:
    ms &= (1 << 48) - 1
    return "".join([_CROCKFORD[(ms >> shift) & 31] for shift in range(45, -1, -5)])


class Ids:
    """``new_id`` for one thread that makes many: chance is drawn for many at a time, the time written once a millisecond."""

    _MANY = 256

    def __init__(self) -> None:
        self._ms = -1
        self._time = ""
        self._pool = ""
        self._at = 0

    def __call__(self) -> str:
        ms = time.time_ns() // 1_000_000
        if ms != self._ms:
            self._ms, self._time = ms, _time_part(ms)
        at = self._at
        if at == len(self._pool):
            self._pool, at = secrets.token_bytes(16 * self._MANY).translate(_LETTERS).decode(), 0
        self._at = at + 16
        return self._time + self._pool[at : at + 16]


def check_name(name: object, kind: str) -> str:
    """Return ``name`` if it follows the grammar for names, which keeps every name safe in a path, URL and SQL.

    Raises:
        BadInput: it does not.
    """
    if not isinstance(name, str) or not _NAME.match(name):
        raise BadInput(
            f"{name!r} cannot be the name of a {kind}",
            hint="a name starts with a letter or _, goes on with letters, digits, _ . -, and has at most 128 characters",
        )
    return name


def to_us(value: object, *, on_naive: Callable[[], None] | None = None) -> int:
    """An instant as microseconds UTC, from int (taken as microseconds), datetime, date, or ISO 8601 text.

    Raises:
        BadInput: not an instant, or a number of microseconds outside the years 1 to 9999.
    """
    if isinstance(value, bool):
        raise BadInput(f"{value!r} is not an instant")
    if isinstance(value, int):
        return _within(value)
    if isinstance(value, str):
        text = value.strip()
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            raise BadInput(f"{text!r} is not an instant", hint="write it like 2013-03-01T06:00:00Z") from None
    if hasattr(value, "to_pydatetime"):
        value = value.to_pydatetime()
    if not isinstance(value, datetime) and hasattr(value, "isoformat"):
        value = datetime.fromisoformat(value.isoformat())
    if isinstance(value, datetime):
        if value.tzinfo is None:
            if on_naive is not None:
                on_naive()
            value = value.replace(tzinfo=UTC)
        delta = value - _EPOCH
        return _within((delta.days * 86_400 + delta.seconds) * SECOND + delta.microseconds)
    raise BadInput(f"{value!r} is not an instant", hint="write it like 2013-03-01T06:00:00Z")


def _within(us: int) -> int:
    if _FIRST <= us < _END:
        return us
    said = str(us) if abs(us) < 1 << 64 else "so large a number"
    raise BadInput(
        f"{said} is not an instant in microseconds: it lies outside the years 1 to 9999",
        hint="write it like 2013-03-01T06:00:00Z, or in microseconds (not nanoseconds)",
    )


def from_us(us: int) -> datetime:
    """Microseconds UTC as an aware datetime."""
    return _EPOCH + timedelta(microseconds=us)


def iso(us: int) -> str:
    """Microseconds UTC as people read it: ``2013-03-01T06:00:00Z``, with a fraction only where there is one."""
    text = from_us(us).isoformat()
    return text.replace("+00:00", "Z")


def duration_us(value: object) -> int:
    """A length of time in microseconds, from timedelta, int microseconds, or text like ``7d``, ``1h30m``, ``250ms``.

    Raises:
        BadInput: not a length of time, or negative.
    """
    if isinstance(value, timedelta):
        result = (value.days * 86_400 + value.seconds) * SECOND + value.microseconds
    elif isinstance(value, int) and not isinstance(value, bool):
        result = value
    elif isinstance(value, str):
        result, at = 0, 0
        while at < len(value):
            match = _DURATION.match(value, at)
            if match is None:
                break
            result += round(float(match[1]) * _UNITS[match[2]])
            at = match.end()
        if at == 0 or at != len(value):
            raise BadInput(f"{value!r} is not a length of time", hint="write it like 7d, 3h, 30m, 250ms or 1h30m")
    else:
        raise BadInput(f"{value!r} is not a length of time", hint="write it like 7d, 3h, 30m, 250ms or 1h30m")
    if result < 0:
        raise BadInput(f"{value!r} is negative", hint="a length of time is zero or more")
    return result


def duration_text(us: int) -> str:
    """Microseconds as the shortest exact text: ``7d``, ``1h30m``, ``250ms``; the name windows carry in columns."""
    if us == 0:
        return "0s"
    parts = []
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, us = divmod(us, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def function_source(fn: Callable[..., Any]) -> str:
    """The dedented source of a function, without its decorators.

    Raises:
        BadInput: the source cannot be read (made in a shell by exec, or built in).
    """
    import inspect
    import textwrap

    try:
        text = textwrap.dedent(inspect.getsource(fn))
    except (OSError, TypeError):
        raise BadInput(
            f"the source of {getattr(fn, '__name__', fn)!r} cannot be read",
            hint="define it with def in a file or notebook cell",
        ) from None
    lines = text.splitlines(keepends=True)
    start = next((i for i, line in enumerate(lines) if line.startswith(("def ", "async def "))), None)
    return "".join(lines[start:]) if start is not None else text


def function_digest(fn: Callable[..., Any]) -> str:
    """A hash of what a function means: its tokens without comments, layout and docstring, its defaults, the
    constants and functions of its module that it names. Stable over reformatting and Python versions."""
    return digest(_function_tokens(fn, set()))


def _function_tokens(fn: Callable[..., Any], seen: set[str]) -> list[object]:
    tokens: list[object] = []
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
    previous = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(function_source(fn)).readline):
        if token.type in skip:
            continue
        bare_string = token.type == tokenize.STRING and previous in (tokenize.NEWLINE, tokenize.INDENT)
        previous = token.type
        if bare_string or token.type in (tokenize.NEWLINE,):
            tokens.append("\n")
        elif token.type == tokenize.INDENT:
            tokens.append("{")
        elif token.type == tokenize.DEDENT:
            tokens.append("}")
        else:
            tokens.append(token.string)
    names = getattr(getattr(fn, "__code__", None), "co_names", ())
    scope = getattr(fn, "__globals__", {})
    for name in sorted(set(names)):
        value = scope.get(name)
        if isinstance(value, bool | int | float | str | bytes | tuple) or (value is None and name in scope):
            tokens.append([name, repr(value)])
        elif callable(value) and getattr(value, "__globals__", None) is scope and name not in seen:
            seen.add(name)
            tokens.append([name, _function_tokens(value, seen)])
    return tokens
