"""One look at a service: what its monitor declares, measured over the windows that end now."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from holdfast.core.definitions import Service
from holdfast.core.records import Report
from holdfast.monitoring import drift, performance, report, windows

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
    minimum: int = LEAST_LABELLED,
) -> list[Report]:
    """The drift and performance reports of the windows ending at ``now`` (microseconds UTC).

    ``predictions`` is the prediction log (more than the windows is fine), ``labels`` what ``LabelStore.read`` gives,
    ``profile`` the live version's reference profile (no drift report without one).
    """
    monitor = service.monitor
    reports: list[Report] = []
    if monitor.drift is not None and profile is not None:
        start = now - int(monitor.drift.window)  # type: ignore[call-overload]
        window = windows.cut(predictions, start=start, end=now, version=version)
        signals = drift.compare(profile, window, drift=monitor.drift) if window.num_rows else []
        reports.append(report.build("drift", service.name, version, start, now, signals, rows=window.num_rows, minimum=monitor.drift.minimum))
    start = now - int(monitor.window)  # type: ignore[call-overload]
    joined = windows.join(windows.cut(predictions, start=start, end=now, version=version), labels)
    signals = performance.measure(joined, metrics=monitor.metrics, threshold=threshold, positive=positive) if joined.num_rows else []
    labelled = joined.num_rows - joined["label"].null_count
    reports.append(report.build("performance", service.name, version, start, now, signals, rows=joined.num_rows, labelled=labelled, minimum=minimum))
    return reports
