"""``hf.save_model`` and ``hf.load_model``: the registry from a notebook, without definitions."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.errors import BadInput
from holdfast.core.identity import new_id
from holdfast.core.records import FieldSpec, FileRef, ModelVersion, Package

if TYPE_CHECKING:
    from holdfast.workspace import Workspace

Array = np.ndarray[Any, Any]


class LoadedModel:
    """A model version in memory. ``name``, ``version`` and ``content`` say exactly which; ``latest`` was resolved once."""

    def __init__(self, version: ModelVersion, package: Package, predictor: Any) -> None:
        self.name, self.version, self.content = version.name, version.version, version.content
        self.columns = [spec.name for spec in package.inputs]
        self._package, self._predictor = package, predictor

    def scores(self, rows: Any) -> Array:
        """(n,) probabilities of class 1 (binary) or values (regression), (n, k) probabilities (multiclass).

        Raises:
            BadInput: a column is missing, or the width is wrong.
        """
        return np.asarray(self._predictor.scores(_matrix(rows, self.columns)))

    def predict(self, rows: Any) -> Array:
        """Classes at the version's threshold, or values."""
        scores = self.scores(rows)
        if self._package.task == "regression":
            return scores
        classes = np.asarray(self._package.classes or [0, 1])
        if self._package.task == "binary":
            threshold = 0.5 if self._package.threshold is None else self._package.threshold
            return np.asarray(classes[(scores >= threshold).astype(int)])
        return np.asarray(classes[np.argmax(scores, axis=1)])

    def __repr__(self) -> str:
        return f"<{self.name}@{self.version} {self.content[:12]}>"


def save(
    ws: Workspace,
    estimator: Any,
    name: str,
    *,
    X: Any,  # noqa: N803  (the field's own name)
    columns: Sequence[str] | None = None,
    task: str | None = None,
    pickled: bool = False,
) -> ModelVersion:
    """Package a fitted estimator and register it as the next version of ``name``. ``X`` (n, d) are rows like those it will
    see: the saved form is verified on them and their ranges are kept. ``pickled``: where no safe format holds the
    estimator, keep a pickle, signed with this store's key; other stores will not load it.

    Raises:
        BadInput: ``X`` has no rows, or the columns do not fit it.
    """
    from holdfast import formats
    from holdfast.lifecycle.fit import made_in
    from holdfast.lifecycle.register import environment_of, specs
    from holdfast.registry import package as packages
    from holdfast.registry import versions
    from holdfast.training import fingerprint, runs

    names = list(columns) if columns is not None else _names(X)
    sample = _matrix(X, names)
    if not len(sample):
        raise BadInput("X has no rows", hint="give some rows like those the model will see")
    classes = list(getattr(estimator, "classes_", []))
    task = task or ("binary" if len(classes) == 2 else "multiclass" if classes else "regression")
    at = ws.clock.now()
    environment = fingerprint.environment()
    run = runs.start(
        ws.runs,
        model=name,
        at=at,
        actor=ws.actor,
        name=f"save_model {name}",
        code=fingerprint.code(ws.root),
        environment=environment,
        run_id=None,
    )
    with tempfile.TemporaryDirectory(dir=ws.path("jobs", ".").parent, prefix=f"save-{new_id()[-6:]}-") as folder:
        saved = formats.save(estimator, Path(folder), sample=sample, task=task, columns=names, pickled=pickled)
        files = {
            f: FileRef(sha256=ws.objects.put_file(Path(folder) / f), size=(Path(folder) / f).stat().st_size)
            for f in saved.files
        }
    if saved.format == "pickle":
        files = packages.sign_file(ws.objects, files, files[saved.model_file].sha256, ws.secret("package"))
    inputs = specs(names, sample)
    manifest = Package(
        name=name, format=saved.format, task=task, model_file=saved.model_file, files=files, inputs=inputs, request=inputs,  # type: ignore[arg-type]
        outputs=[FieldSpec(name="score", dtype="float64", nullable=False)], classes=list(saved.classes or []),
        original_file=saved.original_file, environment=environment_of(made_in(environment)), equivalence=saved.equivalence, run_id=run.run_id,
    )  # fmt: skip
    content = packages.store(ws.objects, manifest)
    runs.finish(ws.runs, run.run_id, status="FINISHED", at=at)
    return versions.create(
        ws.ledger, name, content=content, run_id=run.run_id, source="save_model", at=at, actor=ws.actor
    )


def load(ws: Workspace, reference: str) -> LoadedModel:
    """The version ``reference`` leads to (``name@7``, ``name@champion``, ``name@latest``), its bytes verified, in memory.

    Raises:
        NotFound: it leads nowhere. Damaged: stored bytes are not what was registered.
    """
    from holdfast import formats
    from holdfast.lifecycle import outside
    from holdfast.registry import package as packages
    from holdfast.registry import versions

    version = versions.resolve(ws.ledger, reference)
    manifest = packages.load(ws.objects, version.content)
    folder = packages.unpack(ws.objects, manifest, ws.path("packages", version.content))
    return LoadedModel(version, manifest, formats.load(folder, manifest, trusted=outside.vouched(ws, manifest, folder)))


def _names(rows: Any) -> list[str]:
    if hasattr(rows, "columns"):
        return [str(c) for c in rows.columns]
    return [f"x{i}" for i in range(np.asarray(rows).shape[1])]


def _matrix(rows: Any, columns: Sequence[str]) -> Array:
    """Rows as float64 (n, d): a frame is bound by column name, an array by position."""
    if hasattr(rows, "columns"):
        missing = [c for c in columns if c not in list(rows.columns)]
        if missing:
            raise BadInput(f"the rows have no column {missing[0]!r}", hint=f"the model takes {', '.join(columns)}")
        return np.column_stack([np.asarray(rows[c], dtype=np.float64) for c in columns])
    matrix = np.asarray(rows, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != len(columns):
        raise BadInput(
            f"rows of shape {matrix.shape} do not fit {len(columns)} columns",
            hint=f"the model takes {', '.join(columns)}",
        )
    return matrix
