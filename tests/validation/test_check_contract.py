"""The contract of checks over those of the table that need nothing but rows, and over one of somebody else's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import holdfast as hf
from holdfast.core.definitions import Rule
from holdfast.core.records import Evidence
from holdfast.testing.check import CheckContract
from holdfast.validation import evidence


def built_in(context: Any, rule: Rule) -> list[Evidence]:
    """As the gate measures it: by the table, faults told as evidence."""
    return evidence.measure(context, [rule])


class TestPerformance(CheckContract):
    check = staticmethod(built_in)

    def rule(self) -> Rule:
        return hf.at_least("accuracy", 0.9)


class TestRocAuc(CheckContract):
    check = staticmethod(built_in)

    def rule(self) -> Rule:
        return hf.at_least("roc_auc", 0.9)


class TestFairness(CheckContract):
    check = staticmethod(built_in)

    def rule(self) -> Rule:
        return hf.fairness("group", metric="accuracy", max_gap=0.1)


class TestSomebodyElses(CheckContract):
    """Found by entry point, asked for by its name."""

    check = staticmethod(built_in)

    @pytest.fixture(autouse=True)
    def installed(self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        site = tmp_path_factory.mktemp("site")
        facts = site / "my_check-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-check\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(
            "[holdfast.checks]\nagreement = tests.validation.test_check_contract:agreement\n"
        )
        monkeypatch.syspath_prepend(str(site))

    def rule(self) -> Rule:
        return Rule(check="agreement", minimum=0.9, sample=50)


def agreement(context: Any, rule: Rule) -> list[Evidence]:
    """The share of rows on which the served decision is the truth."""
    if np.isnan(context.scores).any():
        raise ValueError("scores that are no numbers")
    share = float(np.mean((context.scores >= context.served_threshold) == context.y))
    return [Evidence(check="agreement", figure=share, low=share, high=share, n=len(context.y))]
