"""A project with a gate, and one version in every state that must not reach production. Rows are written as the ledger
would hold them, so that each door is tried from the same start."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

import holdfast as hf
from holdfast.core.identity import digest
from holdfast.core.ports import LedgerTransaction
from holdfast.core.records import Arm, FieldSpec, FileRef, ModelVersion, Package, Release, Rollout, RuleOutcome, Verdict
from holdfast.lifecycle.approval import SMOKES
from holdfast.lifecycle.release import ABTESTS, RELEASES, ROLLOUTS
from holdfast.registry import package as packages
from holdfast.registry import versions
from holdfast.registry.versions import DECISIONS, MODELS, VERDICTS, VERSIONS, key
from holdfast.registry.waivers import WAIVERS
from holdfast.validation.rules import digest_of
from holdfast.workspace import Workspace

DEFINITIONS = """
import holdfast as hf

@hf.model("fraud")
def train(data, params): ...

@hf.model("other")
def other(data, params): ...

fraud = hf.Service("fraud", model=train, gate=hf.Gate(hf.at_least("accuracy", 0.9), decision_record=True),
                   rollout=hf.Rollout(canary=[10, 50], bake="1h", minimum=1))
second = hf.Service("other", model=other, gate=hf.Gate(hf.at_least("accuracy", 0.95)))
"""
LAX = DEFINITIONS.replace("0.9)", "0.0)").replace("0.95)", "0.0)")
RULES = digest_of([hf.at_least("accuracy", 0.9)])
LAX_RULES = digest_of([hf.at_least("accuracy", 0.0)])
TARGET = 2
WEIGHT = 10.0
SITUATIONS = ("registered", "in a rollout", "staged")


def make(root: Path) -> Workspace:
    """The project; version 1 of ``fraud`` is the approved champion, version 2 the one that must not follow it."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "definitions.py").write_text(DEFINITIONS)
    (root / "lax.py").write_text(LAX)
    (root / "holdfast.toml").touch()
    (root / "rows.csv").write_text(
        "a,b,y\n" + "\n".join(f"{i % 7 - 3},{i % 5 - 2},{int(i % 7 > 3)}" for i in range(400))
    )
    ws = Workspace.open(root)
    for number in (1, TARGET, 3):
        versions.create(ws.ledger, "fraud", content=_package(ws, number), run_id=None, at=1, actor="t")
    versions.delete(ws.ledger, "fraud", 3, at=1, actor="t")
    versions.create(ws.ledger, "free", content=_package(ws, 9), run_id=None, at=1, actor="t")
    arm = Arm(version=TARGET, content=content(ws), weight=100.0)
    once = Release(service="fraud", model="fraud", environment="production", sequence=1, champion=arm)
    with ws.ledger.transaction() as tx:
        # It answered once, when nothing was asked: no way back leads there.
        tx.append(
            "release", subject="fraud", at=1, actor="t", body={"release": msgspec.to_builtins(once), "approved": False}
        )
    return ws


@cache
def _package(ws: Workspace, number: int) -> str:
    """A linear model of two inputs that really loads and scores."""
    import numpy as np

    weights = np.array([1.0 + number / 100, 0.0, 0.5], dtype="<f4").tobytes()
    header = json.dumps({
        "0.weight": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        "0.bias": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
    }).encode()  # fmt: skip
    data = len(header).to_bytes(8, "little") + header + weights
    columns = [FieldSpec(name=n, dtype="float64") for n in "ab"]
    made = Package(
        name="fraud", format="safetensors", task="binary", model_file="m.safetensors",
        files={"m.safetensors": FileRef(sha256=ws.objects.put(data), size=len(data))},
        inputs=columns, request=columns, outputs=[], classes=[0, 1], threshold=0.5,
    )  # fmt: skip
    return packages.store(ws.objects, made)


def content(ws: Workspace, number: int = TARGET) -> str:
    """The content of a version of ``fraud``, whatever its row says now."""
    return _package(ws, number)


# --- states -----------------------------------------------------------------------------------------------------------

Give = Callable[[LedgerTransaction, ModelVersion, int], None]


def verdict(version: ModelVersion, /, **change: Any) -> dict[str, Any]:
    """The row of a passing verdict, changed."""
    result = RuleOutcome(check="accuracy", outcome="pass", message="")
    made = Verdict(
        model=version.name, version=version.version, content=version.content, outcome="pass", results=[result], rules=RULES, evidence="e"
    )  # fmt: skip
    row: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(made, **change))
    return row


def _put(tx: LedgerTransaction, version: ModelVersion, /, **change: Any) -> None:
    tx.put(VERDICTS, key(version.name, version.version), verdict(version, **change))


def approved(tx: LedgerTransaction, version: ModelVersion, now: int) -> None:
    _put(tx, version)


def no_evidence(tx: LedgerTransaction, version: ModelVersion, now: int) -> None: ...


def failing(tx: LedgerTransaction, version: ModelVersion, now: int) -> None:
    _put(tx, version, outcome="fail", results=[RuleOutcome(check="accuracy", outcome="fail", message="")])


def not_enough(tx: LedgerTransaction, version: ModelVersion, now: int) -> None:
    _put(tx, version, outcome="not enough evidence", results=[])


def stale_content(tx: LedgerTransaction, version: ModelVersion, now: int) -> None:
    _put(tx, version, content=digest("what it was before"))


def passing_for_another(tx: LedgerTransaction, version: ModelVersion, now: int) -> None:
    _put(tx, version, version=1)


def by_other_rules(tx: LedgerTransaction, version: ModelVersion, now: int) -> None:
    _put(tx, version, rules=LAX_RULES)


def _waived(tx: LedgerTransaction, version: ModelVersion, /, **waiver: Any) -> None:
    result = RuleOutcome(check="accuracy", outcome="fail", message="", waived_by="ann until then: known")
    _put(tx, version, results=[result])
    row = {"check": "accuracy", "by": "ann", "reason": "known", "at": 0, "group": None, "model": version.name,
           "version": version.version, "content": version.content, **waiver}  # fmt: skip
    tx.put(WAIVERS, f"{key(version.name, version.version)}/{row['check']}/", row)


def waiver_over(tx: LedgerTransaction, version: ModelVersion, now: int) -> None:
    _waived(tx, version, until=now - 1)


def waiver_for_other_content(tx: LedgerTransaction, version: ModelVersion, now: int) -> None:
    _waived(tx, version, until=now + 10**12, content=digest("another"))


def waiver_for_another_check(tx: LedgerTransaction, version: ModelVersion, now: int) -> None:
    _waived(tx, version, until=now + 10**12, check="latency")


def no_decision_record(tx: LedgerTransaction, version: ModelVersion, now: int) -> None:
    _put(tx, version)
    tx.delete(DECISIONS, key(version.name, version.version))


def deleted(tx: LedgerTransaction, version: ModelVersion, now: int) -> None:
    _put(tx, version)
    tx.delete(VERSIONS, key(version.name, version.version))


def swapped(tx: LedgerTransaction, version: ModelVersion, now: int) -> None:
    """Its number is other bytes' now; the verdict is over those it had."""
    _put(tx, version)
    row = msgspec.to_builtins(msgspec.structs.replace(version, content=digest("another")))
    tx.put(VERSIONS, key(version.name, version.version), row)


STATES: dict[str, Give] = {
    f.__name__: f
    for f in (no_evidence, failing, not_enough, stale_content, passing_for_another, by_other_rules, waiver_over, waiver_for_other_content,
              waiver_for_another_check, no_decision_record, deleted, swapped)
}  # fmt: skip


def rollout(ws: Workspace, now: int) -> Rollout:
    """The target's, its last canary weight behind it: with an approval, the next move makes it champion."""
    plan = [
        {"step": s, "weight": w, "bake": 0, "give_up": 10**15}
        for s, w in (("smoke", 0.0), ("canary", WEIGHT), ("champion", 100.0))
    ]
    return Rollout(
        id="r1", service="fraud", model="fraud", version=TARGET, content=content(ws), plan=plan, step=2, entered=now, started=1
    )  # fmt: skip


def arm(ws: Workspace, give: Give, situation: str) -> None:
    """Put the world into a state, whatever was done to it before."""
    now = ws.clock.now()
    one = ModelVersion(
        name="fraud", version=1, content=content(ws, 1), run_id=None, stage="Production", aliases=["champion"], at=1
    )
    two = ModelVersion(name="fraud", version=TARGET, content=content(ws), run_id=None, stage="Staging", at=1)
    free = ModelVersion(
        name="free", version=1, content=content(ws, 9), run_id=None, stage="Production", aliases=["champion"], at=1
    )
    with ws.ledger.transaction() as tx:
        for table in (MODELS, VERSIONS, VERDICTS, DECISIONS, WAIVERS, SMOKES, RELEASES, ROLLOUTS, ABTESTS):
            for row_key, _ in tx.scan(table):
                tx.delete(table, row_key)
        for name, last in (("fraud", 3), ("free", 1)):
            model = versions.RegisteredModel(name=name, last=last, aliases={"champion": 1}, at=1)
            tx.put(MODELS, name, msgspec.to_builtins(model))
        for version in (one, two, free):
            tx.put(VERSIONS, key(version.name, version.version), msgspec.to_builtins(version))
            tx.put(DECISIONS, key(version.name, version.version), {"record": "r", "content": version.content, "at": 1})
            tx.put(SMOKES, f"fraud/{version.content}", {"outcome": "pass"})
        _put(tx, one)
        _put(tx, free, rules=LAX_RULES)
        give(tx, two, now)
        champion = Arm(version=1, content=one.content, weight=100.0)
        challenger = Arm(version=TARGET, content=two.content, weight=WEIGHT) if situation == "in a rollout" else None
        live = Release(
            service="fraud",
            model="fraud",
            environment="production",
            sequence=2,
            champion=champion,
            challenger=challenger,
        )
        tx.put(RELEASES, "fraud/production", msgspec.to_builtins(live))
        if situation == "staged":
            staged = Release(
                service="fraud",
                model="fraud",
                environment="staging",
                sequence=1,
                champion=Arm(version=TARGET, content=two.content),
            )
            tx.put(RELEASES, "fraud/staging", msgspec.to_builtins(staged))
        if situation == "in a rollout":
            begun = rollout(ws, now)
            tx.put(ROLLOUTS, "fraud", msgspec.to_builtins(begun))


def arrived(ws: Workspace, situation: str) -> list[str]:
    """Where the target, or what was renamed, stands now that it must not; empty when the gate held."""
    found = []
    bad = content(ws)
    other = content(ws, 9)
    ledger = ws.ledger
    for row_key, row in ledger.scan(VERSIONS):
        gated = row["name"] in ("fraud", "other")
        if (
            gated
            and (row["content"] in (bad, other) or row["version"] != 1)
            and (row["stage"] == "Production" or "champion" in row["aliases"])
        ):
            found.append(f"{row_key} is {row['stage']} {row['aliases']}")
    for name, model in ledger.scan(MODELS):
        points = model.get("aliases", {}).get("champion")
        if (name == "fraud" and points not in (1, None)) or (name == "other" and points is not None):
            found.append(f"champion of {name} is {points}")
    for row_key, row in ledger.scan(RELEASES):
        if not row_key.endswith("/production"):
            continue
        for role in ("champion", "challenger", "shadow"):
            held = row.get(role)
            had = (
                situation == "in a rollout"
                and held
                and (role == "shadow" or (role == "challenger" and held["weight"] <= WEIGHT))
            )
            if held and held["content"] in (bad, other) and not had:
                found.append(f"{row_key}: {role} {held['version']} at {held['weight']}")
    for path in ws.root.rglob("*.production.json"):
        release = json.loads(path.read_text())
        champion = (release.get("champion") or {}).get("content")
        if champion in (bad, other):
            found.append(f"release file {path.relative_to(ws.root)}")
    return found
