"""The contract of a check, as tests. A check's own test module makes a class of it:

    class TestMyCheck(CheckContract):
        check = staticmethod(my_check)         # (context, rule) -> list[Evidence]

        def rule(self):                         # the rule that asks for it
            return Rule(check="my_check", minimum=0.9)

A check of somebody else's is found by entry point (group ``holdfast.checks``; its name is the rule's ``check``). Needs
pytest and NumPy.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from holdfast.core.definitions import Rule
from holdfast.core.records import Evidence, FieldSpec, Package
from holdfast.validation import gate
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context

Scores = np.ndarray[Any, Any]


class Model:
    """A predictor that answers from what it was told: scores in the order of the rows' first column."""

    def __init__(self, scores: Any) -> None:
        self.known = np.asarray(scores, dtype=np.float64)

    def scores(self, matrix: Any) -> Scores:
        return np.asarray(self.known[np.asarray(matrix)[:, 0].astype(int)])


class CheckContract:
    """What every check must do, whoever wrote it."""

    check: Any = None
    rows = 400

    def rule(self) -> Rule:
        """The rule that asks for this check."""
        raise NotImplementedError

    def world(self, *, quality: float, seed: int = 0, rows: int | None = None) -> Context:
        """A binary model on rows with two groups: ``quality`` 1 is perfect, 0 knows nothing."""
        rng = np.random.default_rng(seed)
        n = self.rows if rows is None else rows
        y = rng.integers(0, 2, n)
        scores = np.clip(quality * (0.15 + 0.7 * y) + (1 - quality) * rng.random(n), 0, 1)
        inputs = [
            FieldSpec(name="row", dtype="float64", low=0.0, high=float(max(n - 1, 0))),
            FieldSpec(name="noise", dtype="float64"),
        ]
        package = Package(
            name="m", format="onnx", task="binary", model_file="", files={}, inputs=inputs, request=inputs, outputs=[], classes=[0, 1], threshold=0.5
        )  # fmt: skip
        X = np.column_stack([np.arange(n), rng.normal(size=n)]).astype(np.float64)  # noqa: N806
        groups = {"group": np.where(rng.random(n) < 0.5, "a", "b")}
        return Context(predictor=Model(scores), package=package, X=X, y=y, groups=groups, threshold=0.5)

    def measured(self, context: Context) -> list[Evidence]:
        found = type(self).check(context, self.rule())
        assert isinstance(found, list)
        return found

    def test_it_yields_evidence_under_its_rules_name(self) -> None:
        found = self.measured(self.world(quality=1.0))
        assert {type(e) for e in found} == {Evidence}
        assert {e.check for e in found} == {naming.key(self.rule())}

    def test_its_evidence_says_what_was_measured_and_on_how_many(self) -> None:
        for e in self.measured(self.world(quality=0.5)):
            assert e.n >= 0
            if (
                e.figure is not None
                and e.low is not None
                and e.high is not None
                and np.isfinite([e.figure, e.low, e.high]).all()
            ):
                assert e.low <= e.figure <= e.high

    def test_it_measures_and_does_not_judge(self) -> None:
        """The threshold is the gate's: another one changes no figure."""
        context = self.world(quality=0.7, seed=2)
        rule = self.rule()
        from dataclasses import replace

        other = replace(
            rule,
            minimum=None if rule.minimum is None else rule.minimum / 2,
            maximum=None if rule.maximum is None else rule.maximum * 2,
        )
        ours, theirs = type(self).check(context, rule), type(self).check(context, other)
        assert [(e.figure, e.low, e.high, e.n, e.group) for e in ours] == [
            (e.figure, e.low, e.high, e.n, e.group) for e in theirs
        ]

    def test_asked_twice_it_answers_the_same(self) -> None:
        context = self.world(quality=0.6, seed=3)
        assert msgspec.to_builtins(self.measured(context)) == msgspec.to_builtins(self.measured(context))

    def test_it_leaves_the_rows_as_they_were(self) -> None:
        context = self.world(quality=0.6, seed=4)
        before = context.X.copy(), context.y.copy()
        self.measured(context)
        np.testing.assert_array_equal(before[0], context.X)
        np.testing.assert_array_equal(before[1], context.y)

    def test_its_evidence_can_be_kept(self) -> None:
        found = self.measured(self.world(quality=0.8))
        again = msgspec.json.decode(msgspec.json.encode(found), type=list[Evidence])
        assert [e.check for e in again] == [e.check for e in found]

    @pytest.mark.parametrize("outcome", ["pass"])
    def test_the_gate_passes_a_perfect_model(self, outcome: str) -> None:
        assert self.decided(1.0) == outcome

    def test_a_score_that_is_not_a_number_never_passes(self) -> None:
        """It says so as evidence or raises, which the gate turns into a failure; a pass it is not."""
        context = self.world(quality=1.0)
        context.predictor.known[::3] = np.nan  # type: ignore[attr-defined]
        try:
            found = self.measured(context)
        except Exception:  # noqa: BLE001  the gate tells it by the check's name
            return
        verdict = gate.decide(found, [self.rule()], model="m", version=1, content="c", at=0)
        assert verdict.outcome != "pass"

    def decided(self, quality: float) -> str:
        found = self.measured(self.world(quality=quality, rows=4 * self.rows))
        return gate.decide(found, [self.rule()], model="m", version=1, content="c", at=0).outcome
