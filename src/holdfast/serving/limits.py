"""What a replica's models may take: memory and time. Measured here, acted on by the replica.

Two lines are drawn. At ``budget`` (resident memory) the replica acts: a challenger or shadow is taken out of service, and a
replica that is still too large ends, to be started anew. Half as much above it (and what
allocators reserve) the kernel acts: an allocation fails inside
the model that asks for it, which is that model's failure and nobody else's.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

SHARE = 0.7
HARD = 1.5
RESERVED = 256 << 20
_STATM = Path("/proc/self/statm")
_CGROUP = Path("/sys/fs/cgroup")


def budget(declared: int | None, *, replicas: int) -> int | None:
    """Bytes one replica may take: as declared, else its part of 70 % of what the machine or its container has. None where
    neither is known."""
    if declared is not None:
        return declared
    known = available()
    return None if known is None else int(known * SHARE / max(replicas, 1))


def available() -> int | None:
    """Bytes of memory this machine has, or its container (cgroup v2 or v1) is allowed."""
    found = []
    with contextlib.suppress(ValueError, OSError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in (_CGROUP / "memory.max", _CGROUP / "memory" / "memory.limit_in_bytes"):
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            found.append(int(text))
    return min(found, default=None)


def enforce(bytes_allowed: int) -> None:
    """Have the kernel refuse memory beyond ``HARD`` times the budget to this process. Linux: private memory, mapped files
    not counted (RLIMIT_DATA); elsewhere nothing happens."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = int(bytes_allowed * HARD) + RESERVED
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))


def resident() -> int:
    """Bytes of memory this process holds now; its peak where the system does not tell."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
