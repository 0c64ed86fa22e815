"""Gate: 1,000,000 rows, 20 slices, every metric with intervals, against the time the predictions themselves take.

Promise: at most twice the predictions plus ten seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from holdfast import formats
from holdfast.core.definitions import (
    at_least,
    better_than,
    calibrated,
    equalised_odds,
    fairness,
    four_fifths,
    no_leakage,
    not_worse_than_champion,
    slices,
)
from holdfast.core.identity import file_sha256
from holdfast.core.records import FieldSpec, FileRef, Package
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context, always, measure
from holdfast.validation.gate import decide


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks gate", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--parts", action="store_true", help="also print the seconds of each rule")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(0)
    columns = [f"x{i}" for i in range(20)]
    x = rng.normal(size=(args.rows, 20))
    y = (x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=args.rows) > 0.5).astype(int)
    groups = np.array([f"s{i:02d}" for i in range(20)])[rng.integers(0, 20, args.rows)]
    forest = RandomForestClassifier(100, max_depth=10, n_jobs=-1, random_state=0).fit(x[:20_000], y[:20_000])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saved = formats.save(forest, folder, sample=x[:2000], task="binary", columns=columns)
        files = {f: FileRef(sha256=file_sha256(folder / f), size=(folder / f).stat().st_size) for f in saved.files}
        package = Package(
            name="bench", format=saved.format, task="binary", model_file=saved.model_file, files=files, classes=[0, 1],
            inputs=[FieldSpec(name=c, dtype="float64") for c in columns], request=[], outputs=[], threshold=0.5,
        )  # fmt: skip
        predictor = formats.load(folder, package)
    rules = [at_least(m, 0.5) for m in ("accuracy", "precision", "recall", "f1", "roc_auc", "average_precision")]
    rules += [fairness("slice", metric=m) for m in ("accuracy", "recall", "selection_rate", "roc_auc")]
    rules += [not_worse_than_champion("roc_auc", margin=0.01), better_than("linear", "roc_auc"), no_leakage()]
    rules += [slices("accuracy"), slices("roc_auc"), calibrated(), four_fifths("slice"), equalised_odds("slice")]
    champion = np.clip(predictor.scores(x) + 0.01 * rng.normal(size=args.rows), 0, 1)
    context = Context(
        predictor, package, x, y, groups={"slice": groups}, champion_scores=champion, X_train=x, y_train=y
    )
    start = time.perf_counter()
    scores = context.scores
    predictions = time.perf_counter() - start
    start = time.perf_counter()
    evidence = [*measure(context, rules), *always(context, rules)]
    verdict = decide(evidence, rules, model="bench", version=1, content="", at=0)
    gate = time.perf_counter() - start
    allowed = 2 * predictions + 10
    if args.parts:
        for rule in rules:
            begun = time.process_time()
            measure(context, [rule])
            print(f"{time.process_time() - begun:8.2f} s CPU  {naming.key(rule)}", file=sys.stderr)
        begun = time.process_time()
        always(context, rules)
        print(f"{time.process_time() - begun:8.2f} s CPU  always", file=sys.stderr)
    result = {
        "rows": len(scores), "slices": 20, "rules": len(rules), "evidence": len(evidence), "verdict": verdict.outcome,
        "predictions_s": round(predictions, 2), "gate_s": round(gate, 2), "allowed_s": round(allowed, 2), "kept": gate <= allowed,
    }  # fmt: skip
    print(json.dumps(result) if args.json else "\n".join(f"{k:>14}  {v}" for k, v in result.items()))
    return 0 if result["kept"] else 1
