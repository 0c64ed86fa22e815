"""What was hashed before: per tracked path one small file of (path, stat, MD5, SHA-256), so that unchanged bytes are never
read twice. It can be deleted at any time; it is only ever believed where size, mtime, ctime and inode all agree."""

from __future__ import annotations

import hashlib
import os
import struct
import time
import zlib
from array import array
from binascii import hexlify
from pathlib import Path

from holdfast.data.tree import Listing

MAGIC = b"HFIX2\n"
_HEAD = struct.Struct("<6sIQI36s64s")
"""Magic, number of files, bytes of the paths, CRC of all that follows, the names of the whole. Then the paths with NUL between
them, the stats (4 int64 a file, native), the MD5s, the SHA-256s. Not a general format: read at every command, so read in one go."""
RACY_NS = 50_000_000
"""A file changed this shortly before it was looked at may change again without its times moving; it is not believed."""


class Index:
    """Known digests of one tracked path, in the order of the last walk. ``md5``/``sha256`` are raw bytes, 16 and 32 a
    file; ``md5_dir``/``tree`` name the whole when every file of it is known. ``manifest`` is not kept: the bytes that
    ``md5_dir`` was worked out from, if it was just now."""

    __slots__ = ("manifest", "md5", "md5_dir", "paths", "sha256", "stats", "tree")

    def __init__(
        self,
        paths: list[str] | None = None,
        stats: array[int] | None = None,
        md5: bytes = b"",
        sha256: bytes = b"",
        md5_dir: str = "",
        tree: str = "",
    ) -> None:
        self.paths = paths if paths is not None else []
        self.stats = stats if stats is not None else array("q")
        self.md5 = md5
        self.sha256 = sha256
        self.md5_dir = md5_dir
        self.tree = tree
        self.manifest = b""

    def digest(self, at: int) -> tuple[str, str]:
        return hexlify(self.md5[16 * at : 16 * at + 16]).decode(), hexlify(self.sha256[32 * at : 32 * at + 32]).decode()

    def same_as(self, listing: Listing) -> bool:
        """Nothing was added, removed or touched since; two comparisons in C."""
        return self.stats == listing.stats and self.paths == listing.paths

    def forget_half_known(self) -> None:
        """Files placed from the cache by a link have an MD5 and no SHA-256 yet: take them for unread."""
        at = self.sha256.find(bytes(32))
        if at < 0:
            return
        for at in range(len(self.paths)):
            if not any(self.sha256[32 * at : 32 * at + 32]):
                self.stats[4 * at] = -1

    def unchanged(self, listing: Listing) -> list[int]:
        """Per file of the listing its place in this index, or -1 where it must be read."""
        if self.same_as(listing):
            return list(range(len(listing.paths)))
        if self.paths == listing.paths:
            before, now = (zip(*[iter(stats)] * 4, strict=True) for stats in (self.stats, listing.stats))
            return [at if a == b else -1 for at, (a, b) in enumerate(zip(before, now, strict=True))]
        known = {path: at for at, path in enumerate(self.paths)}
        mine, theirs = self.stats, listing.stats
        out = []
        for at, path in enumerate(listing.paths):
            old = known.get(path, -1)
            out.append(old if old >= 0 and mine[4 * old : 4 * old + 4] == theirs[4 * at : 4 * at + 4] else -1)
        return out


def location(state: Path, place: Path) -> Path:
    """Where the index of a tracked path is kept."""
    return state / "index" / hashlib.md5(os.fsencode(place), usedforsecurity=False).hexdigest()


def load(state: Path | None, place: Path) -> Index:
    """The index of a tracked path; an empty one if there is none that can be read."""
    if state is None:
        return Index()
    try:
        raw = location(state, place).read_bytes()
        magic, count, length, check, md5_dir, tree = _HEAD.unpack_from(raw)
        body = memoryview(raw)[_HEAD.size :]
        if magic != MAGIC or len(body) != length + 80 * count or zlib.crc32(body) != check:
            return Index()
        paths = bytes(body[:length]).decode().split("\0") if count else []
        if len(paths) != count:
            return Index()
    except (OSError, ValueError, struct.error):
        return Index()
    numbers = array("q")
    numbers.frombytes(body[length : length + 32 * count])
    digests = length + 32 * count
    return Index(
        paths, numbers, bytes(body[digests : digests + 16 * count]), bytes(body[digests + 16 * count :]),
        md5_dir.rstrip(b"\0").decode(), tree.rstrip(b"\0").decode(),
    )  # fmt: skip


def save(state: Path | None, place: Path, index: Index, *, looked_at: int | None = None) -> None:
    """Keep an index. Files that changed just before ``looked_at`` (ns) are kept as unknown. Failing to keep it costs
    time later and nothing else, so it is not an error."""
    if state is None:
        return
    stats = index.stats
    limit = (looked_at if looked_at is not None else time.time_ns()) - RACY_NS
    times = zip(stats[1::4], stats[2::4], strict=True)
    racy = [at for at, (mtime, ctime) in enumerate(times) if mtime >= limit or ctime >= limit]
    if racy:
        stats = array("q", stats)
        for at in racy:
            stats[4 * at] = -1
    file = location(state, place)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    names = "\0".join(index.paths).encode()
    body = names + stats.tobytes() + index.md5 + index.sha256
    raw = (
        _HEAD.pack(MAGIC, len(index.paths), len(names), zlib.crc32(body), index.md5_dir.encode(), index.tree.encode())
        + body
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(raw)
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
