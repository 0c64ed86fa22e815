"""Features as they were served: recomputed as known at request time, their nulls and ranges, and how fresh they are."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from holdfast.core.errors import HoldfastError, NotFound
from holdfast.core.identity import digest, duration_us
from holdfast.core.records import Json, Package, Report
from holdfast.lifecycle import ingest

if TYPE_CHECKING:
    import pyarrow as pa

    from holdfast.core.definitions import Service
    from holdfast.core.ports import Ledger
    from holdfast.workspace import Workspace

PARITY_ROWS = 1000
"""Predictions recomputed at one look: chosen by the hash of their id, so that every look at a window takes the same."""


def verify(
    ws: Workspace, service: str, *, since: int | None, until: int | None, environment: str, tolerance: float = 1e-9
) -> list[Json]:
    """Parity of everything a service served, each model version by the plan in its own package.

    Raises:
        NotFound: no such service, or a version whose package is gone.
    """
    from holdfast.serving import journal

    services = ws.project().services
    if service not in services:
        raise NotFound.among("service", service, services)
    log = journal.read(ws.path("predictions", service), since=since, until=until, environment=environment)
    return compare(ws, services[service].model.name, log, tolerance=tolerance)


def compare(ws: Workspace, model: str, log: pa.Table, *, tolerance: float = 1e-9) -> list[Json]:
    """``verify`` for predictions at hand."""
    from holdfast.features import parity
    from holdfast.registry import package, versions

    if not log.num_rows:
        return []
    views = ingest.all_views(ws.project())
    known = {v.source.name: v.source for v in views.values()}
    reports = []
    for number in sorted(n for n in pc.unique(log.column("version")).to_pylist() if n is not None):
        plan = package.load(ws.objects, versions.get(ws.ledger, model, number).content).plan
        if plan is None:
            continue
        needed = [known[name] for name in dict.fromkeys(v["source"] for v in plan["views"]) if name in known]
        rows = log.filter(pc.equal(log.column("version"), number))
        tables = ingest.tables(ws, needed, at=ws.clock.now())
        reports.append(parity.verify(ws.engine, plan, rows, tables, tolerance=tolerance))
    return parity.merge(reports)


# --- monitors ---------------------------------------------------------------------------------------------------------


def look(
    ws: Workspace, service: Service, package: Package, predictions: pa.Table, *, version: int, now: int, redacted: Set[str] = frozenset()
) -> list[Report]:  # fmt: skip
    """The reports ``features`` (nulls, ranges, freshness) and, when it is due, ``parity``; none where there is nothing to say.

    Raises:
        HoldfastError: a source or a package that cannot be read.
    """
    found = [features(ws, service, package, predictions, version=version, now=now, redacted=redacted)]
    if service.monitor.parity is not None and parity_due(ws.ledger, service, now=now):
        found.append(parity(ws, service, predictions, now=now, redacted=redacted))
    return [r for r in found if r is not None]


def features(
    ws: Workspace, service: Service, package: Package, predictions: pa.Table, *, version: int, now: int, redacted: Set[str] = frozenset()
) -> Report | None:  # fmt: skip
    """Null rate and share beyond the training range of every input over the monitor's window, and the age of what the views
    that must be fresh can serve."""
    from holdfast.monitoring import quality, report, windows

    start = now - duration_us(service.monitor.window)
    window = windows.cut(predictions, start=start, end=now, version=version)
    signals = quality.served(window, [spec for spec in package.inputs if spec.name not in redacted])
    newest, limits = _ages(ws, package.plan or {}, now=now)
    signals += quality.freshness(newest, now=now, limits=limits)
    if not signals or not (window.num_rows or any(s.alarm for s in signals)):
        return None
    return report.build(
        "features", service.name, version, start, now, signals, rows=window.num_rows, minimum=quality.LEAST_ROWS
    )


def _ages(ws: Workspace, plan: Json, *, now: int) -> tuple[dict[str, int | None], dict[str, int]]:
    """Per view that must be fresh the newest event that serving can see, and how old that may be (µs)."""
    from holdfast.features.materialize import progress_of
    from holdfast.features.push import landed
    from holdfast.features.source_sql import ViewQuery

    views = ingest.all_views(ws.project())
    newest: dict[str, int | None] = {}
    limits: dict[str, int] = {}
    for part in plan.get("views", []):
        view = views.get(part["name"])
        if view is None or view.fresh is None:
            continue
        pushed = landed(ws.home, view.source.name)
        upto = progress_of(ws.online, part["version"])
        own = [f for f in ingest.files(ws, view.source, at=now) if f not in pushed] if upto is not None else []
        ages = [
            _newest(ws, ViewQuery(ws.engine, part, files), end) for files, end in ((own, upto), (pushed, now)) if files
        ]
        newest[view.name] = max((a for a in ages if a is not None), default=None)
        limits[view.name] = duration_us(view.fresh)
    return newest, limits


def _newest(ws: Workspace, query: Any, end: int | None) -> int | None:
    sql = f"SELECT max({query.time}) FROM ({query.relation.sql}) WHERE {query.time} <= {end}"
    found: int | None = ws.engine.query(sql, tables=query.relation.tables)[0][0].as_py()
    return found


def parity_due(ledger: Ledger, service: Service, *, now: int) -> bool:
    """Whether the last look at parity is as long ago as the monitor says."""
    from holdfast.monitoring import report

    every = duration_us(service.monitor.parity or 0)
    return not [r for r in report.recent(ledger, service.name, kind="parity", since=now - every + 1) if r.end <= now]


def parity(
    ws: Workspace, service: Service, predictions: pa.Table, *, now: int, redacted: Set[str] = frozenset()
) -> Report | None:
    """What was served since the last look, recomputed as known at request time; None where nothing was served or where the
    log does not keep what it takes.

    One unequal value alarms: nothing may ever be. Stale and missing ones, which a late materialization makes, alarm when
    clearly more than 1 % are.
    """
    from holdfast.monitoring import quality, report, windows

    start = now - duration_us(service.monitor.parity or 0)
    window = windows.cut(predictions, start=start, end=now)
    window = window.drop_columns([c for c in window.column_names if c.partition(".")[2] in redacted])
    if not any(c.startswith("features.") for c in window.column_names) or not window.num_rows:
        return None
    if redacted & {c for v in ingest.all_views(ws.project()).values() for c in v.join_keys}:
        return None
    ids = [digest(str(i)) for i in window.column("id").to_pylist()]
    chosen = sorted(sorted(range(len(ids)), key=ids.__getitem__)[:PARITY_ROWS])
    window = window.take(chosen)
    entries = compare(ws, service.model.name, window)
    if not entries:
        return None
    details = {
        e["feature"]: {k: e[k] for k in ("rows", "equal", "stale", "missing", "unequal", "examples")} for e in entries
    }
    return report.build(
        "parity", service.name, None, start, now, quality.parity(entries), rows=window.num_rows, details={"features": details}
    )  # fmt: skip


def watch(
    ws: Workspace, service: Service, package: Package, predictions: pa.Table, *, version: int, now: int, redacted: Set[str] = frozenset()
) -> list[Report]:  # fmt: skip
    """``look``, with its reports kept and its incidents raised and resolved; its own failure is an incident, no error.

    A range that is left is told and pages nobody: it is no error of the features.
    """
    from holdfast.monitoring import alerts, report

    thing = "features cannot be checked"
    try:
        reports = look(ws, service, package, predictions, version=version, now=now, redacted=redacted)
    except HoldfastError as error:
        title, text = f"{service.name}: {thing}", f"{error.message}\n{error.hint or ''}".strip()
        alerts.raise_thing(ws.ledger, service.name, thing, title=title, text=text, at=now)
        return []
    alerts.resolve_thing(ws.ledger, service.name, thing, at=now, by="monitor", note="checked again")
    for each in reports:
        report.store(ws.ledger, each)
        page = any(s.alarm and s.family != "range" for s in each.signals) or each.outcome != "alarm"
        alerts.raise_for(ws.ledger, each, page=page)
    return reports
