"""What tables are asked as a whole."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from holdfast.data import checks, schema, tables

VALUES = {
    "BIGINT": lambda rng, many: str(rng.randrange(-many, many)),
    "DOUBLE": lambda rng, many: rng.choice(
        ["'-0.0'", "'0.0'", "'nan'", "'-nan'", "'inf'", str(rng.randrange(many) / 8)]
    ),
    "VARCHAR": lambda rng, many: "'" + rng.choice(["", "a", "ä", "\u0301"]) * 3 + str(rng.randrange(many)) + "'",
    "TIMESTAMP": lambda rng, many: f"TIMESTAMP '2024-01-01' + to_seconds({rng.randrange(many)})",
    "BOOLEAN": lambda rng, many: rng.choice(["true", "false"]),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("seed", range(12))
def test_values_are_counted_alike_by_hash_and_by_value(kind: str, seed: int) -> None:
    rng = random.Random(seed)
    many = rng.choice([3, 30, 10**6])
    cells = [f"({'NULL' if rng.random() < 0.2 else f'CAST({VALUES[kind](rng, many)} AS {kind})'})" for _ in range(rng.randrange(1, 30))]  # fmt: skip
    keys = f"SELECT * FROM (VALUES {', '.join(cells)}) AS t(key)"
    with tables.connect() as connection:
        there, distinct = tables.one(connection, f"SELECT count(key), count(DISTINCT key) FROM ({keys})")
        for rows in (len(cells), tables.SORTED_AT_ONCE + 1):
            assert tables.count_distinct(connection, keys, rows) == (there, distinct)


@pytest.mark.parametrize("limit", [0, tables.SORTED_AT_ONCE])
@pytest.mark.parametrize("again", [0, 1, 5])
def test_a_key_that_repeats_is_found_however_many_rows(
    limit: int, again: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "SORTED_AT_ONCE", limit)
    rng = random.Random(1)
    keys = [f"k{at}" for at in range(500)]
    rng.shuffle(keys)
    place = tmp_path / "t.parquet"
    pl.DataFrame({"key": keys, "n": range(500)}).write_parquet(place)
    rules = schema.infer(place)
    assert rules.columns["key"].unique
    keys[:again] = keys[100 : 100 + again]
    pl.DataFrame({"key": keys, "n": range(500)}).write_parquet(place)
    found = [(f.check, f.column, f.count) for f in checks.run([place], rules).findings]
    assert found == ([("unique", "key", again)] if again else [])


def test_no_progress_of_the_engine_is_in_the_output_of_an_interactive_session() -> None:
    code = "from holdfast.data import tables\nwith tables.connect() as c: print(tables.one(c, \"SELECT current_setting('enable_progress_bar')\")[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("False", "false")
