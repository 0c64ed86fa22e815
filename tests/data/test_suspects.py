"""Leaks, almost keys and overlap are found where they were put, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from holdfast.core.errors import BadData
from holdfast.data import quality, schema, suspects

ROWS = 4000


def honest(seed: int = 0, share: float = 0.1, rows: int = ROWS) -> pl.DataFrame:
    """A label that can be guessed a little, and columns that know nothing more."""
    rng = np.random.default_rng(seed)
    label = (rng.random(rows) < share).astype(np.int64)
    return pl.DataFrame(
        {
            "id": [f"k{i}" for i in rng.permutation(rows)],
            "amount": rng.normal(0, 1, rows) + label,
            "kind": rng.choice(["a", "b", "c"], rows),
            "count": rng.integers(0, 1_000_000, rows),
            "at": pl.Series(rng.integers(0, 10**15, rows)).cast(pl.Datetime("us")),
            "label": label,
        }
    )


LEAKS = {
    "copy": pl.col("label") * 3 + 1,
    "text": pl.col("label").replace_strict({0: "paid", 1: "charged back"}),
    "score": pl.col("label") * 10.0 + pl.col("amount"),
    "only then": pl.when(pl.col("label") == 1).then(pl.col("at")),
    "flag": pl.col("label") == 1,
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("share", [0.01, 0.4])
@pytest.mark.parametrize("dtype", [pl.Int64, pl.String, pl.Boolean])
def test_a_column_that_gives_the_label_away_is_named_and_no_other(
    tmp_path: Path, leak: str, share: float, dtype: type[pl.DataType]
) -> None:
    table = honest(share=share, rows=10_000).with_columns(LEAKS[leak].alias("leak"))
    label = pl.col("label").cast(pl.Boolean) if dtype is pl.Boolean else pl.col("label").cast(dtype)
    table.with_columns(label).write_parquet(tmp_path / "t.parquet")
    (found,) = suspects.leakage([tmp_path / "t.parquet"], "label")
    assert (found.column, found.blocking) == ("leak", False)
    assert found.count > 0 and len({str(e["label"]) for e in found.examples}) == 2


@pytest.mark.parametrize("seed", range(10))
def test_honest_columns_are_not_suspected(seed: int) -> None:
    assert suspects.leakage(honest(seed).to_arrow(), "label") == []


def test_a_number_to_be_guessed_leaks_through_another_number_of_it() -> None:
    table = honest().with_columns(price=pl.col("amount") * 3 + pl.col("count") / 1000)
    table = table.with_columns(net=pl.col("price") * 0.8 + 1)
    assert [f.column for f in suspects.leakage(table.to_arrow(), "price", ignore=["count"])] == ["net"]
    assert [f.column for f in suspects.leakage(table.to_arrow(), "price")] == ["count", "net"]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (honest().with_columns(label=pl.lit(1)), "with 1 values"),
        (honest().with_columns(label=pl.int_range(pl.len()) < 3), "only 3 of"),
        (honest().with_columns(label=pl.col("id")), "4000 classes"),
        (honest().head(5), "5 labelled rows"),
    ],
)
def test_what_cannot_be_judged_is_said(table: pl.DataFrame, says: str) -> None:
    (found,) = suspects.leakage(table.to_arrow(), "label")
    assert says in found.message and not found.blocking


def test_a_large_table_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "SAMPLE", 1000)
    table = honest().with_columns(leak=pl.col("label") * 2).to_arrow()
    (found,) = suspects.leakage(table, "label")
    assert found.column == "leak" and 800 < found.count < 1200
    assert suspects.leakage(table, "label") == [found]


def test_a_label_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no column 'lable'"):
        suspects.leakage(honest().to_arrow(), "lable")


# --- almost keys ------------------------------------------------------------------------------------------------------


def test_a_broken_key_is_told_with_what_repeats(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = honest()
    table.with_columns(
        id=pl.when(pl.int_range(pl.len()) < 20).then(pl.lit("k0")).otherwise(pl.format("x{}", pl.int_range(pl.len())))
    ).write_parquet(path)
    rules = schema.infer(path)
    found = {f.column: f for f in quality.check(path, rules) if f.check == "near-unique"}
    assert found["id"].count == 19 and not found["id"].blocking
    assert found["id"].examples == [{"id": "k0", "times": 20}]
    assert "kind" not in found and "label" not in found


# --- train and test ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test_name", ["test.parquet", "test.csv"])
def test_rows_in_both_tables_are_counted_exactly(tmp_path: Path, test_name: str) -> None:
    table = honest().select("id", "kind", "count", "label")
    table.head(3000).write_parquet(tmp_path / "train.parquet")
    test = table.slice(2950)
    test.write_parquet(tmp_path / test_name) if test_name.endswith("parquet") else test.write_csv(tmp_path / test_name)
    (found,) = suspects.overlap([tmp_path / "train.parquet"], [tmp_path / test_name])
    assert (found.count, found.blocking) == (50, False)
    assert {e["id"] for e in found.examples} <= set(table["id"][2950:3000])
    table.slice(3000).write_parquet(tmp_path / "clean.parquet")
    assert suspects.overlap([tmp_path / "train.parquet"], [tmp_path / "clean.parquet"]) == []


def test_a_key_in_both_tables_blocks(tmp_path: Path) -> None:
    table = honest()
    table.head(3000).write_parquet(tmp_path / "train.parquet")
    table.slice(2990).with_columns(pl.col("amount") + 1).write_parquet(tmp_path / "test.parquet")
    files = [tmp_path / "train.parquet"], [tmp_path / "test.parquet"]
    assert suspects.overlap(*files) == []
    (found,) = suspects.overlap(*files, key=["id"])
    assert (found.count, found.blocking) == (10, True)
    with pytest.raises(BadData, match="'ids' is not in both"):
        suspects.overlap(*files, key=["ids"])


def test_a_table_with_another_width_of_numbers_is_the_same_row(tmp_path: Path) -> None:
    pa_table = pa.table({"a": pa.array([1, 2], pa.int8()), "b": pa.array([0.5, 2.0], pa.float32())})
    wide = pa.table({"a": pa.array([2, 7], pa.int64()), "b": pa.array([2, 7], pa.int64())})
    pl.DataFrame(pa_table).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame(wide).write_parquet(tmp_path / "b.parquet")
    (found,) = suspects.overlap([tmp_path / "a.parquet"], [tmp_path / "b.parquet"])
    assert found.count == 1


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_constant_and_sparse_columns_are_told_at_a_first_look_and_only_then(tmp_path: Path, ending: str) -> None:
    at = pl.int_range(ROWS)
    table = honest().with_columns(
        same=pl.lit("x"),
        none=pl.lit(None, pl.Int64),
        third=pl.when(at % 3 > 0).then(pl.col("amount")),
        flag=pl.when(at % 2 == 0).then(pl.lit(True)),
        few=pl.when(at % 50 > 0).then(pl.lit(1.5) + at),
        nan=pl.when(at % 4 == 0).then(float("nan")).otherwise("amount"),
    )
    place = tmp_path / f"t.{ending}"
    if ending == "csv":
        table.write_csv(place)
    else:
        table.write_parquet(place)
    rules = schema.ensure(place)
    assert rules is not None
    found = {(f.check, f.column): f for f in quality.check(place, rules, survey=True) if f.check != "near-unique"}
    assert {key: f.count for key, f in found.items()} == {
        ("constant", "same"): ROWS, ("missing", "none"): ROWS, ("missing", "third"): 1334, ("missing", "flag"): ROWS // 2,
        ("missing", "nan"): ROWS // 4,
    }  # fmt: skip
    assert "the rest is one value" in found["missing", "flag"].message
    assert len(found["missing", "third"].examples) == 3 and not any(f.blocking for f in found.values())
    assert not [f for f in quality.check(place, rules) if f.check in ("constant", "missing")]


def test_a_text_column_of_numbers_with_strays_is_told_with_the_strays(tmp_path: Path) -> None:
    at = pl.int_range(ROWS)
    odd = pl.when(at == 7).then(pl.lit("12,50")).when(at % 1000 == 3).then(pl.lit("see note"))
    table = honest().with_columns(
        fee=odd.otherwise((at / 4).cast(pl.String)),
        day=pl.when(at == 7).then(pl.lit("soon")).otherwise(pl.lit("2024-03-01")),
        mixed=pl.when(at % 2 == 0).then(pl.lit("1")).otherwise(pl.lit("one")),
    )
    place = tmp_path / "t.csv"
    table.write_csv(place)
    rules = schema.ensure(place)
    assert rules is not None
    found = {f.column: f for f in quality.check(place, rules, survey=True) if f.check == "stray"}
    assert {name: f.count for name, f in found.items()} == {"fee": 1 + ROWS // 1000, "day": 1}
    assert "no numbers" in found["fee"].message and "no times" in found["day"].message
    assert {row["fee"] for row in found["fee"].examples} <= {"12,50", "see note"}, "the rows show which"
    assert "12,50" not in found["fee"].message, "messages are kept in the ledger, values are not"
    assert not any(f.blocking for f in found.values())
