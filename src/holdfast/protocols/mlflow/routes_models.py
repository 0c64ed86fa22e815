"""Logged models: what an MLflow 3 client makes of ``log_model`` before anything is registered."""

# ruff: noqa: S106  ("str" is the type of the page_token field, not a password)
from __future__ import annotations

from typing import Any

from holdfast.core.errors import BadInput, NotFound
from holdfast.core.records import Json
from holdfast.core.tracking import ModelStatus, Order
from holdfast.protocols.mlflow import filters, limits, translate
from holdfast.protocols.mlflow.artifacts import directory, location
from holdfast.protocols.mlflow.context import Context
from holdfast.protocols.mlflow.wire import Field, Route, invalid, objects, optional, required

_PAIR = {"key": Field("str", True), "value": Field("str")}
_STATUS: dict[Any, ModelStatus] = {
    "LOGGED_MODEL_PENDING": "PENDING",
    "LOGGED_MODEL_READY": "READY",
    "LOGGED_MODEL_UPLOAD_FAILED": "UPLOAD_FAILED",
    1: "PENDING",
    2: "READY",
    3: "UPLOAD_FAILED",
}
_BAD_NAME_CHARACTERS = "/:.%\"'"


def create(ctx: Context, q: Json) -> Json:
    name = q.get("name", "")
    if any(c in name for c in _BAD_NAME_CHARACTERS):
        raise BadInput(
            f"Invalid model name ({name!r}) provided. Model name must be a non-empty string and cannot contain the "
            f"following characters: ('/', ':', '.', '%', '\"', \"'\")"
        )
    params = translate.tags_from(objects("params", q.get("params", []), _PAIR))
    tags = limits.check_tags(translate.tags_from(objects("tags", q.get("tags", []), _PAIR)))
    for key, value in params.items():
        limits.check_length(key, "key", limits.KEY)
        limits.check_length(value, "value", limits.PARAM_VALUE)
    model = ctx.runs.create_model(
        q["experiment_id"],
        at=ctx.now(),
        name=name or _made_up_name(),
        model_type=q.get("model_type", ""),
        run_id=q.get("source_run_id") or None,
        params=params,
        tags=tags,
    )
    return {"model": translate.logged_model(model)}


def get(ctx: Context, q: Json) -> Json:
    return {"model": translate.logged_model(ctx.runs.get_model(q["model_id"]))}


def finalize(ctx: Context, q: Json) -> Json:
    if not isinstance(q["status"], str | int) or q["status"] not in _STATUS:
        raise invalid("status", q["status"])
    return {
        "model": translate.logged_model(ctx.runs.update_model(q["model_id"], at=ctx.now(), status=_STATUS[q["status"]]))
    }


def delete(ctx: Context, q: Json) -> Json:
    ctx.runs.update_model(q["model_id"], at=ctx.now(), deleted=True)
    return {}


def set_tags(ctx: Context, q: Json) -> Json:
    tags = limits.check_tags(translate.tags_from(objects("tags", q.get("tags", []), _PAIR)))
    return {"model": translate.logged_model(ctx.runs.update_model(q["model_id"], at=ctx.now(), tags=tags))}


def delete_tag(ctx: Context, q: Json) -> Json:
    with ctx.runs.transaction():
        if q["tag_key"] not in ctx.runs.get_model(q["model_id"]).tags:
            raise NotFound(f"No tag with key {q['tag_key']!r} found for model with ID {q['model_id']!r}.")
        ctx.runs.update_model(q["model_id"], at=ctx.now(), tags={q["tag_key"]: None})
    return {}


def log_params(ctx: Context, q: Json) -> Json:
    params = translate.tags_from(objects("params", q.get("params", []), _PAIR))
    for key, value in params.items():
        limits.check_length(key, "key", limits.KEY)
        limits.check_length(value, "value", limits.PARAM_VALUE)
    ctx.runs.update_model(q["model_id"], at=ctx.now(), params=params)
    return {}


def search(ctx: Context, q: Json) -> Json:
    order: list[Order] = []
    for place, item in enumerate(q.get("order_by", [])):
        name = item.get("field_name")
        if not isinstance(name, str) or not name:
            raise invalid(f"order_by[{place}].field_name", name)
        one = filters.order_by_field(name, item.get("ascending", True) is not False, filters.LOGGED_MODELS)
        narrowed, version = item.get("dataset_name"), item.get("dataset_digest")
        if not isinstance(narrowed, str | None) or not isinstance(version, str | None):
            raise invalid(f"order_by[{place}].dataset_name", narrowed)
        order.append(
            Order(kind=one.kind, key=one.key, ascending=one.ascending, dataset_name=narrowed, dataset_digest=version)
        )
    datasets = [
        (d["dataset_name"], d.get("dataset_digest"))
        for d in objects(
            "datasets", q.get("datasets", []), {**required(dataset_name="str"), **optional(dataset_digest="str")}
        )
    ]
    found, token = ctx.runs.search_models(
        q.get("experiment_ids", []),
        where=filters.parse(q.get("filter", ""), filters.LOGGED_MODELS),
        datasets=datasets,
        order=order,
        limit=limits.page_size(q.get("max_results"), 100, 1000),
        token=q.get("page_token") or None,
    )
    out: Json = {"models": [translate.logged_model(m) for m in found]} if found else {}
    if token:
        out["next_page_token"] = token
    return out


def artifacts(ctx: Context, q: Json) -> Json:
    model = ctx.runs.get_model(q["model_id"])
    return {
        "root_uri": model.artifact_uri,
        "files": directory(ctx, location(model.artifact_uri), q.get("artifact_directory_path", "")),
    }


def _made_up_name() -> str:
    import secrets

    return f"model-{secrets.token_hex(4)}"


_BASE = "/api/2.0/mlflow/logged-models"
_ID = required(model_id="str")
ROUTES = [
    Route(
        "POST",
        _BASE,
        create,
        {
            **required(experiment_id="str"),
            **optional(name="str", model_type="str", source_run_id="str", params="objects", tags="objects"),
        },
        "runs",
    ),
    Route(
        "POST",
        f"{_BASE}/search",
        search,
        optional(
            experiment_ids="strings",
            filter="str",
            datasets="objects",
            max_results="int",
            order_by="objects",
            page_token="str",
        ),
    ),
    Route("GET", f"{_BASE}/{{model_id}}", get, _ID),
    Route("PATCH", f"{_BASE}/{{model_id}}", finalize, {**_ID, **required(status="any")}, "runs"),
    Route("DELETE", f"{_BASE}/{{model_id}}", delete, _ID, "runs"),
    Route("PATCH", f"{_BASE}/{{model_id}}/tags", set_tags, {**_ID, **optional(tags="objects")}, "runs"),
    Route("DELETE", f"{_BASE}/{{model_id}}/tags/{{tag_key}}", delete_tag, {**_ID, **required(tag_key="str")}, "runs"),
    Route("POST", f"{_BASE}/{{model_id}}/params", log_params, {**_ID, **optional(params="objects")}, "runs"),
    Route(
        "GET",
        f"{_BASE}/{{model_id}}/artifacts/directories",
        artifacts,
        {**_ID, **optional(artifact_directory_path="str", page_token="str")},
    ),
]
