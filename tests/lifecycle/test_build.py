"""What is said of a training set while it is built."""

from __future__ import annotations

import pyarrow as pa

import holdfast as hf
from holdfast.core.definitions import Model
from holdfast.lifecycle.build import shared_labels
from holdfast.training.trainingset import LABEL, join_labels

events = hf.Source("events", "events.csv", timestamp="at")


def labelled(key: str | list[str], rows: pa.Table) -> tuple[Model, pa.Table]:
    label = hf.Label(events, "gone", key=key)
    view = hf.FeatureView("v", [hf.Entity("client", join_keys=["client"])], events, [hf.Field("x")])
    model = Model(
        "m", function=lambda data, params: None, features=hf.FeatureService("f", [view]), spine=events, label=label
    )
    return model, join_labels(rows, rows, label, as_of=10**9)


def test_rows_given_another_rows_label_are_told() -> None:
    rows = pa.table(
        {"client": ["a", "a", "b", "b"], "at": [1, 2, 3, 4], "x": [0.0] * 4, "gone": [True, False, None, True]}
    )
    (told,) = shared_labels(*labelled("client", rows))
    assert "1 of 4 rows of 'events'" in told and "'client'" in told
    assert shared_labels(*labelled(["client", "at"], rows)) == []


def test_a_few_corrections_are_none_of_that() -> None:
    rows = pa.table({"client": [*range(200), 7], "at": range(201), "x": [0.0] * 201, "gone": [0] * 200 + [1]})
    model, joined = labelled("client", rows)
    assert joined[LABEL][7].as_py() == 1.0 and shared_labels(model, joined) == []
