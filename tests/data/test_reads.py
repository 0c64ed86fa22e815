"""What was read is named: the tracked version, git's file, or a notice."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.data.conftest import commit, fill

from holdfast.data import pointers, reads, snapshot
from holdfast.data.repository import Repository


def test_each_kind_of_file_is_named_and_told(repo: Repository, tmp_path: Path) -> None:
    root = repo.root
    fill(root, {"d/a.csv": b"a", "d/b.csv": b"b", "one.csv": b"1", "small.csv": b"s", "loose.csv": b"l"})
    (tmp_path / "outside.csv").write_bytes(b"o")
    snapshot.add(root, Path("d"))
    snapshot.add(root, Path("one.csv"))
    (root / ".gitignore").write_text((root / ".gitignore").read_text() + "/loose.csv\n")
    commit(root, "all")
    (root / "d" / "b.csv").write_bytes(b"other")
    asked = ["d/a.csv", "d/b.csv", "one.csv", "small.csv", "loose.csv", "../outside.csv", "d", "d/a.csv", "no.csv"]
    found = {r.path: r for r in reads.bind(root, [Path(a) for a in asked])}
    assert {p: r.how for p, r in found.items()} == {
        "d/a.csv": "tracked",
        "d/b.csv": "changed",
        "one.csv": "tracked",
        "small.csv": "git",
        "loose.csv": "untracked",
        str(tmp_path / "outside.csv"): "untracked",
        "no.csv": "gone",
    }
    a = found["d/a.csv"]
    assert (a.dataset, a.pointer, a.version) == ("d", "d.dvc", pointers.read(root / "d.dvc", root).outs[0].md5)
    assert (a.md5, a.sha256, a.size) == (hashlib.md5(b"a").hexdigest(), hashlib.sha256(b"a").hexdigest(), 1)
    assert found["d/b.csv"].sha256 == hashlib.sha256(b"other").hexdigest()
    assert {p for p, r in found.items() if r.notice} == set(found) - {"d/a.csv", "one.csv", "small.csv"}
    assert "holdfast data add loose.csv" in str(found["loose.csv"].notice)


def test_untracked_input_is_tracked_when_asked(repo: Repository) -> None:
    fill(repo.root, {"in/x.csv": b"x"})
    (read,) = reads.bind(repo.root, [Path("in/x.csv")], track=True)
    assert (read.how, read.pointer) == ("tracked", "in/x.csv.dvc") and "commit in/x.csv.dvc" in str(read.notice)
    assert pointers.read(repo.root / "in/x.csv.dvc", repo.root).outs[0].md5 == read.version
    (again,) = reads.bind(repo.root, [Path("in/x.csv")], track=True)
    assert again == reads.Read(**{**{f: getattr(read, f) for f in read.__struct_fields__}, "notice": None})


def test_without_a_repository_a_file_is_still_hashed(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    (read,) = reads.bind(tmp_path, [Path("x")])
    assert (read.how, read.sha256) == ("untracked", hashlib.sha256(b"x").hexdigest())
