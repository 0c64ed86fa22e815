"""What lies in a data folder: one walk, the stat of every file, nothing opened.

Follows DVC: hidden files count; ``.git``, ``.hg``, ``.dvc`` and sub-repositories do not; a link to a file is its file,
a link to a folder is passed over; what ``.dvcignore`` matches is not there.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.core.errors import BadInput, NotFound

SKIPPED = frozenset({".git", ".hg", ".dvc"})
Ignore = Callable[[str, bool], bool]
"""(path below the data folder, is it a folder) → is it ignored."""


@dataclass
class Listing:
    """Files of a folder in the order the walk met them. ``stats`` has four int64 a file: size, mtime ns, ctime ns,
    inode. ``links`` are the paths that are links to files."""

    paths: list[str] = field(default_factory=list)
    stats: array[int] = field(default_factory=lambda: array("q"))
    links: set[str] = field(default_factory=set)

    @property
    def total(self) -> int:
        return sum(self.stats[0::4])


def signature(status: os.stat_result) -> tuple[int, int, int, int]:
    """What has to be the same for bytes to be taken as the same without reading them."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def listing(folder: Path, *, ignore: Ignore | None = None) -> Listing:
    """Walk ``folder``.

    Raises:
        NotFound: it is not a folder, or a link in it is broken.
        BadInput: a name is not UTF-8, or something in it is neither a file, a folder nor a link.
    """
    out = Listing()
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
                stack += _look(prefix, where, list(it), ignore, out, numbers)
        finally:
            os.close(descriptor)
    out.stats = array("q", numbers)
    _check_names(out.paths, folder)
    return out


def _look(
    prefix: str, where: str, entries: list[os.DirEntry[str]], ignore: Ignore | None, out: Listing, numbers: list[int]
) -> list[tuple[str, str]]:
    """Put the files of one folder into ``out`` and ``numbers``; the folders in it that are to be walked."""
    paths = out.paths
    if prefix and any(e.name == ".dvc" and e.is_dir(follow_symlinks=False) for e in entries):
        return []
    if ignore is None and all(entry.is_file(follow_symlinks=False) for entry in entries):
        # The usual folder holds files only: nothing to decide for each.
        paths += [prefix + entry.name for entry in entries]
        for entry in entries:
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
        paths.append(path)
        numbers += (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
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
