"""Data that DVC 2.x wrote: objects named by the MD5 of the content with CRLF read as LF where it looks like text.

Only read here; what is added anew gets a 3.x name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from holdfast.data import hashing, ignore, manifest, tree
from holdfast.data.pointers import Out
from holdfast.data.repository import Repository

_BLOCK = 1 << 20
_LOOKED_AT = 512
_TEXT = bytes([*range(32, 127), *b"\n\r\t\f\b"]) + bytes(range(128, 256))


def looks_like_text(block: bytes) -> bool:
    """DVC's rule: no NUL, and at most 30 % of bytes that are not text, in the first 512 bytes."""
    head = block[:_LOOKED_AT]
    if not head:
        return True
    if b"\0" in head:
        return False
    strange = len(head.translate(None, _TEXT))
    return strange / len(head) <= 0.3


def md5(path: Path) -> str:
    """The 2.x name of a file's bytes."""
    digest = hashlib.md5(usedforsecurity=False)
    fd, _ = hashing.open_regular(path)
    with open(fd, "rb") as f:
        first = f.read(_BLOCK)
        text = looks_like_text(first)
        block = first
        while block:
            digest.update(block.replace(b"\r\n", b"\n") if text else block)
            block = f.read(_BLOCK)
    return digest.hexdigest()


def compare(repo: Repository, out: Out) -> tuple[bool, dict[str, str]]:
    """(is the workspace what the pointer says, path → 2.x md5 of what is there)."""
    if not out.place.is_dir():
        name = md5(out.place)
        return name == out.md5, {out.place.name: name}
    found = tree.listing(out.place, ignore=ignore.below(repo.root, out.place))
    names = hashing.in_parallel(lambda path: md5(out.place / path), found.paths)
    members = dict(zip(found.paths, names, strict=True))
    return manifest.name(manifest.render(members.items())) == out.md5, members
