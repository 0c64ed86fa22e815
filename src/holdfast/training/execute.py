"""Run the user's training function in a process of its own, with seeds set, and bring back what it fitted.

Parent: ``fit`` writes a job folder (arrays, parameters), starts ``python -m holdfast.training.execute JOB`` through the
Launcher and reads ``result.json``. Child: loads the user's module, fits every candidate on the train rows, picks the best
on the tune rows, chooses the threshold there, and saves the model with ``formats.save``. A job folder is named by its
step, so a repeated fit overwrites itself and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from holdfast.core.definitions import Model, Threshold
from holdfast.core.errors import BadDefinition, BadInput, HoldfastError
from holdfast.core.model_definitions import MEASURED
from holdfast.core.ports import Launcher
from holdfast.core.records import Record

Array = np.ndarray[Any, Any]


class Data:
    """What a training function is given: ``X`` float64 (n, d) with NaN for null, ``y`` (n,), ``columns``, ``times`` (µs)."""

    def __init__(self, X: Array, y: Array, columns: Sequence[str], times: Array) -> None:  # noqa: N803  (the field's own name)
        self.X, self.y, self.columns, self.times = X, y, list(columns), times

    def frame(self) -> Any:
        """``X`` as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.X, columns=self.columns)


class Candidate(Record, frozen=True, kw_only=True):
    """One fitted candidate: its parameters, metrics on the tune rows, seconds to fit."""

    params: dict[str, Any]
    metrics: dict[str, float]
    seconds: float


class Fitted(Record, frozen=True, kw_only=True):
    """What a fit brought back; files lie in the job folder's ``model``."""

    chosen: int
    candidates: list[Candidate]
    threshold: float | None
    threshold_curve: list[dict[str, float]]
    format: str
    model_file: str
    original_file: str | None
    files: list[str]
    classes: list[Any]
    equivalence: dict[str, Any] | None
    seconds: float


def fit(
    launcher: Launcher,
    job: Path,
    *,
    root: Path,
    module: str,
    model: Model,
    train: Data,
    tune: Data,
    sample: Array,
    timeout: float | None = None,
) -> Fitted:
    """Fit all candidates of ``model`` in a child process. ``sample`` (n, d) are rows the saved form is verified on.

    Raises:
        BadDefinition: the user's function failed; the message has its last line and the log's place.
    """
    shutil.rmtree(job, ignore_errors=True)
    job.mkdir(parents=True)
    np.savez(
        job / "arrays.npz",
        X=train.X, y=train.y, times=train.times, X_tune=tune.X, y_tune=tune.y, times_tune=tune.times, sample=sample,
    )  # fmt: skip
    (job / "job.json").write_text(
        json.dumps({"root": str(root), "module": module, "model": model.name, "columns": train.columns}),
        encoding="utf-8",
    )
    threads = str(os.cpu_count() or 1)
    env = {
        **os.environ,
        "PYTHONHASHSEED": str(model.seed),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads are ruinous where the cores are shared
    }
    status = launcher.run(
        [sys.executable, "-m", "holdfast.training.execute", str(job)],
        cwd=root,
        env=env,
        log=job / "log.txt",
        timeout=timeout,
    )
    result = job / "result.json"
    if status != 0 or not result.exists():
        lines = (
            (job / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            if (job / "log.txt").exists()
            else []
        )
        last = lines[-1] if lines else f"the process ended with status {status}"
        raise BadDefinition(f"training {model.name!r} failed: {last}", hint=f"the whole log is in {job / 'log.txt'}")
    return msgspec.json.decode(result.read_bytes(), type=Fitted)


def choose_threshold(scores: Array, y: Array, threshold: Threshold) -> tuple[float, list[dict[str, float]]]:
    """The cut with the least expected cost per row, and the cost curve over 99 quantiles of the scores.

    Cost = miss × P(label 1, score < cut) + false_alarm × P(label 0, score ≥ cut).
    """
    cuts = np.unique(np.quantile(scores, np.linspace(0.01, 0.99, 99)))
    order = np.argsort(scores, kind="stable")
    ranked, truth = scores[order], y[order]
    misses_below = np.concatenate([[0.0], np.cumsum(truth == 1)])
    alarms_above = np.concatenate([[0.0], np.cumsum((truth == 0)[::-1])])[::-1]
    at = np.searchsorted(ranked, cuts, "left")
    misses, alarms = misses_below[at], alarms_above[at]
    cost = (threshold.miss * misses + threshold.false_alarm * alarms) / len(y)
    positives = max(float((y == 1).sum()), 1.0)
    curve = [
        {"threshold": float(c), "cost": float(k), "recall": float(1 - m / positives),
         "precision": float((positives - m) / (positives - m + a)) if positives - m + a else 1.0}
        for c, k, m, a in zip(cuts, cost, misses, alarms, strict=True)
    ]  # fmt: skip
    return (threshold.at if threshold.at is not None else float(cuts[int(np.argmin(cost))])), curve


def _metrics(task: str, scores: Array, y: Array) -> dict[str, float]:
    from holdfast.stats import metrics

    return {name: float(metrics.compute(name, y, scores)) for name in MEASURED[task]}


def _scores(estimator: Any, rows: Array, task: str) -> Array:
    if task == "regression":
        return np.asarray(estimator.predict(rows), dtype=np.float64)
    if not hasattr(estimator, "predict_proba"):
        raise BadInput(f"{type(estimator).__name__} gives no probabilities", hint="wrap it in CalibratedClassifierCV")
    proba = np.asarray(estimator.predict_proba(rows), dtype=np.float64)
    return proba[:, 1] if task == "binary" else proba


def _child(job: Path) -> None:
    from holdfast import formats
    from holdfast.core.project import load
    from holdfast.training.fingerprint import seed_everything

    spec = json.loads((job / "job.json").read_text(encoding="utf-8"))
    project = load(Path(spec["root"]), spec["module"])
    model = project.models[spec["model"]]
    arrays = np.load(job / "arrays.npz", allow_pickle=False)
    columns = spec["columns"]
    train = Data(arrays["X"], arrays["y"], columns, arrays["times"])
    lower_is_better = model.select in ("log_loss", "brier", "mae", "rmse")
    fitted: list[tuple[Any, Candidate, Array]] = []
    started = time.perf_counter()
    for override in model.candidates:
        seed_everything(model.seed)
        params = {**model.params, **override}
        before = time.perf_counter()
        estimator = model(train, params)
        seconds = time.perf_counter() - before
        scores = _scores(estimator, arrays["X_tune"], model.task)
        metrics = _metrics(model.task, scores, arrays["y_tune"])
        fitted.append((estimator, Candidate(params=params, metrics=metrics, seconds=seconds), scores))
        print(f"candidate {params}: {metrics} in {seconds:.1f} s", flush=True)  # noqa: T201  (the job's log)
    ranked = [c.metrics[model.select] * (-1 if lower_is_better else 1) for _, c, _ in fitted]
    # A metric that is undefined on the tune stretch (one class only) tells nothing: then the first candidate it is.
    chosen = 0 if np.isnan(ranked).all() else int(np.nanargmax(ranked))
    estimator, _, scores = fitted[chosen]
    threshold, curve = (
        choose_threshold(scores, arrays["y_tune"], model.threshold) if model.task == "binary" else (None, [])
    )
    saved = formats.save(
        estimator, job / "model", sample=arrays["sample"], task=model.task, columns=columns, pickled=model.pickled
    )
    result = Fitted(
        chosen=chosen, candidates=[c for _, c, _ in fitted], threshold=threshold, threshold_curve=curve, format=saved.format,
        model_file=saved.model_file, original_file=saved.original_file, files=list(saved.files), classes=list(saved.classes or []),
        equivalence=saved.equivalence, seconds=time.perf_counter() - started,
    )  # fmt: skip
    temporary = job / "result.json.tmp"
    temporary.write_bytes(msgspec.json.encode(result))
    temporary.replace(job / "result.json")


if __name__ == "__main__":
    try:
        _child(Path(sys.argv[1]))
    except HoldfastError as error:
        sys.exit(f"{error.message}" + (f" ({error.hint})" if error.hint else ""))
    except ModuleNotFoundError as error:
        sys.exit(f"{error}" + (f" (pip install {error.name})" if error.name else ""))
