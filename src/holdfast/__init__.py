"""Holdfast keeps models true while the data drifts: one tool for the whole life of a model.

The definition classes and a few verbs; nothing heavy is loaded until a verb needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_DEFINITIONS = (
    "ABTest", "Aggregation", "Drift", "Entity", "FeatureService", "FeatureView", "Field", "Gate", "Label", "Model",
    "Monitor", "OnDemand", "PredictionLog", "Retrain", "Rollout", "Rule", "Service", "Source", "Steps", "Threshold",
    "TimeSplit", "ablation", "api", "at_least", "at_most", "better_than", "calibrated", "check", "deterministic",
    "equalised_odds", "fairness", "four_fifths", "latency", "model", "no_leakage", "not_worse_than_champion",
    "on_demand", "pipeline", "ranking", "resources", "robust", "service", "signature", "slices", "unit_tests",
)  # fmt: skip

__all__ = [*_DEFINITIONS, "get_historical_features", "get_online_features", "load_model", "save_model"]

if TYPE_CHECKING:
    from holdfast.core.definitions import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name in _DEFINITIONS:
        from holdfast.core import definitions

        return getattr(definitions, name)
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")


def save_model(
    estimator: Any,
    name: str,
    *,
    X: Any,  # noqa: N803
    columns: Any = None,
    task: str | None = None,
    pickled: bool = False,
) -> Any:
    """Package a fitted estimator and register it as the next version of ``name`` in the project of this folder.

    ``X`` (n, d) are rows like those it will see; the saved form is verified on them. ``pickled`` allows a pickle,
    signed with this store's key, where no safe format holds the estimator. Returns the ModelVersion.

    Raises:
        BadInput: ``X`` has no rows, or the columns do not fit it.
    """
    from holdfast.lifecycle import notebook
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace:
        return notebook.save(workspace, estimator, name, X=X, columns=columns, task=task, pickled=pickled)


def load_model(reference: str) -> Any:
    """The model version ``reference`` leads to (``name@7``, ``name@champion``, ``name@latest``), verified, with
    ``predict(rows)`` and ``scores(rows)``.

    Raises:
        NotFound: it leads nowhere. Damaged: stored bytes are not what was registered.
    """
    from holdfast.lifecycle import notebook
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        return notebook.load(workspace, reference)


def get_historical_features(service: Any, spine: Any = None, *, timestamp: str | None = None, as_of: Any = None) -> Any:
    """Features of a feature service (or its name) as known at each row's time, in the project of this folder.

    ``spine`` is a pyarrow Table, a pandas or Polars frame, or a list of dicts, with the entity keys, request values and a
    column of instants (``timestamp``; ``event_timestamp`` needs no naming). The answer is of the same kind (a Table for a
    list): the spine's columns and rows as they are, then the features. Without a spine: all entities ``as_of`` an instant.

    Raises:
        NotFound: no such service, or no data for a source. BadInput: the spine cannot be used; the message says why.
    """
    from holdfast.core.identity import to_us
    from holdfast.lifecycle import vectors
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace:
        at = None if as_of is None else to_us(as_of)
        return vectors.historical(workspace, service, spine, timestamp=timestamp, at=at)


def get_online_features(service: Any, rows: Any, *, at: Any = None) -> list[dict[str, Any]]:
    """What would be served for each of ``rows`` (dicts of entity keys and request values) now, or ``at`` an instant.

    Raises:
        NotFound: no such service. BadInput: a key or request value is missing or of the wrong type.
    """
    from holdfast.core.identity import to_us
    from holdfast.lifecycle import vectors
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace:
        return vectors.online(workspace, service, rows, at=None if at is None else to_us(at))


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
