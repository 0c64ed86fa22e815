"""Other people's ways to ask: Open Inference Protocol v2, MLflow's /invocations, the OpenAPI document."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from holdfast.core.records import FieldSpec
from holdfast.server import access
from holdfast.serving.replica import Replica
from holdfast.workspace import Workspace
from tests.serving.world import (
    Ask,
    add_package,
    arm,
    fields,
    in_process,
    peer_environment,
    probability,
    put_release,
    serving,
)

ROW = {"a": 0.5, "b": 0.25}


def tensor(name: str, data: list[Any], shape: list[int] | None = None, datatype: str = "FP64") -> dict[str, Any]:
    return {"name": name, "shape": shape or [len(data)], "datatype": datatype, "data": data}


def test_oip_answers_by_name(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(7, add_package(workspace)))

    async def story(_: Replica, ask: Ask) -> None:
        assert json.loads((await ask("GET", "/v2")).body)["name"] == "holdfast"
        assert json.loads((await ask("GET", "/v2/health/ready")).body) == {"live": True, "ready": True}
        meta = json.loads((await ask("GET", "/v2/models/toy/versions/7")).body)
        assert meta["versions"] == ["7"] and [i["name"] for i in meta["inputs"]] == ["a", "b"]
        body = {"id": "q1", "inputs": [tensor("b", [0.25, 1]), tensor("a", [[0.5], [-2]], [2, 1], "FP32")]}
        answer = await ask("POST", "/v2/models/toy/infer", body)
        told = json.loads(answer.body)
        assert (answer.status, told["id"], told["model_version"]) == (200, "q1", "7")
        output, score = told["outputs"]
        assert (output["datatype"], output["data"], score["shape"]) == ("INT64", [1, 0], [2])
        assert score["data"][0] == pytest.approx(probability(ROW), abs=1e-6)
        only = {"inputs": [tensor("a", [1]), tensor("b", [1])], "outputs": [{"name": "score"}]}
        assert [
            o["name"] for o in json.loads((await ask("POST", "/v2/models/toy/versions/7/infer", only)).body)["outputs"]
        ] == ["score"]

    in_process(workspace, story)


GOOD = [tensor("a", [1.0]), tensor("b", [1.0])]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[" * 50_000, 400),
        ({"inputs": []}, 400),
        ({"inputs": [tensor("a", [1.0])]}, 422),
        ({"inputs": [*GOOD, tensor("z", [1.0])]}, 400),
        ({"inputs": [tensor("a", [1.0, 2.0]), tensor("b", [1.0])]}, 400),
        ({"inputs": [tensor("a", [1.0], [2]), tensor("b", [1.0])]}, 400),
        ({"inputs": [tensor("a", [1.0], [-1]), tensor("b", [1.0])]}, 400),
        ({"inputs": [tensor("a", ["x"]), tensor("b", [1.0])]}, 422),
        ({"inputs": [tensor("a", ["x"], datatype="BYTES"), tensor("b", [1.0])]}, 400),
        ({"inputs": [tensor("a", [1.5], datatype="INT64"), tensor("b", [1.0])]}, 400),
        ({"inputs": [tensor("a", [300], datatype="INT8"), tensor("b", [1.0])]}, 400),
        ({"inputs": [tensor("a", [None]), tensor("b", [1.0])]}, 422),
        ({"inputs": [tensor("a", [[1.0], [1.0, 2.0]], [2, 1]), tensor("b", [1.0, 1.0])]}, 400),
        ({"inputs": [*GOOD], "outputs": [{"name": "z"}]}, 400),
        ({"inputs": [tensor("a", []), tensor("b", [])]}, 400),
        (b'{"inputs":[{"name":"a","shape":[1],"datatype":"FP64","data":[NaN]}]}', 400),
    ],
)
def test_oip_refuses_with_the_protocols_error(workspace: Workspace, body: Any, status: int) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))

    async def story(_: Replica, ask: Ask) -> None:
        answer = await ask("POST", "/v2/models/toy/infer", body)
        assert answer.status == status, answer.body
        assert list(json.loads(answer.body)) == ["error"] and isinstance(json.loads(answer.body)["error"], str)

    in_process(workspace, story)


def test_oip_unknown_names_and_binary_extension(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))

    async def story(_: Replica, ask: Ask) -> None:
        for path in ("/v2/models/other/infer", "/v2/models/toy/versions/9/infer", "/v2/models/toy/explode"):
            answer = await ask("POST", path, {"inputs": GOOD})
            assert answer.status == 404 and "error" in json.loads(answer.body), path
        assert (await ask("GET", "/v2/models/toy/versions/9/ready")).status == 404
        answer = await ask("POST", "/v2/models/toy/infer", b"", {"Inference-Header-Content-Length": "5"})
        assert answer.status == 415

    in_process(workspace, story)


def test_mlflow_invocations_in_all_shapes(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))
    shapes: list[tuple[Any, str]] = [
        ({"dataframe_split": {"columns": ["b", "a"], "data": [[0.25, 0.5], [1, -2]]}}, "application/json"),
        ({"dataframe_records": [ROW, {"a": -2, "b": 1}]}, "application/json; charset=utf-8"),
        ({"instances": [ROW, {"a": -2, "b": 1}]}, "application/json"),
        ({"inputs": {"a": [0.5, -2], "b": [0.25, 1]}}, "application/json"),
        (b"a,b\n0.5,0.25\n-2,1\n", "text/csv"),
    ]

    async def story(_: Replica, ask: Ask) -> None:
        for body, kind in shapes:
            answer = await ask("POST", "/invocations", body, {"content-type": kind})
            told = json.loads(answer.body)
            assert answer.status == 200 and told["predictions"] == [1, 0], (body, told)
            assert told["scores"][0] == pytest.approx(probability(ROW), abs=1e-6)
        for body in (
            {"inputs": [[1, 2]]},
            {"x": 1},
            {"instances": [ROW], "inputs": []},
            {"dataframe_split": {"columns": ["a"]}},
            b"[",
        ):
            answer = await ask("POST", "/invocations", body)
            assert answer.status == 400 and json.loads(answer.body)["error_code"] == "BAD_REQUEST", body
        assert (await ask("POST", "/invocations", b"a,b\nx,1\n", {"content-type": "text/csv"})).status == 400
        assert (await ask("POST", "/invocations", b"", {"content-type": "application/xml"})).status == 415
        assert (await ask("GET", "/ping")).status == 200

    in_process(workspace, story)


def test_openapi_describes_the_signature(workspace: Workspace) -> None:
    request = [fields(low=0.0, high=1.0, strict=True)[0], FieldSpec(name="b", dtype="float64")]
    put_release(workspace, 1, arm(1, add_package(workspace, request=request, inputs=request)))

    async def story(_: Replica, ask: Ask) -> None:
        document = json.loads((await ask("GET", "/openapi.json")).body)
        row = document["components"]["schemas"]["Row"]
        assert row["required"] == ["a"] and not row["additionalProperties"]
        assert row["properties"]["a"] == {"type": "number", "format": "double", "minimum": 0.0, "maximum": 1.0}
        assert row["properties"]["b"]["type"] == ["number", "null"]
        refs = [r for r in _refs(document) if not r.startswith("#/components/schemas/")]
        assert not refs and {r.rsplit("/", 1)[1] for r in _refs(document)} <= set(document["components"]["schemas"])

    in_process(workspace, story)


def _refs(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [v for k, v in value.items() if k == "$ref"] + [r for v in value.values() for r in _refs(v)]
    return [r for v in value for r in _refs(v)] if isinstance(value, list) else []


TRITON = """
import sys, numpy as np, tritonclient.http as t
client = t.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("toy")
meta = client.get_model_metadata("toy")
tensors = []
for spec, values in zip(meta["inputs"], ([0.5, -2.0], [0.25, 1.0])):
    tensor = t.InferInput(spec["name"], [2], spec["datatype"])
    tensor.set_data_from_numpy(np.array(values), binary_data=False)
    tensors.append(tensor)
wanted = [t.InferRequestedOutput(o["name"], binary_data=False) for o in meta["outputs"]]
answer = client.infer("toy", tensors, outputs=wanted, request_id="q7")
assert answer.get_response()["id"] == "q7"
print(answer.as_numpy("output").tolist(), round(float(answer.as_numpy("score")[0]), 6))
try:
    client.infer("nobody", tensors)
except t.InferenceServerException as problem:
    print("refused:", problem)
"""


@pytest.mark.peer
def test_a_real_open_inference_client(workspace: Workspace) -> None:
    python = peer_environment("oip", "tritonclient")
    put_release(workspace, 1, arm(1, add_package(workspace)))
    with serving(workspace, "--replicas", "2") as server:
        server.until_version(1)
        done = subprocess.run(
            [python, "-c", TRITON, f"127.0.0.1:{server.port}"], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"[1, 0] {round(probability(ROW), 6)}"
    assert "unknown model 'nobody'" in done.stdout


def test_every_route_but_health_needs_a_token(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))
    secret = "hf_test"
    tokens = [access.of(secret, "app", "predict")]

    async def story(replica: Replica, ask: Ask) -> None:
        doors = [*replica._routes, *((method, f"{path}toy") for method, path, _ in replica._prefixes)]
        assert len(doors) >= 12
        for method, path in doors:
            answer = await ask(method, path, {"rows": [ROW]})
            if path.startswith(("/health/", "/v2/health/")):
                assert answer.status == 200, path
            else:
                assert (answer.status, json.loads(answer.body)["error"]["code"]) == (401, "HF411"), path
        bearer = {"authorization": f"Bearer {secret}"}
        for _ in range(2):
            assert (await ask("POST", "/predict", {"rows": [ROW]}, bearer)).status == 200
            assert (await ask("POST", "/predict", {"rows": [ROW]})).status == 401
            assert (await ask("POST", "/labels", {"labels": []}, bearer)).status == 403
            assert (await ask("POST", "/predict", {"rows": [ROW]}, bearer | {"host": "evil.example"})).status == 403

    in_process(workspace, story, tokens=tokens, bind="0.0.0.0")


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0"])
def test_tokens_made_and_taken_back_count_while_it_serves(
    workspace: Workspace, bind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.server.guard._LOOK_NS", 0)
    put_release(workspace, 1, arm(1, add_package(workspace)))
    kept = workspace.path("keys", "tokens.json")
    if bind != "127.0.0.1":
        access.issue(kept, "first", "predict")

    async def story(_: Replica, ask: Ask) -> None:
        async def status(secret: str | None = None) -> int:
            headers = {"authorization": f"Bearer {secret}"} if secret else {}
            return (await ask("POST", "/predict", {"rows": [ROW]}, headers)).status

        assert await status() == (200 if bind == "127.0.0.1" else 401)
        second = access.issue(kept, "second", "predict")
        assert [await status(), await status(second), await status(second)] == [401, 200, 200]
        access.revoke(kept, "first")
        assert access.revoke(kept, "second")
        # The last token taken back shuts the address; it does not open it.
        assert [await status(second), await status()] == [401, 401]

    in_process(workspace, story, bind=bind)


def test_a_replica_beyond_this_machine_that_starts_without_a_token_lets_nobody_in(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))

    async def story(_: Replica, ask: Ask) -> None:
        assert (await ask("POST", "/predict", {"rows": [ROW]})).status == 401
        assert (await ask("GET", "/health/ready")).status == 200

    in_process(workspace, story, bind="0.0.0.0")


MLFLOW = """
import sys, numpy as np, pandas as pd
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
client = ScoringServerClient(*sys.argv[1:])
client.wait_server_ready(10)
assert client.get_version()
frame = pd.DataFrame({"b": [0.25, 1.0], "a": [0.5, -2.0]})
print(np.ravel(client.invoke(frame).get_predictions()).tolist())
try:
    client.invoke(frame.rename(columns={"a": "z"}))
except Exception as problem:
    print("refused:", problem)
"""


@pytest.mark.peer
def test_a_real_mlflow_scoring_client(workspace: Workspace) -> None:
    python = peer_environment("mlflow", "mlflow")
    put_release(workspace, 1, arm(1, add_package(workspace)))
    with serving(workspace, "--replicas", "1") as server:
        server.until_version(1)
        done = subprocess.run(
            [python, "-c", MLFLOW, "127.0.0.1", str(server.port)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "[1, 0]"
    assert "refused:" in done.stdout and "'z'" in done.stdout


def test_instants_that_are_none_are_refused_and_the_log_goes_on(workspace: Workspace) -> None:
    """In a field, as a request's time, as a label's: numbers that no log could hold, and nanoseconds."""
    request = [*fields(), FieldSpec(name="t", dtype="timestamp", nullable=True)]
    put_release(workspace, 1, arm(1, add_package(workspace, request=request)))

    async def story(replica: Replica, ask: Ask) -> None:
        for wrong in (1 << 70, -(1 << 70), 1_762_000_000_000_000_000):
            for path, body in (
                ("/predict", {"rows": [ROW | {"t": wrong}]}),
                ("/predict", {"rows": [ROW | {"t": None}], "request_time": wrong}),
                ("/labels", {"labels": [{"prediction_id": "x", "value": 1, "at": wrong}]}),
            ):
                said = await ask("POST", path, body)
                assert 400 <= said.status < 500 and b"not an instant" in said.body, (path, said)
        said = await ask("POST", "/predict", {"rows": [ROW | {"t": 5}], "request_time": 7})
        assert said.status == 200 and json.loads(said.body)["predictions"][0]["logged"]

    in_process(workspace, story, replay=True, log="durable")
