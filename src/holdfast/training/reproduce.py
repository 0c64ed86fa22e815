"""Do a run again: its code, environment and data in a folder of their own, and a comparison of what came out.

The comparison names what differs; the same result has the same hash.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from holdfast.core.errors import BadInput, NotFound
from holdfast.core.identity import digest
from holdfast.core.records import Json
from holdfast.training import fingerprint, runs, script

# Lines of an MLmodel file that name the moment and the run, not the model.
_VOLATILE = re.compile(
    rb"(?m)^(\s*)(run_id|model_uuid|model_id|utc_time_created|artifact_path|model_size_bytes|databricks_runtime):.*$"
)


class Recorded(msgspec.Struct, frozen=True):
    """What a run was made from."""

    run_id: str
    experiment_id: str
    artifacts: str
    command: list[str]
    code: Json
    environment: Json
    seed: int | None
    datasets: dict[str, str]
    patch: bytes
    reads: list[Json] = []


def recorded(tracking: script.Tracking, run_id: str) -> Recorded:
    """Read back what ``holdfast run`` recorded.

    Raises:
        NotFound: no such run.
        BadInput: the run was not made by ``holdfast run``.
    """
    run = tracking.get("runs/get", run_id=run_id)["run"]
    tags = {t["key"]: t["value"] for t in run.get("data", {}).get("tags") or []}
    if runs.COMMAND not in tags or runs.CODE not in tags:
        raise BadInput(
            f"run {run_id} does not say how it was made",
            hint="only runs of `holdfast run -- COMMAND` and of `holdfast train` can be done again",
        )
    root = run["info"]["artifact_uri"]
    code = msgspec.json.decode(tags[runs.CODE])
    patch = tracking.file(root, script.PATCH) if code.get("diff_sha256") else b""
    if code.get("diff_sha256") and hashlib.sha256(patch).hexdigest() != code["diff_sha256"]:
        raise BadInput(f"the patch of run {run_id} is not the one recorded", hint="restore the run's artifacts")
    inputs = run.get("inputs", {}).get("dataset_inputs") or []
    return Recorded(
        run_id=run_id,
        experiment_id=str(run["info"]["experiment_id"]),
        artifacts=root,
        command=list(msgspec.json.decode(tags[runs.COMMAND])),
        code=code,
        environment=msgspec.json.decode(tracking.file(root, script.ENVIRONMENT)),
        seed=int(tags[runs.SEED]) if runs.SEED in tags else None,
        datasets={i["dataset"]["name"]: i["dataset"]["digest"] for i in inputs},
        patch=patch,
        reads=_reads(tracking, root),
    )


def _reads(tracking: script.Tracking, root: str) -> list[Json]:
    """The files a run read, as bound to their versions; none for a run of which nothing was seen."""
    try:
        return msgspec.json.decode(tracking.file(root, script.READS), type=list[Json])
    except NotFound:
        return []


def with_python(command: list[str], python: Path) -> list[str]:
    """A command whose Python is another one."""
    if re.fullmatch(r"python[\d.]*", Path(command[0]).name):
        return [str(python), *command[1:]]
    return command


def rebuild_code(root: Path, past: Recorded, folder: Path) -> Path:
    """The run's code in ``folder``, which must not exist; the folder that corresponds to ``root``.

    Raises:
        NotFound: the run had no commit, or this repository does not have it.
        BadInput: the patch does not apply.
    """
    commit, top = past.code.get("commit"), fingerprint.git(root, "rev-parse", "--show-toplevel")
    if not commit or top is None:
        raise NotFound(f"run {past.run_id} has no git commit to go back to", hint="keep the project in git")
    repository = Path(os.fsdecode(top.strip()))
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit) or fingerprint.git(root, "cat-file", "-e", commit) is None:
        raise NotFound(f"commit {commit[:12]} is not in this repository", hint="git fetch it, then run again")
    done = fingerprint.git(root, "clone", "-q", "--shared", "--no-checkout", "--", str(repository), str(folder))
    if done is None or fingerprint.git(folder, "checkout", "-q", "--detach", commit) is None:
        raise BadInput(f"commit {commit[:12]} cannot be checked out", hint="check the repository with git fsck")
    if (
        past.patch
        and fingerprint.git(folder, "apply", "--binary", "--whitespace=nowarn", "-", given=past.patch) is None
    ):
        raise BadInput(f"the patch of run {past.run_id} does not apply", hint="check the repository with git fsck")
    return folder / root.resolve().relative_to(repository.resolve())


def environment_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Json]:
    """What the two environments do not share, as ``what``, ``then``, ``now``."""
    found = [
        {"what": name, "then": then.get(name), "now": now.get(name)}
        for name in ("python", "implementation", "platform")
        if then.get(name) != now.get(name)
    ]
    before, after = then.get("packages") or {}, now.get("packages") or {}
    found += [
        {"what": f"package {name}", "then": before.get(name), "now": after.get(name)}
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    return found


def rebuild_environment(then: Mapping[str, Any], folder: Path, *, log: Path) -> Path:
    """A virtual environment with exactly the packages of a run; its Python.

    Packages that were installed from a folder (editable ones) cannot be had from an index and are left out.

    Raises:
        NotFound: another Python is needed, or a package cannot be installed; the log says which.
    """
    want, here = str(then.get("python", "")), fingerprint.environment()["python"]
    if want.rpartition(".")[0] != here.rpartition(".")[0]:
        raise NotFound(
            f"the run used Python {want}, this is {here}", hint=f"run this with Python {want.rpartition('.')[0]}"
        )
    lock = then.get("lock") or {}
    pins = [f"{name}=={found['version']}" for name, found in sorted(lock.items()) if not found.get("editable")]
    # Holdfast itself is the one that does this: it is handed to the environment, not installed.
    pins = [pin for pin in pins if not pin.startswith(("pip==", "setuptools==", "wheel==", "holdfast=="))]
    requirements = folder.with_suffix(".txt")
    requirements.write_text("\n".join(pins) + "\n")
    python = folder / "bin" / "python"
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    steps = [[sys.executable, "-m", "venv", *(["--without-pip"] if uv else []), str(folder)]]
    if uv:
        steps.append([uv, "pip", "install", "-q", "--no-deps", "--python", str(python), "-r", str(requirements)])
    else:
        steps.append([str(python), "-m", "pip", "install", "-q", "--no-deps", "-r", str(requirements)])
    with log.open("ab") as out:
        for step in steps:
            if subprocess.run(step, stdout=out, stderr=out, stdin=subprocess.DEVNULL, check=False).returncode:
                raise NotFound(
                    "the run's environment cannot be built again", hint=f"read {log}; --here uses the present one"
                )
    return python


def result(tracking: script.Tracking, run_id: str) -> Json:
    """What came out of a run: ``metrics`` (last values), ``params``, ``files`` (path → SHA-256), ``digest`` over them."""
    run = tracking.get("runs/get", run_id=run_id)["run"]
    data = run.get("data") or {}
    root = run["info"]["artifact_uri"]
    files = {
        path: file_digest(path, tracking.file(root, path))
        for path in tracking.files(run_id)
        if not path.startswith("holdfast/")
    }
    found = {
        "metrics": {
            m["key"]: _number(m.get("value", 0.0)) for m in data.get("metrics") or [] if m["key"] != runs.FIT_SECONDS
        },
        "params": {p["key"]: p.get("value", "") for p in data.get("params") or []},
        "files": files,
    }
    return {**found, "digest": digest(found)}


def file_digest(path: str, data: bytes) -> str:
    """SHA-256 of a file, without what names the moment it was written: run ids of an MLmodel; times and memory addresses of
    a skops archive, whose members are otherwise compared byte for byte."""
    if path.endswith("MLmodel"):
        data = _VOLATILE.sub(rb"\1\2", data)
    elif path.endswith(".skops") and zipfile.is_zipfile(io.BytesIO(data)):
        try:
            return _archive_digest(data)
        except (zipfile.BadZipFile, KeyError, msgspec.MsgspecError, RecursionError):
            pass
    return hashlib.sha256(data).hexdigest()


def _archive_digest(data: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        schema = msgspec.json.decode(archive.read("schema.json"))
        places: dict[str, str] = {}
        renamed = _without_addresses(schema, places)
        members = {
            places.get(name.partition(".")[0], name.partition(".")[0])
            + name[len(name.partition(".")[0]) :]: hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if name != "schema.json"
        }
    return digest({"schema": renamed, "members": dict(sorted(members.items()))})


def _without_addresses(value: Any, places: dict[str, str]) -> Any:
    """A skops schema whose addresses (``__id__``, and files named by one) are numbered in order of first mention."""
    if isinstance(value, list):
        return [_without_addresses(v, places) for v in value]
    if not isinstance(value, dict):
        return value
    out: dict[str, Any] = {}
    for key, inner in value.items():
        if key == "__id__":
            out[key] = places.setdefault(str(inner), f"#{len(places)}")
        elif key == "file" and isinstance(inner, str):
            stem, dot, kind = inner.partition(".")
            out[key] = places.setdefault(stem, f"#{len(places)}") + dot + kind
        else:
            out[key] = _without_addresses(inner, places)
    return out


def differences(then: Json, now: Json) -> list[Json]:
    """What differs between two results, as ``what``, ``then``, ``now``; empty exactly where the digests are equal."""
    return [
        {"what": f"{kind} {name}", "then": then[many].get(name), "now": now[many].get(name)}
        for kind, many in (("metric", "metrics"), ("param", "params"), ("file", "files"))
        for name in sorted({*then[many], *now[many]})
        if then[many].get(name) != now[many].get(name)
    ]


def _number(value: object) -> object:
    """A metric's value so that NaN equals NaN and has a hash."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
