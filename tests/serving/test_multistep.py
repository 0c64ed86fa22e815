from __future__ import annotations

import json
from importlib import metadata
from typing import Any

import msgspec
import pytest

import holdfast as hf
from holdfast.core.errors import BadDefinition, Refused
from holdfast.core.records import Package
from holdfast.serving import environment, journal, multistep
from holdfast.workspace import Workspace
from tests.serving.world import add_package, arm, in_process, probability, put_release, serving

ROW = {"a": 0.5, "b": 0.25}

DEFINITIONS = """
import holdfast as hf

@hf.service("toy")
class Toy:
    def __init__(self, predict):
        self.predict = predict

    @hf.api
    def decide(self, body: dict) -> dict:
        first, second = self.predict([body["row"], {"a": 0.0, "b": 0.0}])
        third = self.predict([body["row"]])[0]
        return {"score": first["score"], "ids": [first["id"], second["id"], third["id"]]}
"""


class Order(msgspec.Struct):
    amount: float
    row: dict[str, float]


@hf.service("toy")
class Toy:
    def __init__(self, predict: Any) -> None:
        self.predict = predict

    @hf.api
    def price(self, order: Order) -> dict[str, Any]:
        return {"cost": order.amount * self.predict([order.row])[0]["score"]}

    @hf.api
    def explode(self, body: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("a secret of ours")

    @hf.api
    def leave(self, body: dict[str, Any]) -> dict[str, Any]:
        raise SystemExit(3)

    @hf.api
    def odd(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"handle": object()}

    @hf.api
    def twice(self, body: dict[str, Any]) -> list[str]:
        return [self.predict([ROW])[0]["id"] for _ in range(2)]

    def not_a_route(self, body: dict[str, Any]) -> dict[str, Any]:
        return {}


def test_methods_are_routes_with_validated_bodies(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))

    async def story(replica: Any, ask: Any) -> None:
        multistep.mount(replica, Toy)
        answer = await ask("POST", "/api/price", {"amount": 10, "row": ROW})
        assert json.loads(answer.body)["cost"] == pytest.approx(10 * probability(ROW), abs=1e-5)
        for body, status, code in (
            ({"amount": "x", "row": ROW}, 422, "HF137"),
            ({"row": ROW}, 422, "HF137"),
            (b"{", 400, "HF101"),
            ({"amount": 1, "row": {"a": 1.0}}, 422, "HF131"),
        ):
            answer = await ask("POST", "/api/price", body)
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (status, code), body
        for failing in ("explode", "leave", "odd"):
            answer = await ask("POST", f"/api/{failing}", {})
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (
                500,
                "HF930",
            ) and b"secret" not in answer.body
        for given in ("x" * 64, "y" * 63, "z"):  # an id that leaves no room for the number of the call, too
            answer = await ask("POST", "/api/twice", {}, {"x-holdfast-prediction-id": given})
            assert len(set(json.loads(answer.body))) == 2, answer
        assert (await ask("POST", "/api/not_a_route", {})).status == 404

    in_process(workspace, story)


def test_the_project_s_class_is_served_and_what_it_asked_is_logged(workspace: Workspace) -> None:
    (workspace.root / "definitions.py").write_text(DEFINITIONS)
    put_release(workspace, 1, arm(1, add_package(workspace)))
    with serving(workspace, "--replicas", "2", "--log", "durable") as server:
        server.until_version(1)
        status, body = server.ask("POST", "/api/decide", {"row": ROW}, {"x-holdfast-prediction-id": "order-1"})
        assert status == 200 and body["score"] == pytest.approx(probability(ROW), abs=1e-6)
        assert body["ids"] == ["order-1.1-0", "order-1.1-1", "order-1.2"]
    assert sorted(journal.read(workspace.path("predictions", "toy"))["id"].to_pylist()) == body["ids"]


def test_a_class_without_routes_is_a_mistake(workspace: Workspace) -> None:
    class Nothing:
        pass

    put_release(workspace, 1, arm(1, add_package(workspace)))

    async def story(replica: Any, ask: Any) -> None:
        with pytest.raises(BadDefinition):
            multistep.mount(replica, hf.service("toy")(Nothing))

    in_process(workspace, story)


def package(format_: str, packages: dict[str, str]) -> Package:
    return Package(
        name="m", format=format_, task="binary", model_file="m", files={}, inputs=[], request=[], outputs=[],
        environment={"packages": packages},
    )  # fmt: skip


def test_another_environment_is_refused_unless_the_model_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn

    environment.check(package("skops", {"scikit-learn": sklearn.__version__}))
    environment.check(package("skops", {}))
    environment.check(package("onnx", {"scikit-learn": "0.1"}))
    for made_with in ("0.19.2", "99.0"):
        with pytest.raises(Refused, match="scikit-learn"):
            environment.check(package("skops", {"scikit-learn": made_with}))

    def gone(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", gone)
    with pytest.raises(Refused, match="missing"):
        environment.check(package("lightgbm", {"lightgbm": "4.0"}))
