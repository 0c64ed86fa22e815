"""One version, loaded and warm: rows by name → features → matrix in the package's order → scores → outputs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from holdfast.core.errors import OurTurn
from holdfast.core.ports import FeatureLookup, Predictor
from holdfast.core.records import Json, Package

_INLINE_ROW = 1e-3
_INLINE_CALL = 4e-3
_TRIALS, _TRIAL_SECONDS = 20, 0.2
_GOLDEN = 1e-5


class ModelFailed(OurTurn):
    """The model raised, hung, or gave something that is not one finite score per row."""

    number = "HF920"


class Loaded:
    """A model version that can answer. Thread safe as far as its predictor and lookup are.

    ``golden`` rows are {"inputs": {name: number or null}, "score": number or list}: what it answered when packaged.
    """

    def __init__(
        self,
        *,
        version: int,
        content: str,
        package: Package,
        predictor: Predictor,
        lookup: FeatureLookup | None = None,
        golden: Sequence[Json] = (),
    ) -> None:
        self.version = version
        self.content = content
        self.package = package
        self.predictor = predictor
        self.lookup = lookup
        self.golden = list(golden)
        self.inputs = [f.name for f in package.inputs]
        self.threshold = 0.5 if package.threshold is None else package.threshold
        self.classes = list(package.classes) or ([0, 1] if package.task == "binary" else [])
        self.width = len(self.classes) if package.task == "multiclass" else 1
        self.keys = entity_keys(package)
        self.row_seconds = 0.0
        self.first_seconds = 0.0
        self.lookup_seconds = 0.0
        self._orders: dict[tuple[str, ...], list[int] | None] = {}

    def inline(self, n: int) -> bool:
        """Whether ``n`` rows are cheap enough to be answered on the event loop itself."""
        if self.lookup is not None and self.lookup.waits:
            return False
        each = self.lookup_seconds + self.row_seconds
        return self.first_seconds + self.lookup_seconds < _INLINE_ROW and self.first_seconds + each * n < _INLINE_CALL

    def warm(self) -> None:
        """Run the golden rows (or neutral ones) until the model is as fast as it gets, and learn its price.

        Raises:
            ModelFailed: it does not answer them with finite scores, or not with the scores it was packaged with.
        """
        sample = self._sample()
        scores = self.score(sample)
        for i, row in enumerate(self.golden):
            if not np.allclose(scores[i], np.ravel(row["score"]), rtol=0.0, atol=_GOLDEN):
                raise ModelFailed(
                    f"version {self.version} gives {scores[i].tolist()} for golden row {i}, not {row['score']}",
                    hint="it was packaged elsewhere or its files do not belong together: train or package it again",
                    number="HF925",
                )
        many = np.repeat(sample[:1], 64, axis=0)
        self.first_seconds = _least(lambda: self.score(sample[:1]))
        self.row_seconds = _least(lambda: self.score(many)) / 64

    def _sample(self) -> Any:
        if self.golden:
            return np.array([[g["inputs"][n] for n in self.inputs] for g in self.golden], dtype=np.float64)
        return np.array([[_middle(f.low, f.high) for f in self.package.inputs]], dtype=np.float64)

    def evaluate(
        self,
        rows: Sequence[tuple[Any, ...]],
        names: tuple[str, ...],
        at: Sequence[int],
        *,
        clock: list[int] | None = None,
    ) -> tuple[Any, Any]:
        """(matrix, scores) for rows whose values stand in the order of ``names``, as known at ``at`` (µs). ``clock`` gets
        the instants (perf_counter_ns) before the features, between them and the model, and after it.

        Raises:
            BadInput: the lookup refuses a row (entity key missing or of the wrong type).
            ModelFailed: the model cannot be run, or its scores are unusable.
        """
        if clock is not None:
            clock.append(time.perf_counter_ns())
        if self.lookup is None:
            matrix = self._bind(rows, names)
        else:
            matrix = self._look_up(rows, names, at)
        if clock is None:
            return matrix, self.score(matrix)
        clock.append(time.perf_counter_ns())
        try:
            return matrix, self.score(matrix)
        finally:
            clock.append(time.perf_counter_ns())

    def score(self, matrix: Any) -> Any:
        """Scores (n, k) float64, finite; k = 1 except for multiclass.

        Raises:
            ModelFailed: see above.
        """
        try:
            scores = np.asarray(self.predictor.scores(matrix), dtype=np.float64)
        except (Exception, SystemExit) as problem:  # a model's code may call sys.exit(): that ends no replica
            raise ModelFailed(f"version {self.version} failed: {type(problem).__name__}") from problem
        if scores.ndim == 1:
            scores = scores[:, None]
        if scores.ndim != 2 or len(scores) != len(matrix) or (scores.shape[1] != self.width and self.width):
            raise ModelFailed(f"version {self.version} gave scores of shape {scores.shape} for {len(matrix)} rows")
        finite = math.isfinite(scores[0, 0]) if scores.size == 1 else np.isfinite(scores).all()
        if not finite:
            raise ModelFailed(f"version {self.version} gave a score that is not a number")
        return scores

    def outputs(self, scores: Any) -> list[Any]:
        """What callers act on: the class at the threshold, the likeliest class, or the value itself."""
        task = self.package.task
        if task == "binary":
            no, yes = self.classes[0], self.classes[1]
            return [yes if s >= self.threshold else no for s in scores[:, 0].tolist()]
        if task == "multiclass":
            best = scores.argmax(axis=1).tolist()
            return [self.classes[i] for i in best] if self.classes else best
        values: list[Any] = scores[:, 0].tolist()
        return values

    def _bind(self, rows: Sequence[tuple[Any, ...]], names: tuple[str, ...]) -> Any:
        if names not in self._orders:
            missing = [n for n in self.inputs if n not in names]
            if missing:
                raise ModelFailed(f"version {self.version} needs {missing[0]!r}, which no caller of this release sends")
            order = [names.index(n) for n in self.inputs]
            self._orders[names] = None if order == list(range(len(names))) else order
        order_ = self._orders[names]
        try:
            if order_ is None:
                return np.array(rows, dtype=np.float64)
            return np.array([[row[i] for i in order_] for row in rows], dtype=np.float64)
        except (TypeError, ValueError) as problem:
            raise ModelFailed(f"version {self.version}: an input is not a number") from problem

    def _look_up(self, rows: Sequence[tuple[Any, ...]], names: tuple[str, ...], at: Sequence[int]) -> Any:
        assert self.lookup is not None
        requests = [dict(zip(names, row, strict=True)) for row in rows]
        begun = time.perf_counter()
        found = self.lookup.rows(requests, at=at)
        each = (time.perf_counter() - begun) / len(rows)
        self.lookup_seconds += 0.05 * (each - self.lookup_seconds)
        try:
            values = [[f[n] if n in f else r[n] for n in self.inputs] for f, r in zip(found, requests, strict=True)]
            return np.array(values, dtype=np.float64)
        except KeyError as problem:
            raise ModelFailed(
                f"version {self.version} needs {problem.args[0]!r}, which its feature service does not give"
            ) from None
        except (TypeError, ValueError) as problem:
            raise ModelFailed(f"version {self.version}: a feature is not a number") from problem


def _least(call: Callable[[], Any]) -> float:
    """Seconds of the quickest of some calls: a version that is warmed while others answer waits for the interpreter's
    lock between, which is not its price."""
    least, end = math.inf, time.perf_counter() + _TRIAL_SECONDS
    for _ in range(_TRIALS):
        begun = time.perf_counter()
        call()
        now = time.perf_counter()
        least = min(least, now - begun)
        if now > end:
            break
    return least


def _middle(low: float | None, high: float | None) -> float:
    if low is None or high is None:
        return low if low is not None else high if high is not None else 0.0
    return low / 2 + high / 2


def entity_keys(package: Package) -> list[str]:
    """The request fields that say whom a row is about: the plan's join keys, else what is sent but is no input."""
    sent = [f.name for f in package.request]
    declared = (package.plan or {}).get("keys")
    if isinstance(declared, list) and declared:
        return [k for k in declared if k in sent]
    inputs = {f.name for f in package.inputs}
    return [n for n in sent if n not in inputs] if package.plan is not None else []
