"""Tables of unusual shapes: what is honest is let in, what is planted is found."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.core.errors import BadData
from holdfast.core.records import Finding
from holdfast.data import quality, schema, suspects


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
    assert (rules.columns["key"].type, rules.columns["key"].unique, rules.columns["key"].low) == ("int", True, 0)
    assert found == []
    write(pl.DataFrame({"key": keys.reverse().replace(2**64 - 5, 2**64 - 4), "v": 1 / 7}), tmp_path / f"t.{ending}")
    assert {f.check for f in quality.check(tmp_path / f"t.{ending}", rules) if f.blocking} == {"unique"}


def honest(name: str, rng: np.random.Generator, rows: int, part: int) -> dict[str, Any]:
    """One of two samples of the same."""
    draw = rng.choice
    first, last = (np.array([f"{word}{i}" for i in range(n)]) for word, n in (("First", 150), ("Last", 400)))
    match name:
        case "names":
            return {"name": [f"{a} {b}" for a, b in zip(draw(first, rows), draw(last, rows), strict=True)]}
        case "mail addresses":
            return {"mail": [f"{a}.{b}@x.org" for a, b in zip(draw(first, rows), draw(last, rows), strict=True)]}
        case "amounts":
            return {"cents": rng.integers(100, 1_000_000, rows), "v": rng.normal(size=rows)}
        case "keys of another table":
            return {"customer": [f"C{i:06d}" for i in rng.integers(0, 200_000, rows)], "v": rng.normal(size=rows)}
        case "instants in seconds":
            return {"t": np.sort(rng.integers(0, 2_600_000, rows)) + part * 2_600_000, "v": rng.normal(size=rows)}
        case "answers":
            return {f"q{i}": rng.integers(1, 6, rows) for i in range(3)}
        case "flags":
            return {"a": rng.random(rows) < 0.5, "b": rng.random(rows) < 0.001}
        case "places":
            return {"city": draw(last, rows), "kind": draw(["a", "b"], rows)}
        case "rare values":
            return {
                "v": rng.normal(size=rows),
                "s": draw(["ok", "warn", "err", "fatal"], rows, p=[0.95, 0.04, 0.0085, 0.0015]),
            }
        case "rarely missing":
            return {"v": rng.normal(size=rows), "n": [None if x < 0.002 else int(1000 * x) for x in rng.random(rows)]}
        case "long tails":
            return {"x": rng.pareto(1.2, rows), "y": rng.lognormal(0, 3, rows)}
        case "this month's":
            return {"batch": [f"batch-{part}"] * rows, "v": rng.normal(size=rows)}
        case "days in words":
            return {
                "day": [f"2024-{part + 1:02d}-{i:02d}" for i in rng.integers(1, 28, rows)],
                "v": rng.normal(size=rows),
            }
    raise AssertionError(name)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [
    "names", "mail addresses", "amounts", "keys of another table", "instants in seconds", "answers", "flags", "places",
    "rare values", "rarely missing", "long tails", "this month's", "days in words",
])  # fmt: skip
def test_a_second_sample_of_the_same_is_let_in(tmp_path: Path, name: str, seed: int) -> None:
    path = tmp_path / "t.parquet"
    rng = np.random.default_rng(seed)
    rows = [150, 600, 3000][seed]
    rules, found = looked(path, pl.DataFrame(honest(name, rng, rows, 0)))
    assert blocking(found) == []
    for _ in range(3):
        write(pl.DataFrame(honest(name, rng, rows, 1)), path)
        assert blocking(quality.check(path, rules, history=[rows])) == []


@pytest.mark.parametrize(
    ("values", "unique"),
    [
        (np.arange(500) + 10_000, True),
        (np.arange(500) * 7, True),
        ([f"k{i}" for i in range(500)], True),
        ([f"2024-{i:05d}" for i in range(500)], True),
        ([hashlib.md5(bytes([i % 256, i // 256])).hexdigest() for i in range(500)], True),
        (np.random.default_rng(0).permutation(10_000_000)[:500], False),
        ([f"Street {i} in {j}" for i in range(25) for j in range(20)], False),
    ],
)
def test_a_column_is_a_key_where_chance_does_not_explain_that_its_values_differ(
    tmp_path: Path, values: Any, unique: bool
) -> None:
    rules, _ = looked(tmp_path / "t.parquet", pl.DataFrame({"c": values, "v": [0.5] * 500}))
    assert rules.columns["c"].unique is unique
    rules, _ = looked(tmp_path / "t.parquet", pl.DataFrame({"id": values, "v": [0.5] * 500}))
    assert rules.columns["id"].unique


def test_rows_that_repeat_are_told_at_the_first_look_and_measured_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rng = np.random.default_rng(0)
    rules, found = looked(path, pl.DataFrame({"v": rng.normal(size=400)})[[*range(380), *range(20)]])
    (told,) = [f for f in found if f.check == "duplicates"]
    assert (told.count, told.blocking, len(told.examples)) == (20, False, 3)
    write(pl.DataFrame({"v": rng.normal(size=200)})[[*range(200), *range(200)]], path)
    assert {f.check for f in quality.check(path, rules) if f.blocking} == {"duplicates"}


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_column_that_was_empty_may_be_of_any_type_later(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    rules, found = looked(path, pl.DataFrame({"v": np.arange(50) / 7, "later": [None] * 50}))
    assert rules.columns["later"] == schema.Column(type="null")
    assert [(f.check, f.count, f.blocking) for f in found] == [("missing", 50, False)]
    schema.save(path, rules)
    assert schema.load(path) == rules
    for values in (np.arange(50) / 3, [f"w{i}" for i in range(50)], np.arange(50)):
        write(pl.DataFrame({"v": np.arange(50) / 7, "later": values}), path)
        assert quality.check(path, rules) == []


def test_csv_cells_that_were_words_and_are_numbers_now_are_read_as_words(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rules, _ = looked(path, pl.DataFrame({"v": np.arange(50) / 7, "code": [f"w{i % 9}" for i in range(50)]}))
    write(pl.DataFrame({"v": np.arange(50) / 7, "code": np.arange(50) / 4}), path)
    assert quality.check(path, rules) == []


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_free_text_that_became_one_word_is_told(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    table = pl.DataFrame(
        {"v": np.arange(300) % 17 / 7, "name": [f"n {i % 250}" for i in range(300)], "app": ["x"] * 300}
    )
    rules, _ = looked(path, table)
    assert [f for f in quality.check(path, rules) if f.check == "constant"] == []
    write(table.with_columns(name=pl.lit("n 1")), path)
    assert [f.column for f in quality.check(path, rules) if f.check == "constant"] == ["name"]


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_instants_in_nanoseconds_are_instants(tmp_path: Path, zone: str | None) -> None:
    path = tmp_path / "t.parquet"
    at = pa.array(np.arange(300) * 10**9 + 123, pa.timestamp("ns", zone))
    table = pa.table({"at": at, "of_day": at.cast(pa.timestamp("ns")).cast(pa.time64("ns")), "y": np.arange(300) % 2})
    pq.write_table(table, path)
    rules = schema.infer(path)
    assert (rules.timestamp, rules.freshness, rules.columns["of_day"].type) == ("at", "2d", "time")
    assert quality.check(path, rules, at=10**6) == []
    pq.write_table(table.set_column(2, "y", [np.arange(300) % 2 - 100]), path)
    (found,) = quality.check(path, rules, at=10**6)
    # Cut to what Python has: pandas, which would show the rest, need not be there.
    zero = "1970-01-01T00:00:00" + ("+00:00" if zone else "")
    assert (found.column, found.examples[0]["at"], found.examples[0]["of_day"]) == ("y", zero, "00:00:00")
    assert suspects.leakage([path], "y") == []


@pytest.mark.parametrize("values", [[1.7e308, -1.7e308], [5e-324, 0.0], [-(2.0**1000), 1e-310]])
def test_numbers_near_the_ends_of_what_one_can_be(tmp_path: Path, values: list[float]) -> None:
    path = tmp_path / "t.parquet"
    rules, found = looked(path, pl.DataFrame({"x": values * 100, "v": np.arange(200) / 7}))
    schema.save(path, rules)
    assert schema.load(path) == rules
    assert found == []


def test_an_instant_beyond_time_is_no_end_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    beyond = pa.array([-(2**63) + 1, *range(199)]).cast(pa.timestamp("us"))
    pq.write_table(pa.table({"at": beyond, "v": np.arange(200) / 7}), path)
    rules = schema.infer(path)
    assert rules.timestamp is None and quality.check(path, rules) == []


@pytest.mark.parametrize("ticks", [2**60, -(2**60)])
def test_rows_of_years_python_does_not_have_are_shown(tmp_path: Path, ticks: int) -> None:
    path = tmp_path / "t.parquet"
    far = pa.array([ticks] * 200)
    table = pa.table(
        {
            "at": far.cast(pa.timestamp("us")),
            "in": pa.StructArray.from_arrays([far.cast(pa.timestamp("us"))], ["t"]),
            "y": np.arange(200) % 2,
        }
    )
    pq.write_table(table, path)
    rules = schema.infer(path)
    rules.columns["y"].high, rules.columns["y"].outside = 0, 0.0
    found = quality.check(path, rules, at=0)
    assert [f.column for f in found if f.blocking] == ["y"]
    assert all(len(f.examples) == 3 for f in found if f.blocking)
    assert suspects.leakage([path], "y") == []


def part(first: int, rows: int = 150, **more: Any) -> pl.DataFrame:
    rng = np.random.default_rng(first)
    return pl.DataFrame({"id": np.arange(rows) + first, "x": rng.normal(size=rows)}).with_columns(**more)


FOLDERS: dict[str, dict[str, pl.DataFrame]] = {
    "whole numbers, then others": {"1.parquet": part(0, y=pl.lit(1)), "2.parquet": part(200, y=pl.lit(1.5))},
    "a column more": {"1.parquet": part(0), "2.parquet": part(200, y=pl.col("id") % 9)},
    "a column less": {"1.csv": part(0, y=pl.col("id") % 9), "2.csv": part(200)},
    "days, then instants": {
        "1.parquet": part(0, y=pl.date(2024, 1, 1) + pl.duration(days=pl.col("id") % 9)),
        "2.parquet": part(200, y=pl.datetime(2024, 1, 1, 3) + pl.duration(days=pl.col("id") % 9)),
    },
    "two kinds": {"1.parquet": part(0), "2.csv": part(200), "3.csv": part(400)},
    "endings in capitals": {"1.CSV": part(0), "2.Parquet": part(200)},
    "an empty column in one": {"1.csv": part(0, y=pl.col("id") % 9), "2.csv": part(200, y=pl.lit(None))},
    "codes of which some are numbers": {
        "1.csv": part(0, y=pl.lit("A") + (pl.col("id") % 7).cast(pl.String)),
        "2.csv": part(200, y=pl.col("id") % 9),
    },
    "a header alone": {"1.csv": part(0), "2.csv": part(200, 0)},
    "no rows in one": {"1.parquet": part(0), "2.parquet": part(200, 0)},
    "below folders": {"year=2023/a.parquet": part(0), "year=2024/a.parquet": part(200)},
    "names like patterns": {"a[1].csv": part(0), "a1.csv": part(200), "b*.parquet": part(400), "b1.parquet": part(600)},
}


@pytest.mark.parametrize("name", FOLDERS)
def test_files_of_a_folder_that_differ_honestly_are_one_table(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "t"
    for file, table in FOLDERS[name].items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        table.write_csv(folder / file) if file.lower().endswith("csv") else table.write_parquet(folder / file)
    rules = schema.infer(folder)
    found = quality.check(folder, rules, survey=True)
    assert blocking(found) == []
    assert {f.check for f in found} <= {"constant", "missing", "volume"}, found
    assert rules.columns["id"].unique
    assert "y" not in rules.columns or rules.columns["y"].type != "string" or name.startswith("codes")
    (folder / "last.csv").write_text("id,x\n" + "".join(f"{i},{i % 7 / 3}\n" for i in [1000, *range(1000, 1149)]))
    assert [f.check for f in quality.check(folder, rules) if f.blocking] in (["unique"], ["columns", "unique"])


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_no_schema_is_inferred_from_no_rows(tmp_path: Path, name: str) -> None:
    write(part(0, 0), tmp_path / name)
    with pytest.raises(BadData, match="has no rows"):
        schema.ensure(tmp_path / name)
    assert not schema.file_for(tmp_path / name).exists()


def test_long_texts_are_not_listed_in_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    texts = [f"{i % 3}" * 5000 for i in range(300)]
    rules, _ = looked(path, pl.DataFrame({"v": np.arange(300) / 7, "text": texts}))
    assert rules.columns["text"].values is None
    assert len(schema.render(rules, "t.csv")) < 1000


def test_what_a_csv_column_is_may_show_far_down(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    lines = [f"{i},{i % 5},{i % 7}" for i in range(210_000)]
    lines[205_000], lines[206_000] = "205000,12b,0", "206000,1,0.5"
    rules, found = looked(path, ("id,code,share\n" + "\n".join(lines)).encode())
    assert [rules.columns[name].type for name in ("id", "code", "share")] == ["int", "string", "float"]
    assert [(f.check, f.column, f.count, f.examples[0]["code"]) for f in found] == [("stray", "code", 1, "12b")]
    with pytest.raises(BadData, match=r'column "(code|share)"$'):
        suspects.overlap([path], [path])
