"""Tables of unusual shapes: what is honest is let in, what is planted is found."""

from __future__ import annotations

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
