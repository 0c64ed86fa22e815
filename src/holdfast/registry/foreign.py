"""Versions that an MLflow client made: the artifact tree as it was at registration, named by its content.

The tree's manifest (names and hashes of its files) is an object; its SHA-256 is the version's content. What is later
written under the same artifact path is another content and is never what an approval was given for.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from holdfast.core.errors import BadInput
from holdfast.core.identity import canonical
from holdfast.core.ports import Objects
from holdfast.core.records import FileRef, Record
from holdfast.registry.package import check_file_name


class Tree(Record, frozen=True, kw_only=True):
    """An artifact tree at one moment. ``source`` is kept only where the bytes are elsewhere: then it has no files."""

    kind: str
    files: dict[str, FileRef]
    source: str = ""


KIND = "artifact tree"


def pin(objects: Objects, files: Mapping[str, FileRef]) -> str:
    """Store the manifest of a tree whose bytes are in the store; its SHA-256."""
    for name in files:
        check_file_name(name)
    return objects.put(canonical(Tree(kind=KIND, files=dict(sorted(files.items())))))


def elsewhere(objects: Objects, source: str) -> str:
    """The content of a version whose bytes this store does not hold: named by where they are said to be. The gate
    cannot measure it, so it cannot be approved where a verdict is asked for."""
    return objects.put(canonical(Tree(kind=KIND, files={}, source=source)))


def load(objects: Objects, content: str) -> Tree:
    """The tree with this content.

    Raises:
        NotFound: no such object.
        BadInput: the object is no artifact tree.
    """
    data = objects.get(content)
    try:
        tree = msgspec.json.decode(data, type=Tree)
    except msgspec.DecodeError:
        tree = None
    if tree is None or tree.kind != KIND:
        raise BadInput(f"{content[:12]} is not an artifact tree")
    return tree


def files_of(objects: Objects, content: str) -> dict[str, FileRef]:
    """The files of a version, whoever made it: names inside it to hashes and sizes."""
    data = objects.get(content)
    try:
        return msgspec.json.decode(data, type=_Files).files
    except msgspec.DecodeError:
        raise BadInput(f"{content[:12]} is neither a package nor an artifact tree") from None


class _Files(msgspec.Struct, frozen=True):
    files: dict[str, FileRef]
