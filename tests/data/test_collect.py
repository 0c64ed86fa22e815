"""Sources become files: paths, patterns, and pulls that are the same version when the rows are the same."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from holdfast.backends.ledger_sql import SqlLedger
from holdfast.core.definitions import Source
from holdfast.core.errors import BadData, BadDefinition, NotFound, Unavailable
from holdfast.data import collect, quality

POSTGRES = os.environ.get("HOLDFAST_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/test")


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


def test_a_pattern_is_gathered_pinned_and_follows_its_files(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for at, name in enumerate(("x/01.parquet", "x/02.parquet", "y/01.parquet", "y/note.txt")):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"a": [at, at + 10]}).write_parquet(raw / name)
    source = Source("days", "raw/*/*.parquet")
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")

    def version(at: int) -> tuple[int | None, str]:
        folder = collect.pull(tmp_path, source)
        made = quality.admit(
            tmp_path, ledger, "days", collect.place_of(tmp_path, source), at=at, actor="t", source=source
        )
        assert {str(p.relative_to(folder)) for p in folder.rglob("*.parquet")} == {
            str(p.relative_to(raw)) for p in raw.rglob("*.parquet")
        }
        return made.rows, made.sha256

    first = version(1)
    assert first[0] == 6 and version(2) == first
    inode = (tmp_path / "data/days/x/01.parquet").stat().st_ino
    pl.DataFrame({"a": [3, 4]}).write_parquet(raw / "y" / "01.parquet")
    second = version(3)
    assert second[0] == 6 and second[1] != first[1]
    assert (tmp_path / "data/days/x/01.parquet").stat().st_ino == inode
    (raw / "x" / "02.parquet").unlink()
    assert version(4)[0] == 4
    # A pattern that reaches into its own folder does not feed on itself.
    assert len(collect.files(tmp_path, Source("days", "**/*.parquet"))) == 2


def test_objects_below_a_prefix_are_pulled_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for key, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            monkeypatch.setenv(key, value)
        bucket = boto3.resource("s3").create_bucket(Bucket="bucket")
        for key in ("d/2024/a.csv", "d/2024/b.csv", "d/2025/a.csv", "d/2025/readme.md", "other/a.csv"):
            bucket.put_object(Key=key, Body=b"x\n1\n")
        source = Source("days", url="s3://bucket", query="d/")
        folder = collect.pull(tmp_path, source)
        assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.*")) == [
            "2024/a.csv",
            "2024/b.csv",
            "2025/a.csv",
        ]
        before = {p: p.stat().st_ino for p in folder.rglob("*.csv")}
        bucket.put_object(Key="d/2024/a.csv", Body=b"x\n2\n")
        bucket.Object("d/2025/a.csv").delete()
        collect.pull(tmp_path, source)
        after = {p: p.stat().st_ino for p in folder.rglob("*.csv")}
        assert (folder / "2024/a.csv").read_bytes() == b"x\n2\n"
        assert after.keys() == before.keys() - {folder / "2025/a.csv"}
        assert after[folder / "2024/b.csv"] == before[folder / "2024/b.csv"]
        some = collect.pull(tmp_path, Source("some", url="s3://bucket", query="d/*/b.csv"))
        assert [p.name for p in some.rglob("*.csv")] == ["b.csv"]
        with pytest.raises(NotFound, match="no parquet or CSV object matches 'none/'"):
            collect.pull(tmp_path, Source("none", url="s3://bucket", query="none/"))
        with pytest.raises((Unavailable, NotFound)):
            collect.pull(tmp_path, Source("gone", url="s3://nobucket", query="d/"))
    finally:
        server.stop()


def test_a_column_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    with sa.create_engine(url).begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (id INTEGER, odd)"))
        connection.execute(sa.text("INSERT INTO t VALUES (1, 1), (2, 'two')"))
    with pytest.raises(BadData, match="column 'odd' cannot be kept"):
        collect.pull(tmp_path, Source("s", url=url, query="SELECT * FROM t"))
    # Batches differ, too.
    late = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) SELECT i, CASE WHEN i > 55000 THEN i + 0.5 ELSE i END AS odd FROM n"
    with pytest.raises(BadData, match="column 'odd' cannot be kept"):
        collect.pull(tmp_path, Source("s", url=url, query=late))


def test_a_query_of_postgresql_is_sent_as_it_is_written(tmp_path: Path) -> None:
    try:
        with sa.create_engine(POSTGRES.replace("postgresql:", "postgresql+psycopg:")).connect():
            pass
    except sa.exc.OperationalError as error:
        if os.environ.get("HOLDFAST_REQUIRE_SERVICES") == "1":
            raise
        pytest.skip(f"no PostgreSQL at {POSTGRES}: {error}")
    rows = "SELECT i, 'a%sb' AS s FROM generate_series(1, 9) i WHERE 'axb' LIKE '%x%' AND i % 2 = 1"
    folder = collect.pull(tmp_path, Source("s", url=POSTGRES, query=rows))
    (file,) = folder.glob("*.parquet")
    assert pl.read_parquet(file).to_dict(as_series=False) == {"i": [1, 3, 5, 7, 9], "s": ["a%sb"] * 5}
    with pytest.raises(BadData, match="column 'x' cannot be kept"):
        collect.pull(tmp_path, Source("s", url=POSTGRES, query="SELECT 'Infinity'::numeric AS x"))


def test_a_pull_of_far_fewer_rows_than_ever_is_kept_out(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (id INTEGER, v REAL)"))
        connection.execute(sa.text("INSERT INTO t VALUES (:i, :v)"), [{"i": i, "v": i / 7} for i in range(500)])
    source = Source("t", url=url, query="SELECT * FROM t")
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    quality.admit(tmp_path, ledger, "t", collect.pull(tmp_path, source), at=1, actor="t", source=source)
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM t WHERE id >= 20"))
    with pytest.raises(BadData, match="too few: earlier deliveries had 500"):
        quality.admit(tmp_path, ledger, "t", collect.pull(tmp_path, source), at=2, actor="t", source=source)
