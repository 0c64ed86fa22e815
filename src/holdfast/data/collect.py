"""A source's raw data as files: what is there, or pulled from SQL and object storage and pinned."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from holdfast.core.definitions import Source
from holdfast.core.errors import BadDefinition, NotFound
from holdfast.data import names


def files(root: Path, source: Source) -> list[Path]:
    """The table files of a source, in order of name: a file, all tables of a folder, or what a glob pattern matches.

    Raises:
        NotFound: there are none; the message says where was looked.
        BadDefinition: the source is no path, or its path leads out of the project.
    """
    if source.path is None:
        raise BadDefinition(f"source {source.name!r} is a query, not a path", hint="pull it with data.collect.pull")
    place = within(root, source)
    if any(char in source.path for char in "*?["):
        found = sorted(
            Path(p) for p in glob.glob(str(place), recursive=True, include_hidden=False) if os.path.isfile(p)
        )
        found = [p for p in found if names.is_table(p)]
    else:
        if not place.exists():
            raise NotFound(f"source {source.name!r}: {source.path} does not exist in {root}", hint=_hint(place))
        found = names.tables_in(place)
    if not found:
        raise NotFound(f"source {source.name!r}: {source.path} matches no parquet or CSV file", hint=_hint(place))
    return found


def within(root: Path, source: Source) -> Path:
    """The place of a source's path.

    Raises:
        BadDefinition: it leads out of the project.
    """
    assert source.path is not None
    base = os.path.normpath(os.path.abspath(root))
    place = os.path.normpath(os.path.join(base, source.path))
    if place != base and not place.startswith(base + os.sep):
        raise BadDefinition(
            f"source {source.name!r}: {source.path} leads out of the project",
            hint="use a path inside the project, or a link to the data there",
        )
    return Path(place)


def _hint(place: Path) -> str:
    pointer = place.with_name(place.name + ".dvc")
    if pointer.exists():
        return "it is tracked: get it with `holdfast data pull`"
    folder = place.parent
    if folder.is_dir():
        names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))[:6]
        return f"in {folder.name}/ there is: {', '.join(names)}" if names else f"{folder.name}/ is empty"
    return "check the path; it is relative to the project"
