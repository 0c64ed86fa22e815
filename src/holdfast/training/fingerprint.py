"""What a run was made from, without the user's doing: code, environment, hardware, seeds.

Everything here only looks; a project without git, or git without a commit, is described and is no error.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from holdfast.core.errors import BadInput
from holdfast.core.identity import digest
from holdfast.core.records import Json

PATCH_FILE_BYTES = 8 << 20
"""Untracked files above this size are named in a patch's ``left_out``, not taken in."""
_GIT_SECONDS = 60


def code(root: Path) -> Json:
    """The state of the code at ``root``.

    Returns:
        ``commit`` (hash, or None without git or commits), ``dirty`` (bool), ``diff_sha256`` (of the patch that leads from
        the commit to the working files, untracked ones included; None when clean), ``remote`` (without credentials),
        ``left_out`` (untracked files too big for the patch).
    """
    return snapshot(root)[0]


def snapshot(root: Path) -> tuple[Json, bytes]:
    """``code(root)``, and the patch whose SHA-256 it names: empty when clean or without git."""
    nothing: Json = {"commit": None, "dirty": False, "diff_sha256": None, "remote": None, "left_out": []}
    top = git(root, "rev-parse", "--show-toplevel")
    if top is None:
        return nothing, b""
    commit = git(root, "rev-parse", "--verify", "-q", "HEAD^{commit}")
    remote = git(root, "config", "--get", "remote.origin.url")
    if commit is None:
        return {**nothing, "dirty": True, "remote": _public(remote)}, b""
    patch, left_out = _patch(Path(os.fsdecode(top.strip())), commit.decode().strip())
    return {
        "commit": commit.decode().strip(),
        "dirty": bool(patch or left_out),
        "diff_sha256": hashlib.sha256(patch).hexdigest() if patch else None,
        "remote": _public(remote),
        "left_out": left_out,
    }, patch


def environment() -> Json:
    """The Python environment.

    Returns:
        ``python`` (version), ``implementation``, ``platform`` (system and machine), ``packages`` (name → version,
        normalised and sorted), ``digest`` (SHA-256 over the former).
    """
    packages: dict[str, str] = {}
    for found in importlib.metadata.distributions():
        name = found.metadata["Name"]
        if name:
            # The first on sys.path is the one that is imported.
            packages.setdefault(_normal(name), found.version)
    state = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": dict(sorted(packages.items())),
    }
    return {**state, "digest": digest(state)}


def lock() -> dict[str, Json]:
    """Per installed package its version, the SHA-256 of its RECORD (which lists the hash of every file), and where it
    came from when not from an index."""
    locked: dict[str, Json] = {}
    for found in importlib.metadata.distributions():
        name = found.metadata["Name"]
        if not name or _normal(name) in locked:
            continue
        record, origin = found.read_text("RECORD"), found.read_text("direct_url.json")
        locked[_normal(name)] = {
            "version": found.version,
            "record_sha256": hashlib.sha256(record.encode()).hexdigest() if record else None,
            "editable": bool(origin and '"editable"' in origin),
        }
    return dict(sorted(locked.items()))


def environment_of(program: str, *, path: str | None = None) -> Json:
    """``environment()`` with its ``lock``, of the Python that ``program`` names; of this one where it names no other Python.

    Args:
        program: the first word of a command.
        path: where programs are looked for, instead of ``PATH``.
    """
    found = shutil.which(program, path=path) if re.fullmatch(r"python[\d.]*", Path(program).name) else None
    if found is None or Path(found).absolute() == Path(sys.executable).absolute():
        return {**environment(), "lock": lock()}
    script = str(Path(__file__).parent / "observer" / "report_environment.py")
    try:
        done = subprocess.run([found, "-I", script], capture_output=True, timeout=_GIT_SECONDS, check=True)
        report: Json = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return {**environment(), "lock": lock()}
    locked = report.pop("lock")
    return {**report, "digest": digest(report), "lock": locked}


def hardware() -> Json:
    """What the run had to compute with: ``cpus``, ``machine``, ``memory_bytes``."""
    try:
        memory: int | None = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = None
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpus": cpus, "machine": platform.machine(), "memory_bytes": memory}


def seed_everything(seed: int) -> dict[str, int]:
    """Seed what draws at random: ``random``, NumPy, and of the frameworks those that are loaded.

    PYTHONHASHSEED is set for child processes; in this one it was fixed when Python started.

    Args:
        seed: 0 <= seed < 2**32, the range that all of them take.

    Returns:
        Generator → the seed it was given.

    Raises:
        BadInput: the seed is out of range.
    """
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise BadInput(f"{seed!r} cannot be a seed", hint="use a whole number from 0 to 4294967295")
    os.environ["PYTHONHASHSEED"] = str(seed)
    random.seed(seed)
    seeded = {"PYTHONHASHSEED": seed, "random": seed}
    try:
        import numpy as np
    except ImportError:
        pass
    else:
        # Libraries that take no generator draw from the global one, so it is the one to seed.
        np.random.seed(seed)
        seeded["numpy"] = seed
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "manual_seed"):
        torch.manual_seed(seed)
        seeded["torch"] = seed
    tensorflow: Any = sys.modules.get("tensorflow")
    if tensorflow is not None and hasattr(tensorflow, "random"):
        tensorflow.random.set_seed(seed)
        seeded["tensorflow"] = seed
    return seeded


# --- git --------------------------------------------------------------------------------------------------------------


def _patch(top: Path, commit: str) -> tuple[bytes, list[str]]:
    """The binary patch from the commit to the working files, and the untracked files it leaves out.

    Made with an index and an object folder of its own: the user's index and repository are not touched.
    """
    objects = git(top, "rev-parse", "--git-path", "objects")
    if objects is None:
        return b"", []
    with tempfile.TemporaryDirectory(prefix="holdfast-") as scratch:
        own = {
            "GIT_INDEX_FILE": f"{scratch}/index",
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((top / os.fsdecode(objects.strip())).resolve()),
        }
        if git(top, "read-tree", commit, variables=own) is None:
            return b"", []
        untracked = git(top, "ls-files", "-z", "--others", "--exclude-standard", variables=own) or b""
        small: list[bytes] = []
        left_out: list[bytes] = []
        for name in filter(None, untracked.split(b"\0")):
            path = top / os.fsdecode(name)
            try:
                fits = path.lstat().st_size <= PATCH_FILE_BYTES
            except OSError:
                continue
            (small if fits else left_out).append(name)
        git(top, "add", "--update", variables=own)
        if small:
            names = b"\0".join(small)
            git(top, "add", "--pathspec-from-file=-", "--pathspec-file-nul", variables=own, given=names)
        arguments = ("diff", "--cached", "--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color")
        patch = git(top, *arguments, "--no-renames", commit, "--", variables=own)
        return patch or b"", sorted(os.fsdecode(name) for name in left_out)


def git(folder: Path, *arguments: str, variables: dict[str, str] | None = None, given: bytes = b"") -> bytes | None:
    """What git printed; None where there is no git, no repository, or git says no. Starts no program a repository's
    configuration names, and never asks for a password."""
    program = shutil.which("git")
    if program is None or not folder.is_dir():
        return None
    # A repository's own configuration must not start programs or wait for a password.
    safe = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=false")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment.update({"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}, **(variables or {}))
    try:
        done = subprocess.run(
            [program, *safe, *arguments],
            cwd=folder,
            env=environment,
            input=given,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _public(remote: bytes | None) -> str | None:
    """A remote's URL without user, password and query."""
    if not remote or not remote.strip():
        return None
    text = remote.decode(errors="replace").strip().partition("?")[0]
    return re.sub(r"(://)[^/@]*@", r"\1", text)


def _normal(name: str) -> str:
    """A package's name as the index knows it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
