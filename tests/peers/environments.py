"""Virtual environments with other projects' tools, made once from a pinned list and kept out of git."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def python_of(name: str) -> Path:
    """The Python of the peer ``name``, installed from ``tests/peers/<name>.txt`` where it is not there yet.

    Raises:
        CalledProcessError: it cannot be installed.
    """
    folder = ROOT / ".cache" / "peers" / name
    python = folder / "bin" / "python"
    done = folder / ".complete"
    wanted = (ROOT / "tests" / "peers" / f"{name}.txt").read_text()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists() and done.read_text() == wanted:
            return python
        uv = Path(sys.executable).with_name("uv")
        requirements = str(ROOT / "tests" / "peers" / f"{name}.txt")
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        if uv.exists():
            install = [str(uv), "pip", "install", "-q", "--python", str(python), "-r", requirements]
        else:
            install = [str(python), "-m", "pip", "install", "-q", "-r", requirements]
        subprocess.run(install, check=True)
        done.write_text(wanted)
    return python


def npm_package(name: str) -> Path:
    """The folder of programs of an npm package, pinned in ``tests/peers/<name>.txt``; installed where it is not there yet.

    Raises:
        CalledProcessError, FileNotFoundError: it cannot be installed, or there is no npm.
    """
    folder = ROOT / ".cache" / "peers" / name
    done = folder / ".complete"
    wanted = (ROOT / "tests" / "peers" / f"{name}.txt").read_text()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (done.exists() and done.read_text() == wanted):
            install = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(folder), wanted.strip()]
            subprocess.run(install, check=True, capture_output=True, timeout=250)
            done.write_text(wanted)
    return folder / "node_modules" / ".bin"
