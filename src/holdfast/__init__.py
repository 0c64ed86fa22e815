"""Holdfast keeps models true while the data drifts: one tool for the whole life of a model.

The definition classes and a few verbs; nothing heavy is loaded until a verb needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_DEFINITIONS = (
    "Aggregation", "Drift", "Entity", "FeatureService", "FeatureView", "Field", "Gate", "Label", "Model", "Monitor",
    "OnDemand", "Retrain", "Rollout", "Rule", "Service", "Source", "Steps", "Threshold", "TimeSplit", "api", "at_least", "at_most",
    "better_than", "check", "deterministic", "fairness", "latency", "model", "no_leakage", "not_worse_than_champion", "on_demand", "service",
)  # fmt: skip

__all__ = [*_DEFINITIONS]

if TYPE_CHECKING:
    from holdfast.core.definitions import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name in _DEFINITIONS:
        from holdfast.core import definitions

        return getattr(definitions, name)
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
