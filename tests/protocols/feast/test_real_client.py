"""A real Feast client (its own virtual environment) reads from the feature server, by its ``remote`` online store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from tests.peers import environments

DEFINITIONS = """
import holdfast as hf
trips = hf.Source("trips", "trips.parquet", timestamp="at", schema={"driver_id": int, "fare": float, "city": str})
driver = hf.Entity("driver", ["driver_id"])
activity = hf.FeatureView("activity", [driver], trips, [hf.Aggregation("fare", ["count", "mean"], ["1h"]), hf.Field("city", str)])
fares = hf.FeatureService("fares", [activity])
"""

CLIENT = """
import json, sys
from datetime import timedelta
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, Int64, String

folder, address = sys.argv[1:]
store = FeatureStore(config=RepoConfig(
    project="p", provider="local", registry=folder + "/registry.db", online_store={"type": "remote", "path": address},
    entity_key_serialization_version=3))
driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
pd.DataFrame({"driver_id": [1], "at": pd.to_datetime(["2024-01-01"], utc=True), "city": ["A"], "fare_count_1h": [1],
              "fare_mean_1h": [1.0]}).to_parquet(folder + "/s.parquet")
view = FeatureView(name="activity", entities=[driver], ttl=timedelta(days=1), online=True,
    schema=[Field(name="city", dtype=String), Field(name="fare_count_1h", dtype=Int64), Field(name="fare_mean_1h", dtype=Float64)],
    source=FileSource(path=folder + "/s.parquet", timestamp_field="at"))
store.apply([driver, view])
got = store.get_online_features(
    features=["activity:fare_mean_1h", "activity:city", "activity:fare_count_1h"],
    entity_rows=[{"driver_id": 7}, {"driver_id": 2**53 + 1}, {"driver_id": 8}]).to_dict()
print("ANSWER" + json.dumps(got))
"""


@pytest.mark.peer
@pytest.mark.timeout(600)
def test_feasts_own_client_reads_what_was_pushed(tmp_path: Path) -> None:
    python = environments.python_of("feast")
    project = tmp_path / "project"
    project.mkdir()
    (project / "definitions.py").write_text(DEFINITIONS)
    server = subprocess.Popen(
        [sys.executable, "-m", "holdfast.cli.main", "-C", str(project), "features", "serve", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOLDFAST_ENV": ""},
    )
    try:
        assert server.stderr is not None
        line = server.stderr.readline()
        address = line.split()[-1]
        assert address.startswith("http"), line
        now = int(time.time() * 1_000_000)
        columns = {
            "driver_id": [7, 7, 2**53 + 1],
            "at": [now - 5, now - 4, now - 3],
            "fare": [1.0, 2.0, 8.0],
            "city": ["A", "B", "C"],
        }
        body = json.dumps({"push_source_name": "trips", "df": columns, "to": "online"}).encode()
        with urllib.request.urlopen(urllib.request.Request(address + "/push", body), timeout=60) as answer:
            assert answer.status == 200
        feast = tmp_path / "feast"
        feast.mkdir()
        done = subprocess.run(
            [str(python), "-c", CLIENT, str(feast), address], capture_output=True, text=True, timeout=300,
            env={**os.environ, "FEAST_USAGE": "False"},
        )  # fmt: skip
        answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER")]
        assert answers, done.stderr[-3000:]
        assert json.loads(answers[0][len("ANSWER") :]) == {
            "driver_id": [7, 2**53 + 1, 8],
            "city": ["B", "C", None],
            "fare_mean_1h": [1.5, 8.0, None],
            "fare_count_1h": [2, 1, 0],  # of nothing, a count is 0
        }
    finally:
        server.terminate()
        server.wait(20)
