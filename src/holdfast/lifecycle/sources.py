"""What a model's training reads: its sources, admitted and versioned, and their rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from holdfast.core.definitions import FeatureService, Model, Source
from holdfast.core.errors import BadData, NotFound
from holdfast.core.records import Json
from holdfast.lifecycle.durable import Effect

if TYPE_CHECKING:
    import pyarrow as pa

    from holdfast.workspace import Workspace


def sources_of(model: Model) -> dict[str, Source]:
    """Every source a model's training reads, by name."""
    found = [
        model.spine,
        model.label.source if model.label else None,
        *(v.source for v in (model.features.views if model.features else ())),
    ]
    return {s.name: s for s in found if s is not None}


def admit_data(ws: Workspace, model: Model, *, at: int) -> tuple[Json, Effect | None]:
    """Validate and version every source of the model. Bad data stays out and the version before it stays current.

    Raises:
        BadData: a source has no good version at all.
    """
    from holdfast.data import quality
    from holdfast.lifecycle import ingest

    datasets: dict[str, str] = {}
    blocked: dict[str, str] = {}
    for name, source in sources_of(model).items():
        try:
            version = ingest.bring(ws, source, at=at)
        except BadData as error:
            blocked[name] = error.message
            current = quality.current(ws.ledger, name)
            if current is None:
                raise
            version = current
        datasets[name] = version.sha256
    return {"datasets": datasets, "blocked": blocked}, None


def source_tables(ws: Workspace, source: Source) -> list[Path]:
    """The files that hold a source's rows: exactly the admitted ones, and what was pushed since."""
    from holdfast.data import quality
    from holdfast.features import push

    files = list(quality.members(ws.ledger, ws.root, source.name))
    return files + list(push.landed(ws.home, source.name))


def read_rows(ws: Workspace, source: Source, *, since: int | None = None, until: int | None = None) -> pa.Table:
    """A source's rows as Arrow, by time where asked: since <= timestamp <= until (µs)."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    files = source_tables(ws, source)
    if not files:
        raise NotFound(
            f"source {source.name!r} has no admitted data",
            hint=f"put files under {source.path} and run `holdfast data add`",
        )
    parquet = [str(f) for f in files if f.suffix != ".csv"]
    tables = [ds.dataset(parquet, format="parquet").to_table()] if parquet else []
    tables += [ds.dataset([str(f)], format="csv").to_table() for f in files if f.suffix == ".csv"]
    table = pa.concat_tables(tables, promote_options="permissive")
    if source.timestamp and (since is not None or until is not None):
        from holdfast.training.trainingset import times_us

        times = times_us(table[source.timestamp])
        keep = np.ones(len(times), dtype=bool)
        if since is not None:
            keep &= times >= since
        if until is not None:
            keep &= times <= until
        table = table.filter(pa.array(keep))
    if source.timestamp:
        table = table.take(pc.sort_indices(table, sort_keys=[(source.timestamp, "ascending")]))
    return table


def typed_requests(table: pa.Table, service: FeatureService) -> pa.Table:
    """Request values of a spine as the types the service declares; instants become int64 µs."""
    import pyarrow as pa

    from holdfast.training.trainingset import times_us

    types = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
    for name, dtype in service.request.items():
        if name not in table.column_names:
            raise NotFound.among(f"request value of service {service.name!r} in the spine", name, table.column_names)
        column = table[name]
        if pa.types.is_timestamp(column.type) and dtype == "int64":
            column = pa.array(times_us(column), type=pa.int64())
        elif dtype in types and column.type != types[dtype]:
            column = column.cast(types[dtype])
        table = table.set_column(table.column_names.index(name), name, column)
    return table
