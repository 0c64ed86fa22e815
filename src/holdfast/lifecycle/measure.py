"""Version → evidence → verdict: every rule of a gate measured on the held-out rows, and decided."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from holdfast.core.definitions import Rule, Service
from holdfast.core.errors import BadInput
from holdfast.core.identity import canonical
from holdfast.core.ports import Ledger
from holdfast.core.records import Json, ModelVersion, Package, TrainingSet, Verdict
from holdfast.lifecycle import outside
from holdfast.lifecycle.build import training_set
from holdfast.lifecycle.durable import Effect
from holdfast.lifecycle.rows import Rows

if TYPE_CHECKING:
    from holdfast.validation.served import Served
    from holdfast.workspace import Workspace


def measure(
    ws: Workspace, service: Service, *, name: str, version: int, record: TrainingSet, cycle: str, at: int
) -> tuple[Json, Effect | None]:
    """Measure every rule of the gate on the held-out rows and decide; the verdict is attached to the version."""
    from holdfast import formats
    from holdfast.lifecycle import ablation, decision, judge, layers
    from holdfast.registry import package as packages
    from holdfast.registry import versions, waivers
    from holdfast.validation import evidence, gate

    model = service.model
    registered = versions.get(ws.ledger, name, version)
    manifest = packages.load(ws.objects, registered.content)
    folder = packages.unpack(ws.objects, manifest, ws.path("jobs", cycle, "gate"))
    rows = Rows(ws, model, record)
    X, y, times = rows.part("test")  # noqa: N806
    X_train, y_train, _ = rows.part("train")  # noqa: N806
    champion, champion_scores, champion_threshold = champion_on(ws, service.name, rows.columns, X)
    vouched = outside.vouched(ws, manifest, folder)
    predictor = formats.load(folder, manifest, trusted=vouched)
    original = formats.load(folder, manifest, original=True, trusted=vouched) if manifest.original_file else None
    context = evidence.Context(
        predictor=predictor, package=manifest, X=X, y=y, groups=groups_of(rows, service.gate.rules), champion=champion,
        champion_scores=champion_scores, champion_threshold=champion_threshold, X_train=X_train, y_train=y_train, times=times,
        folder=folder, original=original, trusted=vouched,
        served=_served(ws, service.gate.rules, registered, manifest, rows),
        layers={
            **layers.of(ws, model, at=at),
            "ablation": lambda rule: ablation.measure(
                ws, model, rule, rows=rows, scores=context.scores, threshold=context.served_threshold
            ),
        },
    )  # fmt: skip
    measured = [*evidence.measure(context, service.gate.rules), *evidence.always(context, service.gate.rules)]
    verdict = gate.decide(
        measured, service.gate.rules, model=name, version=version, content=registered.content, at=at,
        waivers=waivers.active(ws.ledger, name, version, at=at),
    )  # fmt: skip
    ws.objects.put(canonical([msgspec.to_builtins(e) for e in measured]))
    why = decision.make(ws, model, registered, context, verdict, evidence=measured, at=at)
    why_digest = decision.put(ws, why)
    shutil.rmtree(folder, ignore_errors=True)

    def effect(ledger: Ledger) -> None:
        versions.attach_verdict(ledger, verdict, at=at, actor=ws.actor)
        decision.store(ledger, why, why_digest, registered, at=at, actor=ws.actor)

    failed = judge.named(verdict)
    return {"outcome": verdict.outcome, "failed": failed, "verdict": msgspec.to_builtins(verdict)}, effect


def groups_of(rows: Rows, rules: Sequence[Rule]) -> dict[str, Any]:
    """The columns rules group the held-out rows by: the model's group, and any other column of the training set."""
    test = rows.split.test
    found = {rows.group_name: rows.groups[test]} if rows.group_name and rows.groups is not None else {}
    for rule in rules:
        name = rule.options.get("group")
        if name and name not in found and name in rows.table.column_names:
            found[name] = np.asarray(rows.table[name].to_pylist(), dtype=object)[test]
    return found


def _served(
    ws: Workspace, rules: Sequence[Rule], version: ModelVersion, manifest: Package, rows: Rows
) -> Served | None:  # fmt: skip
    """What a real server of the version answers, where a rule asks for it."""
    from holdfast.lifecycle import probe

    if not probe.wanted(rules):
        return None
    held = len(rows.split.test)
    index = rows.split.test[np.linspace(0, held - 1, min(probe.ROWS, held)).astype(np.int64)]
    requests = rows.table.select([f.name for f in manifest.request]).take(index.tolist()).to_pylist()
    return probe.ask(ws, version, manifest, requests, [int(t) for t in rows.times[index]])


def check(ws: Workspace, service: Service, version: ModelVersion, *, at: int) -> Verdict:
    """Measure a registered version by the gate of ``service`` and attach the verdict.

    Raises:
        BadInput: the version has no training set of this store to be measured on.
    """
    if version.training_set is None:
        raise BadInput(
            f"{version.name}@{version.version} has no training set here", hint="give rows: --data FILE --label COLUMN"
        )
    record = training_set(ws.ledger, version.training_set)
    job = f"check-{version.content[:16]}-{os.getpid()}"
    try:
        outcome, effect = measure(
            ws, service, name=version.name, version=version.version, record=record, cycle=job, at=at
        )  # fmt: skip
    finally:
        shutil.rmtree(ws.path("jobs", job), ignore_errors=True)
    if effect is not None:
        effect(ws.ledger)
    return msgspec.convert(outcome["verdict"], Verdict)


def champion_on(
    ws: Workspace,
    service: str,
    columns: Sequence[str],
    X: Any,  # noqa: N803
) -> tuple[str, Any, float | None]:
    """The live champion (``name@version``, empty where there is none), its scores on the same rows (n, d) with their
    ``columns``, its threshold.

    Scores are None where the champion takes inputs these rows do not have: the comparison is then named and not made,
    which holds.
    """
    from holdfast import formats
    from holdfast.lifecycle import release
    from holdfast.registry import package as packages

    live = release.current(ws.ledger, service, "production")
    if live is None or live.champion is None:
        return "", None, None
    reference = f"{live.model}@{live.champion.version}"
    manifest = packages.load(ws.objects, live.champion.content)
    names = [spec.name for spec in manifest.inputs]
    if any(name not in columns for name in names):
        return reference, None, None
    folder = packages.unpack(ws.objects, manifest, ws.path("packages", live.champion.content))
    predictor = formats.load(folder, manifest, trusted=outside.vouched(ws, manifest, folder))
    index = [list(columns).index(name) for name in names]
    return reference, np.asarray(predictor.scores(X[:, index]), dtype=np.float64), manifest.threshold
