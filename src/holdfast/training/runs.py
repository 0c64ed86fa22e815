"""A training run in the run store: started, logged to, finished, and read back as the record other stages use.

What has no column of its own is a tag named ``holdfast.…``; the git commit also carries MLflow's own tag, so that its
clients show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from holdfast.core.errors import BadInput, Conflict
from holdfast.core.identity import digest
from holdfast.core.ports import Objects, RunStore
from holdfast.core.records import Json, RunRecord
from holdfast.core.tracking import DatasetInput, Metric, Run, RunStatus

MODEL = "holdfast.model"
TRAINING_SET = "holdfast.training_set"
CODE = "holdfast.code"
ENVIRONMENT = "holdfast.environment"
SEED = "holdfast.seed"
COMMAND = "holdfast.command"
PATCH_FILE, ENVIRONMENT_FILE = "holdfast/code.patch", "holdfast/environment.json"
FIT_SECONDS = "fit_seconds"
_PARAM_LIMIT = 6000


def experiment(store: RunStore, name: str, *, at: int) -> str:
    """The id of an experiment by name, made (or, if deleted, brought back) where needed."""
    found = store.find_experiment(name)
    if found is None:
        try:
            return store.create_experiment(name, at=at).experiment_id
        except Conflict:
            # Somebody else made it between the two calls.
            found = store.find_experiment(name)
            if found is None:
                raise
    if found.lifecycle == "deleted":
        store.update_experiment(found.experiment_id, at=at, deleted=False)
    return found.experiment_id


def start(
    store: RunStore,
    *,
    model: str,
    at: int,
    actor: str = "",
    experiment_name: str | None = None,
    name: str = "",
    params: Mapping[str, Any] | None = None,
    training_set: str | None = None,
    code: Json | None = None,
    environment: Json | str | None = None,
    seed: int | None = None,
    command: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    datasets: Sequence[DatasetInput] = (),
    run_id: str | None = None,
) -> RunRecord:
    """Start a run of a model's training. ``environment`` is a lock (kept by its digest) or its digest; ``code`` as
    ``training.fingerprint.code`` gives it."""
    home = experiment(store, experiment_name or model, at=at)
    code = dict(code or {})
    lock = (
        environment
        if isinstance(environment, str)
        else (environment or {}).get("digest") or (digest(environment) if environment else None)
    )
    marks = {
        MODEL: model,
        "mlflow.source.name": " ".join(command) or model,
        "mlflow.source.type": "LOCAL",
        **dict(tags or {}),
    }
    if actor:
        marks["mlflow.user"] = actor
    if training_set:
        marks[TRAINING_SET] = training_set
    if lock:
        marks[ENVIRONMENT] = lock
    if seed is not None:
        marks[SEED] = str(seed)
    if command:
        marks[COMMAND] = msgspec.json.encode(list(command)).decode()
    if code:
        marks[CODE] = msgspec.json.encode(code).decode()
        if code.get("commit"):
            marks["mlflow.source.git.commit"] = str(code["commit"])
    if name:
        marks["mlflow.runName"] = name
    with store.transaction():
        run = store.create_run(home, at=at, name=name, user=actor, tags=marks, run_id=run_id)
        log(store, run.run_id, params=params)
        if datasets:
            store.log_inputs(run.run_id, datasets=datasets)
    return get(store, run.run_id)


def log(
    store: RunStore,
    run_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    at: int = 0,
    step: int = 0,
) -> None:
    """Log metrics (at one instant and step), params and tags together or not at all.

    Raises:
        BadInput: a param's text is longer than 6000 characters, or it has another value already.
    """
    texts = {k: v if isinstance(v, str) else _param(v) for k, v in (params or {}).items()}
    for key, value in texts.items():
        if len(value) > _PARAM_LIMIT:
            raise BadInput(
                f"param {key!r} is {len(value)} characters long",
                hint=f"log it as an artifact; params hold at most {_PARAM_LIMIT}",
            )
    points = [Metric(key=k, value=float(v), at=at, step=step) for k, v in (metrics or {}).items()]
    if points or texts or tags:
        store.log_batch(run_id, metrics=points, params=texts, tags=tags)


def log_file(store: RunStore, objects: Objects, run_id: str, path: str, data: bytes, *, at: int) -> str:
    """Keep bytes as an artifact of the run at ``path``; their SHA-256."""
    sha256 = objects.put(data)
    log_object(store, run_id, path, sha256=sha256, size=len(data), at=at)
    return sha256


def log_object(store: RunStore, run_id: str, path: str, *, sha256: str, size: int, at: int) -> None:
    """Name bytes that are kept already as an artifact of the run."""
    root = store.get_run(run_id).artifact_uri.removeprefix("mlflow-artifacts:").lstrip("/")
    store.put_artifact(f"{root}/{path}", sha256=sha256, size=size, at=at)


def finish(
    store: RunStore, run_id: str, *, at: int, status: RunStatus = "FINISHED", metrics: Mapping[str, float] | None = None
) -> RunRecord:
    """End a run, with its last metrics."""
    with store.transaction():
        log(store, run_id, metrics=metrics, at=at)
        store.update_run(run_id, at=at, status=status, ended=at)
    return get(store, run_id)


def get(store: RunStore, run_id: str) -> RunRecord:
    """The run as a record.

    Raises:
        NotFound: no such run.
    """
    run = store.get_run(run_id)
    return record(run, store.get_experiment(run.experiment_id).name)


def record(run: Run, experiment_name: str) -> RunRecord:
    """A run of the store as the record other stages use."""
    tags = run.tags
    return RunRecord(
        run_id=run.run_id,
        experiment=experiment_name,
        model=tags.get(MODEL, ""),
        status=run.status if run.status != "SCHEDULED" else "RUNNING",
        training_set=tags.get(TRAINING_SET),
        params={k: _value(v) for k, v in run.params.items()},
        metrics={m.key: m.value for m in run.metrics},
        code=msgspec.json.decode(tags[CODE]) if CODE in tags else {},
        environment=tags.get(ENVIRONMENT),
        seed=int(tags[SEED]) if SEED in tags else None,
        command=msgspec.json.decode(tags[COMMAND]) if COMMAND in tags else [],
        started=run.started,
        ended=run.ended,
    )


def _param(value: Any) -> str:
    """A param as MLflow's clients write it: numbers, None and True as Python shows them."""
    return repr(value) if isinstance(value, bool | int | float) or value is None else str(value)


def _value(text: str) -> Any:
    """A param's text as the number, bool or None it shows, else the text."""
    known = {"True": True, "False": False, "None": None}
    if text in known:
        return known[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
