"""Settings → live ports. The only place that picks backends; each is opened when it is first asked for."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import BadConfig, Damaged, NotFound
from holdfast.core.files import sync, sync_folder
from holdfast.core.identity import check_name
from holdfast.core.project import find_root
from holdfast.settings import Loaded, Settings, load

if TYPE_CHECKING:
    from holdfast.core.definitions import Project
    from holdfast.core.ports import Clock, Engine, Launcher, Ledger, Objects, OnlineStore, RunStore

HOME = ".holdfast"
_KEY_BYTES = 32


class Workspace:
    """A project and what its settings connect it to. Thread safe; close it, or use it in a ``with`` block.

    Attributes:
        root: the project's folder.
        home: ``root/.holdfast``, ignored by git.
        settings: what holdfast.toml, the environment and the command line add up to.
    """

    def __init__(self, root: Path, loaded: Loaded) -> None:
        self.root = root
        self.home = root / HOME
        self.loaded = loaded
        self.settings: Settings = loaded.settings
        self._opening = threading.RLock()
        self._open: dict[str, Any] = {}

    @classmethod
    def open(
        cls,
        start: Path | None = None,
        *,
        create: bool = True,
        environment: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Workspace:
        """The workspace of the project at or above ``start`` (the current folder).

        Args:
            create: make ``.holdfast`` where there is none.
            environment: table of ``[environments]`` to use; HOLDFAST_ENV when None.
            overrides: dotted setting → value from the command line.

        Raises:
            NotFound: there is no ``.holdfast`` and ``create`` is false, or ``start`` is no folder.
            BadConfig: holdfast.toml or the environment cannot be used.
        """
        root = find_root(start)
        if not root.is_dir():
            raise NotFound(f"{root} is not a folder", hint="check the path")
        workspace = cls(root, load(root, environment=environment, overrides=overrides))
        if not workspace.home.is_dir():
            if not create:
                raise NotFound(
                    f"there is no Holdfast store in {root}", hint="cd into the project, or run `holdfast init`"
                )
            workspace.home.mkdir(parents=True, exist_ok=True)
        ignore = workspace.home / ".gitignore"
        if create and not ignore.exists():
            ignore.write_text("*\n")
        return workspace

    # --- ports -----------------------------------------------------------------------------------------------------

    @cached_property
    def clock(self) -> Clock:
        """Business time."""
        from holdfast.backends.clock import ReplayClock, SystemClock

        return ReplayClock(self.home / "clock") if self.settings.clock == "replay" else SystemClock()

    @property
    def ledger(self) -> Ledger:
        """The chain and the current-state tables."""
        return self._once("ledger", self._ledger)  # type: ignore[no-any-return]

    def _ledger(self) -> Ledger:
        from holdfast.backends.ledger_sql import SqlLedger

        return SqlLedger(self._database_url(self.settings.ledger.url))

    @property
    def runs(self) -> RunStore:
        """Metric points, parameters and tags of runs."""
        return self._once("runs", self._runs)  # type: ignore[no-any-return]

    def _runs(self) -> RunStore:
        from holdfast.backends.runs_sql import SqlRunStore

        return SqlRunStore(self._database_url(self.settings.runs.url), synchronous=self.settings.runs.synchronous)

    @property
    def objects(self) -> Objects:
        """Bytes by their SHA-256."""
        return self._once("objects", self._objects)  # type: ignore[no-any-return]

    def _objects(self) -> Objects:
        url = self.settings.objects.url
        if "://" in url and not url.startswith("file://"):
            from holdfast.backends.objects_remote import RemoteObjects

            return RemoteObjects(url, cache=self.home / "cache" / "objects")
        from holdfast.backends.objects_local import LocalObjects

        return LocalObjects(self._folder(url))

    @property
    def online(self) -> OnlineStore:
        """The newest feature values by entity key."""
        return self._once("online", self._online)  # type: ignore[no-any-return]

    def _online(self) -> OnlineStore:
        url = self.settings.online.url
        if url.startswith(("redis://", "rediss://")):
            from holdfast.backends.online_redis import RedisOnlineStore

            return RedisOnlineStore(url)
        from holdfast.backends.online_embedded import EmbeddedOnlineStore

        return EmbeddedOnlineStore(self._folder(url))

    @property
    def engine(self) -> Engine:
        """SQL over files and Arrow tables."""
        return self._once("engine", self._engine)  # type: ignore[no-any-return]

    def _engine(self) -> Engine:
        from holdfast.backends.engine_duckdb import DuckdbEngine

        return DuckdbEngine(spill=self.home / "spill")

    @cached_property
    def launcher(self) -> Launcher:
        """Starts jobs."""
        from holdfast.backends.launch_local import LocalLauncher

        return LocalLauncher()

    # --- the project -----------------------------------------------------------------------------------------------

    def project(self) -> Project:
        """The user's definitions, run afresh.

        Raises:
            NotFound: there is no such module.
            BadDefinition: it does not run, or its definitions contradict each other.
        """
        from holdfast.core.project import load as load_project

        return load_project(self.root, self.settings.definitions)

    @cached_property
    def actor(self) -> str:
        """Who acts, as entries of the ledger name them: HOLDFAST_ACTOR, else user@host."""
        named = os.environ.get("HOLDFAST_ACTOR", "").strip()
        if named:
            return named
        import getpass
        import socket

        try:
            user = getpass.getuser()
        except (OSError, KeyError, ImportError):
            user = f"uid-{os.getuid()}"
        return f"{user}@{socket.gethostname()}"

    def path(self, *parts: str) -> Path:
        """A path under ``home``; the folders above it are made."""
        path = self.home.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def secret(self, name: str) -> bytes:
        """The store's key ``name``: 32 random bytes, made once, readable by the owner only."""
        path = self.home / "keys" / check_name(name, "key")
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            key = _make_key(path)
        if len(key) != _KEY_BYTES:
            raise Damaged(f"the key {name!r} is not {_KEY_BYTES} bytes long", hint=f"restore {path} from a backup")
        return key

    # --- lifetime --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close what was opened. Safe to call twice."""
        with self._opening:
            while self._open:
                _, port = self._open.popitem()
                close = getattr(port, "close", None)
                if close is not None:
                    close()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _once(self, name: str, make: Any) -> Any:
        port = self._open.get(name)
        if port is None:
            with self._opening:
                port = self._open.get(name)
                if port is None:
                    port = self._open[name] = make()
        return port

    def _database_url(self, url: str) -> str:
        """Relative SQLite paths start at the project."""
        scheme, separator, path = url.partition(":///")
        if scheme == "sqlite" and separator:
            return f"sqlite:///{self.root / path}"
        return url

    def _folder(self, url: str) -> Path:
        if url.startswith("file://"):
            path = url[len("file://") :]
            if not path.startswith("/"):
                raise BadConfig(f"{url!r} names another machine", hint="write file:///folder or a plain path")
            return Path(path)
        return self.root / Path(url).expanduser()


def _make_key(path: Path) -> bytes:
    """Write a new key; when two processes race, both return the one that was first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as f:
            f.write(secrets.token_bytes(_KEY_BYTES))
            f.flush()
            sync(f.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return path.read_bytes()
