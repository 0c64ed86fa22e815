"""One look at a service: what its monitor declares, measured over the windows that end now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from holdfast.core.definitions import Service
from holdfast.core.identity import duration_us
from holdfast.core.records import Report
from holdfast.monitoring import drift, performance, report, windows
from holdfast.stats import metrics

LEAST_LABELLED = 100


def look(
    service: Service,
    predictions: pa.Table,
    labels: pa.Table,
    *,
    version: int | None,
    profile: bytes | None,
    now: int,
    threshold: float | None = None,
    positive: Any = 1,
    classes: Sequence[Any] | None = None,
    own: Mapping[str, float] | None = None,
    minimum: int = LEAST_LABELLED,
) -> list[Report]:
    """The drift and performance reports of the windows ending at ``now`` (microseconds UTC).

    ``predictions`` is the prediction log (more than the windows is fine), ``labels`` what ``LabelStore.read`` gives,
    ``profile`` the live version's reference profile (no drift report without one), ``own`` its hold-out figures: where
    the service declares ``when_below`` or ``when_drops``, a metric wholly worse than that level alarms.
    """
    monitor = service.monitor
    reports: list[Report] = []
    if monitor.drift is not None and profile is not None:
        start = now - duration_us(monitor.drift.window)
        window = windows.cut(predictions, start=start, end=now, version=version)
        signals = drift.compare(profile, window, drift=monitor.drift) if window.num_rows else []
        reports.append(
            report.build(
                "drift", service.name, version, start, now, signals, rows=window.num_rows, minimum=monitor.drift.minimum
            )
        )
    start = now - duration_us(monitor.window)
    joined = windows.join(windows.cut(predictions, start=start, end=now, version=version), labels)
    signals = (
        performance.measure(
            joined,
            metrics=monitor.metrics,
            threshold=threshold,
            positive=positive,
            classes=classes,
            floors=floors(service, own or {}),
        )
        if joined.num_rows
        else []
    )
    labelled = joined.num_rows - joined["label"].null_count
    reports.append(
        report.build(
            "performance",
            service.name,
            version,
            start,
            now,
            signals,
            rows=joined.num_rows,
            labelled=labelled,
            minimum=minimum,
        )
    )
    return reports


def floors(service: Service, own: Mapping[str, float]) -> dict[str, float]:
    """The level per metric that the service's retraining watches: the stricter one where two are declared."""
    found: dict[str, float] = {}
    below, drops = service.retrain.when_below, service.retrain.when_drops
    if below is not None:
        found[below[0]] = float(below[1])
    if drops is not None and drops[0] in own:
        better = metrics.get(drops[0]).greater_is_better
        level = own[drops[0]] - drops[1] if better else own[drops[0]] + drops[1]
        known = found.get(drops[0], level)
        found[drops[0]] = max(known, level) if better else min(known, level)
    return found
