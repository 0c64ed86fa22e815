"""Nothing a caller sends breaks the feature server: every answer is 200 or a 4xx with an object, and what was taken stays
the same online and offline."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from tests.protocols.feast.listening import listening

from holdfast.backends.engine_duckdb import DuckdbEngine
from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.core import definitions as d
from holdfast.core.identity import iso
from holdfast.features import point_in_time
from holdfast.features.lookup import Lookup, compile_plan
from holdfast.features.push import Pusher, landed
from holdfast.protocols.feast import routes

NOW = 1_700_000_000_000_000
MINUTE = 60_000_000
ROOT = Path(__file__).resolve().parents[3]

trips = d.Source(
    "trips",
    "trips.parquet",
    timestamp="at",
    sequence="n",
    schema={"driver_id": int, "n": int, "fare": float, "city": str},
)
activity = d.FeatureView("activity", [d.Entity("driver", ["driver_id"])], trips, [
    d.Aggregation("fare", ["count", "mean", "max"], ["1h"]), d.Aggregation("city", ["distinct"], ["1d"], where="fare > 1"), d.Field("city", str)])  # fmt: skip


@d.on_demand
def ratio(amount: Any, activity__fare_mean_1h: Any) -> Any:
    return amount / activity__fare_mean_1h


service = d.FeatureService("fares", [activity, ratio], request={"amount": float})

VALID: list[tuple[str, Any]] = [
    ("/get-online-features", {"features": ["activity:city", "activity:fare_mean_1h"], "entities": {"driver_id": [7, 8]}}),
    ("/get-online-features", {"feature_service": "fares", "entities": {"driver_id": [7], "amount": [2.0]}, "full_feature_names": True,
        "request_time": iso(NOW)}),
    ("/push", {"push_source_name": "trips", "to": "online", "df": {
        "driver_id": [7, 9], "at": [iso(NOW - MINUTE), NOW - 2 * MINUTE], "n": [1, 2], "fare": [2.5, 1.0], "city": ["A", None]}}),
    ("/write-to-online-store", {"feature_view_name": "activity", "df": {
        "driver_id": [7], "at": [iso(NOW - MINUTE)], "n": [None], "fare": [2.5], "city": ["B"]}}),
    ("/materialize", {"start_ts": iso(NOW - MINUTE), "end_ts": iso(NOW), "feature_views": ["activity"]}),
    ("/materialize-incremental", {"end_ts": iso(NOW)}),
]  # fmt: skip

HOSTILE: list[Any] = [
    None, True, 0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**70, 1e308, -0.0, 0.5, "", " ", "7", "NaN", "\x00", "a" * 600, "é\u2028", "'; DROP TABLE x; --",
    "activity:", ":", "activity:city:city", "__proto__", "2013-13-45T99:99:99", "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z", [], {}, [[]], [None], [{}], {"a": 1}, [1, "a", None, 2.5], [1] * 50,
]  # fmt: skip


def mutate(body: Any, rng: random.Random) -> Any:
    """The body with one to three of its parts replaced, removed, doubled or renamed."""
    body = copy.deepcopy(body)
    for _ in range(rng.randint(1, 3)):
        place, parts = body, []
        while isinstance(place, dict | list) and place and (not parts or rng.random() < 0.7):
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
            parts.append((place, key))
            place = place[key]
        if not parts:
            return copy.deepcopy(rng.choice(HOSTILE))
        holder, key = parts[-1]
        match rng.randrange(5):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(rng.choice(HOSTILE))] = holder.pop(key)
            case 2 if isinstance(holder[key], list):
                holder[key] = holder[key] * rng.randint(2, 4)
            case _:
                holder[key] = copy.deepcopy(rng.choice(HOSTILE))
    return body


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[httpx.Client, EmbeddedOnlineStore]]:
    async def materialize(start: int | None, end: int, names: Any) -> None:
        assert isinstance(end, int)

    with (
        EmbeddedOnlineStore(tmp_path / "online", map_size=1 << 28) as online,
        Pusher(tmp_path, online, [activity], durable=False) as pusher,
    ):
        definitions = routes.Definitions.of({"activity": activity}, {"fares": service})
        server = routes.FeatureServer(
            online, definitions, pusher=pusher, materialize=materialize, clock=lambda: NOW,
        )  # fmt: skip
        with listening(server) as client:
            yield client, online


def check(client: httpx.Client, path: str, content: bytes) -> int:
    answer = client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, (
        answer.status_code,
        path,
        content[:500],
        answer.text[:300],
    )
    if answer.status_code != 200:
        body = answer.json()
        assert (
            body["error"]["code"].startswith("HF")
            and body["error"]["message"]
            and body["detail"] == body["error"]["message"]
        ), body
        assert "Traceback" not in answer.text and str(ROOT) not in answer.text
    return answer.status_code


def run(client: httpx.Client, seed: int, rounds: int) -> dict[int, int]:
    rng = random.Random(seed)
    seen: dict[int, int] = {}
    for _ in range(rounds):
        path, body = rng.choice(VALID)
        body = mutate(body, rng)
        content = json.dumps(body).encode()
        if rng.random() < 0.15:
            at = rng.randrange(len(content) + 1)
            content = rng.choice(
                [
                    content[:at],
                    content[:at] + rng.randbytes(3) + content[at:],
                    b"[" * rng.randint(1, 5000),
                    content + content,
                    b"\xff\xfe" + content,
                ]
            )
        status = check(client, path, content)
        seen[status] = seen.get(status, 0) + 1
    return seen


def agree(online: EmbeddedOnlineStore, folder: Path) -> int:
    """Online and offline say the same of every key the hostile pushes left; how many there are."""
    files = landed(folder, "trips")
    engine = DuckdbEngine(threads=1)
    listed = ", ".join(f"'{f}'" for f in files)
    keys = engine.query(
        f"SELECT DISTINCT driver_id FROM read_parquet([{listed}], union_by_name=true) WHERE driver_id IS NOT NULL"
    )[0].to_pylist()
    plain = d.FeatureService("plain", [activity])
    for at in (NOW, NOW + 30 * MINUTE):
        spine = pa.table(
            {
                "driver_id": pa.array(keys, pa.int64()),
                "now": pa.array([at] * len(keys)).cast(pa.timestamp("us", tz="UTC")),
            }
        )
        offline = (
            point_in_time.historical(engine, plain, spine, timestamp="now", sources={"trips": files})
            .select(plain.columns())
            .to_pylist()
        )
        rows = Lookup(compile_plan(plain), online).rows([{"driver_id": k} for k in keys], at=[at] * len(keys))
        for key, a, b in zip(keys, rows, offline, strict=True):
            for column in plain.columns():
                assert a[column] == b[column] or a[column] == pytest.approx(b[column], rel=1e-9), (
                    key,
                    at,
                    column,
                    a,
                    b,
                )
    return len(keys)


def test_a_sample(tmp_path: Path, served: tuple[httpx.Client, EmbeddedOnlineStore]) -> None:
    client, online = served
    for path, body in VALID:
        assert check(client, path, json.dumps(body).encode()) == 200
    seen = run(client, 1, 500)
    assert seen[200] > 15 and sum(n for s, n in seen.items() if s != 200) > 150
    assert agree(online, tmp_path) >= 2


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 22))
def test_at_length(tmp_path: Path, served: tuple[httpx.Client, EmbeddedOnlineStore], seed: int) -> None:
    client, online = served
    for path, body in VALID:
        assert check(client, path, json.dumps(body).encode()) == 200
    run(client, seed, 3_000)
    agree(online, tmp_path)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_and_addresses(served: tuple[httpx.Client, EmbeddedOnlineStore], method: str) -> None:
    client, _ = served
    for path in ("/get-online-features", "/push", "/materialize", "/nothing", "/push/", "//push", "/%00", "/..%2f"):
        answer = client.request(method, str(client.base_url).rstrip("/") + path)
        assert 400 <= answer.status_code < 500 and answer.json()["error"]["code"].startswith("HF"), (
            path,
            answer.status_code,
            answer.text,
        )
