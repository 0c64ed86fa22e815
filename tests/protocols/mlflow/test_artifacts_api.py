"""Artifact bytes in and out, and requests that mean harm."""

import asyncio
import base64
import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from holdfast.protocols.mlflow import app as protocol
from holdfast.protocols.mlflow.app import ROUTES
from holdfast.server import access
from holdfast.server.access import Access
from tests.protocols.mlflow.client import Api, serving

ROOT = "/api/2.0/mlflow-artifacts/artifacts/"


def test_a_file_comes_back_as_it_went(api: Api) -> None:
    run_id = api.run()
    data = os.urandom(300_000)
    api.upload(f"0/{run_id}/artifacts/dir/a%20b%C3%BC.bin", data)
    response = api.http.get(f"{ROOT}0/{run_id}/artifacts/dir/a%20b%C3%BC.bin")
    assert response.content == data
    headers = response.headers
    assert headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"' and headers["accept-ranges"] == "bytes"
    assert headers["x-content-type-options"] == "nosniff" and headers["content-disposition"].startswith("attachment")
    part = api.http.get(f"{ROOT}0/{run_id}/artifacts/dir/a%20b%C3%BC.bin", headers={"Range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == data[100:200]
    beyond = api.http.get(f"{ROOT}0/{run_id}/artifacts/dir/a%20b%C3%BC.bin", headers={"Range": "bytes=999999-"})
    assert beyond.status_code == 416
    unchanged = api.http.get(
        f"{ROOT}0/{run_id}/artifacts/dir/a%20b%C3%BC.bin", headers={"If-None-Match": headers["etag"]}
    )
    assert unchanged.status_code == 304 and not unchanged.content
    assert api.http.get("/get-artifact", params={"run_id": run_id, "path": "dir/a bü.bin"}).content == data


def test_listing_and_deleting(api: Api) -> None:
    run_id = api.run()
    for name in ("a.txt", "dir/b.txt", "dir/deep/c.txt", "dir2/d.txt", "dir-x.txt"):
        api.upload(f"0/{run_id}/artifacts/{name}", name.encode())
    listed = api.get("artifacts/list", run_id=run_id)["files"]
    assert [(f["path"], f["is_dir"]) for f in listed] == [
        ("a.txt", False), ("dir", True), ("dir-x.txt", False), ("dir2", True),
    ]  # fmt: skip
    inner = api.get("artifacts/list", run_id=run_id, path="dir")["files"]
    assert [(f["path"], f.get("file_size")) for f in inner] == [("dir/b.txt", 9), ("dir/deep", None)]
    proxied = api.get("/api/2.0/mlflow-artifacts/artifacts", path=f"0/{run_id}/artifacts/dir")["files"]
    assert [f["path"] for f in proxied] == ["b.txt", "deep"]
    assert api.http.delete(f"{ROOT}0/{run_id}/artifacts/dir").status_code == 200
    assert [f["path"] for f in api.get("artifacts/list", run_id=run_id)["files"]] == ["a.txt", "dir-x.txt", "dir2"]
    assert api.http.get(f"{ROOT}0/{run_id}/artifacts/dir/b.txt").status_code == 404
    api.upload(f"0/{run_id}/artifacts/a.txt/under", b"x", 400)
    api.upload(f"0/{run_id}/artifacts/dir2", b"x", 400)


def test_multipart_is_declined_as_clients_expect(local: Api) -> None:
    response = local.http.post("/api/2.0/mlflow-artifacts/mpu/create/0/x", json={"path": "x", "num_parts": 2})
    assert response.status_code == 501 and response.json()["error_code"] == "NOT_IMPLEMENTED"
    response = local.http.post("/api/3.0/mlflow/traces", json={})
    assert response.status_code == 501


TRAVERSALS = [
    "../x", "%2e%2e/x", "..%2fx", "%2e%2e%2fx", "%252e%252e%252fx", "a/../../x", "a/%2e%2e/%2e%2e/x", "..%5cx", "a%5c..%5cx",
    "a%00b", "a;b", "%2fetc%2fpasswd", "C:%5cx", "C:/x", "a//b", "./a", "a/./b", "a%0ab", "a/%252e%252e",
    "a" * 3000,
]  # fmt: skip


def raw(api: Api, method: str, path: str, body: bytes = b"") -> int:
    """The status of a request whose path no client has tidied: decoded once, as the server's parser does."""
    scope = {
        "type": "http", "method": method, "path": unquote(path), "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")], "scheme": "http", "server": ("127.0.0.1", 5000), "client": ("127.0.0.1", 1),
        "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    asyncio.run(api.http.app(scope, receive, send))  # type: ignore[arg-type]
    return statuses[0]


@pytest.mark.parametrize("path", TRAVERSALS)
def test_paths_that_lead_elsewhere(local: Api, path: str, tmp_path: Path) -> None:
    run_id = local.run()
    before = {str(p) for p in tmp_path.rglob("*")}
    urls = [f"{ROOT}{path}"] + ([] if path.startswith("C:") else [f"{ROOT}0/{run_id}/artifacts/{path}"])
    for url in urls:
        for method in ("GET", "PUT", "DELETE"):
            assert raw(local, method, url, b"evil") == 400, (method, url)
    response = local.http.get("/get-artifact", params={"run_id": run_id, "path": "../" + path})
    assert response.status_code == 400 and response.json()["message"] == "Invalid path"
    assert local.workspace.runs.list_artifacts("") == []
    assert {str(p) for p in tmp_path.rglob("*") if ".db" not in p.name} == {p for p in before if ".db" not in p}


def test_invalid_paths_get_the_text_clients_match_on(local: Api) -> None:
    run_id = local.run()
    error = local.get("artifacts/list", 400, run_id=run_id, path="../path")
    assert error == {"error_code": "INVALID_PARAMETER_VALUE", "message": "Invalid path"}


@pytest.mark.parametrize(
    "location",
    ["../x", "file:///a/../b", "s3://b/%2e%2e/x", "mlflow-artifacts:/1", "runs:/x", "s3://b/x?y", "s3://b/x#y"],
)
def test_artifact_locations_that_are_refused(local: Api, location: str) -> None:
    local.post("experiments/create", 400, name="e", artifact_location=location)


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", b"3", b'"x"', b"null", b"\xff\xfe", b'{"name": ' + b"[" * 200_000, b'{"a":' * 50_000, b"[" * 100_000,
        b'{"name": "\\ud800"}', b'{"name": NaN}', b'{"name": {"a": 1}}', b'{"name": true}',
    ],
)  # fmt: skip
def test_bodies_that_are_no_request(local: Api, body: bytes) -> None:
    for path in ("experiments/create", "runs/search", "runs/log-batch", "logged-models/search"):
        response = local.http.post(f"/api/2.0/mlflow/{path}", content=body)
        assert 400 <= response.status_code < 500 or (path.endswith("search") and response.status_code == 200), (
            response.text
        )
        assert "Traceback" not in response.text


def test_a_body_beyond_the_limit(local: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_JSON", 1000)
    response = local.http.post("/api/2.0/mlflow/experiments/create", content=b'{"name": "' + b"a" * 2000 + b'"}')
    assert response.status_code == 413

    def pieces() -> Any:
        for _ in range(10):
            yield b"a" * 500

    assert local.http.post("/api/2.0/mlflow/experiments/create", content=pieces()).status_code == 413


SQL = ["' OR 1=1 --", "'; DROP TABLE runs; --", "\\", "%", "_", "' UNION SELECT * FROM params --", "x' AND '1'='1"]


@pytest.mark.parametrize("text", SQL)
def test_sql_in_every_text_is_text(api: Api, text: str) -> None:
    experiment = api.experiment(text)
    assert api.get("experiments/get-by-name", experiment_name=text)["experiment"]["experiment_id"] == experiment
    run_id = api.run(experiment, run_name=text, user_id=text)
    api.post("runs/log-parameter", run_id=run_id, key="p", value=text)
    api.post("runs/set-tag", run_id=run_id, key="t", value=text)
    value = '"' + text + '"'
    found = api.post("runs/search", experiment_ids=[experiment], filter=f"params.p = {value} AND tags.t = {value}")
    assert [r["info"]["run_id"] for r in found["runs"]] == [run_id]
    assert api.post("runs/search", experiment_ids=[experiment], filter=f"params.`{text}` = 'x'") == {}
    api.post("runs/search", 404, experiment_ids=[text])
    assert api.get("runs/get", 404, run_id=text)["error_code"] == "RESOURCE_DOES_NOT_EXIST"


# --- who may speak ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:5000", ""])
def test_foreign_hosts_and_origins(local: Api, host: str) -> None:
    assert local.http.get("/api/2.0/mlflow/experiments/search", headers={"Host": host}).status_code == 403
    response = local.http.get("/api/2.0/mlflow/experiments/search", headers={"Origin": f"http://{host or 'x'}"})
    assert response.status_code == 403 and "access-control-allow-origin" not in response.headers
    fine = local.http.get("/api/2.0/mlflow/experiments/search", headers={"Host": "LOCALHOST.:1234"})
    assert fine.status_code == 200


def test_every_route_needs_a_token_where_there_are_tokens(tmp_path: Path) -> None:
    secrets = {role: f"hf_{role}" for role in ("read", "write", "approve")}
    rules = Access(tokens=[access.of(s, name=role, role=role) for role, s in secrets.items()])  # type: ignore[arg-type]
    with serving(tmp_path, access=rules) as api:
        plain = [
            (r.method, r.path.replace("{model_id}", "m").replace("{tag_key}", "k"), r.writes)
            for r in ROUTES
            if "presigned" not in r.path
        ]
        plain += [
            ("GET", ROOT + "x", ""),
            ("PUT", ROOT + "x", "runs"),
            ("DELETE", ROOT + "x", "runs"),
            ("GET", "/get-artifact", ""),
        ]
        for method, path, writes in plain:
            for shown in (path, path.replace("/api/", "/ajax-api/"), "/" + path):
                assert api.http.request(method, shown).status_code == 401, (method, shown)
            wrong = api.http.request(method, path, headers={"Authorization": "Bearer hf_guess"})
            assert wrong.status_code == 401
            reader = api.http.request(method, path, headers={"Authorization": f"Bearer {secrets['read']}"})
            assert (reader.status_code == 403) == bool(writes), (method, path, reader.status_code)
        assert api.http.get("/health").status_code == 200
        api.http.headers["Authorization"] = f"Bearer {secrets['write']}"
        version = str(api.model())
        body = {"name": "fraud", "version": version, "stage": "Production", "archive_existing_versions": False}
        url = "/api/2.0/mlflow/model-versions/transition-stage"
        assert api.http.post(url, json=body).status_code == 403
        basic = {"Authorization": "Basic " + base64.b64encode(b"anyone:hf_approve").decode()}
        assert api.http.post(url, json=body, headers=basic).status_code == 200
        assert api.workspace.ledger.query(kind="model.stage")[0].actor == "approve"


def test_errors_of_ours_show_no_inside(local: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **more: object) -> None:
        raise RuntimeError("secret path /root/x")

    monkeypatch.setattr(type(local.workspace.runs), "get_run", broken)
    response = local.http.get("/api/2.0/mlflow/runs/get", params={"run_id": "x"})
    assert response.status_code == 500 and "secret" not in response.text and "Traceback" not in response.text


def test_a_browsers_upload(local: Api) -> None:
    run_id = local.run()
    url = "/ajax-api/2.0/mlflow/upload-artifact"
    for query, data, text in (
        ({}, b"x", "Request must specify run_uuid."),
        ({"run_uuid": run_id}, b"x", "Request must specify path."),
        ({"run_uuid": run_id, "path": "../t"}, b"x", "Invalid path"),
        ({"run_uuid": run_id, "path": "t"}, b"", "Request must specify data."),
    ):
        response = local.http.post(url, params=query, content=data)
        assert response.status_code == 400 and text in response.json()["message"]
    assert local.http.post(url, params={"run_uuid": run_id, "path": "t.txt"}, content=b"hello").status_code == 200
    assert local.http.get("/get-artifact", params={"run_uuid": run_id, "path": "t.txt"}).text == "hello"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("MLmodel", "text/plain"), ("a.yaml", "text/plain"), ("a.json", "text/plain"), ("c.png", "image/png"), ("d.pdf", "application/pdf"),
        ("x.html", "application/octet-stream"), ("x.svg", "application/octet-stream"), ("b.pkl", "application/octet-stream"),
    ],
)  # fmt: skip
def test_a_logged_models_file_with_its_kind_and_name(local: Api, name: str, kind: str) -> None:
    info = local.post("logged-models", experiment_id=local.experiment())["model"]["info"]
    local.upload(f"{info['artifact_uri'].removeprefix('mlflow-artifacts:/')}/deep/{name}", b"data")
    url = f"/ajax-api/2.0/mlflow/logged-models/{info['model_id']}/artifacts/files"
    answer = local.http.get(url, params={"artifact_file_path": f"deep/{name}"})
    assert answer.content == b"data" and answer.headers["content-type"] == kind
    assert answer.headers["content-disposition"].startswith(f"attachment; filename={name};")
    for bad in ("../x", "%2e%2e/x", ""):
        assert local.http.get(url, params={"artifact_file_path": bad}).status_code == 400
    assert local.http.get(url, params={"artifact_file_path": "none"}).status_code == 404
    assert local.http.get(url.replace(info["model_id"], "m-x"), params={"artifact_file_path": "a"}).status_code == 404
