"""Artifact bytes in and out. Uploads stream to a file of a name we choose, then become an object; downloads stream a
verified object, always as an attachment."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from starlette.responses import FileResponse, Response

from holdfast.core.errors import BadInput, TooMuch
from holdfast.core.records import Json
from holdfast.protocols.mlflow.artifacts import check_path, find, location, pinned_uri
from holdfast.protocols.mlflow.context import Context
from holdfast.protocols.mlflow.wire import ProtocolError, missing
from holdfast.registry import versions

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
# Types a browser would run are sent as plain bytes; the name still tells the user what they are.
_ACTIVE = ("html", "svg", "xml", "javascript", "xhtml")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_PLAIN = frozenset(
    (".txt", ".log", ".cfg", ".conf", ".ini", ".toml", ".yaml", ".yml", ".json", ".py", ".csv", ".tsv", ".md")
)
_STALL_SECONDS = 60.0


async def chunks(receive: Receive) -> AsyncIterator[bytes]:
    """The pieces of a request's body.

    Raises:
        ProtocolError: the client stalled or went away.
    """
    while True:
        try:
            async with asyncio.timeout(_STALL_SECONDS):
                message = await receive()
        except TimeoutError:
            raise ProtocolError("BAD_REQUEST", "The request body stalled.", status=408) from None
        if message["type"] == "http.disconnect":
            raise ProtocolError("BAD_REQUEST", "The client went away.")
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


async def upload(
    ctx: Context, path: str, receive: Receive, *, scratch: Path, most: int, run: Callable[..., Awaitable[Any]]
) -> None:
    """Store a body under an artifact path; the path shows it whole or not at all.

    Raises:
        TooMuch: more than ``most`` bytes.
        ProtocolError: not a path, or one that is pinned by a registered version.
    """
    path = check_path(path)
    if path.split("/", 1)[0].startswith("@"):
        raise ProtocolError("PERMISSION_DENIED", "The files of a registered version cannot be written.", status=403)
    scratch.mkdir(parents=True, exist_ok=True)
    temporary = scratch / secrets.token_hex(16)
    size = 0
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as f:
            async for piece in chunks(receive):
                size += len(piece)
                if size > most:
                    raise TooMuch(f"an artifact may have at most {most} bytes")
                f.write(piece)
        sha256 = await run(ctx.objects.put_file, temporary)
    finally:
        temporary.unlink(missing_ok=True)
    at = ctx.now()
    await run(lambda: ctx.runs.put_artifact(path, sha256=sha256, size=size, at=at))


def download(ctx: Context, path: str, *, if_none_match: str = "") -> Response:
    """The file at an artifact path, with its hash as etag; ranges are answered.

    Raises:
        NotFound: no file is there.
        ProtocolError: not a path.
    """
    found = find(ctx, check_path(path))
    name = found.path.rsplit("/", 1)[-1]
    headers = {
        "etag": f'"{found.sha256}"',
        "accept-ranges": "bytes",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
        # Browsers take the second name; the first is for clients that read only the old form.
        "content-disposition": f"attachment; filename={_UNSAFE.sub('+', name)}; filename*=UTF-8''{quote(name)}",
        "cache-control": "private, no-cache",
    }
    if if_none_match and (if_none_match.strip() == "*" or f'"{found.sha256}"' in if_none_match):
        return Response(status_code=304, headers=headers)
    return FileResponse(ctx.objects.fetch(found.sha256), headers={**headers, "content-type": _kind(name)})


def _kind(name: str) -> str:
    """A file's media type by its name; nothing that a browser would run, and plain text for what people read."""
    suffix = PurePosixPath(name).suffix.lower()
    if name.lower() in ("mlmodel", "mlproject") or suffix in _PLAIN:
        return "text/plain"
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return "application/octet-stream" if any(word in kind for word in _ACTIVE) else kind


def run_artifact_path(ctx: Context, q: Json) -> str:
    """The artifact path of ``/get-artifact?run_id=&path=``."""
    path = _checked(q)
    run_id = q.get("run_id") or q.get("run_uuid")
    if not run_id:
        raise missing("run_id")
    return _inside(location(ctx.runs.get_run(run_id).artifact_uri), path)


def logged_model_artifact_path(ctx: Context, q: Json) -> str:
    """The artifact path of ``/logged-models/<id>/artifacts/files?artifact_file_path=``."""
    if not q.get("artifact_file_path"):
        raise missing("artifact_file_path")
    return _inside(location(ctx.runs.get_model(q["model_id"]).artifact_uri), check_path(q["artifact_file_path"]))


def version_artifact_path(ctx: Context, q: Json) -> str:
    """The artifact path of ``/model-versions/get-artifact?name=&version=&path=``."""
    path = _checked(q)
    for name in ("name", "version"):
        if not q.get(name):
            raise missing(name)
    if not q["version"].isdigit() or len(q["version"]) > 9:
        raise BadInput(f"Parameter 'version' must be an integer, got '{q['version'][:20]}'.")
    version = versions.get(ctx.ledger, q["name"], int(q["version"]))
    return _inside(location(pinned_uri(version.content)), path)


def _checked(q: Json) -> str:
    if not q.get("path"):
        raise missing("path")
    return check_path(q["path"])


def _inside(root: str | None, path: str) -> str:
    if root is None:
        raise BadInput("These artifacts are not kept by this server")
    return f"{root}/{path}"
