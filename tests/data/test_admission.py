"""A folder of monthly deliveries: good ones become current, bad ones are set aside and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandera.polars as pa
import polars as pl
import pytest

from holdfast.backends.ledger_sql import SqlLedger
from holdfast.core.errors import BadData
from holdfast.core.identity import DAY
from holdfast.core.records import Finding
from holdfast.data import declared, quality, snapshot, status

START = 1_356_998_400_000_000


def month(number: int, rows: int = 3000) -> pl.DataFrame:
    rng = np.random.default_rng(number)
    times = np.sort(rng.integers(0, 30 * DAY, rows)) + START + number * 30 * DAY
    return pl.DataFrame(
        {
            "id": np.arange(rows) + number * 1_000_000,
            "at": pl.Series(times).cast(pl.Datetime("us", "UTC")),
            "month": np.full(rows, number),
            "origin": rng.choice(["EWR", "JFK", "LGA"], rows),
            "distance": rng.integers(80, 4983, rows),
            "delay": np.where(rng.random(rows) < 0.03, np.nan, rng.normal(5, 40, rows)),
        }
    )


class Deliveries:
    """A project with one folder dataset."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "data" / "flights"
        self.folder.mkdir(parents=True)
        (root / "definitions.py").write_text("")
        self.ledger = SqlLedger(f"sqlite:///{root}/ledger.db")

    def put(self, name: str, table: pl.DataFrame) -> None:
        table.write_parquet(self.folder / name)

    def admit(self) -> str:
        version = quality.admit(self.root, self.ledger, "flights", Path("data/flights"), at=START, actor="test")
        return version.sha256

    def names(self) -> list[str]:
        return [p.name for p in quality.members(self.ledger, self.root, "flights")]


@pytest.fixture
def deliveries(tmp_path: Path) -> Deliveries:
    made = Deliveries(tmp_path)
    made.put("01.parquet", month(1))
    made.put("02.parquet", month(2))
    made.admit()
    return made


BAD: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "type": lambda t: t.with_columns(pl.col("distance").cast(pl.String)),
    "range": lambda t: t.with_columns(-pl.col("distance")),
    "values": lambda t: t.with_columns(
        origin=pl.when(pl.int_range(pl.len()) % 50 == 0).then(pl.lit("XXX")).otherwise(pl.col("origin"))
    ),
    "volume": lambda t: t.head(t.height // 2),
    "columns": lambda t: t.drop("delay"),
    "unique": lambda t: t.with_columns(id=pl.lit(7)),
    "missing": lambda t: t.with_columns(
        origin=pl.when(pl.int_range(pl.len()) % 2 == 0).then(None).otherwise(pl.col("origin"))
    ),
}


@pytest.mark.parametrize("check", BAD)
def test_bad_delivery_is_kept_out_and_the_good_one_let_in(deliveries: Deliveries, check: str) -> None:
    before = quality.current(deliveries.ledger, "flights")
    deliveries.put("03.parquet", BAD[check](month(3)))
    with pytest.raises(BadData, match="stays current"):
        deliveries.admit()
    assert quality.current(deliveries.ledger, "flights") == before
    assert deliveries.names() == ["01.parquet", "02.parquet"]
    row = quality.state(deliveries.ledger, "flights").quarantined
    assert [q.path for q in row] == ["03.parquet"]
    assert check in {f.check for f in row[0].findings if f.blocking}, row[0].findings
    assert [q.path for q in status.quarantined(deliveries.root)] == ["03.parquet"]

    deliveries.put("03.parquet", month(3))
    deliveries.admit()
    assert deliveries.names() == ["01.parquet", "02.parquet", "03.parquet"]
    assert quality.state(deliveries.ledger, "flights").quarantined == []
    assert status.quarantined(deliveries.root) == []
    kinds = [entry.kind for entry in deliveries.ledger.read()]
    assert kinds == ["dataset.admitted", "dataset.quarantined", "dataset.admitted"]


def test_a_source_that_got_another_name_leaves_no_quarantine_behind(deliveries: Deliveries) -> None:
    deliveries.put("03.parquet", BAD["range"](month(3)))
    with pytest.raises(BadData):
        deliveries.admit()
    (deliveries.folder / "03.parquet").unlink()
    quality.admit(deliveries.root, deliveries.ledger, "departures", Path("data/flights"), at=START, actor="test")
    assert status.quarantined(deliveries.root) == []


def test_known_bad_file_does_not_hold_up_the_next_good_one(deliveries: Deliveries) -> None:
    deliveries.put("03.parquet", BAD["range"](month(3)))
    with pytest.raises(BadData):
        deliveries.admit()
    deliveries.put("04.parquet", month(4))
    deliveries.admit()
    assert deliveries.names() == ["01.parquet", "02.parquet", "04.parquet"]


def test_bad_file_over_an_admitted_one_leaves_the_admitted_bytes(deliveries: Deliveries) -> None:
    good = (deliveries.folder / "01.parquet").read_bytes()
    deliveries.put("01.parquet", BAD["range"](month(1)))
    with pytest.raises(BadData):
        deliveries.admit()
    first = deliveries.admit()
    member = quality.members(deliveries.ledger, deliveries.root, "flights")[0]
    assert member.read_bytes() == good
    deliveries.put("03.parquet", month(3))
    assert deliveries.admit() != first
    assert quality.members(deliveries.ledger, deliveries.root, "flights")[0].read_bytes() == good
    assert len(deliveries.names()) == 3


@pytest.mark.parametrize("mend", ["taken away", "put back"])
def test_what_is_not_there_any_more_is_in_no_quarantine(deliveries: Deliveries, mend: str) -> None:
    name = "03.parquet" if mend == "taken away" else "02.parquet"
    deliveries.put(name, BAD["range"](month(3)))
    with pytest.raises(BadData):
        deliveries.admit()
    if mend == "taken away":
        (deliveries.folder / name).unlink()
    else:
        deliveries.put(name, month(2))
    assert [q.path for q in status.quarantined(deliveries.root)] == [name]
    deliveries.admit()
    assert quality.state(deliveries.ledger, "flights").quarantined == []
    assert status.quarantined(deliveries.root) == []


def test_edited_schema_survives_and_lets_the_quarantined_file_in(deliveries: Deliveries) -> None:
    deliveries.put("03.parquet", BAD["values"](month(3)))
    with pytest.raises(BadData):
        deliveries.admit()
    file = deliveries.folder.with_name("flights.schema.yaml")
    edited = "# ours\n" + file.read_text().replace("[EWR, JFK, LGA]", "[EWR, JFK, LGA, XXX]")
    file.write_text(edited)
    deliveries.admit()
    assert deliveries.names()[-1] == "03.parquet"
    assert file.read_text() == edited


def test_only_new_bytes_are_read(deliveries: Deliveries) -> None:
    deliveries.put("03.parquet", month(3))
    deliveries.admit()
    body = deliveries.ledger.query(kind="dataset.admitted", newest_first=True, limit=1)[0].body
    assert body["new_files"] == ["03.parquet"]
    assert body["checked_bytes"] == (deliveries.folder / "03.parquet").stat().st_size
    assert body["rows"] == 9000


def test_the_chain_holds_no_rows(deliveries: Deliveries) -> None:
    deliveries.put("03.parquet", BAD["values"](month(3)))
    with pytest.raises(BadData):
        deliveries.admit()
    entry = deliveries.ledger.query(kind="dataset.quarantined")[0]
    assert all("examples" not in finding for finding in entry.body["findings"])
    kept = quality.state(deliveries.ledger, "flights").quarantined[0].findings
    assert any(f.examples and f.examples[0]["origin"] == "XXX" for f in kept)


def test_first_delivery_that_is_no_table_is_kept_out(tmp_path: Path) -> None:
    made = Deliveries(tmp_path)
    (made.folder / "01.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(BadData, match="no version is current"):
        made.admit()
    assert quality.current(made.ledger, "flights") is None
    assert not made.folder.with_name("flights.schema.yaml").exists()
    with pytest.raises(BadData):
        made.admit()


def test_pointer_names_exactly_what_was_admitted(deliveries: Deliveries) -> None:
    pointer = deliveries.folder.with_name("flights.dvc")
    before = pointer.read_text()
    deliveries.put("03.parquet", BAD["range"](month(3)))
    with pytest.raises(BadData):
        deliveries.admit()
    assert pointer.read_text() == before
    (deliveries.folder / "03.parquet").unlink()
    assert snapshot.take(deliveries.folder).md5 in before


def test_a_key_of_an_earlier_file_is_kept_out(deliveries: Deliveries) -> None:
    again = month(3).with_columns(
        id=pl.when(pl.int_range(pl.len()) < 4).then(1_000_000 + pl.int_range(pl.len())).otherwise("id")
    )
    deliveries.put("03.parquet", again)
    with pytest.raises(BadData, match="4 values of 'id' are in files that were let in before"):
        deliveries.admit()
    (aside,) = quality.state(deliveries.ledger, "flights").quarantined
    (found,) = [f for f in aside.findings if f.blocking]
    assert (found.check, found.count) == ("unique", 4)
    assert {e["id"] for e in found.examples} <= set(range(1_000_000, 1_000_004))
    # Also when the earlier file's bytes are only in the cache any more.
    (deliveries.folder / "01.parquet").write_bytes(b"overwritten")
    with pytest.raises(BadData, match="cannot be read"):
        deliveries.admit()
    deliveries.put("03.parquet", again.with_columns(pl.col("distance") + 1))
    with pytest.raises(BadData, match="let in before"):
        deliveries.admit()
    assert quality.current(deliveries.ledger, "flights") is not None


def test_a_key_over_files_of_two_shapes_in_one_delivery(deliveries: Deliveries) -> None:
    deliveries.put("03.parquet", month(3))
    deliveries.put("04.parquet", month(3).with_columns(extra=pl.lit(1)))
    with pytest.raises(BadData, match="3000 of 6000 values of 'id' repeat"):
        deliveries.admit()


def test_freshness_is_held_against_the_deliveries_before(deliveries: Deliveries) -> None:
    told: list[list[Finding]] = []

    def admit(number: int, day: int) -> list[str]:
        deliveries.put(
            f"{len(deliveries.names()) + 1:02d}.parquet", month(number).with_columns(id=pl.col("id") + day * 10_000_000)
        )
        quality.admit(
            deliveries.root, deliveries.ledger, "flights", Path("data/flights"), at=START + day * DAY, actor="t", tell=told.append
        )  # fmt: skip
        return [
            f.message for f in told[-1] if f.check == "freshness" and "before" in f.message and "now" not in f.message
        ]

    assert admit(3, 122) == admit(4, 152) == admit(5, 182) == []
    assert ["no newer than" in m for m in admit(2, 183)] == [True]
    assert admit(6, 212) == []
    assert ["days old on arrival" in m for m in admit(7, 280)] == [True]


def test_own_schema_with_keys_over_all_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declared, "BATCH", 100)
    table = pl.DataFrame({"a": range(500), "b": [i % 250 for i in range(500)], "c": [i // 250 for i in range(500)]})
    table.write_parquet(tmp_path / "t.parquet")
    good = pa.DataFrameSchema({"a": pa.Column(pl.Int64), "b": pa.Column(pl.Int64)}, unique=["b", "c"])
    assert quality.check(tmp_path / "t.parquet", good) == []
    bad = pa.DataFrameSchema({"b": pa.Column(pl.Int64, unique=True)}, unique=["b", "d"])
    assert [(f.column, f.count) for f in quality.check(tmp_path / "t.parquet", bad) if "repeat" in f.message] == [
        ("b", 250)
    ]
    table.with_columns(c=pl.lit(0)).write_parquet(tmp_path / "t.parquet")
    (found,) = quality.check(tmp_path / "t.parquet", good)
    assert (found.count, found.blocking, len(found.examples)) == (250, True, 3)
