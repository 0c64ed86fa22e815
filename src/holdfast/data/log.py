"""The versions one tracked path has had: from git's commits, newest first."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from holdfast.core.errors import BadInput, NotFound
from holdfast.data import cache as caches
from holdfast.data import history, pointers, tables
from holdfast.data.pointers import Out
from holdfast.data.repository import Repository


class Entry(msgspec.Struct, frozen=True):
    """One version: the commit that brought it, who, when (µs UTC), and what it holds. Rows and columns are known where
    the bytes are in the cache."""

    md5: str
    commit: str
    author: str
    at: int
    subject: str
    size: int | None = None
    files: int | None = None
    rows: int | None = None
    columns: int | None = None


def versions(repo: Repository, place: Path, *, look: bool = True) -> list[Entry]:
    """History of a tracked path. With ``look`` rows and columns are read from the cached bytes.

    Raises:
        NotFound: no commit tracked it, or this is no git repository.
        BadInput: it is a pointer with several outs.
    """
    file, place = _pointer_and_place(repo, Path(os.path.abspath(place)))
    lock = repo.root / "dvc.lock"
    commits = history.commits_of(repo, [file, lock] if lock.exists() else [file])
    found: list[Entry] = []
    for commit in commits:
        out = history.at_revision(repo, commit.sha, place)
        if out is None or out.md5 is None:
            continue
        if found and found[-1].md5 == out.md5:
            found.pop()  # the older commit brought it
        rows, columns = _shape(repo, out) if look else (None, None)
        found.append(
            Entry(
                out.md5, commit.sha, commit.author, commit.at, commit.subject, out.size, out.nfiles or 1, rows, columns
            )
        )
    if not found:
        raise NotFound(f"no commit tracks {place.name}", hint="commit its pointer with git")
    return found


def _pointer_and_place(repo: Repository, place: Path) -> tuple[Path, Path]:
    """The pointer of a path and the path of a pointer; they need not be named alike. What is gone had the usual name."""
    if place.suffix == ".dvc":
        if not place.is_file():
            return place, place.with_suffix("")
        outs = pointers.read(place, repo.root).outs
        if len(outs) != 1:
            raise BadInput(
                f"{place.name} holds {len(outs)} outs", hint=f"name one: {', '.join(out.path for out in outs[:5])}"
            )
        return place, outs[0].place
    for pointer in pointers.read_all(repo):
        if any(out.place == place for out in pointer.outs):
            return pointer.file, place
    return place.with_name(place.name + ".dvc"), place


def _shape(repo: Repository, out: Out) -> tuple[int | None, int | None]:
    import duckdb

    cache = caches.of(repo)
    try:
        with tables.connect() as connection:
            looked = [tables.describe_as(connection, Path(path), name) for name, path in stored(cache, out)]
            if not looked:
                return None, None
            rows = sum(tables.rows_of(connection, looked).values())
            return rows, len({c for t in looked for c in t.columns})
    except (duckdb.Error, NotFound):
        return None, None


def stored(cache: caches.Cache, out: Out) -> list[tuple[str, str]]:
    """(name, cache path) of the table files of a version.

    Raises:
        NotFound: some of it is not in the cache.
    """
    from holdfast.data import names

    assert out.md5 is not None
    members = cache.members(out.md5, legacy=out.legacy) if out.is_folder else {out.place.name: out.md5}
    found = []
    for name, md5 in sorted(members.items()):
        if names.is_table(Path(name)):
            if not cache.has(md5, legacy=out.legacy):
                raise NotFound(
                    f"{name} of version {out.md5[:8]} is not in the cache", hint="get it with `holdfast data fetch`"
                )
            found.append((name, cache.path(md5, legacy=out.legacy)))
    return found
