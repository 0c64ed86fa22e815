"""A view's events kept in order of (key, time), so that the next training set only searches in them.

One folder per view and state of its files (path, size, time of change), named when it is whole:

    about.json      how many rows, codes; keys as a range of integers where they are dense
    keys.arrow      the keys and their ``__code``, where they are not a range
    fields.arrow    the field columns in the source's order, in batches
    newest.*.npy    per field event, in order: its row in fields.arrow, time, arrival; and each code's stretch
    windows.*       the same for the windows' events, whose value columns lie in order

Columns nobody asks for are not read; everything is mapped into memory, not loaded. Made only where the source is no more
than ``SHARE`` rows per spine row: a small spine must not sort a large source.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from holdfast.core import files
from holdfast.core.identity import digest
from holdfast.core.ports import Engine
from holdfast.core.records import Json
from holdfast.features import answers
from holdfast.features.answers import BLOCK, members, pushed_again, same_events, without
from holdfast.features.encoding import NEVER
from holdfast.features.sliding import Events, Ints
from holdfast.features.source_sql import ViewQuery

FORMAT = 2
MOST_ROWS = 40_000_000
"""Larger sources are not sorted: some 40 bytes a row are held while it is done."""
SHARE = 200
"""A source with more than this many rows per spine row is not sorted for that spine."""
_MOST = np.iinfo(np.int64).max


class About(msgspec.Struct):
    """What a kept folder holds. ``lowest`` is the key of code 0 where keys are a range of integers."""

    rows: int
    codes: int
    lowest: int | None
    late: bool
    value_types: list[str]


class Kept:
    """A view's kept events. ``codes`` numbers keys; the rest answers questions of those codes."""

    def __init__(self, folder: Path) -> None:
        self.about = msgspec.json.decode((folder / "about.json").read_bytes(), type=About)
        # mapped now: from here on it does not matter if another process replaces the folder
        self._arrays = {p.stem: np.asarray(np.load(p, mmap_mode="r")) for p in folder.glob("*.npy")}
        self._tables = {p.stem: _read(p) for p in folder.glob("*.arrow")}

    def codes(self, engine: Engine, asked: pa.Table) -> Ints:
        """Per row of ``asked`` (``__code`` 0…, ``k0…``) its code here, −1 where the key is unknown."""
        theirs = np.full(asked.num_rows, -1, np.int64)
        if self.about.lowest is not None:
            values = asked.column("k0").to_numpy()
            if values.dtype == np.uint64:
                values = np.minimum(values, np.uint64(_MOST))
            values = values.astype(np.int64, copy=False)
            # the highest key first: a difference of keys that are both in the range does not wrap around
            inside = (values >= self.about.lowest) & (values <= self.about.lowest + self.about.codes - 1)
            theirs[inside] = values[inside] - self.about.lowest
            return theirs
        on = " AND ".join(f"a.{name} = b.{name}" for name in asked.column_names if name != "__code")
        pairs = engine.query(
            f"SELECT a.__code AS mine, b.__code AS theirs FROM __asked AS a JOIN __known AS b ON {on}",
            tables={"__asked": asked, "__known": self._tables["keys"]},
        )
        theirs[answers.ints(pairs, "mine")] = answers.ints(pairs, "theirs")
        return theirs

    def answer(self, view: Json, asked: Ints, at: Ints) -> dict[str, Any]:
        """Feature columns for questions of these codes."""
        about = self.about
        out: dict[str, Any] = {}
        if view["fields"]:
            events = self._events("newest")
            rows, fetch = self._arrays["newest.row"], partial(_gather, self._tables["fields"])
            out |= answers.latest_columns(view, about.late, events, rows, fetch, asked, at)
        if view["aggregates"]:
            events, columns, local = self._stretches(self._tables["windows"], asked)
            out |= answers.window_columns(view, about.value_types, about.late, events, columns, local, at)
        return {c: out[c] for c, _ in view["columns"]}

    def _events(self, name: str) -> Events:
        arrays = self._arrays
        edges, time = arrays[f"{name}.edges"], arrays[f"{name}.time"]
        sequence = arrays.get(f"{name}.sequence", np.broadcast_to(np.int64(NEVER), len(time)))
        return Events(edges[:-1], edges[1:], time, arrays.get(f"{name}.arrival", time), sequence)

    def _stretches(self, table: pa.Table, asked: Ints) -> tuple[Events, list[Any], Ints]:
        """The windows' events of the asked codes only (all, where most are asked), and the questions' codes among them."""
        events = self._events("windows")
        columns = [table.column(i) for i in range(table.num_columns)]
        wanted = np.unique(asked[asked >= 0])
        sizes = events.stop[wanted] - events.start[wanted]
        if int(sizes.sum()) * 2 > len(events.time):
            return events, columns, asked
        edges = np.concatenate([[0], np.cumsum(sizes)])
        rows = np.arange(int(edges[-1])) + np.repeat(events.start[wanted] - edges[:-1], sizes)
        local = np.where(asked >= 0, np.searchsorted(wanted, asked), -1)
        index = pa.array(rows)
        chosen = Events(edges[:-1], edges[1:], events.time[rows], events.arrival[rows], events.sequence[rows])
        return chosen, [column.take(index) for column in columns], local


def stamps(tables: Any) -> list[list[Any]] | None:
    """What identifies the files' bytes, or None for what is in memory."""
    if hasattr(tables, "column_names"):
        return None
    found = [(str(path), Path(path).stat()) for path in tables]
    return [[path, stat.st_size, stat.st_mtime_ns, stat.st_ino] for path, stat in found]


def kept(
    engine: Engine, view: Json, query: ViewQuery, tables: Any, cache: Path, *, spine_rows: int,
    codes_of: Callable[[pa.Table, Sequence[str]], tuple[Ints, pa.Table]],
) -> Kept | None:  # fmt: skip
    """The view's kept events, made now if it is worth it; None where it is not."""
    identity = stamps(tables)
    if identity is None:
        return None
    boot = _boot()
    folder = cache / f"{view['name']}-{digest([FORMAT, view['version'], identity, boot])[:32]}"
    if not (folder / "about.json").exists():
        counted = engine.query(f"SELECT count(*) FROM ({query.relation.sql})", tables=query.relation.tables)
        rows = int(counted[0][0].as_py())
        if rows > MOST_ROWS or rows > SHARE * spine_rows:
            return None
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache, view["name"])
        temporary = cache / f".{folder.name}.{os.getpid()}"
        try:
            temporary.mkdir()
            _make(engine, view, query, rows, temporary, codes_of)
            if boot is None:
                files.sync_all([str(p) for p in temporary.iterdir()], str(temporary))
            for old in cache.glob(f"{view['name']}-*"):
                shutil.rmtree(old, ignore_errors=True)
            temporary.rename(folder)
        except OSError:  # another process was faster, or there is no room: the events are read as if nothing were kept
            pass
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    try:
        found = Kept(folder)
        return found if found.about.codes else None  # of nothing nothing is kept
    except (OSError, ValueError, EOFError, msgspec.DecodeError):  # another process replaced it meanwhile: do without
        return None


def _boot() -> str | None:
    """This start of the machine, where it has a name. What is kept is not fsynced: after a power cut it is made anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _sweep(cache: Path, name: str) -> None:
    """Remove what killed processes left half made."""
    for left in cache.glob(f".{name}-*"):
        pid = left.name.rpartition(".")[2]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (OSError, ValueError):  # alive, or not ours
            continue


def _make(
    engine: Engine, view: Json, query: ViewQuery, most: int, folder: Path,
    codes_of: Callable[[pa.Table, Sequence[str]], tuple[Ints, pa.Table]],
) -> None:  # fmt: skip
    """Write everything but the order as it comes, then the order."""
    stamped = query.late and view["arrival"] is None
    spine = {"__t": np.empty(most, np.int64)}
    spine |= {"__a": np.empty(most, np.int64)} if query.late else {}
    spine |= {"__s": np.empty(most, np.int64)} if view["sequence"] else {}
    key_names = [f"__k{i}" for i in range(len(view["keys"]))]
    numbers = np.empty(most, np.int64) if list(query.key_classes.values()) == ["int64"] else None
    keys: list[pa.RecordBatch] = []
    values: list[pa.RecordBatch] = []
    value_names = [*(["__h"] if view["aggregates"] else []), *(f"v{i}" for i in range(len(query.value_types)))]
    n = 0
    field_names = [f"f{i}" for i in range(len(view["fields"]))]
    wanted = ", ".join([*key_names, *spine, *field_names, *value_names])
    statement = f"SELECT {wanted} FROM ({query.select(since=None, until=None, keys=False)})"
    with _Writer(folder / "fields.arrow") as writer:
        for batch in _ahead(engine.stream(statement, tables=query.relation.tables)):
            if field_names:
                writer.write(batch.select(field_names))
            end = n + batch.num_rows
            for name, into in spine.items():
                into[n:end] = answers.ints(batch, name)
            if numbers is not None and batch.column("__k0").type == pa.uint64():
                numbers = None
            if numbers is not None:
                numbers[n:end] = batch.column("__k0").to_numpy()
            else:
                keys.append(batch.select(key_names))
            if value_names:
                values.append(batch.select(value_names))
            n = end
    if field_names and not n:
        _write(folder / "fields.arrow", pa.table({name: pa.nulls(0) for name in field_names}))
    spine = {name: column[:n] for name, column in spine.items()}
    if numbers is not None and n:
        codes, known, lowest = _number(numbers[:n], codes_of)
    else:
        codes, known = codes_of(pa.Table.from_batches(keys), key_names) if keys else (np.zeros(0, np.int64), None)
        lowest = None
    del numbers, keys
    count = known.num_rows if isinstance(known, pa.Table) else int(known or 0)
    table = pa.Table.from_batches(values) if values else pa.table({name: pa.array([]) for name in value_names})
    fields = _read(folder / "fields.arrow") if view["fields"] else None

    def rows_of(rows: Ints) -> pa.Table:
        columns: dict[str, Any] = {name: spine.get(name, _nothing(spine, name, n))[rows] for name in ("__a", "__s")}
        if fields is not None:
            columns |= zip(fields.column_names, _rows(fields, fields.column_names, rows), strict=True)
        columns |= {c: table.column(c).take(pa.array(rows)) for c in value_names if c != "__h"}
        return pa.table(columns)

    row, same = answers.by_code_and_time(codes, spine["__t"])
    answers.settle_ties(row, same, rows_of)
    where = members(same)
    del same
    among = row[where]
    code, time = codes[among], spine["__t"][among]
    arrival = spine["__a"][among] if query.late else time
    stored = {"time": spine["__t"]} | ({"arrival": spine["__a"]} if query.late else {})
    if view["fields"]:
        keep = None
        if stamped:
            assert fields is not None
            sequence = spine["__s"][among] if view["sequence"] else np.broadcast_to(np.int64(NEVER), len(among))
            columns = _rows(fields, fields.column_names, among)
            keep = without(n, pushed_again(where, code, time, arrival, sequence, columns))
        _keep(folder, "newest", count, codes, row if keep is None else row[keep], stored, rows=True)
    if view["aggregates"]:
        content = table.column("__h").take(pa.array(among)).to_numpy()
        keep = without(n, same_events(where, code, time, arrival, content))
        chosen = row if keep is None else row[keep]
        stored |= {"sequence": spine["__s"]} if view["sequence"] else {}
        _keep(folder, "windows", count, codes, chosen, stored, rows=False)
        _write(folder / "windows.arrow", table.drop_columns(["__h"]).take(pa.array(chosen)))
    if isinstance(known, pa.Table):
        _write(folder / "keys.arrow", known)
    about = About(n, count, lowest, query.late, list(query.value_types))
    (folder / "about.json").write_bytes(msgspec.json.encode(about))


def _nothing(spine: Mapping[str, np.ndarray], name: str, n: int) -> np.ndarray:
    """The column ``__a`` of a source without arrivals is its time; ``__s`` of one without sequence is the same for all."""
    return spine["__t"] if name == "__a" else np.broadcast_to(np.int64(NEVER), n)


def _number(
    numbers: Ints, codes_of: Callable[[pa.Table, Sequence[str]], tuple[Ints, pa.Table]]
) -> tuple[Ints, Any, int | None]:
    """Codes of integer keys: their distance from the lowest where they are dense."""
    lowest, highest = int(numbers.min()), int(numbers.max())
    if highest - lowest < 4 * len(numbers) + 1000:
        numbers -= lowest
        return numbers, highest - lowest + 1, lowest
    codes, known = codes_of(pa.table({"__k0": numbers}), ["__k0"])
    return codes, known, None


def _keep(
    folder: Path, name: str, count: int, codes: Ints, order: Ints, columns: Mapping[str, Ints], *, rows: bool
) -> None:  # fmt: skip
    """Write one kind of events: ``columns`` (of all rows) in ``order``, each code's stretch, and the order where ``rows``."""
    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(_save, folder / f"{name}.{c}.npy", order, values) for c, values in columns.items()]
        if rows:
            writing.append(pool.submit(_save, folder / f"{name}.row.npy", order, None))
        sizes = np.bincount(codes if len(order) == len(codes) else codes[order], minlength=count)
        np.save(folder / f"{name}.edges.npy", np.concatenate([[0], np.cumsum(sizes)]))
        for written in writing:
            written.result()


def _save(path: Path, order: Ints, values: Ints | None) -> None:
    """Write ``values[order]``, or the order itself, a block at a time: what is only written is never held."""
    kind = np.dtype(np.int64 if values is not None or len(order) >> 32 else np.uint32)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": kind.str, "fortran_order": False, "shape": (len(order),)})
        for a in range(0, len(order), BLOCK):
            part = order[a : a + BLOCK]
            file.write((part if values is None else values[part]).astype(kind, copy=False).data)


def _gather(table: pa.Table, names: Sequence[str], rows: Ints) -> tuple[list[pa.Array], Ints]:
    """Columns of some rows of a table in many pieces, in the table's order, and where among them each row is."""
    order = np.argsort(rows)
    ordered = rows[order]
    slots = np.empty(len(rows), np.int64)
    slots[order] = np.arange(len(rows))
    out = []
    for name in names:
        chunks = table.column(name).chunks
        edges = np.cumsum([0, *map(len, chunks)])
        cuts = np.searchsorted(ordered, edges)
        parts = [
            chunk.take(pa.array(ordered[cuts[i] : cuts[i + 1]] - edges[i]))
            for i, chunk in enumerate(chunks)
            if cuts[i] < cuts[i + 1]
        ]
        out.append(pa.concat_arrays(parts) if parts else pa.nulls(0, table.column(name).type))
    return out, slots


def _rows(table: pa.Table, names: Sequence[str], rows: Ints) -> list[pa.Array]:
    """Columns of some rows in the order of ``rows``."""
    columns, slots = _gather(table, names, rows)
    index = pa.array(slots)
    return [column.take(index) for column in columns]


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches; the next is read while the caller works on one."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


class _Writer:
    """Batches into one Arrow file, each written while the next is read. Nothing written, no file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(1)
        self._sink: Any = None
        self._file: Any = None
        self._last: Future[None] | None = None

    def __enter__(self) -> _Writer:
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        """Hand over a batch.

        Raises:
            OSError: the one before could not be written.
        """
        if self._sink is None:
            self._file = pa.OSFile(str(self._path), "wb")
            self._sink = pa.ipc.new_file(self._file, batch.schema)
        if self._last is not None:
            self._last.result()  # one is on its way at a time: batches do not pile up
        self._last = self._pool.submit(self._sink.write_batch, batch)

    def __exit__(self, kind: object, *_: object) -> None:
        self._pool.shutdown()
        if self._sink is not None:
            if self._last is not None and kind is None:
                self._last.result()
            self._sink.close()
            self._file.close()


def _write(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def _read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
