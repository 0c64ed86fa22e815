"""``hf.save_model`` and ``hf.load_model``: the registry from a notebook, without definitions."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
        BadInput: ``X`` has no rows, is not numbers, or the columns do not fit it; the estimator is not fitted.
    """
    from holdfast import formats
    from holdfast.lifecycle.fit import made_in
    from holdfast.lifecycle.register import environment_of, specs
    from holdfast.registry import package as packages
    from holdfast.registry import versions
    from holdfast.training import fingerprint, runs

    names = [str(c) for c in columns] if columns is not None else _names(X)
    twice = next((n for at, n in enumerate(names) if n in names[:at]), None)
    if twice is not None:
        raise BadInput(f"two columns are called {twice!r}", hint="give each column a name of its own: columns=[…]")
    sample = _matrix(X, names)
    if not len(sample):
        raise BadInput("X has no rows", hint="give some rows like those the model will see")
    _refuse_unfitted(estimator, sample)
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
    with (
        _failed_if_it_fails(ws, run.run_id),
        tempfile.TemporaryDirectory(dir=ws.path("jobs", ".").parent, prefix=f"save-{new_id()[-6:]}-") as folder,
    ):
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


@contextmanager
def _failed_if_it_fails(ws: Workspace, run_id: str) -> Iterator[None]:
    """A run whose model could not be kept does not stay RUNNING."""
    from holdfast.training import runs

    try:
        yield
    except BaseException:
        runs.finish(ws.runs, run_id, status="FAILED", at=ws.clock.now())
        raise


def _refuse_unfitted(estimator: Any, sample: Array) -> None:
    """An estimator in scikit-learn's manner has to answer a row as it will be asked: as numbers in the columns' order."""
    asked = next((getattr(estimator, name) for name in ("predict", "predict_proba") if hasattr(estimator, name)), None)
    if asked is None and not hasattr(estimator, "forward") and not hasattr(estimator, "save_model"):
        raise BadInput(f"{type(estimator).__name__!r} is no model", hint="give a fitted estimator")
    if asked is None or not hasattr(estimator, "get_params"):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it may have been fitted on named columns
            asked(sample[:1])
    except Exception as error:
        said = str(error).partition("\n")[0]
        raise BadInput(
            f"{type(estimator).__name__} cannot answer a row of X: {said}",
            hint="fit it first, on numbers in the order of the columns: it is served without a frame around them",
        ) from error


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
    shape = np.shape(rows)
    if len(shape) != 2:
        raise BadInput(f"X has the shape {shape}", hint="give rows: two dimensions, (n, columns)")
    return [f"x{i}" for i in range(shape[1])]


def _numbers(values: Any, what: str) -> Array:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"{what} is not numbers: {error}",
            hint="a model takes numbers; code words as numbers before it is fitted, and empty cells as NaN",
        ) from None


def _matrix(rows: Any, columns: Sequence[str]) -> Array:
    """Rows as float64 (n, d): a frame is bound by column name, an array by position."""
    if hasattr(rows, "columns"):
        missing = [c for c in columns if c not in [str(there) for there in rows.columns]]
        if missing:
            raise BadInput(f"the rows have no column {missing[0]!r}", hint=f"the model takes {', '.join(columns)}")
        named = {str(c): c for c in rows.columns}
        return np.column_stack([_numbers(rows[named[c]], f"column {c!r}") for c in columns])
    matrix = _numbers(rows, "X")
    if matrix.ndim != 2 or matrix.shape[1] != len(columns):
        raise BadInput(
            f"rows of shape {matrix.shape} do not fit {len(columns)} columns",
            hint=f"the model takes {', '.join(columns)}",
        )
    return matrix
