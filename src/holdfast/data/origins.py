"""Where imported data comes from: a path of another git repository (DVC's data in it, or git's), or a URL.

Nothing of the other repository is run or checked out: its commits are read, and its cache or remote is asked for objects.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from holdfast.core.errors import BadInput, NotFound, Unavailable
from holdfast.data import cache as caches
from holdfast.data import hashing, history, remotes, repository, transfer
from holdfast.data.cache import Cache
from holdfast.data.remotes import Name
from holdfast.data.repository import Repository

_ALLOWED = "file:git:http:https:ssh"
_WORD = re.compile(r"[A-Za-z0-9_./@^~{}+-]+\Z")


@dataclass(frozen=True)
class Piece:
    """One file of another repository: an object of DVC's, or a blob of git's."""

    object: Name | None = None
    blob: str | None = None


@dataclass(frozen=True)
class Tree:
    """What a path of another repository holds. A single file has the one key ``""``."""

    is_folder: bool
    pieces: Mapping[str, Piece]


@dataclass(frozen=True)
class Other:
    """Another repository, open for reading. ``folder`` is the path of its ``.dvc`` inside the git work tree."""

    url: str
    git: Repository
    here: bool
    remote: str | None = None

    def resolve(self, rev: str | None) -> str:
        """The commit a revision names; without one the default branch (of a folder here: HEAD).

        Raises:
            NotFound: it has no such revision.
        """
        if rev is not None and (not _WORD.match(rev) or rev.startswith("-")):
            raise BadInput(f"{rev!r} is not a revision", hint="name a branch, a tag or a commit")
        names = (rev or "HEAD",) if self.here else (
            (f"refs/remotes/origin/{rev}", f"refs/tags/{rev}", rev) if rev else ("refs/remotes/origin/HEAD", "HEAD")
        )  # fmt: skip
        for name in names:
            try:
                return history.git(self.git, "rev-parse", "--verify", "-q", f"{name}^{{commit}}").decode().strip()
            except NotFound:
                continue
        raise NotFound(f"{self.url} has no revision {rev or 'HEAD'!r}", hint="is it pushed there?")

    def dvc(self, sha: str, path: str) -> Repository | None:
        """The DVC repository that speaks for a path, with the configuration it has; None where only git does."""
        assert self.git.scm is not None
        parts = path.split("/")
        for depth in range(len(parts), -1, -1):
            inner = "/".join(parts[:depth])
            root = self.git.scm / inner if inner else self.git.scm
            if self.here and (root / ".dvc").is_dir():
                return repository.open_at(root)._replace(scm=self.git.scm)
            if not self.here:
                at = f"{inner}/.dvc/config" if inner else ".dvc/config"
                try:
                    text = history.git(self.git, "show", f"{sha}:{at}")
                except NotFound:
                    continue
                (root / ".dvc").mkdir(parents=True, exist_ok=True)
                (root / ".dvc" / "config").write_bytes(text)
                return repository.open_at(root)._replace(scm=self.git.scm)
        return None

    def find(self, path: str, sha: str) -> Tree:
        """What a path of a commit holds, DVC's data and git's files alike.

        Raises:
            NotFound: nothing.
            Unavailable: a manifest that says what a folder holds cannot be had.
        """
        path = _inner(path)
        assert self.git.scm is not None
        pieces: dict[str, Piece] = {}
        is_folder = False
        dvc = self.dvc(sha, path)
        place = self.git.scm / path if path else self.git.scm
        tree = history.pointers_at(self.git, sha)
        data = history.blobs(self.git, tree.values())
        for file, blob in tree.items() if dvc is not None else ():
            for out in history.outs_of(self.git._replace(root=self.git.scm), file, data.get(blob, b"")):
                if out.md5 is None or not out.cache:
                    continue
                if out.place == place and not out.is_folder:
                    return Tree(False, {"": Piece(Name(out.md5, out.legacy))})
                if not (out.place.is_relative_to(place) or place.is_relative_to(out.place)):
                    continue
                prefix = os.path.relpath(out.place, place) + "/" if out.place != place else ""
                if not out.is_folder:
                    if out.place.is_relative_to(place):
                        pieces[prefix.rstrip("/")] = Piece(Name(out.md5, out.legacy))
                        is_folder = True
                    continue
                assert dvc is not None
                for member, md5 in self._members(dvc, Name(out.md5, out.legacy)).items():
                    if out.place.is_relative_to(place):
                        pieces[prefix + member] = Piece(Name(md5, out.legacy))
                    else:
                        wanted = os.path.relpath(place, out.place)
                        if member == wanted:
                            return Tree(False, {"": Piece(Name(md5, out.legacy))})
                        if member.startswith(wanted + "/"):
                            pieces[member[len(wanted) + 1 :]] = Piece(Name(md5, out.legacy))
                is_folder = is_folder or out.place.is_relative_to(place) or bool(pieces)
        listed = history.git(self.git, "ls-tree", "-r", "-z", "--full-tree", sha, "--", path or ".")
        for entry in listed.decode("utf-8", "surrogateescape").split("\0"):
            if not entry:
                continue
            meta, _, name = entry.partition("\t")
            mode, kind, blob = meta.split(" ")
            if kind != "blob" or mode == "120000":
                continue
            if name == path:
                return Tree(False, {"": Piece(blob=blob)})
            inner = name[len(path) + 1 :] if path else name
            if ".dvc" not in inner.split("/"):
                pieces.setdefault(inner, Piece(blob=blob))
                is_folder = True
        if not is_folder:
            raise NotFound(f"{self.url} has no {path!r} at {sha[:10]}", hint="name a path below its top folder")
        return Tree(True, pieces)

    def _members(self, dvc: Repository, name: Name) -> dict[str, str]:
        own = caches.of(dvc)
        if own.has(name.md5, legacy=name.legacy):
            return own.members(name.md5, legacy=name.legacy)
        transfer.receive(own, self._store(dvc), name)
        return own.members(name.md5, legacy=name.legacy)

    def _store(self, dvc: Repository) -> remotes.Remote:
        try:
            return remotes.of(dvc, self.remote)
        except NotFound as error:
            raise NotFound(
                f"{self.url}: its data cannot be had: {error.message}", hint="let its owner push it to a remote"
            ) from None

    def bring(self, cache: Cache, path: str, sha: str, tree: Tree) -> dict[str, str]:
        """Have every piece in the cache under its 3.x name; key → md5.

        Raises:
            NotFound: an object is neither in the other's cache nor on its remote.
            Damaged: an object has other bytes than its name says.
        """
        found: dict[str, str] = {}
        dvc = self.dvc(sha, _inner(path))
        plain = {key: piece.object for key, piece in tree.pieces.items() if piece.object is not None}
        lacking = sorted({n for n in plain.values() if n.legacy or not cache.has(n.md5)})
        renamed: dict[Name, str] = {}
        if lacking:
            assert dvc is not None
            own = caches.of(dvc)
            source: remotes.Remote = remotes.FolderRemote(own.root)
            held = source.present(lacking)
            far = self._store(dvc) if len(held) < len(lacking) else source

            def work(name: Name) -> str:
                return _receive(cache, source if name in held else far, name)

            renamed = dict(zip(lacking, hashing.in_parallel(work, lacking), strict=True))
        for key, name in plain.items():
            found[key] = renamed.get(name, name.md5)
        blobs = {key: piece.blob for key, piece in tree.pieces.items() if piece.blob is not None}
        data = history.blobs(self.git, blobs.values())
        for key, blob in blobs.items():
            raw = data[blob]
            md5 = hashing.md5_of(raw)
            cache.put(raw, md5)
            found[key] = md5
        return found


def _receive(cache: Cache, remote: remotes.Remote, name: Name) -> str:
    """One object under its 3.x name, which a 2.x one only has after it was read."""
    if not name.legacy:
        transfer.receive(cache, remote, name)
        return name.md5
    temporary = cache.temporary()
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        remote.get(name, fd)
        md5 = hashing.copy_md5(temporary, None)
        cache.place(temporary, md5)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    return md5


def _inner(path: str) -> str:
    """A path below the other repository's top, without ``.`` and ``..``.

    Raises:
        BadInput: it leads out.
    """
    clean = os.path.normpath(path).replace(os.sep, "/") if path else "."
    if os.path.isabs(clean) or clean.split("/")[0] == ".." or "\0" in clean:
        raise BadInput(f"{path!r} is not a path inside the other repository", hint="name it from its top folder")
    return "" if clean == "." else clean


def other(repo: Repository, url: str, *, remote: str | None = None) -> Other:
    """Another repository. One on this machine is read where it is, any other is cloned (without a work tree) beside what can
    be worked out again.

    Raises:
        NotFound: there is no git repository.
        Unavailable: it cannot be cloned.
        BadInput: not a URL git may follow from here.
    """
    folder = Path(os.path.normpath(repo.root / os.path.expanduser(url))) if "://" not in url else None
    if folder is not None and folder.is_dir():
        if not (folder / ".git").exists():
            raise NotFound(f"{url} is not the top of a git repository", hint="name the folder that holds .git")
        return Other(url, Repository(folder, folder), True, remote)
    if url.startswith("-") or "::" in url or ("://" not in url and ":" not in url):
        raise NotFound(f"{url!r} is neither a folder here nor a git URL", hint="check the spelling")
    clone = repo.state / "clones" / hashlib.sha256(url.encode()).hexdigest()[:32]
    if (clone / ".git" / "HEAD").exists():
        _clone_git(url, ["git", "-C", str(clone), "fetch", "-q", "--tags", "--force", "--prune", "origin"])
        _clone_git(url, ["git", "-C", str(clone), "remote", "set-head", "origin", "-a"])
    else:
        clone.parent.mkdir(parents=True, exist_ok=True)
        _clone_git(url, ["git", "clone", "-q", "--no-checkout", "--", url, str(clone)])
    return Other(url, Repository(clone, clone), False, remote)


def _clone_git(url: str, command: list[str]) -> None:
    environment = {**os.environ, "GIT_ALLOW_PROTOCOL": _ALLOWED, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=1800, env=environment)
    except FileNotFoundError:
        raise Unavailable("git is not installed", hint="install git") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        shown = remotes.without_secrets(url)
        raise Unavailable(
            f"{shown} cannot be cloned: {said[-1].replace(url, shown)[:200]}",
            hint="check the URL and your access to it",
        )


# --- URLs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """What tells one state of a URL from the next: DVC's key (``etag`` of object storage, ``checksum`` of the web)."""

    key: str
    value: str
    size: int | None


@contextmanager
def _web(url: str, method: str) -> Iterator[Any]:
    try:
        request = urllib.request.Request(url, method=method, headers={"User-Agent": "holdfast"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  the caller lets http and https through only
            yield answer
    except urllib.error.HTTPError as error:
        kind = NotFound if error.code in (404, 410) else Unavailable
        raise kind(f"{remotes.without_secrets(url)} answers {error.code}", hint="check the URL") from None
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Unavailable(f"{remotes.without_secrets(url)} cannot be read: {reason}", hint="check the URL") from None


def _web_mark(url: str, headers: Mapping[str, str]) -> Mark:
    value = headers.get("ETag") or headers.get("Content-MD5")
    if not value:
        raise BadInput(
            f"{remotes.without_secrets(url)} gives neither ETag nor Content-MD5, so a change could not be seen",
            hint="download it yourself and track it with `holdfast data add`",
        )
    size = headers.get("Content-Length")
    return Mark("checksum", value, int(size) if size and size.isdecimal() else None)


def fetch_url(repo: Repository, url: str, cache: Cache | None) -> tuple[Mark, str | None]:
    """The mark of a URL, and with a cache its bytes in there: their md5.

    Raises:
        NotFound, Unavailable: it cannot be read.
        BadInput: its kind is not known here.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        with _web(url, "HEAD" if cache is None else "GET") as answer:
            mark = _web_mark(url, answer.headers)
            if cache is None:
                return mark, None
            return mark, _store(cache, lambda: answer.read(1 << 20), mark.size, url)
    store, key, label = remotes.object_at(repo, url)
    meta, pieces = remotes.read_object(label, store, key, body=cache is not None)
    etag = str(meta.get("e_tag") or "").strip('"')
    if not etag:
        raise BadInput(f"{label} gives no etag for {key}", hint="download it and track it with `holdfast data add`")
    mark = Mark("etag", f'"{etag}"' if scheme == "azure" else etag, int(meta["size"]))
    if cache is None:
        return mark, None
    return mark, _store(cache, lambda: next(pieces, b""), mark.size, url)


def _store(cache: Cache, read: Any, size: int | None, url: str) -> str:
    temporary = cache.temporary()
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    digest = hashlib.md5(usedforsecurity=False)
    count = 0
    try:
        while piece := read():
            digest.update(piece)
            hashing.write_all(fd, piece)
            count += len(piece)
        if size is not None and count != size:
            raise Unavailable(
                f"{remotes.without_secrets(url)} broke off after {count} of {size} bytes", hint="run it again"
            )
        os.fsync(fd)
        cache.place(temporary, digest.hexdigest())
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    return digest.hexdigest()
