"""Data → features → training → a registered version: the first half of a cycle, in order.

Each function called here is the work of one durable step. It returns (outcome, effect): the outcome is what later steps need,
the effect writes to the ledger in the transaction that records the outcome. Files are named by the cycle's id or by content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.core.definitions import Model
from holdfast.core.ports import Progress
from holdfast.core.records import Json
from holdfast.lifecycle import build, fit, register, sources

if TYPE_CHECKING:
    from holdfast.workspace import Workspace


def quiet(done: int, total: int | None, what: str) -> None:
    """Progress nobody watches."""


def train(
    ws: Workspace, model: Model, *, name: str, at: int, module: str | None = None, sample: float | None = None,
    progress: Progress = quiet,
) -> Json:  # fmt: skip
    """Data → features → fit → registered version in one go, outside a cycle; ``name`` names its job folder and run.

    The steps are recorded like a cycle's, so that a killed training is carried on by calling this again with its name.
    """
    from holdfast.lifecycle.durable import Steps

    steps = Steps(ws.ledger, f"train/{name}", now=lambda: at, actor=ws.actor)
    progress(0, 4, "data")
    data = steps.once("data", lambda: sources.admit_data(ws, model, at=at))
    progress(1, 4, "features")
    built = steps.once(
        "features", lambda: build.build_training_set(ws, model, as_of=at, datasets=data["datasets"], sample=sample)
    )
    record = build.training_set(ws.ledger, built["digest"])
    progress(2, 4, f"fit on {record.rows:,} rows")
    fitted = steps.once("fit", lambda: fit.fit(ws, model, cycle=name, record=record, at=at, module=module))
    progress(3, 4, "package")
    source = f"train {name}" + ("" if sample is None else f", a sample of {sample:g}")
    registered = steps.once(
        "register",
        lambda: register.register(ws, model, cycle=name, record=record, fit_outcome=fitted, at=at, source=source),
    )
    progress(4, 4, "registered")
    return {
        "name": model.name,
        "version": registered["version"],
        "content": registered["content"],
        "run_id": fitted["run_id"],
        "training_set": record.digest,
        "rows": record.rows,
        "suspects": built.get("suspects", []),
        "threshold": fitted["fitted"]["threshold"],
        "candidates": fitted["fitted"]["candidates"],
    }
