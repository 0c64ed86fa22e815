"""Live evidence: two arms with different keys, judged by the same gate; no data holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from holdfast.core.definitions import Rollout
from holdfast.core.records import Verdict
from holdfast.validation import live
from holdfast.validation.gate import decide

ROLLOUT = Rollout(max_disagreement=0.2)


def arm(n: int, seed: int, *, errors: float = 0.0, slow: float = 1.0, skill: float = 1.0, shift: float = 0.0) -> Any:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(int)
    score = 1 / (1 + np.exp(-(skill * 2 * (y - 0.5) + rng.normal(size=n) + shift)))
    failed = rng.random(n) < errors
    ids = [f"{seed}-{i}" for i in range(n)]
    table = pa.table({
        "id": ids, "score": [None if f else float(s) for f, s in zip(failed, score, strict=True)],
        "output": [None if f else int(s > 0.5) for f, s in zip(failed, score, strict=True)],
        "latency_us": (rng.lognormal(8, 0.3, n) * slow).astype(int),
    })  # fmt: skip
    return table, pa.table({"prediction_id": ids, "value": y})


def judge(champion: pa.Table, challenger: pa.Table, labels: Any, **more: Any) -> Verdict:
    found = live.evidence(champion, challenger, labels, rollout=ROLLOUT, **more)
    return decide(found, live.rules(ROLLOUT), model="m", version=1, content="c", at=0)


def both(challenger: dict[str, Any], n: int = 3000) -> tuple[pa.Table, pa.Table, pa.Table]:
    (a, la), (b, lb) = arm(n, 1), arm(n, 2, **challenger)
    return a, b, pa.concat_tables([la, lb])


def failed(verdict: Verdict) -> set[str]:
    return {r.check for r in verdict.results if r.outcome == "fail"}


def test_no_data_is_not_enough_evidence() -> None:
    a, _ = arm(0, 1)
    for labels in (None, pa.table({"prediction_id": pa.array([], pa.string()), "value": pa.array([], pa.int64())})):
        verdict = judge(a, a, labels)
        assert verdict.outcome == "not enough evidence"
        assert {r.outcome for r in verdict.results} == {"not enough evidence"}


def test_equal_arms_pass_once_there_is_enough() -> None:
    a, b, labels = both({})
    verdict = judge(a, b, labels, pairs=a)
    assert verdict.outcome == "pass", verdict.results
    few = judge(a.slice(0, 60), b.slice(0, 60), labels, pairs=a)
    assert few.outcome == "not enough evidence"


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        ({"errors": 0.05}, "live(error_rate)"),
        ({"slow": 4.0}, "live(latency_ratio)"),
        ({"shift": 5.0}, "live(score_shift)"),
        ({"skill": 0.3}, "live(roc_auc_drop)"),
    ],
)
def test_each_breach_is_named(broken: dict[str, Any], check: str) -> None:
    a, b, labels = both(broken)
    assert check in failed(judge(a, b, labels, pairs=a))


def test_below_a_millisecond_nobody_is_slow() -> None:
    a, b, labels = both({"slow": 5.0})
    quick = [t.set_column(3, "latency_us", pc.cast(pc.divide(t["latency_us"], 40), pa.int64())) for t in (a, b)]
    assert "live(latency_ratio)" not in failed(judge(*quick, labels))


def test_disagreement_needs_the_same_requests() -> None:
    a, b, labels = both({})
    assert any(
        r.check == "live(disagreement)" and r.outcome == "not enough evidence" for r in judge(a, b, labels).results
    )
    flipped = a.set_column(a.column_names.index("output"), "output", pa.array([1 - o for o in a["output"].to_pylist()]))
    assert failed(judge(a, b, labels, pairs=flipped)) == {"live(disagreement)"}


def test_late_labels_may_be_left_to_monitoring() -> None:
    a, b, _ = both({})
    rollout = Rollout()
    found = live.evidence(a, b, None, rollout=rollout)
    rules = live.rules(rollout, labels=False)
    assert decide(found, rules, model="m", version=1, content="c", at=0).outcome == "pass"


def test_equal_arms_seldom_fail() -> None:
    alarms = 0
    for seed in range(60):
        (a, la), (b, lb) = arm(300, 1000 + seed), arm(300, 5000 + seed)
        found = live.evidence(a, b, pa.concat_tables([la, lb]), rollout=Rollout(max_metric_drop=0.0))
        verdict = decide(found, live.rules(Rollout(max_metric_drop=0.0)), model="m", version=1, content="c", at=0)
        alarms += verdict.outcome == "fail"
    assert alarms <= 3


def classes_arm(n: int, seed: int, *, constant: bool = False, skill: float = 3.0) -> Any:
    """Predictions of three classes, scored one by one."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    odds = rng.normal(size=(n, 3))
    odds[np.arange(n), y] += skill
    score = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    if constant:
        score[:] = (0.8, 0.1, 0.1)
    ids = [f"{seed}-{i}" for i in range(n)]
    names = np.array(["ant", "bee", "cat"])
    table = pa.table({
        "id": ids, "score": pa.array(score.tolist(), pa.list_(pa.float64())), "output": names[score.argmax(axis=1)],
        "latency_us": rng.lognormal(8, 0.3, n).astype(int),
    })  # fmt: skip
    return table, pa.table({"prediction_id": ids, "value": names[y]})


@pytest.mark.parametrize(
    ("broken", "checks"),
    [({}, set()), ({"constant": True}, {"live(score_shift)", "live(accuracy_drop)"}), ({"skill": 0.8}, {"live(accuracy_drop)"})],
)  # fmt: skip
def test_many_classes_are_judged_by_each_score_and_by_accuracy(broken: dict[str, Any], checks: set[str]) -> None:
    (a, la), (b, lb) = classes_arm(2000, 1), classes_arm(2000, 2, **broken)
    rollout, metric = Rollout(), live.METRICS["multiclass"]
    labels = pa.concat_tables([la, lb])
    found = live.evidence(a, b, labels, rollout=rollout, metric=metric, classes=["ant", "bee", "cat"])
    verdict = decide(found, live.rules(rollout, metric=metric), model="m", version=1, content="c", at=0)
    assert failed(verdict) == checks
    assert verdict.outcome == ("fail" if checks else "pass"), verdict.results


def test_arms_that_know_different_classes_hold() -> None:
    (a, _), (b, _) = classes_arm(500, 1), classes_arm(500, 2)
    found = live.evidence(
        a, b, None, rollout=Rollout(), classes=["ant", "bee", "cat"], champion_classes=["bee", "ant", "cat"]
    )
    verdict = decide(found, live.rules(Rollout(), labels=False), model="m", version=1, content="c", at=0)
    assert verdict.outcome == "not enough evidence" and not failed(verdict)


@pytest.mark.parametrize(("noise", "checks"), [(1.0, set()), (3.0, {"live(r2_drop)"})])
def test_a_regression_is_judged_by_the_share_of_variance_it_explains(noise: float, checks: set[str]) -> None:
    def side(seed: int, noise: float) -> Any:
        rng = np.random.default_rng(seed)
        truth = rng.normal(100, 5, 2000)
        ids = [f"{seed}-{i}" for i in range(2000)]
        said = truth + rng.normal(0, noise, 2000)
        table = pa.table(
            {"id": ids, "score": said, "output": said, "latency_us": rng.lognormal(8, 0.3, 2000).astype(int)}
        )
        return table, pa.table({"prediction_id": ids, "value": truth})

    (a, la), (b, lb) = side(1, 1.0), side(2, noise)
    metric, rollout = live.METRICS["regression"], Rollout()
    found = live.evidence(a, b, pa.concat_tables([la, lb]), rollout=rollout, metric=metric)
    verdict = decide(found, live.rules(rollout, metric=metric), model="m", version=1, content="c", at=0)
    assert failed(verdict) == checks and verdict.outcome == ("fail" if checks else "pass"), verdict.results


def test_classes_that_are_words_count_as_truth() -> None:
    a, b, labels = both({"skill": 0.3})
    words = labels.set_column(1, "value", pa.array(["yes" if v else "no" for v in labels["value"].to_pylist()]))
    assert "live(roc_auc_drop)" in failed(judge(a, b, words, pairs=a, classes=["no", "yes"]))
