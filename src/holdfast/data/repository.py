"""A DVC repository as it lies on disk: where it is, its configuration, its lock. Layout as DVC 3.x writes it."""

from __future__ import annotations

import configparser
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from holdfast.core.errors import BadConfig, Conflict, NotFound
from holdfast.data.text import read as read_text

MARKS = ("holdfast.toml", "definitions.py", ".holdfast")
IGNORED_BY_DVC_FOLDER = "/config.local\n/tmp\n/cache\n"
DVCIGNORE = "# Add patterns of files dvc should ignore, which could improve\n# the performance. Learn more at\n# https://dvc.org/doc/user-guide/dvcignore\n"
_PLACES = frozenset({"url", "dir", "credentialpath", "configpath", "keyfile", "cert_path", "key_path"})
"""Options that name a file or a folder; as with DVC, relative to the folder of the file they are written in."""
LINK_TYPES = ("reflink", "hardlink", "symlink", "copy")


class Repository(NamedTuple):
    """The folder that holds ``.dvc``, and what its configuration says."""

    root: Path
    scm: Path | None
    config: Mapping[str, Mapping[str, str]] = MappingProxyType({})

    @property
    def dvc(self) -> Path:
        return self.root / ".dvc"

    @property
    def state(self) -> Path:
        """Where Holdfast keeps what it can always work out again; DVC's own .gitignore covers it."""
        return self.dvc / "tmp" / "holdfast"

    @property
    def cache(self) -> Path:
        """The cache folder (the one that holds ``files/md5``)."""
        value = self.config.get("cache", {}).get("dir")
        return (self.dvc / os.path.expanduser(value)).resolve() if value else self.dvc / "cache"

    @property
    def links(self) -> tuple[str, ...]:
        """Ways of placing files, in order of preference.

        Raises:
            BadConfig: cache.type names something else.
        """
        value = self.config.get("cache", {}).get("type", "reflink,copy")
        kinds = tuple(part.strip().strip("'\"") for part in value.split(",") if part.strip())
        for kind in kinds:
            if kind not in LINK_TYPES:
                raise BadConfig(f"cache.type in .dvc/config has {kind!r}", hint=f"use some of {', '.join(LINK_TYPES)}")
        return kinds

    @property
    def shared(self) -> bool:
        """Whether a group shares the cache: its folders are the group's to write to."""
        return self.config.get("cache", {}).get("shared", "").lower() == "group"

    @property
    def autostage(self) -> bool:
        return self.config.get("core", {}).get("autostage", "false").lower() == "true"

    def remote_options(self, name: str | None = None) -> tuple[str, Mapping[str, str]]:
        """(name, options) of a remote; without a name the default one.

        Raises:
            NotFound: no such remote, or no default.
        """
        remotes = {k[len('remote "') : -1]: v for k, v in self.config.items() if k.startswith('remote "')}
        name = name or self.config.get("core", {}).get("remote")
        if name is None:
            raise NotFound("no default remote", hint="name one with --remote, or set core.remote in .dvc/config")
        if name not in remotes:
            raise NotFound.among("remote", name, remotes)
        return name, remotes[name]

    @contextmanager
    def lock(self, *, wait: float = 3.0) -> Iterator[None]:
        """Hold DVC's own lock (BSD flock on ``.dvc/tmp/lock``), so that both tools may work on one repository.

        Raises:
            Conflict: another process holds it for longer than ``wait`` seconds.
        """
        import fcntl

        folder = self.dvc / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            until = time.monotonic() + wait
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                        raise Conflict(
                            f"the repository is locked by process {holder}",
                            hint="another dvc or holdfast command is at work here: wait for it to end, then run again",
                        ) from None
                    time.sleep(0.05)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f" {os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(fd)


def find(start: Path) -> Repository | None:
    """The repository at or above ``start``, or None. The search stops at the git work tree's top."""
    start = Path(os.path.abspath(start))
    for folder in (start, *start.parents):
        if (folder / ".dvc").is_dir():
            return open_at(folder)
        if (folder / ".git").exists():
            return None
    return None


def open_at(root: Path) -> Repository:
    """The repository whose ``.dvc`` lies in ``root``."""
    config = read_config(root / ".dvc")
    no_scm = config.get("core", {}).get("no_scm", "false").lower() == "true"
    return Repository(root, None if no_scm else git_top(root), config)


def require(start: Path) -> Repository:
    """As ``find``.

    Raises:
        NotFound: there is none.
    """
    repo = find(start)
    if repo is None:
        raise NotFound(f"no data is tracked at or above {start}", hint="track some with `holdfast data add PATH`")
    return repo


def ensure(start: Path) -> Repository:
    """The repository at or above ``start``; where there is none, one is begun as ``dvc init`` would.

    It begins at the nearest Holdfast project, else at the top of the git work tree, else in ``start``.
    """
    repo = find(start)
    if repo is not None:
        return repo
    start = Path(os.path.abspath(start))
    git = git_top(start)
    project = project_at(start)
    if project is not None and git is not None and git not in (project, *project.parents):
        project = None
    return initialise(project or git or start)


def project_at(start: Path) -> Path | None:
    """The Holdfast project at or above a folder, found without loading what reads definitions."""
    return next((f for f in (start, *start.parents) if any((f / mark).exists() for mark in MARKS)), None)


def initialise(root: Path) -> Repository:
    """Make ``.dvc`` with what ``dvc init`` puts there."""
    dvc = root / ".dvc"
    (dvc / "tmp").mkdir(parents=True, exist_ok=True)
    _write_new(dvc / ".gitignore", IGNORED_BY_DVC_FOLDER)
    _write_new(dvc / "config", "" if git_top(root) else "[core]\n    no_scm = True\n")
    _write_new(root / ".dvcignore", DVCIGNORE)
    return open_at(root)


def _write_new(path: Path, text: str) -> None:
    if not path.exists():
        path.write_text(text, encoding="utf-8")


def is_top(folder: Path) -> bool:
    """Whether a folder is the top of a DVC repository, a git work tree or a Holdfast project."""
    return any((folder / mark).exists() for mark in (".dvc", ".git", *MARKS))


def in_git(folder: Path) -> bool:
    """Whether a folder lies in a git work tree."""
    return git_top(folder) is not None


def git_top(folder: Path) -> Path | None:
    """The top of the git work tree a folder lies in, or None."""
    return next((f for f in (folder, *folder.parents) if (f / ".git").exists()), None)


def read_config(dvc: Path) -> dict[str, dict[str, str]]:
    """``.dvc/config`` and over it ``.dvc/config.local``, under them the user's and the system's files.

    Sections are named as in ``remote "name"``, without DVC's outer quotes.

    Raises:
        BadConfig: a file cannot be read as INI.
    """
    merged: dict[str, dict[str, str]] = {}
    for path in (*_outer_configs(), dvc / "config", dvc / "config.local"):
        try:
            text = read_text(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not text.strip():
            continue
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(text, source=str(path))
        except configparser.Error as error:
            raise BadConfig(
                f"{path} cannot be read: {str(error).splitlines()[0]}",
                hint="mend the line, or write it anew with `dvc config`",
            ) from None
        for section in parser.sections():
            values = {key: _plain(value) for key, value in parser.items(section)}
            for key in _PLACES.intersection(values):
                values[key] = _absolute_url(values[key], path.parent)
            merged.setdefault(section.strip("'"), {}).update(values)
    return merged


def _plain(value: str) -> str:
    """A value as DVC's reader takes it: quotes taken off, what follows ``#`` outside of them dropped."""
    value = value.strip()
    if value[:1] in ("'", '"') and value[:1]:
        end = value.find(value[0], 1)
        if end > 0:
            return value[1:end]
    return value.partition("#")[0].strip()


def _outer_configs() -> list[Path]:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    system = os.environ.get("DVC_SYSTEM_CONFIG_DIR") or "/etc/xdg/dvc"
    user = os.environ.get("DVC_GLOBAL_CONFIG_DIR") or f"{home}/dvc"
    return [Path(system, "config"), Path(user, "config")]


def _absolute_url(url: str, folder: Path) -> str:
    """A relative folder is relative to the folder of the file that names it; URLs stay."""
    if "://" in url:
        return url
    return os.path.normpath(folder / os.path.expanduser(url))
