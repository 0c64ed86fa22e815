"""``hf.get_historical_features`` and ``hf.get_online_features``: a feature service's values, from a notebook or the command
line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.core.definitions import FeatureService
from holdfast.core.errors import BadInput, NotFound
from holdfast.features.lookup import Lookup, compile_plan
from holdfast.lifecycle import ingest

if TYPE_CHECKING:
    import pyarrow as pa

    from holdfast.core.records import Json
    from holdfast.workspace import Workspace

FEASTS_TIMESTAMP = "event_timestamp"


def historical(
    ws: Workspace, service: str | FeatureService, spine: Any, *, timestamp: str | None = None, at: int | None = None
) -> Any:
    """Features as known at each row's time; without a ``spine``, of all entities as known ``at`` (µs).

    ``spine`` is a pyarrow Table, a pandas or Polars frame, or a list of dicts; the answer is of the same kind (a Table for a
    list, and without a spine): the spine's columns as they are, then the service's. ``timestamp`` names the column of
    instants; a column ``event_timestamp`` needs no naming.

    Raises:
        NotFound: no such service, or no data for a source.
        BadInput: the spine is not a table, or lacks a timestamp, key or request value.
    """
    from holdfast.features import point_in_time

    chosen = _service(ws, service)
    sources = {v.source.name: v.source for v in chosen.views}
    if (spine is None) == (at is None):
        raise BadInput("features need either a spine or an instant", hint="give a spine, or as_of for all entities")
    tables = ingest.tables(ws, sources.values(), at=ws.clock.now())
    if at is not None:
        return point_in_time.as_of(ws.engine, chosen, at, sources=tables)
    rows = _table(spine)
    if timestamp is None and FEASTS_TIMESTAMP in rows.column_names:
        timestamp = FEASTS_TIMESTAMP
    cache = ws.path("cache", "features")
    found = point_in_time.historical(ws.engine, chosen, rows, timestamp=timestamp, sources=tables, cache=cache)
    return _like(spine, rows, found)


def online(
    ws: Workspace, service: str | FeatureService, rows: Sequence[Mapping[str, Any]], *, at: int | None
) -> list[Json]:
    """Features of entities as served at ``at`` (µs; now if None): one dict per row of keys and request values, in order.

    Raises:
        NotFound: no such service.
        BadInput: a key or request value is missing or of the wrong type; the message names it and the row.
    """
    chosen = _service(ws, service)
    asked = _dicts(rows)
    if not asked:
        return []
    now = ws.clock.now() if at is None else at
    return Lookup(compile_plan(chosen), ws.online).rows(asked, at=[now] * len(asked))


def _dicts(rows: Any) -> list[Json]:
    listed = _table(rows).to_pylist() if hasattr(rows, "columns") else rows
    if isinstance(listed, Iterable) and not isinstance(listed, Mapping | str):
        listed = list(listed)
        if all(isinstance(row, Mapping) for row in listed):
            return [dict(row) for row in listed]
    raise BadInput("the rows are not a list of dicts", hint='give one dict per row: [{"customer_id": 7}]')


def _service(ws: Workspace, service: str | FeatureService) -> FeatureService:
    if isinstance(service, FeatureService):
        return service
    services = ws.project().feature_services
    if service not in services:
        raise NotFound.among("feature service", service, services)
    return services[service]


def _table(spine: Any) -> pa.Table:
    import pyarrow as pa

    if isinstance(spine, pa.Table):
        return spine
    try:
        match type(spine).__module__.partition(".")[0]:
            case "pandas":
                return pa.Table.from_pandas(spine, preserve_index=False)
            case "polars":
                return spine.to_arrow()
        return pa.Table.from_pylist(list(spine))
    except (pa.ArrowException, TypeError, AttributeError) as error:
        raise BadInput(
            f"the spine is not a table: {error}",
            hint="give a pyarrow Table, a pandas or Polars frame, or a list of dicts",
        ) from None


def _like(spine: Any, rows: pa.Table, found: pa.Table) -> Any:
    """The answer as the kind of frame the spine was; its own columns untouched, index included."""
    kind = type(spine).__module__.partition(".")[0]
    added = found.drop_columns(rows.column_names) if rows.column_names else found
    if kind == "pandas":
        import pandas as pd
        import pyarrow as pa

        # pandas' own integers and booleans hold no null
        types = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        new = added.to_pandas(types_mapper=types.get)
        new.index = spine.index
        return pd.concat([spine, new], axis=1)
    if kind == "polars":
        import polars as pl

        return spine.hstack(pl.DataFrame(pl.from_arrow(added)))
    return found
