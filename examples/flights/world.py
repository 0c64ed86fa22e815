"""The year 2013 as it happened: what becomes known when, cut into feed steps of an hour."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

MINUTE = 60_000_000
STEP = 60 * MINUTE
DAY = 24 * 60 * MINUTE


def instant(text: str) -> int:
    """``2013-03-01T05:00`` UTC as µs."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def month_start(month: int) -> int:
    """Midnight in New York of the month's first day (winter time; close enough to cut a year into twelve)."""
    return instant(f"2013-{month:02d}-01T05:00") if month <= 12 else instant("2014-01-01T05:00")


@dataclass
class Feed:
    """Rows of one feed in the order they become known; ``at`` is when (µs)."""

    at: np.ndarray
    rows: list[dict[str, object]]

    def between(self, start: int, end: int) -> list[dict[str, object]]:
        lo, hi = np.searchsorted(self.at, [start, end], side="left")
        return self.rows[lo:hi]


def _feed(path: Path, known: str, start: int, *, columns: str = "*") -> Feed:
    table: pa.Table = duckdb.sql(
        f"SELECT epoch_us({known}) AS __at, {columns} FROM '{path}' WHERE epoch_us({known}) >= {start} ORDER BY {known}"
    ).to_arrow_table()
    at = table["__at"].to_numpy()
    return Feed(at, table.drop_columns(["__at"]).to_pylist())


class World:
    """The feeds from ``start`` on."""

    def __init__(self, raw: Path, start: int) -> None:
        times = "EXCLUDE (landed_at, known_at), epoch_us(landed_at) AS landed_at, epoch_us(known_at) AS known_at"
        sky = "EXCLUDE (observed_at, known_at), epoch_us(observed_at) AS observed_at, epoch_us(known_at) AS known_at"
        self.arrivals = _feed(raw / "arrivals.parquet", "known_at", start, columns=f"* {times}")
        self.weather = _feed(raw / "weather.parquet", "known_at", start, columns=f"* {sky}")
        self.flights = _feed(
            raw / "flights.parquet", "scheduled_departure", start,
            columns="flight_id, origin, carrier, dest, tailnum, distance, epoch_us(scheduled_local) AS scheduled_local, "
            "epoch_us(scheduled_departure) AS due",
        )  # fmt: skip


def deliver_history(raw: Path, data: Path, months: range) -> None:
    """The files that were there before the service began: one of each feed a month, and the fleet."""
    for name, known in (("flights", "scheduled_departure"), ("arrivals", "known_at"), ("weather", "known_at")):
        (data / name).mkdir(parents=True, exist_ok=True)
        for month in months:
            deliver(raw, data, name, known, month)
    (data / "planes").mkdir(parents=True, exist_ok=True)
    duckdb.sql(
        f"COPY (SELECT * FROM '{raw / 'planes.parquet'}') TO '{data / 'planes' / 'planes.parquet'}' (FORMAT parquet)"
    )


def deliver(raw: Path, data: Path, name: str, known: str, month: int, *, select: str = "*") -> Path:
    """Write one month of a feed as a file."""
    target = data / name / f"2013-{month:02d}.parquet"
    lo = month_start(month) if month > 1 else 0
    duckdb.sql(
        f"COPY (SELECT {select} FROM '{raw / (name + '.parquet')}' WHERE epoch_us({known}) >= {lo} AND epoch_us({known}) < {month_start(month + 1)} "
        f"ORDER BY {known}) TO '{target}' (FORMAT parquet)"
    )
    return target
