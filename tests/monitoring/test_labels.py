"""The label store: what is acknowledged is there, the latest word wins, whoever writes and whoever dies."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.errors import BadInput, Damaged
from holdfast.core.records import LabelRecord
from holdfast.monitoring.labels import LabelStore


def label(key: str, value: object, at: int, sequence: int = 0) -> LabelRecord:
    return LabelRecord(prediction_id=key, value=value, at=at, sequence=sequence)  # type: ignore[arg-type]


def known(store: LabelStore) -> dict[str, object]:
    table = store.read()
    return dict(zip(table["prediction_id"].to_pylist(), table["value"].to_pylist(), strict=True))


def test_empty(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "none")
    table = store.read()
    assert table.num_rows == 0
    assert table.column_names == ["prediction_id", "value", "at", "sequence"]
    assert store.count() == {"added": 0, "predictions": 0}
    assert store.append([]) == 0
    assert not (tmp_path / "none").exists()


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 5), st.integers(0, 6)), max_size=40),
    st.lists(st.integers(1, 40), max_size=6),
)
@settings(derandomize=True, max_examples=60, deadline=None)
def test_latest_wins_however_it_arrives(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, int, int]], cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("labels")
    expected: dict[str, tuple[int, int, int]] = {}
    for i, (key, value, at) in enumerate(events):
        expected[key] = max(expected.get(key, (-1, -1, -1)), (at, i, value))
    reader = LabelStore(folder)
    borders = [0, *sorted(c for c in cuts if c < len(events)), len(events)]
    for start, end in pairwise(borders):
        LabelStore(folder).append([label(*e) for e in events[start:end]])
        reader.read()  # incremental reading ends in the same state
    want = {k: float(v[2]) for k, v in expected.items()}
    assert known(reader) == want
    assert known(LabelStore(folder)) == want
    assert reader.read()["at"].to_pylist() == sorted(reader.read()["at"].to_pylist())


def test_own_sequence_orders_one_instant(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.append([label("a", 1, 5, sequence=9), label("a", 0, 5, sequence=3)])
    assert known(store) == {"a": 1.0}


def test_adding_again_changes_nothing(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    batch = [label("a", 1, 5), label("b", 0, 6)]
    store.append(batch)
    before = known(store)
    store.append(batch)
    assert known(store) == before
    assert store.count() == {"added": 4, "predictions": 2}


def test_since_and_kinds_of_value(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.append([label("a", True, 5), label("b", 2, 6), label("c", 0.5, 7)])
    assert store.read()["value"].to_pylist() == [1.0, 2.0, 0.5]
    assert store.read(since=6)["prediction_id"].to_pylist() == ["b", "c"]
    store.append([label("d", "cat", 8)])
    assert store.read()["value"].type == pa.string()
    assert store.read()["value"].to_pylist() == ["true", "2", "0.5", "cat"]


@pytest.mark.parametrize(
    "bad",
    [label("", 1, 0), label("x" * 300, 1, 0), label("a", float("nan"), 0), label("a", None, 0), label("a", 2**60, 0)],
)
def test_what_cannot_be_a_label(tmp_path: Path, bad: LabelRecord) -> None:
    store = LabelStore(tmp_path)
    with pytest.raises(BadInput) as caught:
        store.append([label("ok", 1, 0), bad])
    assert caught.value.hint
    assert store.count()["added"] == 0


def test_a_torn_end_is_cut_off_and_damage_is_told(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.append([label("a", 1, 1)])
    [segment] = tmp_path.glob("*.labels")
    whole = segment.read_bytes()
    for length in range(1, len(whole)):
        segment.write_bytes(whole + whole[:length])
        assert known(LabelStore(tmp_path)) == {"a": 1.0}
    LabelStore(tmp_path).append([label("b", 0, 2)])
    assert known(LabelStore(tmp_path)) == {"a": 1.0, "b": 0.0}
    data = bytearray(segment.read_bytes())
    data[12] ^= 1
    segment.write_bytes(bytes(data))
    with pytest.raises(Damaged):
        LabelStore(tmp_path).read()


def test_a_refusing_disk_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LabelStore(tmp_path)
    store.append([label("a", 1, 1)])
    real, calls = os.pwrite, []

    def full(descriptor: int, data: bytes, offset: int) -> int:
        calls.append(offset)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:7], offset)

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(OSError, match="No space"):
        store.append([label("b", 1, 1)])
    monkeypatch.undo()
    store.append([label("c", 1, 1)])
    assert known(LabelStore(tmp_path)) == {"a": 1.0, "c": 1.0}


def test_segments_roll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.monitoring.labels._SEGMENT_BYTES", 200)
    writers = [LabelStore(tmp_path), LabelStore(tmp_path)]
    for i in range(60):
        writers[i % 2].append([label(f"p{i % 40}", i, i)])
    assert len(list(tmp_path.glob("*.labels"))) > 5
    assert known(writers[0]) == known(LabelStore(tmp_path)) == {f"p{i % 40}": float(i) for i in range(20, 60)}


_WRITER = """
import sys
from itertools import pairwise
from pathlib import Path
from holdfast.core.records import LabelRecord
from holdfast.monitoring.labels import LabelStore
store, name = LabelStore(Path(sys.argv[1])), sys.argv[2]
for i in range(100_000):
    store.append([LabelRecord(prediction_id=f"{name}-{i}-{j}", value=i, at=i) for j in range(3)])
    print(i, flush=True)
"""


def _kill_writers(folder: Path, rounds: int) -> None:
    acknowledged: dict[str, int] = {}
    for turn in range(rounds):
        names = [f"w{turn}", f"v{turn}"]
        writers = [
            subprocess.Popen([sys.executable, "-c", _WRITER, str(folder), n], stdout=subprocess.PIPE, text=True)
            for n in names
        ]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        time.sleep(0.01 + 0.013 * turn)
        for writer, name in zip(writers, names, strict=True):
            writer.send_signal(signal.SIGKILL)
            rest, _ = writer.communicate()
            acknowledged[name] = int((["0", *rest.split()])[-1])
    have = set(known(LabelStore(folder)))
    for name, last in acknowledged.items():
        missing = [f"{name}-{i}-{j}" for i in range(last + 1) for j in range(3) if f"{name}-{i}-{j}" not in have]
        assert not missing
        # A batch is there whole or not at all.
        assert all(sum(f"{name}-{i}-{j}" in have for j in range(3)) in (0, 3) for i in range(last + 3))


def test_acknowledged_labels_survive_sigkill(tmp_path: Path) -> None:
    _kill_writers(tmp_path, 3)


@pytest.mark.soak
def test_acknowledged_labels_survive_many_kills(tmp_path: Path) -> None:
    _kill_writers(tmp_path, 60)
