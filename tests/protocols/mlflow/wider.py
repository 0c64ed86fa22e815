"""What people call of MLflow's client beside the everyday script. Run by the peer's Python with MLFLOW_TRACKING_URI set;
prints {call: null, or what went wrong} as JSON."""

import json
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, infer_signature
from sklearn.linear_model import LogisticRegression

warnings.simplefilter("ignore")
client = MlflowClient()
calls: list[Callable[[], None]] = []
frame = pd.DataFrame({"a": [0.0, 9.0, 1.0, 10.0], "b": [1.0, 1.0, 2.0, 2.0]})
truth = np.array([0, 1, 0, 1])
model = LogisticRegression().fit(frame, truth)


def call(function: Callable[[], None]) -> Callable[[], None]:
    calls.append(function)
    return function


def new_run(**more: str) -> str:
    return str(client.create_run(client.get_experiment_by_name("wider").experiment_id, **more).info.run_id)


@call
def experiments() -> None:
    made = client.create_experiment("other", tags={"team": "risk"})
    client.set_experiment_tag(made, "k", "v")
    client.rename_experiment(made, "renamed")
    assert [e.name for e in mlflow.search_experiments(filter_string="tags.k = 'v' AND name LIKE 'ren%'")] == ["renamed"]
    client.delete_experiment_tag(made, "k")
    client.delete_experiment(made)
    assert [e.name for e in client.search_experiments(view_type=ViewType.DELETED_ONLY)] == ["renamed"]
    client.restore_experiment(made)
    assert client.get_experiment(made).tags == {"team": "risk"}


@call
def nested_runs_and_their_ends() -> None:
    with mlflow.start_run(run_name="parent", description="why") as parent:
        for i in range(3):
            with mlflow.start_run(nested=True) as child:
                mlflow.log_metric("m", i)
        assert mlflow.get_parent_run(child.info.run_id).info.run_id == parent.info.run_id
    children = mlflow.search_runs(
        filter_string=f"tags.mlflow.parentRunId = '{parent.info.run_id}'", order_by=["metrics.m DESC"]
    )
    assert list(children["metrics.m"]) == [2, 1, 0]
    with mlflow.start_run(run_id=parent.info.run_id):
        mlflow.log_param("late", 1)
    client.set_terminated(parent.info.run_id, status="FAILED")
    assert client.get_run(parent.info.run_id).info.status == "FAILED"
    client.delete_run(parent.info.run_id)
    client.restore_run(parent.info.run_id)
    client.update_run(parent.info.run_id, status="FINISHED", name="renamed")
    assert client.get_run(parent.info.run_id).info.run_name == "renamed"


@call
def batches() -> None:
    run_id, now = new_run(), int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric("m", i / 3, now + i, i) for i in range(1000)],
        params=[Param("p", "x" * 6000)],
        tags=[RunTag("t", "1")],
    )
    assert len(client.get_metric_history(run_id, "m")) == 1000
    for value in (float("nan"), float("inf"), -float("inf")):
        client.log_metric(run_id, "odd", value)
    client.log_metric(run_id, "later", 1.5, synchronous=False).wait()
    mlflow.log_metrics({"a": 1, "b/c": 2}, run_id=run_id, step=4)
    client.set_tag(run_id, "gone", 1)
    client.delete_tag(run_id, "gone")
    data = client.get_run(run_id).data
    assert (
        data.metrics["b/c"] == 2 and data.metrics["later"] == 1.5 and data.tags["t"] == "1" and "gone" not in data.tags
    )


@call
def searches_page_by_page() -> None:
    for i in range(25):
        client.log_param(new_run(tags={"paged": "yes"}), "i", i)
    experiment = client.get_experiment_by_name("wider").experiment_id
    seen, token = [], None
    while True:
        page = client.search_runs([experiment], "tags.paged = 'yes'", max_results=10, page_token=token)
        seen += [r.data.params["i"] for r in page]
        token = page.token
        if not token:
            break
    assert sorted(map(int, seen)) == list(range(25))
    assert (
        len(mlflow.search_runs(filter_string="attributes.status = 'RUNNING' AND params.i = '3'", output_format="list"))
        == 1
    )


@call
def artifacts_of_every_kind() -> None:
    with mlflow.start_run() as run:
        mlflow.log_dict({"a": [1, 2]}, "d/x.json")
        mlflow.log_text("ünï", "t.txt")
        mlflow.log_image(np.zeros((4, 4, 3), dtype=np.uint8), "i.png")
        mlflow.log_table({"q": ["who"], "a": ["me"]}, "table.json")
        mlflow.log_table({"q": ["why"], "a": ["so"]}, "table.json")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "deep").mkdir()
            (Path(folder) / "deep" / "f.bin").write_bytes(bytes(range(256)) * 1000)
            (Path(folder) / "empty").touch()
            mlflow.log_artifacts(folder, "folder")
    uri = run.info.artifact_uri
    assert mlflow.artifacts.load_dict(f"{uri}/d/x.json") == {"a": [1, 2]}
    assert mlflow.artifacts.load_image(f"{uri}/i.png").size == (4, 4)
    assert list(mlflow.load_table("table.json", run_ids=[run.info.run_id])["q"]) == ["who", "why"]
    with tempfile.TemporaryDirectory() as folder:
        got = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"runs:/{run.info.run_id}/folder", dst_path=folder))
        assert (got / "deep" / "f.bin").read_bytes() == bytes(range(256)) * 1000 and (got / "empty").read_bytes() == b""
    paths = [(a.path, a.is_dir, a.file_size) for a in client.list_artifacts(run.info.run_id, "folder")]
    assert paths == [("folder/deep", True, None), ("folder/empty", False, 0)], paths


@call
def datasets() -> None:
    with mlflow.start_run() as run:
        mlflow.log_input(mlflow.data.from_pandas(frame, name="rows", source="s3://b/rows.csv"), context="training")
    found = client.get_run(run.info.run_id).inputs.dataset_inputs
    assert [(d.dataset.name, d.tags[0].value) for d in found] == [("rows", "training")]
    again = mlflow.search_runs(filter_string="dataset.name = 'rows' AND dataset.context = 'training'")
    assert list(again["run_id"]) == [run.info.run_id]


@call
def logged_models() -> None:
    with mlflow.start_run():
        info = mlflow.sklearn.log_model(
            model, name="clf", input_example=frame.head(2), signature=infer_signature(frame, truth),
            params={"c": 1}, pip_requirements=["scikit-learn"],
        )  # fmt: skip
        mlflow.log_metric("accuracy", 0.9, model_id=info.model_id)
        mlflow.log_metric("accuracy", 0.8)
    mlflow.set_logged_model_tags(info.model_id, {"kept": "yes", "gone": "no"})
    mlflow.delete_logged_model_tag(info.model_id, "gone")
    found = mlflow.search_logged_models(
        filter_string="metrics.accuracy > 0.85 AND tags.kept = 'yes' AND params.c = '1'", output_format="list"
    )
    assert [m.model_id for m in found] == [info.model_id] and found[0].tags.get("gone") is None
    assert mlflow.get_logged_model(info.model_id).params == {"c": "1"}
    assert list(mlflow.pyfunc.load_model(f"models:/{info.model_id}").predict(frame)) == list(model.predict(frame))
    outside = mlflow.initialize_logged_model(name="outside")
    mlflow.log_model_params({"p": 1}, model_id=outside.model_id)
    mlflow.finalize_logged_model(outside.model_id, "READY")
    client.delete_logged_model(outside.model_id)


@call
def models_and_versions() -> None:
    with mlflow.start_run():
        info = mlflow.sklearn.log_model(
            model, name="clf", registered_model_name="wide", signature=infer_signature(frame, truth),
            pip_requirements=["scikit-learn"],
        )  # fmt: skip
    assert isinstance(mlflow.models.get_model_info("models:/wide/1").signature, ModelSignature)
    second = mlflow.register_model(info.model_uri, "wide", tags={"from": "uri"})
    assert int(second.version) == 2
    client.update_registered_model("wide", description="all of it")
    client.update_model_version("wide", "2", description="second")
    client.set_registered_model_tag("wide", "team", "risk")
    client.set_model_version_tag("wide", "2", "checked", "no")
    client.delete_model_version_tag("wide", "2", "from")
    client.set_registered_model_alias("wide", "candidate", "2")
    assert client.get_model_version_by_alias("wide", "candidate").version in (2, "2")
    assert client.get_registered_model("wide").aliases == {"candidate": "2"}
    assert [
        int(v.version) for v in client.search_model_versions("name = 'wide'", order_by=["version_number DESC"])
    ] == [2, 1]
    assert [m.name for m in client.search_registered_models("tags.team = 'risk'")] == ["wide"]
    copied = client.copy_model_version("models:/wide/2", "copied")
    assert list(mlflow.pyfunc.load_model(f"models:/copied/{copied.version}").predict(frame)) == list(
        model.predict(frame)
    )
    client.transition_model_version_stage("copied", "1", "Staging", archive_existing_versions=True)
    assert [v.current_stage for v in client.get_latest_versions("copied", stages=["Staging"])] == ["Staging"]
    client.delete_registered_model_alias("wide", "candidate")
    client.rename_registered_model("copied", "again")
    client.delete_model_version("again", "1")
    client.delete_registered_model("again")


@call
def classic_evaluation() -> None:
    rows = frame.assign(label=truth)
    with mlflow.start_run():
        info = mlflow.sklearn.log_model(model, name="clf", pip_requirements=["scikit-learn"])
        result = mlflow.models.evaluate(
            info.model_uri,
            rows,
            targets="label",
            model_type="classifier",
            evaluator_config={"log_model_explainability": False},
        )
    assert result.metrics["accuracy_score"] == 1.0


@call
def autologging() -> None:
    mlflow.sklearn.autolog(log_models=False)
    try:
        with mlflow.start_run() as run:
            LogisticRegression(C=0.5).fit(frame, truth)
    finally:
        mlflow.sklearn.autolog(disable=True)
    data = client.get_run(run.info.run_id).data
    assert data.params["C"] == "0.5" and data.metrics["training_accuracy_score"] == 1.0


@call
def prompts_are_refused() -> None:
    with pytest.raises(MlflowException) as refused:
        client.register_prompt("greeting", "Hello {{name}}")
    assert refused.value.error_code == "NOT_IMPLEMENTED", refused.value


if __name__ == "__main__":
    mlflow.set_experiment("wider")
    told: dict[str, str | None] = {}
    for one in calls:
        try:
            one()
            told[one.__name__] = None
        except Exception as error:
            where = next(f for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == __file__)
            told[one.__name__] = f"{where.line}: {type(error).__name__}: {error}"[:600]
    sys.stdout.write("\n" + json.dumps(told) + "\n")
