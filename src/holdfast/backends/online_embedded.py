"""The embedded online store: LMDB. Many processes read, one writes; a reader never waits for the writer.

Written without fsync: after a crash of the process nothing is lost (the pages are the kernel's); after a power cut the
store is rebuilt from the push journal, which is the truth (``features.push.Pusher.recover``).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from holdfast.core.errors import Damaged, Unavailable
from holdfast.core.ports import Buffer, Merge

T = TypeVar("T")
_META = b"\x00meta/"
_GROWS = 24
_MAP_SIZE = 1 << 40  # address space only: the file grows with what is in it


class EmbeddedOnlineStore:
    """LMDB under ``path`` (a folder, made when missing).

    Raises:
        Unavailable: the folder cannot be opened.
    """

    def __init__(self, path: Path, *, map_size: int = _MAP_SIZE, readers: int = 1024) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._closed = False
        self._resizing = threading.Lock()
        try:
            self._env = lmdb.open(
                str(self.path), map_size=map_size, max_readers=readers, sync=False, metasync=False, max_spare_txns=64
            )
        except lmdb.Error as error:
            raise Unavailable(
                f"the online store cannot be opened: {error}",
                hint=f"check that {self.path.name}/ is readable and on a local disk",
            ) from error
        self._env.reader_check()

    def fetch(self, keys: Sequence[bytes], *, use: Callable[[list[Buffer | None]], T]) -> T:
        try:
            txn = self._env.begin(buffers=True)
        except lmdb.MapResizedError:
            self._adopt_size()
            txn = self._env.begin(buffers=True)
        try:
            get = txn.get
            return use([get(key) for key in keys])
        finally:
            txn.abort()

    def update(
        self, groups: Sequence[tuple[Sequence[bytes], Merge]], *, meta: Mapping[str, bytes] | None = None
    ) -> None:
        for attempt in range(_GROWS):
            try:
                self._update(groups, meta or {})
                return
            except lmdb.MapResizedError:
                self._adopt_size()
            except lmdb.MapFullError:
                if attempt == _GROWS - 1:
                    raise
                with self._resizing:
                    self._env.set_mapsize(self._env.info()["map_size"] * 2)
            except lmdb.DiskError as error:
                raise Unavailable(
                    "the online store cannot be written", hint="the disk is full: free some room"
                ) from error
            except lmdb.CorruptedError as error:
                raise Damaged(
                    "the online store is damaged", hint=f"remove {self.path.name}/ and run `holdfast features rebuild`"
                ) from error

    def _update(self, groups: Sequence[tuple[Sequence[bytes], Merge]], meta: Mapping[str, bytes]) -> None:
        with self._env.begin(write=True, buffers=True) as txn:
            get, put = txn.get, txn.put
            for keys, merge in groups:
                stored = [get(key) for key in keys]
                values = merge(stored)
                if values is None:
                    continue
                for key, value, old in zip(keys, values, stored, strict=True):
                    if value is old:
                        continue
                    if value is None:
                        txn.delete(key)
                    else:
                        put(key, value)
            for name, value in meta.items():
                put(_META + name.encode(), value)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._env.begin() as txn, txn.cursor() as cursor:
            found = cursor.set_range(prefix) if prefix else cursor.first()
            while found:
                key, value = cursor.item()
                if not key.startswith(prefix):
                    return
                if not key.startswith(_META):
                    yield key, value
                found = cursor.next()

    def drop(self, prefix: bytes) -> int:
        removed = 0
        with self._env.begin(write=True) as txn, txn.cursor() as cursor:
            found = cursor.set_range(prefix) if prefix else cursor.first()
            while found:
                if not cursor.key().startswith(prefix):
                    break
                if cursor.key().startswith(_META):
                    found = cursor.next()
                    continue
                found = cursor.delete()
                removed += 1
        return removed

    def clear(self) -> None:
        with self._env.begin(write=True) as txn:
            txn.drop(self._env.open_db(txn=txn), delete=False)

    def meta_get(self, name: str) -> bytes | None:
        value: bytes | None = self.fetch([_META + name.encode()], use=lambda v: None if v[0] is None else bytes(v[0]))
        return value

    def flush(self) -> None:
        self._env.sync(True)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with contextlib.suppress(lmdb.Error):
                self._env.sync(True)
            self._env.close()

    def _adopt_size(self) -> None:
        with self._resizing:
            self._env.set_mapsize(0)

    def __enter__(self) -> EmbeddedOnlineStore:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
