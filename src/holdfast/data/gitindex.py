"""Git's index, looked at without starting git: most of the time a look shows that git has nothing to say about a path."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.core.errors import BadInput
from holdfast.data import text

LARGEST = 64 << 20
_ELSEWHERE = ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE")


def surely_without(top: Path, place: Path) -> bool:
    """Whether git's index of the work tree ``top`` certainly names neither ``place`` nor anything in it. False where only git
    itself can tell: another layout than the plain one, or bytes that look like the path."""
    inner = os.fsencode(os.path.relpath(place, top))
    git = top / ".git"
    if any(name in os.environ for name in _ELSEWHERE) or not git.is_dir() or not inner.isascii():
        return False
    try:
        raw = text.read_bytes(git / "index", LARGEST)
    except FileNotFoundError:
        return True  # nothing was ever added
    except (OSError, BadInput):
        return False
    # Versions 2 and 3 hold every path whole; 4 shortens them, and a split or sparse index holds only some.
    if raw[:4] != b"DIRC" or raw[4:8] not in (b"\0\0\0\2", b"\0\0\0\3") or b"link" in raw or b"sdir" in raw:
        return False
    return inner + b"/" not in raw and inner + b"\0" not in raw
