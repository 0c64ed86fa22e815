"""Push: events come in, are fsynced to the journal, and update every view of their source within milliseconds."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec

from holdfast.core.definitions import FeatureView
from holdfast.core.errors import BadInput, NotFound
from holdfast.core.ports import Merge, OnlineStore
from holdfast.core.records import Json
from holdfast.features import expressions, journal, landing
from holdfast.features.expressions import AllTold
from holdfast.features.journal import Journal, Position
from holdfast.features.landing import features_home, landed
from holdfast.features.rows import ARRIVED, key_columns, key_types, needed_columns, uniform, writes
from holdfast.features.windows import view_plan

__all__ = ["Pusher", "landed"]

_MARK = "pushed"
_BEGIN = Position(0, 0)
_MOST_PENDING = 10_000
"""Pushes in the journal that wait for an online store that cannot be reached; no more are taken then."""
_KEPT = "kept"
"""The mark that lists the view versions the store is up to date for, up to ``_MARK``."""


class Pusher:
    """The one writer of pushed events. ``home`` is the workspace's folder; the journal is ``home/features/journal``.

    Opening it brings the online store up to the journal: whatever was acknowledged is there.

    Raises:
        Conflict: another process pushes here.
    """

    def __init__(self, home: Path, online: OnlineStore, views: Sequence[FeatureView], *, durable: bool = True) -> None:
        self.home = features_home(home)
        self._online = online
        self._plans, self._names = _by_source(views)
        self._types: dict[str, dict[str, str]] = {}
        self._written: dict[str, dict[str, str]] = {}
        self._journal = Journal(self.home / "journal", durable=durable)
        self._pending: deque[tuple[Position, list[Json], list[Json], int, AllTold]] = deque()
        self._order_lock = threading.Lock()
        self._apply_lock = threading.Lock()
        self._replay_lock = threading.Lock()  # the journal's segments stay while they are replayed
        self._applied = _BEGIN
        self.behind = False
        """Whether rows are in the journal that the online store did not take when they were pushed."""
        self.replayed = 0
        try:
            self._prepare(self._plans)
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
        the number of rows when they are durable and readable online. Pushing the same again changes nothing. What could not
        be brought online is with the next push that can.

        Raises:
            NotFound: no such source or view.
            BadData: a row cannot be used, or a ``where`` not evaluated for it; nothing was taken.
            Unavailable: the disk takes no more, or the online store cannot be reached; nothing was acknowledged.
        """
        source = source_name if source_name in self._plans else self._names.get(source_name)
        if source is None:
            raise NotFound.among("push source", source_name, [*self._plans, *self._names])
        stamp = time.time_ns() // 1000 if arrived is None else arrived
        if not hasattr(rows, "to_pylist"):
            rows = list(rows)
        if len(self._pending) >= _MOST_PENDING:
            self.catch_up()
        while True:
            plans = self._plans.get(source)
            if plans is None:
                raise NotFound.among("push source", source_name, [*self._plans, *self._names])
            taken = uniform(plans, rows, arrived=stamp)
            if not taken:
                return 0
            for plan in plans:
                self._check(plan, taken)
            told = expressions.tell(plans, taken)  # here, so that a row no expression can be told of is in no journal
            types: dict[str, dict[str, str]] = {}
            for plan in plans:
                version = plan["version"]
                types[version] = key_types(plan, key_columns(plan, taken, told[version]), self._types[version])
            self._types |= types  # of all or of none: a push that is refused teaches nothing
            with self._order_lock:
                if self._plans.get(source) is not plans:
                    continue  # other definitions came meanwhile, and these rows were checked against the old ones
                end = self._journal.append(source, taken, stamp)
                self._pending.append((end, plans, taken, stamp, told))
            break
        self._journal.sync(end)
        self._apply(end)
        return len(taken)

    def catch_up(self) -> None:
        """Bring online what waits for it.

        Raises:
            Unavailable: the online store still cannot be reached.
        """
        end = self._journal.end
        self._journal.sync(end)
        self._apply(end)

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
            reach = max(upto, self._journal._synced)
            with self._order_lock:
                due = list(takewhile(lambda pushed: pushed[0] <= reach, self._pending))
            batch: list[tuple[Sequence[bytes], Merge]] = []
            meta: dict[str, bytes] = {}
            for _, plans, rows, arrived, told in due:
                batch += self._writes(plans, rows, arrived, meta, told)
            end = due[-1][0] if due else self._applied
            meta[_MARK] = msgspec.msgpack.encode(tuple(end))
            self.behind = bool(due)
            self._update(batch, meta)
            self.behind = False
            self._applied = end
            for _ in due:  # only now: what the store did not take is there for the next
                self._pending.popleft()

    def _update(self, batch: list[tuple[Sequence[bytes], Merge]], meta: dict[str, bytes]) -> None:
        try:
            self._online.update(batch, meta=meta)
        except BaseException:
            for name in meta:
                self._written.pop(name, None)
            raise

    def _writes(
        self, plans: Iterable[Json], rows: list[Json], arrived: int, meta: dict[str, bytes], told: AllTold
    ) -> list[tuple[Sequence[bytes], Merge]]:
        batch: list[tuple[Sequence[bytes], Merge]] = []
        for plan in plans:
            mine = told[plan["version"]]
            batch += writes(plan, rows, arrived=arrived, told=mine)
            types = key_types(plan, key_columns(plan, rows, mine), self._types.get(plan["version"], {}))
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
        """Bring the online store up to the journal: everything for views it is not up to date for (or all, when the store
        was lost), and for the others what came after its mark. Returns the number of pushes replayed."""
        with self._replay_lock, self._apply_lock:
            self._written = {}
            mark = self._online.meta_get(_MARK)
            position = Position(*msgspec.msgpack.decode(mark, type=tuple[int, int])) if mark else _BEGIN
            kept = self._kept() if mark else set()
            every = {p["version"]: p for plans in self._plans.values() for p in plans}
            end = self._journal.end
            count = self._replay(lambda plan: plan["version"] not in kept, _BEGIN, end)
            count += self._replay(lambda plan: plan["version"] in kept, position, end)
            self._online.update([], meta={**self._keep(every), _MARK: msgspec.msgpack.encode(tuple(end))})
            self._applied = end
            self.replayed = count
            return count

    def follow(self, views: Sequence[FeatureView]) -> int:
        """Keep exactly these views up to date from now on, without a pause for who pushes; when it returns, every push ever
        acknowledged is in each of them. Returns the number of pushes replayed for the new ones.

        Raises:
            BadDefinition: a view cannot be compiled; nothing has changed.
            BadData: rows pushed before do not fit a new view; what was kept up to date still is.
        """
        plans, names = _by_source(views)
        with self._replay_lock:
            before_plans, before_names = self._plans, self._names
            old = {p["version"] for some in before_plans.values() for p in some}
            for source, some in plans.items():  # the same object says: checked against these
                if [p["version"] for p in some] == [p["version"] for p in before_plans.get(source, [])]:
                    plans[source] = before_plans[source]
            self._prepare(plans)
            with self._order_lock:
                self._plans, self._names = plans, names
                end = self._journal.end  # whatever comes after goes to the new ones too
            try:
                self._journal.sync(end)
                count = self._replay(lambda plan: plan["version"] not in old, _BEGIN, end, self._apply_lock)
            except BaseException:
                with self._order_lock:
                    self._plans, self._names = before_plans, before_names
                    now = self._journal.end
                missed = old - {p["version"] for some in plans.values() for p in some}
                self._replay(lambda plan: plan["version"] in missed, end, now, self._apply_lock)
                raise
            with self._apply_lock:
                self._online.update([], meta=self._keep(p["version"] for some in plans.values() for p in some))
            return count

    def _prepare(self, plans: Mapping[str, list[Json]]) -> None:
        landing.remember_times(self.home, {s: (p[0]["timestamp"], p[0]["arrival"]) for s, p in plans.items()})
        for some in plans.values():
            for plan in some:
                self._types.setdefault(plan["version"], self._stored_types(plan))

    def _kept(self) -> set[str]:
        """The versions the store is up to date for."""
        listed = self._online.meta_get(_KEPT)
        return msgspec.json.decode(listed, type=set[str]) if listed else set()

    def _keep(self, versions: Iterable[str]) -> dict[str, bytes]:
        return {_KEPT: msgspec.json.encode(sorted(set(versions)))}

    def _replay(
        self, wanted: Callable[[Json], bool], after: Position, upto: Position, lock: AbstractContextManager[Any] | None = None
    ) -> int:  # fmt: skip
        """Take in what was pushed between two places for the plans that are ``wanted``; the number of pushes (of batches,
        where they are landed and gone from the journal). ``lock`` is held for one of them at a time."""
        chosen = {s: some for s, plans in self._plans.items() if (some := [p for p in plans if wanted(p)])}
        if not chosen:
            return 0
        count = 0
        if after == _BEGIN:  # the oldest segments may be gone
            index = landing.read_index(self.home)
            after = index.position
            for source, plans in chosen.items():
                for plan in plans:
                    for name in index.files.get(source, []):
                        for rows in _landed_rows(self.home / "landed" / name, plan):
                            self._take_in([plan], rows, 0, lock)
                            count += plan is plans[0]
        for pushed in journal.read(self.home / "journal", after=after):
            if pushed.end > upto:
                break
            plans = chosen.get(pushed.source, [])
            if plans:
                self._take_in(plans, pushed.rows, pushed.arrived, lock)
                count += 1
        return count

    def _take_in(
        self, plans: Sequence[Json], rows: list[Json], arrived: int, lock: AbstractContextManager[Any] | None
    ) -> None:
        with lock or nullcontext():
            meta: dict[str, bytes] = {}
            batch: list[tuple[Sequence[bytes], Merge]] = []
            for plan in plans:
                read = _as_read(plan, rows)
                batch += self._writes([plan], read, arrived, meta, expressions.tell([plan], read))
            self._update(batch, meta)

    @property
    def full(self) -> bool:
        """Whether a whole segment of the journal could be landed and dropped."""
        return len(journal.segments(self.home / "journal")) > 2

    def land(self) -> Mapping[str, list[str]]:
        """Write pushed rows as parquet now, and drop journal segments that are landed and applied."""
        with self._replay_lock:
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


def _by_source(views: Sequence[FeatureView]) -> tuple[dict[str, list[Json]], dict[str, str]]:
    """(the plans of each source's views, each version once; the source of each view by name)."""
    plans: dict[str, list[Json]] = {}
    names: dict[str, str] = {}
    for view in views:
        plan = view_plan(view)
        if all(p["version"] != plan["version"] for p in plans.get(plan["source"], [])):
            plans.setdefault(plan["source"], []).append(plan)
        names[view.name] = plan["source"]
    return plans, names


def _as_read(plan: Json, rows: list[Json]) -> list[Json]:
    """Rows of a push under earlier definitions as this view reads them, which is as it reads the landed files: a column nobody
    sent is null, and a row without event time or arrival is no event."""
    names = dict.fromkeys([*needed_columns(plan), *plan["schema"]])  # an expression may name any that is declared
    times = [c for c in (plan["timestamp"], plan["arrival"]) if c]
    whole = [row if all(name in row for name in names) else {**dict.fromkeys(names), **row} for row in rows]
    return [row for row in whole if all(type(row[c]) is int for c in times)]


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
