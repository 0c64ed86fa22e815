"""What ``.gitignore`` and ``.dvcignore`` say already, and what adding writes there. The expected bytes are DVC's."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.conftest import fill

from holdfast.core.errors import BadInput, NotFound
from holdfast.data import ignore, imports, members, pointers, remove, snapshot, status
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


def test_what_dvcignore_covers_is_not_added(repo: Repository) -> None:
    fill(repo.root, {".dvcignore": b"*.log\ndata/tmp/\n", "a.log": b"1", "data/b": b"2", "data/c.log": b"3"})
    fill(repo.root, {"data/tmp/d": b"4"})
    with pytest.raises(BadInput, match=r"ignored by \.dvcignore"):
        snapshot.add(repo.root, Path("a.log"))
    assert snapshot.add(repo.root, Path("data")).files == 1
    for inner in ("data/c.log", "data/tmp/d"):
        with pytest.raises(BadInput, match=r"ignored by \.dvcignore"):
            members.add(repo, repo.root / inner)
    assert not status.outs(repo)


def test_data_whose_pointer_git_would_ignore_is_not_added(repo: Repository) -> None:
    """No command would find that pointer again: ignored folders are not searched."""
    fill(repo.root, {".gitignore": b"data/\n", "data/a": b"1", "other/a": b"1"})
    with pytest.raises(BadInput, match="would reach nobody"):
        snapshot.add(repo.root, Path("data/a"))
    with pytest.raises(BadInput, match="would reach nobody"):
        imports.from_url(repo, str(repo.root / "other"), out=repo.root / "data" / "copy")
    assert {p.name for p in (repo.root / "data").iterdir()} == {"a"}


def test_nothing_is_added_behind_a_link_to_a_folder(repo: Repository) -> None:
    fill(repo.root, {"data/in/a": b"1", "free/a": b"2"})
    (repo.root / "link").symlink_to("free")
    (repo.root / "data" / "link").symlink_to("in")
    snapshot.add(repo.root, Path("data"))
    with pytest.raises(BadInput, match="behind a link"):
        snapshot.add(repo.root, Path("link/a"))
    with pytest.raises(BadInput, match="behind a link"):
        members.add(repo, repo.root / "data/link/a")
    assert sorted(p.name for p in (repo.root / "free").iterdir()) == ["a"]


@pytest.mark.parametrize("kind", ["copy", "hardlink", "symlink"])
def test_a_link_to_a_file_becomes_a_file_of_its_own(repo: Repository, tmp_path: Path, kind: str) -> None:
    (repo.root / ".dvc" / "config").write_text(f"[cache]\n    type = {kind}\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"x" * 5000)
    elsewhere.chmod(0o755)
    (repo.root / "link").symlink_to(elsewhere)
    snapshot.add(repo.root, Path("link"))
    place = repo.root / "link"
    assert place.read_bytes() == b"x" * 5000 and place.stat().st_mode & 0o100
    assert place.is_symlink() == (kind == "symlink") and place.resolve() != elsewhere
    assert not status.outs(repo) and elsewhere.stat().st_mode & 0o777 == 0o755


def test_a_broken_link_is_called_so(repo: Repository) -> None:
    (repo.root / "link").symlink_to("nowhere")
    with pytest.raises(NotFound, match="broken link"):
        snapshot.add(repo.root, Path("link"))


def test_all_but_folders_and_some_names(repo: Repository) -> None:
    """A usual way to write it. Folders are entered, so what is in them is found."""
    for name in (".gitignore", ".dvcignore"):
        (repo.root / name).write_text("*\n!*/\n!*.bin\n!*.dvc\n")
    fill(repo.root, {"in/data/deep/a.bin": b"1", "in/data/deep/a.txt": b"2"})
    snapshot.add(repo.root, Path("in/data"))
    assert [out.path for out in pointers.read_all(repo)[0].outs] == ["data"]
    assert snapshot.take(repo.root / "in" / "data", repo=repo).index.paths == ["deep/a.bin"]
