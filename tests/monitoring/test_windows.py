"""Windows of the prediction log and the truth joined to them."""

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.monitoring import windows


def log() -> pa.Table:
    return pa.table({
        "id": ["a", "b", "c", "c", "d"],
        "request_time": [10, 20, 30, 30, 40],
        "version": [1, 1, 2, 3, 2],
        "arm": ["champion", "champion", "challenger", "shadow", "champion"],
        "score": [0.1, 0.2, 0.3, 0.9, None],
    })  # fmt: skip


def test_cut_is_closed_open_and_leaves_the_shadow_out() -> None:
    assert windows.cut(log(), start=10, end=40)["id"].to_pylist() == ["a", "b", "c"]
    assert windows.cut(log(), start=0, end=99, version=2)["id"].to_pylist() == ["c", "d"]
    assert windows.cut(log(), start=0, end=99, arm="shadow")["version"].to_pylist() == [3]
    assert windows.cut(log(), start=40, end=40).num_rows == 0
    assert windows.cut(log().slice(0, 0), start=0, end=99).num_rows == 0


def test_join_keeps_rows_and_order() -> None:
    labels = pa.table(
        {"prediction_id": ["d", "a", "z"], "value": [1.0, 0.0, 1.0], "at": [50, 60, 70], "sequence": [1, 2, 3]}
    )
    joined = windows.join(log(), labels)
    assert joined["id"].to_pylist() == log()["id"].to_pylist()
    assert joined["label"].to_pylist() == [0.0, None, None, None, 1.0]
    assert joined["label_at"].to_pylist() == [60, None, None, None, 50]
    empty = windows.join(log(), labels.slice(0, 0))
    assert empty["label"].null_count == 5


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 30), st.integers(1, 30))
@settings(derandomize=True, max_examples=100)
def test_windows_end_at_every_multiple_once(start: int, span: int, length: int, every: int) -> None:
    whole = windows.days(start, start + span, length=length, every=every)
    middle = start + span // 2
    parts = windows.days(start, middle, length=length, every=every) + windows.days(
        middle, start + span, length=length, every=every
    )
    assert parts == whole
    assert [e for _, e in whole] == [t for t in range(start + span + 1) if t % every == 0 and t > start]
    assert all(e - s == length for s, e in whole)
