"""Where data is shared: a folder, object storage through ``obstore``, a host reached by SSH, a web server. The layout is DVC's.

An object gets its name only when it is complete; what comes back is hashed before it is believed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit, urlunsplit

from holdfast.core.errors import BadConfig, Damaged, NotFound, Unavailable
from holdfast.data import hashing
from holdfast.data.cache import Cache
from holdfast.data.repository import Repository

T = TypeVar("T")
ASK_ONE_BY_ONE = 64
_URL = re.compile(r"https?://[^\s\"'<>)]+")
_CHECKED = ("version_aware", "worktree")


class Name(NamedTuple):
    """An object's name; ``legacy`` ones lie where DVC 2.x put them."""

    md5: str
    legacy: bool = False

    @property
    def key(self) -> str:
        return f"{self.md5[:2]}/{self.md5[2:]}" if self.legacy else f"files/md5/{self.md5[:2]}/{self.md5[2:]}"


class Remote(Protocol):
    """One place that holds objects."""

    label: str

    def present(self, names: Iterable[Name]) -> set[Name]:
        """Those of the names that are there."""

    def put(self, name: Name, file: str) -> None:
        """Store a verified local file under a name, all of it or nothing."""

    def get(self, name: Name, fd: int) -> None:
        """Write an object's bytes to a descriptor. The caller verifies them.

        Raises:
            NotFound: it is not there.
        """

    def all(self) -> Iterator[Name]:
        """Every 3.x object."""

    def delete(self, name: Name) -> None:
        """Remove an object; nothing if absent."""


class FolderRemote:
    """A folder: the same layout, the same care and the same mode 0444 as the cache."""

    def __init__(self, root: Path) -> None:
        self.label = str(root)
        self.cache = Cache(root)

    def present(self, names: Iterable[Name]) -> set[Name]:
        wanted = set(names)
        found = {
            legacy: self.cache.present([md5 for md5, old in wanted if old == legacy], legacy=legacy)
            for legacy in (False, True)
        }
        return {name for name in wanted if name.md5 in found[name.legacy]}

    def put(self, name: Name, file: str) -> None:
        temporary = self.cache.temporary()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            verify(name, hashing.copy_md5(file, fd), self.label)
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
        self.cache.place(temporary, name.md5, legacy=name.legacy)

    def get(self, name: Name, fd: int) -> None:
        try:
            hashing.copy_md5(self.cache.path(name.md5, legacy=name.legacy), fd)
        except FileNotFoundError:
            raise _absent(name, self.label) from None

    def all(self) -> Iterator[Name]:
        yield from map(Name, self.cache.all())

    def delete(self, name: Name) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.cache.path(name.md5, legacy=name.legacy))


class StoreRemote:
    """S3, Google Cloud Storage or Azure."""

    def __init__(self, label: str, store: Any, prefix: str) -> None:
        import obstore
        from obstore import exceptions

        self.label = label
        self.api, self._errors, self._store = obstore, exceptions, store
        self._prefix = prefix.strip("/")

    def _key(self, name: Name) -> str:
        return f"{self._prefix}/{name.key}" if self._prefix else name.key

    def present(self, names: Iterable[Name]) -> set[Name]:
        wanted = list(set(names))
        if len(wanted) <= ASK_ONE_BY_ONE:
            return {name for name, there in zip(wanted, hashing.in_parallel(self._has, wanted), strict=True) if there}
        # A page of a listing names a thousand; two hex digits at a time keeps a huge remote out of the answer.
        keys = {self._key(name): name for name in wanted}
        prefixes = sorted({key.rsplit("/", 1)[0] + "/" for key in keys})
        found: set[Name] = set()
        for listed in hashing.in_parallel(self._list, prefixes):
            found.update(keys[key] for key in listed if key in keys)
        return found

    def _list(self, prefix: str) -> list[str]:
        return self.call(
            prefix, lambda: [str(e["path"]) for batch in self.api.list(self._store, prefix=prefix) for e in batch]
        )

    def _has(self, name: Name) -> bool:
        try:
            self.call(name.md5, lambda: self.api.head(self._store, self._key(name)))
        except NotFound:
            return False
        return True

    def put(self, name: Name, file: str) -> None:
        # Hashed first: object storage makes an upload visible by itself when it is complete.
        verify(name, hashing.copy_md5(file, None), "the cache")
        self.call(name.md5, lambda: self.api.put(self._store, self._key(name), Path(file)))

    def get(self, name: Name, fd: int) -> None:
        result = self.call(name.md5, lambda: self.api.get(self._store, self._key(name)))

        def pieces() -> None:
            for piece in result.stream(min_chunk_size=1 << 20):
                hashing.write_all(fd, bytes(piece))

        self.call(name.md5, pieces)

    def all(self) -> Iterator[Name]:
        base = f"{self._prefix}/files/md5/" if self._prefix else "files/md5/"
        for key in self._list(base):
            md5 = key[len(base) :].replace("/", "", 1)
            if len(md5) in (32, 36):
                yield Name(md5)

    def delete(self, name: Name) -> None:
        with suppress(NotFound):
            self.call(name.md5, lambda: self.api.delete(self._store, self._key(name)))

    def call(self, what: str, do: Callable[[], T]) -> T:
        try:
            return do()
        except (self._errors.NotFoundError, FileNotFoundError):
            raise NotFound(f"{what} is not on {self.label}", hint="was it pushed? check the remote's url") from None
        except (self._errors.PermissionDeniedError, self._errors.UnauthenticatedError) as error:
            raise Unavailable(
                f"{self.label} refuses: {_brief(error)}",
                hint="check the credentials in .dvc/config.local or the environment",
            ) from None
        except self._errors.BaseError as error:
            hint = "check the network and the url, then run again; what was moved stays moved"
            raise Unavailable(f"{self.label} cannot be reached: {_brief(error)}", hint=hint) from None


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    # A URL in it may carry a signature or a password.
    return _URL.sub(lambda found: without_secrets(found[0]), lines[0])[:200] if lines else type(error).__name__


def _absent(name: Name, label: str) -> NotFound:
    return NotFound(f"object {name.md5} is not on {label}", hint="somebody who has it must push it")


def verify(name: Name, md5: str, where: str) -> None:
    """Raises:
    Damaged: the bytes read have another name. Legacy names are not hashes of the plain bytes and cannot be told so.
    """
    if not name.legacy and md5 != name.md5[:32]:
        raise Damaged(
            f"object {name.md5} in {where} has other bytes than its name says",
            hint="mend it with `holdfast data scrub --repair`",
        )


def without_secrets(url: str) -> str:
    """A URL as it may be shown: no user, no password, no query."""
    parts = urlsplit(url)
    if not parts.scheme or not parts.netloc:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "…" if parts.query else "", ""))


def resolved(repo: Repository, options: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """A remote's URL and options; ``remote://NAME/path`` is a path below another remote, with that one's options.

    Raises:
        NotFound: no such remote.
        BadConfig: remotes that lead in a circle.
    """
    url, merged, seen = options.get("url", ""), dict(options), set[str]()
    while url.startswith("remote://"):
        name, _, inner = url.removeprefix("remote://").partition("/")
        if name in seen:
            raise BadConfig(f"remote {name!r} leads to itself", hint="mend its url in .dvc/config")
        seen.add(name)
        _, base = repo.remote_options(name)
        url = base.get("url", "").rstrip("/") + ("/" + inner if inner else "")
        merged = {**base, **merged}
    return url, {**merged, "url": url}


def object_at(repo: Repository, url: str) -> tuple[Any, str, str]:
    """(store, key, label) of one object of object storage; ``remote://NAME/path`` uses a remote's credentials.

    Raises:
        BadConfig: its kind is not supported here.
    """
    from holdfast.data import stores

    url, options = resolved(repo, {"url": url})
    parts = urlsplit(url)
    if parts.scheme not in stores.KINDS or parts.scheme in ("http", "https"):
        raise BadConfig(
            f"{without_secrets(url)}: {parts.scheme or 'this'}:// cannot be imported here",
            hint="use a path, http, https, s3, gs or azure",
        )
    label = without_secrets(url)
    store, key = stores.open_store(label, url, options)
    return store, key, label


def of(repo: Repository, name: str | None = None) -> Remote:
    """The remote of that name, else the default one.

    Raises:
        NotFound: no such remote.
        BadConfig: its kind or one of its options is not supported here.
    """
    label, options = repo.remote_options(name)
    url, options = resolved(repo, options)
    for key in _CHECKED:
        if options.get(key, "false").lower() == "true":
            raise BadConfig(f"remote {label!r} is {key}, which Holdfast does not read", hint="use dvc for this remote")
    if not url:
        raise BadConfig(f"remote {label!r} has no url", hint="set it in .dvc/config")
    parts = urlsplit(url) if "://" in url else None
    if parts is None or parts.scheme == "file":
        return FolderRemote(Path(parts.path if parts else url))
    shown = f"remote {label!r}"
    if parts.scheme == "ssh":
        from holdfast.data.remotes_ssh import SshRemote

        return SshRemote(shown, url, options)
    if parts.scheme in ("http", "https"):
        from holdfast.data.remotes_web import WebRemote

        return WebRemote(shown, url, options)
    from holdfast.data import stores

    store, prefix = stores.open_store(shown, url, options)
    return StoreRemote(shown, store, prefix)


def read_object(label: str, store: Any, key: str, *, body: bool) -> tuple[Mapping[str, Any], Iterator[bytes]]:
    """What a store says of one object (size, e_tag), and with ``body`` its bytes in pieces.

    Raises:
        NotFound, Unavailable: as the remotes.
    """
    remote = StoreRemote(label, store, "")
    if not body:
        return remote.call(key, lambda: remote.api.head(store, key)), iter(())
    result = remote.call(key, lambda: remote.api.get(store, key))
    stream = iter(result.stream(min_chunk_size=1 << 20))

    def pieces() -> Iterator[bytes]:
        while (piece := remote.call(key, lambda: next(stream, None))) is not None:
            yield bytes(piece)

    return result.meta, pieces()
