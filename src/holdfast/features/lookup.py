"""A feature service compiled to a read plan, and the plan at work: one fetch per request, nothing parsed or planned.

The plan is plain JSON and self-contained (definitions, hashes, source of on-demand functions), so it travels in a model's
package and pins the exact versions of the views it reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from operator import add
from typing import Any

import msgspec

from holdfast.core.definitions import FeatureService
from holdfast.core.errors import BadInput, did_you_mean
from holdfast.core.ports import Buffer, OnlineStore
from holdfast.core.records import Json
from holdfast.features import blocks, latest, ondemand
from holdfast.features.encoding import BASE, LATEST, TAIL, dtype_of, encode_key, view_prefix
from holdfast.features.windows import empty_value, view_plan

PLAN_FORMAT = 1


def compile_plan(service: FeatureService) -> Json:
    """The read plan of a service.

    Raises:
        BadDefinition: an on-demand function cannot travel, or an aggregate does not fit its column.
    """
    views = [view_plan(v) for v in service.views]
    functions = [ondemand.compile_source(f) for f in service.on_demand]
    key_types: dict[str, str] = {}
    for view in views:
        key_types.update(view["key_types"])
    key_types.update({k: t for k, t in service.request.items() if k in service.join_keys})
    return {
        "format": PLAN_FORMAT, "service": service.name, "version": service.version, "views": views, "on_demand": functions,
        "keys": list(service.join_keys), "key_types": key_types, "request": dict(service.request), "hidden": list(service.hidden),
        "columns": service.columns(), "dtypes": plan_dtypes(views, functions, service.request, key_types),
    }  # fmt: skip


def plan_dtypes(
    views: Sequence[Json], functions: Sequence[Json], request: Mapping[str, str], key_types: Mapping[str, str]
) -> dict[str, str]:
    """The type of every column an on-demand function may name, where it is known."""
    dtypes = {c: t for v in views for c, t in v["columns"]}
    return {**key_types, **dtypes, **{f["name"]: f["dtype"] for f in functions}, **request}


class Lookup:
    """Feature vectors by entity key, as known at the request's time. Thread safe."""

    def __init__(self, plan: Json, online: OnlineStore) -> None:
        self.plan = plan
        self.columns: Sequence[str] = tuple(plan["columns"])
        self.dtypes: dict[str, str] = plan["dtypes"]
        self._online = online
        self.waits = online.waits
        self._readers = [_Reader(v) for v in plan["views"]]
        by_keys: dict[tuple[str, ...], list[_Reader]] = {}
        for reader in self._readers:
            by_keys.setdefault(reader.keys, []).append(reader)
        self._entities = list(by_keys.items())
        self._functions = [ondemand.Function(f) for f in plan["on_demand"]]
        self._request: list[tuple[str, str]] = list(plan["request"].items())
        self._keys: list[str] = plan["keys"]
        self._key_types: dict[str, str] = plan["key_types"]
        self._learned = False
        found = [c for r in self._readers for c in r.columns]
        self._found = found
        self._as_found = list(self.columns) == found and not self._functions and not self._request
        self._alone = self._as_found and len(self._entities) == 1 and len(self._entities[0][0]) == 1
        self._alone &= all(reader.newest_only for reader in self._readers)

    def rows(self, requests: Sequence[Json], *, at: Sequence[int]) -> list[Json]:
        """Feature values by column name, one dict per request, in the service's column order, as known at ``at`` (µs).

        Raises:
            BadInput: an entity key or request value is missing or of the wrong type; the message names it and the row.
            Unavailable: the online store does not answer.
        """
        if self._alone and len(requests) == 1 and (row := self._one(requests[0], at[0])) is not None:
            return [row]
        raw, _ = self.rows_with_times(requests, at=at, times=False)
        return raw

    def _one(self, request: Json, now: int) -> Json | None:
        """The row of one request about one entity, where that is a plain key of the type it has: most of serving, and
        nothing to lay out. None where the long way has something to say."""
        key = self._entities[0][0][0]
        value = request.get(key)
        if type(value) is not _TYPES.get(self._key_types.get(key, "")):
            return None
        try:
            entity = encode_key((value,))
        except OverflowError:
            return None
        readers = self._readers

        def use(stored: list[Buffer | None]) -> Json:
            values: list[Any] = []
            for reader, found in zip(readers, stored, strict=True):
                values += reader.newest(found, now)
            return dict(zip(self._found, values, strict=True))

        return self._online.fetch([reader.prefix + entity + LATEST for reader in readers], use=use)

    def rows_with_times(
        self, requests: Sequence[Json], *, at: Sequence[int], times: bool = True
    ) -> tuple[list[Json], list[dict[str, int | None]]]:
        """As ``rows``, and per request the event time of each view's newest row (None where there is none)."""
        if not self._learned:
            self._learn()
        keys: list[bytes] = []
        layout: dict[_Reader, tuple[int, list[int]]] = {}
        for names, readers in self._entities:
            try:
                entities, places = self._places(names, requests)
            except OverflowError:
                raise BadInput(f"a key ({', '.join(names)}) is an integer that does not fit 64 bits") from None
            newest: list[bytes] | None = None
            for reader in readers:
                layout[reader] = (len(keys), places)
                prefix, kinds = reader.prefix, reader.kinds
                if kinds == _NEWEST:
                    newest = newest or [entity + LATEST for entity in entities]
                    keys += [prefix + stem for stem in newest]
                else:
                    keys += [prefix + entity + kind for entity in entities for kind in kinds]
        found = self._found

        def use(stored: list[Buffer | None]) -> tuple[list[Json], list[dict[str, int | None]]]:
            parts = [reader.read(stored, *layout[reader], at) for reader in self._readers]
            out: list[Json]
            if not parts:
                out = [{} for _ in requests]
            else:  # no step of Python per row
                values: Any = parts[0] if len(parts) == 1 else map(add if len(parts) == 2 else chain, *parts)
                out = list(map(dict, map(zip, repeat(found), values)))
            when: list[dict[str, int | None]] = []
            if times:
                columns = [reader.times(stored, *layout[reader], at) for reader in self._readers]
                names = [reader.name for reader in self._readers]
                when = [dict(zip(names, some, strict=True)) for some in zip(*columns, strict=True)]
            return out, when

        rows, when = self._online.fetch(keys, use=use)
        if self._as_found:
            return rows, when
        if self._functions or self._request:
            self._complete(requests, rows)
        columns = self.columns
        return [{c: row[c] for c in columns} for row in rows], when

    def fresh_until(self) -> dict[str, int]:
        """The instant (µs) up to which each view has been materialized; views that never were are left out."""
        marks = {r.name: self._online.meta_get(f"upto/{r.version}") for r in self._readers}
        return {name: int(mark) for name, mark in marks.items() if mark}

    def _places(self, names: tuple[str, ...], requests: Sequence[Json]) -> tuple[list[bytes], list[int]]:
        """The distinct entities asked for, and per request which of them it is; −1 where a key is null."""
        entities: dict[bytes, int] = {}
        places = []
        types = [_TYPES.get(self._key_types.get(key, "")) for key in names]
        if len(names) == 1:  # the usual case, without the inner loop
            key, expected = names[0], types[0]
            plain = _plain_keys(key, expected, requests)
            if plain is not None:
                return plain
            for i, request in enumerate(requests):
                try:
                    value = request[key]
                except KeyError:
                    raise self._missing(key, request, i) from None
                if expected is None or type(value) is not expected:
                    value = None if value is None else self._key(key, value, self._key_types.get(key), i)
                    if value is None:
                        places.append(-1)
                        continue
                places.append(entities.setdefault(encode_key((value,)), len(entities)))
            return list(entities), places
        for i, request in enumerate(requests):
            values = []
            for key, expected in zip(names, types, strict=True):
                try:
                    value = request[key]
                except KeyError:
                    raise self._missing(key, request, i) from None
                if value is not None and (expected is None or type(value) is not expected):
                    value = self._key(key, value, self._key_types.get(key), i)
                if value is None:
                    places.append(-1)
                    break
                values.append(value)
            else:
                places.append(entities.setdefault(encode_key(values), len(entities)))
        return list(entities), places

    def _key(self, key: str, value: Any, expected: str | None, i: int) -> Any:
        if hasattr(value, "item") and not isinstance(value, str | bytes):
            value = value.item()
        if isinstance(value, float) and value != value:
            return None
        if isinstance(value, bool | int | str) and (expected is None or dtype_of(value) == expected):
            if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
                raise BadInput(f"row {i}: key {key!r} is {value}, which does not fit 64 bits")
            return value
        wanted = expected or "int64, string or bool"
        raise BadInput(
            f"row {i}: key {key!r} is {value!r}, a {dtype_of(value)}; it must be {wanted}",
            hint="send keys in the type the source has",
        )

    def _missing(self, name: str, request: Json, i: int) -> BadInput:
        needed = [*self._keys, *(r for r, _ in self._request)]
        return BadInput(
            f"row {i}: {name!r} is missing",
            hint=f"this service needs {', '.join(dict.fromkeys(needed))}; {did_you_mean(name, request)}",
        )

    def _complete(self, requests: Sequence[Json], rows: list[Json]) -> None:
        for name, dtype in self._request:
            if name in self._keys:
                continue
            for i, request in enumerate(requests):
                if name not in request:
                    raise self._missing(name, request, i)
                value = request[name]
                if type(value) is not _PLAIN.get(dtype):
                    value = self._request_value(name, value, dtype, i)
                rows[i][name] = value
        if not self._functions:
            return
        n = len(rows)
        needed = {a for f in self._functions for a in f.arguments}
        arrays = {}
        for name in needed:
            if name in self._keys and name not in rows[0]:
                values = [r[name] for r in requests]
                dtype = self.dtypes.get(name) or dtype_of(next((v for v in values if v is not None), 0.0))
            elif name in rows[0]:
                values = [r[name] for r in rows]
                dtype = self.dtypes[name]
                if dtype == "float64" and any(isinstance(v, str) for v in values):
                    dtype = "string"
            else:
                continue  # another on-demand feature, added below
            arrays[name] = ondemand.to_array(values, dtype)
        for function in self._functions:
            result = function(arrays, n)
            if function.name in needed:
                arrays[function.name] = result
            for row, value in zip(rows, ondemand.to_plain(result, function.dtype), strict=True):
                row[function.name] = value

    def _request_value(self, name: str, value: Any, dtype: str, i: int) -> Any:
        from holdfast.features.encoding import cast, plain

        try:
            return cast(plain(value), dtype)
        except BadInput as error:
            raise BadInput(f"row {i}: {name!r}: {error.message}", hint=f"send a {dtype} or null") from None

    def _learn(self) -> None:
        """Key types nobody declared are those the writer met first."""
        complete = True
        for reader in self._readers:
            if all(k in self._key_types for k in reader.keys):
                continue
            stored = self._online.meta_get(f"keys/{reader.version}")
            if stored is None:
                complete = False
                continue
            for key, dtype in msgspec.json.decode(stored, type=dict[str, str]).items():
                self._key_types.setdefault(key, dtype)
        self._learned = complete


def _plain_keys(key: str, expected: type | None, requests: Sequence[Json]) -> tuple[list[bytes], list[int]] | None:
    """``Lookup._places`` where nobody is asked for twice and every key is a short one of its type; None elsewhere."""
    try:
        values = [request[key] for request in requests]
    except KeyError:
        return None
    if expected is None or set(map(type, values)) != {expected} or len(set(values)) < len(values):
        return None
    entities = [encode_key((value,)) for value in values]
    return entities, list(range(len(entities)))


_NEWEST = (LATEST,)
_TYPES: dict[str, type] = {"int64": int, "string": str, "bool": bool}
"""Key types whose values are taken as they are; an int may still not fit 64 bits, which the encoder refuses."""
_PLAIN: dict[str, type] = {"int64": int, "string": str, "bool": bool}


class _Reader:
    """One view's part of a plan."""

    __slots__ = (
        "_aggregates",
        "_empty",
        "_nothing",
        "_static",
        "_ttl",
        "_width",
        "_window",
        "columns",
        "keys",
        "kinds",
        "name",
        "prefix",
        "version",
    )

    def __init__(self, view: Json) -> None:
        self.name: str = view["name"]
        self.version: str = view["version"]
        self.prefix = view_prefix(view["version"])
        self.keys: tuple[str, ...] = tuple(view["keys"])
        self._static = view["timestamp"] is None
        self._ttl: int | None = view["ttl"]
        fields = [f["column"] for f in view["fields"]]
        self._width = len(fields)
        self._nothing: list[Any] = [None] * len(fields)
        aggregates = [(a["column"], a["value"], a["function"], a["window"]) for a in view["aggregates"]]
        self._aggregates = [a[0] for a in aggregates]
        self._window = blocks.Window(aggregates) if aggregates else None
        self._empty = [empty_value(a[2]) for a in aggregates]
        self.columns = [*fields, *self._aggregates]
        self.kinds: tuple[bytes, ...] = ((LATEST,) if fields else ()) + ((BASE, TAIL) if aggregates else ())

    @property
    def newest_only(self) -> bool:
        """Whether a view is the newest values of an entity and nothing else."""
        return self._width > 0 and self._window is None and not self._static

    def newest(self, stored: Buffer | None, now: int) -> list[Any]:
        """The values of one entity of such a view, as known at ``now`` (µs)."""
        return self._nothing if stored is None else latest.read(stored, now, self._ttl, self._nothing)

    def read(self, stored: list[Buffer | None], base: int, places: list[int], at: Sequence[int]) -> list[list[Any]]:
        """Per request the values of ``columns`` as known at its time. Entity ``p`` is stored from ``base + p × kinds``."""
        step, window = len(self.kinds), self._window
        out: list[list[Any]] = []
        if self._width:
            if self._static:
                out = [
                    self._nothing if p < 0 or (found := stored[base + p * step]) is None else latest.read_static(found)
                    for p in places
                ]
            else:
                out = latest.read_many(stored, base, step, places, at, self._ttl, self._nothing)
            if window is None:
                return out
            base += 1
        assert window is not None
        names = self._aggregates
        for i, place in enumerate(places):
            values = self._empty
            if place >= 0:
                into: Json = {}
                window.read(stored[base + place * step], stored[base + place * step + 1], at[i], into)
                values = [into[name] for name in names]
            if self._width:
                out[i] = [*out[i], *values]
            else:
                out.append(values)
        return out

    def times(self, stored: list[Buffer | None], base: int, places: list[int], at: Sequence[int]) -> list[int | None]:
        """Per request the event time of the newest row known at its time, or None; 0 for a static source."""
        step = len(self.kinds)
        return [
            None if place < 0 else self._time(stored, base + place * step, now)
            for place, now in zip(places, at, strict=True)
        ]

    def _time(self, stored: list[Buffer | None], place: int, at: int) -> int | None:
        times: list[int] = []
        if self._width:
            found = stored[place]
            if found is not None:
                if self._static:
                    return 0
                known = latest.time(found, at)
                times += [] if known is None else [known]
            place += 1
        if self._window is not None:
            for buffer in (stored[place], stored[place + 1]):
                if buffer is not None:
                    block = blocks.Block(buffer)
                    i = block.after(at)
                    times += [block.cells[block.start + i - 1]] if i else []
        return max(times, default=None)
