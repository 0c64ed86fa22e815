"""Which file names are tables. Alone in a file, because the reading commands ask it and must not load what reads tables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

PARQUET = (".parquet", ".pq")
CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst")
_TABLES = (*PARQUET, *CSV)


def is_table(path: Path) -> bool:
    return path.name.lower().endswith(_TABLES)


def is_text(name: str) -> bool:
    """Whether a table of this name is CSV."""
    return name.lower().endswith(CSV)


def tables_in(path: Path) -> list[Path]:
    """The table files at a path, in order of name. Empty when it holds something else."""
    return sorted(_tables(path))


def has_tables(path: Path) -> bool:
    return any(True for _ in _tables(path))


def any_tables(paths: Sequence[str]) -> bool:
    """As ``has_tables``, for the paths of the files below a folder."""
    return _ends_as_table(paths) and any(path.lower().endswith(_TABLES) and "/." not in "/" + path for path in paths)


def _ends_as_table(names: Sequence[str]) -> bool:
    """Whether any may be one; thousands of names at once."""
    together = "\n".join(names).lower() + "\n"
    return any(ending + "\n" in together for ending in _TABLES)


def _tables(path: Path) -> Iterator[Path]:
    if path.is_file():
        if is_table(path):
            yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = [f for f in folders if not f.startswith(".")]
        if not _ends_as_table(names):
            continue
        for name in names:
            if name.lower().endswith(_TABLES) and not name.startswith("."):
                yield Path(folder, name)
