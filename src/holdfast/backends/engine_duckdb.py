"""The feature engine: DuckDB in this process, spilling to disk, always in UTC."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import BadInput, TooMuch

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 200_000
"""Rows of one streamed batch."""
_AHEAD = "32MB"
"""What the engine reads ahead of whoever walks a stream; its own default of 1 MB leaves its threads waiting."""
_MEMORY = "raise the engine's memory limit, or free disk space to spill to"


class DuckdbEngine:
    """SQL over files and Arrow tables.

    ``memory`` bounds DuckDB's own memory (like ``4GB``; None leaves DuckDB's default of 80 %), ``threads`` its threads,
    ``spill`` is the folder it spills to. Extensions are never downloaded.
    """

    def __init__(self, *, memory: str | None = None, threads: int | None = None, spill: Path | None = None) -> None:
        import duckdb

        config: dict[str, Any] = {"autoinstall_known_extensions": "false"}
        if memory:
            config["memory_limit"] = memory
        if threads:
            config["threads"] = str(threads)
        if spill is not None:
            spill.mkdir(parents=True, exist_ok=True)
            config["temp_directory"] = str(spill)
        self._connection = duckdb.connect(":memory:", config=config)
        self._connection.execute("SET TimeZone='UTC'")
        self._lock = threading.RLock()

    def query(self, sql: str, *, tables: Mapping[str, Any] | None = None) -> pa.Table:
        """Run one statement.

        Raises:
            BadInput: the statement or the files cannot be used.
            TooMuch: memory and spill space do not suffice.
        """
        with self._lock, self._cursor(tables) as cursor:
            return cursor.sql(sql).to_arrow_table()

    def stream(self, sql: str, *, tables: Mapping[str, Any] | None = None) -> Iterator[pa.RecordBatch]:
        """Run one statement and give its rows in batches as they are found; whoever walks slowly makes it wait.

        Raises:
            BadInput: the statement or the files cannot be used.
            TooMuch: memory and spill space do not suffice.
        """
        import pyarrow as pa

        with self._cursor(tables) as cursor:
            cursor.execute(f"SET streaming_buffer_size='{_AHEAD}'")
            try:
                yield from cursor.sql(sql).to_arrow_reader(BATCH)
            except (pa.ArrowException, OSError) as error:  # what fails while it is walked comes through Arrow
                if "Out of Memory" in str(error):
                    raise TooMuch(str(error).splitlines()[0], hint=_MEMORY) from error
                raise BadInput(str(error).strip().splitlines()[0]) from error

    @contextmanager
    def _cursor(self, tables: Mapping[str, Any] | None) -> Iterator[Any]:
        """A connection of its own that sees ``tables``; DuckDB's errors as ours."""
        import duckdb

        cursor = self._connection.cursor()
        try:
            cursor.execute("SET TimeZone='UTC'")
            for name, table in (tables or {}).items():
                cursor.register(name, table)
            yield cursor
        except duckdb.OutOfMemoryException as error:
            raise TooMuch(str(error).splitlines()[0], hint=_MEMORY) from error
        except duckdb.Error as error:
            raise BadInput(str(error).strip().splitlines()[0]) from error
        finally:
            for name in tables or {}:
                cursor.unregister(name)
            cursor.close()

    def close(self) -> None:
        self._connection.close()
