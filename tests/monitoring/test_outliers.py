"""Outliers: planted rows are found and named, ordinary ones are not."""

import numpy as np
import pyarrow as pa
import pytest

from holdfast.monitoring import drift, outliers
from tests.monitoring.streams import DAY, START


def table(rng: np.random.Generator, n: int) -> pa.Table:
    a = rng.normal(size=n)
    return pa.table({
        "id": [f"p{i}" for i in range(n)],
        "a": a, "b": 0.95 * a + 0.31 * rng.normal(size=n), "heavy": rng.pareto(3, size=n), "count": rng.poisson(2, n),
        "kind": rng.choice(["x", "y"], n), "score": rng.random(n),
    })  # fmt: skip


@pytest.fixture(scope="module")
def profile() -> bytes:
    rng = np.random.default_rng(1)
    reference = table(rng, 30_000)
    times = np.sort(rng.integers(0, 30 * DAY, 30_000)) + START
    return drift.profile(reference, times, columns=["a", "b", "heavy", "count", "kind", "score"])


def put(window: pa.Table, column: str, row: int, value: object) -> pa.Table:
    values = window[column].to_pylist()
    values[row] = value
    return window.set_column(window.column_names.index(column), column, pa.array(values))


def test_ordinary_rows_are_not_outliers(profile: bytes) -> None:
    found = outliers.find(profile, table(np.random.default_rng(2), 20_000))
    assert found.count / 20_000 < 0.001
    assert not any(s.alarm for s in outliers.signals(found))


@pytest.mark.parametrize(
    ("column", "value", "named"),
    [("a", 12.0, "a"), ("a", -12.0, "a"), ("heavy", 500.0, "heavy"), ("kind", "z", "kind"), ("count", 99, "count")],
)
def test_planted_rows_are_named(profile: bytes, column: str, value: object, named: str) -> None:
    window = table(np.random.default_rng(3), 500)
    before = outliers.find(profile, window)
    found = outliers.find(profile, put(window, column, 7, value))
    assert found.rows[7]
    assert found.count == before.count + 1
    assert found.columns[named] == before.columns.get(named, 0) + 1
    example = next(e for e in found.examples if e["row"] == 7)
    assert (example["id"], example["column"], example["value"]) == ("p7", named, value)


def test_a_combination_that_never_occurred(profile: bytes) -> None:
    window = put(put(table(np.random.default_rng(4), 500), "a", 3, 2.5), "b", 3, -2.5)
    found = outliers.find(profile, window)
    assert found.rows[3]
    assert found.joint >= 1
    assert any(e["row"] == 3 and e["column"] == "combination" for e in found.examples)


def test_many_outliers_are_a_signal(profile: bytes) -> None:
    window = table(np.random.default_rng(5), 2000)
    values = np.asarray(window["a"])
    values = np.where(np.arange(2000) % 50 == 0, 40.0, values)
    signals = outliers.signals(outliers.find(profile, window.set_column(1, "a", pa.array(values))))
    assert signals[0].name == "rows"
    assert signals[0].alarm
    assert {s.name for s in signals if s.alarm} == {"rows", "a"}


def test_nulls_missing_columns_and_no_rows(profile: bytes) -> None:
    window = table(np.random.default_rng(6), 300)
    nulls = window.set_column(1, "a", pa.array([None] * 300, pa.float64()))
    assert outliers.find(profile, nulls).count == 0
    assert outliers.find(profile, window.drop_columns(["heavy"])).count == 0
    empty = outliers.find(profile, window.slice(0, 0))
    assert empty.count == 0
    assert outliers.signals(empty)[0].value is None
