"""Random small worlds: a source, a view over it, rows with every awkward thing in them, and questions at the edges."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pyarrow as pa
from tests.features import oracle

from holdfast.core import definitions as d
from holdfast.core.identity import from_us

UNIT = 3_600_000_000
START = 1_362_898_800_000_000  # 2013-03-10, 07:00 UTC: New York's clocks change here
INTS = [0, 1, -1, 7, 2**53, 2**53 + 1, 2**63 - 1, -(2**63) + 1, 2**31]
ZONES = ["UTC", "Asia/Kolkata", "America/New_York", "+05:30"]


@dataclass
class World:
    seed: int
    service: d.FeatureService
    rows: list[dict[str, Any]]
    questions: list[dict[str, Any]]
    arrival: bool
    sequence: bool
    where: str | None
    keys: list[str]
    ttl: int | None
    features: list[d.Field | d.Aggregation] = field(default_factory=list)

    @property
    def view(self) -> d.FeatureView:
        return self.service.views[0]

    def answers(
        self, known_rows: list[dict[str, Any]], question: dict[str, Any], at: int
    ) -> dict[str, tuple[Any, float]]:
        """By the oracle: column → (value, slack)."""
        rows = oracle.known(oracle.once(known_rows), self.keys, question, at)
        out: dict[str, tuple[Any, float]] = {}
        fields = [f for f in self.features if isinstance(f, d.Field)]
        newest = oracle.latest(rows, [f.source_column for f in fields], at, self.ttl, stamped=not self.arrival)
        for f, value in zip(fields, newest, strict=True):
            out[f"v__{f.name}"] = (float(value) if value is not None and f.dtype == "float64" else value, 0.0)
        for f in self.features:
            if isinstance(f, d.Aggregation):
                keep = (lambda r: r["w"] is not None and r["w"] > 2) if f.where else (lambda r: True)
                for name, function, span in f.features():
                    out[f"v__{name}"] = oracle.window(rows, f.column, function, span, at, keep)
        return out


def make(seed: int) -> World:
    rng = random.Random(seed)
    keys = rng.choice([["a"], ["b"], ["a", "b"]])
    made: dict[str, str] = {}
    if seed % 5 == 3:  # a key that is an expression
        keys, made = [*keys[:-1], "_made"], {"_made": "upper(b) || '.'"}
    arrival, sequence = rng.random() < 0.5, rng.random() < 0.4
    where = "w > 2" if rng.random() < 0.3 else None
    ttl = rng.choice([None, None, UNIT, 3 * UNIT, 2 * UNIT + 1])
    spans = rng.sample([UNIT, 2 * UNIT, 5 * UNIT, 3 * UNIT + 1, 1, 400 * UNIT], rng.randint(1, 3))
    windows = [timedelta(microseconds=s) for s in spans]
    features: list[d.Field | d.Aggregation] = []
    if rng.random() < 0.7:
        features += rng.sample(
            [d.Field("f"), d.Field("i", int), d.Field("s", str), d.Field("whole", float, column="i2")],
            rng.randint(1, 4),
        )
    tame = ["count", "sum", "mean", "min", "max", "last", "first", "std", "distinct"]
    wild = ["count", "sum", "mean", "min", "max", "last", "first", "distinct"]
    text = ["count", "min", "max", "last", "first", "distinct", "approx_distinct"]
    for column, functions in (("f", tame), ("i2", tame), ("i", wild), ("g", wild), ("s", text)):
        if rng.random() < 0.55 or (column == "f" and not features):
            features.append(
                d.Aggregation(
                    column,
                    rng.sample(functions, rng.randint(1, len(functions))),
                    windows,
                    where=where,
                    name=f"{column}_w",
                )
            )
    schema = {"a": int, "b": str, "f": float, "i": int, "i2": int, "g": float, "s": str, "w": int}
    source = d.Source(
        "src", "src.parquet", timestamp="t", arrival="known" if arrival else None, sequence="seq" if sequence else None,
        schema=schema if rng.random() < 0.5 else None,
    )  # fmt: skip
    entities = [d.Entity("thing", keys)] if rng.random() < 0.5 else [d.Entity(k, [k]) for k in keys]
    view = d.FeatureView("v", entities, source, features, ttl, keys=made)
    a_values = rng.sample(INTS, 3)
    rows: list[dict[str, Any]] = []
    for _ in range(rng.choice([0, 1, 5, 40, 120])):
        if rows and rng.random() < 0.15:
            rows.append(dict(rng.choice(rows)))
            continue
        time = START + rng.randint(-6, 24) * UNIT // 2 + rng.choice([0, 0, 0, 1, -1])
        row: dict[str, Any] = {
            "a": rng.choice([None, *a_values, *a_values]), "b": rng.choice([None, "1", "x", "ü", "x"]),
            "f": rng.choice([None, math.nan, 0.0, 1.5, -2.25, 1e6 + 0.1, 3.0, 1 / 3]), "i": rng.choice([None, *INTS]),
            "i2": rng.choice([None, 1, 2, 3, -100]), "g": rng.choice([None, 1e300, -1e300, 1e-300, math.inf, -math.inf, 1e16, 1.0]),
            "s": rng.choice([None, "", "a", "B", "ä", "𝄞", "\uffff"]), "w": rng.choice([None, 1, 2, 3, 4]), "t": time,
            "_time": time, "_arrival": time, "_sequence": LOWEST_SEQUENCE,
        }  # fmt: skip
        if arrival:
            row["known"] = row["_arrival"] = time + rng.choice([0, 0, 1, UNIT, 30 * UNIT, -UNIT])
        if sequence:
            row["seq"] = rng.choice([None, 1, 2, 3])
            row["_sequence"] = LOWEST_SEQUENCE if row["seq"] is None else row["seq"]
        row["_made"] = None if row["b"] is None else row["b"].upper() + "."
        rows.append(row)
    questions = []
    edges = [r["_time"] for r in rows] + [r["_arrival"] for r in rows] or [START]
    for _ in range(60):
        at = rng.choice(
            [
                rng.choice(edges) + rng.choice([0, *spans, *([ttl] if ttl else [])]) + rng.choice([-1, 0, 0, 1]),
                START + rng.randint(-10, 30) * UNIT // 2,
            ]
        )
        questions.append(
            {
                "a": rng.choice([None, *a_values, *a_values, 12345]),
                "b": rng.choice([None, "1", "x", "ü", "nobody"]),
                "_made": rng.choice([None, "1.", "X.", "X.", "Ü.", "x."]) if made else None,
                "at": at,
            }
        )
    return World(
        seed, d.FeatureService("svc", [view]), rows, questions, arrival, sequence, where, keys, ttl, features
    )  # fmt: skip


LOWEST_SEQUENCE = oracle.LOWEST


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the oracle's own columns."""
    return {k: v for k, v in row.items() if not k.startswith("_")}


def instants(rng: random.Random, values: list[int], *, naive: bool = True) -> pa.Array:
    """Instants as one of the types people have them in; nanoseconds carry a rest that must be floored away."""
    kind = rng.randrange(5 if naive else 4)
    if kind == 0:
        return pa.array(values, pa.int64())
    if kind == 1:
        return pa.array(values, pa.int64()).cast(pa.timestamp("us", tz=rng.choice(ZONES)))
    if kind == 2:
        return pa.array([v * 1000 + rng.randrange(1000) for v in values], pa.int64()).cast(
            pa.timestamp("ns", tz=rng.choice(ZONES))
        )
    if kind == 3:
        return pa.array([from_us(v).isoformat() for v in values])
    return pa.array(values, pa.int64()).cast(pa.timestamp("us"))


def table(world: World, rng: random.Random) -> pa.Table:
    """The rows as a source table, in random order."""
    rows = [shown(r) for r in world.rows]
    rng.shuffle(rows)
    types = {
        "a": pa.int64(),
        "b": pa.string(),
        "f": pa.float64(),
        "i": pa.int64(),
        "i2": pa.int32(),
        "g": pa.float64(),
        "s": pa.string(),
        "w": pa.int64(),
        "seq": pa.int64(),
    }
    names = [
        "a",
        "b",
        "f",
        "i",
        "i2",
        "g",
        "s",
        "w",
        "t",
        *(["known"] if world.arrival else []),
        *(["seq"] if world.sequence else []),
    ]
    columns = {
        n: instants(rng, [r[n] for r in rows]) if n in ("t", "known") else pa.array([r[n] for r in rows], types[n])
        for n in names
    }
    return pa.table(columns)
