"""Data beside DVC in one run: the same files, the same disk, each step by one and at once by the other. The limit (walk + stat,
md5, sha256, copy) is printed: DVC names a file by its MD5, Holdfast by its SHA-256 as well.

``python -m benchmarks data [--files 10000] [--size 4096] [--links hardlink] [--status-only]``; ``--files 1 --size 1073741824`` is the
large file. DVC comes from ``tests/peers/dvc.txt`` in an environment of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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


@dataclass
class Side:
    """One of the two tools in a repository of its own. ``best`` holds wall and CPU seconds of each line."""

    root: Path
    tool: list[str]
    add: list[str]
    environment: dict[str, str]
    best: dict[str, tuple[float, float]] = field(default_factory=dict)

    def run(self, *arguments: str) -> tuple[float, float]:
        command = [*self.tool, *arguments]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)
        took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def generate(self, files: int, size: int, links: str) -> None:
        subprocess.run(["git", "init", "-q"], cwd=self.root, check=True)
        subprocess.run([str(peer()), "init", "-q"], cwd=self.root, check=True, env=self.environment)
        (self.root / ".dvc" / "config").write_text(
            f"[core]\n    remote = r\n['remote \"r\"']\n    url = ../../store\n[cache]\n    type = {links}\n"
        )
        rng = random.Random(1)
        for at in range(files):
            file = self.file(at)
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as f:
                for begin in range(0, size, 1 << 24):
                    f.write(rng.randbytes(min(1 << 24, size - begin)))

    def file(self, at: int) -> Path:
        return self.root / "data" / f"{at % 100:02d}" / f"{at}.bin"

    def change(self, files: int, size: int, seed: int) -> None:
        """Other content for one file in a hundred."""
        rng = random.Random(seed)
        for at in rng.sample(range(files), max(1, files // 100)):
            self.file(at).unlink()  # it may be one with the object in the cache
            self.file(at).write_bytes(rng.randbytes(size))


def work(sides: Sequence[Side], options: argparse.Namespace) -> None:
    """The lines of the table; each is done by one tool and at once by the other, several times, and the best counts."""
    files, size = options.files, options.size

    def each(name: str, turns: int, do: Callable[[Side], tuple[float, float]]) -> None:
        for _ in range(turns):
            for side in sides:
                took = do(side)
                wall, cpu = side.best.get(name, took)
                side.best[name] = min(took[0], wall), min(took[1], cpu)
                print(f"  {took[0]:8.3f} s ({took[1]:.3f} CPU)  {side.root.parent.name}: {name}", file=sys.stderr)

    def touched(side: Side) -> tuple[float, float]:
        os.utime(side.file(0))
        return side.run("status")

    for side in sides:
        side.generate(files, size, options.links)
    os.sync()
    each("first add", 1, lambda side: side.run(*side.add, "data"))
    if files == 1:
        return
    turns = options.turns if options.links == "copy" else 0  # of a linked cache only what makes links is promised
    for side in sides:
        side.run("status")
    each("status", turns, lambda side: side.run("status"))
    each("status, one touched", turns, touched)
    if options.status_only:
        return
    os.sync()
    each("push", 1, lambda side: side.run("push"))
    each("push, nothing to do", turns, lambda side: side.run("push"))
    each("pull, nothing to do", turns, lambda side: side.run("pull"))
    pointers = [(side.root / "data.dvc").read_text() for side in sides]
    for turn in range(turns):
        for side in sides:
            side.change(files, size, turn)
        each("re-add, 1 % changed", 1, lambda side: side.run(*side.add, "data"))
        for side, pointer in zip(sides, pointers, strict=True):
            (side.root / "data.dvc").write_text(pointer)
        each("checkout of the version before", 1, lambda side: side.run("checkout"))
    for side in sides:
        # Away, not gone: for minutes after it has deleted thousands of files, ext4 is slow to make new ones.
        (side.root / ".dvc" / "cache").rename(side.root.parent / "old-cache")
        (side.root / "data").rename(side.root.parent / "old-data")
    os.sync()
    each("fresh pull", 1, lambda side: side.run("pull"))


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

    def hashed(name: str) -> None:
        for path in (root / "data").rglob("*.bin"):
            with path.open("rb") as f:
                hashlib.file_digest(f, name)

    hashes = {name: best(lambda name=name: hashed(name)) for name in ("md5", "sha256")}  # type: ignore[misc]
    return {"walk + stat": walk, **hashes, "copy": best(lambda: shutil.copytree(root / "data", root / "limit"))}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--links", default="copy", choices=("copy", "hardlink"))
    parser.add_argument("--status-only", action="store_true", help="First add and status, for many files.")
    parser.add_argument("--turns", type=int, default=4, help="How often each small step is done; the best counts.")
    parser.add_argument("--rounds", type=int, default=3, help="How often the large ones are, from the beginning.")
    options = parser.parse_args()
    dvc = str(peer())
    holdfast = str(Path(sys.executable).parent / "holdfast")
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as scratch:
        base = Path(scratch)
        environment = {**os.environ, **GIT, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(base / "site")}
        # Both as they are once installed: with compiled modules.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(base / "compiled")
        tools = {"ours": ([holdfast, "data"], ["add"]), "theirs": ([dvc], ["add", "-q"])}

        def sides(prefix: str) -> list[Side]:
            made = []
            for name, (tool, add) in tools.items():
                root = base / f"{prefix}{name}" / "work"
                root.mkdir(parents=True)
                made.append(Side(root, tool, add, environment))
            return made

        work(sides("warm-"), argparse.Namespace(files=200, size=10, links="copy", status_only=False, turns=1))
        ours, theirs = sides("0-")
        work((ours, theirs), options)
        floor = limits(ours.root)
        for at in range(1, 1 if options.status_only else options.rounds):
            if options.files == 1:
                # So that memory is used again: what a virtual machine takes to find new memory is not ours to measure.
                for side in (ours, theirs):
                    shutil.rmtree(side.root.parent)
                os.sync()
            again = sides(f"{at}-")
            for side, new in zip((ours, theirs), again, strict=True):
                side.root = new.root
            work((ours, theirs), argparse.Namespace(**{**vars(options), "turns": 0}))
    print(
        f"{options.files} files of {options.size} bytes, {options.links} mode, cold processes; limits: "
        + ", ".join(f"{k} {v:.3f} s" for k, v in floor.items())
    )
    print(f"{'work':34}{'holdfast s':>12}{'dvc s':>9}{'ratio':>8}{'promise':>9}{'CPU ratio':>11}")
    short = 0
    promises = LARGE if options.files == 1 else PROMISES if options.links == "copy" else WITH_LINKS
    for name, promise in promises.items():
        if name not in ours.best:
            continue
        (mine, my_cpu), (peers, peers_cpu) = ours.best[name], theirs.best[name]
        ratio = peers / mine
        short += ratio < promise
        print(
            f"{name:34}{mine:12.3f}{peers:9.3f}{ratio:8.1f}{promise:9.1f}{peers_cpu / my_cpu:11.1f}"
            f"{'' if ratio >= promise else '  SHORT'}"
        )
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
