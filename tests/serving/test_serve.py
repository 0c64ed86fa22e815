"""The data plane as its callers meet it: real processes, real HTTP."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from holdfast.core.records import FieldSpec, FileRef
from holdfast.serving import journal, route
from holdfast.workspace import Workspace
from tests.serving.world import add_package, arm, fields, onnx_model, probability, put_release, serving

ROW = {"a": 0.5, "b": 0.25}


def test_callers_of_a_lone_replica_that_dies_wait_for_the_next(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))
    with serving(workspace, "--replicas", "1", "--log", "durable") as server:
        server.until_version(1)
        for _ in range(3):
            (pid,) = server.state["replicas"]
            os.kill(pid, signal.SIGKILL)
            server.until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))
            # Nobody is there yet: the request waits, and meets a replica that has its release.
            server._local.connection = None  # the old one died with its replica
            status, body = server.predict(ROW)
            assert (status, body["predictions"][0]["version"]) == (200, 1)
            server.until(lambda pid=pid: server.state["replicas"] not in ([], [pid]))


@pytest.mark.parametrize("replicas", ["1", "2"])
def test_predicts_logs_and_swaps(workspace: Workspace, replicas: str) -> None:
    first, second = add_package(workspace), add_package(workspace, intercept=3.0)
    with serving(workspace, "--replicas", replicas, "--log", "durable") as server:
        status, body = server.predict(ROW)
        assert (status, body["error"]["code"]) == (503, "HF501")
        assert server.ask("GET", "/health/ready")[0] == 503
        assert server.ask("GET", "/health/live")[0] == 200
        put_release(workspace, 1, arm(1, first))
        server.until_version(1)
        status, body = server.predict(ROW, {"a": -2.0, "b": 1.0})
        assert status == 200
        one, two = body["predictions"]
        assert one["score"] == pytest.approx(probability(ROW), abs=1e-6)
        assert (one["output"], two["output"], one["version"], one["arm"], one["logged"]) == (1, 0, 1, "champion", True)
        put_release(workspace, 2, arm(2, second))
        server.until_version(2)
        later = server.predict(ROW)[1]["predictions"][0]
        assert later["version"] == 2 and later["score"] == pytest.approx(probability(ROW, intercept=3.0), abs=1e-6)
        text = server.ask("GET", "/metrics")[1].decode()
        assert 'version="1"' in text and "holdfast_request_seconds_bucket" in text
    log = journal.read(workspace.path("predictions", "toy"), since=None, until=None)
    assert {one["id"], two["id"], later["id"]} == set(log["id"].to_pylist())
    row = log.to_pylist()[-1]
    assert (row["inputs.a"], row["features.b"], row["version"], row["output"]) == (0.5, 0.25, 2, 1)
    assert row["score"] == pytest.approx(later["score"])


def test_canary_is_sticky_and_a_broken_challenger_costs_nobody(workspace: Workspace) -> None:
    good, other = add_package(workspace), add_package(workspace, intercept=1.0)
    live = put_release(workspace, 1, arm(1, good), challenger=arm(2, other, 50.0))
    arms = {k: route.choose(live, k).arm for k in map(str, range(60))}
    assert set(arms.values()) == {"champion", "challenger"}
    with serving(workspace, "--replicas", "1", "--log", "buffered") as server:
        server.until_version(1)
        assert arms == {k: server.predict(ROW, key=k)[1]["predictions"][0]["arm"] for k in arms}
    # The same after a restart, and on every replica.
    with serving(workspace, "--replicas", "2", "--log", "buffered") as server:
        server.until_version(1)
        assert arms == {k: server.predict(ROW, key=k)[1]["predictions"][0]["arm"] for k in arms}
        assert server.predict(ROW, arm="challenger")[1]["predictions"][0]["version"] == 2
        # A challenger whose content is nowhere to be found: the champion answers, the failures are in the log.
        put_release(workspace, 2, arm(1, good), challenger=arm(3, "0" * 64, 50.0))
        server.until(lambda: server.ask("GET", "/release")[1]["release"]["sequence"] == 2)
        time.sleep(0.5)
        for k in arms:
            status, body = server.predict(ROW, key=k)
            assert (status, body["predictions"][0]["arm"]) == (200, "champion")
    log = journal.read(workspace.path("predictions", "toy"), since=None, until=None).to_pylist()
    failed = [r for r in log if r["version"] == 3]
    assert len(failed) == sum(a == "challenger" for a in arms.values())
    assert all(r["score"] is None and r["output"] is None and r["inputs.a"] == 0.5 for r in failed)


def test_replay_takes_the_time_from_the_caller_and_labels_are_kept(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))
    with serving(workspace, "--replicas", "1", "--replay") as server:
        server.until_version(1)
        body = {"rows": [ROW, ROW], "request_time": [1_000_000, 2_000_000]}
        status, answer = server.ask("POST", "/predict", body, {"x-holdfast-prediction-id": "flight-7"})
        assert status == 200
        ids = [p["id"] for p in answer["predictions"]]
        assert ids == ["flight-7-0", "flight-7-1"]
        status, body = server.ask(
            "POST", "/labels", {"labels": [{"prediction_id": ids[0], "value": 1, "at": 3_000_000}]}
        )
        assert (status, body) == (200, {"accepted": 1})
    log = journal.read(workspace.path("predictions", "toy"), since=1_500_000, until=None)
    assert log["id"].to_pylist() == ["flight-7-1"] and log["request_time"].to_pylist() == [2_000_000]
    from holdfast.monitoring.labels import LabelStore

    assert LabelStore(workspace.path("labels", "toy")).read()["prediction_id"].to_pylist() == ["flight-7-0"]


def test_bad_requests_are_named_and_the_process_stays_well(workspace: Workspace) -> None:
    strict = [*fields(low=-10.0, high=10.0, strict=True)]
    request = [strict[0], FieldSpec(name="b", dtype="float64", nullable=True)]
    put_release(workspace, 1, arm(1, add_package(workspace, request=request, inputs=request)))
    cases: list[tuple[object, int, str, str]] = [
        ({"rows": [ROW, {"b": 1.0}]}, 422, "HF131", "row 1: field 'a' is missing"),
        ({"rows": [{"a": None, "b": 1.0}]}, 422, "HF133", "field 'a' is null"),
        ({"rows": [{"a": "x", "b": 1.0}]}, 422, "HF134", "field 'a' is text"),
        ({"rows": [{"a": True, "b": 1.0}]}, 422, "HF134", "field 'a'"),
        ({"rows": [{"a": 11, "b": 1.0}]}, 422, "HF136", "outside [-10, 10]"),
        ({"rows": [{**ROW, "c": 1}]}, 422, "HF132", "field 'c'"),
        ({"rows": []}, 400, "HF102", "no rows"),
        ({"rows": [ROW], "request_time": 5}, 403, "HF450", "replay"),
        ({}, 400, "HF102", "rows"),
        (b"[" * 100_000, 400, "HF103", "deep"),
        (b'{"rows":[{"a":NaN,"b":1}]}', 400, "HF101", "not JSON"),
        (b"\xff\xfe", 400, "HF101", "not JSON"),
        (b"", 400, "HF101", "not JSON"),
    ]
    with serving(workspace, "--replicas", "1") as server:
        server.until_version(1)
        for body, status, code, words in cases:
            got, answer = server.ask("POST", "/predict", body)
            assert (got, answer["error"]["code"]) == (status, code), (body, answer)
            assert words in answer["error"]["message"], answer
        assert server.ask("GET", "/predict")[0] == 405
        assert server.ask("GET", "/nothing")[0] == 404
        assert server.ask("POST", "/predict", {"rows": [ROW]}, {"host": "evil.example"})[1]["error"]["code"] == "HF412"
        assert server.predict(ROW)[0] == 200


def test_memory_stays_flat_through_hostile_requests(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))
    hostile: list[tuple[str, str, object, dict[str, str]]] = [
        ("POST", "/predict", b"[" * 200_000, {}),
        ("POST", "/predict", b'{"rows":[' + b'{"a":{},"b":1},' * 20_000 + b"{}]}", {}),
        ("POST", "/predict", {"rows": [{"a": "x" * 200_000, "b": 1}]}, {}),
        ("POST", "/predict", {"rows": [{f"n{i}": i for i in range(5_000)}]}, {}),
        ("POST", "/predict", {"rows": [ROW] * 100_001}, {}),
        ("POST", "/predict", {"rows": [ROW]}, {"x-holdfast-prediction-id": "x" * 1000}),
        ("POST", "/predict", {"rows": [ROW]}, {"x-holdfast-arm": "nobody"}),
        ("POST", "/invocations", b"\x00" * 100_000, {}),
        ("POST", "/v2/models/nobody/infer", {"inputs": []}, {}),
        ("POST", "/v2/models/toy/infer", {"inputs": [{"name": "a", "datatype": "FP64", "shape": [10**9], "data": [1]}]}, {}),
        ("POST", "/labels", b'{"labels":' + b"[" * 100_000, {}),
        ("GET", "/nothing/" + "y" * 1000, None, {}),
    ]  # fmt: skip
    with serving(workspace, "--replicas", "1") as server:
        server.until_version(1)
        (pid,) = server.state["replicas"]
        held = []
        for round_ in range(14):
            for number, (method, path, body, headers) in enumerate(hostile):
                status, answer = server.ask(method, path.replace("y", str(round_)), body, headers)
                assert 400 <= status < 500, (number, status, answer)
                assert "HF" in json.dumps(answer) or "error_code" in answer or "error" in answer, (number, answer)
            held.append(_resident(pid))
        assert server.predict(ROW)[0] == 200 and server.state["replicas"] == [pid]
    # The first rounds may fill pools; what comes after them stays.
    assert held[-1] - held[6] < 8 << 20, [h >> 20 for h in held]


def _resident(pid: int) -> int:
    """Bytes of memory a process holds."""
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_version_that_forgot_its_golden_rows_never_answers(workspace: Workspace) -> None:
    def with_golden(intercept: float, score: float) -> str:
        golden = json.dumps({"rows": [{"inputs": ROW, "request": ROW, "request_time": 0, "score": score}]}).encode()
        model = onnx_model((1.0, -1.0), intercept)
        files = {
            n: FileRef(sha256=workspace.objects.put(d), size=len(d))
            for n, d in (("model.onnx", model), ("golden.json", golden))
        }
        return add_package(workspace, intercept=intercept, files=files, golden_file="golden.json")

    put_release(workspace, 1, arm(1, with_golden(0.0, probability(ROW))))
    with serving(workspace, "--replicas", "1") as server:
        server.until_version(1)
        put_release(workspace, 2, arm(2, with_golden(1.0, 0.123)))
        server.until(lambda: "golden row" in (server.ask("GET", "/health/ready")[1]["problem"] or ""))
        status, body = server.predict(ROW)
        assert (status, body["predictions"][0]["version"]) == (200, 1)
        put_release(workspace, 3, arm(3, with_golden(1.0, probability(ROW, intercept=1.0))))
        server.until_version(3)
