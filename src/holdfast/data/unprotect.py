"""Files that are linked to the cache made into files of their own, so that they may be edited in place."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from holdfast.core.errors import NotFound
from holdfast.data import cache as caches
from holdfast.data import checkout, ignore, status, tree
from holdfast.data.pointers import Out
from holdfast.data.repository import Repository


def unprotect(repo: Repository, targets: Sequence[Path]) -> list[str]:
    """Replace links into the cache, of the targets or of all that is tracked, by writable copies; the paths of those that were.

    Raises:
        NotFound: a target is not tracked, or the object a link leads to is gone.
    """
    cache = caches.of(repo)
    kept = os.path.realpath(cache.root) + os.sep
    done = []
    with repo.lock():
        for out in status.tracked(repo, targets):
            for file in _files(repo, out, targets):
                now = os.lstat(file)
                if stat.S_ISLNK(now.st_mode) and not os.path.realpath(file).startswith(kept):
                    continue  # somebody's own link
                if stat.S_ISREG(now.st_mode) and now.st_nlink == 1 and now.st_mode & stat.S_IWUSR:
                    continue
                name = os.path.relpath(file, repo.root)
                if not os.path.exists(file):
                    raise NotFound(
                        f"{name} is a link to an object that is gone", hint="get it with `holdfast data fetch`"
                    )
                cache.link_into(os.path.realpath(file), str(file), ("reflink", "copy"), executable=out.isexec)
                done.append(name)
    return done


def _files(repo: Repository, out: Out, targets: Sequence[Path]) -> list[Path]:
    if not out.place.is_dir() or out.place.is_symlink():
        return [out.place] if os.path.lexists(out.place) else []
    chosen = checkout.below(out, targets)
    found = tree.listing(out.place, ignore=ignore.below(repo.root, out.place))
    return [out.place / path for path in found.paths if chosen is None or chosen(path)]
