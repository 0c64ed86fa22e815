"""Rows of a source, made uniform once at the door, and what they become in the online store.

A uniform row holds plain values; its event time and arrival are microseconds UTC. ``writes`` turns uniform rows into merges
of the online store, the same for pushes, replays and materializations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias

from holdfast.core.errors import BadData, BadInput, did_you_mean
from holdfast.core.identity import to_us
from holdfast.core.ports import Buffer, Merge
from holdfast.core.records import Json
from holdfast.features import blocks, latest
from holdfast.features.encoding import (
    BASE,
    LATEST,
    NEVER,
    TAIL,
    cast,
    content_id,
    dtype_of,
    encode_key,
    plain,
    view_prefix,
)

Told: TypeAlias = Mapping[tuple[str, str], Sequence[Any]]
"""What expressions say of some rows, by ("where" or "key", expression)."""
ARRIVED = "__arrived"
"""The column of landed rows that says when a row was pushed, where the source has no arrival column of its own."""


def uniform(plans: Sequence[Json], rows: Any, *, arrived: int) -> list[Json]:
    """The rows of one source as its views (their plans) read them. ``rows`` is a list of dicts or a pyarrow Table.

    Raises:
        BadData: a column is missing or a value has the wrong type; the message names row and column. Nothing is taken.
    """
    listed: list[Mapping[str, Any]] = rows.to_pylist() if hasattr(rows, "to_pylist") else list(rows)
    plan = plans[0]
    schema: Mapping[str, str] = plan["schema"]
    timestamp, arrival, source = plan["timestamp"], plan["arrival"], plan["source"]
    needed = dict.fromkeys([c for p in plans for c in needed_columns(p)])
    out = []
    for i, row in enumerate(listed):
        if not isinstance(row, Mapping):
            raise BadData(f"row {i} for source {source!r} is not a row", hint="send objects of column: value")
        for column in needed:
            if column not in row and column != arrival:
                raise BadData(
                    f"row {i} for source {source!r} lacks the column {column!r}",
                    hint=did_you_mean(column, map(str, row), kind="column"),
                )
        new: Json = {}
        for column, value in row.items():
            try:
                if column in (timestamp, arrival):
                    new[column] = None if value is None or value != value else to_us(value)
                else:
                    value = plain(value)
                    dtype = schema.get(column)
                    new[column] = value if dtype is None or value is None else _cast(value, dtype)
            except BadInput as error:
                raise BadData(
                    f"row {i} for source {source!r}, column {column!r}: {error.message}", hint=error.hint
                ) from None
        if timestamp is not None:
            if new.get(timestamp) is None:
                raise BadData(
                    f"row {i} for source {source!r} has no event time ({timestamp!r})", hint="every row needs one"
                )
            if not NEVER < new[timestamp] < 1 << 62:
                raise BadData(
                    f"row {i} for source {source!r}: the event time is out of range",
                    hint="microseconds, or text like 2013-03-01T06:00:00Z",
                )
        if arrival is not None and new.get(arrival) is None:
            new[arrival] = arrived
        out.append(new)
    return out


def _cast(value: Any, dtype: str) -> Any:
    if dtype == "timestamp":
        from holdfast.core.identity import from_us

        return from_us(to_us(value))
    return cast(value, dtype)


def needed_columns(plan: Json) -> list[str]:
    """The source columns a view reads."""
    times = [c for c in (plan["timestamp"], plan["arrival"], plan["sequence"]) if c]
    values = [v["column"] for v in plan["values"]]
    keys = [k for k in plan["keys"] if k not in plan.get("key_sql", {})]
    return list(dict.fromkeys([*keys, *times, *(f["source_column"] for f in plan["fields"]), *values]))


def key_columns(plan: Json, rows: Sequence[Json], told: Told) -> list[Sequence[Any]]:
    """The values of each of the view's keys in these rows."""
    made = plan.get("key_sql", {})
    return [told["key", made[k]] if k in made else [row[k] for row in rows] for k in plan["keys"]]


def key_types(plan: Json, columns: Sequence[Sequence[Any]], known: Mapping[str, str]) -> dict[str, str]:
    """The types of the view's keys, learned from the first values there are; ``columns`` as ``key_columns`` gives them.

    Raises:
        BadData: a key has another type than before.
    """
    types = {**known, **plan["key_types"]}
    for key, column in zip(plan["keys"], columns, strict=True):
        for value in column:
            if value is None:
                continue
            dtype = dtype_of(value)
            if types.setdefault(key, dtype) != dtype:
                raise BadData(
                    f"key {key!r} of view {plan['name']!r} is {value!r}, a {dtype}; it was {types[key]} before",
                    hint=f"send it as {types[key]}",
                )
            if dtype not in ("int64", "string", "bool"):
                raise BadData(
                    f"key {key!r} of view {plan['name']!r} is {value!r}, a {dtype}",
                    hint="keys are integers, text or booleans",
                )
    return types


def writes(plan: Json, rows: Sequence[Json], *, arrived: int | None, told: Told) -> list[tuple[Sequence[bytes], Merge]]:
    """The merges that bring ``rows`` into the online store for one view.

    ``arrived`` is when the rows were pushed; None means that each was known from its event time on (files). ``told`` is what
    the view's expressions say of the rows.

    Raises:
        BadData: a value does not fit its field.
    """
    prefix = view_prefix(plan["version"])
    timestamp, arrival, sequence = plan["timestamp"], plan["arrival"], plan["sequence"]
    fields = [(f["source_column"], f["dtype"]) for f in plan["fields"]]
    columns = [v["column"] for v in plan["values"]]
    masks = [told["where", v["where"]] if v["where"] else None for v in plan["values"]]
    newest: dict[bytes, list[Any]] = {}
    events: dict[bytes, list[blocks.Event]] = {}
    for i, (row, key) in enumerate(zip(rows, zip(*key_columns(plan, rows, told), strict=True), strict=True)):
        if None in key:
            continue
        stem = prefix + encode_key(key)
        time = row[timestamp] if timestamp is not None else NEVER
        if arrival is not None:
            came = row[arrival]
        elif ARRIVED in row:
            came = row[ARRIVED]
        else:
            came = time if arrived is None else arrived
        place = NEVER if sequence is None or row[sequence] is None else int(row[sequence])
        if fields:
            try:
                newest.setdefault(stem, []).append((time, came, place, [cast(row[c], t) for c, t in fields]))
            except BadInput as error:
                raise BadData(
                    f"row {i} for view {plan['name']!r}: {error.message}", hint="mend the value or the field's type"
                ) from None
        if columns:
            values = tuple(_number(row[c]) if masks[v] is None or masks[v][i] else None for v, c in enumerate(columns))  # type: ignore[index]
            identity = content_id({k: v for k, v in row.items() if k != ARRIVED})
            events.setdefault(stem, []).append((time, came, place, identity, values))
    distinct = [v["distinct"] for v in plan["values"]]
    kept = blocks.spare(plan["retention"])
    merges: list[tuple[Sequence[bytes], Merge]] = []
    for stem, some in newest.items():
        merges.append(((stem + LATEST,), partial(_merge_latest, some, arrival is None)))
    for stem, many in events.items():
        merges.append(((stem + BASE, stem + TAIL), partial(_merge_events, many, distinct, kept)))
    return merges


def _number(value: Any) -> Any:
    kind = type(value)
    if kind is bool:
        return int(value)
    return to_us(value) if isinstance(value, datetime) else value


def _merge_latest(rows: list[Any], stamped: bool, stored: Sequence[Buffer | None]) -> Sequence[Buffer | None] | None:
    merged = latest.merge(stored[0], rows, stamped=stamped)
    return None if merged is None else (merged,)


def _merge_events(
    events: list[blocks.Event], distinct: list[bool], retention: int, stored: Sequence[Buffer | None]
) -> Sequence[Buffer | None] | None:
    return blocks.merge(stored[0], stored[1], events, distinct, retention)
