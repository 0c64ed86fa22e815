"""The run of somebody's script: what is recorded without the script's doing, and the calls that record it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from holdfast.core.errors import BadInput, NotFound, Unavailable
from holdfast.core.records import Json
from holdfast.training import fingerprint, runs
from holdfast.training.observed import Observed
from holdfast.training.spool import API, ARTIFACTS, Answer, Spool

PATCH, ENVIRONMENT = runs.PATCH_FILE, runs.ENVIRONMENT_FILE
READS, CELLS = "holdfast/reads.json", "holdfast/cells.json"
CELL_COUNT, SEEDED = "holdfast.cells", "holdfast.seeded"
HARDWARE, EXIT = "holdfast.hardware", "holdfast.exit_status"
TREE = "mlflow-artifacts:"
_PAGE = 25_000


class Tracking:
    """The tracking calls Holdfast itself makes, through the spool like the script's own."""

    def __init__(self, spool: Spool, *, patience: float = 60.0) -> None:
        self._spool, self._patience = spool, patience

    def post(self, path: str, body: Mapping[str, Any]) -> Json:
        """Raises: BadInput, NotFound: the server's refusal; Unavailable: only it can answer and it is away."""
        headers = {"Content-Type": "application/json"}
        return _read(
            self._spool.handle("POST", API + path, headers, msgspec.json.encode(body), patience=self._patience)
        )

    def get(self, path: str, /, **query: str) -> Json:
        """Raises: as ``post``."""
        target = f"{API}{path}?{urlencode(query)}"
        return _read(self._spool.handle("GET", target, {}, b"", patience=self._patience))

    def put_file(self, root: str, path: str, data: bytes) -> None:
        """Keep bytes as the artifact ``path`` of the run whose artifact folder is ``root``."""
        _read(self._spool.handle("PUT", _target(root, path), {}, data, patience=self._patience))

    def file(self, root: str, path: str) -> bytes:
        """An artifact's bytes."""
        answer = self._spool.handle("GET", _target(root, path), {}, b"", patience=self._patience)
        if answer.status >= 400:
            _read(answer)
        return answer.body

    def files(self, run_id: str, folder: str = "") -> list[str]:
        """The paths of all artifacts of a run."""
        found: list[str] = []
        query = {"run_id": run_id, **({"path": folder} if folder else {})}
        for entry in self.get("artifacts/list", **query).get("files") or []:
            found += self.files(run_id, entry["path"]) if entry.get("is_dir") else [entry["path"]]
        return sorted(found)


def begin(
    tracking: Tracking,
    root: Path,
    command: Sequence[str],
    *,
    at: int,
    actor: str,
    experiment_id: str = "0",
    name: str = "",
    seed: int | None = None,
    datasets: Sequence[Mapping[str, str]] = (),
    tags: Mapping[str, str] | None = None,
    environment: Json | None = None,
) -> Json:
    """Start the run of a command; the run in MLflow's form (``info``, ``data``).

    Args:
        root: the project's folder, whose code is recorded.
        at: microseconds UTC.
        datasets: of each tracked dataset ``name``, ``digest``, ``source``.
    """
    code, patch = fingerprint.snapshot(root)
    environment = environment or fingerprint.environment_of(command[0])
    marks = {
        "holdfast.run_id": secrets.token_hex(16),
        "mlflow.source.name": " ".join(command),
        "mlflow.source.type": "LOCAL",
        "mlflow.user": actor,
        runs.COMMAND: msgspec.json.encode(list(command)).decode(),
        runs.CODE: msgspec.json.encode(code).decode(),
        runs.ENVIRONMENT: environment["digest"],
        HARDWARE: msgspec.json.encode(fingerprint.hardware()).decode(),
        **({runs.SEED: str(seed)} if seed is not None else {}),
        **({"mlflow.source.git.commit": code["commit"]} if code["commit"] else {}),
        **(tags or {}),
    }
    asked = {
        "experiment_id": experiment_id,
        "start_time": at // 1000,
        "user_id": actor,
        "run_name": name or f"{Path(command[0]).name}-{marks['holdfast.run_id'][:6]}",
        "tags": [{"key": k, "value": v} for k, v in marks.items()],
    }
    run: Json = tracking.post("runs/create", asked)["run"]
    artifacts = run["info"]["artifact_uri"]
    tracking.put_file(artifacts, ENVIRONMENT, msgspec.json.format(msgspec.json.encode(environment), indent=1))
    if patch:
        tracking.put_file(artifacts, PATCH, patch)
    log_datasets(tracking, run["info"]["run_id"], datasets)
    return run


def log_datasets(tracking: Tracking, run_id: str, datasets: Sequence[Mapping[str, str]]) -> None:
    """Bind datasets to the run: of each ``name``, ``digest``, ``source``."""
    inputs = [
        {"dataset": {"name": d["name"], "digest": d["digest"], "source_type": "local", "source": d["source"]}}
        for d in datasets
    ]
    for start in range(0, len(inputs), 500):
        tracking.post("runs/log-inputs", {"run_id": run_id, "datasets": inputs[start : start + 500]})


def note(tracking: Tracking, run: Json, seen: Observed, reads: Sequence[Json]) -> None:
    """Keep what was seen of the script with its run.

    Args:
        run: in MLflow's form.
        reads: the files it read, bound to their versions; kept whole as an artifact, so that they can be put back.
    """
    run_id, artifacts = run["info"]["run_id"], run["info"]["artifact_uri"]
    tracking.put_file(artifacts, READS, msgspec.json.format(msgspec.json.encode(list(reads)), indent=1))
    if seen.cells:
        tracking.put_file(artifacts, CELLS, msgspec.json.format(msgspec.json.encode(seen.cells), indent=1))
        tracking.post("runs/set-tag", {"run_id": run_id, "key": CELL_COUNT, "value": str(len(seen.cells))})
    tracking.post("runs/set-tag", {"run_id": run_id, "key": SEEDED, "value": ", ".join(seen.seeds)})


def end(tracking: Tracking, run_id: str, *, at: int, exit_status: int) -> None:
    """End the run as its process ended: FINISHED, FAILED, or KILLED by a signal (status above 128)."""
    status = "FINISHED" if exit_status == 0 else "KILLED" if exit_status > 128 else "FAILED"
    tracking.post("runs/set-tag", {"run_id": run_id, "key": EXIT, "value": str(exit_status)})
    tracking.post("runs/update", {"run_id": run_id, "status": status, "end_time": at // 1000})


def experiment(tracking: Tracking, name: str) -> str:
    """The id of an experiment by name, made where there is none."""
    try:
        return str(tracking.get("experiments/get-by-name", experiment_name=name)["experiment"]["experiment_id"])
    except NotFound:
        return str(tracking.post("experiments/create", {"name": name})["experiment_id"])


def variables(url: str, token: str, run_id: str, *, seed: int | None) -> dict[str, str]:
    """Environment variables by which the script's own ``mlflow`` calls land in this run."""
    return {
        "MLFLOW_TRACKING_URI": url,
        "MLFLOW_TRACKING_TOKEN": token,
        "MLFLOW_RUN_ID": run_id,
        # A call that waits for the server pauses training; it must not end it.
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "3600",
        "HOLDFAST_RUN_ID": run_id,
        **({"HOLDFAST_SEED": str(seed), "PYTHONHASHSEED": str(seed)} if seed is not None else {}),
    }


HIDDEN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_REGISTRY_URI", "HOLDFAST_SERVER_TOKEN")
"""Variables the script does not get: other servers' addresses and credentials."""


def _target(root: str, path: str) -> str:
    if not root.startswith(TREE):
        raise BadInput(
            f"the run's artifacts are at {root}, where Holdfast does not reach", hint="use a Holdfast server"
        )
    return ARTIFACTS + quote(f"{root.removeprefix(TREE).strip('/')}/{path}")


def _read(answer: Answer) -> Json:
    try:
        value = msgspec.json.decode(answer.body) if answer.body else {}
    except msgspec.MsgspecError:
        value = {}
    if answer.status < 400:
        return value if isinstance(value, dict) else {}
    message = str(value.get("message") or f"status {answer.status}") if isinstance(value, dict) else ""
    if answer.status == 404:
        raise NotFound(f"the tracking server: {message}", hint="check the name or id")
    if answer.status >= 500:
        raise Unavailable(f"the tracking server: {message}", hint="check server.url and that the server runs")
    raise BadInput(f"the tracking server: {message}", hint="check server.url and server.token")
