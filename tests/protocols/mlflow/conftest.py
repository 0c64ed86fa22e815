import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.protocols.mlflow.client import Api, serving

POSTGRES = "postgresql://postgres@127.0.0.1:5432/test"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def overrides(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Settings that put the ledger and the runs into one engine or the other."""
    if request.param == "sqlite":
        yield {}
        return
    schema = f"g_{uuid.uuid4().hex[:12]}"
    try:
        import psycopg

        connection = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)
    except Exception as error:
        if os.environ.get("HOLDFAST_REQUIRE_SERVICES") == "1":
            raise
        pytest.skip(f"no PostgreSQL at {POSTGRES}: {error}")
    connection.execute(f"CREATE SCHEMA {schema}")
    url = f"{POSTGRES}?options=-csearch_path%3D{schema}"
    yield {"ledger.url": url, "runs.url": url}
    connection.execute(f"DROP SCHEMA {schema} CASCADE")
    connection.close()


@pytest.fixture
def api(tmp_path: Path, overrides: dict[str, str]) -> Iterator[Api]:
    with serving(tmp_path, overrides=overrides) as opened:
        yield opened


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Api]:
    """On SQLite only, where the engine does not matter."""
    with serving(tmp_path) as opened:
        yield opened
