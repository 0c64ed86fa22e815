"""The cache: objects named by MD5 under ``files/md5/<2>/<30>``, mode 0444, each under its name only when complete.

DVC takes mode 0444 as "verified" and never reads such an object again, so nothing gets it before its bytes are known.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from holdfast.core.errors import BadConfig, Conflict, Damaged, NotFound
from holdfast.core.files import sync_all, sync_file_system
from holdfast.data import crew, hashing, manifest
from holdfast.data.hashing import Digest
from holdfast.data.repository import Repository
from holdfast.data.tree import signature

READ_ONLY = 0o444
SHARED = 0o2775
TOGETHER = 4096
"""Objects that wait for one sync; what a kill can cost is so many temporary files."""
TOGETHER_ADOPTED = 1 << 16
"""Workspace files that wait for one sync; a kill costs that they are hashed again."""
FEW = 256
"""Small files up to which threads that copy them wait for each other longer than for the disk."""
LINKED = ("hardlink", "symlink")
"""Ways of placing where a workspace file and its object are one."""
_FICLONE = 0x40049409
_COUNTER = itertools.count()
_CANNOT_LINK = frozenset(
    {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.EMLINK}
)


class _Waiting(NamedTuple):
    """A complete file that is to be named: a temporary one of ours, which is renamed, or one of the workspace, which was
    read as ``digest`` and gets a second name."""

    file: str
    final: str
    digest: Digest | None = None


class Cache:
    """A DVC cache folder (or a local remote, which has the same layout). ``scratch`` is where files that go to the workspace
    are made: a killed process must not leave its own files among the user's data. ``shared`` makes its folders the group's."""

    def __init__(self, root: Path, scratch: str | None = None, *, shared: bool = False) -> None:
        self.root = root
        self.scratch = scratch
        self.shared = shared
        self._made: set[str] = set()
        self._near: dict[str, bool] = {}
        self._waiting: list[_Waiting] | None = None
        # Workspace files that became objects, with their stat since.
        self._shown: dict[str, tuple[int, int, int, int]] = {}
        self._lock = threading.Lock()

    def path(self, md5: str, *, legacy: bool = False) -> str:
        """Where an object lies. ``legacy`` is DVC 2.x's place."""
        return f"{self.root}/{md5[:2]}/{md5[2:]}" if legacy else _path(str(self.root), md5)

    def has(self, md5: str, *, legacy: bool = False) -> bool:
        return os.path.exists(self.path(md5, legacy=legacy))

    def present(self, wanted: Iterable[str], *, legacy: bool = False) -> set[str]:
        """Those of the wanted objects that are there. Many are looked up by listing, few one by one."""
        names = set(wanted)
        if len(names) < 256:
            return {n for n in names if self.has(n, legacy=legacy)}
        found: set[str] = set()
        base = f"{self.root}" if legacy else f"{self.root}/files/md5"
        for prefix in {n[:2] for n in names}:
            try:
                found.update(map(prefix.__add__, os.listdir(f"{base}/{prefix}")))
            except FileNotFoundError:
                continue
        return names & found

    def all(self) -> list[str]:
        """The names of all objects, in order."""
        out = []
        base = self.root / "files" / "md5"
        for prefix in sorted(_names(base)):
            if len(prefix) == 2:
                out += [prefix + rest for rest in sorted(_names(base / prefix)) if len(rest) in (30, 34)]
        return out

    def all_legacy(self) -> list[str]:
        """The names of all objects that DVC 2.x put here, in order."""
        out = []
        for prefix in sorted(_names(self.root)):
            if len(prefix) == 2 and all(c in "0123456789abcdef" for c in prefix):
                out += [prefix + rest for rest in sorted(_names(self.root / prefix)) if len(rest) in (30, 34)]
        return out

    def read(self, md5: str, *, legacy: bool = False) -> bytes:
        """A small object's bytes, verified.

        Raises:
            NotFound: it is not here.
            Damaged: the bytes have another name.
        """
        try:
            fd, _ = hashing.open_regular(self.path(md5, legacy=legacy))
        except FileNotFoundError:
            raise NotFound(f"object {md5} is not in the cache", hint="get it with `holdfast data pull`") from None
        with open(fd, "rb") as f:
            data = f.read(manifest.LARGEST)
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5[:32]:
            raise Damaged(
                f"object {md5} has other bytes than its name says",
                hint="find and mend such objects with `holdfast data scrub --repair`",
            )
        return data

    def members(self, md5: str, *, legacy: bool = False) -> dict[str, str]:
        """path → md5 of a folder's manifest.

        Raises:
            NotFound: the manifest is not here.
            Damaged: its bytes have another name.
            BadInput: it is not a manifest that may be followed.
        """
        return manifest.parse(self.read(md5, legacy=legacy), md5)

    # --- writing ---

    def temporary(self) -> str:
        """A fresh name on the cache's own file system; what a killed process leaves there is swept by gc."""
        folder = f"{self.root}/holdfast-tmp"
        self._folder(folder)
        return f"{folder}/{os.getpid()}-{next(_COUNTER)}"

    def aside(self, target: str) -> str:
        """A fresh name from which a rename to ``target`` is one step: on its file system, outside of it where that can be."""
        folder = os.path.dirname(target)
        if self.scratch is not None:
            near = self._near.get(folder)
            if near is None:
                self._folder(self.scratch)
                near = self._near[folder] = os.stat(folder).st_dev == os.stat(self.scratch).st_dev
            if near:
                return f"{self.scratch}/{os.getpid()}-{next(_COUNTER)}"
        return f"{folder}/.hf-{os.getpid()}-{next(_COUNTER)}.tmp"

    def sweep_aside(self) -> None:
        """Remove what killed processes left; the caller holds the repository's lock."""
        if self.scratch is not None:
            for name in _names(Path(self.scratch)):
                if not _alive(name.split("-")[0]):
                    with suppress(OSError):
                        os.unlink(f"{self.scratch}/{name}")

    def _folder(self, folder: str) -> None:
        if folder not in self._made:
            if self.shared and folder != self.scratch:
                make_shared(folder)
            else:
                os.makedirs(folder, exist_ok=True)
            self._made.add(folder)

    def place(self, temporary: str, md5: str, *, legacy: bool = False, read_only: bool = False) -> None:
        """Give a complete, verified file its final name, once its bytes are on the disk: after a power cut a name never
        stands for fewer bytes. Inside ``settling`` that waits for the others. ``read_only`` says that it is so already."""
        if not read_only:
            os.chmod(temporary, READ_ONLY)
        self._name(_Waiting(temporary, self.path(md5, legacy=legacy)))

    def _name(self, one: _Waiting) -> None:
        waiting = self._waiting
        if waiting is None:
            self._settle([one])
            return
        with self._lock:
            waiting.append(one)
            if len(waiting) >= (TOGETHER if one.digest is None else TOGETHER_ADOPTED):
                self._settle(waiting)

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Objects placed inside get their names together, and are durable when the block ends: one sync for thousands of
        files. What was complete before an error gets its name too, so that running again goes on from there."""
        if self._waiting is not None:
            yield
            return
        self._waiting = []
        try:
            yield
        finally:
            waiting, self._waiting = self._waiting, None
            self._settle(waiting)

    def settle(self) -> None:
        """Give what waits its name now."""
        with self._lock:
            self._settle(self._waiting or [])

    def _settle(self, waiting: list[_Waiting]) -> None:
        if not waiting:
            return
        batch = waiting.copy()
        waiting.clear()  # whatever fails here is not tried a second time on the way out
        self._folder(str(self.root))
        sync_all([one.file for one in batch], str(self.root))
        folders = {one.final[: one.final.rindex("/")] for one in batch}
        for folder in folders:
            self._folder(folder)
        for one in batch:
            if one.digest is None:
                os.rename(one.file, one.final)
        self._link_objects([one for one in batch if one.digest is not None])
        # The names as well: what points at them is written next.
        sync_all(list(folders), str(self.root))

    def put(self, data: bytes, md5: str, *, legacy: bool = False) -> None:
        """Store bytes under their name; nothing if they are there."""
        if self.has(md5, legacy=legacy):
            return
        temporary = self.temporary()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, READ_ONLY)
        try:
            hashing.write_all(fd, data)
        finally:
            os.close(fd)
        self.place(temporary, md5, legacy=legacy)

    def take_in(self, path: str, links: tuple[str, ...], *, on_bytes: Callable[[int], None] | None = None) -> Digest:
        """Hash a workspace file and have its bytes in the cache, by the first way of ``links`` that works. Where that is a
        link, the file itself becomes the object; ``show`` then makes the workspace what it is to be.

        Raises:
            Conflict: the file changed meanwhile; nothing was stored.
        """
        if links[0] in LINKED:
            return self._adopt(path, hashing.digest(path, on_bytes=on_bytes))
        if os.stat(path).st_size <= hashing.SMALL:
            return self._take_small(path)
        temporary = self.temporary()
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if "reflink" in links and _clone(path, fd):
                mine = hashing.digest(temporary, on_bytes=on_bytes)
                status = os.stat(path)
                digest = Digest(mine.md5, mine.sha256, signature(status), status.st_mode & 0o7777)
                if mine.size != digest.size:
                    digest = hashing.digest(path, on_bytes=on_bytes)
            else:
                digest = hashing.digest(path, copy_to=fd, on_bytes=on_bytes)
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
        if self.has(digest.md5):
            os.unlink(temporary)
        else:
            self.place(temporary, digest.md5)
        return digest

    def _take_small(self, path: str) -> Digest:
        return self._taken(taken((path, self.temporary(), str(self.root))))

    def _taken(self, one: _Taken) -> Digest:
        md5, sha256, stat, mode, temporary = one
        if temporary is not None:
            self.place(temporary, md5, read_only=True)
        return Digest(md5, sha256, stat, mode)

    def _adopt(self, path: str, digest: Digest) -> Digest:
        """Have the workspace file itself become the object. Until then it may be written to: it is looked at once more
        before."""
        if digest.size:
            self._name(_Waiting(path, self.path(digest.md5), digest))
        else:
            self.put(b"", digest.md5)  # as DVC: an empty file is not linked
        return digest

    def take_in_many(
        self, paths: Sequence[str], links: tuple[str, ...], *, settled: Callable[[], int] | None = None
    ) -> Iterator[Digest]:
        """``take_in`` for many small files, in their order. ``settled`` is what ``make_settled`` gave before.

        Raises:
            Conflict: a file changed meanwhile.
        """
        if links[0] in LINKED:
            if settled is None and len(paths) > hashing.GROUP:
                settled = self.make_settled()
            yield from self._adopt_many(paths, settled() if settled is not None else 0)
        else:
            root = str(self.root)
            items = [(path, self.temporary(), root) for path in paths]
            with self.discarding([temporary for _, temporary, _ in items]) as still:
                for one in crew.in_processes(taken, items, turns=len(items) <= FEW):
                    digest = self._taken(one)
                    still.popleft()
                    yield digest

    def make_settled(self) -> Callable[[], int]:
        """Have what lies on the cache's file system reach the disk, beside whatever the caller does. To be called for the
        moment, in ns of that file system's clock, such that all files last touched before it have."""
        marker = self.temporary()
        fd = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            moment = os.fstat(fd).st_ctime_ns
        finally:
            os.close(fd)
            os.unlink(marker)
        settled: list[bool] = []

        def sync() -> None:
            with suppress(OSError):  # then each is synced before it is named, which fails again and is told
                settled.append(sync_file_system(str(self.root)))

        thread = threading.Thread(target=sync, daemon=True)
        thread.start()

        def wait() -> int:
            thread.join()
            return moment if settled == [True] else 0

        return wait

    def _adopt_many(self, paths: Sequence[str], before: int) -> Iterator[Digest]:
        """What was last touched ``before`` is on the disk, and gets its second name in the turn it is hashed in."""
        root, named = str(self.root), set()
        self._folder(f"{root}/files/md5")
        items = [(path, root, before) for path in paths]
        for path, one in zip(paths, crew.in_processes(adopted, items, turns=True), strict=True):
            md5, sha256, stat, mode, made = one
            digest = Digest(md5, sha256, stat, mode)
            if isinstance(made, tuple):
                self._shown[path] = made
                named.add(digest.md5[:2])
            elif not made:
                self._adopt(path, digest)
            yield digest
        sync_all([f"{root}/files/md5/{prefix}" for prefix in named], root)

    def _link_objects(self, adopted: list[_Waiting]) -> None:
        """Give workspace files their second names, read-only. Nothing where an object is there, or its file changed."""
        items: list[tuple[str, str, int, int, int]] = [
            (one.file, one.final, *_moment_of(one.digest)) for one in adopted if one.digest is not None
        ]
        for one, made in zip(adopted, crew.in_processes(linked, items, turns=True), strict=True):
            if made is False and one.digest is not None:
                self._copy_object(one.file, one.final, one.digest)
            elif isinstance(made, tuple):
                self._shown[one.file] = made

    def _copy_object(self, path: str, final: str, digest: Digest) -> None:
        temporary = self.temporary()
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if hashing.copy_md5(path, fd) != digest.md5:
                os.unlink(temporary)
                return
        finally:
            os.close(fd)
        os.chmod(temporary, READ_ONLY)
        sync_all([temporary], str(self.root))
        os.rename(temporary, final)

    def show(self, path: str, digest: Digest, kind: str) -> Digest:
        """Have a workspace file that was taken in be a link to its object, which has its name by now.

        Raises:
            Conflict: the file changed after it was hashed; it stays as it is.
        """
        if not digest.size:
            return digest  # as DVC: an empty file is not linked
        shown = self._shown.pop(path, None)
        if shown is None or kind == "symlink":
            final, status = self.path(digest.md5), os.stat(path)
            if _moment(status) != _moment_of(digest) or not os.path.exists(final):
                raise Conflict(f"{path} changed while it was read", hint="wait until it is written, then run again")
            stored = os.stat(final)
            if kind == "symlink" or (not os.path.samestat(status, stored) and status.st_dev == stored.st_dev):
                self.link_into(final, path, (kind, "copy"))
            shown = signature(os.stat(path))
        return Digest(digest.md5, digest.sha256, shown, digest.mode)

    @contextmanager
    def discarding(self, temporaries: Iterable[str]) -> Iterator[deque[str]]:
        """Of the temporary files a block makes, remove what is left in the given queue at its end."""
        still = deque(temporaries)
        try:
            yield still
        finally:
            for name in still:
                with suppress(OSError):
                    os.unlink(name)

    # --- placing ---

    def link_into(self, source: str, target: str, links: tuple[str, ...], *, executable: bool = False) -> str:
        """Put an object at a workspace path in one step, replacing what is there. The way that worked.

        Raises:
            BadConfig: none of the configured ways works between these two places.
        """
        if links and links[0] == "hardlink" and self._link_new(source, target):
            if executable:
                make_executable(target)
            return "hardlink"
        temporary = self.aside(target)
        for kind in links:
            try:
                made = self._link(kind, source, temporary, executable)
            except OSError as error:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
                if kind == "copy" or error.errno not in _CANNOT_LINK:
                    raise
                continue
            if made:
                os.rename(temporary, target)
                return kind
        raise BadConfig(f"none of cache.type {', '.join(links)} works for {target}", hint="add copy to cache.type")

    def _link_new(self, source: str, target: str) -> bool:
        """Hard-link where nothing is in the way, which is one step by itself."""
        try:
            if os.stat(source).st_size:
                os.link(source, target)
                return True
        except OSError as error:
            if error.errno != errno.EEXIST and error.errno not in _CANNOT_LINK:
                raise
        return False

    def _link(self, kind: str, source: str, temporary: str, executable: bool) -> bool:
        if kind == "hardlink" and os.stat(source).st_size == 0:
            kind = "copy"
        if kind == "hardlink":
            os.link(source, temporary)
        elif kind == "symlink":
            os.symlink(os.path.abspath(source), temporary)
        else:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                if kind == "reflink":
                    if not _clone(source, fd):
                        os.unlink(temporary)
                        return False
                else:
                    _copy(source, fd)
            finally:
                os.close(fd)
        if executable:
            make_executable(temporary)
        return True


def make_executable(path: str) -> None:
    """Let the owner run a file; where it is a link, its object is the file, as with DVC. Another owner's stays as it is."""
    with suppress(PermissionError):
        os.chmod(path, os.stat(path).st_mode & 0o7777 | stat.S_IXUSR)


_Taken = tuple[str, str, tuple[int, int, int, int], int, str | None]


def taken(item: tuple[str, str, str]) -> _Taken:
    """Copy a small file, given as (its path, a fresh name, the cache), read-only under that name unless its object is in the cache.
    As ``hashing.named``, and the name of the copy if one was made.

    Raises:
        Conflict: the file changed while it was read.
    """
    path, temporary, root = item
    fd, before = hashing.open_regular(path)
    try:
        data = os.read(fd, before.st_size + 1)
        after = os.fstat(fd)
    finally:
        os.close(fd)
    if signature(before) != signature(after) or len(data) != after.st_size:
        raise hashing.changed(path)
    md5 = hashing.md5_of(data)
    made = not os.path.exists(_path(root, md5))
    if made:
        new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(temporary, new, 0o600)
        except FileExistsError:
            os.unlink(temporary)  # a hand died over it
            fd = os.open(temporary, new, 0o600)
        try:
            hashing.write_all(fd, data)
            os.fchmod(fd, READ_ONLY)
        finally:
            os.close(fd)
    return md5, hashlib.sha256(data).hexdigest(), signature(after), after.st_mode & 0o7777, temporary if made else None


_Linked = tuple[int, int, int, int] | bool
"""A file's stat since it has its second name; False where the file system cannot; True where there is nothing to do: another
file has the name, or this one is not what was hashed."""


def linked(item: tuple[str, str, int, int, int]) -> _Linked:
    """Give a file, (path, second name, size, mtime in ns, inode), its second name, read-only."""
    path, final, *moment = item
    fd, status = hashing.open_regular(path)
    try:
        return True if _moment(status) != tuple(moment) else _second_name(path, final, fd, status)
    finally:
        os.close(fd)


def adopted(item: tuple[str, str, int]) -> tuple[str, str, tuple[int, int, int, int], int, _Linked | None]:
    """Hash a file, (path, the cache, a moment in ns), and make it the object as ``linked`` does; None instead where it was
    touched since that moment, or is empty.

    Raises:
        Conflict, BadInput: as ``hashing.digest``.
    """
    path, root, before = item
    fd, status = hashing.open_regular(path)
    try:
        md5, sha256, count = hashing.small(fd, status.st_size)
        stat = signature(status)
        if signature(os.fstat(fd)) != stat or count != stat[0]:
            raise hashing.changed(path)
        made = None
        if count and status.st_ctime_ns < before:
            made = _second_name(path, _path(root, md5), fd, status)
    finally:
        os.close(fd)
    return md5, sha256, stat, status.st_mode & 0o7777, made


def _second_name(path: str, final: str, fd: int, hashed: os.stat_result) -> _Linked:
    """``fd`` is the open file, which was last seen as ``hashed``."""
    try:
        os.fchmod(fd, READ_ONLY)  # first, so that whatever has an object's name is protected
    except PermissionError:
        return False  # somebody else's file stays as it is
    stays = False
    try:
        made = _link(path, final)
        stays = made or os.path.samestat(hashed, os.stat(final))
        status = os.fstat(fd)
        replaced = made and status.st_nlink != hashed.st_nlink + 1 and not os.path.samestat(status, os.stat(final))
        if replaced or _moment(status) != _moment(hashed):
            if made:
                os.unlink(final)
                stays = False
            return True
        return signature(status) if stays else True
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        return False
    finally:
        if not stays:
            os.fchmod(fd, hashed.st_mode & 0o7777)


def _link(path: str, final: str) -> bool:
    """Whether the name was free."""
    try:
        os.link(path, final)
    except FileExistsError:
        return False
    except FileNotFoundError:
        head = os.path.dirname(final)
        # A hand in another process is not told what the cache is; the folder above shows it.
        if os.stat(os.path.dirname(head)).st_mode & stat.S_ISGID:
            make_shared(head)
        else:
            os.makedirs(head, exist_ok=True)
        os.link(path, final)
    return True


def make_shared(folder: str) -> None:
    """``os.makedirs`` with the mode that DVC gives the folders of a group's cache, whatever the umask."""
    try:
        os.mkdir(folder)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_shared(os.path.dirname(folder))
        make_shared(folder)
        return
    os.chmod(folder, SHARED)


def _path(root: str, md5: str) -> str:
    return f"{root}/files/md5/{md5[:2]}/{md5[2:]}"


def _moment(status: os.stat_result) -> tuple[int, int, int]:
    """What stays the same where a file gets a second name and becomes read-only."""
    return status.st_size, status.st_mtime_ns, status.st_ino


def _moment_of(digest: Digest) -> tuple[int, int, int]:
    size, mtime, _, inode = digest.stat
    return size, mtime, inode


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OverflowError, PermissionError):
        return True
    return True


_NO_CLONE: set[int] = set()
"""Devices that were found unable to clone; asking again for each of ten thousand files is not free."""


def _clone(source: str, target_fd: int) -> bool:
    device = os.fstat(target_fd).st_dev
    if device in _NO_CLONE:
        return False
    with open(source, "rb") as f:
        try:
            fcntl.ioctl(target_fd, _FICLONE, f.fileno())
        except OSError as error:
            if error.errno in _CANNOT_LINK:
                _NO_CLONE.add(device)
                return False
            raise
    return True


def _copy(source: str, target_fd: int) -> None:
    """Copy in the kernel where it can."""
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size <= hashing.SMALL:
            hashing.write_all(target_fd, os.read(fd, size + 1))
            return
        while True:
            try:
                if not os.copy_file_range(fd, target_fd, 1 << 30):
                    return
            except OSError as error:
                if error.errno not in _CANNOT_LINK:
                    raise
                while piece := os.read(fd, hashing.PIECE):
                    hashing.write_all(target_fd, piece)
                return
    finally:
        os.close(fd)


def of(repo: Repository) -> Cache:
    """The cache of a repository."""
    return Cache(repo.cache, f"{repo.state}/placing", shared=repo.shared)
