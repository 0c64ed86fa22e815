"""The arms that are only compared: never retrained, monthly refits, and the naive rule. They run offline, on the same
point-in-time features, and are kept under a hash of all they come from.

    python arms.py PROJECT UNTIL_US

All three fit the fast model: boosting of 120 rounds. Static and monthly refits learn from everything labelled so far. The naive rule (any
feature with Kolmogorov-Smirnov p < 0.05, yesterday against the training rows, checked daily, retrains at once) would
retrain almost daily, so each of its fits takes a sample of NAIVE_ROWS rows to keep the demo's time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

NAIVE_ROWS = 12_000
DRIFT_SAMPLE = 5_000
FAST = {"max_iter": 120, "learning_rate": 0.08}


def main(root: Path, until: int) -> None:
    from world import DAY, month_start

    from holdfast.core.identity import digest, file_sha256
    from holdfast.core.project import load
    from holdfast.stats import metrics

    raw = root.parent / "raw"
    model = load(root).models["late_arrival"]
    key = digest([file_sha256(raw / "arrivals.parquet"), model.spec(), until, file_sha256(Path(__file__))])
    kept = root.parent / f"arms-{key[:16]}.json"
    if kept.exists():
        (root / "arms.json").write_bytes(kept.read_bytes())
        return
    X, y, due, known = features(root, raw, model, until)
    start = month_start(3)
    months = [
        (m, max(month_start(m), start), min(month_start(m + 1), until)) for m in range(3, 13) if month_start(m) < until
    ]
    arms: dict[str, Any] = {}

    def fit(at: int, rows: int | None = None) -> Any:
        from sklearn.ensemble import HistGradientBoostingClassifier

        index = np.flatnonzero(known <= at)
        if rows is not None and len(index) > rows:
            index = np.sort(np.random.default_rng(at % 2**32).choice(index, rows, replace=False))
        bins = 255 if rows is None else 63  # few rows need no finer cuts, and some 300 fits are waited for
        fast = HistGradientBoostingClassifier(**FAST, max_bins=bins, min_samples_leaf=100, random_state=model.seed)
        return fast.fit(X[index], y[index]), index

    def auc(name: str, scores: np.ndarray, fits: int, seconds: float, note: str) -> None:
        by_month = {}
        for month, lo, hi in months:
            rows = np.flatnonzero((due >= lo) & (due < hi) & ~np.isnan(y))
            by_month[str(month)] = float(metrics.compute("roc_auc", y[rows], scores[rows]))
        arms[name] = {"auc": by_month, "retrainings": fits, "training_minutes": seconds / 60, "note": note}

    scores = np.full(len(y), np.nan)
    began = time.perf_counter()
    first, _ = fit(start)
    seconds = time.perf_counter() - began
    live = due >= start
    scores[live] = first.predict_proba(X[live])[:, 1]
    auc("never retrained", scores, 0, seconds, "the fast model, fitted on January and February")

    scores, seconds = np.full(len(y), np.nan), 0.0
    for _, lo, hi in months:
        began = time.perf_counter()
        fitted, _ = fit(lo)
        seconds += time.perf_counter() - began
        rows = (due >= lo) & (due < hi)
        scores[rows] = fitted.predict_proba(X[rows])[:, 1]
    auc(
        "monthly refits",
        scores,
        len(months) - 1,
        seconds,
        "the fast model, on everything labelled by the first of the month",
    )

    from holdfast.monitoring.drift import naive_ks

    names = model.features.columns()
    scores, seconds, fits = np.full(len(y), np.nan), 0.0, 0
    fitted, index = fit(start, NAIVE_ROWS)
    for day in range(start, until, DAY):
        rows = np.flatnonzero((due >= day) & (due < day + DAY))
        if not len(rows):
            continue
        scores[rows] = fitted.predict_proba(X[rows])[:, 1]
        reference = index[:: max(len(index) // DRIFT_SAMPLE, 1)]
        p = naive_ks({n: X[reference, i] for i, n in enumerate(names)}, {n: X[rows, i] for i, n in enumerate(names)})
        if any(value < 0.05 for value in p.values()):
            began = time.perf_counter()
            fitted, index = fit(day + DAY, NAIVE_ROWS)
            seconds += time.perf_counter() - began
            fits += 1
    auc(
        "naive rule",
        scores,
        fits,
        seconds,
        f"KS p < 0.05 on any feature, daily; each fit the fast model on {NAIVE_ROWS:,} rows",
    )
    data = json.dumps(arms, indent=1).encode()
    kept.write_bytes(data)
    (root / "arms.json").write_bytes(data)


def features(root: Path, raw: Path, model: Any, until: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(X, label, due, label known at) of the whole year, as known at each flight's scheduled departure."""
    import duckdb
    import pyarrow as pa

    from holdfast.backends.engine_duckdb import DuckdbEngine
    from holdfast.features import point_in_time
    from holdfast.training import trainingset

    spine = duckdb.sql(
        f"SELECT f.* EXCLUDE scheduled_local, epoch_us(f.scheduled_local) AS scheduled_local, a.late::DOUBLE AS late, epoch_us(a.known_at) AS label_known "
        f"FROM '{raw / 'flights.parquet'}' f LEFT JOIN '{raw / 'arrivals.parquet'}' a USING (flight_id) "
        f"WHERE epoch_us(f.scheduled_departure) < {until} ORDER BY f.scheduled_departure, f.flight_id"
    ).to_arrow_table()
    engine = DuckdbEngine(spill=root / ".holdfast" / "spill-arms")
    table = point_in_time.historical(
        engine, model.features, spine.drop_columns(["late", "label_known"]), timestamp="scheduled_departure",
        sources={name: [raw / f"{name}.parquet"] for name in ("arrivals", "weather", "planes")},
    )  # fmt: skip
    y = spine["late"].to_numpy(zero_copy_only=False)
    known = spine["label_known"].fill_null(2**62).to_numpy(zero_copy_only=False)
    due = trainingset.times_us(pa.chunked_array(spine["scheduled_departure"].chunks))
    return trainingset.matrix(table, model.features.columns()), y, due, known


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main(Path(sys.argv[1]), int(sys.argv[2]))
