"""The shared online store: Redis or Valkey. Values by key in one namespace; several hosts read and one pushes.

A merge reads its group under WATCH and writes it in MULTI; when somebody else was faster it is done again.

A server that hangs costs one caller the time limit; who comes right after is refused at once, so that no queue builds up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from holdfast.core.errors import BadConfig, Unavailable
from holdfast.core.ports import Buffer, Merge

T = TypeVar("T")
_META = b"\x00meta/"
_BATCH = 500
_TRIES = 100
_PAUSE = 0.5
"""Seconds after a time-out in which nobody else waits for the server."""


class RedisOnlineStore:
    """``url`` like ``redis://host:6379/0``; ``?prefix=name`` keeps several workspaces apart on one server. ``timeout`` bounds
    each answer of the server and its connecting, in seconds; ``?socket_timeout=5`` in the URL goes before it.

    Raises:
        BadConfig: the Redis client is not installed.
    """

    waits = True

    def __init__(self, url: str, *, prefix: bytes = b"hf:", timeout: float = 2.0) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise BadConfig("the Redis client is not installed", hint="pip install 'holdfast[redis]'") from error
        self._redis: Any = redis
        self._prefix = prefix
        base, _, query = url.partition("?")
        options = [part for part in query.split("&") if part]
        for option in list(options):
            if option.startswith("prefix="):
                self._prefix = option[len("prefix=") :].encode() + b":"
                options.remove(option)
        self._client: Any = redis.Redis.from_url(
            base + ("?" + "&".join(options) if options else ""), socket_timeout=timeout, socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),  # the client's own would wait ten times
        )  # fmt: skip
        self._paused_until = 0.0
        self._pack = _packer()

    def fetch(self, keys: Sequence[bytes], *, use: Callable[[list[Buffer | None]], T]) -> T:
        if not keys:
            return use([])
        prefix = self._prefix
        stored: list[Buffer | None] = self._call(lambda: self._read([prefix + key for key in keys]))
        return use(stored)

    def _read(self, names: list[bytes]) -> Any:
        """MGET on a connection itself: the client's way around a command takes longer than Redis takes to answer it."""
        pool = self._client.connection_pool
        try:
            connection = pool.get_connection()
            try:
                connection.send_packed_command(self._pack(connection, [b"MGET", *names]))
                return connection.read_response()  # whatever goes wrong closes it: nobody reads another's answer
            finally:
                pool.release(connection)
        except self._redis.ConnectionError:
            return self._client.mget(names)

    def update(
        self, groups: Sequence[tuple[Sequence[bytes], Merge]], *, meta: Mapping[str, bytes] | None = None
    ) -> None:
        # a mark says that everything before it is there, so it goes with the last batch
        batches = list(_batches(groups)) or [[]]
        for i, batch in enumerate(batches):
            marks = (meta or {}) if i == len(batches) - 1 else {}
            self._call(lambda batch=batch, marks=marks: self._merge(batch, marks))  # type: ignore[misc]

    def _merge(self, groups: Sequence[tuple[Sequence[bytes], Merge]], meta: Mapping[str, bytes]) -> None:
        prefix = self._prefix
        keys = list(dict.fromkeys(prefix + key for group, _ in groups for key in group))
        for _ in range(_TRIES):
            with self._client.pipeline() as pipe:
                try:
                    stored: dict[bytes, Buffer | None] = {}
                    if keys:
                        pipe.watch(*keys)
                        stored = dict(zip(keys, pipe.mget(keys), strict=True))
                    pipe.multi()
                    self._queue(pipe, groups, stored)
                    for name, value in meta.items():
                        pipe.set(prefix + _META + name.encode(), value)
                    pipe.execute()
                    return
                except self._redis.WatchError:
                    continue
        raise Unavailable("the online store is written by too many at once", hint="push through one feature server")

    def _queue(
        self, pipe: Any, groups: Sequence[tuple[Sequence[bytes], Merge]], stored: dict[bytes, Buffer | None]
    ) -> None:
        for group, merge in groups:
            names = [self._prefix + key for key in group]
            old = [stored[name] for name in names]
            new = merge(old)
            if new is None:
                continue
            for name, value, before in zip(names, new, old, strict=True):
                if value is before:
                    continue
                if value is None:
                    pipe.delete(name)
                else:
                    pipe.set(name, bytes(value))
                stored[name] = value  # a later group of the same keys sees it

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        start = len(self._prefix)
        found = sorted(name for name in self._names(prefix) if not name[start:].startswith(_META))
        for i in range(0, len(found), _BATCH):
            part = found[i : i + _BATCH]
            stored = self._call(lambda part=part: self._client.mget(part))  # type: ignore[misc]
            for name, value in zip(part, stored, strict=True):
                if value is not None:
                    yield name[start:], value

    def drop(self, prefix: bytes) -> int:
        start = len(self._prefix)
        return self._remove([name for name in self._names(prefix) if not name[start:].startswith(_META)])

    def clear(self) -> None:
        self._remove(self._names(b""))

    def _names(self, prefix: bytes) -> list[bytes]:
        """Each once, though the server may tell one twice."""
        match = _escape(self._prefix + prefix) + b"*"
        found = self._call(lambda: list(self._client.scan_iter(match=match, count=1000)))
        return list(dict.fromkeys(found))

    def _remove(self, names: Sequence[bytes]) -> int:
        removed = 0
        for i in range(0, len(names), _BATCH):
            part = names[i : i + _BATCH]
            removed += int(self._call(lambda part=part: self._client.unlink(*part)))  # type: ignore[misc]
        return removed

    def meta_get(self, name: str) -> bytes | None:
        value: bytes | None = self._call(lambda: self._client.get(self._prefix + _META + name.encode()))
        return value

    def flush(self) -> None:
        """Redis writes when its own settings say so; the push journal is the truth."""

    def close(self) -> None:
        self._client.close()

    def _call(self, action: Callable[[], Any]) -> Any:
        if time.monotonic() < self._paused_until:
            raise self._unreachable("it did not answer a moment ago")
        try:
            return action()
        except self._redis.TimeoutError as error:
            self._paused_until = time.monotonic() + _PAUSE
            raise self._unreachable(str(error)) from error
        except self._redis.RedisError as error:
            raise self._unreachable(str(error)) from error

    @staticmethod
    def _unreachable(why: str) -> Unavailable:
        return Unavailable(
            f"the online store cannot be reached: {why}", hint="check [online] url and that Redis runs, then try again"
        )


def _packer() -> Callable[[Any, list[bytes]], Any]:
    """What makes a command's bytes: hiredis where it is installed, three times as fast as the client itself."""
    try:
        from hiredis import pack_command
    except ImportError:
        return lambda connection, words: connection.pack_command(*words)
    return lambda _, words: (pack_command(tuple(words)),)  # type: ignore[arg-type]  # its stub knows one word only


def _batches(groups: Sequence[tuple[Sequence[bytes], Merge]]) -> Iterator[list[tuple[Sequence[bytes], Merge]]]:
    """Groups together until they have ``_BATCH`` keys, so that no transaction keeps the server for long."""
    batch: list[tuple[Sequence[bytes], Merge]] = []
    size = 0
    for group in groups:
        batch.append(group)
        size += len(group[0])
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _escape(text: bytes) -> bytes:
    """A literal in Redis' glob language."""
    out = bytearray()
    for byte in text:
        if byte in b"*?[]\\^-":
            out += b"\\"
        out.append(byte)
    return bytes(out)
