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


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("columns:\n  a: {type: integer}\n", "column 'a'.*integer"),
        ("columns:\n  a: {type: int}\n  b: {type: int, minimum: 3}\n", "column 'b'.*minimum"),
        ("columns:\n  b: {type: float, missing: 5%}\n", "column 'b': missing: Expected `float`"),
        ("columns:\n  b: {type: float, missing: 5}\n", "column 'b': missing is 5"),
        ("columns:\n  b: {type: float, outside: -0.1}\n", "column 'b': outside is -0.1"),
        ("columns:\n  b: {type: int, low: 9, high: 3}\n", "column 'b': no number lies between 9 and 3"),
        ("columns:\n  b: {type: float, low: .nan}\n", "column 'b': no number"),
        ("columns:\n  b: {type: timestamp, low: 3}\n", "column 'b': low and high are of numbers"),
        ("columns:\n  b: {type: string, values: [a, 1]}\n", "column 'b': the value 1 is not of type string"),
        ("columns:\n  b: {type: int, values: [1, x]}\n", "column 'b': the value 'x'"),
        ("columns:\n  b: {type: date, values: [x]}\n", "column 'b': values are listed of"),
        ("columns:\n  b:\n", "column 'b': Expected `object`"),
        ("columns:\n  b: {type: int\n", "3 is not YAML"),
        ("columns:\n  b: {type: int}\n  b: {type: int}\n", "duplicate key"),
        ("timestamp: at\ncolumns:\n  b: {type: int}\n", "timestamp names 'at', which is no column"),
        ("timestamp: b\ncolumns:\n  b: {type: string}\n", "timestamp names 'b', which is string"),
        ("ordered: true\ncolumns:\n  b: {type: int}\n", "ordered needs a time column"),
        ("freshness: soon\ncolumns:\n  b: {type: int}\n", "freshness: 'soon'"),
        ("fewest: -1\ncolumns:\n  b: {type: int}\n", "fewest is -1"),
        ("colums:\n  b: {type: int}\n", "colums"),
        ("[]", "Expected `object`"),
        ("", "Expected `object`"),
        ("\udcff\udcfe", "not UTF-8"),
    ],
)
def test_mistakes_in_the_schema_file_are_named(tmp_path: Path, written: str, says: str) -> None:
    path = tmp_path / "t.parquet"
    schema.file_for(path).write_bytes(written.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadInput, match=says):
        schema.load(path)


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_a_day_may_be_the_time_of_a_table(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    days = pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 1, 30), eager=True)
    pl.DataFrame({"day": days}).write_csv(path) if name.endswith("csv") else pl.DataFrame({"day": days}).write_parquet(
        path
    )
    schema.file_for(path).write_text("timestamp: day\nordered: true\nfreshness: 2d\ncolumns:\n  day: {type: date}\n")
    rules = schema.load(path)
    assert rules is not None
    newest = 1_706_572_800_000_000
    assert quality.check(path, rules, at=newest + 86_400_000_000) == []
    assert [f.check for f in quality.check(path, rules, at=newest + 4 * 86_400_000_000)] == ["freshness"]


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


def test_what_an_own_schema_finds_is_told_once_and_by_name(tmp_path: Path) -> None:
    class Mine(pa.DataFrameModel):
        key: str = pa.Field(unique=True)
        value: float = pa.Field(ge=0)
        gone: int

        class Config:
            strict = True

    class Coerced(pa.DataFrameModel):
        gone: int

        class Config:
            coerce = True

    for name in ("a.parquet", "b.csv"):
        one = table().with_columns(key=pl.lit("k1")) if name == "b.csv" else table()
        one.write_csv(tmp_path / name) if name == "b.csv" else one.write_parquet(tmp_path / name)
    found = [f.message for f in quality.check(tmp_path, Mine)]
    assert sorted(found) == sorted(
        [f"{name} has no column 'gone'" for name in ("a.parquet", "b.csv")]
        + [f"{name} has a column 'kind' the schema does not know" for name in ("a.parquet", "b.csv")]
        + ["400 values of 'key' repeat another"]
    )  # fmt: skip
    (found_of_one, _) = quality.check(tmp_path, Coerced)
    assert found_of_one.blocking and "the schema cannot be asked: ColumnNotFoundError" in found_of_one.message
    together = pa.DataFrameSchema({"key": pa.Column(str)}, unique=["key", "gone"])
    assert [f.message for f in quality.check(tmp_path, together)] == [
        "the columns 'key', 'gone', unique together, are not all there"
    ]
