"""A file hashed and copied in pieces: both names right, the copy whole, and the disk begun with before the end."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from holdfast.core import files
from holdfast.data import hashing


@pytest.mark.parametrize("size", [(2 << 20) + 1, 5 << 20, (7 << 20) - 3])
def test_a_copy_in_pieces_is_whole(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(size)
    (tmp_path / "source").write_bytes(data)
    begun: list[tuple[int, int]] = []

    def begin(descriptor: int, offset: int, length: int) -> None:
        assert os.fstat(descriptor).st_size >= offset + length
        begun.append((offset, length))
        files.begin_sync(descriptor, offset, length)

    monkeypatch.setattr(hashing, "begin_sync", begin)
    monkeypatch.setattr(hashing, "PIECE", 1 << 18)
    monkeypatch.setattr(hashing, "WRITTEN", 100_000)
    monkeypatch.setattr(hashing, "AHEAD", 1 << 20)
    md5, sha256 = hashlib.md5(data).hexdigest(), hashlib.sha256(data).hexdigest()
    for copy in ("both names", "one name"):
        begun.clear()
        fd = os.open(tmp_path / copy, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if copy == "both names":
                digest = hashing.digest(tmp_path / "source", copy_to=fd)
                assert (digest.md5, digest.sha256, digest.size) == (md5, sha256, size)
            else:
                assert hashing.copy_md5(str(tmp_path / "source"), fd) == md5
        finally:
            os.close(fd)
        assert (tmp_path / copy).read_bytes() == data
        ends = [offset + length for offset, length in begun]
        assert [offset for offset, _ in begun] == [0, *ends[:-1]]
        assert size - (2 << 20) < ends[-1] <= size
