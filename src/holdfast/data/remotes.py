"""Where data is shared: a folder, or object storage through ``obstore``. The layout is DVC's.

An object gets its name only when it is complete; what comes back is hashed before it is believed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from holdfast.core.errors import BadConfig, Damaged, NotFound, Unavailable
from holdfast.data import hashing
from holdfast.data.cache import Cache
from holdfast.data.repository import Repository

T = TypeVar("T")
ASK_ONE_BY_ONE = 64
_CHECKED = ("version_aware", "worktree")


@dataclass(frozen=True, order=True, slots=True)
class Name:
    """An object's name; ``legacy`` ones lie where DVC 2.x put them."""

    md5: str
    legacy: bool = False

    @property
    def key(self) -> str:
        return f"{self.md5[:2]}/{self.md5[2:]}" if self.legacy else f"files/md5/{self.md5[:2]}/{self.md5[2:]}"


class Remote(Protocol):
    """One place that holds objects."""

    label: str
    writable: bool

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

    writable = True

    def __init__(self, root: Path) -> None:
        self.label = str(root)
        self.cache = Cache(root)

    def present(self, names: Iterable[Name]) -> set[Name]:
        wanted = set(names)
        new = {n.md5 for n in wanted if not n.legacy}
        old = {n.md5 for n in wanted if n.legacy}
        there = self.cache.present(new)
        there_old = self.cache.present(old, legacy=True) if old else set()
        return {n for n in wanted if n.md5 in (there_old if n.legacy else there)}

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
    """S3, Google Cloud Storage, Azure, or a read-only web server."""

    def __init__(self, label: str, store: Any, prefix: str, *, writable: bool = True) -> None:
        import obstore
        from obstore import exceptions

        self.label, self.writable = label, writable
        self._api, self._errors, self._store = obstore, exceptions, store
        self._prefix = prefix.strip("/")

    def _key(self, name: Name) -> str:
        return f"{self._prefix}/{name.key}" if self._prefix else name.key

    def present(self, names: Iterable[Name]) -> set[Name]:
        wanted = list(set(names))
        if len(wanted) <= ASK_ONE_BY_ONE or not self.writable:
            return {name for name, there in zip(wanted, hashing.in_parallel(self._has, wanted), strict=True) if there}
        # A page of a listing names a thousand; two hex digits at a time keeps a huge remote out of the answer.
        keys = {self._key(name): name for name in wanted}
        prefixes = sorted({key.rsplit("/", 1)[0] + "/" for key in keys})
        found: set[Name] = set()
        for listed in hashing.in_parallel(self._list, prefixes):
            found.update(keys[key] for key in listed if key in keys)
        return found

    def _list(self, prefix: str) -> list[str]:
        return self._call(
            prefix, lambda: [str(e["path"]) for batch in self._api.list(self._store, prefix=prefix) for e in batch]
        )

    def _has(self, name: Name) -> bool:
        try:
            self._call(name.md5, lambda: self._api.head(self._store, self._key(name)))
        except NotFound:
            return False
        return True

    def put(self, name: Name, file: str) -> None:
        if not self.writable:
            raise BadConfig(f"{self.label} can only be read", hint="push to another remote")
        # Hashed first: object storage makes an upload visible by itself when it is complete.
        verify(name, hashing.copy_md5(file, None), "the cache")
        self._call(name.md5, lambda: self._api.put(self._store, self._key(name), Path(file)))

    def get(self, name: Name, fd: int) -> None:
        result = self._call(name.md5, lambda: self._api.get(self._store, self._key(name)))

        def pieces() -> None:
            for piece in result.stream(min_chunk_size=1 << 20):
                hashing.write_all(fd, bytes(piece))

        self._call(name.md5, pieces)

    def all(self) -> Iterator[Name]:
        base = f"{self._prefix}/files/md5/" if self._prefix else "files/md5/"
        for key in self._list(base):
            md5 = key[len(base) :].replace("/", "", 1)
            if len(md5) in (32, 36):
                yield Name(md5)

    def delete(self, name: Name) -> None:
        with suppress(NotFound):
            self._call(name.md5, lambda: self._api.delete(self._store, self._key(name)))

    def _call(self, what: str, do: Callable[[], T]) -> T:
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
    return lines[0][:200] if lines else type(error).__name__


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


def of(repo: Repository, name: str | None = None) -> Remote:
    """The remote of that name, else the default one.

    Raises:
        NotFound: no such remote.
        BadConfig: its kind or one of its options is not supported here.
    """
    label, options = repo.remote_options(name)
    url = options.get("url", "")
    for key in _CHECKED:
        if options.get(key, "false").lower() == "true":
            raise BadConfig(f"remote {label!r} is {key}, which Holdfast does not read", hint="use dvc for this remote")
    parts = urlsplit(url) if "://" in url else None
    if not url:
        raise BadConfig(f"remote {label!r} has no url", hint="set it in .dvc/config")
    if parts is None or parts.scheme == "file":
        return FolderRemote(Path(parts.path if parts else url))
    made = _STORES.get(parts.scheme)
    if made is None:
        raise BadConfig(
            f"remote {label!r}: {parts.scheme}:// is not supported here",
            hint="use a folder, s3, gs, azure, http or https; or dvc for this remote",
        )
    return made(f"remote {label!r}", url, options)


def _client(url: str) -> Any:
    options: dict[str, Any] = {"timeout": "120s", "connect_timeout": "10s"}
    if url.startswith("http://"):
        options["allow_http"] = True
    return options


def _given(options: Mapping[str, str], names: Mapping[str, str]) -> dict[str, Any]:
    return {ours: options[theirs] for theirs, ours in names.items() if theirs in options}


def _s3(label: str, url: str, options: Mapping[str, str]) -> Remote:
    from obstore.store import S3Store

    parts = urlsplit(url)
    endpoint = (
        options.get("endpointurl") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    )
    config = _given(options, {key: key for key in ("access_key_id", "secret_access_key", "session_token", "region")})
    if endpoint:
        config["endpoint"] = endpoint
    if options.get("allow_anonymous_login", "").lower() == "true":
        config["skip_signature"] = True
    store = S3Store(parts.netloc, client_options=_client(endpoint), **config)
    return StoreRemote(label, store, parts.path)


def _gcs(label: str, url: str, options: Mapping[str, str]) -> Remote:
    from obstore.store import GCSStore

    parts = urlsplit(url)
    config = _given(options, {"credentialpath": "service_account_path"})
    return StoreRemote(label, GCSStore(parts.netloc, client_options=_client(url), **config), parts.path)


def _azure(label: str, url: str, options: Mapping[str, str]) -> Remote:
    from obstore.store import AzureStore

    parts = urlsplit(url)
    same = ("account_name", "account_key", "tenant_id", "client_id", "client_secret")
    config = _given(options, {"sas_token": "sas_key", **{key: key for key in same}})
    return StoreRemote(label, AzureStore(parts.netloc, client_options=_client(url), **config), parts.path)


def _http(label: str, url: str, options: Mapping[str, str]) -> Remote:
    from obstore.store import HTTPStore

    return StoreRemote(label, HTTPStore.from_url(url, client_options=_client(url)), "", writable=False)


_STORES: dict[str, Callable[[str, str, Mapping[str, str]], Remote]] = {
    "s3": _s3, "gs": _gcs, "gcs": _gcs, "azure": _azure, "http": _http, "https": _http,
}  # fmt: skip
