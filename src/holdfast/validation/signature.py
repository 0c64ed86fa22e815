"""The unit layer of every version: inputs stated, example rows answered as recorded, scores of the right shape, rows of
another width refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from holdfast.core.definitions import Rule
from holdfast.core.records import Evidence
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context

TOLERANCE = 1e-6


def signature(context: Context, rule: Rule) -> list[Evidence]:
    """One piece of evidence per question; a no is a fault."""
    check = naming.key(rule)
    return [_inputs(context, check), _example(context, check), _width(context, check)]


def _said(check: str, group: str, faults: list[str], good: str, n: int) -> Evidence:
    details: dict[str, Any] = {"fault": faults[0]} if faults else {"satisfied": good}
    return Evidence(
        check=check, figure=float(len(faults)), n=n, group=group, layer="unit", how="looked at", details=details
    )


def _inputs(context: Context, check: str) -> Evidence:
    names = context.columns
    faults = [f"input {name!r} is there twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    faults += [f"input {i} has no name" for i, name in enumerate(names) if not name]
    if not names:
        faults.append("the package states no inputs")
    if not context.package.outputs:
        faults.append("the package states no outputs")
    if context.package.task != "regression" and not context.package.classes:
        faults.append("the package states no classes")
    return _said(check, "inputs and outputs", faults, f"{len(names)} inputs, named and typed", len(names))


def _example(context: Context, check: str) -> Evidence:
    group, name = "input example", context.package.golden_file
    if name is None or context.folder is None:
        why = "the package carries no example rows" if name is None else "the package is not at hand"
        return Evidence(check=check, figure=None, group=group, layer="unit", details={"missing": why})
    rows = json.loads((context.folder / name).read_bytes())["rows"]
    if not rows:
        return Evidence(check=check, figure=None, group=group, layer="unit", details={"missing": "no example rows"})
    lacking = [c for c in context.columns if c not in rows[0]["inputs"]]
    if lacking:
        return _said(check, group, [f"the example rows lack input {lacking[0]!r}"], "", len(rows))
    matrix = np.array(
        [[np.nan if r["inputs"][c] is None else float(r["inputs"][c]) for c in context.columns] for r in rows]
    )
    gap = np.max(np.abs(np.asarray(context.predictor.scores(matrix)) - np.array([r["score"] for r in rows])))
    faults = [] if gap <= TOLERANCE else [f"an example row is answered {gap:.3g} away from what was recorded"]
    return _said(check, group, faults, f"{len(rows)} example rows answered as recorded", len(rows))


def _width(context: Context, check: str) -> Evidence:
    """A model that answers rows of another width would answer with columns that slid by one."""
    few = context.X[:5]
    faults = []
    for what, rows in {"a column too many": np.hstack([few, few[:, :1]]), "a column too few": few[:, :-1]}.items():
        try:
            context.predictor.scores(rows)
        except Exception:  # noqa: BLE001, S112  any refusal will do
            continue
        faults.append(f"rows with {what} are answered")
    return _said(check, "width", faults, "rows of another width are refused", len(few))
