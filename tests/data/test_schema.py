"""What is inferred, what people declare, and what the reading commands see."""

from __future__ import annotations

from pathlib import Path

import pandera.polars as pa
import polars as pl
import pytest
from tests.data.conftest import commit

from holdfast.core.errors import BadInput
from holdfast.data import diff, quality, schema, snapshot
from holdfast.data.repository import Repository


def table(rows: int = 400) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "key": [f"k{i}" for i in range(rows)],
            "kind": [["a", "b"][i % 2] for i in range(rows)],
            "value": [float(i % 7) for i in range(rows)],
            "note": [None if i % 4 else "n" for i in range(rows)],
        }
    )


def test_inference_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table().write_parquet(path)
    made = schema.infer(path)
    schema.save(path, made)
    assert schema.load(path) == made
    assert made.columns["key"].unique and made.columns["kind"].values == ["a", "b"]
    assert made.columns["value"].low == 0 and made.columns["note"].missing > 0.75
    assert quality.check(path, made) == []


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_not_a_number_counts_as_missing_and_never_as_beyond_the_range(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    good, bad = table(), table().with_columns(value=pl.lit(float("nan")))
    write = (lambda t: t.write_parquet(path)) if name.endswith("parquet") else (lambda t: t.write_csv(path))
    write(good)
    rules = schema.infer(path)
    write(bad)
    blocking = {(f.check, f.column) for f in quality.check(path, rules) if f.blocking}
    assert blocking == {("missing", "value")}


def test_csv_cells_that_are_no_numbers_are_counted_with_examples(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    table().write_csv(path)
    rules = schema.infer(path)
    table().with_columns(
        value=pl.when(pl.int_range(pl.len()) < 3).then(pl.lit("many")).otherwise(pl.lit("1.5"))
    ).write_csv(path)
    found = [f for f in quality.check(path, rules) if f.check == "type"]
    assert [f.count for f in found] == [3]
    assert found[0].examples[0]["value"] == "many"


def test_own_pandera_model_is_accepted(tmp_path: Path) -> None:
    class Mine(pa.DataFrameModel):
        key: str = pa.Field(unique=True)
        value: float = pa.Field(ge=0, le=5)

    path = tmp_path / "t.parquet"
    table().write_parquet(path)
    found = quality.check(path, Mine)
    assert {f.column for f in found} == {"value"}
    assert found[0].blocking and found[0].count == sum(i % 7 == 6 for i in range(400))


def test_mistakes_in_the_schema_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    schema.file_for(path).write_text("columns:\n  a: {type: integer}\n")
    with pytest.raises(BadInput, match="integer"):
        schema.load(path)
    schema.file_for(path).write_text("columns:\n  a: {type: int, minimum: 3}\n")
    with pytest.raises(BadInput, match="minimum"):
        schema.load(path)


def test_diff_of_two_versions(repo: Repository) -> None:
    path = repo.root / "t.parquet"
    table().write_parquet(path)
    snapshot.add(repo.root, path)
    commit(repo.root, "one")
    changed = (
        table()
        .head(390)
        .with_columns(value=pl.when(pl.int_range(pl.len()) < 5).then(99.0).otherwise(pl.col("value")), extra=pl.lit(1))
    )
    changed.write_parquet(path)
    found = diff.between(repo, path).table
    assert found is not None
    assert (found.rows, found.added, found.removed, found.changed, found.key) == ((400, 390), 0, 10, 5, "key")
    assert found.columns_added == ["extra"] and found.columns_removed == []
    moved = {m.column: m.distance for m in found.moved}
    assert moved["value"] == pytest.approx(5 / 390, abs=5e-3) and moved["kind"] == pytest.approx(0, abs=1e-6)
