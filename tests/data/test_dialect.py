"""CSV as people write it: read whole, or refused with the line that is wrong. No row is passed over."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from holdfast.core.errors import BadData
from holdfast.data import dialect, quality, tables
from holdfast.data.schema import Column, TableSchema

MANY = "1,2\n" * 50

GOOD: dict[str, tuple[bytes, list[tuple[Any, ...]]]] = {
    "commas": (b"a,b\n1,2\n3,4\n", [(1, 2), (3, 4)]),
    "semicolons and decimal commas": (b"a;b\n1,5;2\n", [("1,5", 2)]),
    "tabs": (b"a\tb\n1\t2\n", [(1, 2)]),
    "bars": (b"a|b\n1|2\n", [(1, 2)]),
    "one column": (b"a\n1\n2\n", [(1,), (2,)]),
    "quotes": (b'a,"b, ""c"""\n"x,1",2\n', [("x,1", 2)]),
    "lines in quotes": (b'a,b\n"x\ny",2\n', [("x\ny", 2)]),
    "a header over two lines": (b'"a\nb",c\n1,2\n', [(1, 2)]),
    "single quotes are text": (b"a,b\n'x',2\n", [("'x'", 2)]),
    "remarks above": (b"# of 2024, by hand\n# second\na,b\n1,2\n", [(1, 2)]),
    "a header that begins like a remark": (b"#a,b\n1,2\n#3,4\n", [("1", 2), ("#3", 4)]),
    "a row that begins like a remark": (b"a,b\n#1,2\n3,4\n", [("#1", 2), ("3", 4)]),
    "a byte order mark and Windows": (b"\xef\xbb\xbfa,b\r\n1,2\r\n", [(1, 2)]),
    "blank lines": (b"\na,b\n1,2\n\n3,4\n", [(1, 2), (3, 4)]),
    "columns called like missing values": (b"NA,nan,b\n1,NA,2\n", [(1, None, 2)]),
    "a column without a name": (b",b\n0,x\n1,y\n", [(0, "x"), (1, "y")]),
    "nothing but a header": (b"a,b\n", []),
}


def read(file: Path) -> list[tuple[Any, ...]]:
    with tables.connect() as connection:
        tables.describe(connection, file)
        rows = connection.execute(f"SELECT * FROM {tables.relation([file], text=True)}").fetchall()
        assert tables.rows_of(connection, [tables.Table(file, {}, True)]) == {file: len(rows)}
    return sorted(rows, key=repr)


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_what_is_written_is_read(tmp_path: Path, name: str, packing: str) -> None:
    data, rows = GOOD[name]
    # Named as in the cache: nothing but the bytes says how they are packed.
    file = tmp_path / "x.csv"
    pack = {"": bytes, ".gz": gzip.compress, ".zst": lambda b: pa.compress(b, codec="zstd", asbytes=True)}[packing]
    file.write_bytes(pack(data))
    assert read(file) == sorted(rows, key=repr)
    assert dialect.odd_line(file, dialect.of(file)) is None


def test_columns_have_the_names_they_were_given(tmp_path: Path) -> None:
    for text, names in (("NA,nan,b\n1,2,3\n", ["NA", "nan", "b"]), (",b\n1,2\n", ["column0", "b"]), ("a\n1\n", ["a"])):
        file = tmp_path / "x.csv"
        file.write_text(text)
        with tables.connect() as connection:
            assert list(tables.describe(connection, file).columns) == names
            assert tables.rows_of(connection, [tables.Table(file, {}, True)]) == {file: 1}


BAD: dict[str, tuple[bytes, str]] = {
    "a line too long": (f"a,b\n{MANY}4,5,6\n".encode(), "line 52 has 3 columns, its header 2"),
    "most lines too long": (f"a,b\n{MANY}{'4,5,6' + chr(10)}".encode() * 1 + b"4,5,6\n" * 200, "line 52 has 3 columns"),
    "a line too short": (b"a,b\n1,2\n3\n4,5\n", "line 3 has 1 columns"),
    "a title above": (b"Sales\n\na,b\n1,2\n", "line 3 has 2 columns, its header 1"),
    "a quote that never ends": (b'a,b\n"x, y",1\n"open,2\nz,3\n', "unexpected end of data"),
    "another encoding": ("a,b\n1,é\n".encode("latin-1"), "not UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_line_that_does_not_fit_is_named(tmp_path: Path, name: str) -> None:
    data, words = BAD[name]
    file = tmp_path / "x.csv"
    file.write_bytes(data)
    with pytest.raises(BadData, match=words) as caught:
        read(file)
    assert caught.value.hint == "mend the file"
    schema = TableSchema(columns={"a": Column(type="string"), "b": Column(type="string")})
    (found,) = [f for f in quality.check(file, schema) if f.blocking]
    assert (found.check, found.examples) == ("readable", []) and words in found.message


def test_a_line_far_below_what_is_sampled_stops_the_check_too(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(b"a,b\n" + b"1,2\n" * 300_000 + b"secret,3,4\n")
    schema = TableSchema(columns={"a": Column(type="int"), "b": Column(type="int")})
    (found,) = [f for f in quality.check(file, schema) if f.blocking]
    assert found.check == "readable" and "300002" in found.message and "secret" not in found.message


def test_line_ends_that_change_are_named(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(b'a,b\r\n"1\n1",2\r\n3,4\n')
    assert dialect.odd_line(file, dialect.of(file)) == r"line 4 ends with '\n', those before it with '\r\n'"
    file.write_bytes(b'a,b\r\n"1\n1",2\r\n3,4')
    assert dialect.odd_line(file, dialect.of(file)) is None


@pytest.mark.parametrize("parts", [1, 2])
def test_a_packed_file_that_was_cut_off_is_said_to_be(tmp_path: Path, parts: int) -> None:
    rows = [f"{i},{i * 7919 % 1000003}\n" for i in range(60_000)]
    half = ["".join(rows), ""] if parts == 1 else ["".join(rows[:30_000]), "".join(rows[30_000:])]
    skip = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    frames = [pa.compress(text.encode(), codec="zstd", asbytes=True) for text in ("id,v\n" + half[0], half[1]) if text]
    path = tmp_path / "t.csv.zst"
    whole = skip.join(frames) + skip
    path.write_bytes(whole)
    assert tables.count_rows(path) == 60_000
    for cut in (len(skip) + 1, len(skip) + 5, len(skip) + 2000, len(whole) - 7, len(whole) - 4):
        path.write_bytes(whole[:-cut])
        with tables.connect() as connection, pytest.raises(BadData, match="ends too early"):
            tables.describe(connection, path)
