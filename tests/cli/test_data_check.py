"""`holdfast data check` as people call it: findings with rows, exit status, and what each mistake is told."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from holdfast.cli.main import cli
from holdfast.core.errors import HoldfastError

SCHEMAS = """
import pandera.polars as pa

class Payments(pa.DataFrameModel):
    amount: float = pa.Field(ge=0)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    table = pl.DataFrame(
        {
            "id": range(1000),
            "amount": [float(i % 7) for i in range(1000)],
            "fraud": [int(i % 10 == 0) for i in range(1000)],
        }
    ).with_columns(refund=pl.col("fraud") * 7)
    table.head(800).write_parquet("train.parquet")
    table.slice(790).write_parquet("test.parquet")
    (tmp_path / "schemas.py").write_text(SCHEMAS)
    return tmp_path


def run(*arguments: str) -> tuple[int, dict[str, list[dict[str, object]]]]:
    done = CliRunner().invoke(cli, ["data", "check", *arguments, "--json"], standalone_mode=False)
    if done.exception:
        raise done.exception
    return int(done.return_value or 0), json.loads(done.stdout)


def test_leaks_and_overlap_are_told_and_stop_only_where_asked(here: Path) -> None:
    status, found = run("train.parquet", "--label", "fraud")
    (leak,) = found[str(here / "train.parquet")]
    assert (status, leak["check"], leak["column"]) == (0, "leakage", "refund")
    assert run("train.parquet", "--label", "fraud", "--strict")[0] == 1
    assert run("train.parquet", "--label", "fraud", "--ignore", "refund", "--strict")[0] == 0
    status, found = run("test.parquet", "--against", "train.parquet")
    assert (status, [f["count"] for f in found[str(here / "test.parquet")]]) == (0, [10])
    assert run("test.parquet", "--against", "train.parquet", "--key", "id")[0] == 1


@pytest.mark.parametrize("where", ["schemas.py:Payments", "schemas:Payments"])
def test_own_pandera_model(here: Path, where: str) -> None:
    assert run("train.parquet", "--schema", where)[0] == 0
    pl.read_parquet("train.parquet").with_columns(amount=pl.lit(-1.0)).write_parquet("bad.parquet")
    status, found = run("bad.parquet", "--schema", where)
    (declared,) = [f for f in found[str(here / "bad.parquet")] if f["check"] == "declared"]
    assert (status, declared["column"], declared["count"]) == (1, "amount", 800)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no.parquet"], "does not exist"),
        (["schemas.py"], "no table"),
        (["train.parquet", "--label", "frod"], "no column 'frod'"),
        (["train.parquet", "--key", "id"], "--key goes with --against"),
        (["train.parquet", "--against", "none"], "holds no table"),
        (["train.parquet", "--schema", "schemas.py"], "MODULE:NAME"),
        (["train.parquet", "--schema", "none.py:X"], "does not exist"),
        (["train.parquet", "--schema", "schemas.py:Nothing"], "no 'Nothing'"),
        (["train.parquet", "--schema", "nosuchmodule:X"], "cannot be loaded"),
        (["train.parquet", "--schema", "pathlib:Path"], "no schema Holdfast can check"),
    ],
)
def test_mistakes_are_told(here: Path, arguments: list[str], says: str) -> None:
    with pytest.raises(HoldfastError, match=says) as caught:
        run(*arguments)
    assert caught.value.exit_code == 1


def test_the_same_bad_data_is_kept_out_each_time(here: Path) -> None:
    (here / "holdfast.toml").touch()

    def add() -> int | str | None:
        done = CliRunner().invoke(cli, ["data", "add", "train.parquet"], standalone_mode=False)
        if isinstance(done.exception, HoldfastError):
            return done.exception.message
        assert done.exception is None, done.exception
        return int(done.return_value or 0)

    good = pl.read_parquet("train.parquet")
    assert add() == 0
    good.with_columns(amount=pl.lit(-1.0)).write_parquet("train.parquet")
    assert "'amount' (100.00%) lie beyond" in str(add())
    again = str(add())
    assert "still kept out" in again and "'amount' (100.00%) lie beyond" in again and "stays current" in again
    good.with_columns(amount=pl.col("amount") + 1).write_parquet("train.parquet")
    assert (add(), add()) == (0, 0)
