"""Hard deletion: runs, experiments and logged models that were deleted long enough ago, and bytes nothing names any more.

Only bytes that were artifacts of what is purged are looked at; of those, whatever the ledger or a model version still
names stays. Reproducing an old version must never fail because somebody tidied up.
"""

from __future__ import annotations

import re

import msgspec

from holdfast.core.errors import BadInput, NotFound
from holdfast.core.identity import canonical
from holdfast.core.ports import Ledger, Objects, RunStore
from holdfast.core.records import ModelVersion, Record
from holdfast.protocols.mlflow.app import REQUESTS
from holdfast.registry import foreign
from holdfast.registry.versions import VERSIONS

_SHA256 = re.compile(rb"[0-9a-f]{64}")
_PAGE = 1000


class Collected(Record, frozen=True, kw_only=True):
    """What a collection removed, and what it left because something still names it."""

    objects: int
    bytes: int
    kept: int


def collect(runs: RunStore, ledger: Ledger, objects: Objects, *, before: int, at: int, actor: str) -> Collected:
    """Purge what was deleted (and answers remembered for repeated requests) before an instant, then the bytes that
    nothing names any more. Interrupted and run again, it goes on: bytes left behind cost room, never a reference."""
    loose = runs.purge(before=before)
    for key, row in ledger.scan(REQUESTS):
        if row["at"] < before:
            with ledger.transaction() as tx:
                tx.delete(REQUESTS, key)
    named = _named(ledger, objects) if loose else set()
    size = removed = 0
    for sha256 in loose:
        if sha256 in named or not objects.exists(sha256):
            continue
        size += objects.size(sha256)
        objects.delete(sha256)
        removed += 1
    found = Collected(objects=removed, bytes=size, kept=len(loose) - removed)
    ledger.append(
        "store.collected", subject="runs", body={**msgspec.to_builtins(found), "before": before}, at=at, actor=actor
    )
    return found


def _named(ledger: Ledger, objects: Objects) -> set[str]:
    """Every SHA-256 an entry of the ledger names, and the files of every model version."""
    named: set[str] = set()
    after = 0
    while entries := ledger.read(after=after, limit=_PAGE):
        after = entries[-1].sequence
        for entry in entries:
            named.update(found.decode() for found in _SHA256.findall(canonical(entry.body)))
    for _, row in ledger.scan(VERSIONS):
        content = msgspec.convert(row, ModelVersion).content
        named.add(content)
        try:
            named.update(ref.sha256 for ref in foreign.files_of(objects, content).values())
        except (NotFound, BadInput):
            continue
    return named
