"""Parity: were the features a model was served the ones that training would compute for the same moments?

Every served vector is in the prediction log; here it is computed again from the sources as known at its request time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.definitions import FeatureService
from holdfast.core.errors import BadInput
from holdfast.core.identity import DAY, HOUR, MINUTE, SECOND, iso
from holdfast.core.ports import Engine
from holdfast.core.records import Json
from holdfast.features.answers import INSTANT
from holdfast.features.lookup import compile_plan
from holdfast.features.point_in_time import historical_from_plan

EXAMPLES = 5
LAGS = (SECOND, MINUTE, 15 * MINUTE, HOUR, 6 * HOUR, DAY)
"""How far back a served value is looked for before it is called unequal instead of stale (µs)."""
_AT = "__request_time"


def verify(
    engine: Engine, service: FeatureService | Json, predictions: pa.Table, sources: Mapping[str, Any], *,
    tolerance: float = 1e-9, cache: Path | None = None,
) -> list[Json]:  # fmt: skip
    """Per feature ``{"feature", "rows", "equal", "stale", "missing", "unequal", "null_rate", "low", "high", "examples"}``.

    ``predictions`` is the prediction log: ``id``, ``request_time`` (µs), ``inputs.<name>``, ``features.<name>``.
    ``service`` may be a compiled plan, as a package pins it. *missing*: served null although there was a value; *stale*: the
    value of an earlier moment (``LAGS``); *unequal*: anything else, a value served where there was none included.
    Floats agree within ``tolerance``, relative; everything else exactly.

    Raises:
        BadInput: the log lacks a key or request value of the service.
    """
    plan = compile_plan(service) if isinstance(service, FeatureService) else service
    served = [c for c in plan["columns"] if f"features.{c}" in predictions.column_names]
    if not predictions.num_rows:
        return [_entry(c, 0) for c in served]
    spine = spine_of(plan, predictions)
    at = np.asarray(spine.column(_AT).cast(pa.int64()).to_numpy())
    wanted = _recompute(engine, plan, spine, at, sources, cache)
    out: list[Json] = []
    wrong: dict[str, np.ndarray] = {}
    for column in served:
        got = predictions.column(f"features.{column}")
        entry = _entry(column, predictions.num_rows)
        bad = ~_same(got, wanted.column(column), tolerance)
        entry["equal"] = int((~bad).sum())
        entry.update(_describe(got))
        wrong[column] = bad
        out.append(entry)
    if any(bad.any() for bad in wrong.values()):
        _explain(
            engine, plan, predictions, spine, at, sources, wanted, wrong, {e["feature"]: e for e in out}, tolerance
        )
    return out


def spine_of(plan: Json, predictions: pa.Table) -> pa.Table:
    """The spine the predictions were asked with: keys, request values, request time."""
    columns: dict[str, Any] = {}
    for name in dict.fromkeys([*plan["keys"], *plan["request"]]):
        stored = f"inputs.{name}"
        if stored not in predictions.column_names:
            raise BadInput(f"the prediction log has no {stored!r}", hint="was this service's model given other inputs?")
        columns[name] = _as_declared(
            predictions.column(stored), plan["key_types"].get(name) or plan["request"].get(name)
        )
    columns[_AT] = predictions.column("request_time").cast(pa.int64()).cast(INSTANT)
    return pa.table(columns)


def _as_declared(column: pa.ChunkedArray, dtype: str | None) -> pa.ChunkedArray:
    """Logged whole numbers may come back as doubles; keys must not."""
    if dtype == "int64" and pa.types.is_floating(column.type):
        return column.cast(pa.int64())
    if dtype == "string" and not pa.types.is_string(column.type):
        return column.cast(pa.string())
    return column


def _recompute(
    engine: Engine, plan: Json, spine: pa.Table, at: np.ndarray, sources: Mapping[str, Any], cache: Path | None
) -> pa.Table:
    timed = spine.set_column(spine.column_names.index(_AT), _AT, pa.array(at).cast(INSTANT))
    return historical_from_plan(engine, plan, timed, timestamp=_AT, sources=sources, cache=cache)


def _same(got: Any, wanted: Any, tolerance: float) -> np.ndarray:
    """Per row whether two columns agree; null agrees with null (NaN is null)."""
    a_null, b_null = _nulls(got), _nulls(wanted)
    if _number(got.type) and _number(wanted.type):
        if pa.types.is_integer(got.type) and pa.types.is_integer(wanted.type):
            close = pc.equal(got, wanted).fill_null(False).to_numpy()
        else:
            a = pc.cast(got, pa.float64(), safe=False).fill_null(0.0).to_numpy()
            b = pc.cast(wanted, pa.float64(), safe=False).fill_null(0.0).to_numpy()
            with np.errstate(invalid="ignore"):
                close = (a == b) | (np.abs(a - b) <= tolerance * np.maximum(1.0, np.maximum(np.abs(a), np.abs(b))))
    else:
        close = pc.equal(got.cast(pa.string()), wanted.cast(pa.string())).fill_null(False).to_numpy()
    result: np.ndarray = np.where(a_null | b_null, a_null & b_null, close)
    return result


def _number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
    )


def _nulls(column: Any) -> np.ndarray:
    return np.asarray(pc.is_null(column, nan_is_null=True).to_numpy())


def _entry(feature: str, rows: int) -> Json:
    return {
        "feature": feature, "rows": rows, "equal": 0, "stale": 0, "missing": 0, "unequal": 0,
        "null_rate": None, "low": None, "high": None, "examples": [],
    }  # fmt: skip


def _describe(column: Any) -> Json:
    """What was served: share of nulls and range."""
    null = _nulls(column)
    out: Json = {"null_rate": float(null.mean())}
    if _number(column.type) and not null.all():
        values = pc.cast(column, pa.float64(), safe=False).to_numpy()[~null]
        out["low"], out["high"] = float(values.min()), float(values.max())
    return out


def _explain(
    engine: Engine, plan: Json, predictions: pa.Table, spine: pa.Table, at: np.ndarray, sources: Mapping[str, Any],
    wanted: pa.Table, wrong: Mapping[str, np.ndarray], entries: Mapping[str, Json], tolerance: float,
) -> None:  # fmt: skip
    """Sort what is wrong into missing, stale and unequal, with examples."""
    rows = np.flatnonzero(np.logical_or.reduce(list(wrong.values())))
    index = pa.array(rows)
    part, asked = spine.take(index), at[rows]
    earlier = [_recompute(engine, plan, part, asked - lag, sources, None) for lag in LAGS]
    ids = predictions.column("id").take(index).to_pylist()
    for column, bad in wrong.items():
        here = np.flatnonzero(bad[rows])
        if not len(here):
            continue
        got = predictions.column(f"features.{column}").take(index)
        now = wanted.column(column).take(index)
        null = _nulls(got)
        lag_of = np.zeros(len(rows), np.int64)
        for lag, table in zip(reversed(LAGS), reversed(earlier), strict=True):
            lag_of[_same(got, table.column(column), tolerance)] = lag
        entry = entries[column]
        for i in here.tolist():
            kind = "missing" if null[i] else "stale" if lag_of[i] else "unequal"
            entry[kind] += 1
            if len(entry["examples"]) < EXAMPLES:
                entry["examples"].append(
                    {"id": ids[i], "request_time": iso(int(asked[i])), "kind": kind, "served": got[i].as_py(), "wanted": now[i].as_py(),
                     "lag": int(lag_of[i]) or None}
                )  # fmt: skip


def merge(reports: Sequence[Sequence[Json]]) -> list[Json]:
    """Several reports (of model versions) as one, feature by feature."""
    out: dict[str, Json] = {}
    for report in reports:
        for entry in report:
            known = out.get(entry["feature"])
            if known is None:
                out[entry["feature"]] = {**entry, "examples": list(entry["examples"])}
                continue
            total = known["rows"] + entry["rows"]
            if total and known["null_rate"] is not None and entry["null_rate"] is not None:
                known["null_rate"] = (known["null_rate"] * known["rows"] + entry["null_rate"] * entry["rows"]) / total
            for name in ("rows", "equal", "stale", "missing", "unequal"):
                known[name] += entry[name]
            for name, choose in (("low", min), ("high", max)):
                known[name] = choose((v for v in (known[name], entry[name]) if v is not None), default=None)
            known["examples"] = [*known["examples"], *entry["examples"]][:EXAMPLES]
    return list(out.values())
