"""Feast repositories as our definitions: what is carried gives Feast's own values, what is not is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.peers import environments

from holdfast.backends.engine_duckdb import DuckdbEngine
from holdfast.core import project
from holdfast.core.errors import BadDefinition, BadInput, Conflict, NotFound
from holdfast.features import point_in_time
from holdfast.protocols.feast import importer

HOUR = 3_600_000_000


def source(**more: Any) -> dict[str, Any]:
    return {
        "kind": "FileSource", "name": "stats", "timestamp": "at", "created": None, "mapping": {}, "path": "data/stats.parquet",
        "format": "", "description": "", "owner": "", "query": None, "fed_by": [], **more,
    }  # fmt: skip


def view(**more: Any) -> dict[str, Any]:
    return {
        "name": "hourly", "entities": ["driver"], "fields": [["rate", "Float32", "share"], ["city", "String", ""]], "ttl": 3600.0,
        "source": "stats", "stream_source": None, "views": [], "aggregations": [], "transformation": "", "transformed": False,
        "description": "", "owner": "", "tags": {}, "stream": False, **more,
    }  # fmt: skip


def repository(**more: Any) -> dict[str, Any]:
    return {
        "feast": "0.67.0", "entities": [{"name": "driver", "join_key": "driver_id", "description": ""}], "sources": {"stats": source()},
        "views": [view()], "on_demand": [], "services": [], "others": [], **more,
    }  # fmt: skip


def translated(tmp_path: Path, **more: Any) -> importer.Imported:
    return importer.translate(repository(**more), tmp_path / "feast", tmp_path)


def load(tmp_path: Path, imported: importer.Imported) -> Any:
    importer.write(imported, tmp_path / "definitions.py")
    return project.load(tmp_path)


def test_names_types_ttl_and_columns_are_kept(tmp_path: Path) -> None:
    stats = source(mapping={"r": "rate"}, created="known", owner="o")
    found = load(
        tmp_path,
        translated(tmp_path, sources={"stats": stats}, views=[view(tags={"a": "b"}, description='it\'s "so"')]),
    )
    hourly = found.views["hourly"]
    assert (
        hourly.join_keys == ("driver_id",)
        and hourly.ttl == HOUR
        and hourly.tags == {"a": "b"}
        and hourly.description == 'it\'s "so"'
    )
    assert [(f.name, f.dtype, f.source_column, f.description) for f in hourly.features] == [
        ("rate", "float64", "r", "share"), ("city", "string", "city", ""),
    ]  # fmt: skip
    kept = hourly.source
    assert (kept.path, kept.timestamp, kept.arrival, kept.owner) == ("feast/data/stats.parquet", "at", "known", "o")


def test_no_ttl_is_no_bound(tmp_path: Path) -> None:
    assert load(tmp_path, translated(tmp_path, views=[view(ttl=None)])).views["hourly"].ttl is None


def test_a_subset_of_a_view_hides_the_rest(tmp_path: Path) -> None:
    services = [{"name": "s", "description": "", "owner": "", "features": [
        {"view": "hourly", "alias": None, "keys": {}, "fields": ["city"], "wanted": []}]}]  # fmt: skip
    assert load(tmp_path, translated(tmp_path, services=services)).feature_services["s"].columns() == ["hourly__city"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"views": [view(entities=[])]}, ("feature view", "hourly", "no entity")),
        ({"views": [view(fields=[])]}, ("feature view", "hourly", "no schema")),
        ({"views": [view(fields=[["v", "Array(Float32)", ""]])]}, ("feature", "hourly:v", "Array")),
        ({"views": [view(name="9 lives")]}, ("feature view", "9 lives", "cannot be the name")),
        ({"views": [view(transformed=True)]}, ("feature view", "hourly", "transforms")),
        ({"views": [view(aggregations=["sum of x over 1h"])]}, ("feature view", "hourly", "hf.Aggregation")),
        ({"views": [view(views=["other"], source=None)]}, ("feature view", "hourly", "other views")),
        ({"sources": {"stats": source(mapping={"id": "driver_id"})}}, ("feature view", "hourly", "field_mapping")),
        ({"sources": {"stats": source(timestamp=None)}}, ("source", "stats", "event time")),
        ({"sources": {"stats": source(fed_by=[["KafkaSource", "topic"]])}}, ("stream", "topic", "KafkaSource")),
        ({"others": ["Permission p"]}, ("other", "Permission p", "no such thing")),
        ({"services": [{"name": "s", "description": "", "owner": "", "features": [
            {"view": "hourly", "alias": "again", "keys": {}, "fields": [], "wanted": []}]}]}, ("feature service", "s", "another name")),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_is_named_in_list_and_module(
    tmp_path: Path, change: dict[str, Any], named: tuple[str, str, str]
) -> None:
    imported = translated(tmp_path, **change)
    kind, name, why = named
    assert [entry for entry in imported.left if entry[:2] == (kind, name) and why in entry[2]], imported.left
    assert f"# - {kind} {name}: " in imported.text
    load(tmp_path, imported)


def test_an_on_demand_view_is_kept_as_a_comment_that_cannot_break_out(tmp_path: Path) -> None:
    hostile = 'def f(inputs):\n    """doc"""\n    return 1\x0cimport os\u2028raise SystemExit\n'
    imported = translated(tmp_path, on_demand=[
        {"name": "ratio", "fields": [["r", "Float64", ""]], "mode": 'pandas"""', "description": "", "source": hostile, "request": [["x", "Int64", ""]],
         "views": ["hourly"]}])  # fmt: skip
    assert "#     def f(inputs):" in imported.text and ("on-demand view", "ratio") in [e[:2] for e in imported.left]
    assert set(load(tmp_path, imported).views) == {"hourly"}


def test_a_database_becomes_a_query_whose_address_comes_from_the_environment(tmp_path: Path) -> None:
    stats = source(kind="PostgreSQLSource", path=None, query='(SELECT * FROM "t" WHERE (a) > (b))')
    imported = translated(tmp_path, sources={"stats": stats})
    kept = load(tmp_path, imported).sources["stats"]
    assert (kept.url, kept.query) == ("${STATS_URL}", 'SELECT * FROM "t" WHERE (a) > (b)')
    assert any("$STATS_URL" in why for _, _, why in imported.left)


def test_data_outside_the_project_is_linked_on_request(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    imported = importer.translate(repository(), theirs, ours)
    assert imported.links == [("data/stats.parquet", str(theirs / "data/stats.parquet"))]
    assert importer.link(imported, ours) == importer.link(imported, ours) == ["data/stats.parquet"]
    assert (ours / "data/stats.parquet").readlink() == theirs / "data/stats.parquet"
    (ours / "data/stats.parquet").unlink()
    (ours / "data/stats.parquet").write_text("mine")
    with pytest.raises(Conflict, match="no link"):
        importer.link(imported, ours)


def test_a_module_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "definitions.py").write_text("mine = 1\n")
    with pytest.raises(Conflict, match="not overwritten"):
        importer.write(translated(tmp_path), tmp_path / "definitions.py")
    assert (tmp_path / "definitions.py").read_text() == "mine = 1\n"
    assert [p.name for p in tmp_path.iterdir()] == ["definitions.py"]


def test_errors_of_reading_name_the_mend(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no Feast repository"):
        importer.read(tmp_path, sys.executable)
    (tmp_path / "feature_store.yaml").write_text("project: p\n")
    with pytest.raises(BadInput, match="has no Feast"):
        importer.read(tmp_path, sys.executable)
    with pytest.raises(NotFound, match="no Python"):
        importer.read(tmp_path, str(tmp_path / "nothing"))
    answering = tmp_path / "python"
    answering.write_text("""#!/bin/sh\necho '{"error": ["broken", "features.py:5: NameError: name x"]}' > "$3"\n""")
    answering.chmod(0o755)
    with pytest.raises(BadDefinition, match=r"features.py:5: NameError"):
        importer.read(tmp_path, str(answering))
    false = shutil.which("false")
    assert false is not None
    with pytest.raises(BadInput, match="ended with 1"):
        importer.read(tmp_path, false)


# --- beside Feast itself ----------------------------------------------------------------------------------------------

STORE = """project: shop
provider: local
registry: data/registry.db
online_store: {type: sqlite, path: data/online.db}
offline_store: {type: duckdb}
entity_key_serialization_version: 3
"""

FEATURES = """
from datetime import timedelta
import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float32, Float64, Int64, String

print("a repository may talk")
driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
zone = Entity(name="zone", join_keys=["zone"], value_type=ValueType.STRING)
stats = FileSource(name="driver_stats", path="data/driver_stats.parquet", timestamp_field="event_timestamp", created_timestamp_column="created")
trips = FileSource(path="data/trips.parquet", timestamp_field="at", field_mapping={"km": "kilometres"})
hourly = FeatureView(name="hourly", entities=[driver], ttl=timedelta(hours=6), source=PushSource(name="pushed", batch_source=stats),
    schema=[Field(name="rate", dtype=Float64), Field(name="total", dtype=Int64), Field(name="city", dtype=String), Field(name="driver_id", dtype=Int64)])
pairs = FeatureView(name="pairs", entities=[driver, zone], ttl=timedelta(0), source=trips,
    schema=[Field(name="kilometres", dtype=Float64), Field(name="night", dtype=Bool)])
ask = RequestSource(name="ask", schema=[Field(name="limit", dtype=Int64)])

@on_demand_feature_view(sources=[hourly, ask], schema=[Field(name="room", dtype=Float64)])
def headroom(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"room": (inputs["limit"] - inputs["total"]).astype(float)})

both = FeatureService(name="both", features=[hourly[["rate", "total", "city"]], pairs])
scored = FeatureService(name="scored", features=[hourly, headroom])
"""

ASK = """
import sys
import pandas as pd
from feast import FeatureStore
folder = sys.argv[1]
store = FeatureStore(repo_path=folder)
from feast.repo_operations import parse_repo
from pathlib import Path
contents = parse_repo(Path(folder))
store.apply([*[e for e in contents.entities if e.name != "__dummy"], *contents.feature_views, *contents.on_demand_feature_views, *contents.feature_services])
spine = pd.read_parquet(folder + "/spine.parquet")
got = store.get_historical_features(spine, store.get_feature_service("both"), full_feature_names=True, filter_by_created_timestamp=True)
got.to_df().to_parquet(folder + "/feast.parquet")
"""


def world(folder: Path) -> pa.Table:
    """Data with large keys, nulls, unknown entities, expired and late rows; no two rows of one key and time."""
    rng = np.random.default_rng(7)
    instant = pa.timestamp("us", tz="UTC")
    base, n = 1_700_000_000_000_000, 4000
    keys = np.array([1, 2, 3, 2**53 + 1, 2**53 + 2, -5])
    at = base + rng.permutation(n) * 60_000_000
    late = np.where(rng.random(n) < 0.2, rng.integers(0, 8 * HOUR, n), 0)
    (folder / "data").mkdir(parents=True)
    stats = {
        "driver_id": rng.choice(keys, n), "event_timestamp": pa.array(at).cast(instant), "created": pa.array(at + late).cast(instant),
        "rate": pa.array(rng.random(n), mask=rng.random(n) < 0.1), "total": rng.integers(-(2**40), 2**40, n),
        "city": pa.array(rng.choice(["Köln", "Oslo", ""], n)),
    }  # fmt: skip
    pq.write_table(pa.table(stats), folder / "data" / "driver_stats.parquet")
    trips = {
        "driver_id": rng.choice(keys, n), "zone": rng.choice(["a", "b", "c"], n), "at": pa.array(base + rng.permutation(n) * 60_000_000).cast(instant),
        "km": rng.random(n), "night": rng.random(n) < 0.5,
    }  # fmt: skip
    pq.write_table(pa.table(trips), folder / "data" / "trips.parquet")
    m = 1500
    spine = pa.table({
        "row": np.arange(m), "driver_id": rng.choice([*keys, 99], m), "zone": rng.choice(["a", "b", "z"], m),
        "event_timestamp": pa.array(base + rng.integers(-5, n + 600, m) * 60_000_000).cast(instant),
    })  # fmt: skip
    pq.write_table(spine, folder / "spine.parquet")
    return spine


@pytest.mark.peer
@pytest.mark.timeout(900)
def test_imported_definitions_give_feasts_own_historical_values(tmp_path: Path) -> None:
    python = str(environments.python_of("feast"))
    theirs, ours = tmp_path / "feast", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    (ours / "holdfast.toml").write_text("")
    (theirs / "feature_store.yaml").write_text(STORE)
    (theirs / "features.py").write_text(FEATURES)
    spine = world(theirs)
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.cli.main", "-C", str(ours), "features", "import-feast", str(theirs), "--python", python, "--link", "--json"],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["views"] == ["hourly", "pairs"] and said["services"] == ["both", "scored"]
    assert {tuple(e[:2]) for e in said["left"]} == {("feature service", "scored"), ("on-demand view", "headroom")}
    done = subprocess.run(
        [python, "-c", ASK, str(theirs)], cwd=theirs, capture_output=True, text=True, timeout=600, env={**os.environ, "FEAST_USAGE": "False"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    feasts = pq.read_table(theirs / "feast.parquet").to_pylist()
    service = project.load(ours).feature_services["both"]
    tables = {v.source.name: [ours / str(v.source.path)] for v in service.views}
    mine = point_in_time.historical(
        DuckdbEngine(), service, spine, timestamp="event_timestamp", sources=tables
    ).to_pylist()
    by_row = {r["row"]: r for r in feasts}
    assert len(mine) == len(feasts) == spine.num_rows
    columns = [c for c in mine[0] if "__" in c]
    unequal = [
        (r["row"], c, r[c], by_row[r["row"]][c]) for r in mine for c in columns if not same(r[c], by_row[r["row"]][c])
    ]
    assert unequal == []
    known = sum(r[c] is not None for r in mine for c in columns)
    assert 0.2 < known / (len(mine) * len(columns)) < 0.95  # both found and missed values were compared


def same(a: Any, b: Any) -> bool:
    """Feast gives missing numbers as NaN."""
    return b is None or b != b if a is None else bool(a == b)
