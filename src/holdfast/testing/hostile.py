"""Reading model files in a child that may not do anything but read them: what was refused, what loaded, what it tried.

``attack`` gives each file to ``formats.parse`` in a child process with a limit on its memory, an audit hook that sees
files opened, programs started, sockets used, and a folder with canaries. A child that dies is told with the file it died on,
and the next file is read by another.

``python -m holdfast.testing.hostile FOLDER`` is the child.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from holdfast.core.errors import UsersTurn
from holdfast.core.records import Package

MEMORY = 1 << 30
"""Bytes of address space a child may take beyond what its libraries take."""
_WATCHED = (
    "open",
    "os.",
    "subprocess.",
    "socket.",
    "shutil.",
    "ctypes.dlopen",
    "webbrowser.",
    "ftplib.",
    "urllib.",
    "exec",
    "pty.",
)
_HARMLESS = frozenset({"os.listdir", "os.scandir", "os.putenv"})


_LIBRARIES = {
    "onnx": ("onnxruntime",), "skops": ("skops.io", "sklearn.ensemble", "sklearn.linear_model"), "xgboost": ("xgboost",),
    "lightgbm": ("lightgbm",), "pickle": ("joblib",),
}  # fmt: skip


class Outcome(NamedTuple):
    """What became of one file. ``did`` lists what it tried beside being read; ``grew`` is address space, in bytes."""

    kind: str  # refused | loaded | surprise | died
    detail: str
    did: list[str]
    grew: int


def attack(files: Sequence[bytes], package: Package, *, seconds: float = 120) -> list[Outcome]:
    """One outcome per file, each read as the model of ``package``.

    Raises:
        RuntimeError: the child does not even start.
    """
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="holdfast-hostile-") as place:
        folder = Path(place)
        (folder / "package.json").write_bytes(msgspec.json.encode(package))
        (folder / "files").mkdir()
        for i, data in enumerate(files):
            (folder / "files" / f"{i:06d}").write_bytes(data)
        while len(found) < len(files):
            before = len(found)
            done, canaries = _child(folder, start=before, seconds=seconds)
            found += done
            if canaries:
                found[-1:] = [found[-1]._replace(kind="surprise", did=[*found[-1].did, *canaries])]
            if len(found) == before:
                raise RuntimeError("the child that reads hostile files does not start")
    return found


def mutants(data: bytes, count: int, *, seed: int) -> Iterator[bytes]:
    """Damaged copies of a file: bytes flipped, numbers made huge, pieces cut out, doubled and swapped, the end cut off."""
    rng = random.Random(seed)
    for _ in range(count):
        made = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(made) or 1)
            size = rng.choice((1, 2, 4, 8, 64))
            match rng.randrange(7):
                case 0:
                    made[at : at + 1] = bytes([rng.randrange(256)])
                case 1:
                    made[at : at + size] = b"\xff" * size
                case 2:
                    made[at : at + size] = b""
                case 3:
                    made[at:at] = made[at : at + size]
                case 4:
                    made[at : at + 8] = rng.getrandbits(64).to_bytes(8, "little")
                case 5:
                    made[at : at + size] = rng.choice((b"9" * size, b"-1", b"0", b"\0" * size))
                case _:
                    del made[at:]
            if not made:
                made = bytearray(b"\0")
        yield bytes(made)


def _child(folder: Path, *, start: int, seconds: float) -> tuple[list[Outcome], list[str]]:
    """Outcomes from ``start`` until the child ended or died, and what happened to its canaries."""
    with tempfile.TemporaryDirectory(prefix="holdfast-canary-") as place:
        canary = Path(place, "canary")
        canary.write_bytes(b"sings")
        process = subprocess.Popen(
            [sys.executable, "-m", "holdfast.testing.hostile", str(folder), str(start)], cwd=place, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
        lines = [line for line in out.decode("utf-8", "replace").splitlines() if line.startswith(("{", "reading"))]
        found = [Outcome(**json.loads(line)) for line in lines if line.startswith("{")]
        if process.returncode != 0 and lines and lines[-1].startswith("reading"):
            found.append(Outcome("died", f"{lines[-1]}: the child ended with {process.returncode}", [], 0))
        touched = []
        if (
            not canary.exists()
            or canary.read_bytes() != b"sings"
            or [p.name for p in Path(place).iterdir()] != ["canary"]
        ):
            touched.append(f"the folder holds {sorted(p.name for p in Path(place).iterdir())}")
        return found, touched


def _main(folder: Path, start: int) -> None:
    from holdfast import formats

    package = msgspec.json.decode((folder / "package.json").read_bytes(), type=Package)
    names = sorted(p.name for p in (folder / "files").iterdir())
    # What the readers load when they are first used is not what the file did.
    for name in _LIBRARIES.get(package.format, ()):
        try:
            __import__(name)
        except ImportError:
            continue
    formats.plugin(b"", package.format)
    import resource

    used = _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    did: list[str] = []
    watching = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event.startswith(_WATCHED) and event not in _HARMLESS and not _ours(event, arguments):
            did.append(f"{event} {str(arguments)[:200]}")

    sys.addaudithook(hook)
    for name in names[start:]:
        data = (folder / "files" / name).read_bytes()
        print(f"reading {name}", flush=True)  # noqa: T201  (the parent reads it)
        did.clear()
        before = _status("VmPeak")
        watching = True
        try:
            model = formats.parse(data, package, sha256="0" * 64, name=package.model_file)
            model.scores([[0.0] * len(package.inputs)])
            kind, detail = "loaded", ""
        except UsersTurn as error:
            short = _ran_out_of_memory(error)
            kind, detail = ("surprise" if short else "refused"), f"{type(error).__name__}: {error.message}"
        except Exception as error:  # noqa: BLE001  exactly what must not happen is what is told
            kind, detail = "surprise", f"{type(error).__name__}: {error}"
        watching = False
        grew = max(_status("VmPeak") - before, 0)
        told = {"kind": kind, "detail": detail[:300], "did": did[:5], "grew": grew}
        print(json.dumps(told), flush=True)  # noqa: T201


def _ours(event: str, arguments: tuple[Any, ...]) -> bool:
    """Reading modules, and the system's facts, is what any import does."""
    if event == "exec":
        return True  # running a module's code after the import system opened it; opening is what is watched
    if event == "open" and isinstance(arguments[0], str):
        path, mode = arguments[0], arguments[1]
        quiet = path.startswith(("/proc/", "/sys/", sys.prefix, sys.base_prefix)) or path.endswith(
            (".py", ".pyc", ".so", "METADATA", "entry_points.txt")
        )
        return quiet and (mode is None or set(str(mode)) <= set("rbt"))
    return False


def _ran_out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or "bad_alloc" in str(error) or "bad allocation" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _status(field: str) -> int:
    """A figure of this process in bytes (Linux)."""
    with open("/proc/self/status", encoding="ascii") as f:  # noqa: PTH123
        for line in f:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
