"""Serve in the environment a model was made in, or refuse: a fitted object read by another release of its library may
answer differently without an error. Compiled models (ONNX) carry their own arithmetic and are free of this.

``ensure`` makes such an environment: a virtual environment from the model's recorded packages, cached by what is in it,
with this Holdfast linked into it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from holdfast.core.errors import Refused, Unavailable
from holdfast.core.identity import digest
from holdfast.core.records import Json, Package

# Libraries whose objects are read back by themselves, by format.
_LIBRARIES = {
    "skops": ("scikit-learn",), "joblib": ("scikit-learn",), "pickle": ("scikit-learn",), "cloudpickle": ("scikit-learn",),
    "xgboost": ("xgboost",), "lightgbm": ("lightgbm",),
}  # fmt: skip


def check(package: Package) -> None:
    """Compare the libraries that will read the model with those recorded in ``package.environment["packages"]``.

    A package without such a record is not judged.

    Raises:
        Refused: a library is missing, or is of another feature release (first two numbers).
    """
    for library, made_with in _wanted(package).items():
        try:
            here = metadata.version(library)
        except metadata.PackageNotFoundError:
            here = "missing"
        if _release(here) != _release(made_with):
            raise Refused(
                f"{package.name} was made with {library} {made_with}; here it is {here}",
                hint=f"serve with --env auto, or pip install '{library}=={made_with}', or package the model again "
                "(compiled to ONNX it does not matter)",
                number="HF451",
            )


def together(one: Package, other: Package) -> None:
    """Whether one process can hold both.

    Raises:
        Refused: they need different feature releases of a library.
    """
    mine, theirs = _wanted(one), _wanted(other)
    for library in mine.keys() & theirs.keys():
        if _release(mine[library]) != _release(theirs[library]):
            raise Refused(
                f"{one.name} needs {library} {mine[library]}, and what answers now {theirs[library]}: one process cannot hold both",
                hint="package one of them compiled to ONNX, or train it again in the other's environment",
                number="HF452",
            )


class Needs(NamedTuple):
    """An environment to make: ``python`` is major.minor, the others are lines for pip."""

    python: str
    requirements: list[str]
    constraints: list[str]

    @property
    def name(self) -> str:
        """A name for its folder: another list is another environment."""
        return digest([self.python, self.requirements, self.constraints])[:16]


def needs(package: Package, recorded: Json, base: Mapping[str, str]) -> Needs:
    """What ``package`` needs beside ``base`` (name → version of what a replica itself needs).

    Args:
        recorded: the whole environment the model was made in: ``python`` and ``packages`` (name → version). Whatever of
            it is installed is installed in that version.
    """
    known = {k: v for k, v in (recorded.get("packages") or {}).items() if k != "holdfast"}
    wanted = {**{k: known.get(k, v) for k, v in base.items() if k != "holdfast"}, **_wanted(package)}
    python = str(
        recorded.get("python") or package.environment.get("python") or f"{sys.version_info[0]}.{sys.version_info[1]}"
    )
    return Needs(
        ".".join(python.split(".")[:2]),
        [f"{k}=={v}" for k, v in sorted(wanted.items())],
        [f"{k}=={v}" for k, v in sorted({**known, **wanted}.items())],
    )


def ensure(folder: Path, wanted: Needs) -> Path:
    """The Python of an environment that has what is wanted, made in ``folder/<name>`` where it is not there yet. pip reads
    its own settings (index, certificates).

    Raises:
        Refused: that Python is not on this machine. Unavailable: pip cannot install it.
    """
    home = folder / wanted.name
    python = home / "bin" / "python"
    done = home / "complete"
    if done.exists():
        return python
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{wanted.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            return python
        # Half made by somebody who was killed: made again from the start.
        shutil.rmtree(home, ignore_errors=True)
        _run([_interpreter(wanted.python), "-m", "venv", str(home)], "the virtual environment cannot be made")
        (home / "requirements.txt").write_text("\n".join(wanted.requirements) + "\n")
        (home / "constraints.txt").write_text("\n".join(wanted.constraints) + "\n")
        _run(
            [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
             "-r", str(home / "requirements.txt"), "-c", str(home / "constraints.txt")],
            "the model's packages cannot be installed",
        )  # fmt: skip
        found = _run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], "Python does not run"
        )
        (Path(found.strip()) / "holdfast").symlink_to(Path(__file__).parents[1], target_is_directory=True)
        done.touch()
    return python


def roots(package: Package) -> list[str]:
    """What a replica of ``package`` needs, as requirements: Holdfast, what reads the format back, and, where features are
    looked up, a store that several containers can share."""
    readers = {"onnx": ["onnxruntime"], "safetensors": [], "xgboost": ["xgboost"], "lightgbm": ["lightgbm"]}
    shared = ["holdfast[redis]"] if package.plan is not None else []
    return ["holdfast", *readers.get(package.format, ["holdfast[sklearn]"]), *shared]


def closure(roots: Iterable[str]) -> dict[str, str]:
    """The exact versions installed here of ``roots`` (requirements) and all they need, by normalised name.

    Raises:
        Refused: one of them is not installed.
    """
    from packaging.requirements import Requirement

    pins: dict[str, str] = {}
    waiting = [Requirement(r) for r in roots]
    seen: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        key = str(wanted)
        if key in seen:
            continue
        seen.add(key)
        try:
            distribution = metadata.distribution(wanted.name)
        except metadata.PackageNotFoundError:
            raise Refused(
                f"{wanted.name} is needed and not installed here, so no version of it can be pinned",
                hint=f"pip install '{wanted}'",
                number="HF454",
            ) from None
        pins[distribution.metadata["Name"].lower().replace("_", "-")] = distribution.version
        for line in distribution.requires or ():
            need = Requirement(line)
            extras = wanted.extras or {""}
            if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(need)
    return pins


def hashes(pins: Mapping[str, str]) -> dict[str, list[str]]:
    """The SHA-256 of the file that pip would install here for each pin, as its index says.

    Raises:
        Unavailable: pip cannot find one.
    """
    import msgspec

    wanted = [f"{name}=={version}" for name, version in sorted(pins.items())]
    told = _run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--no-input",
         "--disable-pip-version-check", "--report", "-", *wanted],
        "pip does not know the hashes",
    )  # fmt: skip
    found: dict[str, list[str]] = {}
    for item in msgspec.json.decode(told)["install"]:
        digests = item["download_info"].get("archive_info", {}).get("hashes", {})
        if "sha256" not in digests:
            raise Unavailable(
                f"the index tells no SHA-256 of {item['metadata']['name']}", hint="give a lock with --lock"
            )
        found[item["metadata"]["name"].lower().replace("_", "-")] = [digests["sha256"]]
    return found


def _wanted(package: Package) -> dict[str, str]:
    """The libraries that read the model back, in the versions it was made with."""
    recorded = package.environment.get("packages") or {}
    return {n: str(recorded[n]) for n in _LIBRARIES.get(package.format, ()) if recorded.get(n) is not None}


def _interpreter(python: str) -> str:
    if python == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    found = shutil.which(f"python{python}")
    if found is None:
        raise Refused(
            f"the model was made with Python {python}, which is not on this machine",
            hint=f"install python{python}, or train again with {sys.version_info[0]}.{sys.version_info[1]}",
            number="HF453",
        )
    return found


def _run(command: list[str], problem: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean)
    if done.returncode:
        lines = [x for x in done.stderr.strip().splitlines() if x.strip()]
        errors = [x for x in lines if x.startswith("ERROR")] or lines
        raise Unavailable(
            f"{problem}: {errors[0] if errors else done.returncode}", hint="mend what it says and run again"
        )
    return done.stdout


def _release(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])
