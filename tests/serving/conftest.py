from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    (tmp_path / "holdfast.toml").write_text("")
    with Workspace.open(tmp_path) as opened:
        yield opened
