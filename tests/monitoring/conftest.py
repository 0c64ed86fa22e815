from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.backends.ledger_sql import SqlLedger
from holdfast.core.ports import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    yield opened
    opened.close()
