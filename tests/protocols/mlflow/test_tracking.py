"""Experiments, runs, metrics, params, tags, inputs, logged models: over both engines."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.protocols.mlflow.client import Api


def data(api: Api, run_id: str) -> dict[str, Any]:
    run = api.get("runs/get", run_id=run_id)["run"]
    return {
        "metrics": {m["key"]: m["value"] for m in run["data"].get("metrics", [])},
        "params": {p["key"]: p["value"] for p in run["data"].get("params", [])},
        "tags": {t["key"]: t["value"] for t in run["data"].get("tags", [])},
        "info": run["info"],
        "run": run,
    }


def test_an_experiment_lives_dies_and_returns(api: Api) -> None:
    made = api.experiment("first", tags=[{"key": "a", "value": "1"}])
    found = api.get("experiments/get-by-name", experiment_name="first")["experiment"]
    assert found["experiment_id"] == made and found["tags"] == [{"key": "a", "value": "1"}]
    assert found["artifact_location"] == f"mlflow-artifacts:/{made}"
    error = api.post("experiments/create", 400, name="first")
    assert error["error_code"] == "RESOURCE_ALREADY_EXISTS"
    before = api.run(made)
    gone = api.run(made)
    api.post("runs/delete", run_id=gone)
    api.post("experiments/delete", experiment_id=made)
    assert api.get("runs/get", run_id=before)["run"]["info"]["lifecycle_stage"] == "deleted"
    api.post("runs/create", 400, experiment_id=made)
    api.post("experiments/delete", 404, experiment_id=made)
    api.post("experiments/restore", experiment_id=made)
    stages = [api.get("runs/get", run_id=r)["run"]["info"]["lifecycle_stage"] for r in (before, gone)]
    assert stages == ["active", "deleted"]
    api.post("experiments/update", experiment_id=made, new_name="second")
    assert api.get("experiments/get", experiment_id=made)["experiment"]["name"] == "second"
    api.post("experiments/set-experiment-tag", experiment_id=made, key="b", value="2")
    api.post("experiments/delete-experiment-tag", experiment_id=made, key="a")
    assert api.get("experiments/get", experiment_id=made)["experiment"]["tags"] == [{"key": "b", "value": "2"}]


def test_a_run_keeps_what_is_logged(api: Api) -> None:
    run_id = api.run(run_name="n", start_time=456, user_id="ann", tags=[{"key": "t", "value": "x"}])
    for step, value in enumerate([1.5, "NaN", "Infinity", "-Infinity", 2.5]):
        api.post("runs/log-metric", run_id=run_id, key="m", value=value, timestamp=10 + step, step=step)
    api.post("runs/log-metric", run_id=run_id, key="nan", value="NaN", timestamp=1)
    api.post("runs/log-parameter", run_uuid=run_id, key="p", value="")
    api.post("runs/set-tag", run_id=run_id, key="mlflow.runName", value="renamed")
    api.post("runs/update", run_id=run_id, status="FINISHED", end_time=999)
    found = data(api, run_id)
    assert found["metrics"] == {"m": 2.5, "nan": "NaN"} and found["params"] == {"p": ""}
    assert found["tags"] == {"t": "x", "mlflow.runName": "renamed"}
    info = found["info"]
    assert (info["run_name"], info["status"], info["start_time"], info["end_time"]) == ("renamed", "FINISHED", 456, 999)
    history = api.get("metrics/get-history", run_id=run_id, metric_key="m")["metrics"]
    assert [h["value"] for h in history] == [1.5, "NaN", "Infinity", "-Infinity", 2.5]
    assert [h["timestamp"] for h in history] == [10, 11, 12, 13, 14]


def test_the_newest_metric_is_the_one_of_the_highest_step(api: Api) -> None:
    run_id = api.run()
    points = [(3, 1, 30.0), (5, 0, 50.0), (5, 2, 52.0), (5, 2, 51.0), (4, 9, 40.0)]
    for step, at, value in points:
        api.post("runs/log-metric", run_id=run_id, key="m", value=value, timestamp=at, step=step)
    assert data(api, run_id)["metrics"] == {"m": 52.0}
    batch = [{"key": "m", "value": v, "timestamp": t, "step": s} for s, t, v in points]
    api.post("runs/log-batch", run_id=run_id, metrics=batch)
    assert len(api.get("metrics/get-history", run_id=run_id, metric_key="m")["metrics"]) == 5


def test_a_param_does_not_change(api: Api) -> None:
    run_id = api.run()
    for _ in range(2):
        api.post("runs/log-parameter", run_id=run_id, key="p", value="1")
    error = api.post("runs/log-parameter", 400, run_id=run_id, key="p", value="2")
    assert "Changing param values is not allowed" in error["message"]
    both = [{"key": "q", "value": "1"}, {"key": "p", "value": "3"}]
    api.post("runs/log-batch", 400, run_id=run_id, params=both, metrics=[{"key": "m", "value": 1.0, "timestamp": 1}])
    assert data(api, run_id)["params"] == {"p": "1"} and data(api, run_id)["metrics"] == {}


def test_a_deleted_run_takes_nothing(api: Api) -> None:
    run_id = api.run()
    api.post("runs/delete", run_id=run_id)
    error = api.post("runs/log-parameter", 400, run_id=run_id, key="p", value="1")
    assert f"The run {run_id} must be in the 'active' state" in error["message"]
    api.post("runs/restore", run_id=run_id)
    api.post("runs/log-parameter", run_id=run_id, key="p", value="1")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"run_id": 31, "key": "m", "value": 41, "timestamp": 59}, "Invalid value 31 for parameter 'run_id' supplied"),
        ({"key": "m", "value": 1, "timestamp": 2}, "Missing value for required parameter 'run_id'"),
        ({"run_id": "r", "value": 1, "timestamp": 2}, "Missing value for required parameter 'key'"),
        ({"run_id": "r", "key": "m", "timestamp": 2}, "Missing value for required parameter 'value'"),
        (
            {"run_id": "r", "key": "m", "value": 1, "timestamp": "foo"},
            "Invalid value \"foo\" for parameter 'timestamp'",
        ),
        ({"run_id": "r", "key": "m", "value": 1, "timestamp": 2, "step": "x"}, "for parameter 'step' supplied"),
        ({"run_id": "r", "key": "../m", "value": 1, "timestamp": 2}, "This name would resolve to"),
        ({"run_id": "r", "key": "m" * 251, "value": 1, "timestamp": 2}, "exceeds the maximum length of 250"),
        ({"run_id": "r", "key": "m", "value": "one", "timestamp": 2}, "for parameter 'value' supplied"),
        ({"run_id": "r", "key": "m", "value": 1, "timestamp": 2**62}, "64 bits"),
        ({"run_id": "r", "key": "m\0", "value": 1, "timestamp": 2}, "NUL"),
    ],
)
def test_a_bad_metric_is_named(local: Api, body: dict[str, Any], text: str) -> None:
    error = local.post("runs/log-metric", 400, **body)
    assert error["error_code"] == "INVALID_PARAMETER_VALUE" and text in error["message"]


def test_batches_have_limits(local: Api) -> None:
    run_id = local.run()
    many = [{"key": f"k{i}", "value": "1"} for i in range(101)]
    assert "at most 100 params" in local.post("runs/log-batch", 400, run_id=run_id, params=many)["message"]
    points = [{"key": "m", "value": 1.0, "timestamp": i} for i in range(1001)]
    assert "at most 1000 metrics" in local.post("runs/log-batch", 400, run_id=run_id, metrics=points)["message"]
    twice = [{"key": "k", "value": "1"}, {"key": "k", "value": "1"}]
    assert "Duplicate parameter keys" in local.post("runs/log-batch", 400, run_id=run_id, params=twice)["message"]
    error = local.post("runs/log-batch", 400, run_id=run_id, metrics=[{"key": "mae", "value": 2.5}])
    assert "metrics[0].timestamp" in error["message"]


def test_inputs_and_outputs(api: Api) -> None:
    experiment = api.experiment()
    run_id = api.run(experiment)
    dataset = {"name": "d", "digest": "abc", "source_type": "local", "source": "{}", "schema": "s"}
    given = {"dataset": dataset, "tags": [{"key": "mlflow.data.context", "value": "train"}]}
    for _ in range(2):
        api.post("runs/log-inputs", run_id=run_id, datasets=[given])
    assert data(api, run_id)["run"]["inputs"]["dataset_inputs"] == [given]
    model = api.post("logged-models", experiment_id=experiment, name="m", source_run_id=run_id)["model"]["info"]
    api.post("runs/outputs", run_id=run_id, models=[{"model_id": model["model_id"], "step": 3}])
    outputs = data(api, run_id)["run"]["outputs"]
    assert outputs == {"model_outputs": [{"model_id": model["model_id"], "step": 3}]}
    found = api.post("runs/search", experiment_ids=[experiment], filter="dataset.context = 'train'")
    assert len(found["runs"]) == 1
    assert api.post("runs/search", experiment_ids=[experiment], filter="dataset.name = 'other'") == {}


def test_logged_models(api: Api) -> None:
    experiment = api.experiment()
    run_id = api.run(experiment)
    made = [
        api.post("logged-models", experiment_id=experiment, name=f"m{i}", params=[{"key": "p", "value": str(i)}])
        for i in range(3)
    ]
    ids = [m["model"]["info"]["model_id"] for m in made]
    for i, model_id in enumerate(ids):
        api.post("runs/log-metric", run_id=run_id, key="f1", value=i / 10, timestamp=1, model_id=model_id)
    response = api.http.patch(f"/api/2.0/mlflow/logged-models/{ids[0]}", json={"status": "LOGGED_MODEL_READY"})
    assert response.json()["model"]["info"]["status"] == "LOGGED_MODEL_READY"
    found = api.post(
        "logged-models/search",
        experiment_ids=[experiment],
        filter="metrics.f1 > 0",
        order_by=[{"field_name": "metrics.f1", "ascending": False}],
    )["models"]
    assert [m["info"]["name"] for m in found] == ["m2", "m1"]
    api.http.patch(f"/api/2.0/mlflow/logged-models/{ids[1]}/tags", json={"tags": [{"key": "t", "value": "v"}]})
    assert api.get(f"logged-models/{ids[1]}")["model"]["info"]["tags"] == [{"key": "t", "value": "v"}]
    assert api.http.delete(f"/api/2.0/mlflow/logged-models/{ids[1]}/tags/t").status_code == 200
    assert api.http.delete(f"/api/2.0/mlflow/logged-models/{ids[1]}/tags/t").status_code == 404
    assert api.http.delete(f"/api/2.0/mlflow/logged-models/{ids[2]}").status_code == 200
    assert "not found" in api.get(f"logged-models/{ids[2]}", 404)["message"]
    first = api.post("logged-models/search", experiment_ids=[experiment], max_results=1)
    second = api.post("logged-models/search", experiment_ids=[experiment], page_token=first["next_page_token"])
    assert {m["info"]["name"] for m in first["models"] + second["models"]} == {"m0", "m1"}


def test_history_pages_and_bulk(api: Api) -> None:
    run_id = api.run()
    for start in range(0, 2500, 500):
        points = [{"key": "m", "value": float(i), "timestamp": i, "step": i} for i in range(start, start + 500)]
        api.post("runs/log-batch", run_id=run_id, metrics=points)
    seen: list[float] = []
    token: str | None = None
    while True:
        more = {"page_token": token} if token else {}
        page = api.get("metrics/get-history", run_id=run_id, metric_key="m", max_results=700, **more)
        seen += [p["value"] for p in page["metrics"]]
        token = page.get("next_page_token")
        if token is None:
            break
    assert seen == [float(i) for i in range(2500)]
    assert len(api.get("metrics/get-history", run_id=run_id, metric_key="m")["metrics"]) == 2500
    bulk = api.get("metrics/get-history-bulk-interval", run_ids=[run_id], metric_key="m", max_results=10)["metrics"]
    assert 10 <= len(bulk) <= 11 and bulk[-1]["value"] == 2499.0
    api.get("metrics/get-history", 404, run_id="nobody", metric_key="m")
    api.get("metrics/get-history", 400, run_id=run_id, metric_key="m", max_results=0)


def test_a_repeated_request_has_its_effect_once(api: Api) -> None:
    headers = {"X-Holdfast-Request-Id": "spool-1"}
    body = {"experiment_id": "0", "run_name": "once"}
    first = api.post("runs/create", headers=headers, **body)
    assert api.post("runs/create", headers=headers, **body) == first
    assert len(api.post("runs/search", experiment_ids=["0"])["runs"]) == 1
    api.post("registered-models/create", name="fraud")
    again = [
        api.post("model-versions/create", headers=headers, name="fraud", source="s3://b/m")["model_version"]["version"]
        for _ in range(3)
    ]
    assert again == ["1", "1", "1"]
    assert api.post("model-versions/create", name="fraud", source="s3://b/m")["model_version"]["version"] == "2"
    # A refused write leaves no trace: the same id may succeed later.
    other = {"X-Holdfast-Request-Id": "spool-2"}
    api.post("runs/log-parameter", 404, headers=other, run_id="nobody", key="p", value="1")
    run_id = first["run"]["info"]["run_id"]
    api.post("runs/log-parameter", headers=other, run_id=run_id, key="p", value="1")


def test_the_same_request_twice_at_once(api: Api) -> None:
    api.post("registered-models/create", name="fraud")

    def make(number: int) -> tuple[str, str]:
        headers = {"X-Holdfast-Request-Id": f"r{number % 4}"}
        run = api.post("runs/create", headers=headers, experiment_id="0")["run"]["info"]["run_id"]
        version = api.post("model-versions/create", headers=headers, name="fraud", source="s3://b/m")["model_version"][
            "version"
        ]
        return run, version

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(24)))
    assert len({run for run, _ in made}) == 4 and sorted({v for _, v in made}) == ["1", "2", "3", "4"]
    assert len(api.post("runs/search", experiment_ids=["0"])["runs"]) == 4


def test_hard_deletion_removes_what_was_logged(api: Api) -> None:
    kept, gone = api.run(), api.run()
    for run_id in (kept, gone):
        api.post("runs/log-metric", run_id=run_id, key="m", value=1.0, timestamp=1)
        api.upload(f"0/{run_id}/artifacts/shared.txt", b"shared")
    api.upload(f"0/{gone}/artifacts/own.txt", b"own")
    api.post("runs/delete", run_id=gone)
    store = api.workspace.runs
    assert store.purge(before=0) == []
    loose = store.purge(before=api.workspace.clock.now() + 1)
    assert [api.workspace.objects.get(sha) for sha in loose] == [b"own"]
    api.get("runs/get", 404, run_id=gone)
    assert math.isclose(float(data(api, kept)["metrics"]["m"]), 1.0)


def test_what_browsers_ask_for_charts(api: Api) -> None:
    runs = []
    for steps in (10, 20):
        run_id = api.run()
        runs.append(run_id)
        points = [{"key": "m", "value": 10.0, "timestamp": 1, "step": i} for i in range(steps)]
        api.post("runs/log-batch", run_id=run_id, metrics=points)

    def sampled(**query: Any) -> list[tuple[str, int]]:
        found = api.get("/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval", metric_key="m", **query)
        return [(p["run_id"], p["step"]) for p in found["metrics"]]

    first, second = runs
    assert sampled(run_ids=[first], max_results=5) == [(first, s) for s in (0, 2, 4, 6, 8, 9)]
    assert sampled(run_ids=[first], max_results=5, start_step=0, end_step=4) == [(first, s) for s in range(5)]
    both = sampled(run_ids=runs, max_results=5)
    assert both == [(first, s) for s in (0, 4, 8, 9)] + [(second, s) for s in (0, 4, 8, 9, 12, 16, 19)]
    bulk = api.get("/ajax-api/2.0/mlflow/metrics/get-history-bulk", run_id=runs, metric_key="m", max_results=12)[
        "metrics"
    ]
    assert len(bulk) == 12 and [p["run_id"] for p in bulk] == sorted(p["run_id"] for p in bulk)
    refusals = [
        ("get-history-bulk-interval", {"metric_key": "m"}, "Missing value for required parameter 'run_ids'."),
        ("get-history-bulk-interval", {"run_ids": [first], "metric_key": "m", "max_results": 0}, "between 1 and 2500"),
        (
            "get-history-bulk-interval",
            {"run_ids": [first], "metric_key": "m", "start_step": 1},
            "both must be specified",
        ),
        ("get-history-bulk-interval", {"run_ids": [first] * 101, "metric_key": "m"}, "at most 100 run_ids"),
        ("get-history-bulk", {"metric_key": "m"}, "must specify at least one run_id"),
        ("get-history-bulk", {"run_id": ["x"] * 101, "metric_key": "m"}, "cannot specify more than"),
        ("get-history-bulk", {"run_id": ["x"]}, "must specify a metric_key"),
    ]
    for path, query, text in refusals:
        assert text in api.get(f"metrics/{path}", 400, **query)["message"]


def test_datasets_of_experiments(api: Api) -> None:
    experiment = api.experiment()
    dataset = {"name": "d", "digest": "x", "source_type": "s", "source": "s"}
    given = {"dataset": dataset, "tags": [{"key": "mlflow.data.context", "value": "training"}]}
    for _ in range(2):
        api.post("runs/log-inputs", run_id=api.run(experiment), datasets=[given])
    found = api.post("experiments/search-datasets", experiment_ids=[experiment])["dataset_summaries"]
    assert found == [{"experiment_id": experiment, "name": "d", "digest": "x", "context": "training"}]
    assert "at least one" in api.post("experiments/search-datasets", 400)["message"]
