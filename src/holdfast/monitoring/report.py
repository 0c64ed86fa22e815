"""A monitor's result over one window, and its place in the ledger.

A report's id is made from what it is about (service, kind, version, arm, window), so looking at one window twice,
after a crash or from two schedulers, is one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from holdfast.core.identity import digest
from holdfast.core.ports import Ledger, LedgerTransaction
from holdfast.core.records import Report, Signal

TABLE = "reports"
NEWEST = "reports_newest"
_STEP = 10**11
Outcome = Literal["ok", "alarm", "no data", "not enough evidence"]


def build(
    kind: str,
    service: str,
    version: int | None,
    start: int,
    end: int,
    signals: Sequence[Signal],
    *,
    rows: int = 0,
    labelled: int = 0,
    minimum: int = 1,
    details: Mapping[str, Any] | None = None,
    at: int = 0,
) -> Report:
    """The report over [start, end). ``minimum`` is the fewest rows (for kind ``performance``: labelled ones) that can
    say ``ok``; a signal that alarms is an alarm with fewer too, its own test having asked for enough."""
    return Report(
        id=digest({"kind": kind, "service": service, "version": version, "start": start, "end": end})[:26],
        service=service, kind=kind, version=version, start=start, end=end,
        outcome=outcome(kind, signals, rows=rows, labelled=labelled, minimum=minimum),
        signals=list(signals), rows=rows, labelled=labelled, details=dict(details or {}), at=at or end,
    )  # fmt: skip


def outcome(kind: str, signals: Sequence[Signal], *, rows: int, labelled: int, minimum: int) -> Outcome:
    """alarm, if any signal alarms; no data without rows; not enough evidence without labels, rows or figures; else
    ok."""
    if any(s.alarm for s in signals):
        return "alarm"
    if rows == 0 and kind != "system":
        return "no data"
    # Coverage is about labels and an estimate is no evidence: neither makes a performance report.
    spoken = [s for s in signals if s.value is not None and s.family not in ("labels", "estimate")]
    counted = labelled if kind == "performance" else rows
    if not spoken or (kind != "system" and counted < minimum):
        return "not enough evidence"
    return "ok"


def store(ledger: Ledger, report: Report, *, actor: str = "monitor") -> bool:
    """Keep a report; False if this window was reported before (the first stands)."""
    with ledger.transaction() as tx:
        return store_in(tx, report, actor=actor)


def store_in(tx: LedgerTransaction, report: Report, *, actor: str = "monitor") -> bool:
    """``store`` inside a transaction of the caller's."""
    key = _key(report)
    if tx.get(TABLE, key) is not None:
        return False
    body = msgspec.to_builtins(report)
    tx.put(TABLE, key, body)
    newest = tx.get(NEWEST, report.service)
    if newest is None or int(newest["end"]) < report.end:
        tx.put(NEWEST, report.service, {"end": report.end})
    tx.append(
        "report.made",
        subject=report.service,
        at=report.at,
        actor=actor,
        body={
            "report": report.id,
            "kind": report.kind,
            "version": report.version,
            "start": report.start,
            "end": report.end,
            "outcome": report.outcome,
            "rows": report.rows,
            "labelled": report.labelled,
            "digest": digest(body),
            "alarms": [f"{s.family}:{s.name}" for s in report.signals if s.alarm][:50],
        },
    )
    return True


def recent(
    ledger: Ledger,
    service: str,
    *,
    kind: str | None = None,
    since: int | None = None,
    until: int | None = None,
    limit: int | None = None,
) -> list[Report]:
    """Reports of a service whose windows end in [since, until), oldest first; the newest ``limit`` of them."""
    found = []
    for prefix in _prefixes(ledger, service, since, until):
        for _, row in ledger.scan(TABLE, prefix=prefix):
            if (
                (kind is None or row["kind"] == kind)
                and (since is None or row["end"] >= since)
                and (until is None or row["end"] < until)
            ):
                found.append(msgspec.convert(row, Report))
    return found if limit is None else found[-limit:]


def _prefixes(ledger: Ledger, service: str, since: int | None, until: int | None) -> list[str]:
    """Beginnings of keys that cover [since, until): one per 27.8 hours, so that a glance at the last days does not read
    the reports of years. All of the service where that would be more than a year of glances."""
    newest = ledger.get(NEWEST, service)
    if since is None or since < 0 or newest is None:
        return [f"{service}/"]
    end = int(newest["end"]) + 1 if until is None else min(until, int(newest["end"]) + 1)
    first, last = since // _STEP, (end - 1) // _STEP
    if last - first > 400:
        return [f"{service}/"]
    return [f"{service}/{n:09d}" for n in range(first, last + 1)]


def find(ledger: Ledger, report_id: str) -> Report | None:
    """The report with this id (or a unique beginning of it), or None."""
    hits = [row for _, row in ledger.scan(TABLE) if str(row["id"]).startswith(report_id)]
    return msgspec.convert(hits[0], Report) if len(hits) == 1 else None


def _key(report: Report) -> str:
    return f"{report.service}/{report.end:020d}/{report.kind}/{report.id}"
