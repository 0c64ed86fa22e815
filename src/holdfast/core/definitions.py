"""The classes people write ``definitions.py`` with. Declarative, frozen, hashable; nothing runs here.

``spec()`` of each is plain JSON; ``version`` is its SHA-256, over normalised source tokens and values, never over layout.
Names follow Feast (Entity, FeatureView, FeatureService), MLflow (model), and the field.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from holdfast.core.definition import Definition as Definition
from holdfast.core.errors import BadDefinition
from holdfast.core.feature_definitions import AGGREGATES as AGGREGATES
from holdfast.core.feature_definitions import DTYPES as DTYPES
from holdfast.core.feature_definitions import Aggregation as Aggregation
from holdfast.core.feature_definitions import Entity as Entity
from holdfast.core.feature_definitions import FeatureService as FeatureService
from holdfast.core.feature_definitions import FeatureView as FeatureView
from holdfast.core.feature_definitions import Field as Field
from holdfast.core.feature_definitions import OnDemand as OnDemand
from holdfast.core.feature_definitions import Source as Source
from holdfast.core.feature_definitions import on_demand as on_demand
from holdfast.core.gates import *  # noqa: F403  (part of the public face, in a file of its own)
from holdfast.core.gates import Duration as Duration
from holdfast.core.model_definitions import Label as Label
from holdfast.core.model_definitions import Model as Model
from holdfast.core.model_definitions import Threshold as Threshold
from holdfast.core.model_definitions import TimeSplit as TimeSplit
from holdfast.core.model_definitions import model as model
from holdfast.core.service_definitions import Drift as Drift
from holdfast.core.service_definitions import Monitor as Monitor
from holdfast.core.service_definitions import Retrain as Retrain
from holdfast.core.service_definitions import Rollout as Rollout
from holdfast.core.service_definitions import Service as Service
from holdfast.core.service_definitions import Steps as Steps
from holdfast.core.service_definitions import api as api
from holdfast.core.service_definitions import service as service
from holdfast.core.traffic import ABTest as ABTest
from holdfast.core.traffic import PredictionLog as PredictionLog
from holdfast.core.traffic import size_bytes as size_bytes


class Project:
    """All definitions of one module, by kind and name.

    Raises:
        BadDefinition: two different definitions of one kind share a name.
    """

    def __init__(self, definitions: Iterable[object]) -> None:
        self.sources: dict[str, Source] = {}
        self.entities: dict[str, Entity] = {}
        self.views: dict[str, FeatureView] = {}
        self.on_demand: dict[str, OnDemand] = {}
        self.feature_services: dict[str, FeatureService] = {}
        self.models: dict[str, Model] = {}
        self.services: dict[str, Service] = {}
        self.steps: dict[str, Steps] = {}
        for definition in definitions:
            self._add(definition)

    def _add(self, item: object) -> None:
        homes: list[tuple[type, dict[str, Any]]] = [
            (Source, self.sources), (Entity, self.entities), (FeatureView, self.views), (OnDemand, self.on_demand),
            (FeatureService, self.feature_services), (Model, self.models), (Service, self.services), (Steps, self.steps),
        ]  # fmt: skip
        for kind, home in homes:
            if isinstance(item, kind):
                name = item.name  # type: ignore[attr-defined]
                known = home.get(name)
                if known is not None and known is not item and known.version != item.version:  # type: ignore[attr-defined]
                    raise BadDefinition(f"two different definitions are called {name!r}", hint="give each its own name")
                if known is None:
                    home[name] = item
                    for part in _parts(item):
                        self._add(part)


def _parts(item: object) -> Iterable[object]:
    match item:
        case FeatureView():
            return [item.source, *item.entities]
        case FeatureService():
            return list(item.features)
        case Model():
            return [p for p in (item.features, item.spine, item.label.source if item.label else None) if p is not None]
        case Service():
            return [item.model]
        case _:
            return []
