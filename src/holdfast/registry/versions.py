"""Registered models and their numbered versions, on the ledger's current-state tables.

Tables: ``models`` (key: name), ``versions``, ``verdicts`` and ``decisions`` (key: ``name/0000000007``). A number is given once and
never again, also after deletion. Every change appends an entry in the same transaction. Free text (descriptions, tag
values, reasons) lies in ``texts`` under its digest, so that people may delete it without breaking the chain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from holdfast.core.errors import BadInput, Conflict, NotFound
from holdfast.core.identity import digest
from holdfast.core.ports import Ledger, LedgerTransaction
from holdfast.core.records import Json, ModelVersion, Verdict
from holdfast.registry.names import STAGES, check_model_name

MODELS, VERSIONS, VERDICTS, TEXTS, DECISIONS = "models", "versions", "verdicts", "texts", "decisions"
VersionList = list[ModelVersion]


class RegisteredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A name with its versions' counter and aliases."""

    name: str
    description: str = ""
    tags: dict[str, str] = {}
    aliases: dict[str, int] = {}
    last: int = 0
    at: int = 0
    updated: int = 0
    actor: str = ""
    deleted: bool = False


ModelList = list[RegisteredModel]


def key(name: str, version: int) -> str:
    """The state key of a version, in version order."""
    return f"{name}/{version:010d}"


def text(tx: LedgerTransaction, value: str) -> str:
    """Put free text beside the chain; the digest that stands for it in an entry ('' for none)."""
    if not value:
        return ""
    name = digest(value)
    tx.put(TEXTS, name, {"text": value})
    return name


# --- registered models ------------------------------------------------------------------------------------------------


def create_model(
    ledger: Ledger, name: str, *, at: int, actor: str, description: str = "", tags: Mapping[str, str] | None = None
) -> RegisteredModel:
    """Register a name.

    Raises:
        BadInput: it cannot be a name.
        Conflict: it is registered already.
    """
    check_model_name(name)
    with ledger.transaction() as tx:
        known = _model(tx, name)
        if known is not None and not known.deleted:
            raise Conflict(
                f"Registered Model (name={name}) already exists.", hint="take another name, or use the one there is"
            )
        return _new_model(
            tx, name, at=at, actor=actor, description=description, tags=tags, last=known.last if known else 0
        )


def get_model(ledger: Ledger, name: str) -> RegisteredModel:
    """The registered model.

    Raises:
        NotFound: no such name.
    """
    row = ledger.get(MODELS, name)
    found = msgspec.convert(row, RegisteredModel) if row else None
    if found is None or found.deleted:
        raise unknown_model(ledger, name)
    return found


def list_models(ledger: Ledger) -> ModelList:
    """All registered models, by name."""
    return [m for _, row in ledger.scan(MODELS) if not (m := msgspec.convert(row, RegisteredModel)).deleted]


def update_model(ledger: Ledger, name: str, *, description: str, at: int, actor: str) -> RegisteredModel:
    """Describe a model."""
    with ledger.transaction() as tx:
        model = require_model(tx, name)
        after = msgspec.structs.replace(model, description=description, updated=at)
        tx.put(MODELS, name, msgspec.to_builtins(after))
        tx.append("model.described", subject=name, body={"description": text(tx, description)}, at=at, actor=actor)
        return after


def delete_model(ledger: Ledger, name: str, *, at: int, actor: str) -> None:
    """Delete a name with all its versions. Its numbers are not given again."""
    with ledger.transaction() as tx:
        model = require_model(tx, name)
        gone = []
        for row_key, row in tx.scan(VERSIONS, prefix=name + "/"):
            gone.append(row["version"])
            tx.delete(VERSIONS, row_key)
            tx.delete(VERDICTS, row_key)
        stone = RegisteredModel(name=name, last=model.last, at=model.at, updated=at, deleted=True)
        tx.put(MODELS, name, msgspec.to_builtins(stone))
        tx.append("model.deleted", subject=name, body={"versions": gone}, at=at, actor=actor)


def set_tag(
    ledger: Ledger, name: str, version: int | None, tag: str, value: str | None, *, at: int, actor: str
) -> None:
    """Set (``None``: remove) a tag of a model, or of one version of it.

    Raises:
        NotFound: no such model or version.
    """
    with ledger.transaction() as tx:
        model = require_model(tx, name)
        owner: RegisteredModel | ModelVersion = model if version is None else require_version(tx, name, version)
        before = owner.tags.get(tag)
        tags = {k: v for k, v in owner.tags.items() if k != tag}
        if value is not None:
            tags[tag] = value
        changed = msgspec.to_builtins(msgspec.structs.replace(owner, tags=tags, updated=at))
        tx.put(MODELS if version is None else VERSIONS, name if version is None else key(name, version), changed)
        body: Json = {"version": version, "tag": tag, "before": text(tx, before or ""), "after": text(tx, value or "")}
        tx.append("model.tag", subject=name, body=body, at=at, actor=actor)


# --- versions ---------------------------------------------------------------------------------------------------------


def create(
    ledger: Ledger,
    name: str,
    *,
    content: str,
    run_id: str | None,
    training_set: str | None = None,
    source: str = "",
    tags: Mapping[str, str] | None = None,
    description: str = "",
    model_id: str | None = None,
    run_link: str = "",
    signature: str = "",
    at: int,
    actor: str,
    must_exist: bool = False,
    number: int | None = None,
) -> ModelVersion:
    """Give the next number of ``name`` to ``content``. The name is registered by this where it is new. ``number`` keeps
    the number a version had elsewhere; it must be above all given so far.

    Raises:
        NotFound: ``must_exist`` and the name is not registered.
        Conflict: ``number`` was given already.
    """
    check_model_name(name)
    with ledger.transaction() as tx:
        model = _model(tx, name)
        if model is None or model.deleted:
            if must_exist:
                raise NotFound(f"Registered Model with name={name} not found", hint="create the registered model first")
            model = _new_model(tx, name, at=at, actor=actor, last=model.last if model else 0)
        if number is not None and number <= model.last:
            raise Conflict(f"{name}@{number} was given already", hint=f"the next number is {model.last + 1}")
        number = number or model.last + 1
        version = ModelVersion(
            name=name,
            version=number,
            content=content,
            run_id=run_id,
            training_set=training_set,
            source=source,
            description=description,
            tags=dict(tags or {}),
            at=at,
            updated=at,
            actor=actor,
            model_id=model_id,
            run_link=run_link,
            signature=signature,
        )
        tx.put(VERSIONS, key(name, number), msgspec.to_builtins(version))
        tx.put(MODELS, name, msgspec.to_builtins(msgspec.structs.replace(model, last=number, updated=at)))
        body = {
            "version": number,
            "content": content,
            "run": run_id,
            "training_set": training_set,
            "signature": signature,
        }
        tx.append("model.version", subject=name, body=body, at=at, actor=actor)
        return version


def get(ledger: Ledger, name: str, version: int) -> ModelVersion:
    """One version.

    Raises:
        NotFound: no such model or version.
    """
    row = ledger.get(VERSIONS, key(name, version)) if 0 < version < 10**10 else None
    if row is None:
        get_model(ledger, name)
        raise NotFound(
            f"Model Version (name={name}, version={version}) not found",
            hint=f"`holdfast models list {name}` shows those there are",
        )
    return msgspec.convert(row, ModelVersion)


def list(ledger: Ledger, name: str) -> VersionList:  # noqa: A001
    """All versions of a name, oldest first, as of one moment. Empty for an unknown name."""
    return [msgspec.convert(row, ModelVersion) for _, row in ledger.scan(VERSIONS, prefix=name + "/")]


def resolve(ledger: Ledger, reference: str) -> ModelVersion:
    """``name@7``, ``name@latest``, ``name@champion`` (an alias), ``name@Production`` (a stage; its highest version).
    MLflow's ``models:/name/7`` and ``models:/name@alias`` mean the same; a bare name is its latest version.

    Raises:
        BadInput: not a reference.
        NotFound: it leads nowhere.
    """
    name, which = split_reference(reference)
    if which.isascii() and which.isdigit():
        return get(ledger, name, int(which))
    model = get_model(ledger, name)
    if which == "latest" or which.lower() in {s.lower() for s in STAGES}:
        versions = [v for v in list(ledger, name) if which == "latest" or v.stage.lower() == which.lower()]
        if not versions:
            what = "no version yet" if which == "latest" else f"no version in stage {which}"
            raise NotFound(
                f"{name} has {what}", hint=f"`holdfast models list {name}` shows versions, stages and aliases"
            )
        return versions[-1]
    if which not in model.aliases:
        raise NotFound.among(
            "alias",
            which,
            model.aliases,
            hint=None if model.aliases else f"{name} has no alias yet; `holdfast models alias` sets one",
        )
    return get(ledger, name, model.aliases[which])


def split_reference(reference: str) -> tuple[str, str]:
    """(name, version | alias | stage | 'latest') of a reference.

    Raises:
        BadInput: not a reference.
    """
    if not isinstance(reference, str):
        raise BadInput(f"{reference!r} names no model version", hint="give its name as text, like fraud_detection@7")
    body = reference.removeprefix("models:/").strip("/") if reference.startswith("models:/") else reference
    match = re.fullmatch(r"([^/@:]+)(?:[@/]([^/@:]+))?", body)
    if match is None:
        raise BadInput(
            f"{reference!r} names no model version",
            hint="write it like fraud_detection@7, fraud_detection@champion or fraud_detection@latest",
        )
    return match[1], match[2] or "latest"


def update(ledger: Ledger, name: str, version: int, *, description: str, at: int, actor: str) -> ModelVersion:
    """Describe a version."""
    with ledger.transaction() as tx:
        require_model(tx, name)
        after = msgspec.structs.replace(require_version(tx, name, version), description=description, updated=at)
        tx.put(VERSIONS, key(name, version), msgspec.to_builtins(after))
        body = {"version": version, "description": text(tx, description)}
        tx.append("model.version.described", subject=name, body=body, at=at, actor=actor)
        return after


def delete(ledger: Ledger, name: str, version: int, *, at: int, actor: str) -> None:
    """Delete a version with its verdict and the aliases that point at it."""
    with ledger.transaction() as tx:
        model = require_model(tx, name)
        gone = require_version(tx, name, version)
        tx.delete(VERSIONS, key(name, version))
        tx.delete(VERDICTS, key(name, version))
        aliases = {a: v for a, v in model.aliases.items() if v != version}
        tx.put(MODELS, name, msgspec.to_builtins(msgspec.structs.replace(model, aliases=aliases, updated=at)))
        body = {
            "version": version,
            "content": gone.content,
            "stage": gone.stage,
            "aliases": sorted(set(model.aliases) - set(aliases)),
        }
        tx.append("model.version.deleted", subject=name, body=body, at=at, actor=actor)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def attach_verdict(ledger: Ledger, verdict: Verdict, *, at: int, actor: str) -> None:
    """Store the gate's decision for one exact version and content; a later one replaces it, the chain keeps both.

    Raises:
        NotFound: no such version.
        Conflict: the version has other content than the verdict was reached over.
    """
    with ledger.transaction() as tx:
        version = require_version(tx, verdict.model, verdict.version)
        if version.content != verdict.content:
            raise Conflict(
                f"the verdict is over content {verdict.content[:12]}, "
                f"but {verdict.model}@{verdict.version} has {version.content[:12]}",
                hint=f"run `holdfast check {verdict.model}@{verdict.version}` again",
            )
        row = msgspec.to_builtins(verdict)
        tx.put(VERDICTS, key(verdict.model, verdict.version), row)
        body = {
            "version": verdict.version,
            "content": verdict.content,
            "outcome": verdict.outcome,
            "rules": verdict.rules,
            "evidence": verdict.evidence,
            "verdict": digest(row),
        }
        tx.append("model.verdict", subject=verdict.model, body=body, at=at, actor=actor)


def verdict(ledger: Ledger, name: str, version: int) -> Verdict | None:
    """The newest verdict over a version, or None."""
    row = ledger.get(VERDICTS, key(name, version))
    return msgspec.convert(row, Verdict) if row else None


# --- inside a transaction ---------------------------------------------------------------------------------------------


def require_model(tx: LedgerTransaction, name: str) -> RegisteredModel:
    """The model, or NotFound, inside a transaction."""
    model = _model(tx, name)
    if model is None or model.deleted:
        raise NotFound(
            f"Registered Model with name={name} not found", hint="`holdfast models list` shows those there are"
        )
    return model


def require_version(tx: LedgerTransaction, name: str, version: int) -> ModelVersion:
    """The version, or NotFound, inside a transaction."""
    row = tx.get(VERSIONS, key(name, version)) if 0 < version < 10**10 else None
    if row is None:
        raise NotFound(
            f"Model Version (name={name}, version={version}) not found",
            hint=f"`holdfast models list {name}` shows those there are",
        )
    return msgspec.convert(row, ModelVersion)


def unknown_model(ledger: Ledger, name: str) -> NotFound:
    """The error for a name nobody registered, with the nearest one."""
    near = NotFound.among("model", name, (m.name for m in list_models(ledger)))
    return NotFound(f"Registered Model with name={name} not found", hint=near.hint)


def _model(tx: LedgerTransaction, name: str) -> RegisteredModel | None:
    row = tx.get(MODELS, name)
    return msgspec.convert(row, RegisteredModel) if row else None


def _new_model(
    tx: LedgerTransaction,
    name: str,
    *,
    at: int,
    actor: str,
    description: str = "",
    tags: Mapping[str, Any] | None = None,
    last: int = 0,
) -> RegisteredModel:
    model = RegisteredModel(
        name=name, description=description, tags=dict(tags or {}), at=at, updated=at, actor=actor, last=last
    )
    tx.put(MODELS, name, msgspec.to_builtins(model))
    tx.append(
        "model.created",
        subject=name,
        body={"description": text(tx, description), "tags": sorted(model.tags)},
        at=at,
        actor=actor,
    )
    return model
