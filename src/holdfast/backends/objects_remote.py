"""Objects in S3, Google Cloud Storage or Azure, through ``obstore``: put-if-absent, verified local copies.

Credentials and endpoints come from the provider's own environment variables (``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``, ``AZURE_STORAGE_ACCOUNT_NAME`` …), never from holdfast.toml.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from holdfast.backends.objects_local import LocalObjects
from holdfast.core.errors import BadConfig, Damaged, NotFound, Unavailable

_NAME = re.compile(r"[0-9a-f]{64}\Z")
# Up to here one conditional request; beyond it a multipart upload, which has no condition and needs none: the name is
# the content's hash, so whoever comes second writes the same bytes.
_ONE_REQUEST = 32 << 20

T = TypeVar("T")


class RemoteObjects:
    """Fulfils ``core.ports.Objects``.

    Args:
        url: ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://account/container/prefix``.
        cache: a local folder for verified copies; ``fetch`` answers from it.
        retries: how often a request that the network lost is tried again.

    Raises:
        BadConfig: the URL or the provider's settings cannot be used.
    """

    def __init__(self, url: str, *, cache: Path, retries: int = 10) -> None:
        import obstore
        from obstore import exceptions
        from obstore.store import from_url

        self._api, self._errors, self._url = obstore, exceptions, url
        options: dict[str, Any] = {"timeout": "120s", "connect_timeout": "10s"}
        if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["allow_http"] = True  # the operator named a plain endpoint, e.g. a local MinIO
        try:
            self._store = from_url(url, client_options=options, retry_config={"max_retries": retries})  # type: ignore[call-overload]
        except (exceptions.BaseError, ValueError) as error:
            raise BadConfig(
                f"objects.url {url!r} cannot be used: {_brief(error)}", hint="write it like s3://bucket/prefix"
            ) from None
        self._cache = LocalObjects(cache)

    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        self._upload(name, data, len(data))
        return name

    def put_file(self, path: Path) -> str:
        # The copy in the cache cannot change under the upload, and the next fetch is free.
        name = self._cache.put_file(path)
        local = self._cache.fetch(name)
        self._upload(name, local, local.stat().st_size)
        return name

    def get(self, sha256: str) -> bytes:
        key = _key(sha256)
        data = bytes(self._call(sha256, lambda: self._api.get(self._store, key).bytes()))
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _damaged(sha256)
        return data

    def fetch(self, sha256: str) -> Path:
        key = _key(sha256)
        with suppress(NotFound, Damaged):
            return self._cache.fetch(sha256)
        source = self._call(sha256, lambda: self._api.get(self._store, key))
        with self._cache.receiving(sha256) as write:
            for piece in self._call(sha256, lambda: source.stream(min_chunk_size=1 << 20)):
                write(bytes(piece))
        return self._cache.fetch(sha256)

    def exists(self, sha256: str) -> bool:
        try:
            self.size(sha256)
        except NotFound:
            return False
        return True

    def size(self, sha256: str) -> int:
        key = _key(sha256)
        return int(self._call(sha256, lambda: self._api.head(self._store, key))["size"])

    def list(self) -> Iterator[str]:
        for batch in self._call("", lambda: self._api.list(self._store)):
            for entry in batch:
                name = str(entry["path"]).replace("/", "")
                if _NAME.match(name):
                    yield name

    def delete(self, sha256: str) -> None:
        key = _key(sha256)
        with suppress(NotFound):
            self._call(sha256, lambda: self._api.delete(self._store, key))
        self._cache.delete(sha256)

    def touched(self, sha256: str) -> float:
        """Seconds since 1970 when the object was stored; garbage collection spares what is young."""
        key = _key(sha256)
        return float(self._call(sha256, lambda: self._api.head(self._store, key))["last_modified"].timestamp())

    def _upload(self, name: str, data: bytes | Path, size: int) -> None:
        key = _key(name)
        try:
            if self.size(name) == size:
                return
            whole = True  # another size: a foreign hand was here; write over it
        except NotFound:
            whole = False
        if whole or size > _ONE_REQUEST:
            self._call(name, lambda: self._api.put(self._store, key, data))
            return
        with suppress(self._errors.AlreadyExistsError):
            self._call(name, lambda: self._api.put(self._store, key, data, mode="create"))

    def _call(self, name: str, do: Callable[[], T]) -> T:
        try:
            return do()
        except self._errors.AlreadyExistsError:
            raise
        except (self._errors.NotFoundError, FileNotFoundError):
            raise NotFound(
                f"there is no object {name}" if name else f"{self._url} is not there",
                hint="it was never stored here, or garbage collection removed it; check objects.url and the bucket",
            ) from None
        except (self._errors.PermissionDeniedError, self._errors.UnauthenticatedError) as error:
            raise Unavailable(
                f"{self._url} refuses: {_brief(error)}", hint="check the provider's credentials"
            ) from None
        except (self._errors.BaseError, OSError) as error:
            raise Unavailable(
                f"{self._url} cannot be reached: {_brief(error)}",
                hint="check the network and the endpoint, then try again",
            ) from None


def _key(sha256: str) -> str:
    from holdfast.core.errors import BadInput

    if not _NAME.match(sha256):
        raise BadInput(f"{sha256!r} is not the name of an object", hint="an object is named by 64 hexadecimal digits")
    return f"{sha256[:2]}/{sha256[2:]}"


def _brief(error: BaseException) -> str:
    """The first line, without the addresses of signed requests."""
    return re.sub(
        r"\?[^\s\"']*", "", str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    )[:300]


def _damaged(name: str) -> Damaged:
    return Damaged(
        f"object {name} does not hold the bytes it was stored with", hint="restore it from a backup of the bucket"
    )
