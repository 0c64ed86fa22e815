"""The truth joined to the rows it belongs to."""

from __future__ import annotations

import pyarrow as pa
import pytest

import holdfast as hf
from holdfast.core.errors import BadData
from holdfast.training import trainingset


@pytest.mark.parametrize("values", [["low", "high"], [[1.0], [2.0]]])
def test_a_label_that_is_no_number_is_named(values: list[object]) -> None:
    source = hf.Source("events", "events.csv")
    label = hf.Label(source, "level", key="id")
    spine = pa.table({"id": [1, 2]})
    with pytest.raises(BadData, match="'level' of source 'events'") as caught:
        trainingset.join_labels(spine, pa.table({"id": [1, 2], "level": values}), label, as_of=0)
    assert "0, 1, 2" in (caught.value.hint or "")
    joined = trainingset.join_labels(spine, pa.table({"id": [2, 1], "level": [2, 0]}), label, as_of=0)
    assert joined[trainingset.LABEL].to_pylist() == [0.0, 2.0]
