"""What the run store keeps and how it is searched: shared by the training stage, the protocols and the backends.

Instants are int64 microseconds UTC. A metric's value may be NaN or infinite.
"""

# ruff: noqa: RUF012  (msgspec copies default lists and dicts for each record)
from __future__ import annotations

from typing import Literal

from holdfast.core.records import Record

RunStatus = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
Lifecycle = Literal["active", "deleted"]
View = Literal["active", "deleted", "all"]
ModelStatus = Literal["PENDING", "READY", "UPLOAD_FAILED"]


class Experiment(Record, frozen=True, kw_only=True):
    """A named group of runs."""

    experiment_id: str
    name: str
    artifact_uri: str
    lifecycle: Lifecycle = "active"
    created: int = 0
    updated: int = 0
    tags: dict[str, str] = {}


class Metric(Record, frozen=True, kw_only=True, gc=False):
    """One point of a series. ``dataset_*`` and ``model_id`` say what it was measured on, where known."""

    key: str
    value: float
    at: int
    step: int = 0
    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None
    run_id: str | None = None


class Point(Record, frozen=True, gc=False):
    """One point of a history, whose run and key are known. A history may hold 100,000 of them, so it carries no more."""

    at: int
    step: int
    value: float


class DatasetInput(Record, frozen=True, kw_only=True):
    """A dataset a run read."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None = None
    profile: str | None = None
    tags: dict[str, str] = {}


class ModelOutput(Record, frozen=True, kw_only=True):
    """A logged model a run produced at a step."""

    model_id: str
    step: int = 0


class Run(Record, frozen=True, kw_only=True):
    """A run with its newest metrics."""

    run_id: str
    experiment_id: str
    name: str
    user: str
    status: RunStatus
    started: int
    ended: int | None
    artifact_uri: str
    lifecycle: Lifecycle = "active"
    metrics: list[Metric] = []
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    datasets: list[DatasetInput] = []
    model_inputs: list[str] = []
    model_outputs: list[ModelOutput] = []


class LoggedModel(Record, frozen=True, kw_only=True):
    """A model an MLflow 3 client logged, before (or without) registration."""

    model_id: str
    experiment_id: str
    name: str
    artifact_uri: str
    status: ModelStatus = "PENDING"
    status_message: str = ""
    model_type: str = ""
    run_id: str | None = None
    created: int = 0
    updated: int = 0
    tags: dict[str, str] = {}
    params: dict[str, str] = {}
    metrics: list[Metric] = []


class Artifact(Record, frozen=True, kw_only=True):
    """One file of the artifact tree: bytes in the object store under a path."""

    path: str
    sha256: str
    size: int
    at: int = 0


# --- search -----------------------------------------------------------------------------------------------------------

Kind = Literal["attribute", "metric", "param", "tag", "dataset"]
Comparator = Literal["=", "!=", ">", ">=", "<", "<=", "LIKE", "ILIKE", "IN", "NOT IN", "IS NULL", "IS NOT NULL"]


class Clause(Record, frozen=True, kw_only=True):
    """One comparison of a filter; a filter is their conjunction. ``key`` of an attribute is the store's own field name,
    checked by whoever parsed the text. ``value`` is absent for IS [NOT] NULL."""

    kind: Kind
    key: str
    comparator: Comparator
    value: str | float | int | list[str] | None = None


class Order(Record, frozen=True, kw_only=True):
    """One sort key. Null and NaN sort last in either direction."""

    kind: Kind
    key: str
    ascending: bool = True
    dataset_name: str | None = None
    dataset_digest: str | None = None


def like(pattern: str, text: str, *, ignore_case: bool) -> bool:
    """SQL's LIKE: ``%`` any run of characters, ``_`` any one."""
    import re

    regex = "".join(".*" if c == "%" else "." if c == "_" else re.escape(c) for c in pattern)
    return re.fullmatch(regex, text, re.DOTALL | (re.IGNORECASE if ignore_case else 0)) is not None


def compare(clause: Clause, actual: str | float | int | None) -> bool:
    """Whether ``actual`` satisfies a clause, for rows that are filtered outside of SQL. Null satisfies only IS NULL."""
    match clause.comparator:
        case "IS NULL":
            return actual is None
        case "IS NOT NULL":
            return actual is not None
    if actual is None:
        return False
    value = clause.value
    match clause.comparator:
        case "IN":
            return isinstance(value, list) and actual in value
        case "NOT IN":
            return isinstance(value, list) and actual not in value
        case "LIKE":
            return like(str(value), str(actual), ignore_case=False)
        case "ILIKE":
            return like(str(value), str(actual), ignore_case=True)
        case "=":
            return actual == value
        case "!=":
            return actual != value
    if isinstance(actual, str) or not isinstance(value, int | float):
        return False
    match clause.comparator:
        case ">":
            return actual > value
        case ">=":
            return actual >= value
        case "<":
            return actual < value
        case _:
            return actual <= value
