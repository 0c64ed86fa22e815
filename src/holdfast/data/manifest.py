"""A folder's manifest: DVC's ``.dir`` object, byte for byte.

Python's ``json.dumps(list, sort_keys=True)``: ASCII, ``", "`` and ``": "``, sorted by the whole path by code point.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from holdfast.core.errors import BadInput

LARGEST = 1 << 30


def render(members: Iterable[tuple[str, str]]) -> bytes:
    """The bytes of the manifest of (path, md5) members."""
    from json.encoder import encode_basestring_ascii as quoted

    return (
        "[" + ", ".join([f'{{"md5": "{md5}", "relpath": {quoted(path)}}}' for path, md5 in sorted(members)]) + "]"
    ).encode("ascii")


def name(data: bytes) -> str:
    """The object id of a manifest."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest() + ".dir"


def parse(data: bytes, where: str) -> dict[str, str]:
    """path → md5.

    Raises:
        BadInput: not a manifest, or a member's path is one that must not be followed.
    """
    import json

    try:
        entries = json.loads(data)
    except (ValueError, RecursionError):
        raise BadInput(f"manifest {where} is not JSON") from None
    if not isinstance(entries, list):
        raise BadInput(f"manifest {where} is not a list")
    out = _plain(entries)
    if out is None:
        out = _one_by_one(entries, where)
    folders = {path.rpartition("/")[0] for path in out}
    for folder in list(folders):
        while "/" in folder:
            folder = folder.rsplit("/", 1)[0]
            folders.add(folder)
    both = folders.intersection(out)
    if both:
        raise BadInput(f"manifest {where} has {sorted(both)[0]!r} as a file and as a folder")
    return out


_SUSPECT = ("//", "/./", "/../", "/.git/", "/.dvc/", "/.hg/", "\0")


def _plain(entries: list[Any]) -> dict[str, str] | None:
    """The members where a few looks at all of them together show nothing to refuse; None where each must be looked at."""
    try:
        out = {entry["relpath"]: entry["md5"] for entry in entries}
        everything = "/\n/".join(out)
        digests = "".join(out.values())
        everything.encode()
        if digests != bytes.fromhex(digests).hex() or set(map(len, out.values())) - {32}:
            return None
    except (TypeError, KeyError, ValueError):
        return None
    text = f"/{everything}/"
    if len(out) != len(entries) or text.count("\n") != max(0, len(out) - 1) or any(map(text.__contains__, _SUSPECT)):
        return None
    return out


def _one_by_one(entries: list[Any], where: str) -> dict[str, str]:
    out: dict[str, str] = {}
    for entry in entries:
        path = entry.get("relpath") if isinstance(entry, dict) else None
        md5 = entry.get("md5") if isinstance(entry, dict) else None
        if not isinstance(path, str) or not isinstance(md5, str) or len(md5) != 32 or md5.strip("0123456789abcdef"):
            raise BadInput(f"manifest {where} has an entry that is no member: {str(entry)[:120]}")
        check_path(path, where)
        if path in out:
            raise BadInput(f"manifest {where} has {path!r} twice")
        out[path] = md5
    return out


def check_path(path: str, where: str) -> None:
    """Refuse a member path that could lead out of its folder.

    Raises:
        BadInput: absolute, empty, or with an empty, ``.`` or ``..`` part, or a NUL.
    """
    parts = path.split("/")
    if (
        not path
        or "\0" in path
        or "" in parts
        or "." in parts
        or ".." in parts
        or {".git", ".dvc", ".hg"}.intersection(parts)
    ):
        raise BadInput(f"manifest {where} names {path[:120]!r}, which is not a place inside its folder")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise BadInput(f"manifest {where} names a path that is not UTF-8") from None


def total(members: Mapping[str, int]) -> int:
    """Bytes over all members."""
    return sum(members.values())
