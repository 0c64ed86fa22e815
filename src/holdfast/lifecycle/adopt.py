"""A version that an MLflow client logged → a version that can be served: packaged with golden rows and a reference profile.

The bytes stay what they are, or become safer: an estimator is written anew as a safe format holds it, compiled where that
agrees. What runs code is taken only when somebody vouches for it; the package then carries this store's signature, because
replicas ask no ledger.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from holdfast.core.errors import BadInput, Conflict, NotTrusted
from holdfast.core.identity import canonical
from holdfast.core.records import FieldSpec, FileRef, ModelVersion, Package
from holdfast.lifecycle import outside
from holdfast.lifecycle.fit import VERIFY_ROWS, made_in
from holdfast.lifecycle.register import GOLDEN_ROWS, environment_of, score_column, specs
from holdfast.registry.foreign import PYFUNC, Task

if TYPE_CHECKING:
    import pyarrow as pa

    from holdfast.workspace import Workspace


def adopt(
    ws: Workspace,
    version: ModelVersion,
    *,
    data: Path,
    label: str | None = None,
    timestamp: str | None = None,
    task: Task = "binary",
    threshold: float | None = None,
    at: int,
) -> ModelVersion:
    """Package ``version`` and register the package as the next version of the same model.

    Args:
        data: a CSV or parquet file of rows like those the model will meet; ``label`` and ``timestamp`` are columns of it
            that are no inputs. Drift is later measured against these rows, by the days of ``timestamp`` where it is given.

    Raises:
        Conflict: it is a package already.
        NotFound, BadData: the file is not there, or not these columns.
        BadInput, NotTrusted: the version holds no model that can be loaded here.
    """
    from holdfast import formats
    from holdfast.registry import package as packages
    from holdfast.registry import versions
    from holdfast.training import fingerprint

    reference = f"{version.name}@{version.version}"
    if _is_package(ws, version):
        raise Conflict(f"{reference} is a package already", hint=f"`holdfast check {reference}` measures it")
    table = outside.read(data)
    aside = [name for name in (label, timestamp) if name is not None]
    outside.require_columns(table, aside, data)
    rest = [c for c in table.column_names if c not in aside]
    known = outside.manifest(ws, version, columns=rest, task=task, threshold=threshold)
    columns = [f.name for f in known.inputs]
    outside.require_columns(table, columns, data)
    X = np.column_stack([outside.numbers(table, c, data) for c in columns])  # noqa: N806
    folder = packages.unpack(ws.objects, known, ws.path("packages", version.content))
    predictor = formats.load(folder, known, trusted=outside.vouched(ws, known, folder))
    environment = fingerprint.environment()
    ws.objects.put(canonical(environment))
    package = msgspec.structs.replace(
        _written_anew(ws, known, predictor, X),
        inputs=specs(columns, X),
        request=specs(columns, X),
        outputs=[FieldSpec(name="score", dtype="float64", nullable=False)],
        environment=environment_of(made_in(environment)),
    )
    content = packages.store(ws.objects, _with_rows(ws, package, X, _times(table, timestamp, at)))
    return versions.create(
        ws.ledger, version.name, content=content, run_id=version.run_id, source=f"package of {reference}", at=at, actor=ws.actor
    )  # fmt: skip


def require_package(ws: Workspace, version: ModelVersion) -> None:
    """Raises:
    BadInput: an MLflow client logged the version, and nothing that can be served was made of it."""
    if not _is_package(ws, version):
        reference = f"{version.name}@{version.version}"
        raise BadInput(
            f"{reference} is as an MLflow client logged it, and a service answers from packages",
            hint=f"`holdfast models package {reference} --data ROWS` makes a version of it that can be served",
        )


def _is_package(ws: Workspace, version: ModelVersion) -> bool:
    from holdfast.registry import package as packages

    try:
        packages.load(ws.objects, version.content)
    except BadInput:
        return False
    return True


def _written_anew(ws: Workspace, known: Package, predictor: Any, X: Any) -> Package:  # noqa: N803
    """The package with its estimator in a safe format, and compiled, where that can be; else its own bytes, signed where
    they run code."""
    from holdfast import formats
    from holdfast.formats import mlflow_pyfunc
    from holdfast.registry import package as packages

    estimator = getattr(predictor, "estimator", None)
    if estimator is not None:
        sample = X[np.linspace(0, len(X) - 1, min(VERIFY_ROWS, len(X))).astype(np.int64)]
        with tempfile.TemporaryDirectory(dir=ws.path("jobs", ".").parent, prefix="adopt-") as work:
            try:
                saved = formats.save(
                    estimator, Path(work), sample=sample, task=known.task, columns=[f.name for f in known.inputs]
                )
            except (BadInput, NotTrusted):
                if known.format not in ("pickle", "joblib"):
                    raise
            else:
                files = {
                    n: FileRef(sha256=ws.objects.put_file(Path(work) / n), size=(Path(work) / n).stat().st_size)
                    for n in saved.files
                }
                return msgspec.structs.replace(
                    known, format=saved.format, model_file=saved.model_file, original_file=saved.original_file, files=files,
                    classes=saved.classes or known.classes, equivalence=saved.equivalence,
                )  # fmt: skip
    key = ws.secret("package")
    if known.format == PYFUNC:
        held = mlflow_pyfunc.tree_digest(known.files)
        return msgspec.structs.replace(known, files=packages.sign_file(ws.objects, known.files, held, key))
    files = {known.model_file: known.files[known.model_file]}
    if known.format in ("pickle", "joblib"):
        files = packages.sign_file(ws.objects, files, files[known.model_file].sha256, key)
    return msgspec.structs.replace(known, files=files)


def _with_rows(ws: Workspace, package: Package, X: Any, times: Any) -> Package:  # noqa: N803
    """The package with what a replica proves itself on and what drift is measured against."""
    import pyarrow as pa

    from holdfast import formats
    from holdfast.monitoring import drift
    from holdfast.registry import package as packages

    columns = [f.name for f in package.inputs]
    with tempfile.TemporaryDirectory(dir=ws.path("jobs", ".").parent, prefix="adopt-") as work:
        folder = packages.unpack(ws.objects, package, Path(work) / "package")
        model = formats.load(folder, package, trusted=packages.vouched(package, folder, ws.secret("package")))
        scores = np.asarray(model.scores(X), dtype=np.float64)
    index = np.unique(np.linspace(0, len(X) - 1, min(GOLDEN_ROWS, len(X))).astype(np.int64))
    rows = [{c: None if np.isnan(v) else v for c, v in zip(columns, row, strict=True)} for row in X[index].tolist()]
    golden = [
        {"inputs": row, "request": row, "request_time": int(t), "score": s}
        for row, t, s in zip(rows, times[index], scores[index].tolist(), strict=True)
    ]
    table = pa.table({**{c: X[:, i] for i, c in enumerate(columns)}, "score": score_column(scores)})
    kept = {
        "golden.json": canonical({"rows": golden}),
        "reference.bin": drift.profile(table, times, columns=[*columns, "score"]),
    }
    files = {name: FileRef(sha256=ws.objects.put(value), size=len(value)) for name, value in kept.items()}
    return msgspec.structs.replace(
        package, files={**package.files, **files}, golden_file="golden.json", reference_file="reference.bin"
    )


def _times(table: pa.Table, timestamp: str | None, at: int) -> Any:
    """(n,) instants of the rows, µs; all of them ``at`` where the file has none."""
    from holdfast.training import trainingset

    if timestamp is None:
        return np.full(table.num_rows, at, dtype=np.int64)
    return trainingset.times_us(table[timestamp])
