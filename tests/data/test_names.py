"""Which names are tables: the same answer from a folder and from the paths a walk found; and the name of a folder's content."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
from tests.data.conftest import fill

from holdfast.data import hashing, names, tree

ENDINGS = (".csv", ".CSV", ".parquet", ".pq", ".tsv.gz", ".csv.zst", ".txt", ".csvx", "", ".gz")


@pytest.mark.parametrize("seed", range(40))
def test_paths_of_a_walk_answer_as_the_folder_does(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    for at in range(rng.randrange(0, 6)):
        folder = rng.choice(["", "a/", ".hidden/", "a/.deep/", "a/b.csv/"])
        fill(tmp_path, {f"{folder}{rng.choice(['', '.'])}n{at}{rng.choice(ENDINGS)}": b"x"})
    assert names.any_tables(tree.listing(tmp_path).paths) == names.has_tables(tmp_path)


def test_one_file_is_a_table_by_its_name() -> None:
    assert names.any_tables(["a.csv"]) and not names.any_tables(["a.bin"]) and not names.any_tables([])


def test_a_folders_sha256_is_over_canonical_json() -> None:
    """Names are written as JSON writes them; recorded versions depend on every byte of it."""
    rng = random.Random(3)
    odd = [chr(c) for c in (*range(1, 160), 0x2028, 0xE9, 0x1F600, 0xFFFD)]
    for _ in range(50):
        paths = {"".join(rng.choices(odd, k=rng.randrange(1, 9))) for _ in range(20)}
        members = [(path, rng.randbytes(32).hex(), rng.randrange(1 << 50)) for path in paths]
        plain = json.dumps(sorted(members), separators=(",", ":"), ensure_ascii=False).encode()
        assert hashing.tree_sha256(members) == hashlib.sha256(plain).hexdigest()
    assert hashing.tree_sha256([]) == hashlib.sha256(b"[]").hexdigest()
