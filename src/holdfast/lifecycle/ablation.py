"""Why these features: the model fitted again without each of them, and compared with the whole on the same held-out rows.

What is left out is what people decide about: a feature view, an on-demand feature, a request value. Each fit is a process
of its own, so this costs one training per part; it runs where a gate asks for it.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.definitions import Model, Rule
from holdfast.core.errors import HoldfastError
from holdfast.core.identity import file_sha256
from holdfast.core.records import Evidence, FileRef, Package
from holdfast.stats import intervals, metrics, multiplicity
from holdfast.validation import rules as naming
from holdfast.validation.performance import as_evidence

if TYPE_CHECKING:
    from holdfast.lifecycle.rows import Rows
    from holdfast.workspace import Workspace

CONFIDENCE = 0.95


def parts_of(model: Model, columns: list[str]) -> dict[str, list[str]]:
    """The model's input columns by what they come from; columns of nothing known stand alone."""
    found: dict[str, list[str]] = {}
    if model.features is not None:
        for view in model.features.views:
            found[view.name] = [c for c in view.columns() if c in columns]
    known = {c for part in found.values() for c in part}
    found |= {c: [c] for c in columns if c not in known}
    return {name: part for name, part in found.items() if part}


def measure(
    ws: Workspace, model: Model, rule: Rule, *, rows: Rows, scores: Any, threshold: float, module: str | None = None
) -> list[Evidence]:
    """metric(whole) − metric(without the part), positive = the part earns its place; paired on the held-out rows, the
    intervals of all parts together.

    Args:
        scores: the version's own on the held-out rows, at ``threshold``.
    """
    check = naming.key(rule)
    parts = parts_of(model, rows.columns)
    if len(parts) < 2:
        return [Evidence(check=check, figure=None, details={"note": "a model with one part cannot do without it"})]
    confidence = multiplicity.sidak(CONFIDENCE, len(parts))
    out = []
    for name, columns in parts.items():
        job = ws.path("jobs", f"check-ablation-{os.getpid()}")
        try:
            other, cut = _without(ws, model, rows, columns, job=job, module=module)
        except HoldfastError as error:
            # A training function may name the column it is asked to do without: that says nothing about the column.
            details: dict[str, Any] = {"note": f"it does not fit without {name}: {error.message}"}
            out.append(Evidence(check=check, figure=None, group=name, details=details))
            continue
        finally:
            shutil.rmtree(job, ignore_errors=True)
        _, y, _ = rows.part("test")
        metric = str(rule.metric)
        found = intervals.paired(
            metric, y, scores, other, threshold_a=threshold, threshold_b=cut, confidence=confidence
        )
        without = metrics.compute(metric, y, other, threshold=cut)
        compared = f"fitted again without {', '.join(columns[:4])}{', …' if len(columns) > 4 else ''}"
        out.append(as_evidence(check, found, confidence=confidence, compared=compared, group=name, without=without))
    return out


def _without(
    ws: Workspace, model: Model, rows: Rows, columns: list[str], *, job: Any, module: str | None
) -> tuple[Any, float]:
    """(scores of the held-out rows, threshold) of the model fitted without ``columns``."""
    from holdfast import formats
    from holdfast.lifecycle import fit, register
    from holdfast.training import execute

    keep = [i for i, name in enumerate(rows.columns) if name not in columns]
    names = [rows.columns[i] for i in keep]
    data = []
    for part in ("train", "tune"):
        X, y, times = rows.part(part)  # noqa: N806
        data.append(execute.Data(X[:, keep], y, names, times))
    fitted = execute.fit(
        ws.launcher, job, root=ws.root, module=module or ws.settings.definitions, model=model, train=data[0], tune=data[1],
        sample=rows.X[: fit.VERIFY_ROWS][:, keep],
    )  # fmt: skip
    folder = job / "model"
    files = {n: FileRef(sha256=file_sha256(folder / n), size=(folder / n).stat().st_size) for n in fitted.files}
    specs = [spec for spec in register.input_specs(rows) if spec.name in names]
    package = Package(
        name=model.name, format=fitted.format, task=model.task, model_file=fitted.model_file, files=files, inputs=specs,
        request=[], outputs=[], classes=fitted.classes, threshold=fitted.threshold,
    )  # fmt: skip
    X, _, _ = rows.part("test")  # noqa: N806
    own = {ref.sha256 for ref in files.values()}  # our child wrote them a moment ago
    scores = np.asarray(formats.load(folder, package, trusted=own.__contains__).scores(X[:, keep]), dtype=np.float64)
    return scores, 0.5 if fitted.threshold is None else fitted.threshold
