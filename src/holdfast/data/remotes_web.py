"""A web server as a remote: objects are read through ``obstore`` and uploaded with ``httpx``, one request each, by the method DVC
would use (``method`` of the remote, POST without it).

Such a server says of one object whether it is there, and never which there are.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NoReturn

from holdfast.core.errors import BadConfig, Damaged, NotFound, Unavailable
from holdfast.data import hashing, stores
from holdfast.data.remotes import Name, StoreRemote, verify

if TYPE_CHECKING:
    import httpx

METHODS = ("POST", "PUT")


class WebRemote(StoreRemote):
    """A folder of a web server."""

    def __init__(self, label: str, url: str, options: Mapping[str, str]) -> None:
        store, prefix = stores.open_store(label, url, options)
        super().__init__(label, store, prefix)
        self._url, self._options = url.rstrip("/"), options
        self._method = options.get("method", METHODS[0]).upper()
        if self._method not in METHODS:
            raise BadConfig(f"{label}: method {self._method!r} is not supported here", hint="use POST or PUT")
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None

    def present(self, names: Iterable[Name]) -> set[Name]:
        wanted = list(set(names))
        return {name for name, there in zip(wanted, hashing.in_parallel(self._has, wanted), strict=True) if there}

    def put(self, name: Name, file: str) -> None:
        import httpx

        verify(name, hashing.copy_md5(file, None), "the cache")
        client = self._uploads()
        try:
            with open(file, "rb") as body:
                answer = client.request(self._method, f"{self._url}/{name.key}", content=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            hint = "check the network and the url, then run again; what was moved stays moved"
            said = str(error) or type(error).__name__
            raise Unavailable(f"{self.label} cannot be reached: {said}", hint=hint) from None
        if not answer.is_success:
            self._refused(name, answer.status_code)
        self._arrived(name, os.stat(file).st_size)

    def _refused(self, name: Name, status: int) -> NoReturn:
        if status in (401, 403):
            raise Unavailable(
                f"{self.label} refuses uploads ({status})",
                hint="check the credentials in .dvc/config.local or the environment",
            )
        if status in (404, 405, 501):
            other = METHODS[self._method == METHODS[0]]
            raise BadConfig(
                f"{self.label} takes no uploads by {self._method} ({status})",
                hint=f"set `method = {other}` for it in .dvc/config, or push to another remote",
            )
        if 300 <= status < 400:
            raise BadConfig(f"{self.label} leads uploads elsewhere ({status})", hint="set its url to where it leads")
        raise Unavailable(
            f"{self.label} did not take object {name.md5} ({status})",
            hint="run again; what was moved stays moved",
        )

    def _arrived(self, name: Name, size: int) -> None:
        """Many a server is content with any upload to any address."""
        try:
            there = self.call(name.md5, lambda: self.api.head(self._store, self._key(name)))
        except NotFound:
            raise BadConfig(
                f"{self.label} took object {name.md5} and does not have it",
                hint="is its url that of a store for files? push to another remote otherwise",
            ) from None
        if int(there["size"]) != size:
            raise Damaged(f"object {name.md5} arrived on {self.label} with another size", hint="run it again")

    def all(self) -> Iterator[Name]:
        raise self._cannot("say which objects it holds")

    def delete(self, name: Name) -> None:
        raise self._cannot("remove objects")

    def _cannot(self, what: str) -> BadConfig:
        return BadConfig(
            f"{self.label} is a web server, which cannot {what}",
            hint="`holdfast data push --verify` reads back what is meant to be there",
        )

    def _uploads(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                self._client = _client(self.label, self._options)
            return self._client


def _client(label: str, options: Mapping[str, str]) -> httpx.Client:
    try:
        import httpx
    except ImportError:
        raise BadConfig(f"uploads to {label} need httpx", hint="pip install 'holdfast[http]'") from None
    connect, read = stores.timeouts(label, options)
    trusted = options.get("ssl_verify", "true")
    verified: bool | ssl.SSLContext = trusted.lower() != "false"
    if trusted.lower() not in ("true", "false"):
        verified = ssl.create_default_context(cafile=os.path.expanduser(trusted))
    return httpx.Client(
        headers={**stores.web_headers(label, options), "Content-Type": "application/octet-stream"},
        timeout=httpx.Timeout(read, connect=connect, pool=None),
        verify=verified,
    )
