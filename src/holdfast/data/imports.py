"""Data that lives elsewhere, tracked here with its origin: a path of another repository, a URL, a path of this machine.

Pointers are DVC's (``dvc import``, ``dvc import-url``, ``dvc update``). The order is: bytes into the cache, pointer, workspace;
after a kill the import is either not there or finished by ``checkout``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from holdfast.core.errors import BadInput, Conflict, NotFound
from holdfast.core.ports import Progress
from holdfast.data import cache as caches
from holdfast.data import checkout, hashing, ignore, manifest, origins, pointers, remotes, snapshot, status, tree
from holdfast.data.pointers import Out, Pointer
from holdfast.data.repository import Repository


@dataclass(frozen=True)
class Imported:
    """One import: its pointer and path below the repository, the version, and whether anything changed."""

    pointer: str
    path: str
    md5: str | None
    size: int | None
    files: int | None
    origin: str
    changed: bool


@dataclass(frozen=True)
class _Brought:
    """What is in the cache now, and what the pointer says of where it came from."""

    dep: dict[str, Any]
    out: dict[str, Any]


def from_repository(
    repo: Repository,
    url: str,
    path: str,
    *,
    out: Path | None = None,
    rev: str | None = None,
    remote: str | None = None,
    force: bool = False,
    download: bool = True,
    progress: Progress | None = None,
) -> Imported:
    """Import a path of another repository. ``remote`` names the other's remote, where not its default. Without
    ``download`` only the pointer is made, and ``pull`` brings the data.

    Raises:
        NotFound: no such repository, revision or path, or its bytes cannot be had.
        Conflict: something is in the way and ``force`` was not given.
        Unavailable: the other repository or its remote cannot be reached.
    """
    place = _place(repo, out, os.path.basename(path.rstrip("/")) or os.path.basename(url.rstrip("/")), force)
    if "://" not in url and os.path.isdir(os.path.expanduser(url)) and not os.path.isabs(os.path.expanduser(url)):
        url = os.path.relpath(os.path.abspath(url), repo.root)
    dep = {"path": path.rstrip("/"), "repo": {"url": url, **({"rev": rev} if rev else {})}}
    if remote:
        dep["repo"]["remote"] = remote  # type: ignore[index]
    with repo.lock():
        brought = _from_repository(repo, dep, None, place, download)
        return _settle(repo, place, None, brought, force, progress)


def from_url(
    repo: Repository,
    url: str,
    *,
    out: Path | None = None,
    force: bool = False,
    download: bool = True,
    progress: Progress | None = None,
) -> Imported:
    """Import a file of the web or of object storage, or a file or folder of this machine.

    Raises:
        NotFound: nothing is there.
        BadInput: a kind of URL that cannot be imported, or one whose changes could not be seen.
        Conflict: something is in the way and ``force`` was not given.
        Unavailable: it cannot be reached.
    """
    if "://" in url:
        name = unquote(os.path.basename(urlsplit(url).path.rstrip("/")))
        if urlsplit(url).username or urlsplit(url).password:
            raise BadInput(
                f"{remotes.without_secrets(url)}: the URL holds a user or a password, and the pointer would publish it",
                hint="define a remote with it in .dvc/config.local and import remote://NAME/path",
            )
    else:
        name = os.path.basename(os.path.abspath(os.path.expanduser(url)))
    place = _place(repo, out, name, force)
    if "://" not in url:
        source = Path(os.path.abspath(os.path.expanduser(url)))
        if source == place or place.is_relative_to(source):
            raise BadInput(f"{url} cannot be imported into itself", hint="name another place with --out")
        if not os.path.isabs(os.path.expanduser(url)) or source.is_relative_to(repo.root):
            url = os.path.relpath(source, place.parent)
        else:
            url = str(source)
    with repo.lock():
        brought = _from_url(repo, {"path": url}, place, download)
        return _settle(repo, place, None, brought, force, progress)


def update(
    repo: Repository,
    targets: Sequence[Path] = (),
    *,
    rev: str | None = None,
    force: bool = False,
    dry: bool = False,
    progress: Progress | None = None,
) -> list[Imported]:
    """Bring imports to what their origin holds now (all of them, or the targets). With ``dry`` only look.

    Raises:
        NotFound: a target is no import.
        Conflict: a changed file would be lost and ``force`` was not given.
    """
    chosen = status.choose(repo, targets)
    for pointer in chosen if targets else ():
        if pointer.origin is None:
            raise NotFound(
                f"{os.path.relpath(pointer.file, repo.root)} is no import", hint="its data is changed with `data add`"
            )
    found = []
    with repo.lock():
        for pointer in chosen:
            dep = pointer.origin
            if dep is None:
                continue
            if rev is not None and "repo" not in dep:
                if targets:
                    raise BadInput(f"{pointer.file.name}: a URL has no revisions", hint="leave --rev away")
                continue
            found.append(_update(repo, pointer, dict(dep), rev, force, dry, progress))
    return found


def complete(repo: Repository, pointer: Pointer, *, progress: Progress | None = None) -> Imported:
    """Bring the data of an import that was made without, at the revision its pointer names. The caller holds the lock."""
    assert pointer.origin is not None
    place = pointer.outs[0].place
    dep = dict(pointer.origin)
    if "repo" in dep:
        brought = _from_repository(repo, dep, dep["repo"].get("rev_lock"), place, True)
    else:
        brought = _from_url(repo, dep, place, True)
    return _settle(repo, place, pointer, brought, False, progress)


def bring(repo: Repository, out: Out, *, only: Sequence[str] | None = None) -> None:
    """Have the objects of an import from another repository in the cache, from where it keeps them. ``only`` names members.

    Raises:
        NotFound: it does not have them any more.
        Damaged: what it has now under that revision is something else.
    """
    assert out.other is not None and out.md5 is not None
    cache = caches.of(repo)
    dep = out.other
    source = origins.other(repo, dep["repo"]["url"], remote=_remote(dep))
    sha = str(dep["repo"].get("rev_lock") or source.resolve(dep["repo"].get("rev")))
    found = source.find(dep["path"], sha)
    if only is not None and found.is_folder:
        held = {k: p for k, p in found.pieces.items() if any(k == name or k.startswith(name + "/") for name in only)}
        # The manifest needs every name; objects are brought for the wanted members only.
        names = {k: p.object.md5 for k, p in found.pieces.items() if p.object is not None and not p.object.legacy}
        if len(names) == len(found.pieces):
            source.bring(cache, dep["path"], sha, origins.Tree(True, held))
            data = manifest.render(names.items())
            if manifest.name(data) == out.md5:
                cache.put(data, out.md5)
                return
    brought = source.bring(cache, dep["path"], sha, found)
    if found.is_folder:
        data = manifest.render(brought.items())
        name = manifest.name(data)
        cache.put(data, name)
    else:
        name = brought[""]
    if name != out.md5 and not out.legacy:
        raise NotFound(
            f"{out.path}: {dep['repo']['url']} at {sha[:10]} does not hold version {out.md5[:8]}",
            hint="take what is there now with `holdfast data update`",
        )


def _remote(dep: Mapping[str, Any]) -> str | None:
    value = dep["repo"].get("remote")
    return value if isinstance(value, str) else None


def _place(repo: Repository, out: Path | None, name: str, force: bool) -> Path:
    """Where an import goes.

    Raises:
        BadInput: outside the repository, behind a link in it, or ignored.
        Conflict: something is there, or it would overlap what is tracked.
    """
    place = Path(os.path.abspath(out if out is not None else name))
    if place.is_dir() and out is not None and not force:
        place = place / name
    pointers.inside(place.parent, place.name, repo.root, place)
    pointers.refuse_behind_link(repo.root, place)
    file = place.with_name(place.name + ".dvc")
    if not place.parent.is_dir():
        raise NotFound(f"folder {place.parent} does not exist", hint="make it first")
    if not force and os.path.lexists(file):
        raise Conflict(f"{file.name} is there already", hint="bring it up with `holdfast data update`, or use --force")
    if not force and os.path.lexists(place):
        raise Conflict(f"{os.path.relpath(place, repo.root)} is in the way", hint="move it away, or use --force")
    for tracked in status.tracked(repo):
        if tracked.place != place and (tracked.place.is_relative_to(place) or place.is_relative_to(tracked.place)):
            raise Conflict(
                f"{os.path.relpath(place, repo.root)} overlaps {os.path.relpath(tracked.place, repo.root)}, which is tracked",
                hint="choose another place with --out",
            )
    snapshot.refuse_ignored(repo, place)
    return place


def _from_repository(
    repo: Repository, dep: dict[str, Any], locked: str | None, place: Path, download: bool
) -> _Brought:
    source = origins.other(repo, dep["repo"]["url"], remote=_remote(dep))
    sha = locked or source.resolve(dep["repo"].get("rev"))
    inner = dict(dep["repo"])
    remote = inner.pop("remote", None)
    dep = {"path": dep["path"], "repo": {**inner, "rev_lock": sha, **({"remote": remote} if remote else {})}}
    if not download:
        source.find(dep["path"], sha)
        return _Brought(dep, {"hash": "md5", "path": place.name})
    cache = caches.of(repo)
    found = source.find(dep["path"], sha)
    members = source.bring(cache, dep["path"], sha, found)
    return _Brought(dep, _content(repo, members, found.is_folder, place))


def _content(repo: Repository, members: Mapping[str, str], is_folder: bool, place: Path) -> dict[str, Any]:
    cache = caches.of(repo)
    size = sum(os.stat(cache.path(md5)).st_size for md5 in members.values())
    if not is_folder:
        return {**pointers.fields(md5=members[""], size=size), "path": place.name}
    data = manifest.render(members.items())
    md5 = manifest.name(data)
    manifest.parse(data, md5)  # names that lead out are refused before anything is placed
    cache.put(data, md5)
    return {**pointers.fields(md5=md5, size=size, nfiles=len(members)), "path": place.name}


def _from_url(repo: Repository, dep: dict[str, Any], place: Path, download: bool) -> _Brought:
    url = str(dep["path"])
    cache = caches.of(repo)
    if "://" not in url:
        content = _local(repo, Path(os.path.normpath(place.parent / url)), place)
        said = {**{k: v for k, v in content.items() if k != "path"}, "path": url}
        content.pop("isexec", None)  # as DVC: told of the origin, not taken over
        return _Brought(said, content if download else {"hash": "md5", "path": place.name})
    mark, md5 = origins.fetch_url(repo, url, cache if download else None)
    said = {mark.key: mark.value, "size": mark.size, "hash": "md5", "path": url}
    said = {k: v for k, v in said.items() if v is not None}
    if md5 is None:
        return _Brought(said, {"hash": "md5", "path": place.name})
    return _Brought(said, _content(repo, {"": md5}, False, place))


def _local(repo: Repository, source: Path, place: Path) -> dict[str, Any]:
    """Take a path of this machine into the cache, leaving it as it is."""
    cache = caches.of(repo)
    links = repo.links if repo.links[0] in ("reflink", "copy") else ("copy",)
    if not source.exists():
        raise NotFound(f"{source} does not exist", hint="check the path")
    if not source.is_dir():
        digest = cache.take_in(str(source), links)
        isexec = bool(digest.mode & 0o100)
        return {**pointers.fields(md5=digest.md5, size=digest.size, isexec=isexec), "path": place.name}
    found = tree.listing(source, ignore=ignore.below(repo.root, source) if source.is_relative_to(repo.root) else None)
    with cache.settling():
        digests = list(hashing.in_parallel(lambda path: cache.take_in(f"{source}/{path}", links), found.paths))
    return _content(repo, {p: d.md5 for p, d in zip(found.paths, digests, strict=True)}, True, place)


def _update(
    repo: Repository, pointer: Pointer, dep: dict[str, Any], rev: str | None, force: bool, dry: bool, progress: Progress | None
) -> Imported:  # fmt: skip
    out = pointer.outs[0]
    if "repo" in dep:
        source = origins.other(repo, dep["repo"]["url"], remote=_remote(dep))
        if rev:
            dep = {**dep, "repo": {**dep["repo"], "rev": rev}}
        sha = source.resolve(dep["repo"].get("rev"))
        same = sha == dep["repo"].get("rev_lock") and not rev
        if same or dry:
            return _said(repo, pointer.file, out, dep, not same)
        brought = _from_repository(repo, dep, sha, out.place, True)
    elif "://" in dep["path"]:
        mark, _ = origins.fetch_url(repo, dep["path"], None)
        same = dep.get(mark.key) == mark.value
        if same or dry:
            return _said(repo, pointer.file, out, dep, not same)
        brought = _from_url(repo, dep, out.place, True)
    else:
        brought = _from_url(repo, dep, out.place, True)
        same = brought.dep["md5"] == dep.get("md5")
        if same or dry:
            return _said(repo, pointer.file, out, dep, not same)
    return _settle(repo, out.place, pointer, brought, force, progress)


def _settle(
    repo: Repository, place: Path, pointer: Pointer | None, brought: _Brought, force: bool, progress: Progress | None
) -> Imported:
    """Pointer and workspace, once the bytes are in the cache."""
    file = pointer.file if pointer is not None else place.with_name(place.name + ".dvc")
    content = {**brought.out, "path": pointer.outs[0].path if pointer is not None else place.name}
    dep = brought.dep
    text = file.read_text(encoding="utf-8") if pointer is not None else None
    now = pointers.out_from(content, place.parent, file, repo.root)
    now = now._replace(place=place, other=dep if "repo" in dep else None)
    if now.md5 is not None:
        checkout.check_outs(repo, [now], force=force)
    if repo.scm is not None:
        ignore.hide(repo.scm, place)
    pointers.write(file, pointers.render_import(text, dep, content))
    if now.md5 is not None:
        checkout.place_outs(repo, [now], force=force, progress=progress)
    return _said(repo, file, now, dep, True)


def _said(repo: Repository, file: Path, out: Out, dep: Mapping[str, Any], changed: bool) -> Imported:
    origin = f"{dep['path']} of {dep['repo']['url']}" if "repo" in dep else str(dep["path"])
    return Imported(
        os.path.relpath(file, repo.root), os.path.relpath(out.place, repo.root), out.md5, out.size, out.nfiles,
        remotes.without_secrets(origin), changed,
    )  # fmt: skip
