"""Data of DVC 2.x brought to 3.x: objects under their true MD5, pointers and lock files that name them so.

A 2.x object's name is the MD5 of its text with CRLF read as LF, so each is read and hashed once. It keeps its old place too
(a hard link): commits that were made before still find it there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from holdfast.core.errors import BadInput
from holdfast.core.ports import Progress
from holdfast.data import cache as caches
from holdfast.data import hashing, legacy, manifest, pointers, snapshot, stages
from holdfast.data.cache import Cache
from holdfast.data.pointers import Out, Pointer
from holdfast.data.repository import Repository


@dataclass
class Migrated:
    """What was done, or would be: objects given their 3.x name, files rewritten, and outs that could not be, with why."""

    objects: int = 0
    files: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def migrate(
    repo: Repository, *, dvc_files: bool = False, dry: bool = False, progress: Progress | None = None
) -> Migrated:
    """Give every 2.x object of the cache its 3.x name; with ``dvc_files`` rewrite pointers and lock files to match.

    Raises:
        BadInput: a pointer cannot be read; then nothing is rewritten.
    """
    cache = caches.of(repo)
    done = Migrated()
    with repo.lock():
        found = [p for p in pointers.read_all(repo) if any(out.legacy for out in p.outs)]
        locks = [f for f in pointers.find_named(repo, "dvc.lock") if _old_entries(stages.read_lock(f))]
        names = [name for name in cache.all_legacy() if not name.endswith(".dir")]
        if dry:
            done.objects = len(names)
            done.files = [os.path.relpath(f, repo.root) for f in [*(p.file for p in found), *locks] if dvc_files]
            return done
        renamed: dict[str, str] = {}
        for at, (old, new) in enumerate(
            zip(names, hashing.in_parallel(lambda name: _link(cache, name), names), strict=True), 1
        ):
            renamed[old] = new
            done.objects += 1
            if progress is not None:
                progress(at, len(names), old[:8])
        if dvc_files:
            for pointer in found:
                _rewrite(repo, cache, pointer, renamed, done)
            for file in locks:
                _rewrite_lock(repo, cache, file, renamed, done)
    return done


def _link(cache: Cache, old: str) -> str:
    """A 2.x object under its 3.x name as well; that name."""
    source = cache.path(old, legacy=True)
    md5 = hashing.copy_md5(source, None)
    if not cache.has(md5):
        temporary = cache.temporary()
        try:
            os.link(source, temporary)
        except OSError:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                hashing.copy_md5(source, fd)
            finally:
                os.close(fd)
        cache.place(temporary, md5)
    return md5


def _content(cache: Cache, md5: str, renamed: Mapping[str, str], isexec: bool) -> dict[str, Any] | str:
    """What an out says of its content in 3.x, or why that is not known."""
    if not md5.endswith(".dir"):
        new = renamed.get(md5)
        if new is None:
            return "its object is not in the cache"
        return pointers.fields(md5=new, size=os.stat(cache.path(new)).st_size, isexec=isexec)
    if not cache.has(md5, legacy=True):
        return "its manifest is not in the cache"
    members = cache.members(md5, legacy=True)
    absent = [path for path, old in members.items() if old not in renamed]
    if absent:
        return f"{absent[0]} is not in the cache"
    new_members = {path: renamed[old] for path, old in members.items()}
    data = manifest.render(new_members.items())
    cache.put(data, manifest.name(data))
    size = sum(os.stat(cache.path(new)).st_size for new in new_members.values())
    return pointers.fields(md5=manifest.name(data), size=size, nfiles=len(members))


def _rewrite(repo: Repository, cache: Cache, pointer: Pointer, renamed: Mapping[str, str], done: Migrated) -> None:
    name = os.path.relpath(pointer.file, repo.root)
    changes: dict[str, dict[str, Any]] = {}
    for out in pointer.outs:
        if not out.legacy or out.md5 is None:
            continue
        content = _content(cache, out.md5, renamed, out.isexec)
        if isinstance(content, str):
            done.skipped[f"{name}: {out.path}"] = content
        else:
            changes[out.path] = content
    if changes:
        text = pointer.file.read_text(encoding="utf-8")
        pointers.write(pointer.file, pointers.render_changed(text, pointer.file, changes))
        done.files.append(name)


def _old_entries(lock: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        raw
        for entry in lock.values()
        if isinstance(entry, dict)
        for key in ("deps", "outs")
        for raw in entry.get(key) or []
        if isinstance(raw, dict) and raw.get("md5") and raw.get("hash") is None
    ]


def _rewrite_lock(repo: Repository, cache: Cache, file: Any, renamed: Mapping[str, str], done: Migrated) -> None:
    name = os.path.relpath(file, repo.root)
    lock = stages.read_lock(file)
    folders = {stage.name: stage.folder for stage in stages.load(file.with_name("dvc.yaml"), repo.root)}
    for stage, entry in lock.items():
        changed = False
        for key in ("deps", "outs"):
            for at, raw in enumerate(entry.get(key) or []):
                if not raw.get("md5") or raw.get("hash") is not None:
                    continue
                content = _content(cache, raw["md5"], renamed, bool(raw.get("isexec")))
                if isinstance(content, str) and stage in folders:
                    content = _from_workspace(repo, raw, folders[stage]) or content
                if isinstance(content, str):
                    done.skipped[f"{name}: {stage}: {raw['path']}"] = content
                    continue
                rest = {k: v for k, v in content.items() if k not in ("hash", "isexec")}
                entry[key][at] = {"path": raw["path"], "hash": "md5", **rest}
                if content.get("isexec"):
                    entry[key][at]["isexec"] = True
                changed = True
        if changed:
            stages.write_lock(file, stage, entry)
            if name not in done.files:
                done.files.append(name)


def _from_workspace(repo: Repository, raw: Mapping[str, Any], folder: Any) -> dict[str, Any] | None:
    """A dependency that git keeps is in no cache: it is hashed anew where it is still what the lock says."""
    with suppress(BadInput, OSError):
        place = pointers.inside(folder, raw["path"], repo.root, folder)
        if legacy.compare(repo, Out(place, raw["path"], raw["md5"], legacy=True))[0]:
            taken = snapshot.take(place, repo=repo, md5_only=True)
            return pointers.fields(
                md5=taken.md5,
                size=taken.size,
                nfiles=taken.files if taken.is_folder else None,
                isexec=taken.isexec,
            )
    return None
