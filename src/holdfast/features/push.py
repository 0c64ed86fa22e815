"""Push: events come in, are fsynced to the journal, and update every view of their source within milliseconds."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from holdfast.core.definitions import FeatureView
from holdfast.core.errors import BadInput, NotFound
from holdfast.core.ports import Merge, OnlineStore
from holdfast.core.records import Json
from holdfast.features import filters, journal, landing
from holdfast.features.journal import Journal, Position
from holdfast.features.landing import features_home, landed
from holdfast.features.rows import ARRIVED, key_types, uniform, writes
from holdfast.features.windows import view_plan

__all__ = ["Pusher", "landed"]

_MARK = "pushed"


class Pusher:
    """The one writer of pushed events. ``home`` is the workspace's folder; the journal is ``home/features/journal``.

    Opening it brings the online store up to the journal: whatever was acknowledged is there.

    Raises:
        Conflict: another process pushes here.
    """

    def __init__(self, home: Path, online: OnlineStore, views: Sequence[FeatureView], *, durable: bool = True) -> None:
        self.home = features_home(home)
        self._online = online
        self._plans: dict[str, list[Json]] = {}
        self._names: dict[str, str] = {}
        for view in views:
            plan = view_plan(view)
            if all(p["version"] != plan["version"] for p in self._plans.get(plan["source"], [])):
                self._plans.setdefault(plan["source"], []).append(plan)
            self._names[view.name] = plan["source"]
        self._types: dict[str, dict[str, str]] = {}
        self._journal = Journal(self.home / "journal", durable=durable)
        self._pending: deque[tuple[Position, str, list[Json], int]] = deque()
        self._order_lock = threading.Lock()
        self._apply_lock = threading.Lock()
        self._applied = Position(0, 0)
        self.replayed = 0
        try:
            landing.remember_times(self.home, {s: (p[0]["timestamp"], p[0]["arrival"]) for s, p in self._plans.items()})
            for plans in self._plans.values():
                for plan in plans:
                    self._types[plan["version"]] = self._stored_types(plan)
            self.recover()
        except BaseException:
            self._journal.close()
            raise

    @property
    def sources(self) -> list[str]:
        """The sources that can be pushed to."""
        return list(self._plans)

    def push(self, source_name: str, rows: Any, *, arrived: int | None = None) -> int:
        """Take rows (list of dicts or pyarrow Table) for a source, or for the source of the view of this name.

        ``arrived`` (µs UTC) is when they became known, now if None; a source's own arrival column goes before it. Returns
        the number of rows when they are durable and readable online. Pushing the same again changes nothing.

        Raises:
            NotFound: no such source or view.
            BadData: a row cannot be used; nothing was taken.
            Unavailable: the disk takes no more; nothing was acknowledged.
        """
        source = source_name if source_name in self._plans else self._names.get(source_name)
        if source is None:
            raise NotFound.among("push source", source_name, [*self._plans, *self._names])
        plans = self._plans[source]
        stamp = time.time_ns() // 1000 if arrived is None else arrived
        taken = uniform(plans, rows, arrived=stamp)
        if not taken:
            return 0
        for plan in plans:
            types = key_types(plan, taken, self._types[plan["version"]])
            writes(plan, taken[:0], arrived=stamp)
            self._check(plan, taken)
            self._types[plan["version"]] = types
        with self._order_lock:
            end = self._journal.append(source, taken, stamp)
            self._pending.append((end, source, taken, stamp))
        self._journal.sync(end)
        self._apply(end)
        return len(taken)

    def _check(self, plan: Json, rows: list[Json]) -> None:
        """Refuse what could not be applied before it is in the journal."""
        from holdfast.core.errors import BadData
        from holdfast.features.encoding import cast

        for i, row in enumerate(rows):
            for field in plan["fields"]:
                try:
                    cast(row[field["source_column"]], field["dtype"])
                except BadInput as error:
                    raise BadData(
                        f"row {i}, column {field['source_column']!r}: {error.message}",
                        hint=f"view {plan['name']!r} declares it {field['dtype']}",
                    ) from None
            sequence = plan["sequence"]
            if sequence and row[sequence] is not None and type(row[sequence]) is not int:
                raise BadData(
                    f"row {i}, column {sequence!r}: {row[sequence]!r} is not an integer",
                    hint="a sequence column holds integers",
                )

    def _apply(self, upto: Position) -> None:
        """Bring everything journaled up to ``upto`` (and what others have added since) into the online store."""
        with self._apply_lock:
            if self._applied >= upto:
                return
            batch: list[tuple[Sequence[bytes], Merge]] = []
            meta: dict[str, bytes] = {}
            end = self._applied
            while self._pending and self._pending[0][0] <= max(upto, self._journal._synced):
                end, source, rows, arrived = self._pending.popleft()
                batch += self._writes(self._plans[source], rows, arrived, meta)
            meta[_MARK] = msgspec.msgpack.encode(tuple(end))
            self._online.update(batch, meta=meta)
            self._applied = end

    def _writes(
        self, plans: Iterable[Json], rows: list[Json], arrived: int, meta: dict[str, bytes]
    ) -> list[tuple[Sequence[bytes], Merge]]:
        batch: list[tuple[Sequence[bytes], Merge]] = []
        for plan in plans:
            batch += writes(plan, rows, arrived=arrived, keep=partial(filters.keep, plan, rows))
            types = key_types(plan, rows, self._types.get(plan["version"], {}))
            name = f"keys/{plan['version']}"
            self._types[plan["version"]] = types
            if self._written.get(name) != types:
                self._written[name] = types
                meta[name] = msgspec.json.encode(types)
        return batch

    def _stored_types(self, plan: Json) -> dict[str, str]:
        stored = self._online.meta_get(f"keys/{plan['version']}")
        return msgspec.json.decode(stored, type=dict[str, str]) if stored else {}

    def recover(self) -> int:
        """Bring the online store up to the journal: everything for views it has never seen (or all, when the store was
        lost), and for the others what came after its mark. Returns the number of pushes replayed."""
        with self._apply_lock:
            self._written: dict[str, dict[str, str]] = {}
            mark = self._online.meta_get(_MARK)
            position = Position(*msgspec.msgpack.decode(mark, type=tuple[int, int])) if mark else Position(0, 0)
            every = [p for plans in self._plans.values() for p in plans]
            new = {p["version"] for p in every if mark is None or self._online.meta_get(f"view/{p['version']}") is None}
            count = 0
            index = landing.read_index(self.home)
            if new:
                for source, files in index.files.items():
                    plans = [p for p in self._plans.get(source, []) if p["version"] in new]
                    for name in files if plans else []:
                        for rows in _landed_rows(self.home / "landed" / name, plans[0]):
                            self._replay(plans, rows, 0, None)
                            count += 1
            start = min(position, index.position) if new else position
            for pushed in journal.read(self.home / "journal", after=start):
                plans = self._plans.get(pushed.source, [])
                if pushed.end <= position:
                    plans = [p for p in plans if p["version"] in new]
                if plans:
                    self._replay(plans, pushed.rows, pushed.arrived, None)
                    count += 1
            end = self._journal.end
            marks = {f"view/{v}": b"1" for v in new}
            self._online.update([], meta={**marks, _MARK: msgspec.msgpack.encode(tuple(end))})
            self._applied = end
            self.replayed = count
            return count

    def _replay(self, plans: Iterable[Json], rows: list[Json], arrived: int, end: Position | None) -> None:
        meta: dict[str, bytes] = {}
        batch = self._writes(plans, rows, arrived, meta)
        self._online.update(batch, meta=meta)

    def land(self) -> Mapping[str, list[str]]:
        """Write pushed rows as parquet now, and drop journal segments that are landed and applied."""
        self._journal.roll()
        index = landing.land(self.home)
        with self._apply_lock:
            self._journal.forget(min(index.segment, self._applied.segment))
        return index.files

    def close(self) -> None:
        """Sync, and let the next writer in."""
        self._online.flush()
        self._journal.close()

    def __enter__(self) -> Pusher:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _landed_rows(path: Path, plan: Json) -> Iterable[list[Json]]:
    """Rows of a landed file as they were pushed, in batches."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    for batch in file.iter_batches(5_000):
        rows = batch.to_pylist()
        for row in rows:
            for name in (plan["timestamp"], plan["arrival"]):
                if name and row.get(name) is not None:
                    row[name] = _us(row[name])
            if plan["arrival"] is not None:
                row.pop(ARRIVED, None)
        yield rows


def _us(value: Any) -> int:
    from holdfast.core.identity import to_us

    return to_us(value)
