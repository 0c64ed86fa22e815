"""Where business time comes from: the machine, or a replay that moves it by hand."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from holdfast.core.errors import BadInput, NotFound


class SystemClock:
    """Business time is the machine's time."""

    def now(self) -> int:
        """Microseconds UTC."""
        return time.time_ns() // 1_000


class ReplayClock:
    """Business time is what a file says, so that every process of a replay agrees on it.

    Args:
        path: a file with one integer, microseconds UTC; replaced atomically by ``set``, read again at each ``now``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def now(self) -> int:
        """Microseconds UTC, as last set by any process.

        Raises:
            NotFound: the replay has not set a time yet.
            BadInput: the file holds something else than an integer.
        """
        try:
            text = self._path.read_text("ascii")
        except FileNotFoundError:
            raise NotFound(
                "the replay clock has no time yet",
                hint='start the replay, which sets it, or use clock = "system" in holdfast.toml',
            ) from None
        try:
            return int(text)
        except ValueError:
            raise BadInput(
                f"{self._path.name} holds no instant", hint=f"remove {self._path} and start the replay again"
            ) from None

    def set(self, us: int) -> None:
        """Move the time, forwards or backwards; readers see the old or the new instant, never a part of one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            temporary.write_text(str(int(us)), "ascii")
            temporary.replace(self._path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
