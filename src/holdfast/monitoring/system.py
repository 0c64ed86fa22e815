"""The machine and the service: CPU, memory, disk, latency, and availability against an objective with its error budget.

Figures come from ``/proc`` (Linux; elsewhere the standard library's), from the service's own ``/metrics`` text, and
from the latencies in the prediction log. Thresholds are arguments; nothing here needs psutil."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from holdfast.core.identity import SECOND
from holdfast.core.records import Signal
from holdfast.stats import intervals, tails

_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True)
class Sample:
    """One look: seconds of CPU and bytes of memory by process id, requests so far by outcome; ``at`` µs, real time."""

    at: int
    cpu: Mapping[int, float]
    memory: Mapping[int, int]
    good: float = 0.0
    bad: float = 0.0


def sample(pids: Sequence[int], *, at: int, metrics: str = "") -> Sample:
    """Look at these processes and at a Prometheus text. Processes that are gone are left out."""
    cpu: dict[int, float] = {}
    memory: dict[int, int] = {}
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            cpu[pid] = (int(fields[11]) + int(fields[12])) / _TICK
            memory[pid] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        except (OSError, IndexError, ValueError):
            continue
    good, bad = requests(metrics)
    return Sample(at, cpu, memory, good, bad)


def requests(text: str) -> tuple[float, float]:
    """(answered, failed) prediction requests so far: 5xx is a failure of ours, 4xx is an answer."""
    good = bad = 0.0
    for name, labels, value in parse(text):
        if name == "holdfast_requests_total" and not labels.get("route", "").startswith(("/health", "/metrics")):
            if labels.get("status", "").startswith("5"):
                bad += value
            else:
                good += value
    return good, bad


def parse(text: str) -> list[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of every sample of a Prometheus text; lines that are none are passed over."""
    found = []
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match is None or line.startswith("#"):
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        found.append((match[1], dict(_LABEL.findall(match[2] or "")), value))
    return found


def resources(
    before: Sample,
    after: Sample,
    *,
    folder: Path,
    most_cpu: float = 0.9,
    most_memory: int | None = None,
    least_disk: float = 0.05,
) -> list[Signal]:
    """CPU (cores used by the processes between two looks, over the machine's cores), memory (bytes), free share of
    the disk that holds ``folder``. Alarms beyond the limits; ``most_memory`` is 80 % of the machine's memory by
    default."""
    seconds = (after.at - before.at) / SECOND
    shared = set(before.cpu) & set(after.cpu)
    cores = os.cpu_count() or 1
    used = (
        sum(max(0.0, after.cpu[p] - before.cpu[p]) for p in shared) / seconds / cores
        if seconds > 0 and shared
        else None
    )
    memory = float(sum(after.memory.values())) if after.memory else None
    limit = float(most_memory if most_memory is not None else 0.8 * _total_memory())
    disk = shutil.disk_usage(folder)
    free = disk.free / disk.total
    return [
        _level("cpu", used, most_cpu, f"{used or 0:.0%} of {cores} cores"),
        _level("memory", memory, limit, f"{(memory or 0) / 1e6:.0f} MB in {len(after.memory)} processes"),
        _level("disk", 1 - free, 1 - least_disk, f"{disk.free / 1e9:.1f} GB of {disk.total / 1e9:.0f} GB are free"),
    ]


def availability(good: float, bad: float, *, objective: float = 0.999, spent_before: float = 0.0) -> list[Signal]:
    """The share of requests answered against an objective, and how much of the error budget is spent (1 = all).

    Alarms when failures are more than the objective allows by more than chance (exact binomial, 1 in 1,000), or the
    budget, with what was spent before in the period, is gone.
    """
    total = good + bad
    if total <= 0:
        return [
            Signal(
                name="availability",
                family="system",
                statistic="share",
                value=None,
                floor=objective,
                message="no requests",
            )
        ]
    low, high = intervals.wilson(round(good), round(total))
    p = tails.binomial_sf(round(bad), round(total), 1 - objective)
    broken = good / total < objective and p < 0.001
    spent = spent_before + bad / (total * (1 - objective)) if objective < 1 else float(bad > 0)
    return [
        Signal(
            name="availability",
            family="system",
            statistic="share",
            value=good / total,
            floor=objective,
            low=low,
            high=high,
            p=p,
            n=round(total),
            alarm=broken,
            direction="lower" if broken else "",
            message=f"{bad:.0f} of {total:.0f} requests failed" if broken else "",
        ),
        Signal(
            name="error budget",
            family="system",
            statistic="spent",
            value=spent,
            floor=1.0,
            n=round(total),
            alarm=spent >= 1.0 and p < 0.001,
            direction="higher" if spent >= 1.0 else "",
            message=f"{spent:.0%} of the error budget is spent" if spent >= 1.0 else "",
        ),
    ]


def latency(window: pa.Table, *, p99: float | None = None) -> list[Signal]:
    """p50, p95 and p99 of ``latency_us`` in the prediction log, in seconds, with order-statistic intervals; ``p99``
    is the limit whose crossing by the whole interval alarms."""
    values = np.asarray(window["latency_us"].drop_null().to_numpy(), np.float64) / 1e6
    result = []
    for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        if not len(values):
            result.append(
                Signal(
                    name=f"latency {name}", family="system", statistic="quantile", value=None, message="no predictions"
                )
            )
            continue
        low, high = intervals.quantile(values, q)
        limit = p99 if name == "p99" else None
        alarm = limit is not None and low > limit
        result.append(
            Signal(
                name=f"latency {name}",
                family="system",
                statistic="quantile",
                value=float(np.quantile(values, q)),
                floor=limit,
                low=_finite(low),
                high=_finite(high),
                n=len(values),
                alarm=alarm,
                direction="slower" if alarm else "",
                message=f"{np.quantile(values, q) * 1000:.1f} ms" if alarm else "",
            )
        )
    return result


def _level(name: str, value: float | None, limit: float, message: str) -> Signal:
    alarm = value is not None and value > limit
    return Signal(
        name=name, family="system", statistic="level", value=value, floor=limit, n=int(value is not None), alarm=alarm,
        direction="higher" if alarm else "", message=message if alarm else "",
    )  # fmt: skip


def _total_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * _PAGE
    except (AttributeError, ValueError, OSError):
        return 8 << 30


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
