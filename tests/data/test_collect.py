"""Sources become files: paths, patterns, and pulls that are the same version when the rows are the same."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from holdfast.backends.ledger_sql import SqlLedger
from holdfast.core.definitions import Source
from holdfast.core.errors import BadData, BadDefinition, NotFound, Unavailable
from holdfast.data import collect, quality


def test_file_folder_and_pattern(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("b.parquet", "a.parquet", "c.csv"):
        (tmp_path / "d" / name).write_text("x\n1\n")
    (tmp_path / "d" / "readme.md").write_text("")
    assert [p.name for p in collect.files(tmp_path, Source("s", "d"))] == ["a.parquet", "b.parquet", "c.csv"]
    assert [p.name for p in collect.files(tmp_path, Source("s", "d/*.parquet"))] == ["a.parquet", "b.parquet"]
    assert [p.name for p in collect.files(tmp_path, Source("s", "d/c.csv"))] == ["c.csv"]
    with pytest.raises(NotFound, match=r"d/\*\.pq"):
        collect.files(tmp_path, Source("s", "d/*.pq"))
    with pytest.raises(BadDefinition, match="leads out"):
        collect.files(tmp_path, Source("s", "../d"))


def test_a_query_is_pulled_pinned_and_pulled_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE orders (id INTEGER, amount REAL, note TEXT)"))
        connection.execute(sa.text("INSERT INTO orders VALUES (1, 2.5, NULL), (2, NULL, 'x')"))
    source = Source("orders", url=url, query="SELECT * FROM orders ORDER BY id")
    folder = collect.pull(tmp_path, source)
    first = [p.name for p in folder.glob("*.parquet")]
    frame = pl.read_parquet(folder / first[0])
    assert frame.to_dict(as_series=False) == {"id": [1, 2], "amount": [2.5, None], "note": [None, "x"]}
    collect.pull(tmp_path, source)
    assert [p.name for p in folder.glob("*.parquet")] == first

    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    one = quality.admit(tmp_path, ledger, "orders", folder, at=1, actor="t", source=source)
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO orders VALUES (3, 1.0, 'y')"))
    collect.pull(tmp_path, source)
    two = quality.admit(tmp_path, ledger, "orders", folder, at=2, actor="t", source=source)
    assert (one.rows, two.rows) == (2, 3) and one.sha256 != two.sha256


def test_pull_errors_name_the_mend_and_no_password(tmp_path: Path) -> None:
    with pytest.raises((BadData, Unavailable), match="syntax error"):
        collect.pull(tmp_path, Source("s", url="sqlite://", query="SELECT * FROM nothing WHERE"))
    with pytest.raises(BadDefinition) as caught:
        collect.pull(tmp_path, Source("s", url="nosuch://u:hunter2@h/db", query="SELECT 1"))
    assert "hunter2" not in str(caught.value)
