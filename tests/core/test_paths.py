"""The one path resolver: nothing a client sends leads outside."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.errors import BadInput, NotFound, UsersTurn
from holdfast.core.paths import inside, open_inside, parts

HOSTILE = [
    "..", "../x", "a/../../x", "a/..", "/etc/passwd", "//etc/passwd", "C:/x", "C:x", "a\\b", "..\\x", "a;b", "a\0b",
    "a\nb", "%2e%2e/x", "%2e%2e%2fx", "a%2fb", "%252e%252e/x", "a%00b", "a%5cb", "a/" * 65 + "x", "x" * 2000, "\ud800", "\x7f",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_paths_are_refused(path):
    with pytest.raises(BadInput):
        parts(path)


@pytest.mark.parametrize(
    "path", ["%2e%2e/x", "..%2fx", "%252e%252e/x", "%2fetc/passwd", "a%00b", "a%5cb", "%ff", "a%3bb"]
)
def test_hostile_encoded_paths_are_refused(path):
    with pytest.raises(BadInput):
        parts(path, encoded=True)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("", ()),
        (".", ()),
        ("a/b.c", ("a", "b.c")),
        ("a//b/./c/", ("a", "b", "c")),
        ("...", ("...",)),
        ("é x", ("é x",)),
    ],
)
def test_plain_paths(path, names):
    assert parts(path) == names


def test_encoded_once():
    assert parts("a%20b/%C3%A9", encoded=True) == ("a b", "é")


def test_open_inside(tmp_path):
    descriptor = open_inside(tmp_path, "a/b/file", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"hello")
    os.close(descriptor)
    with os.fdopen(open_inside(tmp_path, "a/b/file"), "rb") as f:
        assert f.read() == b"hello"
    os.close(open_inside(tmp_path, "a/b", os.O_RDONLY | os.O_DIRECTORY))
    os.close(open_inside(tmp_path, "", os.O_RDONLY | os.O_DIRECTORY))
    with pytest.raises(NotFound):
        open_inside(tmp_path, "a/absent")
    for path in ("a/b", "", "a/b/file/x"):
        with pytest.raises(BadInput):
            open_inside(tmp_path, path)


def test_links_and_special_files_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")
    for path in ("link", "folder/secret", "loop", "pipe"):
        with pytest.raises(BadInput):
            open_inside(root, path)
    with pytest.raises(BadInput):
        open_inside(root, "folder/new", os.O_WRONLY | os.O_CREAT)
    assert os.listdir(outside) == ["secret"]


ALPHABET = st.sampled_from(["a", ".", "..", "/", "%2e", "%2f", "%25", "\\", "\0", ";", "é", ":", "~", " "])


@settings(derandomize=True, max_examples=1000)
@given(st.lists(ALPHABET, max_size=12).map("".join), st.booleans())
def test_nothing_leads_outside(path, encoded):
    from pathlib import Path

    root = Path("/root/of/all")
    try:
        found = inside(root, path, encoded=encoded)
    except UsersTurn:
        return
    assert os.path.normpath(found) == str(found)
    assert found == root or root in found.parents
