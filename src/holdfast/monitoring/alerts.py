"""Incidents: what people handle. One thing that is wrong is one incident and one page, however often it is seen.

A thing is a service and a kind of trouble (``drift``, ``performance``, ``system``, a failed cycle …). Raising it again
while it is open counts up and pages nobody; it is resolved when its monitor has said ok. Raising, counting and
resolving are ledger transactions that also queue the message; sending is apart (``delivery``), so that a dead mail
server fails no monitor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from holdfast.core.errors import Conflict, NotFound
from holdfast.core.identity import digest, iso
from holdfast.core.ports import Ledger, LedgerTransaction
from holdfast.core.records import Record, Report

INCIDENTS = "incidents"
OUTBOX = "outbox"
Status = Literal["open", "acknowledged", "resolved"]


class Incident(Record, frozen=True, kw_only=True):
    """One thing that is or was wrong. ``seen`` counts the reports that said so, ``calm`` those in a row that said
    ok."""

    id: str
    service: str
    thing: str
    status: Status
    title: str
    text: str
    opened: int
    last: int
    seen: int = 1
    calm: int = 0
    report: str | None = None
    version: int | None = None
    resolved: int | None = None
    by: str = ""
    note: str = ""


class Message(Record, frozen=True, kw_only=True):
    """A page waiting to be sent. ``id`` is stable, so a receiver can tell a repetition."""

    id: str
    incident: str
    service: str
    event: Literal["opened", "resolved"]
    title: str
    text: str
    at: int
    sent: list[str] = msgspec.field(default_factory=list)
    tries: int = 0
    error: str = ""


def raise_for(
    ledger: Ledger, report: Report, *, calm: int = 1, page: bool = True, actor: str = "monitor"
) -> Incident | None:
    """Let a report open, count up, or resolve the incident of its thing; the incident it touched, if any.

    ``alarm`` raises; ``ok`` resolves after ``calm`` reports in a row; ``no data`` raises a thing of its own
    (``<kind>: no data``), since silence is not health; ``not enough evidence`` changes nothing.
    The same report twice changes nothing.
    """
    silent = f"{report.kind}: no data"
    with ledger.transaction() as tx:
        if report.outcome == "alarm":
            _calm(tx, report, silent, needed=1, page=page, actor=actor)
            return raise_in(
                tx,
                report.service,
                report.kind,
                title=_title(report),
                text=_text(report),
                at=report.at,
                report=report,
                page=page,
                actor=actor,
            )
        if report.outcome == "no data":
            title = f"{report.service}: no predictions between {iso(report.start)} and {iso(report.end)}"
            return raise_in(
                tx,
                report.service,
                silent,
                title=title,
                text="the window is empty",
                at=report.at,
                report=report,
                page=page,
                actor=actor,
            )
        touched = _calm(tx, report, silent, needed=1, page=page, actor=actor)
        if report.outcome == "ok":
            return _calm(tx, report, report.kind, needed=calm, page=page, actor=actor) or touched
        return touched


def raise_thing(
    ledger: Ledger, service: str, thing: str, *, title: str, text: str, at: int, page: bool = True, actor: str = ""
) -> Incident:
    """Raise any other trouble (a failed cycle, a tripped breaker, a stuck rollout)."""
    with ledger.transaction() as tx:
        return raise_in(tx, service, thing, title=title, text=text, at=at, page=page, actor=actor)


def raise_in(
    tx: LedgerTransaction,
    service: str,
    thing: str,
    *,
    title: str,
    text: str,
    at: int,
    report: Report | None = None,
    page: bool = True,
    actor: str = "",
) -> Incident:
    """``raise_thing`` inside a transaction of the caller's."""
    known = _open(tx, service, thing)
    about = report.id if report else None
    if known is not None:
        if about is not None and known.report == about:
            return known
        changed = msgspec.structs.replace(
            known, last=max(at, known.last), seen=known.seen + 1, calm=0, report=about, title=title, text=text
        )
        _put(tx, changed)
        return changed
    fresh = Incident(
        id=digest({"service": service, "thing": thing, "at": at, "report": about})[:12],
        service=service,
        thing=thing,
        status="open",
        title=title,
        text=text,
        opened=at,
        last=at,
        report=about,
        version=report.version if report else None,
    )
    if tx.get(INCIDENTS, _key(fresh)) is not None:
        return fresh
    _put(tx, fresh)
    tx.append(
        "incident.opened",
        subject=service,
        at=at,
        actor=actor,
        body={"incident": fresh.id, "thing": thing, "title": title, "report": about},
    )
    if page:
        _queue(tx, fresh, "opened", at)
    return fresh


def resolve(ledger: Ledger, incident_id: str, *, at: int, by: str, note: str = "", page: bool = True) -> Incident:
    """Close an incident by hand.

    Raises:
        NotFound: no such incident.
        Conflict: it is resolved already.
    """
    with ledger.transaction() as tx:
        incident = _find(tx, incident_id)
        if incident.status == "resolved":
            raise Conflict(f"incident {incident.id} is resolved already", hint="nothing to do")
        return _resolve(tx, incident, at=at, by=by, note=note, page=page)


def resolve_thing(
    ledger: Ledger, service: str, thing: str, *, at: int, by: str, note: str = "", page: bool = True
) -> Incident | None:
    """Close the open incident of a thing, if there is one."""
    with ledger.transaction() as tx:
        incident = _open(tx, service, thing)
        return None if incident is None else _resolve(tx, incident, at=at, by=by, note=note, page=page)


def acknowledge(ledger: Ledger, incident_id: str, *, at: int, by: str, note: str = "") -> Incident:
    """Say that somebody looks after it.

    Raises:
        NotFound: no such incident.
        Conflict: it is resolved already.
    """
    with ledger.transaction() as tx:
        incident = _find(tx, incident_id)
        if incident.status == "resolved":
            raise Conflict(f"incident {incident.id} is resolved already", hint="nothing to do")
        changed = msgspec.structs.replace(incident, status="acknowledged", by=by, note=note or incident.note)
        _put(tx, changed)
        tx.append("incident.acknowledged", subject=incident.service, at=at, actor=by, body={"incident": incident.id})
        return changed


def incidents(ledger: Ledger, service: str | None = None, *, resolved: bool = True) -> list[Incident]:
    """Incidents of a service or of all, oldest first; without the resolved ones if asked."""
    rows = ledger.scan(INCIDENTS, prefix=f"{service}/" if service else "")
    found = [msgspec.convert(row, Incident) for _, row in rows]
    return sorted((i for i in found if resolved or i.status != "resolved"), key=lambda i: (i.opened, i.id))


def waiting(ledger: Ledger) -> list[Message]:
    """Messages that some destination has not got yet, oldest first."""
    rows = (msgspec.convert(row, Message) for _, row in ledger.scan(OUTBOX))
    return sorted(rows, key=lambda m: (m.at, m.id))


def _calm(tx: LedgerTransaction, report: Report, thing: str, *, needed: int, page: bool, actor: str) -> Incident | None:
    known = _open(tx, report.service, thing)
    if known is None or known.report == report.id:
        return known
    if known.calm + 1 >= needed:
        return _resolve(tx, known, at=report.at, by=actor, note=f"report {report.id} says {report.outcome}", page=page)
    changed = msgspec.structs.replace(known, calm=known.calm + 1, last=max(known.last, report.at), report=report.id)
    _put(tx, changed)
    return changed


def _resolve(tx: LedgerTransaction, incident: Incident, *, at: int, by: str, note: str, page: bool) -> Incident:
    changed = msgspec.structs.replace(incident, status="resolved", resolved=at, by=by, note=note)
    _put(tx, changed)
    tx.append(
        "incident.resolved",
        subject=incident.service,
        at=at,
        actor=by,
        body={"incident": incident.id, "thing": incident.thing},
    )
    if page:
        _queue(tx, changed, "resolved", at)
    return changed


def _queue(tx: LedgerTransaction, incident: Incident, event: Literal["opened", "resolved"], at: int) -> None:
    title = incident.title if event == "opened" else f"resolved: {incident.title}"
    message = Message(
        id=f"{incident.id}-{event}",
        incident=incident.id,
        service=incident.service,
        event=event,
        title=title,
        text=incident.text,
        at=at,
    )
    tx.put(OUTBOX, f"{at:020d}/{message.id}", msgspec.to_builtins(message))


def _open(tx: LedgerTransaction, service: str, thing: str) -> Incident | None:
    for _, row in tx.scan(INCIDENTS, prefix=f"{service}/"):
        if row["thing"] == thing and row["status"] != "resolved":
            return msgspec.convert(row, Incident)
    return None


def _find(tx: LedgerTransaction, incident_id: str) -> Incident:
    rows = [row for _, row in tx.scan(INCIDENTS) if str(row["id"]).startswith(incident_id)]
    if len(rows) != 1 or not incident_id:
        raise NotFound(
            f"{'several incidents begin with' if rows else 'unknown incident'} {incident_id!r}",
            hint="list them with `holdfast monitor incidents SERVICE`",
        )
    return msgspec.convert(rows[0], Incident)


def _put(tx: LedgerTransaction, incident: Incident) -> None:
    tx.put(INCIDENTS, _key(incident), msgspec.to_builtins(incident))


def _key(incident: Incident) -> str:
    return f"{incident.service}/{incident.opened:020d}/{incident.id}"


def _title(report: Report) -> str:
    alarms = [s for s in report.signals if s.alarm]
    version = f" v{report.version}" if report.version is not None else ""
    first = ", ".join(f"{s.name} {s.direction or s.family}".strip() for s in alarms[:3])
    more = f" and {len(alarms) - 3} more" if len(alarms) > 3 else ""
    return f"{report.service}{version}: {report.kind}: {first}{more}"


def _text(report: Report) -> str:
    lines = [f"window {iso(report.start)} to {iso(report.end)}, {report.rows} rows"]
    lines += [f"{s.name} ({s.family}): {s.message or _figure(s.value)}" for s in report.signals if s.alarm][:20]
    return "\n".join([*lines, f"look: holdfast monitor show {report.service} {report.id}"])


def _figure(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}"


def things(found: Sequence[Incident]) -> list[str]:
    """The distinct troubles in a list of incidents."""
    return sorted({i.thing for i in found})
