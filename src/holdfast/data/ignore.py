"""``.dvcignore`` and ``.gitignore``: which paths are not there. Plain patterns are matched here; the rest by ``pathspec``."""

from __future__ import annotations

import fnmatch
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from holdfast.core.errors import BadInput
from holdfast.data import text

Match = Callable[[str, bool], bool | None]
"""(path below the pattern file's folder, is it a folder) → ignored, kept by a negation, or not spoken of."""


def compile_patterns(lines: Sequence[str]) -> Match | None:
    """A matcher for the lines of one ignore file; None when no line says anything."""
    patterns = [line.rstrip("\n\r") for line in lines if line.strip() and not line.startswith("#")]
    if not patterns:
        return None
    if all(_is_plain(p) for p in patterns):
        return _plain(patterns)
    import pathspec

    # As git and DVC, the last line that matches decides. The library's own verdict is about files alone: of `*` and `!*/` it
    # would take the first for folders too.
    rules = [
        (made.regex.search, made.include, line.rstrip().endswith("/"))
        for line, made in zip(patterns, pathspec.GitIgnoreSpec.from_lines(patterns).patterns, strict=True)
        if made.regex is not None
    ]
    rules.reverse()

    def match(path: str, folder: bool) -> bool | None:
        for matches, include, only_folder in rules:
            if (folder or not only_folder) and (matches(path) or (folder and matches(path + "/"))):
                return bool(include)
        return None

    return match


def _is_plain(pattern: str) -> bool:
    body = pattern.removeprefix("/").removesuffix("/")
    return (
        not pattern.startswith("!")
        and "\\" not in pattern
        and "/" not in body
        and "**" not in body
        and "[" not in body
        and body == body.strip()
    )


def _plain(patterns: list[str]) -> Match:
    anchored, anywhere = set[tuple[str, bool]](), set[tuple[str, bool]]()
    globs: list[tuple[str, bool, bool]] = []
    for pattern in patterns:
        body, only_folder, rooted = pattern.strip("/"), pattern.endswith("/"), pattern.startswith("/")
        if "*" in body or "?" in body:
            globs.append((body, rooted, only_folder))
        else:
            (anchored if rooted else anywhere).add((body, only_folder))

    def match(path: str, folder: bool) -> bool | None:
        head, _, name = path.rpartition("/")
        if (name, False) in anywhere or (folder and (name, True) in anywhere):
            return True
        if not head and ((name, False) in anchored or (folder and (name, True) in anchored)):
            return True
        for body, rooted, only_folder in globs:
            if (folder or not only_folder) and (not rooted or not head) and fnmatch.fnmatchcase(name, body):
                return True
        return None

    return match


def read(file: Path) -> Match | None:
    """The matcher of an ignore file; None if there is none or it is empty."""
    try:
        return compile_patterns(text.read(file, errors="replace").split("\n"))
    except (FileNotFoundError, NotADirectoryError):
        return None


def below(root: Path, folder: Path) -> Callable[[str, bool], bool] | None:
    """What ``.dvcignore`` files at or above a data folder (up to ``root``) ignore, as paths below that folder.

    None when nothing is ignored, which is the fast way.
    """
    chain: list[tuple[str, Match]] = []
    inner = os.path.relpath(folder, root)
    parts = [] if inner == "." else inner.split(os.sep)
    for depth in range(len(parts) + 1):
        at = Path(root, *parts[:depth])
        if at == folder and at != root:
            break
        matcher = read(at / ".dvcignore")
        if matcher is not None:
            chain.append(("/".join(parts[depth:]), matcher))
    if not chain:
        return None

    def ignored(path: str, is_folder: bool) -> bool:
        for prefix, matcher in reversed(chain):
            verdict = matcher(f"{prefix}/{path}" if prefix else path, is_folder)
            if verdict is not None:
                return verdict
        return False

    return ignored


def refuse_inside(folder: Path) -> None:
    """DVC refuses an ignore file inside the folder being added; so do we.

    Raises:
        BadInput: there is one.
    """
    if (folder / ".dvcignore").exists():
        raise BadInput(f"{folder}/.dvcignore lies inside the data", hint="move it to a folder above the data")


def escape(name: str) -> str:
    """A file name as a .gitignore line that matches only it, escaped as DVC escapes."""
    return "".join("\\" + char if char in "\\[]!*#?" else char for char in name)


def hide(top: Path, place: Path) -> None:
    """Have git ignore a path of the work tree ``top``, by a line beside it where no line there is does so already."""
    if not by_git(top, place):
        add_line(place.parent, place.name)


def by_git(top: Path, place: Path) -> bool:
    """Whether the ``.gitignore`` files of the work tree ``top`` ignore a path. Those that are one person's own are not asked:
    what is tracked is to be ignored for everybody."""
    return _by(".gitignore", top, place)


def by_dvc(root: Path, place: Path) -> bool:
    """Whether the ``.dvcignore`` files of the repository at ``root`` ignore a path."""
    return _by(".dvcignore", root, place)


def _by(name: str, top: Path, place: Path) -> bool:
    parts = place.relative_to(top).parts
    chain: list[tuple[int, Match]] = []
    for depth in range(len(parts)):
        matcher = read(Path(top, *parts[:depth], name))
        if matcher is not None:
            chain.append((depth, matcher))
        is_folder = depth + 1 < len(parts) or (place.is_dir() and not place.is_symlink())
        for start, matcher in reversed(chain):
            verdict = matcher("/".join(parts[start : depth + 1]), is_folder)
            if verdict:
                return True
            if verdict is not None:
                break
    return False


def add_line(folder: Path, name: str) -> bool:
    """Have ``folder/.gitignore`` ignore ``/name``. True if it changed."""
    line = "/" + escape(name)
    file = folder / ".gitignore"
    try:
        old = text.read(file, errors="surrogateescape")
    except FileNotFoundError:
        old = ""
    if "\n" + line + "\n" in "\n" + old.replace("\r\n", "\n") + "\n":
        return False
    _replace(file, old + ("\n" if old and not old.endswith("\n") else "") + line + "\n")
    return True


def remove_line(folder: Path, name: str) -> bool:
    """Take ``/name`` out again; a file left empty is removed. True if it changed."""
    line, file = "/" + escape(name), folder / ".gitignore"
    try:
        # Only a line feed ends a line here: names may hold what else Python takes for an end.
        lines = io.StringIO(text.read(file, errors="surrogateescape"), newline="\n").readlines()
    except FileNotFoundError:
        return False
    kept = [one for one in lines if one.rstrip("\r\n") != line]
    if len(kept) == len(lines):
        return False
    if kept:
        _replace(file, "".join(kept))
    else:
        file.unlink()
    return True


def _replace(file: Path, new: str) -> None:
    temporary = file.with_name(f".gitignore.{os.getpid()}.tmp")
    temporary.write_text(new, encoding="utf-8", errors="surrogateescape")
    temporary.replace(file)
