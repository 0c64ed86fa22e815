"""What happened to a model, and what was live when: walks over its ledger entries."""

from __future__ import annotations

import msgspec

from holdfast.core.ports import Ledger
from holdfast.core.records import Entry, Json
from holdfast.registry.versions import TEXTS

_LIMIT = 1_000_000


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a model: what, by whom, from what to what, and why."""

    sequence: int
    at: int
    actor: str
    what: str
    version: int | None
    before: str | int | None = None
    after: str | int | None = None
    reason: str = ""
    details: Json = {}


def of(ledger: Ledger, name: str) -> list[Change]:
    """Every change of a model, oldest first. Deleted texts read ``[deleted]``."""
    return [_change(ledger, e) for e in ledger.query(kind="model.*", subject=name, limit=_LIMIT)]


def live(ledger: Ledger, name: str, *, at: int) -> dict[str, list[int]]:
    """Which versions each stage and alias held at an instant: ``{"Production": [7], "@champion": [7]}``."""
    stages, aliases = _replay(ledger, name, until=at + 1)
    found: dict[str, list[int]] = {}
    for version, stage in sorted(stages.items()):
        if stage != "None":
            found.setdefault(stage, []).append(version)
    for alias, version in sorted(aliases.items()):
        found[f"@{alias}"] = [version]
    return found


def _replay(
    ledger: Ledger, name: str, *, until: int | None = None, before: int | None = None
) -> tuple[dict[int, str], dict[str, int]]:
    """(stage by version, version by alias) after the entries earlier than ``until`` (µs) and ``before`` (sequence)."""
    stages: dict[int, str] = {}
    aliases: dict[str, int] = {}
    for entry in ledger.query(kind="model.*", subject=name, until=until, limit=_LIMIT):
        if before is not None and entry.sequence >= before:
            break
        body = entry.body
        match entry.kind:
            case "model.version":
                stages[body["version"]] = "None"
            case "model.stage":
                stages.update(dict.fromkeys(body["archived"], "Archived"))
                stages[body["version"]] = body["after"]
            case "model.alias":
                aliases.pop(body["alias"], None)
                if body["after"] is not None:
                    aliases[body["alias"]] = body["after"]
            case "model.version.deleted":
                stages.pop(body["version"], None)
                aliases = {a: v for a, v in aliases.items() if v != body["version"]}
            case "model.deleted":
                stages, aliases = {}, {}
            case "model.renamed" if body["before"] == name:
                stages, aliases = {}, {}
            case "model.renamed":
                stages, aliases = _replay(ledger, body["before"], before=entry.sequence)
    return stages, aliases


def _change(ledger: Ledger, entry: Entry) -> Change:
    body = dict(entry.body)
    what = entry.kind.removeprefix("model.")
    version = body.pop("version", None)
    before, after = body.pop("before", None), body.pop("after", None)
    if what == "tag":
        before, after = _text(ledger, before or ""), _text(ledger, after or "")
    if "description" in body:
        after = _text(ledger, body.pop("description"))
    if what == "alias":
        what = f"alias {body.pop('alias')}"
    if what == "verdict":
        after = body.pop("outcome")
    reason = _text(ledger, body.pop("reason", ""))
    return Change(
        sequence=entry.sequence,
        at=entry.at,
        actor=entry.actor,
        what=what,
        version=version,
        before=before,
        after=after,
        reason=reason,
        details=body,
    )


def _text(ledger: Ledger, name: str) -> str:
    if not name:
        return ""
    row = ledger.get(TEXTS, name)
    return row["text"] if row else "[deleted]"
