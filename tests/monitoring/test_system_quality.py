"""The machine, the service and its features: figures that are true, alarms that are due."""

import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from holdfast.core.identity import DAY, HOUR
from holdfast.core.records import FieldSpec
from holdfast.monitoring import quality, system

METRICS = """# HELP holdfast_requests_total Requests
# TYPE holdfast_requests_total counter
holdfast_requests_total{replica="a",route="/predict",status="200"} 900.0
holdfast_requests_total{replica="a",route="/predict",status="422"} 50.0
holdfast_requests_total{replica="b",route="/predict",status="503"} 50.0
holdfast_requests_total{route="/health/live",status="500"} 7.0
holdfast_request_seconds_bucket{route="/predict",le="+Inf"} 3
nonsense
x{y="a\\"b"} NaN
"""


def test_requests_are_counted_by_whose_fault() -> None:
    assert system.requests(METRICS) == (950.0, 50.0)
    assert system.requests("") == (0.0, 0.0)
    assert ("x", {"y": 'a\\"b'}) in [(n, labels) for n, labels, _ in system.parse(METRICS)]


def test_own_process_is_measured(tmp_path: Path) -> None:
    before = system.sample([os.getpid(), 2**22 + 1], at=0, metrics=METRICS)
    assert set(before.cpu) == {os.getpid()}
    assert before.memory[os.getpid()] > 1_000_000
    assert (before.good, before.bad) == (950.0, 50.0)
    started = time.process_time()
    while time.process_time() - started < 0.3:
        pass
    after = system.sample([os.getpid()], at=1_000_000)
    found = {s.name: s for s in system.resources(before, after, folder=tmp_path)}
    assert found["cpu"].value is not None
    assert found["cpu"].value * (os.cpu_count() or 1) == pytest.approx(0.3, abs=0.15)
    assert found["memory"].value == after.memory[os.getpid()]
    assert 0 < (found["disk"].value or 0) <= 1
    strict = {
        s.name: s
        for s in system.resources(before, after, folder=tmp_path, most_cpu=0.01, most_memory=1, least_disk=1.0)
    }
    assert all(strict[n].alarm and strict[n].message for n in ("cpu", "memory", "disk"))


def test_nobody_there_is_no_figure(tmp_path: Path) -> None:
    empty = system.sample([], at=0)
    found = {s.name: s for s in system.resources(empty, system.sample([], at=1_000_000), folder=tmp_path)}
    assert found["cpu"].value is None
    assert found["memory"].value is None
    assert system.availability(0, 0)[0].value is None


@pytest.mark.parametrize(
    ("good", "bad", "alarm"),
    [(1000, 0, False), (999, 1, False), (990, 10, True), (9, 1, False), (100_000, 100, False), (100_000, 160, True)],
)
def test_availability_against_its_objective(good: float, bad: float, alarm: bool) -> None:
    share, budget = system.availability(good, bad, objective=0.999)
    assert share.alarm == alarm
    assert share.value == good / (good + bad)
    assert budget.value == pytest.approx(bad / ((good + bad) * 0.001))
    assert not system.availability(10_000, 0, objective=1.0)[0].alarm
    assert system.availability(10_000, 20, objective=0.999, spent_before=0.5)[1].value == pytest.approx(
        0.5 + 20 / 10.02
    )


def test_latency() -> None:
    rng = np.random.default_rng(1)
    window = pa.table({"latency_us": rng.integers(1000, 3000, 5000)})
    found = {s.name: s for s in system.latency(window, p99=0.002)}
    assert found["latency p50"].value == pytest.approx(0.002, abs=0.0002)
    assert found["latency p99"].alarm
    assert not found["latency p50"].alarm
    assert not any(s.alarm for s in system.latency(window, p99=0.1))
    assert system.latency(window.slice(0, 0))[0].value is None


def test_features_as_served() -> None:
    n = 1000
    window = pa.table({
        "features.a": pa.array([None if i % 10 == 0 else float(i % 7) for i in range(n)]),
        "features.strict": pa.array([None] + [1.0] * (n - 1)),
        "features.far": np.where(np.arange(n) % 20 == 0, 100.0, 0.5),
        "inputs.text": ["x"] * n,
    })  # fmt: skip
    specs = [
        FieldSpec(name="a", dtype="float64", low=0.0, high=6.0),
        FieldSpec(name="strict", dtype="float64", nullable=False),
        FieldSpec(name="far", dtype="float64", low=0.0, high=1.0),
        FieldSpec(name="text", dtype="string"),
        FieldSpec(name="absent", dtype="float64"),
    ]
    found = {(s.family, s.name): s for s in quality.served(window, specs)}
    assert found["nulls", "a"].value == 0.1
    assert not found["nulls", "a"].alarm
    assert found["nulls", "strict"].alarm
    assert found["range", "far"].alarm
    assert found["range", "far"].value == 0.05
    assert not found["range", "a"].alarm
    assert ("nulls", "absent") not in found
    assert quality.served(window.slice(0, 5), specs) == []


def test_freshness() -> None:
    found = {
        s.name: s
        for s in quality.freshness(
            {"a": 100 * DAY, "b": 90 * DAY, "c": None, "d": 100 * DAY + HOUR},
            now=100 * DAY + HOUR,
            limits={"a": DAY, "b": DAY, "c": DAY},
        )
    }
    assert not found["a"].alarm
    assert found["a"].value == 3600.0
    assert found["b"].alarm
    assert "newest row" in found["b"].message
    assert found["c"].alarm
    assert found["c"].value is None
    assert not found["d"].alarm
