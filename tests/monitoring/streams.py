"""Streams of predictions with known truth: what changes with nothing wrong, and what is then done to them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

DAY = 86_400_000_000
START = 15_700 * DAY
CATEGORIES = np.array(list("abcdefgh"))


@dataclass(frozen=True)
class World:
    """``weekly``/``hourly``: size of the cycles; ``noise``: sd of a day's harmless offset, ``memory`` of it from day to
    day; all in standard deviations of a column."""

    columns: int = 20
    per_day: int = 400
    days: int = 60
    weekly: float = 0.0
    hourly: float = 0.0
    noise: float = 0.0
    memory: float = 0.0


Window = tuple[pa.Table, np.ndarray]


def stream(
    rng: np.random.Generator, world: World, window_days: int, rows: int
) -> tuple[pa.Table, np.ndarray, pa.Table, np.ndarray]:
    """(reference, its times, window, its times); the window follows the reference and has ``rows`` rows."""
    reference, times, [(window, later)] = streams(rng, world, window_days, rows, 1)
    return reference, times, window, later


def streams(
    rng: np.random.Generator, world: World, window_days: int, rows: int, count: int
) -> tuple[pa.Table, np.ndarray, list[Window]]:
    """(reference, its times, windows with their times), one after the other."""
    offsets = _offsets(rng, world, world.days + window_days * count)
    at = np.sort(rng.integers(0, world.days * DAY, world.per_day * world.days))
    reference, times = _table(rng, world, offsets, at)
    windows = []
    for i in range(count):
        first = world.days + i * window_days
        window, later = _table(
            rng, world, offsets, np.sort(rng.integers(first * DAY, (first + window_days) * DAY, rows))
        )
        windows.append((window, later + START))
    return reference, times + START, windows


def _offsets(rng: np.random.Generator, world: World, total: int) -> np.ndarray:
    offsets = rng.normal(size=(total, world.columns))
    for i in range(1, total):
        offsets[i] = world.memory * offsets[i - 1] + np.sqrt(1 - world.memory**2) * offsets[i]
    return offsets * world.noise


def _table(rng: np.random.Generator, world: World, offsets: np.ndarray, at: np.ndarray) -> tuple[pa.Table, np.ndarray]:
    n, day, hour = len(at), at // DAY, at % DAY / DAY
    cycle = world.weekly * np.sin(2 * np.pi * (day % 7) / 7) + world.hourly * np.sin(2 * np.pi * hour)
    columns: dict[str, object] = {}
    for j in range(world.columns):
        x = rng.normal(size=n) + cycle + offsets[day, j]
        kind = j % 5
        if kind == 1:
            columns[f"c{j}"] = pa.array(CATEGORIES[np.clip((x * 1.5 + 4).astype(int), 0, 7)])
            continue
        if kind == 2:
            x = np.floor(np.exp(x / 2) * 2)
        elif kind == 3:
            x[rng.random(n) < 0.03] = np.nan
        elif kind == 4:
            x = np.where(rng.random(n) < 0.7, 0.0, np.exp(x))
        columns[f"x{j}"] = x
    columns["score"] = 1 / (1 + np.exp(-(rng.normal(size=n) + cycle + offsets[day, 0])))
    return pa.table(columns), at


def change(window: pa.Table, name: str, how: Callable[[np.ndarray], object]) -> pa.Table:
    """The window with one column changed."""
    column = window[name]
    values = np.asarray(column.to_pylist() if pa.types.is_string(column.type) else column.to_numpy())
    return window.set_column(window.column_names.index(name), name, pa.chunked_array([pa.array(how(values))]))
