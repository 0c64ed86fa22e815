"""A view's events sorted by (key, time) and kept, so that the next training set only searches in them.

One Arrow file per view and state of its files (path, size, time of change), mapped into memory when read. Made only where
most of the source would be read anyway: a small spine against a large source must not sort the whole source.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from holdfast.core.identity import digest
from holdfast.core.ports import Engine
from holdfast.core.records import Json
from holdfast.features.source_sql import ViewQuery

FORMAT = 1
MOST_ROWS = 30_000_000
"""Larger sources are not sorted whole: it would not fit in memory."""
SHARE = 20
"""A source with more than this many rows per spine row is not sorted for that spine."""


def stamps(tables: Any) -> list[list[Any]] | None:
    """What identifies the files' bytes, or None for what is in memory."""
    if hasattr(tables, "column_names"):
        return None
    found = [(str(path), Path(path).stat()) for path in tables]
    return [[path, stat.st_size, stat.st_mtime_ns, stat.st_ino] for path, stat in found]


def sorted_events(
    engine: Engine, view: Json, query: ViewQuery, tables: Any, cache: Path, *, spine_rows: int,
    codes_of: Callable[[pa.Table, Sequence[str]], tuple[np.ndarray, pa.Table]], order_of: Callable[[pa.Table], np.ndarray],
) -> tuple[pa.Table, pa.Table] | None:  # fmt: skip
    """(events with ``__code`` in sorted order, keys with ``__code`` and ``k0…``), or None where it is not worth it."""
    identity = stamps(tables)
    if identity is None:
        return None
    name = f"{view['name']}-{digest([FORMAT, view['version'], identity])[:32]}"
    events, keys = cache / f"{name}.events.arrow", cache / f"{name}.keys.arrow"
    if not events.exists() or not keys.exists():
        counted = engine.query(f"SELECT count(*) FROM ({query.relation.sql})", tables=query.relation.tables)
        rows = int(counted[0][0].as_py())
        if rows > MOST_ROWS or rows > SHARE * spine_rows:
            return None
        table = engine.query(query.select(since=None, until=None, keys=False), tables=query.relation.tables)
        names = [f"__k{i}" for i in range(len(view["keys"]))]
        codes, known = codes_of(table, names)
        table = table.drop_columns(names).append_column("__code", pa.array(codes))
        table = table.take(pa.array(order_of(table)))
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.glob(f"{view['name']}-*.arrow"):
            old.unlink(missing_ok=True)
        _write(keys, known)
        _write(events, table)
    try:
        return _read(events), _read(keys)
    except (FileNotFoundError, pa.ArrowInvalid):  # another process replaced it meanwhile: do without
        return None


def _write(path: Path, table: pa.Table) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    temporary.replace(path)


def _read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
