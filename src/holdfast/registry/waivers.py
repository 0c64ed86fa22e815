"""Exceptions a person made from one check for one exact version, until a day; and model bytes a person vouches for.

Tables: ``waivers`` (key: ``name/0000000007/check``) and ``trusted`` (key: SHA-256). The gate reads waivers as plain
values; it never asks who may give them.
"""

from __future__ import annotations

import re

import msgspec

from holdfast.core.errors import BadInput, NotFound
from holdfast.core.identity import iso
from holdfast.core.ports import Ledger
from holdfast.core.records import Json, Waiver
from holdfast.registry.versions import VERSIONS, get, key, require_version, text

WAIVERS, TRUSTED = "waivers", "trusted"
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def grant(ledger: Ledger, waiver: Waiver, *, at: int) -> Waiver:
    """Waive one check of one version until ``waiver.until``.

    Raises:
        BadInput: no reason, or already over.
        NotFound: no such version.
    """
    if not waiver.reason.strip():
        raise BadInput("a waiver needs a reason", hint="say why with --reason")
    if waiver.until <= at:
        raise BadInput("a waiver must end in the future", hint="give a later --until")
    if not waiver.model or not waiver.version:
        raise BadInput("a waiver is for one version of one model", hint="write it like fraud_detection@7")
    with ledger.transaction() as tx:
        version = require_version(tx, waiver.model, waiver.version)
        row = {**msgspec.to_builtins(waiver), "content": version.content}
        tx.put(WAIVERS, f"{key(waiver.model, waiver.version)}/{waiver.check}/{waiver.group or ''}", row)
        body = {
            "version": waiver.version,
            "content": version.content,
            "check": waiver.check,
            "group": waiver.group,
            "until": waiver.until,
            "reason": text(tx, waiver.reason),
        }
        tx.append("model.waiver", subject=waiver.model, body=body, at=at, actor=waiver.by)
    return waiver


def active(ledger: Ledger, name: str, version: int, *, at: int) -> list[Waiver]:
    """Waivers of a version that are not over and were given for the content it has.

    Raises:
        NotFound: no such version.
    """
    content = get(ledger, name, version).content
    rows = ledger.scan(WAIVERS, prefix=key(name, version) + "/")
    return [_waiver(row) for _, row in rows if row["content"] == content and row["until"] > at]


def in_force(ledger: Ledger, *, at: int) -> list[Waiver]:
    """Waivers of all models' versions that are not over and were given for the content the version has, in the order of
    names and versions."""
    found = [row for _, row in ledger.scan(WAIVERS) if row["until"] > at]
    held = {v: ledger.get(VERSIONS, v) for v in {key(row["model"], row["version"]) for row in found}}
    return [
        _waiver(row)
        for row in found
        if (held[key(row["model"], row["version"])] or {}).get("content") == row["content"]
    ]


def told(waiver: Waiver) -> str:
    """One line: what is waived, by whom, until when, why."""
    group = f" [{waiver.group}]" if waiver.group else ""
    return f"{waiver.check}{group} by {waiver.by} until {iso(waiver.until)}: {waiver.reason}"


def _waiver(row: Json) -> Waiver:
    return msgspec.convert({k: v for k, v in row.items() if k != "content"}, Waiver)


def trust(ledger: Ledger, sha256: str, *, reason: str, at: int, actor: str) -> None:
    """Vouch for model bytes that could run code when loaded (pickle and its kin).

    Raises:
        BadInput: not a SHA-256, or no reason.
    """
    if not _SHA256.match(sha256):
        raise BadInput(f"{sha256[:80]!r} is not a SHA-256", hint="give the 64 hex digits the refusal named")
    if not reason.strip():
        raise BadInput(
            "trusting bytes needs a reason", hint="say who made them and how they reached you, with --reason"
        )
    with ledger.transaction() as tx:
        body = {"sha256": sha256, "reason": text(tx, reason)}
        tx.put(TRUSTED, sha256, {"at": at, "actor": actor, "reason": body["reason"]})
        tx.append("model.trusted", subject=sha256, body=body, at=at, actor=actor)


def distrust(ledger: Ledger, sha256: str, *, at: int, actor: str) -> None:
    """Take it back.

    Raises:
        NotFound: nobody vouched for these bytes.
    """
    with ledger.transaction() as tx:
        if tx.get(TRUSTED, sha256) is None:
            raise NotFound(f"{sha256[:12]} is not trusted")
        tx.delete(TRUSTED, sha256)
        tx.append("model.distrusted", subject=sha256, body={"sha256": sha256}, at=at, actor=actor)


def trusted(ledger: Ledger, sha256: str) -> bool:
    """Whether a person vouched for these bytes."""
    return ledger.get(TRUSTED, sha256) is not None
