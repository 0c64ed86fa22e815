"""How a CSV file is written: its compression, its separator and what stands above its header, decided by its first lines alone.

A reader that guesses from the body passes over the lines that do not fit its guess, and rows are lost without a word. With
these settings a line of another width is an error that names it.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

SEPARATORS = ",\t;|"
HEAD = 1 << 16
ZSTD = b"\x28\xb5\x2f\xfd"
NULLS = ("", "NA", "NULL", "null", "NaN", "nan")
"""Cells that stand for a missing value."""


class Dialect(NamedTuple):
    """``packing`` is gzip, zstd or none; ``above`` counts the blank lines and remarks (``#``) before the header. ``names`` are
    the columns where one is called like a missing value, which the reader would then not name; the header counts as above."""

    packing: str
    separator: str
    above: int
    names: tuple[str, ...] = ()


def of(path: Path) -> Dialect:
    """The dialect of a file; in the cache its name does not say how it is compressed. What cannot be read is plain CSV:
    the reader says what is wrong with it."""
    try:
        packing = _packing_of(path)
        with _opened(path, packing) as stream:
            text = stream.read(HEAD).decode("utf-8-sig", "replace")
    except (OSError, EOFError, ValueError):
        return Dialect("auto", ",", 0)
    lines = text.splitlines()
    above = 0
    while above < len(lines) and (not lines[above].strip() or _is_remark(lines, above)):
        above += 1
    header = _record(lines[above:])
    separator = _separator(header)
    cells = next(csv.reader(header.split("\n"), delimiter=separator), [])
    if any(not cell or cell in NULLS for cell in cells) and len({*cells}) == len(cells):
        names = tuple(cell or f"column{at}" for at, cell in enumerate(cells))
        return Dialect(packing, separator, above + header.count("\n") + 1, names)
    return Dialect(packing, separator, above)


def _is_remark(lines: list[str], at: int) -> bool:
    """Whether a line above the header is a remark: ``#id,amount`` is the header itself where what follows has its columns,
    ``# by hand, 2024`` never is."""
    if not lines[at].startswith("#") or lines[at].startswith("# "):
        return lines[at].startswith("#")
    below = next((line for line in lines[at + 1 :] if line.strip() and not line.startswith("#")), "")
    separator = _separator(below)
    return lines[at].count(separator) != below.count(separator) or separator not in below


def odd_line(path: Path, dialect: Dialect) -> str | None:
    """What is wrong with the first line that does not fit the header, in words; None where each fits. Reads the file."""
    try:
        with _opened(path, _packing_of(path)) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
            for _ in range(dialect.above):
                text.readline()
            last = first = ""

            def lines() -> Iterator[str]:
                nonlocal last
                for last in text:  # noqa: UP028 - the last line is looked at between rows
                    yield last

            reader = csv.reader(lines(), delimiter=dialect.separator, strict=True)
            width = len(dialect.names)
            for row in reader:
                width = width or len(row)
                if row and len(row) != width:
                    return f"line {dialect.above + reader.line_num} has {len(row)} columns, its header {width}"
                end = last[len(last.rstrip("\r\n")) :]
                first = first or end
                if end and end != first:
                    return f"line {dialect.above + reader.line_num} ends with {end!r}, those before it with {first!r}"
    except UnicodeDecodeError:
        return "it is not UTF-8 text"
    except csv.Error as error:
        return f"line {dialect.above + reader.line_num}: {error}"
    except (OSError, EOFError, ValueError) as error:
        return str(error)
    return None


def is_cut_off(path: Path) -> bool:
    """Whether a file packed by zstd ends inside a frame: the reader takes what there is for all of it, gzip's does not. Only
    the headers of its blocks are read."""
    try:
        size, packing = path.stat().st_size, _packing_of(path)
    except OSError:
        return False
    with path.open("rb") if packing == "zstd" else io.BytesIO() as f:
        while head := f.read(4):
            if len(head) == 4 and head[1:] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:  # a frame to skip
                f.seek(int.from_bytes(f.read(4), "little"), os.SEEK_CUR)
                continue
            if head != ZSTD:
                return False  # no frame: the reader says what is wrong with it
            if not _skip_frame(f) or f.tell() > size:
                return True
    return False


def _skip_frame(f: IO[bytes]) -> bool:
    """Go past a frame of zstd, whose mark was read; False where it ends too early."""
    mark = f.read(1)
    if not mark:
        return False
    single, checked = mark[0] & 0x20, mark[0] & 0x04
    sizes = (1 if single else 0, 2, 4, 8)
    f.seek((0 if single else 1) + (0, 1, 2, 4)[mark[0] & 3] + sizes[mark[0] >> 6], os.SEEK_CUR)
    while len(block := f.read(3)) == 3:
        head = int.from_bytes(block, "little")
        f.seek(1 if head >> 1 & 3 == 1 else head >> 3, os.SEEK_CUR)
        if head & 1:
            f.seek(4 if checked else 0, os.SEEK_CUR)
            return True
    return False


def _packing_of(path: Path) -> str:
    with path.open("rb") as f:
        return _packing(f.read(4))


def _packing(head: bytes) -> str:
    return "gzip" if head[:2] == b"\x1f\x8b" else "zstd" if head == ZSTD else "none"


def _opened(path: Path, packing: str) -> IO[bytes]:
    if packing == "gzip":
        return io.BufferedReader(gzip.GzipFile(path))
    if packing == "zstd":
        import pyarrow as pa

        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def _record(lines: list[str]) -> str:
    """The first line, with those it goes on in where it breaks inside quotes."""
    kept = ""
    for line in lines:
        kept = f"{kept}\n{line}" if kept else line
        if kept.count('"') % 2 == 0:
            break
    return kept


def _separator(header: str) -> str:
    outside = "".join(header.split('"')[::2])
    return max(SEPARATORS, key=outside.count)
