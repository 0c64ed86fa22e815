"""Models through MLflow's API: numbers, stages, aliases; and no door to Production that passes the gate by."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import holdfast as hf
from holdfast.core.records import RuleOutcome, Verdict
from holdfast.protocols.mlflow.app import ROUTES
from holdfast.registry import versions
from holdfast.server.gc import collect
from holdfast.validation.rules import digest_of
from tests.protocols.mlflow.client import Api, serving

GATED = """
import holdfast as hf

@hf.model("fraud")
def train(data, params): ...

service = hf.Service("fraud", model=train, gate=hf.Gate(hf.at_least("accuracy", 0.9)))
"""


@pytest.fixture
def gated(tmp_path: Path) -> Any:
    (tmp_path / "definitions.py").write_text(GATED)
    with serving(tmp_path) as opened:
        yield opened


def judge(api: Api, version: int, outcome: Any = "pass", name: str = "fraud") -> None:
    content = versions.get(api.workspace.ledger, name, version).content
    verdict = Verdict(
        model=name, version=version, content=content, outcome=outcome, rules=digest_of([hf.at_least("accuracy", 0.9)]),
        evidence="e", at=1,
        results=[RuleOutcome(check="accuracy", outcome=outcome, message="")],
    )  # fmt: skip
    versions.attach_verdict(api.workspace.ledger, verdict, at=1, actor="gate")


def transition(
    api: Api, version: int, stage: str, expect: int = 200, *, archive: bool = False, name: str = "fraud"
) -> Any:
    return api.post(
        "model-versions/transition-stage",
        expect,
        name=name,
        version=str(version),
        stage=stage,
        archive_existing_versions=archive,
    )


def test_a_model_and_its_versions(api: Api) -> None:
    version = api.model(tags=[{"key": "a", "value": "1"}], description="first")
    assert version == 1 and api.model() == 2
    found = api.get("model-versions/get", name="fraud", version="1")["model_version"]
    assert (found["current_stage"], found["status"], found["description"]) == ("None", "READY", "first")
    model = api.get("registered-models/get", name="fraud")["registered_model"]
    assert [v["version"] for v in model["latest_versions"]] == ["2"]
    transition(api, 1, "staging")
    model = api.get("registered-models/get", name="fraud")["registered_model"]
    assert {v["current_stage"]: v["version"] for v in model["latest_versions"]} == {"Staging": "1", "None": "2"}
    api.post("registered-models/alias", name="fraud", alias="best", version="1")
    assert api.get("registered-models/alias", name="fraud", alias="best")["model_version"]["version"] == "1"
    assert api.get("model-versions/get", name="fraud", version="1")["model_version"]["aliases"] == ["best"]
    api.send("DELETE", "registered-models/alias", name="fraud", alias="best")
    assert "not found" in api.get("registered-models/alias", 400, name="fraud", alias="best")["message"]
    api.send("PATCH", "model-versions/update", name="fraud", version="1", description="second")
    api.post("model-versions/set-tag", name="fraud", version="1", key="b", value="2")
    api.send("DELETE", "model-versions/delete-tag", name="fraud", version="1", key="a")
    found = api.get("model-versions/get", name="fraud", version="1")["model_version"]
    assert found["description"] == "second" and found["tags"] == [{"key": "b", "value": "2"}]
    api.post("registered-models/rename", name="fraud", new_name="scam")
    assert api.get("registered-models/get", 404, name="fraud")["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    api.send("DELETE", "model-versions/delete", name="scam", version="2")
    assert "not found" in api.get("model-versions/get", 404, name="scam", version="2")["message"]
    api.send("DELETE", "registered-models/delete", name="scam")
    assert api.get("registered-models/search") == {}


def test_searches(api: Api) -> None:
    for name in ("b", "a", "c"):
        api.model(name=name)
    api.model(name="a")
    api.post("registered-models/set-tag", name="c", key="k", value="v")

    def names(**query: Any) -> list[str]:
        return [m["name"] for m in api.get("registered-models/search", **query).get("registered_models", [])]

    assert names() == ["a", "b", "c"] and names(order_by=["name DESC"]) == ["c", "b", "a"]
    assert names(filter="name ILIKE 'A'") == ["a"] and names(filter="tags.k = 'v'") == ["c"]
    assert names(filter="name IN ('a', 'c')") == ["a", "c"]
    first = api.get("registered-models/search", max_results=2)
    rest = api.get("registered-models/search", page_token=first["next_page_token"])
    assert [m["name"] for m in first["registered_models"] + rest["registered_models"]] == ["a", "b", "c"]
    found = api.get("model-versions/search", filter="name = 'a'", order_by=["version_number DESC"])["model_versions"]
    assert [v["version"] for v in found] == ["2", "1"]
    assert api.get("model-versions/search", filter="version_number > 1")["model_versions"][0]["name"] == "a"
    for bad in ({"filter": "name LIKE 3"}, {"order_by": ["nope"]}, {"max_results": 1001}, {"max_results": 0}):
        api.get("registered-models/search", 400, **bad)


@pytest.mark.parametrize("version", ["0", "x", "-1", "1.0", "99999999999", "٣", ""])
def test_odd_version_numbers(local: Api, version: str) -> None:
    local.model()
    error = local.get("model-versions/get", 404 if version == "0" else 400, name="fraud", version=version)
    assert error["error_code"] in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")


def test_production_is_refused_until_the_gate_passes(gated: Api) -> None:
    version = gated.model()
    transition(gated, version, "Staging")
    error = transition(gated, version, "Production", 400)
    assert error["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "no verdict" in error["message"] and "holdfast check fraud@1" in error["message"]
    judge(gated, version, "not enough evidence")
    transition(gated, version, "Production", 400)
    judge(gated, version)
    assert transition(gated, version, "Production")["model_version"]["current_stage"] == "Production"
    entries = gated.workspace.ledger.query(kind="model.stage", subject="fraud")
    assert [(e.body["before"], e.body["after"]) for e in entries] == [("None", "Staging"), ("Staging", "Production")]


def test_every_write_of_the_api_tried_as_a_way_to_production(gated: Api) -> None:
    """Whatever order of calls: a version without a verdict is never approved under the gated name."""
    version = str(gated.model())
    gated.model(name="free")
    transition(gated, 1, "Production", name="free")
    gated.post("registered-models/alias", name="free", alias="champion", version="1")
    attempts: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "model-versions/transition-stage", {"stage": s, "archive_existing_versions": a})
        for s in ("Production", "production", "PRODUCTION", " Production", "Production\u200b")
        for a in (True, False)
    ]
    attempts += [
        ("POST", "registered-models/alias", {"alias": a})
        for a in ("champion", "Champion", "CHAMPION", "Production", "latest")
    ]
    attempts += [
        ("POST", "registered-models/rename", {"name": "free", "new_name": "fraud2"}),
        ("POST", "model-versions/set-tag", {"key": "current_stage", "value": "Production"}),
        ("PATCH", "model-versions/update", {"description": "x", "stage": "Production", "current_stage": "Production"}),
        ("POST", "model-versions/create", {"source": "models:/free@champion", "stage": "Production"}),
        ("POST", "model-versions/create", {"source": "models:/free/Production", "current_stage": "Production"}),
    ]
    for method, path, body in attempts:
        gated.http.request(method, f"/api/2.0/mlflow/{path}", json={"name": "fraud", "version": version, **body})
    # A rename of an approved, ungated model onto the gated name, once that name is free.
    gated.send("DELETE", "registered-models/delete", name="fraud")
    error = gated.post(
        "registered-models/rename", 400, name="free" if not _exists(gated, "fraud2") else "fraud2", new_name="fraud"
    )
    assert "may not move" in error["message"]
    for model in gated.workspace.ledger.scan(versions.VERSIONS, prefix="fraud/"):
        assert model[1]["stage"] != "Production" and not model[1]["aliases"]
    for entry in gated.workspace.ledger.query(subject="fraud", kind="model.*"):
        moved = entry.kind == "model.stage" and entry.body["after"] == "Production"
        assert not moved and not (entry.kind == "model.alias" and entry.body["after"])


def _exists(api: Api, name: str) -> bool:
    return any(m.name == name for m in versions.list_models(api.workspace.ledger))


def test_bytes_written_after_the_verdict_are_not_what_is_served(gated: Api) -> None:
    version = gated.model(b"measured")
    judge(gated, version)
    transition(gated, version, "Production")
    source = gated.get("model-versions/get", name="fraud", version="1")["model_version"]["source"]
    path = source.removeprefix("mlflow-artifacts:/")
    gated.upload(f"{path}/MLmodel", b"swapped")
    gated.upload(f"{path}/extra.py", b"evil")
    uri = gated.get("model-versions/get-download-uri", name="fraud", version="1")["artifact_uri"]
    pinned = uri.removeprefix("mlflow-artifacts:/")
    listing = gated.get("/api/2.0/mlflow-artifacts/artifacts", path=pinned)["files"]
    assert [f["path"] for f in listing] == ["MLmodel"]
    root = "/api/2.0/mlflow-artifacts/artifacts/"
    assert gated.http.get(f"{root}{pinned}/MLmodel").content == b"measured"
    legacy = gated.http.get("/model-versions/get-artifact", params={"name": "fraud", "version": "1", "path": "MLmodel"})
    assert legacy.content == b"measured"
    assert gated.http.put(f"{root}{pinned}/MLmodel", content=b"x").status_code == 403
    assert gated.http.delete(f"{root}{pinned}/MLmodel").status_code == 403
    assert gated.http.get(f"{root}{pinned}/MLmodel").content == b"measured"


def test_bytes_kept_elsewhere_have_no_approvable_content(gated: Api) -> None:
    gated.post("registered-models/create", name="fraud")
    gated.post("model-versions/create", name="fraud", source="s3://bucket/model")
    assert "no verdict" in transition(gated, 1, "Production", 400)["message"]


@pytest.mark.parametrize(
    "source",
    ["/etc", "file:///etc/passwd", "../x", "mlflow-artifacts:/0/../../etc", "mlflow-artifacts:/%2e%2e/x", "~/x", "./m"],
)
def test_sources_that_choose_server_paths_are_refused(local: Api, source: str) -> None:
    local.post("registered-models/create", name="m")
    error = local.post("model-versions/create", 400, name="m", source=source)
    relative = ".." in source or "%2e" in source
    assert ("without relative path references" if relative else "To use a local path") in error["message"]
    assert local.get("model-versions/search") == {}


@pytest.mark.parametrize(
    "source",
    ["mlflow-artifacts:/models///", "mlflow-artifacts:/a///b", "s3://bucket/x", "mlflow-artifacts://host:9000/m/..../"],
)
def test_sources_that_are_merely_odd_are_taken(local: Api, source: str) -> None:
    local.post("registered-models/create", name="m")
    assert local.post("model-versions/create", name="m", source=source)["model_version"]["source"] == source


def test_a_source_belongs_to_the_run_it_claims(local: Api) -> None:
    local.post("registered-models/create", name="m")
    first, second = local.run(), local.run()
    local.upload(f"0/{first}/artifacts/model/MLmodel", b"x")
    source = f"mlflow-artifacts:/0/{first}/artifacts/model"
    local.post("model-versions/create", 400, name="m", source=source, run_id=second)
    local.post("model-versions/create", 400, name="m", source=f"runs:/{first}/model", run_id=second)
    local.post("model-versions/create", name="m", source=source, run_id=first)


def test_broken_definitions_shut_the_door_rather_than_open_it(tmp_path: Path) -> None:
    (tmp_path / "definitions.py").write_text("this is not python")
    with serving(tmp_path) as api:
        version = api.model()
        assert "no verdict" in transition(api, version, "Production", 400)["message"]


@pytest.mark.parametrize(("count", "threads"), [(60, 8), pytest.param(1000, 32, marks=pytest.mark.soak)])
def test_parallel_registrations(api: Api, count: int, threads: int) -> None:
    api.post("registered-models/create", name="m")

    def one(_: int) -> int:
        return int(api.post("model-versions/create", name="m", source="s3://b/m")["model_version"]["version"])

    with ThreadPoolExecutor(threads) as pool:
        assert sorted(pool.map(one, range(count))) == list(range(1, count + 1))


def test_every_route_is_reached_by_its_own_path(local: Api) -> None:
    """No route is shadowed or misspelled: each answers something other than 'no such endpoint'."""
    for route in ROUTES:
        path = route.path.replace("{model_id}", "m-1").replace("{tag_key}", "k")
        response = local.http.request(route.method, path, json={} if route.method != "GET" else None)
        assert response.status_code != 405 and response.json().get("error_code") != "ENDPOINT_NOT_FOUND", path
        assert response.status_code < 500 or response.status_code == 501, (path, response.text)


def test_collection_spares_what_a_version_needs(local: Api) -> None:
    ws = local.workspace
    registered = local.model(b"registered bytes")
    run_id = versions.get(ws.ledger, "fraud", registered).run_id
    assert run_id is not None
    local.upload(f"0/{run_id}/artifacts/notes.txt", b"nobody needs this")
    local.post("runs/delete", run_id=run_id)
    now = ws.clock.now()
    assert collect(ws.runs, ws.ledger, ws.objects, before=now - 10**9, at=now, actor="t").objects == 0
    found = collect(ws.runs, ws.ledger, ws.objects, before=now + 1, at=now, actor="t")
    assert (found.objects, found.bytes, found.kept) == (1, len(b"nobody needs this"), 1)
    uri = local.get("model-versions/get-download-uri", name="fraud", version="1")["artifact_uri"]
    path = uri.removeprefix("mlflow-artifacts:/")
    assert local.http.get(f"/api/2.0/mlflow-artifacts/artifacts/{path}/MLmodel").content == b"registered bytes"
    again = collect(ws.runs, ws.ledger, ws.objects, before=now + 1, at=now, actor="t")
    assert (again.objects, again.kept) == (0, 0)


def test_the_filter_that_clients_add_to_leave_prompts_out_finds_models(api: Api) -> None:
    api.post("registered-models/create", name="plain")
    mark = {"key": "mlflow.prompt.is_prompt", "value": "true"}
    api.post("registered-models/create", name="p")
    api.post("registered-models/set-tag", name="p", **mark)
    found = api.get("registered-models/search", filter="tag.`mlflow.prompt.is_prompt` != 'true'")["registered_models"]
    assert [m["name"] for m in found] == ["plain"]
    assert api.get("registered-models/search", filter="tag.other != 'x'") == {}


def test_a_prompt_is_not_taken_for_a_model(api: Api) -> None:
    mark = {"key": "mlflow.prompt.is_prompt", "value": "true"}
    refused = api.post("registered-models/create", 501, name="greeting", tags=[mark])
    assert refused["error_code"] == "NOT_IMPLEMENTED" and "prompts" in refused["message"]
    assert api.get("registered-models/search") == {}
    api.post("registered-models/create", name="plain")
    assert api.post("model-versions/create", 501, name="plain", source="prompt-template", tags=[mark])["message"]
    assert api.get("model-versions/search") == {}


def test_a_logged_model_says_which_versions_were_made_of_it(api: Api) -> None:
    experiment = api.experiment()
    made = api.post("logged-models", experiment_id=experiment, source_run_id="123")["model"]["info"]
    assert made["source_run_id"] == "123"
    api.post("registered-models/create", name="m")
    for number in (1, 2):
        asked = {"name": "m", "source": made["artifact_uri"], "model_id": made["model_id"]}
        version = api.post("model-versions/create", **asked)["model_version"]
        assert version["run_id"] == "123", "the client leaves the run of a logged model to the server"
        tags = {t["key"]: t["value"] for t in api.get(f"logged-models/{made['model_id']}")["model"]["info"]["tags"]}
        known = ", ".join(f'{{"name": "m", "version": {n}}}' for n in range(1, number + 1))
        assert tags["mlflow.modelVersions"] == f"[{known}]"


def test_a_copy_is_downloaded_from_where_its_original_is(api: Api) -> None:
    api.post("registered-models/create", name="m")
    api.post("model-versions/create", name="m", source="runs:/elsewhere/model", run_id="another")
    api.post("model-versions/create", name="m", source="models:/m/1")
    copy = api.get("model-versions/get", name="m", version="2")["model_version"]
    assert copy["source"] == "models:/m/1" and copy["run_id"] == "another"
    assert api.get("model-versions/get-download-uri", name="m", version="2")["artifact_uri"] == "runs:/elsewhere/model"


def test_waivers_in_force_are_a_tag_that_ends_by_itself(gated: Api) -> None:
    from holdfast.core.records import Waiver
    from holdfast.registry import waivers

    gated.model()
    now = gated.workspace.clock.now()
    for check, until in (("accuracy", now + 10**9), ("latency", now + 1)):
        waiver = Waiver(check=check, by="ann", reason="known", until=until, at=now, model="fraud", version=1)
        waivers.grant(gated.workspace.ledger, waiver, at=now)
    asked = [
        gated.get("model-versions/get", name="fraud", version="1")["model_version"],
        gated.get("model-versions/search", filter="name='fraud'")["model_versions"][0],
        gated.get("registered-models/get", name="fraud")["registered_model"]["latest_versions"][0],
    ]
    for version in asked:
        (tag,) = version["tags"]
        assert tag["key"] == "holdfast.waived" and tag["value"].startswith("accuracy by ann until ")
