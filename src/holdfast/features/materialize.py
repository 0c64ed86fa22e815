"""Materialize: bring files into the online store, in chunks, resumable, exact, in bounded memory.

Work is cut into chunks by hash of the key, so a chunk holds whole entities. A finished chunk is marked in the same write;
the same job run again goes on after the last mark. Merging is idempotent, so doing a chunk twice changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from holdfast.core.definitions import FeatureView
from holdfast.core.errors import BadInput, NotFound, did_you_mean
from holdfast.core.identity import digest, iso
from holdfast.core.ports import Engine, Merge, OnlineStore, Progress
from holdfast.core.records import Json
from holdfast.features import blocks, expressions, latest
from holdfast.features.encoding import LATEST, encode_key, view_prefix
from holdfast.features.rows import key_columns, key_types, uniform, writes
from holdfast.features.source_sql import ViewQuery, quote
from holdfast.features.windows import view_plan

CHUNK_ROWS = 10_000_000
"""Source rows of one chunk; the engine sorts them, on disk where memory does not suffice."""
BATCH = 20_000
GROUP = 500
"""Entities written by one merge."""


def run(
    online: OnlineStore, engine: Engine, views: Sequence[FeatureView], sources: Mapping[str, Any], *,
    start: int | None, end: int, progress: Progress | None = None, chunk_rows: int = CHUNK_ROWS,
) -> list[Json]:  # fmt: skip
    """Bring every view up to ``end`` (µs, inclusive): what was known by then, not older than ``start``.

    ``start`` None goes on where the last run stopped (everything needed, the first time). Returns per view
    ``{"view", "version", "start", "end", "rows", "entities", "chunks", "skipped"}``; skipped chunks were done before a crash.

    Raises:
        NotFound: no data for a source.
        BadInput: ``end`` is before ``start``.
        BadData: the source does not fit the view.
    """
    if start is not None and end < start:
        raise BadInput(f"end {iso(end)} is before start {iso(start)}", hint="exchange them")
    tell = progress or (lambda done, total, what: None)
    out = []
    for view in views:
        plan = view_plan(view)
        if plan["source"] not in sources:
            raise NotFound(
                f"no data for source {plan['source']!r}", hint=did_you_mean(plan["source"], sources, kind="source")
            )
        out.append(_bring(online, engine, plan, sources[plan["source"]], start, end, tell, chunk_rows))
    return out


def _bring(
    online: OnlineStore, engine: Engine, plan: Json, tables: Any, start: int | None, end: int, tell: Progress, chunk: int
) -> Json:  # fmt: skip
    """One view. Going on where the last run stopped is right for the files that run read; what a new or changed file holds
    may be older than that, so such files are read from the view's reach, and last: a crash between leaves them new."""
    mark, stamps = f"files/{plan['version']}", _stamps(tables)
    if start is not None or stamps is None:
        return _View(online, engine, plan, tables, start, end, tell, chunk).run()
    stored = online.meta_get(mark)
    read = set(msgspec.json.decode(stored, type=list[str])) if stored else set()
    old = [path for path in tables if stamps[str(path)] in read]
    new = [path for path in tables if stamps[str(path)] not in read]
    found = [_View(online, engine, plan, old, None, end, tell, chunk).run()] if old else []
    if new:
        found.append(_View(online, engine, plan, new, None, end, tell, chunk, whole=True).run())
    online.update([], meta={mark: msgspec.json.encode(sorted(set(stamps.values())))})
    online.flush()
    total = {k: sum(f[k] for f in found) for k in ("rows", "entities", "chunks", "skipped")}
    return {**found[-1], **total, "start": found[0]["start"] if len(found) == 1 else None}


def progress_of(online: OnlineStore, version: str) -> int | None:
    """The instant up to which a view version has been materialized, or None."""
    stored = online.meta_get(f"upto/{version}")
    return int(stored) if stored else None


class _View:
    def __init__(
        self,
        online: OnlineStore,
        engine: Engine,
        plan: Json,
        tables: Any,
        start: int | None,
        end: int,
        tell: Progress,
        chunk: int,
        *,
        whole: bool = False,
    ) -> None:
        self.online, self.engine, self.plan, self.tell, self.chunk_rows = online, engine, plan, tell, chunk
        self.query = ViewQuery(engine, plan, tables)
        self.start, self.end = self._range(start, end, whole=whole)
        self.job = digest([plan["version"], self.start, end, _stamp(tables)])[:32]
        self.types: dict[str, str] = {}
        stored = online.meta_get(f"keys/{plan['version']}")
        if stored:
            self.types = msgspec.json.decode(stored, type=dict[str, str])
        else:
            self.types = {k: t for k, t in self.query.key_classes.items() if t != "nothing"}

    def _range(self, start: int | None, end: int, *, whole: bool) -> tuple[int | None, int]:
        """From where rows matter: nothing before the windows' and the ttl's reach can be read again. ``whole``: nothing of
        these rows was read before."""
        plan = self.plan
        if plan["timestamp"] is None:
            return None, end
        if start is None and not whole:
            done = progress_of(self.online, plan["version"])
            # what arrives late is older than where the last run stopped, so a source with arrivals is read from its reach
            start = None if done is None or self.query.late else done
        reach: int | None = None
        if not plan["fields"]:
            reach = end - blocks.spare(plan["retention"])
        elif plan["ttl"] is not None:
            reach = end - max(plan["ttl"], blocks.spare(plan["retention"]) if plan["aggregates"] else 0)
        if start is None:
            return reach, end
        return (start if reach is None else max(start, reach)), end

    def run(self) -> Json:
        plan = self.plan
        until = self.end if plan["timestamp"] else None
        rows = self._count(until)
        chunks = max(1, -(-rows // self.chunk_rows))
        mark = f"job/{self.job}/{chunks}"
        done = int(self.online.meta_get(mark) or b"0")
        entities = 0
        for chunk in range(done, chunks):
            self.tell(chunk, chunks, plan["name"])
            entities += self._chunk(chunk, chunks, until)
            self.online.update([], meta={mark: str(chunk + 1).encode()})
        upto = max(progress_of(self.online, plan["version"]) or self.end, self.end)
        marks = {
            f"upto/{plan['version']}": str(upto).encode(),
            f"keys/{plan['version']}": msgspec.json.encode(self.types),
        }
        self.online.update([], meta=marks)
        self.online.flush()
        self.tell(chunks, chunks, plan["name"])
        return {
            "view": plan["name"], "version": plan["version"], "start": self.start, "end": self.end, "rows": rows,
            "entities": entities, "chunks": chunks, "skipped": done,
        }  # fmt: skip

    def _count(self, until: int | None) -> int:
        inner = self.query.select(since=self.start, until=until, keys=False)
        return int(
            self.engine.query(f"SELECT count(*) FROM ({inner})", tables=self.query.relation.tables)[0][0].as_py()
        )

    def _chunk(self, chunk: int, chunks: int, until: int | None) -> int:
        """One chunk of whole entities, written in batches; the number of entities."""
        keys = [f"__k{i}" for i in range(len(self.plan["keys"]))]

        def part(names: Sequence[str]) -> str | None:
            return f"hash({', '.join(names)}) % {chunks} = {chunk}" if chunks > 1 else None

        count = 0
        if self.plan["fields"]:
            count = self._latest(keys, part(keys), until)
        if self.plan["aggregates"]:
            count = max(count, self._events(part(self.query.keys)))
        return count

    def _latest(self, keys: Sequence[str], part: str | None, until: int | None) -> int:
        """The winning row of each entity, straight into records."""
        inner = self.query.select(since=self.start, until=until, keys=False)
        if part:
            inner = f"SELECT * FROM ({inner}) WHERE {part}"
        fields = [f"f{i}" for i in range(len(self.plan["fields"]))]
        order = ", ".join(["__t DESC", "__a DESC", "__s DESC", *(f"{f} DESC NULLS LAST" for f in fields)])
        statement = (
            f"SELECT {', '.join([*keys, '__t', '__a', '__s', *fields])} FROM ({inner}) "
            f"QUALIFY row_number() OVER (PARTITION BY {', '.join(keys)} ORDER BY {order}) = 1"
        )
        # in the order of the store's keys, so that each page of it is written once
        statement += " ORDER BY " + ", ".join(keys)
        prefix, suffix = view_prefix(self.plan["version"]), LATEST
        width, stamped, count = len(keys), self.plan["arrival"] is None, 0
        for batch in self.engine.stream(statement, tables=self.query.relation.tables):
            columns = [column.to_pylist() for column in batch.columns]
            stems = [prefix + encode_key(key) + suffix for key in zip(*columns[:width], strict=True)]
            values = zip(*columns[width + 3 :], strict=True)
            rows = list(zip(*columns[width : width + 3], values, strict=True))
            groups: list[tuple[Sequence[bytes], Merge]] = []
            for i in range(0, len(rows), GROUP):
                groups.append((stems[i : i + GROUP], partial(_many, rows[i : i + GROUP], stamped)))
            self.online.update(groups)
            count += len(rows)
        return count

    def _events(self, part: str | None) -> int:
        """All rows of the windows' reach, through the same door as pushes."""
        plan, query = self.plan, self.query
        where = [f"{sql} IS NOT NULL" for sql in query.keys] + [f"{quote(plan['timestamp'])} IS NOT NULL"]
        since = max(self.start, self.end - blocks.spare(plan["retention"])) if self.start is not None else None
        if since is not None:
            where.append(f"{query.time} >= {since}")
        where.append(f"{query.time} <= {self.end}")
        if query.late:
            where.append(f"{query.arrival} <= {self.end}")
        if part:
            where.append(part)
        times = [
            f"epoch_us({quote(c)}) AS {quote(c)}" for c in dict.fromkeys((plan["timestamp"], plan["arrival"])) if c
        ]
        statement = f"SELECT * REPLACE ({', '.join(times)}) FROM ({query.relation.sql}) WHERE {' AND '.join(where)}"
        statement += " ORDER BY " + ", ".join(query.keys)
        aggregates_only = {**plan, "fields": []}
        entities: set[bytes] = set()
        for whole in self.engine.stream(statement, tables=query.relation.tables):
            for first in range(0, whole.num_rows, BATCH):
                rows = uniform([plan], whole.slice(first, BATCH), arrived=self.end)
                told = expressions.tell([plan], rows)[plan["version"]]
                keys = key_columns(plan, rows, told)
                self.types = key_types(plan, [column[:1] for column in keys], self.types)
                groups = writes(aggregates_only, rows, arrived=None, told=told)
                entities.update(keys[0] for keys, _ in groups)
                self.online.update(groups)
        return len(entities)


def _many(rows: Sequence[tuple[Any, ...]], stamped: bool, stored: Sequence[Any]) -> list[Any]:
    """One new row for each of some entities."""
    if not any(stored):
        return list(map(latest.first, rows))
    return [
        latest.first(row) if old is None else (latest.merge(old, [row], stamped=stamped) or old)
        for row, old in zip(rows, stored, strict=True)
    ]


def _stamps(tables: Any) -> dict[str, str] | None:
    """What each file is, by path; None for rows in memory."""
    if hasattr(tables, "column_names"):
        return None
    return {str(path): digest(_stamp([path]))[:16] for path in tables}


def _stamp(tables: Any) -> Any:
    """What the data is, so that a job goes on only over the same data."""
    if hasattr(tables, "column_names"):
        return [tables.num_rows, tables.column_names, tables.nbytes]
    out = []
    for path in tables:
        with contextlib.suppress(OSError):
            found = Path(path).stat()
            out.append([str(path), found.st_size, found.st_mtime_ns])
    return out
