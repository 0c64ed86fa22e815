from __future__ import annotations

import pytest

import holdfast as hf
from holdfast.core.errors import BadDefinition


@pytest.mark.parametrize(
    ("task", "chosen"), [("binary", "roc_auc"), ("multiclass", "accuracy"), ("regression", "rmse")]
)
def test_a_candidate_is_chosen_as_the_task_asks(task: str, chosen: str) -> None:
    assert hf.model("m", task=task)(lambda data, params: None).select == chosen
    assert hf.model("m", task=task, select="log_loss" if task != "regression" else "r2")(lambda d, p: None).select


@pytest.mark.parametrize(
    "wrong", [{"task": "regression", "select": "roc_auc"}, {"task": "ranking"}, {"select": "acuracy"}]
)
def test_what_cannot_be_measured_is_said_at_once(wrong: dict[str, str]) -> None:
    with pytest.raises(BadDefinition) as caught:
        hf.model("m", **wrong)(lambda data, params: None)
    assert "use one of: " in (caught.value.hint or "")


def test_a_service_is_watched_as_its_task_asks() -> None:
    monitor = hf.Monitor(every="2h")
    for task, metric in (("binary", "roc_auc"), ("multiclass", "accuracy"), ("regression", "rmse")):
        service = hf.Service("s", model=hf.model("m", task=task)(lambda data, params: None), monitor=monitor)
        assert tuple(service.monitor.metrics) == (metric,) and service.monitor.every == monitor.every
    assert not monitor.metrics
