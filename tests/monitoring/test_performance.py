"""Realised performance: right figures, honest intervals, clear refusals."""

import numpy as np
import pyarrow as pa
import pytest

from holdfast.core.errors import BadInput, NotFound
from holdfast.monitoring import performance, report

sk = pytest.importorskip("sklearn.metrics")


def joined(n: int = 4000, seed: int = 3, known: float = 0.8) -> tuple[pa.Table, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = rng.random(n)
    y = (rng.random(n) < score).astype(float)
    have = rng.random(n) < known
    return pa.table({"score": score, "label": pa.array(y, mask=~have)}), y[have], score[have], have


def test_figures_and_coverage() -> None:
    table, y, score, have = joined()
    found = {
        s.name: s
        for s in performance.measure(table, metrics=["roc_auc", "precision", "recall", "accuracy"], threshold=0.4)
    }
    assert found["roc_auc"].value == pytest.approx(sk.roc_auc_score(y, score))
    assert found["precision"].value == pytest.approx(sk.precision_score(y, score >= 0.4))
    assert found["recall"].value == pytest.approx(sk.recall_score(y, score >= 0.4))
    assert found["precision"].n == int((score >= 0.4).sum())
    for s in found.values():
        assert s.low is not None
        assert s.high is not None
        assert s.value is not None
        assert s.low < s.value < s.high
        assert not s.alarm
    assert found["coverage"].value == pytest.approx(have.mean())
    assert found["coverage"].n == 4000


def test_a_whole_interval_below_its_floor_alarms_and_a_touching_one_does_not() -> None:
    table, *_ = joined()
    [auc, _] = performance.measure(table, metrics=["roc_auc"])
    assert auc.high is not None
    assert auc.low is not None
    [above, _] = performance.measure(table, metrics=["roc_auc"], floors={"roc_auc": auc.high + 1e-9})
    [inside, _] = performance.measure(table, metrics=["roc_auc"], floors={"roc_auc": auc.high - 1e-9})
    assert above.alarm
    assert above.message
    assert not inside.alarm
    [loss, _] = performance.measure(table, metrics=["log_loss"])
    assert loss.low is not None
    [worse, _] = performance.measure(table, metrics=["log_loss"], floors={"log_loss": loss.low - 1e-9})
    assert worse.alarm


def test_nothing_known_is_not_a_figure() -> None:
    table, *_ = joined(known=0.0)
    [auc, coverage] = performance.measure(table, metrics=["roc_auc"])
    assert auc.value is None
    assert coverage.value == 0.0
    one_class = pa.table({"score": [0.1, 0.2], "label": [1.0, 1.0]})
    assert performance.measure(one_class, metrics=["roc_auc"])[0].value is None
    empty = pa.table({"score": pa.array([], pa.float64()), "label": pa.array([], pa.float64())})
    assert [s.value for s in performance.measure(empty, metrics=["roc_auc"])] == [None, None]
    built = report.build(
        "performance", "s", 1, 0, 1, performance.measure(table, metrics=["roc_auc"]), rows=4000, labelled=0
    )
    assert built.outcome == "not enough evidence"


def test_scores_that_are_missing_are_left_out_and_told() -> None:
    table = pa.table({"score": [0.9, None, 0.1], "label": [1.0, 1.0, 0.0]})
    [accuracy, coverage] = performance.measure(table, metrics=["accuracy"])
    assert accuracy.n == 2
    assert accuracy.value == 1.0
    assert "1 labelled" in coverage.message


def test_text_labels_multiclass_and_regression() -> None:
    table = pa.table({"score": [0.9, 0.2, 0.8], "label": ["late", "fine", "fine"]})
    assert performance.measure(table, metrics=["precision"], positive="late")[0].value == pytest.approx(0.5)
    many = pa.table({"score": [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.4, 0.3]], "label": ["a", "b", "c"]})
    assert performance.measure(many, metrics=["accuracy"], classes=["a", "b", "c"])[0].value == pytest.approx(2 / 3)
    values = pa.table({"score": [1.0, 2.0], "label": [1.5, 2.5]})
    assert performance.measure(values, metrics=["mae"])[0].value == pytest.approx(0.5)


def test_what_does_not_fit_says_so() -> None:
    table, *_ = joined(50)
    with pytest.raises(NotFound, match="roc_acu"):
        performance.measure(table, metrics=["roc_acu"])
    many = pa.table({"score": [[0.8, 0.2, 0.0]], "label": ["a"]})
    with pytest.raises(BadInput, match="score per class"):
        performance.measure(many, metrics=["roc_auc"], classes=["a", "b", "c"])
    with pytest.raises(BadInput):
        performance.measure(table, metrics=["precision"], positive="late")
    with pytest.raises(BadInput):
        performance.measure(pa.table({"score": [[0.1, 0.9]], "label": [1.0]}), metrics=["accuracy"])
    with pytest.raises(BadInput):
        performance.measure(pa.table({"score": [0.1], "label": ["x"]}), metrics=["mae"])


def test_the_interval_covers() -> None:
    """Of 300 windows of 300 rows, about 95 in 100 intervals hold the true accuracy; 89 is five sigma off."""
    hits = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        y = rng.random(300) < 0.3
        right = rng.random(300) < 0.85
        table = pa.table({"score": np.where(right == y, 0.9, 0.1), "label": y.astype(float)})
        [accuracy, _] = performance.measure(table, metrics=["accuracy"])
        assert accuracy.low is not None
        assert accuracy.high is not None
        hits += accuracy.low <= 0.85 <= accuracy.high
    assert hits / 300 > 0.89
