"""One look at a service: what its monitor declares, measured over the windows that end now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.definitions import Service
from holdfast.core.identity import duration_us
from holdfast.core.records import Json, Report, Signal
from holdfast.monitoring import drift, estimate, outliers, performance, report, windows
from holdfast.stats import metrics

LEAST_LABELLED = 100
CALIBRATED = 2


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
    threshold = 0.5 if threshold is None else threshold
    reports: list[Report] = []
    if monitor.drift is not None and profile is not None:
        start = now - duration_us(monitor.drift.window)
        window = windows.cut(predictions, start=start, end=now, version=version)
        rows = window.num_rows
        moved = drift.compare(profile, window, drift=monitor.drift) if rows else []
        details = _outliers(profile, window) if rows else {}
        reports.append(
            report.build(
                "drift",
                service.name,
                version,
                start,
                now,
                moved,
                rows=rows,
                minimum=monitor.drift.minimum,
                details=details,
            )
        )
    start = now - duration_us(monitor.window)
    joined = windows.join(windows.cut(predictions, start=start, end=now, version=version), labels)
    rows, labelled = joined.num_rows, joined.num_rows - joined["label"].null_count
    signals: list[Signal] = []
    if rows:
        signals = performance.measure(
            joined, metrics=monitor.metrics, threshold=threshold, positive=positive, classes=classes,
            floors=floors(service, own or {}),
        )  # fmt: skip
        before = windows.cut(predictions, start=start - CALIBRATED * (now - start), end=start, version=version)
        calibrated = _calibration(windows.join(before, labels), positive) if service.model.task == "binary" else None
        if calibrated is not None:
            expected = estimate.estimate(calibrated, _scores(joined), metrics=monitor.metrics, threshold=threshold)
            signals += estimate.beside(signals, expected)
    reports.append(
        report.build(
            "performance", service.name, version, start, now, signals, rows=rows, labelled=labelled, minimum=minimum
        )
    )
    return reports


def _outliers(profile: bytes, window: pa.Table) -> Json:
    found = outliers.find(profile, window)
    share = found.count / window.num_rows
    return {
        "outliers": {
            "rows": found.count,
            "share": share,
            "columns": found.columns,
            "combinations": found.joint,
            "examples": found.examples[:5],
        }
    }


def _calibration(joined: pa.Table, positive: Any) -> estimate.Calibration | None:
    """Scores against truth from the windows before, where there is enough of both; None for what is not a binary
    score."""
    if not pa.types.is_floating(joined["score"].type) or not pa.types.is_floating(joined["label"].type):
        return None
    known = joined.filter(pc.and_(pc.is_valid(joined["label"]), pc.is_valid(joined["score"])))
    truth = np.asarray(known["label"].to_numpy()) == float(positive)
    score = np.asarray(known["score"].to_numpy())
    if len(truth) < estimate.LEAST_ROWS or truth.all() or not truth.any() or score.min() < 0 or score.max() > 1:
        return None
    return estimate.calibrate(score, truth.astype(float))


def _scores(joined: pa.Table) -> Any:
    return np.asarray(joined["score"].cast(pa.float64()).to_numpy(), np.float64)


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
