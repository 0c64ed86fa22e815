"""A training set as a model sees it: matrices, labels, times and groups, cut in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.definitions import Model
from holdfast.core.errors import BadDefinition
from holdfast.core.records import TrainingSet

if TYPE_CHECKING:
    import pyarrow as pa

    from holdfast.workspace import Workspace


class Rows:
    """A training set cut for one model: matrices, labels, times and groups of each part."""

    def __init__(self, ws: Workspace, model: Model, record: TrainingSet, table: pa.Table | None = None) -> None:
        import pyarrow.parquet as pq

        from holdfast.training import trainingset

        if model.spine is None:
            raise BadDefinition(f"model {model.name!r} has no spine")
        self.table = pq.read_table(ws.objects.fetch(record.content)) if table is None else table
        self.columns = list(record.columns)
        self.X = trainingset.matrix(self.table, self.columns)
        self.y = np.asarray(self.table[trainingset.LABEL].to_numpy(), dtype=np.float64)
        self.times = trainingset.times_us(self.table[str(model.spine.timestamp)])
        self.split = trainingset.split_by_time(self.times, ~np.isnan(self.y), model.split)
        self.group_name = model.group
        self.groups = np.asarray(self.table[model.group].to_pylist(), dtype=object) if model.group else None

    def part(self, which: str) -> tuple[Any, Any, Any]:
        """(X, y, times) of train | tune | test."""
        index = getattr(self.split, which)
        return self.X[index], self.y[index], self.times[index]

    def named(self, which: str) -> tuple[Any, Any, list[str], Any]:
        """(X, y, columns, times) of train | tune | test, as a training function is given them."""
        X, y, times = self.part(which)  # noqa: N806
        return X, y, self.columns, times
