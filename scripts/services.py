"""Say which services the tests will find, and start or install what can be: PostgreSQL, Redis, Chromium.

A missing service is skipped loudly on a laptop and is a failure when HOLDFAST_REQUIRE_SERVICES=1.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys


def listening(port: int) -> bool:
    """Whether something answers on loopback at ``port``."""
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


def run(*command: str) -> bool:
    """Run a command quietly; whether it succeeded."""
    try:
        return (
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=600).returncode == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def browser() -> str | None:
    """The path of a Chromium, if there is one."""
    return next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


def main() -> int:
    """Look, mend what can be mended, report."""
    required = os.environ.get("HOLDFAST_REQUIRE_SERVICES") == "1"
    may_install = required and hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get") is not None
    if not listening(5432) and shutil.which("pg_ctlcluster"):
        clusters = sorted(os.listdir("/etc/postgresql")) if os.path.isdir("/etc/postgresql") else []
        if clusters:
            run("pg_ctlcluster", "--skip-systemctl-redirect", clusters[-1], "main", "start")
    if not listening(6379) and shutil.which("redis-server"):
        run(
            "redis-server",
            "--daemonize",
            "yes",
            "--bind",
            "127.0.0.1",
            "--port",
            "6379",
            "--save",
            "",
            "--appendonly",
            "no",
        )
    if browser() is None and may_install:
        print("services: installing chromium from Debian's packages …", flush=True)
        run("apt-get", "update", "-q")
        run("apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium")
    found = {
        "PostgreSQL (127.0.0.1:5432)": listening(5432),
        "Redis (127.0.0.1:6379)": listening(6379),
        "Chromium": browser() is not None,
    }
    for name, there in found.items():
        print(
            f"services: {name}: {'found' if there else 'NOT THERE: its tests are ' + ('FAILING' if required else 'SKIPPED')}"
        )
    return 1 if required and not all(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
