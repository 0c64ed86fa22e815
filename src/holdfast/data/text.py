"""Small text files of a repository, read with care: never waiting on a pipe, never without a bound."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from holdfast.core.errors import BadInput

MOST = 16 << 20


def read_bytes(file: Path, most: int = MOST) -> bytes:
    """A file's bytes.

    Raises:
        FileNotFoundError, NotADirectoryError: it is not there.
        BadInput: not a regular file, not readable, or larger than ``most``.
    """
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}", hint="check its permissions") from None
    with open(fd, "rb") as f:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BadInput(f"{file} is not a regular file", hint="remove it, or move it away")
        raw = f.read(most + 1)
    if len(raw) > most:
        raise BadInput(f"{file} is larger than {most >> 20} MiB", hint="such a file is no part of a repository's notes")
    return raw


def read(file: Path, most: int = MOST, *, errors: str = "strict") -> str:
    """As ``read_bytes``, as UTF-8 text.

    Raises:
        BadInput: also where it is not UTF-8 and ``errors`` is ``strict``.
    """
    try:
        return read_bytes(file, most).decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not UTF-8 text (byte {error.start})", hint="save it as UTF-8") from None
