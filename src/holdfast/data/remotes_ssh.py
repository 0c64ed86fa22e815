"""A remote on a host that is reached by SSH: DVC's layout in a folder, through SFTP.

The host's key has to be known (``~/.ssh/known_hosts``); ``~/.ssh/config`` and the agent are honoured.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from holdfast.core.errors import BadConfig, Damaged, NotFound, Unavailable
from holdfast.data import hashing
from holdfast.data.remotes import Name, verify
from holdfast.data.stores import COMMON, ask, flag

T = TypeVar("T")
_KNOWN = frozenset(
    [
        "user",
        "port",
        "password",
        "ask_password",
        "keyfile",
        "passphrase",
        "ask_passphrase",
        "timeout",
        "gss_auth",
        "allow_agent",
        "max_sessions",
        "type",
    ]
)
_COUNTER = itertools.count()
_AT_ONCE = 8
_PIECE = 1 << 18


class SshRemote:
    """A folder on another host. An object is uploaded under a temporary name and renamed when all of it is there."""

    def __init__(self, label: str, url: str, options: Mapping[str, str]) -> None:
        for key in options:
            if key not in COMMON and key not in _KNOWN:
                raise BadConfig(f"{label}: option {key!r} is not supported here", hint="remove it, or use dvc for it")
        parts = urlsplit(url)
        if not parts.hostname or not parts.path.strip("/"):
            raise BadConfig(f"{label}: its url names no host and folder", hint="ssh://user@host/folder")
        self.label, self._root, self._host = label, unquote(parts.path), parts.hostname
        self._options = _connect_options(label, parts.username, parts.port, parts.password, options)
        self._lock, self._folders = threading.Lock(), set[str]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sftp: Any = None
        self._connection: Any = None
        self._turn = threading.Semaphore(min(_AT_ONCE, int(options.get("max_sessions", _AT_ONCE))))

    # --- the remote's verbs ---

    def present(self, names: Iterable[Name]) -> set[Name]:
        wanted = set(names)
        folders = {os.path.dirname(name.key) for name in wanted}
        listed = hashing.in_parallel(lambda folder: (folder, self._list(folder)), sorted(folders))
        there = {f"{folder}/{entry}" for folder, entries in listed for entry in entries}
        return {name for name in wanted if name.key in there}

    def put(self, name: Name, file: str) -> None:
        verify(name, hashing.copy_md5(file, None), "the cache")
        size = os.stat(file).st_size
        temporary = f"{self._root}/holdfast-tmp/{os.uname().nodename}-{os.getpid()}-{next(_COUNTER)}"
        final = f"{self._root}/{name.key}"

        async def send(sftp: Any) -> None:
            for folder in (os.path.dirname(temporary), os.path.dirname(final)):
                if folder not in self._folders:
                    await sftp.makedirs(folder, exist_ok=True)
                    self._folders.add(folder)
            await sftp.put(file, temporary)
            if await sftp.getsize(temporary) != size:
                raise Damaged(f"object {name.md5} arrived on {self.label} with another size", hint="run it again")
            await _rename(sftp, temporary, final)

        self._do(name.md5, send)

    def get(self, name: Name, fd: int) -> None:
        async def receive(sftp: Any) -> None:
            async with sftp.open(f"{self._root}/{name.key}", "rb") as f:
                while piece := await f.read(_PIECE):
                    hashing.write_all(fd, piece)

        self._do(name.md5, receive)

    def all(self) -> Iterator[Name]:
        for prefix in sorted(self._list("files/md5")):
            if len(prefix) == 2:
                yield from (
                    Name(prefix + rest) for rest in sorted(self._list(f"files/md5/{prefix}")) if len(rest) in (30, 34)
                )

    def delete(self, name: Name) -> None:
        async def remove(sftp: Any) -> None:
            await sftp.remove(f"{self._root}/{name.key}")

        with contextlib.suppress(NotFound):
            self._do(name.md5, remove)

    def _list(self, folder: str) -> list[str]:
        async def names(sftp: Any) -> list[str]:
            return [str(entry) for entry in await sftp.listdir(f"{self._root}/{folder}")]

        try:
            return self._do(folder, names)
        except NotFound:
            return []

    # --- the connection ---

    def _do(self, what: str, work: Callable[[Any], Awaitable[T]]) -> T:
        import asyncssh

        loop = self._start()

        async def run() -> T:
            return await work(self._sftp)

        try:
            with self._turn:
                return asyncio.run_coroutine_threadsafe(run(), loop).result()
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            raise NotFound(f"{what} is not on {self.label}", hint="somebody who has it must push it") from None
        except asyncssh.SFTPPermissionDenied:
            raise Unavailable(f"{self.label} refuses access to {what}", hint="check the folder's owner there") from None
        except (asyncssh.Error, OSError) as error:
            raise Unavailable(
                f"{self.label} broke off: {str(error)[:200] or type(error).__name__}",
                hint="run it again; what was moved stays moved",
            ) from None

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is not None:
                return self._loop
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="holdfast-ssh", daemon=True).start()
            try:
                asyncio.run_coroutine_threadsafe(self._connect(), loop).result()
            except BaseException:
                loop.call_soon_threadsafe(loop.stop)
                raise
            self._loop = loop
            atexit.register(self.close)
            return loop

    async def _connect(self) -> None:
        import asyncssh

        try:
            self._connection = await asyncssh.connect(self._host, **self._options)
            self._sftp = await self._connection.start_sftp_client()
        except asyncssh.HostKeyNotVerifiable:
            raise Unavailable(
                f"{self.label}: the key of {self._host} is not known",
                hint=f"look at it and let it in: ssh -p {self._options.get('port', 22)} {self._host}",
            ) from None
        except asyncssh.PermissionDenied:
            raise Unavailable(
                f"{self.label}: {self._host} refuses this user",
                hint="check user, keyfile and password in .dvc/config.local, or your agent",
            ) from None
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise Unavailable(
                f"{self.label}: {self._host} cannot be reached: {str(error)[:200] or type(error).__name__}",
                hint="check the host and the port",
            ) from None

    def close(self) -> None:
        """End the connection; nothing if there is none."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is None:
            return

        async def end() -> None:
            self._connection.close()
            await self._connection.wait_closed()

        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(end(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)


async def _rename(sftp: Any, temporary: str, final: str) -> None:
    import asyncssh

    try:
        await sftp.posix_rename(temporary, final)
    except asyncssh.SFTPOpUnsupported:
        with contextlib.suppress(asyncssh.SFTPNoSuchFile):
            await sftp.remove(final)
        await sftp.rename(temporary, final)


def _connect_options(
    label: str, user: str | None, port: int | None, password: str | None, options: Mapping[str, str]
) -> dict[str, Any]:
    try:
        import asyncssh  # noqa: F401
    except ImportError:
        raise BadConfig(f"{label} needs asyncssh", hint="pip install 'holdfast[ssh]'") from None
    made: dict[str, Any] = {}
    try:
        if options.get("port") or port:
            made["port"] = int(options.get("port") or port or 22)
        made["connect_timeout"] = float(options.get("timeout", 30))
        int(options.get("max_sessions", _AT_ONCE))
    except ValueError:
        raise BadConfig(f"{label}: port, timeout and max_sessions are numbers", hint="mend .dvc/config") from None
    if options.get("user") or user:
        made["username"] = options.get("user") or unquote(user or "")
    secret = options.get("password") or (unquote(password) if password else None)
    if flag(options, "ask_password") and not secret:
        secret = ask(label, "password")
    if secret:
        made["password"] = secret
    if options.get("keyfile"):
        made["client_keys"] = [os.path.expanduser(options["keyfile"])]
    phrase = options.get("passphrase")
    if flag(options, "ask_passphrase") and not phrase:
        phrase = ask(label, "passphrase")
    if phrase:
        made["passphrase"] = phrase
    if not flag(options, "allow_agent", True):
        made["agent_path"] = None
    if not flag(options, "gss_auth"):
        made["gss_host"] = None
    return made
