"""Stages and aliases: the approvals. Every door (CLI, MLflow's API, the loop) arrives at the functions here.

Under policy ``enforce`` a move to Production, or of a protected alias, needs what ``approval.missing`` asks for, found in
the transaction of the move. A swap is one transaction: readers see the old or the new, never none or two. ``policy`` is
the gate's terms (``approval.terms_for``), or a bare word where no gate is declared.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from holdfast.core.errors import Conflict, NotFound
from holdfast.core.ports import Ledger, LedgerTransaction
from holdfast.core.records import ModelVersion
from holdfast.registry import live_verdicts, versions, waivers
from holdfast.registry.approval import Terms, missing, not_approved, terms
from holdfast.registry.names import (
    ACTIVE_STAGES,
    PROTECTED_ALIASES,
    check_alias,
    check_model_name,
    check_stage,
    is_protected,
)
from holdfast.registry.versions import DECISIONS, MODELS, VERDICTS, VERSIONS, key, require_model, require_version, text


def move_stage(
    ledger: Ledger,
    name: str,
    version: int,
    stage: str,
    *,
    policy: str | Terms,
    at: int,
    actor: str,
    reason: str = "",
    archive_existing: bool = True,
) -> ModelVersion:
    """Move a version to a stage; ``archive_existing`` archives those already in that (active) stage, in the same moment.

    Raises:
        NotApproved: Production under ``enforce`` without a passing verdict for this content.
        Conflict: a second version would enter Production under ``enforce``.
        BadInput, NotFound: no such stage, model or version.
    """
    stage = check_stage(stage)
    under = terms(policy)
    with ledger.transaction() as tx:
        model = require_model(tx, name)
        moved = require_version(tx, name, version)
        lacking = missing(tx, moved, under, at=at) if stage == "Production" else ""
        if lacking and under.enforced:
            raise not_approved(name, version, lacking, goal="Production")
        others = [
            v
            for _, row in tx.scan(VERSIONS, prefix=name + "/")
            if (v := msgspec.convert(row, ModelVersion)).stage == stage and v.version != version
        ]
        if stage == "Production" and others and not archive_existing and under.enforced:
            raise Conflict(
                f"{name}@{others[-1].version} is in Production and the gate allows one at a time",
                hint="ask for archive_existing_versions=True, which swaps the two in one moment",
                number="HF421",
            )
        archived = others if archive_existing and stage in ACTIVE_STAGES else []
        for other in archived:
            _put(tx, msgspec.structs.replace(other, stage="Archived", updated=at))
        after = msgspec.structs.replace(moved, stage=stage, updated=at)
        _put(tx, after)
        tx.put(MODELS, name, msgspec.to_builtins(msgspec.structs.replace(model, updated=at)))
        body = {
            "version": version,
            "content": moved.content,
            "before": moved.stage,
            "after": stage,
            "policy": under.policy,
            "archived": [v.version for v in archived],
            "approved": not lacking,
            "reason": text(tx, reason),
        }
        tx.append("model.stage", subject=name, body=body, at=at, actor=actor)
        return after


def move_alias(
    ledger: Ledger,
    name: str,
    alias: str,
    version: int | None,
    *,
    policy: str | Terms,
    at: int,
    actor: str,
    reason: str = "",
    protected: tuple[str, ...] = PROTECTED_ALIASES,
) -> ModelVersion | None:
    """Point an alias at a version (``None``: take the alias away).

    Raises:
        NotApproved: a protected alias under ``enforce`` without a passing verdict for this content.
        BadInput, NotFound: it cannot be an alias; no such model or version.
    """
    check_alias(alias)
    under = terms(policy)
    with ledger.transaction() as tx:
        model = require_model(tx, name)
        before = model.aliases.get(alias)
        target = require_version(tx, name, version) if version is not None else None
        lacking = missing(tx, target, under, at=at) if target is not None and is_protected(alias, protected) else ""
        if target is not None and lacking and under.enforced:
            raise not_approved(name, target.version, lacking, goal=f"alias {alias!r}")
        if target is None and before is None:
            return None
        if before is not None and before != version:
            old = require_version(tx, name, before)
            _put(tx, msgspec.structs.replace(old, aliases=[a for a in old.aliases if a != alias], updated=at))
        aliases = {a: v for a, v in model.aliases.items() if a != alias}
        after = target
        if target is not None:
            aliases[alias] = target.version
            after = msgspec.structs.replace(target, aliases=sorted({*target.aliases, alias}), updated=at)
            _put(tx, after)
        tx.put(MODELS, name, msgspec.to_builtins(msgspec.structs.replace(model, aliases=aliases, updated=at)))
        body = {
            "version": version,
            "content": target.content if target else None,
            "alias": alias,
            "before": before,
            "after": version,
            "policy": under.policy,
            "approved": not lacking,
            "reason": text(tx, reason),
        }
        tx.append("model.alias", subject=name, body=body, at=at, actor=actor)
        return after


def rename(
    ledger: Ledger,
    name: str,
    new_name: str,
    *,
    policy: str | Terms,
    at: int,
    actor: str,
    protected: tuple[str, ...] = PROTECTED_ALIASES,
) -> versions.RegisteredModel:
    """Give a model another name. What is approved under the old name must satisfy the policy of the new one, or a
    rename would be a way around the gate.

    Raises:
        NotApproved: an approved version lacks a verdict the new name's policy asks for.
        Conflict: the new name is taken.
    """
    check_model_name(new_name)
    under = terms(policy)
    with ledger.transaction() as tx:
        model = require_model(tx, name)
        taken = tx.get(MODELS, new_name)
        if taken is not None and not taken.get("deleted"):
            raise Conflict(f"Registered Model (name={new_name}) already exists.", hint="take another name")
        last = max(model.last, taken["last"] if taken else 0)
        for row_key, row in tx.scan(VERSIONS, prefix=name + "/"):
            version = msgspec.convert(row, ModelVersion)
            approved = version.stage == "Production" or any(is_protected(a, protected) for a in version.aliases)
            lacking = missing(tx, version, under, at=at) if approved and under.enforced else ""
            if lacking:
                raise not_approved(name, version.version, lacking, goal=f"the name {new_name!r}")
            tx.delete(VERSIONS, row_key)
            _put(tx, msgspec.structs.replace(version, name=new_name, updated=at))
            verdict = tx.get(VERDICTS, row_key)
            if verdict is not None:
                tx.delete(VERDICTS, row_key)
                tx.put(VERDICTS, key(new_name, version.version), {**verdict, "model": new_name})
            record = tx.get(DECISIONS, row_key)
            if record is not None:
                tx.delete(DECISIONS, row_key)
                tx.put(DECISIONS, key(new_name, version.version), record)
            for waiver_key, waiver in tx.scan(waivers.WAIVERS, prefix=row_key + "/"):
                tx.delete(waivers.WAIVERS, waiver_key)
                tx.put(waivers.WAIVERS, new_name + waiver_key[len(name) :], {**waiver, "model": new_name})
        live_verdicts.rename(tx, name, new_name)
        after = msgspec.structs.replace(model, name=new_name, last=last, updated=at)
        tx.put(MODELS, new_name, msgspec.to_builtins(after))
        stone = versions.RegisteredModel(name=name, last=model.last, at=model.at, updated=at, deleted=True)
        tx.put(MODELS, name, msgspec.to_builtins(stone))
        # The new name first: its history then takes over the old one up to just before it left.
        for subject in (new_name, name):
            tx.append("model.renamed", subject=subject, body={"before": name, "after": new_name}, at=at, actor=actor)
        return after


def previous_production(ledger: Ledger, name: str) -> tuple[ModelVersion | None, ModelVersion]:
    """(the version in Production now, or None; the one that was there before it), from the ledger.

    Raises:
        NotFound: nothing was in Production before.
    """
    current, target, _ = _previous(ledger, name)
    return current, target


def _previous(ledger: Ledger, name: str) -> tuple[ModelVersion | None, ModelVersion, bool]:
    """And whether the gate of that time approved the content the version still has."""
    now = [v for v in versions.list(ledger, name) if v.stage == "Production"]
    current = now[-1] if now else None
    entries = ledger.query(kind="model.stage", subject=name, limit=1_000_000, newest_first=True)
    for entry in entries:
        number = entry.body["version"]
        if entry.body["after"] != "Production" or (current and number == current.version):
            continue
        row = ledger.get(VERSIONS, key(name, number))
        if row is not None:
            approved = bool(entry.body["approved"]) and entry.body["content"] == row["content"]
            return current, msgspec.convert(row, ModelVersion), approved
    raise NotFound(
        f"no version of {name} was in Production before", hint=f"`holdfast models history {name}` shows every move"
    )


def rollback(ledger: Ledger, name: str, *, policy: str | Terms, at: int, actor: str, reason: str = "") -> ModelVersion:
    """Put the version back that was in Production before. It needs what any move needs, but that its verdict may be by the
    rules of its own time: a way back must not wait until an old version is measured by a gate that was changed since."""
    _, target, approved = _previous(ledger, name)
    under = terms(policy)
    if approved:
        under = replace(under, rules=None, decision_record=False)
    return move_stage(
        ledger, name, target.version, "Production", policy=under, at=at, actor=actor, reason=reason or "rollback"
    )


def _put(tx: LedgerTransaction, version: ModelVersion) -> None:
    tx.put(VERSIONS, key(version.name, version.version), msgspec.to_builtins(version))
