"""The contract of a model format, as tests. A format's own test module makes a class of it:

    class TestMyFormat(FormatContract):
        @pytest.fixture
        def written(self):                     # one model, written down, with rows and what it must answer for them
            return Written(data, package, rows, scores)

A format of somebody else's is an object with ``name``, ``recognises(data)`` and ``parse(data, package, threads=…)``, found
by entry point (group ``holdfast.formats``). Needs pytest, NumPy and Linux (children are limited and watched).
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from holdfast import formats
from holdfast.core.errors import Damaged, NotTrusted, UsersTurn
from holdfast.core.identity import digest
from holdfast.core.records import FieldSpec, FileRef, Package
from holdfast.formats.sniff import sniff
from holdfast.testing import hostile


class Written(NamedTuple):
    """A model in its format. ``rows`` (n, d) float64 and the ``scores`` it gave for them before it was written."""

    data: bytes
    package: Package
    rows: Any
    scores: Any


def package_of(
    data: bytes,
    *,
    says: str,
    task: str,
    width: int,
    name: str = "model.bin",
    classes: Any = (),
) -> Package:
    """A manifest for one model file of ``width`` inputs."""
    inputs = [FieldSpec(name=f"x{i}", dtype="float64") for i in range(width)]
    return Package(
        name="m", format=says, task=task, model_file=name, files={name: FileRef(sha256=digest(data), size=len(data))},  # type: ignore[arg-type]
        inputs=inputs, request=inputs, outputs=[], classes=list(classes),
    )  # fmt: skip


class FormatContract:
    """What every format must do, whoever wrote it."""

    tolerance = 1e-5
    mutants = 25
    growth = 512 << 20
    """Most address space that reading a damaged copy may take, in bytes."""

    @pytest.fixture
    def written(self) -> Written:
        raise NotImplementedError

    def load(self, written: Written, folder: Path, **change: Any) -> Any:
        """The model as a replica loads it."""
        package = msgspec.structs.replace(written.package, **change)
        (folder / package.model_file).write_bytes(written.data)
        return formats.load(folder, package)

    def test_loaded_is_equal(self, written: Written, tmp_path: Path) -> None:
        got = np.asarray(self.load(written, tmp_path).scores(written.rows))
        assert got.dtype == np.float64 and got.shape == np.asarray(written.scores).shape
        np.testing.assert_allclose(got, written.scores, rtol=self.tolerance, atol=self.tolerance)

    def test_a_row_alone_scores_as_among_others(self, written: Written, tmp_path: Path) -> None:
        model = self.load(written, tmp_path)
        together = np.asarray(model.scores(written.rows[:20]))
        alone = np.concatenate([np.asarray(model.scores(written.rows[i : i + 1])) for i in range(len(together))])
        np.testing.assert_allclose(alone, together, rtol=self.tolerance, atol=self.tolerance)

    def test_loading_twice_is_loading_once(self, written: Written, tmp_path: Path) -> None:
        first, second = self.load(written, tmp_path), self.load(written, tmp_path)
        np.testing.assert_array_equal(first.scores(written.rows), second.scores(written.rows))

    def test_the_content_decides_and_not_the_name(self, written: Written, tmp_path: Path) -> None:
        renamed = {
            name: FileRef(sha256=digest(written.data), size=len(written.data)) for name in ("m.pkl", "m.txt", "model")
        }
        for name in renamed:
            got = self.load(written, tmp_path, model_file=name, files=renamed).scores(written.rows)
            np.testing.assert_allclose(got, written.scores, rtol=self.tolerance, atol=self.tolerance)

    def test_a_package_that_names_another_format_is_refused(self, written: Written, tmp_path: Path) -> None:
        other = "onnx" if written.package.format != "onnx" else "skops"
        with pytest.raises(NotTrusted):
            self.load(written, tmp_path, format=other)

    def test_the_hash_is_verified_before_the_first_byte_is_parsed(self, written: Written, tmp_path: Path) -> None:
        (tmp_path / written.package.model_file).write_bytes(written.data[:-1] + bytes([written.data[-1] ^ 1]))
        with pytest.raises(Damaged):
            formats.load(tmp_path, written.package)

    def test_another_number_of_inputs_is_refused(self, written: Written, tmp_path: Path) -> None:
        wide = [*written.package.inputs, FieldSpec(name="more", dtype="float64")]
        with pytest.raises(UsersTurn):
            self.load(written, tmp_path, inputs=wide).scores(np.zeros((1, len(wide))))

    def test_a_pickle_under_its_name_runs_nothing(self, written: Written, tmp_path: Path) -> None:
        mark = tmp_path / "touched"
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            data = pickle.dumps(_Touch(mark), protocol=protocol)
            with pytest.raises(UsersTurn):
                formats.parse(data, written.package, sha256=digest(data), name=written.package.model_file)
        assert not mark.exists()

    def test_its_bytes_are_no_other_format(self, written: Written) -> None:
        kind = sniff(written.data)
        assert kind in (written.package.format, "unknown", "zip")

    def test_damaged_copies_are_refused_or_read_and_do_nothing_else(self, written: Written) -> None:
        """In a child with a limit on memory, an audit hook and canaries; a crash of the library counts against the format."""
        cases = [b"", written.data[: len(written.data) // 2], *hostile.mutants(written.data, self.mutants, seed=11)]
        outcomes = hostile.attack(cases, written.package)
        assert len(outcomes) == len(cases)
        bad = [o for o in outcomes if o.kind not in ("refused", "loaded") or o.did or o.grew > self.growth]
        assert not bad, bad
        assert outcomes[0].kind == outcomes[1].kind == "refused"


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))
