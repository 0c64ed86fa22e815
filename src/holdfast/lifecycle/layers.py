"""The layers of evidence that only a project can give: its own tests (unit), and the whole pipeline on a sample of the
rows (integration). Each runs in processes of its own and yields evidence; the gate decides over it like over any other.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.definitions import Model, Rule
from holdfast.core.errors import HoldfastError
from holdfast.core.records import Evidence, FieldSpec, FileRef, Package
from holdfast.validation import rules as naming

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.validation.evidence import Layer
    from holdfast.workspace import Workspace

_NO_TESTS = 5  # pytest's exit status where it collected nothing


def of(ws: Workspace, model: Model, *, at: int, module: str | None = None) -> Mapping[str, Layer]:
    """How each layer of ``model`` is run, as of ``at`` (µs)."""
    return {
        "unit": lambda rule: unit(ws, rule),
        "integration": lambda rule: integration(ws, model, rule, at=at, module=module),
    }


def unit(ws: Workspace, rule: Rule) -> list[Evidence]:
    """The project's tests, run by pytest in its root; figure = failures and errors."""
    check, path = naming.key(rule), str(rule.options.get("path", "tests"))

    def told(**details: Any) -> list[Evidence]:
        return [Evidence(check=check, figure=None, layer="unit", details=details)]

    if not (ws.root / path).exists():
        return told(missing=f"there is no {path} in the project")
    if importlib.util.find_spec("pytest") is None:
        return told(missing="pytest is not installed here: pip install pytest")
    job = ws.path("jobs", f"check-unit-{os.getpid()}")
    job.mkdir(parents=True, exist_ok=True)
    report, log = job / "report.xml", job / "log.txt"
    try:
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", path]
        timeout = rule.options.get("timeout", 600_000_000) / 1e6
        status = ws.launcher.run(argv, cwd=ws.root, env=dict(os.environ), log=log, timeout=timeout)
        if status == _NO_TESTS:
            return told(missing=f"pytest found no test under {path}")
        if not report.exists():
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return told(fault=f"the tests did not run: {lines[-1][:300] if lines else f'pytest ended with {status}'}")
        return [_counted(check, path, report.read_text(encoding="utf-8"), status)]
    finally:
        shutil.rmtree(job, ignore_errors=True)


def _counted(check: str, path: str, report: str, status: int) -> Evidence:
    """What a report of pytest says."""
    cases = list(ET.fromstring(report).iter("testcase"))  # noqa: S314  (written by our own pytest a moment ago)
    bad = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = sum(c.find("skipped") is not None for c in cases)
    ran = len(cases) - skipped
    how = f"pytest {path}"
    details: dict[str, Any] = {
        "skipped": skipped,
        "failed": [f"{c.get('classname')}.{c.get('name')}" for c in bad[:10]],
    }
    if bad or status != 0:
        first = details["failed"][0] if bad else f"pytest ended with {status}"
        details["fault"] = f"{len(bad)} of {ran} tests fail: {first}"
    elif not ran:
        details["missing"] = f"every test under {path} was skipped"
        return Evidence(check=check, figure=None, layer="unit", how=how, details=details)
    else:
        details["satisfied"] = f"{ran} tests pass" + (f", {skipped} skipped" if skipped else "")
    return Evidence(check=check, figure=float(len(bad)), n=ran, layer="unit", how=how, details=details)


def integration(ws: Workspace, model: Model, rule: Rule, *, at: int, module: str | None = None) -> list[Evidence]:
    """Features of a sample of the spine, fit, package, load, score the held-out part of the sample; figure = rows scored."""
    check = naming.key(rule)
    job = ws.path("jobs", f"check-pipeline-{os.getpid()}")
    how = "features → fit → package → load → score, on a sample"
    try:
        try:
            said = _pipeline(ws, model, rule, job=job, at=at, module=module)
        except HoldfastError as error:
            details = {"fault": f"the pipeline stops: {error.message}"}
            return [Evidence(check=check, figure=None, layer="integration", how=how, details=details)]
        return [
            Evidence(
                check=check, figure=float(said["scored"]), n=said["rows"], layer="integration", how=how, details=said
            )
        ]
    finally:
        shutil.rmtree(job, ignore_errors=True)


def _pipeline(ws: Workspace, model: Model, rule: Rule, *, job: Any, at: int, module: str | None) -> dict[str, Any]:
    from holdfast import formats
    from holdfast.core.identity import file_sha256
    from holdfast.features import lookup
    from holdfast.lifecycle import build, fit, register
    from holdfast.lifecycle.rows import Rows
    from holdfast.training import execute

    share, least = float(rule.options.get("share", 0.01)), int(rule.options.get("least", 200))
    rows = Rows(ws, model, *build.sampled(ws, model, as_of=at, share=share, least=least))
    if not len(rows.split.train) or not len(rows.split.test):
        return {"rows": rows.table.num_rows, "scored": 0,
                "missing": f"the {rows.table.num_rows} sampled rows leave no held-out part: raise sample or least"}  # fmt: skip
    if model.features is not None:
        lookup.compile_plan(model.features)
    parts = [execute.Data(*rows.named(part)) for part in ("train", "tune")]
    fitted = execute.fit(
        ws.launcher, job, root=ws.root, module=module or ws.settings.definitions, model=model, train=parts[0],
        tune=parts[1], sample=rows.X[: fit.VERIFY_ROWS],
    )  # fmt: skip
    folder = job / "model"
    files = {n: FileRef(sha256=file_sha256(folder / n), size=(folder / n).stat().st_size) for n in fitted.files}
    package = Package(
        name=model.name, format=fitted.format, task=model.task, model_file=fitted.model_file, files=files,
        inputs=register.input_specs(rows), request=register.request_specs(rows, model.features),
        outputs=[FieldSpec(name="score", dtype="float64", nullable=False)], classes=fitted.classes, threshold=fitted.threshold,
    )  # fmt: skip
    X, _, _ = rows.part("test")  # noqa: N806
    own = {ref.sha256 for ref in files.values()}  # our child wrote them a moment ago
    scores = np.asarray(formats.load(folder, package, trusted=own.__contains__).scores(X), dtype=np.float64)
    said: dict[str, Any] = {"rows": rows.table.num_rows, "scored": len(X), "format": fitted.format}
    bad = int(np.count_nonzero(~np.isfinite(scores).reshape(len(X), -1).all(axis=1)))
    if scores.shape[:1] != (len(X),) or bad:
        said["fault"] = f"of {len(X)} held-out rows {bad} have no finite score (scores of shape {scores.shape})"
    else:
        said["satisfied"] = f"{said['rows']:,} rows through the pipeline, {len(X):,} held-out ones scored"
    return said
