"""What lies in a data folder: one walk, the stat of every file, nothing opened.

Follows DVC: hidden files count; ``.git``, ``.hg``, ``.dvc`` and sub-repositories do not; a link to a file is its file,
a link to a folder is passed over; what ``.dvcignore`` matches is not there.
"""

from __future__ import annotations

import os
import stat
import sys
from array import array
from collections.abc import Callable
from pathlib import Path

from holdfast.core.errors import BadInput, NotFound
from holdfast.data import twin

SKIPPED = frozenset({".git", ".hg", ".dvc"})
MANY = 2048
"""Files from which a second process is worth its beginning."""
_NO_END = sys.maxsize
Ignore = Callable[[str, bool], bool]
"""(path below the data folder, is it a folder) → is it ignored."""


class Listing:
    """Files of a folder in the order the walk met them. ``stats`` has four int64 a file: size, mtime ns, ctime ns,
    inode. ``links`` are the paths that are links to files."""

    __slots__ = ("links", "paths", "stats")

    def __init__(self, paths: list[str], stats: array[int], links: set[str] | None = None) -> None:
        self.paths = paths
        self.stats = stats
        self.links = links if links is not None else set()

    @property
    def total(self) -> int:
        return sum(self.stats[0::4])


def signature(status: os.stat_result) -> tuple[int, int, int, int]:
    """What has to be the same for bytes to be taken as the same without reading them."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def listing(folder: Path, *, ignore: Ignore | None = None, expected: int = 0) -> Listing:
    """Walk ``folder``. Of many files ``expected`` a copy of this process looks at the second half.

    Raises:
        NotFound: it is not a folder, or a link in it is broken.
        BadInput: a name is not UTF-8, or something in it is neither a file, a folder nor a link.
    """
    found = _in_halves(folder, expected // 2) if expected >= MANY and ignore is None else None
    if found is None:
        found = _walk(folder, ignore, range(_NO_END))
    _check_names(found.paths, folder)
    return found


def _in_halves(folder: Path, cut: int) -> Listing | None:
    """Both walk over the names, which is quick, and each asks for the stats of its half. None where that cannot be, or where
    they did not see the same."""

    def second() -> tuple[bytes, bytes]:
        found = _walk(folder, None, range(cut, _NO_END))
        return _joined(found.paths[cut:]), found.stats.tobytes()

    theirs = twin.begin(second)
    if theirs is None:
        return None
    try:
        found = _walk(folder, None, range(cut))
    finally:
        rest = theirs()
    if rest is None or rest[0] != _joined(found.paths[cut:]):
        return None
    found.stats.frombytes(rest[1])
    return found


def _joined(paths: list[str]) -> bytes:
    return os.fsencode("\0".join(paths))


def _walk(folder: Path, ignore: Ignore | None, asked: range) -> Listing:
    """Every name, and the stats of those files whose turn is in ``asked``."""
    out = Listing([], array("q"))
    numbers: list[int] = []
    stack = [("", str(folder))]
    while stack:
        prefix, where = stack.pop()
        try:
            descriptor = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except NotADirectoryError:
            raise NotFound(f"{where} is not a folder") from None
        try:
            # By descriptor: the kernel need not walk the whole path again for each file's stat.
            with os.scandir(descriptor) as it:
                stack += _look(prefix, where, list(it), ignore, asked, out, numbers)
        finally:
            os.close(descriptor)
    out.stats = array("q", numbers)
    return out


def _look(
    prefix: str,
    where: str,
    entries: list[os.DirEntry[str]],
    ignore: Ignore | None,
    asked: range,
    out: Listing,
    numbers: list[int],
) -> list[tuple[str, str]]:
    """Put the files of one folder into ``out`` and ``numbers``; the folders in it that are to be walked."""
    paths = out.paths
    names = [entry.name for entry in entries]
    if prefix and ".dvc" in names and entries[names.index(".dvc")].is_dir(follow_symlinks=False):
        return []
    if ignore is None and all(entry.is_file(follow_symlinks=False) for entry in entries):
        # The usual folder holds files only: nothing to decide for each.
        before = len(paths)
        paths += [prefix + name for name in names]
        for entry in entries[max(0, asked.start - before) : max(0, asked.stop - before)]:
            status = entry.stat(follow_symlinks=False)
            numbers += (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        return []
    folders = []
    for entry in entries:
        path, place = prefix + entry.name, f"{where}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in SKIPPED and not (ignore is not None and ignore(path, True)):
                folders.append((path + "/", place))
            continue
        if ignore is not None and ignore(path, False):
            continue
        if entry.is_symlink():
            try:
                status = entry.stat()
            except OSError:
                raise NotFound(
                    f"{place} is a broken link", hint="remove the link, mend it, or list it in .dvcignore"
                ) from None
            if stat.S_ISDIR(status.st_mode):
                continue
            out.links.add(path)
        else:
            status = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(
                f"{place} is not a regular file",
                hint="pipes, sockets and devices cannot be tracked; list it in .dvcignore",
            )
        if len(paths) in asked:
            numbers += (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        paths.append(path)
    return folders


def _check_names(paths: list[str], folder: Path) -> None:
    try:
        "".join(paths).encode()
    except UnicodeEncodeError:
        for path in paths:
            try:
                path.encode()
            except UnicodeEncodeError:
                raise BadInput(
                    f"{folder}/{path.encode(errors='backslashreplace').decode()} is not named in UTF-8",
                    hint="rename the file",
                ) from None
