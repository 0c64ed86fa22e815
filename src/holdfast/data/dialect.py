"""How a CSV file is written: its compression, its separator and what stands above its header, decided by its first lines alone.

A reader that guesses from the body passes over the lines that do not fit its guess, and rows are lost without a word. With
these settings a line of another width is an error that names it.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

SEPARATORS = ",\t;|"
HEAD = 1 << 16
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
        with path.open("rb") as f:
            packing = _packing(f.read(4))
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
        with _opened(path, dialect.packing) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
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


def _packing(head: bytes) -> str:
    return "gzip" if head[:2] == b"\x1f\x8b" else "zstd" if head == b"\x28\xb5\x2f\xfd" else "none"


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
