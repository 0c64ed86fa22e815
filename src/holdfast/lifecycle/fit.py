"""Training set → run: the user's function in a process of its own, its files kept as objects."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from holdfast.core.definitions import Model
from holdfast.core.errors import BadDefinition, NotFound
from holdfast.core.identity import canonical, digest, iso
from holdfast.core.ports import Ledger
from holdfast.core.records import Json, TrainingSet
from holdfast.lifecycle.durable import Effect
from holdfast.lifecycle.rows import Rows

if TYPE_CHECKING:
    from holdfast.workspace import Workspace

VERIFY_ROWS = 2000
# What reads a model back; serving refuses other feature releases of these where the format depends on them.
MODEL_LIBRARIES = ("numpy", "scikit-learn", "skops", "onnxruntime", "xgboost", "lightgbm", "torch", "safetensors")


def run_name(cycle: str) -> str:
    """The run of a cycle's fit: derived from the step, so that a repeated fit is the same run."""
    return digest(f"{cycle}/fit")[:32]


def fit(
    ws: Workspace, model: Model, *, cycle: str, record: TrainingSet, at: int, module: str | None = None
) -> tuple[Json, Effect | None]:
    """Fit all candidates in a child process; log the run; keep the files as objects."""
    from holdfast.lifecycle import decision
    from holdfast.training import execute, fingerprint, runs

    rows = Rows(ws, model, record)
    (code, patch), environment = fingerprint.snapshot(ws.root), fingerprint.environment()
    ws.objects.put(canonical(environment))
    run_id = run_name(cycle)
    if not _known_run(ws, run_id):
        runs.start(
            ws.runs, model=model.name, at=at, actor=ws.actor, name=f"{model.name} {iso(at)}", params={**model.params, "candidates": len(model.candidates)},
            training_set=record.digest, code=code, environment=environment, seed=model.seed,
            command=["holdfast", "train", model.name, "--as-of", iso(at), *(["--definitions", module] if module else [])], run_id=run_id,
        )  # fmt: skip
        # What `holdfast reproduce` needs beside the tags.
        lock = canonical({**environment, "lock": fingerprint.lock()})
        runs.log_file(ws.runs, ws.objects, run_id, runs.ENVIRONMENT_FILE, lock, at=at)
        if patch:
            runs.log_file(ws.runs, ws.objects, run_id, runs.PATCH_FILE, patch, at=at)
    rng = np.random.default_rng(model.seed)
    sample = rows.X[np.sort(rng.choice(len(rows.X), min(VERIFY_ROWS, len(rows.X)), replace=False))]
    job = ws.path("jobs", cycle, "fit")
    try:
        fitted = execute.fit(
            ws.launcher, job, root=ws.root, module=module or ws.settings.definitions, model=model,
            train=execute.Data(*rows.named("train")), tune=execute.Data(*rows.named("tune")), sample=sample,
        )  # fmt: skip
    except BadDefinition:
        runs.finish(ws.runs, run_id, status="FAILED", at=at)
        raise
    except KeyboardInterrupt:
        runs.finish(ws.runs, run_id, status="KILLED", at=at)
        raise
    best = fitted.candidates[fitted.chosen]
    metrics = {f"tune_{k}": v for k, v in best.metrics.items()} | {"fit_seconds": fitted.seconds}
    runs.log(ws.runs, run_id, metrics=metrics, params=best.params, at=at)
    runs.finish(ws.runs, run_id, status="FINISHED", at=at)
    files = {
        name: {"sha256": ws.objects.put_file(job / "model" / name), "size": (job / "model" / name).stat().st_size}
        for name in fitted.files
    }
    for path, file in files.items():
        runs.log_object(
            ws.runs, run_id, f"model/{path}", sha256=str(file["sha256"]), size=int(str(file["size"])), at=at
        )
    shutil.rmtree(job / "model", ignore_errors=True)
    (job / "arrays.npz").unlink(missing_ok=True)
    outcome = {
        "run_id": run_id, "fitted": msgspec.to_builtins(fitted), "files": files, **made_in(environment),
        "commit": code.get("commit"), "dirty": code.get("dirty"), "seconds": fitted.seconds,
    }  # fmt: skip

    def effect(ledger: Ledger) -> None:
        decision.keep_fit(ledger, run_id, outcome["fitted"])
        ledger.append(
            "run.finished", subject=model.name, at=at, actor=ws.actor,
            body={"run": run_id, "training_set": record.digest, "commit": code.get("commit"), "dirty": bool(code.get("dirty")),
                  "environment": environment["digest"]},
        )  # fmt: skip

    return outcome, effect


def _known_run(ws: Workspace, run_id: str) -> bool:
    try:
        ws.runs.get_run(run_id)
    except NotFound:
        return False
    return True


def made_in(environment: Json) -> Json:
    """What a fit remembers of the environment (``fingerprint.environment``) it ran in."""
    packages = {k: v for k, v in environment["packages"].items() if k in MODEL_LIBRARIES}
    return {"environment": environment["digest"], "python": environment["python"], "packages": packages}
