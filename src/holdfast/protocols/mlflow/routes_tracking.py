"""Experiments, runs, and what runs log."""

# ruff: noqa: S106  ("str" is the type of the page_token field, not a password)
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, get_args

import msgspec

from holdfast.core.errors import BadInput, NotFound
from holdfast.core.records import Json
from holdfast.core.tracking import DatasetInput, Metric, ModelOutput, Point, RunStatus, View
from holdfast.protocols.mlflow import filters, limits, translate
from holdfast.protocols.mlflow.context import Context
from holdfast.protocols.mlflow.translate import us
from holdfast.protocols.mlflow.wire import (
    Field,
    Route,
    invalid,
    missing,
    objects,
    optional,
    required,
    shown_number,
)
from holdfast.protocols.mlflow.wire import number as as_number

_VIEWS: dict[str, View] = {"ACTIVE_ONLY": "active", "DELETED_ONLY": "deleted", "ALL": "all"}
_STATUS_NUMBERS = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
_TAG_FIELDS = {"key": Field("str", True), "value": Field("str")}
_MANY = 10_000_000
_BULK_RUNS = 100


# --- experiments ------------------------------------------------------------------------------------------------------


def create_experiment(ctx: Context, q: Json) -> Json:
    name = _experiment_name(q["name"], "name")
    tags = _tags(q)
    location = q.get("artifact_location") or None
    if location is not None:
        _check_location(location)
    made = ctx.runs.create_experiment(name, at=ctx.now(), artifact_uri=location, tags=tags)
    return {"experiment_id": made.experiment_id}


def get_experiment(ctx: Context, q: Json) -> Json:
    return {"experiment": translate.experiment(ctx.runs.get_experiment(q["experiment_id"]))}


def get_experiment_by_name(ctx: Context, q: Json) -> Json:
    found = ctx.runs.find_experiment(q["experiment_name"])
    if found is None:
        raise NotFound(f"Could not find experiment with name '{q['experiment_name']}'")
    return {"experiment": translate.experiment(found)}


def delete_experiment(ctx: Context, q: Json) -> Json:
    _require_experiment(ctx, q["experiment_id"], "active")
    ctx.runs.update_experiment(q["experiment_id"], at=ctx.now(), deleted=True)
    return {}


def restore_experiment(ctx: Context, q: Json) -> Json:
    _require_experiment(ctx, q["experiment_id"], "deleted")
    ctx.runs.update_experiment(q["experiment_id"], at=ctx.now(), deleted=False)
    return {}


def update_experiment(ctx: Context, q: Json) -> Json:
    if q.get("new_name"):
        if ctx.runs.get_experiment(q["experiment_id"]).lifecycle != "active":
            raise BadInput("Cannot rename a non-active experiment.")
        ctx.runs.update_experiment(q["experiment_id"], at=ctx.now(), name=_experiment_name(q["new_name"], "new_name"))
    return {}


def set_experiment_tag(ctx: Context, q: Json) -> Json:
    _require_experiment(ctx, q["experiment_id"], "active")
    limits.check_key(q["key"], "key")
    limits.check_length(q.get("value", ""), "value", 5000)
    ctx.runs.update_experiment(q["experiment_id"], at=ctx.now(), tags={q["key"]: q.get("value", "")})
    return {}


def delete_experiment_tag(ctx: Context, q: Json) -> Json:
    found = _require_experiment(ctx, q["experiment_id"], "active")
    if q["key"] not in found.tags:
        raise NotFound(f"No tag with name: {q['key']} in experiment with id {q['experiment_id']}")
    ctx.runs.update_experiment(q["experiment_id"], at=ctx.now(), tags={q["key"]: None})
    return {}


def search_experiments(ctx: Context, q: Json) -> Json:
    found, token = ctx.runs.search_experiments(
        where=filters.parse(q.get("filter", ""), filters.EXPERIMENTS),
        order=filters.parse_order(q.get("order_by", []), filters.EXPERIMENTS),
        view=_view(q.get("view_type")),
        limit=limits.page_size(q.get("max_results"), 1000, 50_000),
        token=q.get("page_token"),
    )
    return _page({"experiments": [translate.experiment(e) for e in found]}, token)


# --- runs -------------------------------------------------------------------------------------------------------------


def create_run(ctx: Context, q: Json) -> Json:
    at = ctx.now()
    tags = _tags(q)
    name = q.get("run_name", "")
    tagged = tags.get("mlflow.runName", "")
    if name and tagged and name != tagged:
        raise BadInput(
            "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values "
            f"(run_name='{name}', mlflow.runName='{tagged}')."
        )
    name = name or tagged or _made_up_name(at)
    tags["mlflow.runName"] = name
    started = us(q["start_time"], "start_time") if "start_time" in q else at
    # `holdfast run` names its run itself, so that training can start while the server is away.
    run_id = tags.pop("holdfast.run_id", None)
    run = ctx.runs.create_run(
        q.get("experiment_id") or "0",
        at=at,
        name=name,
        user=q.get("user_id", ""),
        tags=tags,
        run_id=run_id,
        started=started,
    )
    return {"run": translate.run(run)}


def get_run(ctx: Context, q: Json) -> Json:
    return {"run": translate.run(ctx.runs.get_run(_run_id(q)))}


def update_run(ctx: Context, q: Json) -> Json:
    run = ctx.runs.update_run(
        _run_id(q),
        at=ctx.now(),
        status=_status(q.get("status")),
        ended=us(q["end_time"], "end_time") if "end_time" in q else None,
        name=q.get("run_name") or None,
    )
    return {"run_info": translate.run_info(run)}


def delete_run(ctx: Context, q: Json) -> Json:
    run_id = _run_id(q)
    _require_run(ctx, run_id, "active")
    ctx.runs.update_run(run_id, at=ctx.now(), deleted=True)
    return {}


def restore_run(ctx: Context, q: Json) -> Json:
    run_id = _run_id(q)
    _require_run(ctx, run_id, "deleted")
    ctx.runs.update_run(run_id, at=ctx.now(), deleted=False)
    return {}


def search_runs(ctx: Context, q: Json) -> Json:
    found, token = ctx.runs.search_runs(
        q.get("experiment_ids", []),
        where=filters.parse(q.get("filter", ""), filters.RUNS),
        order=filters.parse_order(q.get("order_by", []), filters.RUNS),
        view=_view(q.get("run_view_type")),
        limit=limits.page_size(q.get("max_results"), 1000, 50_000),
        token=q.get("page_token"),
    )
    return _page({"runs": [translate.run(r) for r in found]}, token)


# --- what runs log ----------------------------------------------------------------------------------------------------

_METRIC_FIELDS = {
    "key": Field("str", True),
    "value": Field("float", True),
    "timestamp": Field("int", True),
    **optional(step="int", model_id="str", dataset_name="str", dataset_digest="str"),
}


def log_metric(ctx: Context, q: Json) -> Json:
    ctx.runs.log_batch(_run_id(q), metrics=[_metric(q, "")])
    return {}


def log_param(ctx: Context, q: Json) -> Json:
    limits.check_key(q["key"], "key")
    ctx.runs.log_batch(
        _run_id(q), params={q["key"]: limits.check_length(q.get("value", ""), "value", limits.PARAM_VALUE)}
    )
    return {}


def set_tag(ctx: Context, q: Json) -> Json:
    limits.check_key(q["key"], "key")
    ctx.runs.log_batch(_run_id(q), tags={q["key"]: limits.check_length(q.get("value", ""), "value", limits.TAG_VALUE)})
    return {}


def delete_tag(ctx: Context, q: Json) -> Json:
    run_id = _run_id(q)
    with ctx.runs.transaction():
        if q["key"] not in _require_run(ctx, run_id, "active").tags:
            raise NotFound(f"No tag with name: {q['key']} in run with id {run_id}")
        ctx.runs.log_batch(run_id, tags={q["key"]: None})
    return {}


def log_batch(ctx: Context, q: Json) -> Json:
    run_id = _run_id(q)
    raw_params, raw_tags, raw_metrics = (q.get(name, []) for name in ("params", "tags", "metrics"))
    limits.check_batch({"metrics": len(raw_metrics), "params": len(raw_params), "tags": len(raw_tags)})
    params: dict[str, str] = {}
    for place, item in enumerate(objects("params", raw_params, _TAG_FIELDS)):
        key, value = limits.check_key(item["key"], f"params[{place}].key"), item.get("value", "")
        if key in params:
            raise BadInput(
                f"Duplicate parameter keys have been submitted: ['{key}']. Please ensure the request contains only one "
                "param value per param key."
            )
        params[key] = limits.check_length(value, f"params[{place}].value", limits.PARAM_VALUE)
    tags = limits.check_tags(translate.tags_from(objects("tags", raw_tags, _TAG_FIELDS)))
    metrics = _metrics(raw_metrics)
    ctx.runs.log_batch(run_id, metrics=metrics, params=params, tags=tags)
    return {}


class _PlainMetric(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A metric as nearly all are; what is not one of these is checked field by field, for the error's sake."""

    key: str
    value: float
    timestamp: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    step: Annotated[int, msgspec.Meta(gt=-(2**53), lt=2**53)] = 0


def _metrics(items: list[Json]) -> list[Metric]:
    """The metrics of a batch, which holds up to a thousand: no call of ours per metric where all are plain."""
    try:
        plain = msgspec.convert(items, type=list[_PlainMetric])
    except msgspec.ValidationError:
        checked = objects("metrics", items, _METRIC_FIELDS)
        return [_metric(item, f"metrics[{place}].") for place, item in enumerate(checked)]
    for key in {m.key for m in plain}:
        limits.check_key(key, f"metrics[{next(i for i, m in enumerate(plain) if m.key == key)}].key")
    return [Metric(key=m.key, value=m.value, at=m.timestamp * 1000, step=m.step) for m in plain]


def _metric(item: Json, path: str) -> Metric:
    key = limits.check_key(item["key"], f"{path}key")
    at = us(item["timestamp"], f"{path}timestamp")
    if at < 0:
        raise invalid(f"{path}timestamp", item["timestamp"], "Timestamp must be a nonnegative long (64-bit integer)")
    return Metric(
        key=key,
        value=as_number(f"{path}value", item["value"]),
        at=at,
        step=item.get("step", 0),
        model_id=item.get("model_id") or None,
        dataset_name=item.get("dataset_name") or None,
        dataset_digest=item.get("dataset_digest") or None,
    )


def metric_history(ctx: Context, q: Json) -> Json:
    limit = limits.page_size(q.get("max_results"), _MANY, _MANY)
    points, token = ctx.runs.metric_history(
        _run_id(q),
        q["metric_key"],
        limit=min(limit, 25_000) if "max_results" in q else limit,
        token=q.get("page_token"),
    )
    return _page({"metrics": _shown(q["metric_key"], points)}, token)


class _ShownPoint(msgspec.Struct, gc=False):
    key: str
    value: float | str
    timestamp: int
    step: int
    run_id: str | msgspec.UnsetType = msgspec.UNSET


def _shown(key: str, points: Sequence[Point], run_id: str | msgspec.UnsetType = msgspec.UNSET) -> list[_ShownPoint]:
    """Points as the protocol shows them. A history may hold 100,000: no call and no dict per point."""
    finite = math.isfinite
    return [
        _ShownPoint(key, p.value if finite(p.value) else shown_number(p.value), p.at // 1000, p.step, run_id)
        for p in points
    ]


def metric_history_bulk(ctx: Context, q: Json) -> Json:
    """Histories of several runs for a chart, each point with its run."""
    run_ids = q.get("run_id", [])
    if not run_ids:
        raise BadInput("GetMetricHistoryBulk request must specify at least one run_id.")
    if len(run_ids) > _BULK_RUNS:
        raise BadInput(
            f"GetMetricHistoryBulk request cannot specify more than {_BULK_RUNS} run_ids. Received {len(run_ids)} run_ids."
        )
    if not q.get("metric_key"):
        raise BadInput("GetMetricHistoryBulk request must specify a metric_key.")
    left = limits.page_size(q.get("max_results"), 25_000, 25_000)
    found: list[_ShownPoint] = []
    for run_id in sorted(run_ids):
        points, _ = ctx.runs.metric_history(run_id, q["metric_key"], limit=max(left, 1)) if left else ([], None)
        found += _shown(q["metric_key"], points, run_id)
        left -= len(points)
    return {"metrics": found} if found else {}


def metric_history_sampled(ctx: Context, q: Json) -> Json:
    """Histories of several runs thinned to about ``max_results`` steps, evenly spaced, with each run's first and last."""
    run_ids = q.get("run_ids", [])
    if not run_ids:
        raise missing("run_ids")
    if len(run_ids) > _BULK_RUNS:
        raise BadInput(f"GetMetricHistoryBulkInterval request must specify at most {_BULK_RUNS} run_ids.")
    most = q.get("max_results", 320)
    if not 1 <= most <= 2500:
        raise BadInput("max_results must be between 1 and 2500")
    first, last = q.get("start_step"), q.get("end_step")
    if (first is None) != (last is None):
        raise BadInput("If either start step or end step are specified, both must be specified.")
    if first is not None and last is not None and first > last:
        raise BadInput(f"end_step must be greater than start_step. Found start_step={first} and end_step={last}.")
    histories = {}
    for run_id in run_ids:
        points, _ = ctx.runs.metric_history(run_id, q["metric_key"], limit=_MANY)
        if first is not None and last is not None:
            points = [p for p in points if first <= p.step <= last]
        histories[run_id] = sorted(points, key=lambda p: (p.step, p.at, p.value))
    steps = sorted({p.step for points in histories.values() for p in points})
    kept = set(sampled(steps, most))
    for points in histories.values():
        if points:
            kept |= {points[0].step, points[-1].step}
    found: list[_ShownPoint] = []
    for run_id, points in histories.items():
        found += _shown(q["metric_key"], [p for p in points if p.step in kept], run_id)
    return {"metrics": found} if found else {}


def sampled(steps: list[int], most: int) -> list[int]:
    """About ``most`` of the sorted steps, evenly spaced, the first and the last always."""
    if len(steps) <= most:
        return steps
    kept = steps[:: len(steps) // most]
    return kept if kept[-1] == steps[-1] else [*kept, steps[-1]]


def search_datasets(ctx: Context, q: Json) -> Json:
    """The datasets that runs of these experiments read."""
    experiments = q.get("experiment_ids", [])
    if not experiments:
        raise BadInput("SearchDatasets request must specify at least one experiment_id.")
    if len(experiments) > 20:
        raise BadInput(
            f"SearchDatasets request cannot specify more than 20 experiment_ids. Received {len(experiments)} experiment_ids."
        )
    found = ctx.runs.dataset_summaries(experiments, limit=1000)
    return {"dataset_summaries": found} if found else {}


def log_inputs(ctx: Context, q: Json) -> Json:
    if not q.get("datasets") and not q.get("models"):
        raise missing("datasets")
    _run_id(q)
    datasets = []
    for place, item in enumerate(q.get("datasets", [])):
        dataset = item.get("dataset")
        path = f"datasets[{place}].dataset"
        if not isinstance(dataset, dict):
            raise missing(path)
        fields = {
            **required(name="str", digest="str", source_type="str", source="str"),
            **optional(schema="str", profile="str"),
        }
        one = objects(path, [dataset], fields)[0]
        longest = {
            "name": limits.DATASET_NAME,
            "digest": limits.DATASET_DIGEST,
            "source": limits.DATASET_SOURCE,
            "schema": limits.DATASET_SCHEMA,
            "profile": limits.DATASET_PROFILE,
        }
        for name, limit in longest.items():
            if name in one:
                limits.check_length(one[name], name, limit)
        raw_tags = item.get("tags", [])
        if not isinstance(raw_tags, list) or not all(isinstance(t, dict) for t in raw_tags):
            raise invalid(f"datasets[{place}].tags", raw_tags)
        tags = translate.tags_from(objects(f"datasets[{place}].tags", raw_tags, required(key="str", value="str")))
        for key, value in tags.items():
            limits.check_length(key, "key", 255)
            limits.check_length(value, "value", 500)
        datasets.append(DatasetInput(**one, tags=tags))
    models = [m["model_id"] for m in objects("models", q.get("models", []), required(model_id="str"))]
    ctx.runs.log_inputs(_run_id(q), datasets=datasets, models=models)
    return {}


def log_outputs(ctx: Context, q: Json) -> Json:
    models = objects("models", q.get("models", []), {**required(model_id="str"), **optional(step="int")})
    ctx.runs.log_outputs(_run_id(q), [ModelOutput(model_id=m["model_id"], step=m.get("step", 0)) for m in models])
    return {}


def log_model(ctx: Context, q: Json) -> Json:
    """The old way of recording a logged model: a list in a tag."""
    import msgspec

    try:
        model = msgspec.json.decode(q.get("model_json", ""))
    except msgspec.DecodeError:
        raise BadInput(f"Malformed model info. \n {q.get('model_json', '')[:100]} \n is not valid JSON.") from None
    lacking = [
        k
        for k in ("artifact_path", "flavors", "utc_time_created", "run_id")
        if not isinstance(model, dict) or k not in model
    ]
    if lacking:
        raise BadInput(f"Model json is missing mandatory fields: {lacking}")
    run_id = _run_id(q)
    with ctx.runs.transaction():
        run = _require_run(ctx, run_id, "active")
        known = msgspec.json.decode(run.tags.get("mlflow.log-model.history", "[]"))
        value = msgspec.json.encode([*known, model]).decode()
        ctx.runs.log_batch(run_id, tags={"mlflow.log-model.history": value})
    return {}


# --- shared -----------------------------------------------------------------------------------------------------------


def _run_id(q: Json) -> str:
    run_id: str | None = q.get("run_id") or q.get("run_uuid")
    if not run_id:
        raise missing("run_id")
    return run_id


def _tags(q: Json) -> dict[str, str]:
    return limits.check_tags(translate.tags_from(objects("tags", q.get("tags", []), _TAG_FIELDS)))


def _experiment_name(name: str, path: str) -> str:
    return limits.check_length(name, path, limits.EXPERIMENT_NAME)


def _check_location(location: str) -> None:
    """An artifact location is a URI the client itself will write to; one inside our own store would let a client choose
    server paths."""
    from urllib.parse import unquote, urlsplit

    try:
        parts = urlsplit(location)
    except ValueError:
        raise invalid("artifact_location", location, "not a URI") from None
    plain = unquote(unquote(parts.path))
    if parts.fragment or parts.query or "#" in location or "?" in location:
        raise invalid("artifact_location", location, "a location has no query and no fragment")
    if parts.scheme in ("runs", "models", "mlflow-artifacts"):
        raise invalid("artifact_location", location, f"Artifact location cannot be a {parts.scheme}:/ URI")
    if ".." in plain.split("/") or "\\" in plain or "\0" in plain:
        raise invalid("artifact_location", location, "Invalid path")
    limits.check_length(location, "artifact_location", 2048)


def _require_experiment(ctx: Context, experiment_id: str, state: str) -> Any:
    found = ctx.runs.get_experiment(experiment_id)
    if found.lifecycle != state:
        raise NotFound(
            f"The experiment {experiment_id} must be in the '{state}' state. Current state is {found.lifecycle}."
        )
    return found


def _require_run(ctx: Context, run_id: str, state: str) -> Any:
    found = ctx.runs.get_run(run_id)
    if found.lifecycle != state:
        raise BadInput(f"The run {run_id} must be in the '{state}' state. Current state is {found.lifecycle}.")
    return found


def _status(value: Any) -> RunStatus | None:
    if value is None:
        return None
    value = _STATUS_NUMBERS.get(value, value) if isinstance(value, int) else value
    if value not in get_args(RunStatus):
        raise invalid("status", value)
    return value  # type: ignore[no-any-return]


def _view(value: Any) -> View:
    if value is None:
        return "active"
    named = {1: "ACTIVE_ONLY", 2: "DELETED_ONLY", 3: "ALL"}.get(value, value) if isinstance(value, int) else value
    if re.fullmatch(r"\d", str(named)):
        named = {"1": "ACTIVE_ONLY", "2": "DELETED_ONLY", "3": "ALL"}.get(str(named), named)
    if not isinstance(named, str) or named not in _VIEWS:
        raise invalid("view_type", value)
    return _VIEWS[named]


def _page(body: Json, token: str | None) -> Json:
    out = {k: v for k, v in body.items() if v}
    if token:
        out["next_page_token"] = token
    return out


_ADJECTIVES = [
    "able",
    "brave",
    "calm",
    "deft",
    "eager",
    "fair",
    "glad",
    "hale",
    "keen",
    "lively",
    "merry",
    "neat",
    "open",
    "proud",
    "quick",
    "ready",
    "sharp",
    "true",
    "wise",
]
_NOUNS = [
    "auk",
    "bass",
    "crab",
    "dab",
    "eel",
    "fin",
    "gull",
    "hake",
    "ide",
    "jay",
    "kelp",
    "ling",
    "mole",
    "newt",
    "orca",
    "perch",
    "ray",
    "seal",
    "tern",
    "urchin",
    "wrasse",
]


def _made_up_name(at: int) -> str:
    import secrets

    return f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NOUNS)}-{secrets.randbelow(1000)}"


_RUN = optional(run_id="str", run_uuid="str")
_SEARCH = optional(max_results="int", page_token="str", filter="str", order_by="strings", view_type="str")
_BASE = "/api/2.0/mlflow"
ROUTES = [
    Route(
        "POST",
        f"{_BASE}/experiments/create",
        create_experiment,
        {**required(name="str"), **optional(artifact_location="str", tags="objects")},
        "runs",
    ),
    Route("GET", f"{_BASE}/experiments/get", get_experiment, required(experiment_id="str")),
    Route("GET", f"{_BASE}/experiments/get-by-name", get_experiment_by_name, required(experiment_name="str")),
    Route("POST", f"{_BASE}/experiments/delete", delete_experiment, required(experiment_id="str"), "runs"),
    Route("POST", f"{_BASE}/experiments/restore", restore_experiment, required(experiment_id="str"), "runs"),
    Route(
        "POST",
        f"{_BASE}/experiments/update",
        update_experiment,
        {**required(experiment_id="str"), **optional(new_name="str")},
        "runs",
    ),
    Route(
        "POST",
        f"{_BASE}/experiments/set-experiment-tag",
        set_experiment_tag,
        {**required(experiment_id="str", key="str"), **optional(value="str")},
        "runs",
    ),
    Route(
        "POST",
        f"{_BASE}/experiments/delete-experiment-tag",
        delete_experiment_tag,
        required(experiment_id="str", key="str"),
        "runs",
    ),
    Route("POST", f"{_BASE}/experiments/search", search_experiments, {**_SEARCH, "view_type": Field("any")}),
    Route("GET", f"{_BASE}/experiments/search", search_experiments, {**_SEARCH, "view_type": Field("any")}),
    Route(
        "POST",
        f"{_BASE}/runs/create",
        create_run,
        optional(experiment_id="str", user_id="str", run_name="str", start_time="int", tags="objects"),
        "runs",
        quick=True,
    ),
    Route("GET", f"{_BASE}/runs/get", get_run, _RUN),
    Route(
        "POST",
        f"{_BASE}/runs/update",
        update_run,
        {**_RUN, **optional(status="any", end_time="int", run_name="str")},
        "runs",
        quick=True,
    ),
    Route("POST", f"{_BASE}/runs/delete", delete_run, _RUN, "runs"),
    Route("POST", f"{_BASE}/runs/restore", restore_run, _RUN, "runs"),
    Route(
        "POST",
        f"{_BASE}/runs/search",
        search_runs,
        optional(
            experiment_ids="strings",
            filter="str",
            run_view_type="any",
            max_results="int",
            order_by="strings",
            page_token="str",
        ),
    ),
    Route("POST", f"{_BASE}/runs/log-metric", log_metric, {**_RUN, **_METRIC_FIELDS}, "runs", quick=True),
    Route(
        "POST",
        f"{_BASE}/runs/log-parameter",
        log_param,
        {**_RUN, **required(key="str"), **optional(value="str")},
        "runs",
        quick=True,
    ),
    Route(
        "POST",
        f"{_BASE}/runs/set-tag",
        set_tag,
        {**_RUN, **required(key="str"), **optional(value="str")},
        "runs",
        quick=True,
    ),
    Route("POST", f"{_BASE}/runs/delete-tag", delete_tag, {**_RUN, **required(key="str")}, "runs"),
    Route(
        "POST",
        f"{_BASE}/runs/log-batch",
        log_batch,
        {**_RUN, **optional(metrics="objects", params="objects", tags="objects")},
        "runs",
        quick=True,
    ),
    Route(
        "POST",
        f"{_BASE}/runs/log-inputs",
        log_inputs,
        {**_RUN, **optional(datasets="objects", models="objects")},
        "runs",
    ),
    Route("POST", f"{_BASE}/runs/outputs", log_outputs, {**_RUN, **optional(models="objects")}, "runs"),
    Route("POST", f"{_BASE}/runs/log-model", log_model, {**_RUN, **optional(model_json="str")}, "runs"),
    Route(
        "GET",
        f"{_BASE}/metrics/get-history",
        metric_history,
        {**_RUN, **required(metric_key="str"), **optional(page_token="str", max_results="int")},
    ),
    Route(
        "GET",
        f"{_BASE}/metrics/get-history-bulk",
        metric_history_bulk,
        optional(run_id="strings", metric_key="str", max_results="int"),
    ),
    Route("POST", f"{_BASE}/experiments/search-datasets", search_datasets, optional(experiment_ids="strings")),
    Route(
        "GET",
        f"{_BASE}/metrics/get-history-bulk-interval",
        metric_history_sampled,
        {
            **required(metric_key="str"),
            **optional(run_ids="strings", start_step="int", end_step="int", max_results="int"),
        },
    ),
]
