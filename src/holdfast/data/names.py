"""Which file names are tables. Alone in a file, because the reading commands ask it and must not load what reads tables."""

from __future__ import annotations

import os
from pathlib import Path

PARQUET = (".parquet", ".pq")
CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst")
_TABLES = (*PARQUET, *CSV)


def is_table(path: Path) -> bool:
    return path.name.lower().endswith(_TABLES)


def is_text(name: str) -> bool:
    """Whether a table of this name is CSV."""
    return name.lower().endswith(CSV)


def tables_in(path: Path) -> list[Path]:
    """The table files at a path, in order of name. Empty when it holds something else."""
    if path.is_file():
        return [path] if is_table(path) else []
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [Path(folder, n) for n in names if n.lower().endswith(_TABLES) and not n.startswith(".")]
    return sorted(found)


def has_tables(path: Path) -> bool:
    return bool(tables_in(path))
