"""A folder's manifest: DVC's ``.dir`` object, byte for byte.

Python's ``json.dumps(list, sort_keys=True)``: ASCII, ``", "`` and ``": "``, sorted by the whole path by code point.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from json.encoder import encode_basestring_ascii as quoted

from holdfast.core.errors import BadInput

LARGEST = 1 << 30


def render(members: Iterable[tuple[str, str]]) -> bytes:
    """The bytes of the manifest of (path, md5) members."""
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
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError):
        raise BadInput(f"manifest {where} is not JSON") from None
    if not isinstance(entries, list):
        raise BadInput(f"manifest {where} is not a list")
    out: dict[str, str] = {}
    for entry in entries:
        path = entry.get("relpath") if isinstance(entry, dict) else None
        md5 = entry.get("md5") if isinstance(entry, dict) else None
        if (
            not isinstance(path, str)
            or not isinstance(md5, str)
            or len(md5) != 32
            or not md5.isalnum()
            or md5 != md5.lower()
            or not md5.isascii()
        ):
            raise BadInput(f"manifest {where} has an entry that is no member: {str(entry)[:120]}")
        check_path(path, where)
        if path in out:
            raise BadInput(f"manifest {where} has {path!r} twice")
        out[path] = md5
    folders = {path.rsplit("/", 1)[0] for path in out if "/" in path}
    for folder in list(folders):
        while "/" in folder:
            folder = folder.rsplit("/", 1)[0]
            folders.add(folder)
    both = folders.intersection(out)
    if both:
        raise BadInput(f"manifest {where} has {sorted(both)[0]!r} as a file and as a folder")
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
