"""The shapes of Feast's HTTP feature server, as its clients send and read them (docs.feast.dev, "Python feature server")."""

from __future__ import annotations

from typing import Any

import msgspec


class GetOnlineFeatures(msgspec.Struct):
    """``features`` are ``view:feature``, or ``feature_service`` names a service. Either entities by column, or rows."""

    entities: dict[str, list[Any]]
    features: list[str] | None = None
    feature_service: str | None = None
    full_feature_names: bool = False
    request_time: str | int | None = None


class Push(msgspec.Struct):
    """``df`` is columns of equal length. ``to`` is accepted as Feast's clients send it; rows always go to both sides."""

    push_source_name: str
    df: dict[str, list[Any]]
    to: str = "online"
    allow_registry_cache: bool = True
    transform_on_write: bool = True


class WriteToOnlineStore(msgspec.Struct):
    feature_view_name: str
    df: dict[str, list[Any]]
    allow_registry_cache: bool = True
    transform_on_write: bool = True


class Materialize(msgspec.Struct):
    end_ts: str | None = None
    start_ts: str | None = None
    feature_views: list[str] | None = None


class Result(msgspec.Struct):
    values: list[Any]
    statuses: list[str]
    event_timestamps: list[str]


class Names(msgspec.Struct):
    feature_names: list[str]


class OnlineFeatures(msgspec.Struct):
    """Column-major: one result per name, entity columns first."""

    metadata: Names
    results: list[Result]


PRESENT, NOT_FOUND = "PRESENT", "NOT_FOUND"
EPOCH = "1970-01-01T00:00:00Z"
DESTINATIONS = ("online", "offline", "online_and_offline")
