"""Requests made at random from the routes' own fields: none is answered 5xx (501 says what is not offered)."""

import json
import os
import random
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from holdfast.protocols.mlflow.app import ROUTES
from tests.protocols.mlflow.client import Api, serving

SEED = int(os.environ.get("HOLDFAST_SOAK_SEED", "99"))
SECONDS = float(os.environ.get("HOLDFAST_SOAK_SECONDS", "3600"))
TEXTS = [
    "", "a", "0", "1", "NaN", "../x", "m-1", "x" * 300, "ü\0", "\ud83d", "models:/a/1", "models:/fraud@best", "runs:/x/y",
    "metrics.a > 1", "name = 'x'", "name LIKE '%'", "LIKE", "Production", "mlflow-artifacts:/0/x", "mlflow-artifacts://[x",
    "FINISHED", "a" * 9000, "metrics.m DESC", "http://[", "LOGGED_MODEL_READY", "\U0001f600", "{}", "[1]", "s3://b/m",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2**31, 2**63 - 1, 2**63, -(2**63), 10**30, 1.5, 1e308, float("inf"), float("nan")]
KEYS = ["key", "value", "name", "timestamp", "step", "dataset", "tags", "model_id", "field_name", "ascending", "digest", "source",
        "source_type", "dataset_name", "dataset_digest"]  # fmt: skip


def value(dice: random.Random, depth: int = 0) -> Any:
    kind = dice.randrange(12)
    if kind == 0:
        return None
    if kind == 1:
        return dice.choice(NUMBERS)
    if kind == 2:
        return dice.choice([True, False])
    if kind < 7 or depth > 3:
        return dice.choice(TEXTS)
    if kind < 9:
        return [value(dice, depth + 1) for _ in range(dice.randrange(4))]
    return {dice.choice(KEYS): value(dice, depth + 1) for _ in range(dice.randrange(5))}


def text(part: Any) -> str:
    return quote(str(part).encode("utf-8", "surrogatepass"))


def ask(api: Api, dice: random.Random, good: dict[str, Any]) -> tuple[str, int, str]:
    route = dice.choice(ROUTES)
    body = {
        f: good[f] if f in good and dice.random() < 0.8 else value(dice) for f in route.fields if dice.random() < 0.85
    }
    path = route.path.replace("{model_id}", good["model_id"] if dice.random() < 0.8 else "x").replace("{tag_key}", "k")
    if route.method == "GET":
        pairs = [(k, v) for k, vs in body.items() for v in (vs if isinstance(vs, list) else [vs])]
        response = api.http.get(path + "?" + "&".join(f"{text(k)}={text(v)}" for k, v in pairs))
    else:
        response = api.http.request(route.method, path, content=json.dumps(body).encode())
    return f"{route.method} {path} {body!r:.600}", response.status_code, response.text[:300]


# At length: for HOLDFAST_SOAK_SECONDS (3600), or 600 requests.
@pytest.mark.parametrize(
    "seconds", [0.0, pytest.param(SECONDS, marks=[pytest.mark.soak, pytest.mark.timeout(SECONDS + 600)])]
)
def test_no_request_breaks_the_server(tmp_path: Path, seconds: float, caplog: pytest.LogCaptureFixture) -> None:
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    with serving(tmp_path) as api:
        end, number = time.monotonic() + seconds, -1
        while (number := number + 1) < 600 or time.monotonic() < end:
            if number % 500 == 0:
                # The random calls delete things too; begin again with something to hit.
                if api.get("experiments/get", experiment_id="0")["experiment"]["lifecycle_stage"] == "deleted":
                    api.post("experiments/restore", experiment_id="0")
                model = api.post("logged-models", experiment_id=api.experiment(f"e{number}"), name="m")["model"]["info"]
                good = {
                    "run_id": api.run(model["experiment_id"]), "experiment_id": model["experiment_id"], "name": "fraud",
                    "version": str(api.model()), "experiment_ids": [model["experiment_id"]], "model_id": model["model_id"],
                }  # fmt: skip
            asked, status, answer = ask(api, dice, good)
            assert status < 500 or status == 501, (asked, status, answer, caplog.text[-2000:])
        assert api.workspace.ledger.verify() > 0
    print(f"{number} requests")
