"""Data beside DVC in one run: the same files, the same disk, one after the other. The limit (walk + stat, md5, copy) is printed.

``python -m benchmarks data [--files 10000] [--size 4096] [--links hardlink] [--status-only]``; ``--files 1 --size 1073741824`` is the
large file. DVC comes from ``tests/peers/dvc.txt`` in an environment of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROMISES = {
    "status": 8.0,
    "status, one touched": 8.0,
    "re-add, 1 % changed": 8.0,
    "checkout of the version before": 8.0,
    "push, nothing to do": 8.0,
    "pull, nothing to do": 8.0,
    "first add": 1.5,
    "push": 1.4,
    "fresh pull": 1.3,
}
WITH_LINKS = {"first add": 6.0, "fresh pull": 2.5}
LARGE = {"first add": 2.5}
GIT = {
    "GIT_AUTHOR_NAME": "b",
    "GIT_AUTHOR_EMAIL": "b@example.org",
    "GIT_COMMITTER_NAME": "b",
    "GIT_COMMITTER_EMAIL": "b@example.org",
}


def peer() -> Path:
    """DVC's command, installed once."""
    from tests.peers import environments

    return environments.python_of("dvc").with_name("dvc")


def generate(root: Path, files: int, size: int) -> None:
    rng = random.Random(1)
    for at in range(files):
        folder = root / "data" / f"{at % 100:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{at}.bin").open("wb") as f:
            for begin in range(0, size, 1 << 24):
                f.write(rng.randbytes(min(1 << 24, size - begin)))


def timed(command: list[str], root: Path, environment: dict[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    took = time.perf_counter() - start
    print(f"  {took:8.3f} s  {' '.join(command[-2:])}", file=sys.stderr, flush=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return took


def work(
    root: Path, tool: list[str], add: list[str], environment: dict[str, str], options: argparse.Namespace
) -> dict[str, float]:
    """The lines of the table with one tool."""
    files, size = options.files, options.size

    def run(*arguments: str) -> float:
        return timed([*tool, *arguments], root, environment)

    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run([str(peer()), "init", "-q"], cwd=root, check=True, env=environment)
    (root / ".dvc" / "config").write_text(
        f"[core]\n    remote = r\n['remote \"r\"']\n    url = ../../store\n[cache]\n    type = {options.links}\n"
    )
    generate(root, files, size)
    os.sync()
    found = {"first add": run(*add, "data")}
    if files == 1:
        return found
    run("status")
    found["status"] = min(run("status") for _ in range(3))

    def touched() -> float:
        os.utime(root / "data" / "00" / "0.bin")
        return run("status")

    found["status, one touched"] = min(touched() for _ in range(3))
    if options.status_only:
        return found
    os.sync()
    found["push"] = run("push")
    found["push, nothing to do"] = min(run("push") for _ in range(2))
    found["pull, nothing to do"] = min(run("pull") for _ in range(2))
    pointer = (root / "data.dvc").read_text()
    adds, checkouts = [], []
    for turn in range(3):
        rng = random.Random(turn)
        for at in rng.sample(range(files), max(1, files // 100)):
            file = root / "data" / f"{at % 100:02d}" / f"{at}.bin"
            file.unlink()  # it may be one with the object in the cache
            file.write_bytes(rng.randbytes(size))
        adds.append(run(*add, "data"))
        (root / "data.dvc").write_text(pointer)
        checkouts.append(run("checkout"))
    found["re-add, 1 % changed"], found["checkout of the version before"] = min(adds), min(checkouts)
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(root / "data")
    os.sync()
    found["fresh pull"] = run("pull")
    return found


def limits(root: Path) -> dict[str, float]:
    """What the file system alone costs: one walk with stat, one copy of every file."""

    def best(do: Callable[[], object]) -> float:
        start = time.perf_counter()
        do()
        return time.perf_counter() - start

    walk = min(
        best(lambda: sum(e.stat().st_size for d in os.scandir(root / "data") for e in os.scandir(d.path)))
        for _ in range(3)
    )

    def md5() -> None:
        for path in (root / "data").rglob("*.bin"):
            with path.open("rb") as f:
                hashlib.file_digest(f, "md5")

    return {"walk + stat": walk, "md5": best(md5), "copy": best(lambda: shutil.copytree(root / "data", root / "limit"))}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--links", default="copy", choices=("copy", "hardlink"))
    parser.add_argument("--status-only", action="store_true", help="First add and status, for many files.")
    options = parser.parse_args()
    dvc = str(peer())
    holdfast = str(Path(sys.executable).parent / "holdfast")
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as scratch:
        base = Path(scratch)
        environment = {**os.environ, **GIT, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(base / "site")}
        # Both as they are once installed: with compiled modules.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(base / "compiled")
        for name, tool, add in (("ours", [holdfast, "data"], ["add"]), ("theirs", [dvc], ["add", "-q"])):
            small = argparse.Namespace(files=200, size=10, links="copy", status_only=False)
            (base / f"warm-{name}" / "work").mkdir(parents=True)
            work(base / f"warm-{name}" / "work", tool, add, environment, small)
        for name in ("ours", "theirs"):
            (base / name / "work").mkdir(parents=True)
        ours = work(base / "ours" / "work", [holdfast, "data"], ["add"], environment, options)
        theirs = work(base / "theirs" / "work", [dvc], ["add", "-q"], environment, options)
        floor = limits(base / "ours" / "work")
    print(
        f"{options.files} files of {options.size} bytes, {options.links} mode, cold processes; limits: "
        + ", ".join(f"{k} {v:.3f} s" for k, v in floor.items())
    )
    print(f"{'work':34}{'holdfast s':>12}{'dvc s':>9}{'ratio':>8}{'promise':>9}")
    short = 0
    promises = LARGE if options.files == 1 else PROMISES if options.links == "copy" else WITH_LINKS
    for name, promise in promises.items():
        if name not in ours:
            continue
        ratio = theirs[name] / ours[name]
        short += ratio < promise
        print(
            f"{name:34}{ours[name]:12.3f}{theirs[name]:9.3f}{ratio:8.1f}{promise:9.1f}{'' if ratio >= promise else '  SHORT'}"
        )
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
