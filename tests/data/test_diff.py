"""Two versions of a table beside each other, against counting by hand."""

from __future__ import annotations

import gzip
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.data.conftest import commit, fill, git

from holdfast.core.errors import BadInput
from holdfast.data import diff, log, snapshot
from holdfast.data.diff import TableDiff
from holdfast.data.repository import Repository

NAN = math.nan
Row = tuple[Any, ...]


def write(path: Path, frame: pl.DataFrame) -> None:
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(frame.write_csv().encode()))
    else:
        frame.write_csv(path)


def compared(repo: Repository, name: str, old: pl.DataFrame, new: pl.DataFrame, key: str | None = None) -> TableDiff:
    place = repo.root / name
    write(place, old)
    snapshot.add(repo.root, Path(name))
    git(repo.root, "add", "-A")
    git(repo.root, "commit", "-q", "--allow-empty", "-m", "old")
    write(place, new)
    found = diff.between(repo, place, key=key).table
    assert found is not None
    return found


def told(cell: Any, text: bool) -> Any:
    """A cell as the comparison sees it: CSV has no NaN of its own, and no null apart from an empty cell."""
    if isinstance(cell, float) and math.isnan(cell):
        return None if text else "NaN"
    return cell


def ks(old: list[float], new: list[float]) -> float:
    points = sorted({*old, *new})
    return max(abs(sum(v <= p for v in old) / len(old) - sum(v <= p for v in new) / len(new)) for p in points)


def variation(old: list[Any], new: list[Any]) -> float:
    a, b = Counter(old), Counter(new)
    return sum(abs(a[v] / len(old) - b[v] / len(new)) for v in a | b) / 2


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.csv.gz"])
@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("seed", [1, *(pytest.param(s, marks=pytest.mark.soak) for s in range(2, 12))])
def test_rows_and_distributions_are_as_counted_by_hand(repo: Repository, name: str, keyed: bool, seed: int) -> None:
    rng = random.Random(f"{name}{keyed}{seed}")
    text = not name.endswith(".parquet")

    def row(at: int) -> Row:
        value = rng.choice([None, NAN, -0.5, 0.25, 3.5, 1e300])
        return (
            at if keyed else rng.randrange(4),
            value,
            rng.choice([None, "a", "b", 'ü, "c"']),
            rng.choice([True, False, None]),
        )

    old = [row(at) for at in range(rng.randint(30, 60))]
    new = [r if rng.random() < 0.7 else row(at) for at, r in enumerate(old) if rng.random() < 0.8]
    new += [row(1000 + at) for at in range(rng.randint(0, 9))]
    rng.shuffle(new)
    columns = {"k": pl.Int64, "x": pl.Float64, "w": pl.String, "b": pl.Boolean}
    frames = [pl.DataFrame(rows, schema=columns, orient="row") for rows in (old, new)]
    found = compared(repo, name, *frames)
    old, new = [[tuple(told(c, text) for c in r) for r in rows] for rows in (old, new)]
    assert found.rows == (len(old), len(new)) and not found.types_changed
    if keyed:
        was, now = {r[0]: r for r in old}, {r[0]: r for r in new}
        changed = sum(was[k] != now[k] for k in was.keys() & now.keys())
        assert (found.key, found.added, found.removed, found.changed) == (
            "k", len(now.keys() - was.keys()), len(was.keys() - now.keys()), changed,
        )  # fmt: skip
    else:
        a, b = Counter(old), Counter(new)
        assert (found.key, found.added, found.removed, found.changed) == (None, (b - a).total(), (a - b).total(), None)
    moved = {m.column: m for m in found.moved}
    for at, column in enumerate(columns):
        was, now = ([r[at] for r in rows if r[at] is not None and r[at] != "NaN"] for rows in (old, new))
        assert moved[column].missing == pytest.approx((1 - len(was) / len(old), 1 - len(now) / len(new)))
        wanted = ks(was, now) if column in ("k", "x") else variation(was, now)
        assert moved[column].distance == pytest.approx(wanted, abs=2e-6)
        if column in ("k", "x"):
            assert moved[column].mean == pytest.approx((sum(was) / len(was), sum(now) / len(now)))


def test_a_key_that_repeats_or_is_missing_is_refused(repo: Repository) -> None:
    good = pl.DataFrame({"k": [1, 2, 3], "x": [1, 1, 2]})
    for bad in ([1, 1, 2], [1, None, 2]):
        with pytest.raises(BadInput, match="does not name a row: the version after has 3 rows and 2 values") as caught:
            compared(repo, "t.parquet", good, good.with_columns(k=pl.Series(bad)), key="k")
        assert "--key" in str(caught.value.hint)
    assert compared(repo, "t.parquet", good, good.with_columns(x=pl.Series([1, 5, 2])), key="k").changed == 1


def test_another_width_is_no_change_and_another_type_is_compared_all_the_same(repo: Repository) -> None:
    old = pl.DataFrame({"k": [1, 2, 3], "x": [1.0, 2.0, NAN], "n": [7, 8, 9]})
    narrow = old.cast({"k": pl.Int16, "n": pl.UInt8})
    found = compared(repo, "t.parquet", old, narrow)
    assert (found.added, found.removed, found.changed, found.types_changed) == (0, 0, 0, {})
    found = compared(repo, "t.parquet", old, old.with_columns(n=pl.Series([7.0, 8.5, 9.0])))
    assert (found.changed, found.types_changed) == (1, {"n": ("int", "float")})
    found = compared(repo, "t.parquet", old, old.with_columns(n=pl.Series(["7", "eight", "9"])))
    assert (found.changed, found.types_changed) == (1, {"n": ("int", "string")})


def test_the_key_that_finds_most_rows_again_is_taken(repo: Repository) -> None:
    old = pl.DataFrame({"line": range(50), "id": [f"c{at}" for at in range(50)], "x": [0.5] * 50})
    new = old.with_columns(line=pl.col("line") + 50).head(49)
    found = compared(repo, "t.csv", old, new)
    assert (found.key, found.added, found.removed, found.changed) == ("id", 0, 1, 49)


def test_times_and_empty_versions(repo: Repository) -> None:
    days = pl.DataFrame({"at": pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 10), "1d", eager=True)})
    found = compared(repo, "t.parquet", days, days.tail(5))
    assert (found.added, found.removed) == (0, 5) and found.moved[0].distance == pytest.approx(0.5)
    for name in ("t.parquet", "e.csv"):
        found = compared(repo, name, days, days.head(0))
        assert (found.rows, found.added, found.removed, found.types_changed) == ((10, 0), 0, 10, {})
        assert found.moved[0].missing == (0.0, 0.0) and found.moved[0].distance is None


def test_a_column_whose_cells_stop_being_numbers_far_down_is_still_compared(repo: Repository) -> None:
    lines = "".join(f"{at},{at % 7}\n" for at in range(300_000))
    fill(repo.root, {"t.csv": b"k,x\n" + lines.encode()})
    snapshot.add(repo.root, Path("t.csv"))
    commit(repo.root, "numbers")
    fill(repo.root, {"t.csv": b"k,x\n" + lines.encode() + b"300000,odd\n"})
    found = diff.between(repo, repo.root / "t.csv").table
    assert found is not None and (found.added, found.removed, found.changed) == (1, 0, 0)


@pytest.mark.parametrize(("good", "stray"), [("yes", "maybe"), ("1.50", "n/a"), ("2024-01-05", "soon"), ("007", "x")])
def test_one_stray_cell_changes_one_row_not_every_row(repo: Repository, good: str, stray: str) -> None:
    text = "id,x,n\n" + "".join(f"c{at},{good},{at / 2}\n" for at in range(100))
    fill(repo.root, {"t.csv": text.encode()})
    snapshot.add(repo.root, Path("t.csv"))
    commit(repo.root, "good")
    fill(repo.root, {"t.csv": (text + f"c100,{stray},1.0\n").encode()})
    found = diff.between(repo, repo.root / "t.csv").table
    assert found is not None and (found.added, found.removed, found.changed) == (1, 0, 0)
    assert {m.column: m.mean is not None for m in found.moved}["n"], "the other columns are still numbers"


def test_rows_that_cannot_be_read_are_said_to_be(repo: Repository) -> None:
    fill(repo.root, {"t.csv": b"a,b\r\n1,2\r\n3,4\r\n"})
    snapshot.add(repo.root, Path("t.csv"))
    commit(repo.root, "good")
    fill(repo.root, {"t.csv": b"a,b\r\n" + b"1,2\r\n" * 2000 + b"5,6\n"})
    found = diff.between(repo, repo.root / "t.csv")
    assert found.changed == ["t.csv"] and found.table is None and "line 2002 ends with" in str(found.unread)


def test_a_folder_of_several_kinds_of_tables_and_its_history(repo: Repository) -> None:
    (repo.root / "d").mkdir()
    frame = pl.DataFrame({"k": [1, 2], "x": ["a", "b"]})
    for name in ("one.parquet", "two.csv", "three.csv.gz"):
        write(repo.root / "d" / name, frame.with_columns(k=pl.col("k") + len(name) * 10))
    snapshot.add(repo.root, Path("d"))
    commit(repo.root, "one")
    assert [(e.files, e.rows, e.columns) for e in log.versions(repo, repo.root / "d")] == [(3, 6, 2)]
    write(repo.root / "d" / "three.csv.gz", pl.DataFrame({"k": [121, 122], "x": ["a", "z"]}))
    (repo.root / "d" / "two.csv").unlink()
    found = diff.between(repo, repo.root / "d")
    assert (found.changed, found.removed) == (["three.csv.gz"], ["two.csv"])
    assert found.table is not None
    assert (found.table.added, found.table.removed, found.table.changed, found.table.key) == (0, 2, 1, "k")
