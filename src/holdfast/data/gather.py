"""Many files into one folder that can be versioned: what a pattern matches, what lies below a prefix of object storage.

Only what changed is copied or downloaded. The folder belongs to the source: what is not at the source any more is removed.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import BadData, NotFound, Unavailable
from holdfast.core.files import replacing
from holdfast.data import hashing, names

if TYPE_CHECKING:
    from holdfast.core.definitions import Source


def from_pattern(folder: Path, pattern: Path, found: Iterable[Path]) -> Path:
    """Copies of the matched files under their paths below the pattern's fixed part. A file whose size and modification
    time are those of its copy is taken as the same.

    Raises:
        Conflict: a file changed while it was copied.
    """
    fixed = pattern.parent
    while any(char in str(fixed) for char in "*?["):
        fixed = fixed.parent
    wanted: set[str] = set()
    for file in found:
        name = str(file.relative_to(fixed))
        wanted.add(name)
        target, status = folder / name, file.stat()
        if target.exists() and (target.stat().st_size, target.stat().st_mtime_ns) == (
            status.st_size,
            status.st_mtime_ns,
        ):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as f:
            digest = hashing.digest(file, copy_to=f.fileno())
            os.utime(f.fileno(), ns=(digest.stat[1], digest.stat[1]))
    _keep_only(folder, wanted)
    return folder


def from_store(
    folder: Path, source: Source, query: str, connect: Callable[[], Any], kept: Path, brief: Callable[[Exception], str]
) -> Path:
    """The tables below a prefix (``query`` ends in ``/``), or those whose keys match a pattern. ``kept`` remembers which
    version of an object each file is.

    Raises:
        NotFound: nothing matches.
        Unavailable: the store cannot be listed or read.
        BadData: a key cannot be a path here.
    """
    import obstore
    from obstore import exceptions

    prefix = (
        query
        if query.endswith("/")
        else PurePosixPath(query.split("*")[0].split("?")[0].split("[")[0] + "x").parent.as_posix()
    )
    prefix = "" if prefix == "." else prefix.rstrip("/")
    try:
        store = connect()
        listed = [entry for batch in obstore.list(store, prefix=prefix or None) for entry in batch]
        chosen = {
            str(e["path"]): e
            for e in listed
            if names.is_table(Path(str(e["path"])))
            and (query.endswith("/") or fnmatch.fnmatchcase(str(e["path"]), query))
        }
        if not chosen:
            raise NotFound(
                f"source {source.name!r}: no parquet or CSV object matches {query!r} ({len(listed)} objects are below it)",
                hint="check url and query; query is a prefix that ends in /, or a pattern of keys",
            )
        before = _read(kept)
        now: dict[str, list[Any]] = {}
        for key, entry in sorted(chosen.items()):
            name = key[len(prefix) + 1 :] if prefix else key
            if ".." in name.split("/") or name.startswith("/") or "\0" in name:
                raise BadData(
                    f"source {source.name!r}: the key {key!r} cannot be a path here", hint="rename the object"
                )
            target = folder / name
            mark = [entry.get("e_tag") or str(entry["last_modified"]), int(entry["size"])]
            if before.get(name) != mark or not target.exists() or target.stat().st_size != mark[1]:
                target.parent.mkdir(parents=True, exist_ok=True)
                with replacing(target) as f:
                    for piece in obstore.get(store, key).stream(min_chunk_size=1 << 20):
                        f.write(bytes(piece))
            now[name] = mark
    except (exceptions.BaseError, FileNotFoundError, ValueError) as error:
        raise Unavailable(
            f"source {source.name!r}: {brief(error)}",
            hint="check the url, the credentials, and that the store can list",
        ) from None
    _keep_only(folder, set(now))
    kept.parent.mkdir(parents=True, exist_ok=True)
    with replacing(kept) as f:
        f.write(json.dumps(now).encode())
    return folder


def _read(kept: Path) -> dict[str, list[Any]]:
    try:
        value = json.loads(kept.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _keep_only(folder: Path, wanted: set[str]) -> None:
    for file in names.tables_in(folder):
        if str(file.relative_to(folder)) not in wanted:
            file.unlink()
