"""An everyday training script, as people have them. Run by the peer's Python with MLFLOW_TRACKING_URI set.

Reads commands from stdin, one a line, and answers each with a line of JSON: train KIND, move VERSION STAGE,
alias VERSION NAME, load REFERENCE.
"""

import json
import sys
import warnings

import mlflow
import mlflow.sklearn
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

warnings.simplefilter("ignore")
NAME = "fraud_detection"
rng = np.random.default_rng(7)
X = rng.normal(size=(600, 4))
y = (X[:, 0] + 0.5 * X[:, 1] > 0).astype(int)


def train(kind: str) -> None:
    mlflow.set_experiment("everyday")
    with mlflow.start_run(run_name=f"a {kind}") as run:
        mlflow.log_param("kind", kind)
        mlflow.log_params({"depth": 3, "note": "ünïcode"})
        # Guessing the requirements starts another process and takes most of the time; the protocol does not see it.
        more = {"pip_requirements": ["scikit-learn"]}
        if kind == "forest":
            model = RandomForestClassifier(n_estimators=10, max_depth=3, random_state=0).fit(X, y)
            more["skops_trusted_types"] = [
                "numpy.dtype",
                "sklearn.tree._tree.Tree",
                "sklearn.tree._classes.DecisionTreeClassifier",
            ]
        else:
            model = LogisticRegression().fit(X, y)
        for step in range(3):
            mlflow.log_metric("accuracy", float(model.score(X, y)), step=step)
        mlflow.set_tag("team", "risk")
        mlflow.sklearn.log_model(model, "model", **more)
        mlflow.log_text("hello", "notes/hello.txt")
    version = mlflow.register_model(f"runs:/{run.info.run_id}/model", NAME)
    client = MlflowClient()
    found = mlflow.search_runs(
        experiment_names=["everyday"], filter_string=f"params.kind = '{kind}' and metrics.accuracy > 0.5"
    )
    print(
        json.dumps(
            {
                "version": int(version.version),
                "run_id": run.info.run_id,
                "found": len(found),
                "history": len(client.get_metric_history(run.info.run_id, "accuracy")),
                "artifacts": sorted(a.path for a in client.list_artifacts(run.info.run_id)),
                "notes": mlflow.artifacts.load_text(f"{run.info.artifact_uri}/notes/hello.txt"),
            }
        )
    )


def move(version: str, stage: str) -> None:
    try:
        MlflowClient().transition_model_version_stage(NAME, version, stage)
        print(json.dumps({"moved": True}))
    except MlflowException as error:
        print(json.dumps({"moved": False, "code": error.error_code, "message": str(error)}))


def alias(version: str, name: str) -> None:
    try:
        MlflowClient().set_registered_model_alias(NAME, name, version)
        print(json.dumps({"moved": True}))
    except MlflowException as error:
        print(json.dumps({"moved": False, "code": error.error_code, "message": str(error)}))


def load(reference: str) -> None:
    model = (
        mlflow.sklearn.load_model(f"models:/{NAME}/{reference}")
        if "@" not in reference
        else mlflow.pyfunc.load_model(f"models:/{NAME}{reference}")
    )
    print(json.dumps({"predictions": [int(v) for v in model.predict(X[:5])]}))


if __name__ == "__main__":
    commands = {"train": train, "move": move, "alias": alias, "load": load}
    for line in sys.stdin:
        word, *rest = line.split()
        commands[word](*rest)
        sys.stdout.flush()
