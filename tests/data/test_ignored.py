"""What ``.gitignore`` and ``.dvcignore`` say already, and what adding writes there. The expected bytes are DVC's."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.conftest import fill

from holdfast.data import ignore, remove, snapshot
from holdfast.data.repository import Repository


@pytest.mark.parametrize(
    ("name", "line"), [("a #b", "/a \\#b"), ("a!b", "/a\\!b"), ("#!", "/\\#\\!"), ("a\u2028b", "/a\u2028b")]
)
def test_a_line_is_escaped_as_dvc_does_and_comes_once(repo: Repository, name: str, line: str) -> None:
    fill(repo.root, {name: b"1"})
    for data in (b"1", b"2"):
        (repo.root / name).write_bytes(data)
        snapshot.add(repo.root, Path(name))
    assert (repo.root / ".gitignore").read_text() == line + "\n"
    fill(repo.root, {".gitignore": f"*.tmp\n{line}\nlast".encode()})
    remove.remove(repo, [repo.root / name])
    assert (repo.root / ".gitignore").read_bytes() == b"*.tmp\nlast"


@pytest.mark.parametrize(
    ("lines", "beside", "hidden"),
    [
        ("data/", None, True),
        ("*.bin", None, True),
        ("*.bin\r", None, True),
        ("/in/*\n!/in/*.dvc", None, True),
        ("*\n!*/\n!*.dvc\n!.gitignore", None, True),
        ("*.bin\n!in/x.bin", None, False),
        ("*.bin", "!x.bin", False),
        ("X.BIN", None, False),
    ],
)
def test_what_git_ignores_already_gets_no_line(repo: Repository, lines: str, beside: str | None, hidden: bool) -> None:
    fill(repo.root, {"data/a": b"1", "in/x.bin": b"2", ".gitignore": lines.encode() + b"\n"})
    if beside is not None:
        (repo.root / "in" / ".gitignore").write_text(beside + "\n")
    target = Path("data" if lines == "data/" else "in/x.bin")
    assert ignore.by_git(repo.root, repo.root / target) == hidden
    snapshot.add(repo.root, target)
    assert ignore.by_git(repo.root, repo.root / target)
    assert (repo.root / ".gitignore").read_bytes() == lines.encode() + b"\n"
    after = repo.root / "in" / ".gitignore"
    said = (beside + "\n" if beside else "") + ("" if hidden else "/x.bin\n")
    assert (after.read_text() if after.exists() else "") == said
