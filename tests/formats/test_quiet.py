"""Nothing is told to anybody: ONNX Runtime's own telemetry, on by default in its builds, stays off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serving.world import fields, onnx_model

from holdfast.core.records import Package
from holdfast.formats import onnx

CODE = """
from tests.formats.test_quiet import load
load()
"""


def load() -> None:
    package = Package(
        name="m", format="onnx", task="binary", model_file="m", files={}, inputs=fields(), request=[], outputs=[]
    )
    onnx.parse(onnx_model((1.0, -1.0)), package)


def test_a_process_that_loads_a_model_leaves_no_device_id(tmp_path: Path) -> None:
    """The library makes itself one as soon as it means to tell somebody; in automated builds it is off anyway."""
    quiet = {"CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS"}
    clean = {k: v for k, v in os.environ.items() if k not in quiet}
    settings = {**clean, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-B", "-c", CODE], cwd=Path(__file__).parents[2], env=settings, check=True)
    assert not [p for p in tmp_path.rglob("*") if "onnxruntime" in str(p).lower() or p.name == "deviceid"]


@pytest.mark.parametrize(("said", "calls"), [(None, 1), ("1", 1), ("0", 0)])
def test_it_is_off_where_the_library_was_there_first_unless_an_operator_wants_it(
    monkeypatch: pytest.MonkeyPatch, said: str | None, calls: int
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    made: list[int] = []
    monkeypatch.setattr(runtime, "disable_telemetry_events", lambda: made.append(1))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    if said is not None:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", said)
    load()
    assert len(made) == calls
