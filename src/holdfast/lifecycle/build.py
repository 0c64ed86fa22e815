"""Sources → training set: point-in-time features of every labelled row, stored by content."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from holdfast.core.definitions import Model
from holdfast.core.errors import BadData, BadDefinition, NotFound
from holdfast.core.identity import duration_us, iso
from holdfast.core.ports import Ledger
from holdfast.core.records import Json, TrainingSet
from holdfast.lifecycle.durable import Effect
from holdfast.lifecycle.sources import read_rows, source_tables, typed_requests

if TYPE_CHECKING:
    import pyarrow as pa

    from holdfast.workspace import Workspace

TRAINING_SETS = "training_sets"
OTHERS = 0.01
"""Share of rows with another row's label that passes for corrections."""


def _training_table(
    ws: Workspace, model: Model, *, as_of: int, thin: Callable[[pa.Table], pa.Table] | None = None
) -> tuple[pa.Table, int, list[str]]:  # fmt: skip
    """(rows with their features and label, how many had no label yet, what is odd about the labels); ``thin`` may leave
    out labelled rows."""
    from holdfast.features import point_in_time
    from holdfast.training import trainingset

    if model.function is None or model.spine is None or model.features is None or model.label is None:
        raise BadDefinition(
            f"model {model.name!r} needs a training function, features, a spine and a label to be trained by Holdfast"
        )
    train = model.split.train
    reach = sum(
        duration_us(p)
        for p in (model.split.test, model.split.tune, train)
        if p is not None and not isinstance(p, float)
    )
    since = as_of - reach if train is not None else None
    spine = typed_requests(read_rows(ws, model.spine, since=since, until=as_of), model.features)
    labels = read_rows(ws, model.label.source)
    spine = trainingset.join_labels(spine, labels, model.label, as_of=as_of)
    unlabelled = spine[trainingset.LABEL].null_count
    shared = shared_labels(model, spine)
    spine = spine.filter(spine[trainingset.LABEL].is_valid())
    if spine.num_rows == 0:
        raise BadData(
            f"no row of {model.spine.name!r} has a label at {iso(as_of)}",
            hint="wait for labels, or check the label's key",
        )
    if thin is not None:
        spine = thin(spine)
    table = point_in_time.historical(
        ws.engine, model.features, spine, timestamp=str(model.spine.timestamp),
        sources={s.name: source_tables(ws, s) for s in {v.source.name: v.source for v in model.features.views}.values()},
        cache=ws.path("cache", "features", ".").parent,
    )  # fmt: skip
    keep = dict.fromkeys([
        *model.label.key, str(model.spine.timestamp), *([model.group] if model.group else []), *model.features.join_keys,
        *model.features.request, *model.features.columns(), trainingset.LABEL,
    ])  # fmt: skip
    return table.select(list(keep)), unlabelled, shared


def shared_labels(model: Model, spine: pa.Table) -> list[str]:
    """Said where rows that carry a label of their own were given another row's, because they share its key."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from holdfast.training import trainingset

    label = model.label
    if (
        label is None
        or model.spine is None
        or label.source.name != model.spine.name
        or label.column not in spine.column_names
    ):
        return []
    own = spine[label.column].cast(pa.float64())
    others = int(pc.sum(pc.not_equal(own, spine[trainingset.LABEL])).as_py() or 0)
    if others <= OTHERS * spine.num_rows:
        return []
    return [
        f"{others} of {spine.num_rows} rows of {label.source.name!r} were given the label of a later row with the same "
        f"{' and '.join(map(repr, label.key))}; name a key that tells rows apart, hf.Label(…, key=[…])"
    ]


def sampled(
    ws: Workspace, model: Model, *, as_of: int, share: float, least: int
) -> tuple[TrainingSet, pa.Table]:  # fmt: skip
    """A training set of a share of the labelled rows, evenly spaced in time and at least ``least``; kept nowhere."""
    table, *_ = _training_table(ws, model, as_of=as_of, thin=_thinner(share, least))
    return _described(model, table, features={}, datasets={}, content=""), table


def _thinner(share: float, least: int = 200) -> Callable[[pa.Table], pa.Table]:
    """Keeps a share of the rows, evenly spaced, at least ``least`` or all."""

    def thin(spine: pa.Table) -> pa.Table:
        wanted = min(max(int(spine.num_rows * share), least), spine.num_rows)
        return spine.take(np.linspace(0, spine.num_rows - 1, wanted).astype(np.int64))

    return thin


def _described(model: Model, table: pa.Table, **more: Any) -> TrainingSet:
    from holdfast.training import trainingset

    if model.spine is None or model.features is None:
        raise BadDefinition(f"model {model.name!r} has no spine or no features")
    columns = model.features.columns()
    return trainingset.describe(model, table, timestamp=str(model.spine.timestamp), columns=columns, **more)


def build_training_set(
    ws: Workspace, model: Model, *, as_of: int, datasets: dict[str, str], sample: float | None = None
) -> tuple[Json, Effect | None]:
    """Point-in-time features of every spine row known at ``as_of`` (or of a ``sample`` of them), joined with its label,
    stored by content."""
    from holdfast.training import trainingset

    thin = None if sample is None else _thinner(sample)
    table, unlabelled, shared = _training_table(ws, model, as_of=as_of, thin=thin)
    content = ws.objects.put(trainingset.to_parquet(table))
    views = (*model.features.views, *model.features.on_demand) if model.features else ()
    versions = {v.name: v.version for v in views}
    record = _described(model, table, features=versions, datasets=datasets, content=content)

    def effect(ledger: Ledger) -> None:
        with ledger.transaction() as tx:
            tx.put(TRAINING_SETS, record.digest, msgspec.to_builtins(record))
            tx.append(
                "trainingset.built", subject=model.name, at=as_of, actor=ws.actor,
                body={"digest": record.digest, "content": content, "rows": record.rows, "datasets": datasets, "features": versions},
            )  # fmt: skip

    outcome = {
        "digest": record.digest,
        "rows": record.rows,
        "unlabelled": unlabelled,
        "suspects": [*shared, *_suspects(model, table)],
    }
    return outcome, effect


def _suspects(model: Model, table: pa.Table) -> list[str]:
    """Inputs that tell the label by themselves: said at training, judged by the gate's leakage rule."""
    from holdfast.data import suspects
    from holdfast.training import trainingset

    inputs = set(model.features.columns()) if model.features else set()
    others = [name for name in table.column_names if name not in inputs and name != trainingset.LABEL]
    return [finding.message for finding in suspects.leakage(table, trainingset.LABEL, ignore=others)]


def training_set(ledger: Ledger, name: str) -> TrainingSet:
    """The record of a training set by its digest."""
    row = ledger.get(TRAINING_SETS, name)
    if row is None:
        raise NotFound(f"no training set {name[:12]}")
    return msgspec.convert(row, TrainingSet)
