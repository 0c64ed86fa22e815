from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.backends.ledger_sql import SqlLedger
from holdfast.backends.objects_local import LocalObjects
from holdfast.core.ports import Ledger, Objects


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    yield opened
    opened.close()


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return LocalObjects(tmp_path / "objects")
