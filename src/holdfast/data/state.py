"""What was hashed before: per tracked path one small file of (path, stat, MD5, SHA-256), so that unchanged bytes are never
read twice. It can be deleted at any time; it is only ever believed where size, mtime, ctime and inode all agree."""

from __future__ import annotations

import hashlib
import os
import time
from array import array
from binascii import hexlify
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from holdfast.data.tree import Listing

FORMAT = 1
RACY_NS = 50_000_000
"""A file changed this shortly before it was looked at may change again without its times moving; it is not believed."""


@dataclass
class Index:
    """Known digests of one tracked path, in the order of the last walk. ``md5``/``sha256`` are raw bytes, 16 and 32 a
    file; ``md5_dir``/``tree`` name the whole when every file of it is known."""

    paths: list[str] = field(default_factory=list)
    stats: array[int] = field(default_factory=lambda: array("q"))
    md5: bytes = b""
    sha256: bytes = b""
    md5_dir: str = ""
    tree: str = ""

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
        form, paths, stats, md5, sha256, md5_dir, tree = msgspec.msgpack.decode(
            raw, type=tuple[int, list[str], bytes, bytes, bytes, str, str]
        )
    except (OSError, msgspec.MsgspecError):
        return Index()
    numbers = array("q")
    if form != FORMAT or len(stats) != 32 * len(paths) or len(md5) != 16 * len(paths) or len(sha256) != 32 * len(paths):
        return Index()
    numbers.frombytes(stats)
    return Index(paths, numbers, md5, sha256, md5_dir, tree)


def save(state: Path | None, place: Path, index: Index, *, looked_at: int | None = None) -> None:
    """Keep an index. Files that changed just before ``looked_at`` (ns) are kept as unknown. Failing to keep it costs
    time later and nothing else, so it is not an error."""
    if state is None:
        return
    stats = index.stats
    limit = (looked_at if looked_at is not None else time.time_ns()) - RACY_NS
    if len(stats) and max(max(stats[1::4]), max(stats[2::4])) >= limit:
        stats = array("q", stats)
        for at in range(0, len(stats), 4):
            if stats[at + 1] >= limit or stats[at + 2] >= limit:
                stats[at] = -1
    file = location(state, place)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    raw = msgspec.msgpack.encode(
        (FORMAT, index.paths, stats.tobytes(), index.md5, index.sha256, index.md5_dir, index.tree)
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(raw)
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
