"""Between Feast's words and ours; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.core.definitions import FeatureService, FeatureView, Field
from holdfast.core.errors import BadInput, NotFound, TooMuch
from holdfast.core.identity import SECOND, iso
from holdfast.core.records import Json
from holdfast.protocols.feast.wire import EPOCH, NOT_FOUND, PRESENT, Names, OnlineFeatures, Result

MOST_ROWS = 10_000


def rows_of(columns: Mapping[str, list[Any]], what: str, *, most: int = MOST_ROWS) -> list[Json]:
    """Columns of equal length as rows.

    Raises:
        BadInput: the lengths differ or there is none.
        TooMuch: more rows than allowed.
    """
    lengths = {k: len(v) for k, v in columns.items()}
    if not lengths:
        raise BadInput(f"{what} is empty", hint='send {"column": [values, …]}')
    if len(set(lengths.values())) > 1:
        raise BadInput(
            f"the columns of {what} differ in length: {lengths}", hint="send one value per row in every column"
        )
    n = next(iter(lengths.values()))
    if n > most:
        raise TooMuch(f"{what} has {n} rows; at most {most} are taken at once", hint="send them in parts")
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def feature_names(view: FeatureView) -> list[str]:
    """The short names of a view's features, in declared order."""
    out: list[str] = []
    for feature in view.features:
        out += [feature.name] if isinstance(feature, Field) else [n for n, _, _ in feature.features()]
    return out


def ad_hoc_service(references: Sequence[str], views: Mapping[str, FeatureView]) -> tuple[FeatureService, list[str]]:
    """A service of ``view:feature`` references, and the columns asked for, in the request's order.

    Raises:
        NotFound: no such view or feature.
        BadInput: a reference is not ``view:feature``.
    """
    wanted: list[str] = []
    used: dict[str, FeatureView] = {}
    for reference in references:
        name, colon, feature = reference.partition(":")
        if not colon:
            raise BadInput(f"{reference!r} is not view:feature", hint="write it like card_activity:amount_mean_30d")
        view = views.get(name)
        if view is None:
            raise NotFound.among("feature view", name, views)
        if feature not in feature_names(view):
            raise NotFound.among("feature", feature, feature_names(view))
        used[name] = view
        wanted.append(f"{name}__{feature}")
    if not wanted:
        raise BadInput(
            "no features are asked for", hint='send "features": ["view:feature", …] or "feature_service": "name"'
        )
    return FeatureService("ad_hoc", list(used.values())), wanted


def needs(plan: Json, columns: Sequence[str]) -> dict[str, str]:
    """Column to the view it comes from, for those that come from one."""
    known = {c: v["name"] for v in plan["views"] for c, _ in v["columns"]}
    return {c: known[c] for c in columns if c in known}


def short_name(column: str) -> str:
    return column.split("__", 1)[1] if "__" in column else column


def answer(
    entities: Mapping[str, list[Any]], columns: Sequence[str], names: Sequence[str], rows: Sequence[Json],
    times: Sequence[Mapping[str, int | None]], view_of: Mapping[str, str],
) -> OnlineFeatures:  # fmt: skip
    """Feast's answer: entity columns first, then the features in the request's order. Timestamps are whole seconds."""
    n = len(rows)
    always, never = [PRESENT] * n, [EPOCH] * n
    results = [Result(list(v), always, never) for v in entities.values()]
    by_view: dict[str | None, tuple[list[str], list[str]]] = {None: (always, never)}
    for column in columns:
        view = view_of.get(column)
        known = by_view.get(view)
        if known is None and view is not None:  # once for all columns of a view
            when = [t.get(view) for t in times]
            known = by_view[view] = (
                [NOT_FOUND if w is None else PRESENT for w in when],
                [EPOCH if w is None else iso(w // SECOND * SECOND) for w in when],
            )
        assert known is not None
        results.append(Result([r[column] for r in rows], *known))
    return OnlineFeatures(Names([*entities, *names]), results)
