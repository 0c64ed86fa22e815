"""One turn of a service's monitors: what answers now, its predictions and their truth, reports, incidents, pages."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from holdfast.core.errors import NotFound
from holdfast.core.identity import DAY, duration_us
from holdfast.core.records import Package, Release, Report

if TYPE_CHECKING:
    import pyarrow as pa

    from holdfast.core.definitions import Service
    from holdfast.monitoring.labels import LabelStore
    from holdfast.workspace import Workspace


def tick(workspace: Workspace, service_name: str, *, now: int, deliver: bool = True) -> list[Report]:
    """Look at a service as of ``now`` (µs UTC), keep the reports, raise and resolve incidents, send what waits.

    Looking twice at one instant is one set of reports.

    Raises:
        NotFound: the project has no such service, or nothing of it answers.
    """
    from holdfast.lifecycle import served
    from holdfast.monitoring import alerts, report, watch
    from holdfast.registry import versions
    from holdfast.serving import journal

    services = workspace.project().services
    if service_name not in services:
        raise NotFound.among("service", service_name, services)
    service = services[service_name]
    release, package = live(workspace, service)
    assert release.champion is not None
    span = max(
        duration_us(service.monitor.window), duration_us(service.monitor.drift.window) if service.monitor.drift else DAY
    )
    predictions = journal.read(
        workspace.path("predictions", service_name), since=now - (1 + watch.CALIBRATED) * span, until=now
    )
    labels = _labels(workspace.path("labels", service_name)).read(ids=predictions["id"].to_pylist())
    profile = None
    if package.reference_file is not None:
        profile = workspace.objects.get(package.files[package.reference_file].sha256)
        service = _without(service, profile, set(release.log.get("redact", {})))
    own: dict[str, float] = {}
    version = versions.get(workspace.ledger, release.model, release.champion.version)
    if version.run_id is not None:
        from holdfast.training import runs

        own = holdout(runs.get(workspace.runs, version.run_id).metrics)
    verdict = versions.verdict(workspace.ledger, release.model, release.champion.version)
    for result in verdict.results if verdict is not None else []:
        kind, _, metric = result.check.partition(":")
        if kind == "performance" and result.figure is not None:
            own[metric] = result.figure
    reports = watch.look(
        service,
        predictions,
        labels,
        version=release.champion.version,
        profile=profile,
        now=now,
        threshold=package.threshold,
        positive=package.classes[-1] if len(package.classes) == 2 else 1,
        classes=package.classes or None,
        own=own,
    )
    for each in reports:
        report.store(workspace.ledger, each)
        if each.outcome != "no data" or _is_silent(workspace, each, predictions):
            alerts.raise_for(workspace.ledger, each)
    reports += served.watch(
        workspace, services[service_name], package, predictions, version=release.champion.version, now=now,
        redacted=set(release.log.get("redact", {})),
    )  # fmt: skip
    if deliver:
        send(workspace, service_name)
    return reports


def _is_silent(workspace: Workspace, empty: Report, predictions: pa.Table) -> bool:
    """Whether an empty window is silence: nobody asked any version, though one was live from the window's start on. A
    version that has only just come has an empty window too."""
    from holdfast.monitoring import windows

    first = workspace.ledger.query(kind="release", subject=empty.service, limit=1)
    if first and first[0].at > empty.start:
        return False
    return not windows.cut(predictions, start=empty.start, end=empty.end).num_rows


@functools.lru_cache(maxsize=16)
def _labels(folder: Path) -> LabelStore:
    """One store a folder and process, so that a turn reads only the labels that are new."""
    from holdfast.monitoring.labels import LabelStore

    return LabelStore(folder)


def holdout(figures: Mapping[str, float]) -> dict[str, float]:
    """A run's figures on rows it was not fitted on, by plain metric name: ``test_x``, else ``tune_x``, else ``x``."""
    plain = dict(figures)
    for prefix in ("tune_", "test_"):
        plain |= {k.removeprefix(prefix): v for k, v in figures.items() if k.startswith(prefix)}
    return plain


def live(workspace: Workspace, service: Service) -> tuple[Release, Package]:
    """The production release of a service and its champion's package.

    Raises:
        NotFound: nothing of it answers in production.
    """
    from holdfast.registry import package
    from holdfast.serving import release_file

    release = release_file.read(workspace.home / "releases", service.name, "production", workspace.secret("release"))
    if release is None or release.champion is None:
        raise NotFound(
            f"nothing answers for {service.name!r} in production yet",
            hint=f"deploy a version: holdfast deploy {service.model.name}@latest",
        )
    return release, package.load(workspace.objects, release.champion.content)


def recent(workspace: Workspace, service_name: str, *, start: int, end: int) -> tuple[pa.Table, bytes]:
    """The live version's predictions in [start, end) and its reference profile.

    Raises:
        NotFound: no such service, nothing of it answers, or its version came without a profile.
    """
    from holdfast.monitoring import windows
    from holdfast.serving import journal

    services = workspace.project().services
    if service_name not in services:
        raise NotFound.among("service", service_name, services)
    release, package = live(workspace, services[service_name])
    assert release.champion is not None
    if package.reference_file is None:
        raise NotFound(
            f"{release.model}@{release.champion.version} has no reference profile",
            hint="train it with `holdfast train`",
        )
    log = journal.read(workspace.path("predictions", service_name), since=start, until=end)
    window = windows.cut(log, start=start, end=end, version=release.champion.version)
    return window, workspace.objects.get(package.files[package.reference_file].sha256)


def system(
    workspace: Workspace,
    service_name: str,
    *,
    environment: str = "production",
    seconds: float = 1.0,
    objective: float = 0.999,
) -> Report:
    """Two looks at a running service, ``seconds`` apart, as a report of kind ``system`` (not stored).

    Raises:
        NotFound: the service does not run here.
    """
    import time

    from holdfast.core.identity import check_name
    from holdfast.monitoring import report
    from holdfast.monitoring import system as machine
    from holdfast.serving import journal

    check_name(service_name, "service")
    check_name(environment, "environment")
    about = workspace.home / "run" / f"{service_name}-{environment}.json"
    try:
        state = msgspec.json.decode(about.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        raise NotFound(
            f"{service_name!r} does not run here ({environment})", hint=f"start it: holdfast serve {service_name}"
        ) from None
    pids = [int(p) for p in (state.get("pid"), *state.get("replicas", state.get("pids", []))) if p]

    def look() -> machine.Sample:
        return machine.sample(pids, at=time.time_ns() // 1000, metrics=_metrics(str(state.get("address", ""))))

    before = look()
    time.sleep(seconds)
    after = look()
    if not after.memory:
        raise NotFound(f"{service_name!r} ran here and is gone", hint=f"start it: holdfast serve {service_name}")
    now = workspace.clock.now()
    log = journal.read(workspace.path("predictions", service_name), since=now - DAY, until=now + 1)
    signals = [
        *machine.resources(before, after, folder=workspace.home),
        *machine.availability(after.good, after.bad, objective=objective),
        *machine.latency(log),
    ]
    return report.build("system", service_name, None, before.at, after.at, signals, rows=log.num_rows, at=now)


def _metrics(address: str) -> str:
    """The service's own metrics text; nothing where it does not answer, which then shows as no requests."""
    import urllib.request

    if not address:
        return ""
    url = (address if "://" in address else f"http://{address}").rstrip("/") + "/metrics"
    if not url.startswith(("http://", "https://")):
        return ""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the scheme is checked above
            return str(answer.read(8 << 20).decode("utf-8", "replace"))
    except OSError:
        return ""


def addresses(workspace: Workspace, service_name: str | None = None) -> list[str]:
    """Where alerts go: the workspace's addresses and those of the service (of every service without a name)."""
    found = list(workspace.settings.alerts)
    services = workspace.project().services
    for name, service in services.items():
        if service_name in (None, name):
            found += [a for a in service.monitor.alerts if a not in found]
    return found


def send(workspace: Workspace, service_name: str) -> tuple[int, int]:
    """Send what waits; (sent, failed). Never raises for a destination that fails."""
    from holdfast.core.identity import new_id
    from holdfast.monitoring import delivery

    return delivery.deliver(workspace.ledger, addresses(workspace, service_name), holder=new_id(), service=service_name)


def _without(service: Service, profile: bytes, redacted: set[str]) -> Service:
    """The service with drift watched on what the prediction log keeps: a redacted column is no drift."""
    if not redacted or service.monitor.drift is None:
        return service
    from dataclasses import replace

    from holdfast.monitoring import reference

    known = reference.load(profile)
    wanted = service.monitor.drift.columns or [*known.numeric, *known.categorical]
    kept = replace(service.monitor.drift, columns=[c for c in wanted if c not in redacted])
    return replace(service, monitor=replace(service.monitor, drift=kept))
