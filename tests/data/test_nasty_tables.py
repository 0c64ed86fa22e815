"""Tables of unusual shapes: what is honest is let in, what is planted is found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from holdfast.core.records import Finding
from holdfast.data import quality, schema


def write(table: pl.DataFrame, path: Path) -> None:
    if path.suffix == ".parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path)


def looked(path: Path, table: pl.DataFrame | bytes) -> tuple[schema.TableSchema, list[Finding]]:
    """The schema inferred from a table's first version, and what that version's own check finds."""
    path.write_bytes(table) if isinstance(table, bytes) else write(table, path)
    rules = schema.infer(path)
    return rules, quality.check(path, rules, survey=True)


def blocking(findings: list[Finding]) -> list[str]:
    return [f.message for f in findings if f.blocking]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_hundreds_of_columns_are_looked_at_within_the_memory_bound(tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(0)
    numbers = {f"n{i}": rng.integers(0, 300, 150) for i in range(300)}
    words = {f"w{i}": rng.choice(["a", "b"], 150) for i in range(60)}
    table = pl.DataFrame({**numbers, **words, "almost": [*range(149), 0]})
    path = tmp_path / f"t.{ending}"
    rules, found = looked(path, table)
    assert [f.check for f in found] == ["near-unique"], found
    assert all(rules.columns[name].values == ["a", "b"] for name in words)

    write(table.with_columns(n7=pl.lit(-1), w9=pl.lit("c")), path)
    assert {f.column for f in quality.check(path, rules) if f.blocking} == {"n7", "w9"}


def days(form: str, first: int = 0) -> bytes:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    cells = [(start + timedelta(days=first + at // 3, hours=at % 24)).strftime(form) for at in range(180)]
    return ("day,{n}\n" + "".join(f"{cell},{first + at}\n" for at, cell in enumerate(cells))).encode()


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%y/%m/%d", "%Y/%m/%d"])
@pytest.mark.parametrize("time", ["", " %H:%M:%S", " %I:%M:%S %p"])
def test_dates_of_csv_are_checked_in_the_form_they_are_written_in(tmp_path: Path, form: str, time: str) -> None:
    path = tmp_path / "t.csv"
    rules, found = looked(path, days(form + time))
    if (kind := rules.columns["day"].type) == "string":
        return  # the reader does not know this form
    assert kind == ("timestamp" if time else "date")
    assert found == []
    path.write_bytes(days(form + time, 60))
    at = int(datetime(2024, 3, 20, tzinfo=UTC).timestamp()) * 1_000_000
    assert quality.check(path, rules, at=at if time else None) == []

    lines = path.read_bytes().decode().splitlines()
    lines[7] = "31-31-31," + lines[7].split(",")[1]
    path.write_text("\n".join(lines))
    assert [(f.check, f.column, f.count) for f in quality.check(path, rules) if f.blocking] == [("type", "day", 1)]


def test_a_fraction_in_a_csv_column_of_whole_numbers_is_none(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rules, _ = looked(path, pl.DataFrame({"n": np.arange(200) % 7, "v": np.arange(200)}))
    path.write_text(
        "n,v\n" + "".join(f"{'1.5' if i in (3, 9) else '2.0' if i == 4 else i % 7},{i}\n" for i in range(200))
    )
    found = [f for f in quality.check(path, rules) if f.blocking]
    assert [(f.check, f.column, f.count, f.examples[0]["n"]) for f in found] == [("type", "n", 2, "1.5")]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_whole_numbers_beyond_a_signed_word_are_whole_numbers(tmp_path: Path, ending: str) -> None:
    keys = pl.Series([2**64 - 1 - i for i in range(200)], dtype=pl.UInt64)
    rules, found = looked(tmp_path / f"t.{ending}", pl.DataFrame({"key": keys, "v": np.arange(200) % 9 / 7}))
    assert rules.columns["key"] == schema.Column(type="int", missing=0.0, unique=True, low=0, outside=0.001)
    assert found == []
    write(pl.DataFrame({"key": keys.reverse().replace(2**64 - 5, 2**64 - 4), "v": 1 / 7}), tmp_path / f"t.{ending}")
    assert {f.check for f in quality.check(tmp_path / f"t.{ending}", rules) if f.blocking} == {"unique"}
