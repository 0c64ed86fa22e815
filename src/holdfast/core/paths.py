"""The one resolver for paths that somebody else chose (clients, archives, manifests).

Decoded once; refused when a second layer of encoding, NUL, backslash, ``;``, ``..`` or an absolute form is in it;
opened inside the root by directory handles that follow no link, so nothing can be swapped under the check.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote_to_bytes

from holdfast.core.errors import BadInput, NotFound

_PARTS = 64
_LENGTH = 1024


def parts(path: str, *, encoded: bool = False, kind: str = "path") -> tuple[str, ...]:
    """The names of a relative path, checked; empty for the root itself.

    Args:
        encoded: the path comes percent-encoded from a URL and is decoded here, once.
        kind: what the error calls it.

    Raises:
        BadInput: it could lead outside, or names nothing.
    """
    if encoded:
        try:
            path = unquote_to_bytes(path).decode()
        except UnicodeDecodeError:
            raise _bad(kind, "it is not UTF-8") from None
    if len(path.encode(errors="replace")) > _LENGTH:
        raise _bad(kind, f"it is longer than {_LENGTH} bytes")
    if any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in path):
        raise _bad(kind, "it holds control characters")
    if "\\" in path or ";" in path:
        raise _bad(kind, "it holds a backslash or a semicolon")
    if unquote_to_bytes(path) != path.encode():
        raise _bad(kind, "it is percent-encoded twice")
    if path.startswith("/") or (len(path) > 1 and path[1] == ":" and path[0].isalpha()):
        raise _bad(kind, "it is absolute")
    names = tuple(name for name in path.split("/") if name not in ("", "."))
    if any(name == ".." for name in names):
        raise _bad(kind, "it leads upwards")
    if len(names) > _PARTS:
        raise _bad(kind, f"it is deeper than {_PARTS} folders")
    return names


def inside(root: Path, path: str, *, encoded: bool = False, kind: str = "path") -> Path:
    """``root`` joined with the checked path. For reading and writing use ``open_inside``, which follows no link."""
    return root.joinpath(*parts(path, encoded=encoded, kind=kind))


def open_inside(
    root: Path, path: str, flags: int = os.O_RDONLY, *, mode: int = 0o644, encoded: bool = False, kind: str = "path"
) -> int:
    """A file descriptor of a regular file (or folder, with O_DIRECTORY) below ``root``; no link on the way is followed.

    With O_CREAT the folders above it are made.

    Raises:
        BadInput: the path could lead outside, or a link or special file is in the way.
        NotFound: there is nothing.
    """
    names = parts(path, encoded=encoded, kind=kind)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not names:
            if not flags & os.O_DIRECTORY:
                raise _bad(kind, "it names the folder itself")
            return os.dup(folder)
        for name in names[:-1]:
            if flags & os.O_CREAT:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=folder)
            inner = _step(name, os.O_RDONLY | os.O_DIRECTORY, folder, kind)
            os.close(folder)
            folder = inner
        # O_NONBLOCK: opening a pipe somebody planted must not hang.
        descriptor = _step(names[-1], flags | os.O_NONBLOCK, folder, kind, mode)
    finally:
        os.close(folder)
    kept = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(kept) or (flags & os.O_DIRECTORY and stat.S_ISDIR(kept))):
        os.close(descriptor)
        raise _bad(kind, "it names no regular file")
    os.set_blocking(descriptor, True)
    return descriptor


def _step(name: str, flags: int, folder: int, kind: str, mode: int = 0o644) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder)
    except FileNotFoundError:
        raise NotFound(f"there is no such {kind}", hint="list what is there and check the spelling") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK, errno.ENXIO, errno.EISDIR):
            raise _bad(kind, "a link, special file or another kind of entry is in the way") from None
        raise


def _bad(kind: str, why: str) -> BadInput:
    return BadInput(
        f"this {kind} cannot be used: {why}", hint="use a relative path of plain names, like model/data.bin"
    )
