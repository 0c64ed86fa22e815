"""Run → version: what was fitted, packaged with golden rows, reference profile and read plan, and registered."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from holdfast.core.definitions import FeatureService, Model
from holdfast.core.identity import canonical
from holdfast.core.ports import Ledger
from holdfast.core.records import FieldSpec, FileRef, Json, Package, TrainingSet
from holdfast.lifecycle.durable import Effect
from holdfast.lifecycle.rows import Rows

if TYPE_CHECKING:
    from holdfast.workspace import Workspace

GOLDEN_ROWS = 20


def register(
    ws: Workspace, model: Model, *, cycle: str, record: TrainingSet, fit_outcome: Json, at: int, source: str = ""
) -> tuple[Json, Effect | None]:
    """Package what was fitted, with golden rows, reference profile and read plan, and register it as the next version."""
    import pyarrow as pa

    from holdfast import formats
    from holdfast.features import lookup
    from holdfast.monitoring import drift
    from holdfast.registry import package as packages
    from holdfast.registry import versions

    fitted = fit_outcome["fitted"]
    rows = Rows(ws, model, record)
    features = model.features
    files = {name: FileRef(**ref) for name, ref in fit_outcome["files"].items()}
    if fitted["format"] == "pickle":
        # Our own child made it a step ago: this store answers for these bytes, and for no others.
        files = packages.sign_file(ws.objects, files, files[fitted["model_file"]].sha256, ws.secret("package"))
    plan = lookup.compile_plan(features) if features else None
    manifest = Package(
        name=model.name, format=fitted["format"], task=model.task, model_file=fitted["model_file"], files=files,
        inputs=input_specs(rows), request=request_specs(rows, features), outputs=[FieldSpec(name="score", dtype="float64", nullable=False)],
        classes=fitted["classes"], threshold=fitted["threshold"], original_file=fitted["original_file"],
        feature_service=features.name if features else None, features=record.features, plan=plan,
        environment=environment_of(fit_outcome),
        equivalence=fitted["equivalence"], training_set=record.digest, run_id=fit_outcome["run_id"],
    )  # fmt: skip
    folder = packages.unpack(ws.objects, manifest, ws.path("jobs", cycle, "package"))
    predictor = formats.load(folder, manifest, trusted=packages.vouched(manifest, folder, ws.secret("package")))
    train_X, _, train_times = rows.part("train")  # noqa: N806
    scores = np.asarray(predictor.scores(train_X), dtype=np.float64)
    golden = golden_rows(rows, predictor, features)
    table = pa.table({**{c: train_X[:, i] for i, c in enumerate(rows.columns)}, "score": score_column(scores)})
    profile = drift.profile(table, train_times, columns=[*rows.columns, "score"])
    extra = {"golden.json": canonical(golden), "reference.bin": profile}
    for name, data in extra.items():
        files[name] = FileRef(sha256=ws.objects.put(data), size=len(data))
    manifest = msgspec.structs.replace(manifest, files=files, golden_file="golden.json", reference_file="reference.bin")
    content = packages.store(ws.objects, manifest)
    shutil.rmtree(folder, ignore_errors=True)

    def effect(ledger: Ledger) -> Json:
        version = versions.create(
            ledger,
            model.name,
            content=content,
            run_id=fit_outcome["run_id"],
            training_set=record.digest,
            source=source,
            at=at,
            actor=ws.actor,
        )
        return {"version": version.version}

    return {"content": content}, effect


def golden_rows(rows: Rows, predictor: Any, service: FeatureService | None) -> Json:
    """A few held-out rows with what the model must answer: a replica proves itself on ``inputs``, smoke on ``request``."""
    index = rows.split.test[:: max(len(rows.split.test) // GOLDEN_ROWS, 1)][:GOLDEN_ROWS]
    X = rows.X[index]  # noqa: N806
    scores = np.asarray(predictor.scores(X), dtype=np.float64).tolist()
    inputs = [{c: None if np.isnan(v) else v for c, v in zip(rows.columns, row, strict=True)} for row in X.tolist()]
    names = (
        [*service.join_keys, *(r for r in service.request if r not in service.join_keys)] if service else rows.columns
    )
    requests = rows.table.select(names).take(index.tolist()).to_pylist()
    return {
        "rows": [
            {"inputs": i, "request": r, "request_time": int(t), "score": s}
            for i, r, t, s in zip(inputs, requests, rows.times[index], scores, strict=True)
        ]
    }


def input_specs(rows: Rows) -> list[FieldSpec]:
    """The model's inputs with the range seen in training."""
    return specs(rows.columns, rows.X[rows.split.train])


def specs(columns: Sequence[str], X: Any) -> list[FieldSpec]:  # noqa: N803
    """Inputs by name with the range their column of X (n, d) has."""
    found = []
    for i, name in enumerate(columns):
        seen = X[:, i][~np.isnan(X[:, i])]
        low, high = (float(seen.min()), float(seen.max())) if len(seen) else (None, None)
        found.append(FieldSpec(name=name, dtype="float64", low=low, high=high))
    return found


def request_specs(rows: Rows, service: FeatureService | None) -> list[FieldSpec]:
    """What a caller sends: entity keys (strings or integers as in the spine) and request values."""
    if service is None:
        return [
            FieldSpec(name=s.name, dtype=s.dtype, nullable=s.nullable, low=s.low, high=s.high)
            for s in input_specs(rows)
        ]
    import pyarrow as pa

    kinds = {k: rows.table.schema.field(k).type for k in service.join_keys}
    keys = [
        FieldSpec(name=k, dtype="int64" if pa.types.is_integer(t) else "string", nullable=True)
        for k, t in kinds.items()
    ]
    return keys + [
        FieldSpec(name=k, dtype=t, nullable=True) for k, t in service.request.items() if k not in service.join_keys
    ]


def score_column(scores: Any) -> Any:
    """Scores (n,) or (n, k) as an Arrow column: numbers, or one list of probabilities a row."""
    import pyarrow as pa

    return pa.array(scores if scores.ndim == 1 else list(scores))


def environment_of(made: Json) -> Json:
    """What a package says of the environment its model was made in (``fit.made_in``)."""
    return {"digest": made["environment"], "python": made["python"], "packages": made["packages"]}
