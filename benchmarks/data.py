"""Data beside DVC in one run: the same files, the same disk, one after the other. The limit (walk + stat, copy) is printed.

``python -m benchmarks data [--files 10000] [--size 4096]``. DVC comes from ``tests/peers/dvc.txt`` in an environment of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PEER = ROOT / ".cache" / "peers" / "dvc"
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
GIT = {
    "GIT_AUTHOR_NAME": "b",
    "GIT_AUTHOR_EMAIL": "b@example.org",
    "GIT_COMMITTER_NAME": "b",
    "GIT_COMMITTER_EMAIL": "b@example.org",
}


def peer() -> Path:
    """DVC's command, installed once."""
    binary = PEER / "bin" / "dvc"
    if not binary.exists():
        uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
        subprocess.run([uv, "venv", "-q", str(PEER)], check=True)
        requirements = ROOT / "tests" / "peers" / "dvc.txt"
        subprocess.run(
            [uv, "pip", "install", "-q", "--python", str(PEER / "bin" / "python"), "-r", str(requirements)], check=True
        )
    return binary


def generate(root: Path, files: int, size: int) -> None:
    rng = random.Random(1)
    for at in range(files):
        folder = root / "data" / f"{at % 100:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{at}.bin").write_bytes(rng.randbytes(size))


def timed(command: list[str], root: Path, environment: dict[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    took = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return took


def work(
    root: Path, tool: list[str], add: list[str], environment: dict[str, str], files: int, size: int
) -> dict[str, float]:
    """Every line of the table with one tool."""

    def run(*arguments: str) -> float:
        return timed([*tool, *arguments], root, environment)

    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run([str(PEER / "bin" / "dvc"), "init", "-q"], cwd=root, check=True, env=environment)
    (root / ".dvc" / "config").write_text(
        "[core]\n    remote = r\n['remote \"r\"']\n    url = ../../store\n[cache]\n    type = copy\n"
    )
    generate(root, files, size)
    found = {"first add": run(*add, "data")}
    run("status")
    found["status"] = min(run("status") for _ in range(3))
    os.utime(root / "data" / "00" / "0.bin")
    found["status, one touched"] = run("status")
    found["push"] = run("push")
    found["push, nothing to do"] = min(run("push") for _ in range(2))
    found["pull, nothing to do"] = min(run("pull") for _ in range(2))
    pointer = (root / "data.dvc").read_text()
    for at in range(0, files, 100):
        (root / "data" / f"{at % 100:02d}" / f"{at}.bin").write_bytes(random.Random(at).randbytes(size))
    found["re-add, 1 % changed"] = run(*add, "data")
    (root / "data.dvc").write_text(pointer)
    found["checkout of the version before"] = run("checkout")
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(root / "data")
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
    return {"walk + stat": walk, "copy": best(lambda: shutil.copytree(root / "data", root / "limit"))}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=4096)
    options = parser.parse_args()
    dvc = peer()
    holdfast = str(Path(sys.executable).parent / "holdfast")
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as scratch:
        base = Path(scratch)
        environment = {**os.environ, **GIT, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(base / "site")}
        for name in ("ours", "theirs"):
            (base / name / "work").mkdir(parents=True)
        ours = work(base / "ours" / "work", [holdfast, "data"], ["add"], environment, options.files, options.size)
        theirs = work(base / "theirs" / "work", [str(dvc)], ["add", "-q"], environment, options.files, options.size)
        floor = limits(base / "ours" / "work")
    print(
        f"{options.files} files of {options.size} bytes, copy mode, cold processes; limits: "
        + ", ".join(f"{k} {v:.3f} s" for k, v in floor.items())
    )
    print(f"{'work':34}{'holdfast s':>12}{'dvc s':>9}{'ratio':>8}{'promise':>9}")
    short = 0
    for name, promise in PROMISES.items():
        ratio = theirs[name] / ours[name]
        short += ratio < promise
        print(
            f"{name:34}{ours[name]:12.3f}{theirs[name]:9.3f}{ratio:8.1f}{promise:9.1f}{'' if ratio >= promise else '  SHORT'}"
        )
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
