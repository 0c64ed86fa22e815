"""Registered models, their versions, stages and aliases. Every approval goes through ``registry.pointers``."""

# ruff: noqa: S106  ("str" is the type of the page_token field, not a password)
from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import msgspec

from holdfast.core.errors import BadInput, NotFound
from holdfast.core.records import Json, ModelVersion
from holdfast.core.tracking import Clause, Order, compare
from holdfast.protocols.mlflow import filters, limits, translate
from holdfast.protocols.mlflow.artifacts import files_under, location, pinned_uri
from holdfast.protocols.mlflow.context import Context
from holdfast.protocols.mlflow.paging import Key, page
from holdfast.protocols.mlflow.wire import Field, ProtocolError, Route, invalid, objects, optional, required
from holdfast.registry import foreign, pointers, versions, waivers
from holdfast.registry.names import ACTIVE_STAGES, check_alias, check_model_name, check_stage, is_protected
from holdfast.registry.versions import RegisteredModel

IS_PROMPT = "mlflow.prompt.is_prompt"
MODEL_VERSIONS = "mlflow.modelVersions"
_PAIR = {"key": Field("str", True), "value": Field("str")}


# --- registered models ------------------------------------------------------------------------------------------------


def create_model(ctx: Context, q: Json) -> Json:
    model = versions.create_model(
        ctx.ledger, q["name"], at=ctx.now(), actor=ctx.actor, description=q.get("description", ""), tags=_tags(q)
    )
    return {"registered_model": translate.registered_model(model, [])}


def get_model(ctx: Context, q: Json) -> Json:
    return {"registered_model": _shown(ctx, versions.get_model(ctx.ledger, q["name"]))}


def rename_model(ctx: Context, q: Json) -> Json:
    new_name = q.get("new_name") or ""
    policy = ctx.policy(check_model_name(new_name))
    if any(
        v.stage == "Production" or any(is_protected(a, ctx.protected) for a in v.aliases)
        for v in versions.list(ctx.ledger, q["name"])
    ):
        ctx.require_approver(f"Renaming {q['name']!r}, which has an approved version,")
    model = pointers.rename(
        ctx.ledger, q["name"], new_name, policy=policy, at=ctx.now(), actor=ctx.actor, protected=ctx.protected
    )
    return {"registered_model": _shown(ctx, model)}


def update_model(ctx: Context, q: Json) -> Json:
    model = versions.update_model(
        ctx.ledger, q["name"], description=q.get("description", ""), at=ctx.now(), actor=ctx.actor
    )
    return {"registered_model": _shown(ctx, model)}


def delete_model(ctx: Context, q: Json) -> Json:
    versions.delete_model(ctx.ledger, q["name"], at=ctx.now(), actor=ctx.actor)
    return {}


def search_models(ctx: Context, q: Json) -> Json:
    clauses = filters.parse(q.get("filter", ""), filters.REGISTERED_MODELS)
    orders = filters.parse_order(q.get("order_by", []), filters.REGISTERED_MODELS)
    found = [m for m in versions.list_models(ctx.ledger) if _matches(m, m.tags, clauses)]
    keys = [*_keys(orders), _key("name")]
    shown, token = page(
        found,
        keys,
        limit=limits.page_size(q.get("max_results"), 100, 1000),
        token=q.get("page_token") or None,
        query=["models", clauses, orders],
    )
    return _page({"registered_models": [_shown(ctx, m) for m in shown]}, token)


def latest_versions(ctx: Context, q: Json) -> Json:
    versions.get_model(ctx.ledger, q["name"])
    stages = [check_stage(s) for s in q.get("stages", [])]
    found = translate.latest_versions(versions.list(ctx.ledger, q["name"]), stages)
    return {"model_versions": _told(ctx, found)} if found else {}


def set_model_tag(ctx: Context, q: Json) -> Json:
    _check_tag(q)
    versions.set_tag(ctx.ledger, q["name"], None, q["key"], q.get("value", ""), at=ctx.now(), actor=ctx.actor)
    return {}


def delete_model_tag(ctx: Context, q: Json) -> Json:
    versions.set_tag(ctx.ledger, q["name"], None, q["key"], None, at=ctx.now(), actor=ctx.actor)
    return {}


# --- versions ---------------------------------------------------------------------------------------------------------


def create_version(ctx: Context, q: Json) -> Json:
    name = check_model_name(q["name"])
    versions.get_model(ctx.ledger, name)
    content, run_id = _content(ctx, q)
    version = versions.create(
        ctx.ledger,
        name,
        content=content,
        run_id=run_id,
        source=q["source"],
        tags=_tags(q),
        description=q.get("description", ""),
        model_id=_model_id(q),
        run_link=q.get("run_link", ""),
        at=ctx.now(),
        actor=ctx.actor,
        must_exist=True,
    )
    if version.model_id:
        _note_registration(ctx, version)
    return {"model_version": translate.model_version(version)}


def _note_registration(ctx: Context, version: ModelVersion) -> None:
    """A logged model's tag says which versions were made of it; a convenience, the versions themselves are the truth."""
    with ctx.runs.transaction():
        try:
            model = ctx.runs.get_model(version.model_id or "")
        except NotFound:
            return
        try:
            known = msgspec.json.decode(model.tags.get(MODEL_VERSIONS, "[]"), type=list[dict[str, Any]])
        except msgspec.MsgspecError:
            known = []
        this = {"name": version.name, "version": version.version}
        if this in known:
            return
        # The protocol's clients compare the text: Python's spelling, with a blank after comma and colon.
        text = json.dumps([*known, this])
        if len(text) <= limits.TAG_VALUE:
            ctx.runs.update_model(model.model_id, at=ctx.now(), tags={MODEL_VERSIONS: text})


def _content(ctx: Context, q: Json) -> tuple[str, str | None]:
    """(content identity, run id) of what a request registers: its bytes as they are now, where this store has them."""
    source, run_id = q["source"], q.get("run_id") or None
    if source.startswith("models:/") and _model_id(q) is None:
        copied = versions.resolve(ctx.ledger, source)
        return copied.content, run_id or copied.run_id
    model_id = _model_id(q)
    root = _root(ctx, source, run_id, model_id)
    if run_id is None and model_id is not None:
        run_id = ctx.runs.get_model(model_id).run_id  # MLflow's client leaves it to the server
    files = files_under(ctx, root) if root is not None else {}
    if not files:
        return foreign.elsewhere(ctx.objects, source), run_id
    return foreign.pin(ctx.objects, files), run_id


def _root(ctx: Context, source: str, run_id: str | None, model_id: str | None) -> str | None:
    """The folder of our artifact index a source means; None when its bytes are somewhere else."""
    if model_id is not None:
        model = ctx.runs.get_model(model_id)
        if run_id and model.run_id and model.run_id != run_id:
            raise BadInput(f"Invalid model version source: '{source}': the model was not logged by run {run_id}")
        if source == f"models:/{model_id}" or source.rstrip("/") == model.artifact_uri.rstrip("/"):
            return location(model.artifact_uri)
    if source.startswith("runs:/"):
        owner, _, path = source.removeprefix("runs:/").lstrip("/").partition("/")
        try:
            uri = ctx.runs.get_run(owner).artifact_uri
        except NotFound:
            return None
        if run_id and owner != run_id:
            raise BadInput(f"Invalid model version source: '{source}' is not of run {run_id}")
        return location(f"{uri}/{path}" if path else uri)
    source = _plain_source(source)
    if source.startswith(("/", "file:", "./", "~")):
        raise BadInput(
            f"Invalid model version source: '{source}'. To use a local path as a model version source, the run_id "
            "request parameter has to be specified and the local path has to be contained within the artifact "
            "directory "
            "of the run specified by the run_id."
        )
    root = location(source)
    if root is not None and run_id:
        try:
            home = location(ctx.runs.get_run(run_id).artifact_uri)
        except NotFound:
            home = None
        inside = home is not None and (root == home or root.startswith(home + "/"))
        parts = root.split("/")
        logged = next((p for p in parts if p.startswith("m-")), None)
        if home is not None and not inside and logged is None:
            raise BadInput(f"Invalid model version source: '{source}' is not inside the artifacts of run {run_id}")
    return root


def _plain_source(source: str) -> str:
    """A source without doubled slashes.

    Raises:
        BadInput: some layer of encoding in it hides a way out of its folder.
    """
    decoded, before = source, ""
    while decoded != before:
        before, decoded = decoded, unquote(decoded)
    if "\0" in decoded or ".." in decoded.replace("\\", "/").split("/"):
        raise BadInput(
            f"Invalid model version source: '{source}'. If supplying a source as an http, https, local file path, ftp, "
            "objectstore, or mlflow-artifacts uri, an absolute path must be provided without relative path references "
            "present. Please provide an absolute path."
        )
    scheme, colon, rest = source.partition(":")
    host = "//" if rest.startswith("//") else ""
    return scheme + colon + host + re.sub(r"/+", "/", rest[len(host) :]) if colon else re.sub(r"/+", "/", source)


def _model_id(q: Json) -> str | None:
    given = q.get("model_id") or None
    source = q["source"].removeprefix("models:/")
    if given is None and q["source"].startswith("models:/m-") and "/" not in source and "@" not in source:
        given = source
    return given


def get_version(ctx: Context, q: Json) -> Json:
    return {"model_version": _told(ctx, [versions.get(ctx.ledger, q["name"], _number(q))])[0]}


def update_version(ctx: Context, q: Json) -> Json:
    version = versions.update(
        ctx.ledger, q["name"], _number(q), description=q.get("description", ""), at=ctx.now(), actor=ctx.actor
    )
    return {"model_version": translate.model_version(version)}


def transition_stage(ctx: Context, q: Json) -> Json:
    stage = check_stage(q["stage"])
    archive = q.get("archive_existing_versions", False)
    if archive and stage not in ACTIVE_STAGES:
        raise BadInput(
            f"Model version transition cannot archive existing model versions because '{stage}' is not an Active "
            f"stage. "
            f"Valid stages are {', '.join(ACTIVE_STAGES)}"
        )
    if stage == "Production":
        ctx.require_approver("Moving a version to Production")
    version = pointers.move_stage(
        ctx.ledger,
        q["name"],
        _number(q),
        stage,
        policy=ctx.policy(q["name"]),
        at=ctx.now(),
        actor=ctx.actor,
        archive_existing=archive,
    )
    return {"model_version": translate.model_version(version)}


def delete_version(ctx: Context, q: Json) -> Json:
    versions.delete(ctx.ledger, q["name"], _number(q), at=ctx.now(), actor=ctx.actor)
    return {}


def search_versions(ctx: Context, q: Json) -> Json:
    clauses = filters.parse(q.get("filter", ""), filters.MODEL_VERSIONS)
    orders = filters.parse_order(q.get("order_by", []), filters.MODEL_VERSIONS)
    named = next((c.value for c in clauses if c.key == "name" and c.comparator == "=" and c.kind == "attribute"), None)
    if isinstance(named, str):
        rows = versions.list(ctx.ledger, named)
    else:
        rows = [msgspec.convert(row, ModelVersion) for _, row in ctx.ledger.scan(versions.VERSIONS)]
    found = [v for v in rows if _matches(v, v.tags, clauses)]
    keys = _keys(orders) or [_key("updated", ascending=False)]
    shown, token = page(
        found,
        [*keys, _key("name"), _key("version", ascending=False)],
        limit=limits.page_size(q.get("max_results"), 10_000, 200_000),
        token=q.get("page_token") or None,
        query=["versions", clauses, orders],
    )
    return _page({"model_versions": _told(ctx, shown)}, token)


def download_uri(ctx: Context, q: Json) -> Json:
    """Where a version's bytes are read: its own, as pinned at registration, not whatever lies at its source by now."""
    version = versions.get(ctx.ledger, q["name"], _number(q))
    try:
        held = bool(foreign.files_of(ctx.objects, version.content))
    except (NotFound, BadInput):
        held = False
    return {"artifact_uri": pinned_uri(version.content) if held else _first_source(ctx, version)}


def _first_source(ctx: Context, version: ModelVersion) -> str:
    """Where the bytes are that a version was made of: a copy's are where its original's are."""
    for _ in range(100):
        if not version.source.startswith("models:/"):
            break
        try:
            version = versions.resolve(ctx.ledger, version.source)
        except (NotFound, BadInput):
            break
    return version.source


def set_version_tag(ctx: Context, q: Json) -> Json:
    _check_tag(q)
    versions.set_tag(ctx.ledger, q["name"], _number(q), q["key"], q.get("value", ""), at=ctx.now(), actor=ctx.actor)
    return {}


def delete_version_tag(ctx: Context, q: Json) -> Json:
    versions.set_tag(ctx.ledger, q["name"], _number(q), q["key"], None, at=ctx.now(), actor=ctx.actor)
    return {}


# --- aliases ----------------------------------------------------------------------------------------------------------


def set_alias(ctx: Context, q: Json) -> Json:
    if is_protected(q["alias"], ctx.protected):
        ctx.require_approver(f"Moving alias {q['alias']!r}")
    pointers.move_alias(
        ctx.ledger,
        q["name"],
        q["alias"],
        _number(q),
        policy=ctx.policy(q["name"]),
        at=ctx.now(),
        actor=ctx.actor,
        protected=ctx.protected,
    )
    return {}


def delete_alias(ctx: Context, q: Json) -> Json:
    if is_protected(q["alias"], ctx.protected):
        ctx.require_approver(f"Removing alias {q['alias']!r}")
    pointers.move_alias(
        ctx.ledger,
        q["name"],
        q["alias"],
        None,
        policy=ctx.policy(q["name"]),
        at=ctx.now(),
        actor=ctx.actor,
        protected=ctx.protected,
    )
    return {}


def get_alias(ctx: Context, q: Json) -> Json:
    model = versions.get_model(ctx.ledger, q["name"])
    alias = q["alias"]
    if alias.lower() == "latest":
        known = versions.list(ctx.ledger, q["name"])
        if not known:
            raise NotFound(f"Latest version not found for model {q['name']}.")
        return {"model_version": _told(ctx, known[-1:])[0]}
    check_alias(alias)
    if alias not in model.aliases:
        raise BadInput(f"Registered model alias {alias} not found.")
    found = versions.get(ctx.ledger, q["name"], model.aliases[alias])
    return {"model_version": _told(ctx, [found])[0]}


# --- shared -----------------------------------------------------------------------------------------------------------


def _shown(ctx: Context, model: RegisteredModel) -> Json:
    latest = translate.latest_versions(versions.list(ctx.ledger, model.name))
    return translate.registered_model(model, _told(ctx, latest))


def _told(ctx: Context, found: list[ModelVersion]) -> list[Json]:
    """Versions as messages, with the waivers in force on each."""
    waived: dict[tuple[str | None, int | None], list[str]] = {}
    for waiver in waivers.in_force(ctx.ledger, at=ctx.now()) if found else ():
        waived.setdefault((waiver.model, waiver.version), []).append(waivers.told(waiver))
    return [translate.model_version(v, waived.get((v.name, v.version), ())) for v in found]


def _number(q: Json) -> int:
    text = q["version"]
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadInput(f"Parameter 'version' must be an integer, got '{text}'.")
    return int(text)


def _tags(q: Json) -> dict[str, str]:
    tags = translate.tags_from(objects("tags", q.get("tags", []), _PAIR))
    for key, value in tags.items():
        _check_tag({"key": key, "value": value})
    if tags.get(IS_PROMPT, "").lower() == "true":
        # Clients keep prompts as models with this tag; taken silently they would be listed, gated and served as models.
        raise ProtocolError("NOT_IMPLEMENTED", "Holdfast registers models; prompts are not offered.", status=501)
    return tags


def _check_tag(q: Json) -> None:
    limits.check_key(q["key"], "key")
    limits.check_length(q.get("value", ""), "value", limits.TAG_VALUE)


def _matches(row: Any, tags: dict[str, str], clauses: Sequence[Clause]) -> bool:
    for clause in clauses:
        actual = tags.get(clause.key) if clause.kind == "tag" else getattr(row, clause.key)
        if clause.key == IS_PROMPT and clause.comparator == "!=" and actual is None:
            # Clients add "is not a prompt" to every search; what was never marked is none.
            continue
        if not compare(clause, actual):
            return False
    return True


def _key(name: str, *, ascending: bool = True) -> Key:
    return (lambda row: getattr(row, name), ascending)


def _keys(orders: Sequence[Order]) -> list[Key]:
    if any(o.kind != "attribute" for o in orders):
        raise invalid("order_by", "tags", "models are sorted by their attributes")
    return [_key(o.key, ascending=o.ascending) for o in orders]


def _page(body: Json, token: str | None) -> Json:
    out = {k: v for k, v in body.items() if v}
    if token:
        out["next_page_token"] = token
    return out


_M, _V = "/api/2.0/mlflow/registered-models", "/api/2.0/mlflow/model-versions"
_NAME = required(name="str")
_VERSION = required(name="str", version="str")
_SEARCH = optional(filter="str", max_results="int", order_by="strings", page_token="str")
_TAG = {**required(key="str"), **optional(value="str")}
ROUTES = [
    Route("POST", f"{_M}/create", create_model, {**_NAME, **optional(tags="objects", description="str")}, "ledger"),
    Route("POST", f"{_M}/rename", rename_model, {**_NAME, **optional(new_name="str")}, "ledger"),
    Route("PATCH", f"{_M}/update", update_model, {**_NAME, **optional(description="str")}, "ledger"),
    Route("DELETE", f"{_M}/delete", delete_model, _NAME, "ledger"),
    Route("GET", f"{_M}/get", get_model, _NAME),
    Route("GET", f"{_M}/search", search_models, _SEARCH),
    Route("POST", f"{_M}/get-latest-versions", latest_versions, {**_NAME, **optional(stages="strings")}),
    Route("GET", f"{_M}/get-latest-versions", latest_versions, {**_NAME, **optional(stages="strings")}),
    Route("POST", f"{_M}/set-tag", set_model_tag, {**_NAME, **_TAG}, "ledger"),
    Route("DELETE", f"{_M}/delete-tag", delete_model_tag, {**_NAME, **required(key="str")}, "ledger"),
    Route("POST", f"{_M}/alias", set_alias, {**_VERSION, **required(alias="str")}, "ledger"),
    Route("DELETE", f"{_M}/alias", delete_alias, {**_NAME, **required(alias="str")}, "ledger"),
    Route("GET", f"{_M}/alias", get_alias, {**_NAME, **required(alias="str")}),
    Route(
        "POST",
        f"{_V}/create",
        create_version,
        {
            **required(name="str", source="str"),
            **optional(run_id="str", tags="objects", run_link="str", description="str", model_id="str"),
        },
        "ledger",
    ),
    Route("PATCH", f"{_V}/update", update_version, {**_VERSION, **optional(description="str")}, "ledger"),
    Route(
        "POST",
        f"{_V}/transition-stage",
        transition_stage,
        {**_VERSION, **required(stage="str"), **optional(archive_existing_versions="bool")},
        "ledger",
    ),
    Route("DELETE", f"{_V}/delete", delete_version, _VERSION, "ledger"),
    Route("GET", f"{_V}/get", get_version, _VERSION),
    Route("GET", f"{_V}/search", search_versions, _SEARCH),
    Route("GET", f"{_V}/get-download-uri", download_uri, _VERSION),
    Route("POST", f"{_V}/set-tag", set_version_tag, {**_VERSION, **_TAG}, "ledger"),
    Route("DELETE", f"{_V}/delete-tag", delete_version_tag, {**_VERSION, **required(key="str")}, "ledger"),
]
