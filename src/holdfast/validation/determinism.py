"""Determinism: the same rows give the same predictions: twice, shuffled, one row against many, loaded again, in another
process, compiled against original, and over HTTP. Classes are compared exactly, scores within the rule's tolerance."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from holdfast.core.definitions import Rule
from holdfast.core.errors import Unavailable
from holdfast.core.records import Evidence
from holdfast.stats import metrics
from holdfast.validation import elsewhere
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context
from holdfast.validation.served import Served

ROWS = 2000
SINGLE = 50


def determinism(context: Context, rule: Rule) -> list[Evidence]:
    """One piece of evidence per way of repeating; figure = the largest difference of any score."""
    check = naming.key(rule)
    x = context.X[:ROWS]
    first = np.asarray(context.predictor.scores(x), dtype=np.float64)
    order = np.random.default_rng(11).permutation(len(x))
    shuffled = np.empty_like(first)
    shuffled[order] = context.predictor.scores(x[order])
    few = np.linspace(0, len(x) - 1, min(SINGLE, len(x))).astype(np.int64)
    singly = np.concatenate([np.asarray(context.predictor.scores(x[i : i + 1])) for i in few])
    out = [
        _compare(context, check, "twice", first, context.predictor.scores(x)),
        _compare(context, check, "shuffled", first, shuffled),
        _compare(context, check, "one row against many", first[few], singly),
    ]
    if context.folder is not None:
        out.append(_loaded(context, check, x, first))
        out.append(_other_process(context, check, x, first))
    if context.original is not None:
        out.append(_original(context, check, x, first, rule))
    if context.served is not None:
        out += _served(context, context.served, check)
    elif rule.options.get("served"):
        missing = (
            "no server ran for this check: it takes a version trained here, or packaged (`holdfast models package`)"
        )
        out.append(Evidence(check=check, figure=None, group="over HTTP", details={"missing": missing}))
    return out


def _compare(context: Context, check: str, kind: str, a: Any, b: Any) -> Evidence:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        return Evidence(
            check=check, figure=None, group=kind, details={"fault": f"scores of shape {b.shape} instead of {a.shape}"}
        )
    same_nan = np.isnan(a) & np.isnan(b)
    gaps = np.where(same_nan, 0.0, np.abs(a - b))
    figure = float(np.max(gaps)) if gaps.size else 0.0
    details: dict[str, Any] = {"compared": kind}
    if not np.isfinite(figure):
        details["fault"] = f"{kind}: a score is a number once and NaN or infinity another time"
        return Evidence(check=check, figure=None, n=len(a), group=kind, details=details)
    if context.task != "regression":
        # A score that moves within the tolerance may cross the threshold only if it lies that near to it.
        flips = metrics.predicted(a, context.served_threshold) != metrics.predicted(b, context.served_threshold)
        details["classes_differ"] = int(np.count_nonzero(flips))
        if details["classes_differ"] and kind != "compiled against original":
            details["fault"] = f"{kind}: {details['classes_differ']} of {len(a)} rows change class"
    return Evidence(
        check=check,
        figure=figure,
        low=figure,
        high=figure,
        n=len(a),
        group=kind,
        how="largest difference of a score",
        details=details,
    )


def _loaded(context: Context, check: str, x: Any, first: Any) -> Evidence:
    from holdfast import formats

    if context.folder is None:
        return Evidence(check=check, figure=None, group="loaded again")
    return _compare(
        context,
        check,
        "loaded again",
        first,
        formats.load(context.folder, context.package, trusted=context.trusted).scores(x),
    )


def _original(context: Context, check: str, x: Any, first: Any, rule: Rule) -> Evidence:
    if context.original is None:
        return Evidence(check=check, figure=None, group="compiled against original")
    found = _compare(context, check, "compiled against original", first, context.original.scores(x))
    # What packaging promised is its own tolerance, stated there; the rule's is for repeating.
    tolerance = max(float((context.package.equivalence or {}).get("tolerance", 1e-5)), rule.maximum or 0.0)
    if found.figure is not None and found.figure > tolerance:
        fault = f"the compiled model differs from the original by {found.figure:.3g}, more than {tolerance:g}"
        return msgspec.structs.replace(found, details={**found.details, "fault": fault})
    if found.figure is not None:
        return msgspec.structs.replace(
            found, details={**found.details, "satisfied": f"{found.figure:.3g}, within {tolerance:g}"}
        )
    return found


def _served(context: Context, served: Served, check: str) -> list[Evidence]:
    """The same request again; and the server's score against ours of the very inputs the server had."""
    if served.refused:
        fault = f"the server refused {served.refused} of the requests: {served.problems[0]}"
        return [Evidence(check=check, figure=None, group="over HTTP", details={"fault": fault})]
    out = [_compare(context, check, "twice over HTTP", served.scores[: len(served.again)], served.again)]
    if served.inputs is None:
        details = {"missing": "the server's inputs could not be read back"}
        return [*out, Evidence(check=check, figure=None, group="in process against HTTP", details=details)]
    ours = context.predictor.scores(served.inputs)
    return [*out, _compare(context, check, "in process against HTTP", ours, served.scores)]


def _other_process(context: Context, check: str, x: Any, first: Any) -> Evidence:
    """The package loaded and run by a fresh interpreter with another hash seed."""
    kind = "two processes"
    with tempfile.TemporaryDirectory(prefix="holdfast-check-") as name:
        try:
            elsewhere.run(context, "holdfast.validation.determinism", Path(name), x, env={"PYTHONHASHSEED": "4242"})
        except Unavailable as error:
            return Evidence(check=check, figure=None, group=kind, details={"missing": error.message})
        except elsewhere.Failed as error:
            details = {"fault": f"a second process cannot run the model: {error}"}
            return Evidence(check=check, figure=None, group=kind, details=details)
        second = np.load(Path(name) / "scores.npy", allow_pickle=False)
    return _compare(context, check, kind, first, second)


def main(folder: str, place: str) -> None:
    """Runs in the second process: load, score, write."""
    model, rows = elsewhere.load(folder, place)
    np.save(Path(place) / "scores.npy", np.asarray(model.scores(rows)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
