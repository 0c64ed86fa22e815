"""Artifact paths: where a URI of ours points, what lies in a folder, which paths are refused.

A path is a key of an index, never a file name; the bytes are objects. ``@content/<sha256>/…`` shows the files of a
model version as they were at registration, and cannot be written.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from holdfast.core.errors import BadInput, NotFound
from holdfast.core.records import FileRef, Json
from holdfast.core.tracking import Artifact
from holdfast.protocols.mlflow.context import Context
from holdfast.protocols.mlflow.wire import ProtocolError
from holdfast.registry import foreign

SCHEME = "mlflow-artifacts"
PINNED = "@content"
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_MAX_PATH = 2000


def check_path(path: str, *, empty: bool = False) -> str:
    """A relative artifact path of plain parts, decoded exactly once before it came here.

    Raises:
        BadInput: it leaves its folder, hides another layer of encoding, or has parts no file may have.
    """
    path = path.rstrip("/") if empty else path
    if path == "" and empty:
        return ""
    parts = path.split("/")
    bad = any(p in ("", ".", "..") for p in parts)
    odd = "\\" in path or ";" in path or any(ord(c) < 32 or ord(c) == 127 for c in path)
    hidden = "%" in path and unquote(path) != path
    if bad or odd or hidden or len(path) > _MAX_PATH or re.match(r"[A-Za-z]:", path):
        raise ProtocolError("INVALID_PARAMETER_VALUE", "Invalid path")
    return path


def location(uri: str) -> str | None:
    """The path of an ``mlflow-artifacts:`` URI in our index; None for a URI of somewhere else."""
    parts = urlsplit(uri)
    if parts.scheme != SCHEME:
        return None
    return check_path(unquote(parts.path).strip("/"), empty=True)


def pinned_uri(content: str) -> str:
    """The URI under which a version's own bytes are read."""
    return f"{SCHEME}:/{PINNED}/{content}"


def find(ctx: Context, path: str) -> Artifact:
    """The file at a path.

    Raises:
        NotFound: no file is there.
    """
    if path.split("/", 1)[0] == PINNED:
        _, files, inside = _pinned(ctx, path)
        ref = files.get(inside)
        found = Artifact(path=path, sha256=ref.sha256, size=ref.size) if ref else None
    else:
        found = ctx.runs.get_artifact(path)
    if found is None:
        raise NotFound(f"No such artifact: '{path}'")
    return found


def files_under(ctx: Context, root: str) -> dict[str, FileRef]:
    """All files under a folder, by their path inside it."""
    if root.split("/", 1)[0] == PINNED:
        _, files, inside = _pinned(ctx, root)
        prefix = inside + "/" if inside else ""
        return {n[len(prefix) :]: r for n, r in files.items() if n.startswith(prefix)}
    return {
        a.path[len(root) + 1 :] if root else a.path: FileRef(sha256=a.sha256, size=a.size)
        for a in ctx.runs.list_artifacts(root)
    }


def directory(ctx: Context, root: str | None, path: str = "") -> list[Json]:
    """What lies directly in ``root/path``, as FileInfo with paths relative to ``root``.

    Raises:
        BadInput: the bytes are not in this store, or the path is not one.
    """
    if root is None:
        raise BadInput(
            "The artifacts of this run are not kept by this server", hint="its experiment names another place"
        )
    path = check_path(path, empty=True)
    folder = "/".join(p for p in (root, path) if p)
    folders: dict[str, None] = {}
    files: list[Json] = []
    for name, ref in files_under(ctx, folder).items():
        head, slash, _ = name.partition("/")
        shown = f"{path}/{head}" if path else head
        if slash:
            folders[shown] = None
        else:
            files.append({"path": shown, "is_dir": False, "file_size": ref.size})
    return sorted([*({"path": f, "is_dir": True} for f in folders), *files], key=lambda f: str(f["path"]))


def _pinned(ctx: Context, path: str) -> tuple[str, dict[str, FileRef], str]:
    parts = path.split("/", 2)
    if len(parts) < 2 or not _SHA256.match(parts[1]) or not ctx.objects.exists(parts[1]):
        raise NotFound(f"No such artifact: '{path}'")
    try:
        files = foreign.files_of(ctx.objects, parts[1])
    except BadInput:
        raise NotFound(f"No such artifact: '{path}'") from None
    return parts[1], files, parts[2] if len(parts) > 2 else ""
