"""Our records as MLflow's JSON messages, and back. MLflow counts milliseconds, we count microseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.core.records import Json, ModelVersion
from holdfast.core.tracking import DatasetInput, Experiment, LoggedModel, Metric, Run
from holdfast.protocols.mlflow.wire import invalid, shown_number
from holdfast.registry.versions import RegisteredModel

_MILLISECONDS = 1000
_LIMIT = (2**63 - 1) // _MILLISECONDS
MODEL_STATUS = {
    "PENDING": "LOGGED_MODEL_PENDING",
    "READY": "LOGGED_MODEL_READY",
    "UPLOAD_FAILED": "LOGGED_MODEL_UPLOAD_FAILED",
}


def ms(us: int) -> int:
    """Microseconds as MLflow's milliseconds."""
    return us // _MILLISECONDS


def us(milliseconds: int, name: str = "timestamp") -> int:
    """MLflow's milliseconds as microseconds.

    Raises:
        BadInput: beyond the year 292,000, where microseconds end.
    """
    if not -_LIMIT <= milliseconds <= _LIMIT:
        raise invalid(name, milliseconds, "an instant must fit 64 bits in microseconds")
    return milliseconds * _MILLISECONDS


def pairs(values: dict[str, str]) -> list[Json]:
    """A mapping as a list of key and value."""
    return [{"key": k, "value": v} for k, v in values.items()]


def experiment(value: Experiment) -> Json:
    out: Json = {
        "experiment_id": value.experiment_id,
        "name": value.name,
        "artifact_location": value.artifact_uri,
        "lifecycle_stage": value.lifecycle,
        "last_update_time": ms(value.updated),
        "creation_time": ms(value.created),
    }
    if value.tags:
        out["tags"] = pairs(value.tags)
    return out


def run_info(value: Run) -> Json:
    out: Json = {
        "run_id": value.run_id,
        "run_uuid": value.run_id,
        "run_name": value.name,
        "experiment_id": value.experiment_id,
        "user_id": value.user,
        "status": value.status,
        "start_time": ms(value.started),
        "artifact_uri": value.artifact_uri,
        "lifecycle_stage": value.lifecycle,
    }
    if value.ended is not None:
        out["end_time"] = ms(value.ended)
    return out


def run(value: Run) -> Json:
    data: Json = {}
    if value.metrics:
        data["metrics"] = [metric(m) for m in value.metrics]
    if value.params:
        data["params"] = pairs(value.params)
    if value.tags:
        data["tags"] = pairs(value.tags)
    out: Json = {"info": run_info(value), "data": data}
    inputs: Json = {}
    if value.datasets:
        inputs["dataset_inputs"] = [dataset_input(d) for d in value.datasets]
    if value.model_inputs:
        inputs["model_inputs"] = [{"model_id": m} for m in value.model_inputs]
    out["inputs"] = inputs
    if value.model_outputs:
        out["outputs"] = {"model_outputs": [{"model_id": m.model_id, "step": m.step} for m in value.model_outputs]}
    return out


def metric(value: Metric) -> Json:
    out: Json = {
        "key": value.key,
        "value": shown_number(value.value),
        "timestamp": ms(value.at),
        "step": value.step,
    }
    # A page of runs has thousands of these: no loop over names.
    if value.dataset_name is not None:
        out["dataset_name"] = value.dataset_name
    if value.dataset_digest is not None:
        out["dataset_digest"] = value.dataset_digest
    if value.model_id is not None:
        out["model_id"] = value.model_id
    if value.run_id is not None:
        out["run_id"] = value.run_id
    return out


def dataset_input(value: DatasetInput) -> Json:
    dataset: Json = {
        "name": value.name,
        "digest": value.digest,
        "source_type": value.source_type,
        "source": value.source,
    }
    if value.schema is not None:
        dataset["schema"] = value.schema
    if value.profile is not None:
        dataset["profile"] = value.profile
    return {"tags": pairs(value.tags), "dataset": dataset}


def logged_model(value: LoggedModel, registrations: list[ModelVersion] | None = None) -> Json:
    info: Json = {
        "model_id": value.model_id,
        "experiment_id": value.experiment_id,
        "name": value.name,
        "creation_timestamp_ms": ms(value.created),
        "last_updated_timestamp_ms": ms(value.updated),
        "artifact_uri": value.artifact_uri,
        "status": MODEL_STATUS[value.status],
        "model_type": value.model_type,
        "tags": pairs(value.tags),
    }
    if value.run_id is not None:
        info["source_run_id"] = value.run_id
    if value.status_message:
        info["status_message"] = value.status_message
    if registrations:
        info["registrations"] = [{"name": v.name, "version": str(v.version)} for v in registrations]
    data: Json = {"params": pairs(value.params), "metrics": [metric(m) for m in value.metrics]}
    return {"info": info, "data": data}


WAIVED = "holdfast.waived"


def model_version(value: ModelVersion, waived: Sequence[str] = ()) -> Json:
    """``waived``: what was waived for it and is in force, shown as a tag that nobody has to set or take away."""
    out: Json = {
        "name": value.name,
        "version": str(value.version),
        "creation_timestamp": ms(value.at),
        "last_updated_timestamp": ms(value.updated),
        "user_id": value.actor,
        "current_stage": value.stage,
        "description": value.description,
        "source": value.source,
        "run_id": value.run_id or "",
        "status": "READY",
        "run_link": value.run_link,
    }
    tags = {**value.tags, WAIVED: "; ".join(waived)} if waived else value.tags
    if tags:
        out["tags"] = pairs(tags)
    if value.aliases:
        out["aliases"] = value.aliases
    if value.model_id:
        out["model_id"] = value.model_id
    return out


def registered_model(value: RegisteredModel, latest: list[Json]) -> Json:
    """``latest``: the newest version of each stage, as ``model_version`` gives it."""
    out: Json = {
        "name": value.name,
        "creation_timestamp": ms(value.at),
        "last_updated_timestamp": ms(value.updated),
        "description": value.description,
        "user_id": value.actor,
    }
    if latest:
        out["latest_versions"] = latest
    if value.tags:
        out["tags"] = pairs(value.tags)
    if value.aliases:
        out["aliases"] = [{"alias": a, "version": str(v)} for a, v in sorted(value.aliases.items())]
    return out


def latest_versions(versions: list[ModelVersion], stages: list[str] | None = None) -> list[ModelVersion]:
    """The newest version of each stage, in order of stages as they first appear."""
    newest: dict[str, ModelVersion] = {}
    for version in versions:
        newest[version.stage] = version
    return [v for s, v in newest.items() if not stages or s in stages]


def tags_from(items: list[Any]) -> dict[str, str]:
    """A list of key and value as a mapping; the last of equal keys counts."""
    return {i["key"]: i.get("value", "") for i in items}
