"""Waivers: in force for one check of exact bytes, until they are over by themselves."""

from __future__ import annotations

import pytest

from holdfast.core.errors import BadInput, NotFound
from holdfast.core.identity import digest
from holdfast.core.ports import Ledger
from holdfast.core.records import ModelVersion, Waiver
from holdfast.registry import versions, waivers


def make(ledger: Ledger, name: str = "fraud") -> ModelVersion:
    return versions.create(ledger, name, content=digest([name, "bytes"]), run_id=None, at=1, actor="t")


def grant(ledger: Ledger, check: str, *, until: int, name: str = "fraud", group: str | None = None) -> Waiver:
    waiver = Waiver(
        check=check, by="ann", reason="known since May", until=until, at=1, model=name, version=1, group=group
    )
    return waivers.grant(ledger, waiver, at=1)


def test_all_in_force_are_listed_and_end_by_themselves(ledger: Ledger) -> None:
    make(ledger), make(ledger, "churn")
    first = grant(ledger, "accuracy", until=100)
    second = grant(ledger, "fairness(accuracy by town)", until=200, group="Ulm")
    other = grant(ledger, "latency", until=150, name="churn")
    assert waivers.in_force(ledger, at=99) == [other, first, second]
    assert waivers.in_force(ledger, at=100) == [other, second]
    assert waivers.in_force(ledger, at=200) == []
    assert waivers.active(ledger, "fraud", 1, at=100) == [second]
    assert "[Ulm] by ann until 1970-01-01" in waivers.told(second) and "known since May" in waivers.told(second)


def test_other_bytes_and_deleted_versions_have_none(ledger: Ledger) -> None:
    version = make(ledger)
    grant(ledger, "accuracy", until=100)
    row_key = versions.key("fraud", 1)
    with ledger.transaction() as tx:
        row = tx.get(versions.VERSIONS, row_key) or {}
        tx.put(versions.VERSIONS, row_key, {**row, "content": digest("other")})
    assert waivers.in_force(ledger, at=50) == [] and waivers.active(ledger, version.name, 1, at=50) == []
    versions.delete(ledger, "fraud", 1, at=2, actor="t")
    assert waivers.in_force(ledger, at=50) == []


def test_a_waiver_names_a_reason_a_version_and_a_time_to_come(ledger: Ledger) -> None:
    make(ledger)
    for change, says in (({"reason": " "}, "reason"), ({"until": 1}, "future"), ({"version": None}, "one version")):
        waiver = Waiver(
            **{"check": "accuracy", "by": "ann", "reason": "r", "until": 9, "model": "fraud", "version": 1, **change}
        )
        with pytest.raises(BadInput, match=says):
            waivers.grant(ledger, waiver, at=1)
    with pytest.raises(NotFound):
        grant(ledger, "accuracy", until=9, name="nobody")
    assert waivers.in_force(ledger, at=1) == []
