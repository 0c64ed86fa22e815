"""The feature server over HTTP: Feast's shapes, the request's order, and an object for every mistake of the caller."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.protocols.feast.listening import listening

from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.core import definitions as d
from holdfast.core.identity import HOUR, iso
from holdfast.features.push import Pusher
from holdfast.protocols.feast import routes, translate
from holdfast.server import access, featureserver, guard

NOW = 1_700_000_000_000_000

trips = d.Source("trips", "trips.parquet", timestamp="at")
driver = d.Entity("driver", ["driver_id"])
activity = d.FeatureView(
    "activity", [driver], trips, [d.Aggregation("fare", ["count", "mean"], ["1h"]), d.Field("city", str)], ttl="2h"
)
service = d.FeatureService("fares", [activity], request={"amount": float})


@pytest.fixture
def calls() -> list[Any]:
    return []


@pytest.fixture
def client(tmp_path: Path, calls: list[Any]) -> Iterator[httpx.Client]:
    async def materialize(start: int | None, end: int, names: Any) -> None:
        calls.append((start, end, names))

    with EmbeddedOnlineStore(tmp_path / "online") as online, Pusher(tmp_path, online, [activity]) as pusher:
        definitions = routes.Definitions.of({"activity": activity}, {"fares": service})
        server = routes.FeatureServer(
            online, definitions, pusher=pusher, materialize=materialize, clock=lambda: NOW,
        )  # fmt: skip
        with listening(server) as client:
            yield client


def push(client: httpx.Client, **columns: Any) -> Any:
    body = {
        "push_source_name": "trips",
        "df": {"driver_id": [7, 7], "at": [iso(NOW - HOUR), iso(NOW - 1_500_000)], **columns},
    }
    return client.post("/push", json=body)


def test_pushed_events_are_read_in_feasts_shape_and_the_requests_order(client: httpx.Client) -> None:
    answer = push(client, fare=[10.0, 4.0], city=["A", "B"])
    assert (answer.status_code, answer.content) == (200, b"")
    asked = {
        "features": ["activity:city", "activity:fare_mean_1h", "activity:fare_count_1h"],
        "entities": {"driver_id": [8, 7, 2**53 + 1]},
    }
    body = client.post("/get-online-features", json=asked).json()
    assert body["metadata"]["feature_names"] == ["driver_id", "city", "fare_mean_1h", "fare_count_1h"]
    whole_second = iso((NOW - 1_500_000) // 10**6 * 10**6)
    epoch = "1970-01-01T00:00:00Z"
    assert body["results"] == [
        {"values": [8, 7, 2**53 + 1], "statuses": ["PRESENT"] * 3, "event_timestamps": [epoch] * 3},
        {"values": [None, "B", None], "statuses": ["NOT_FOUND", "PRESENT", "NOT_FOUND"], "event_timestamps": [epoch, whole_second, epoch]},
        {"values": [None, 4.0, None], "statuses": ["NOT_FOUND", "PRESENT", "NOT_FOUND"], "event_timestamps": [epoch, whole_second, epoch]},
        {"values": [0, 1, 0], "statuses": ["NOT_FOUND", "PRESENT", "NOT_FOUND"], "event_timestamps": [epoch, whole_second, epoch]},
    ]  # fmt: skip
    full = client.post("/get-online-features", json={**asked, "full_feature_names": True}).json()
    assert full["metadata"]["feature_names"][1] == "activity__city"


def test_a_service_by_name(client: httpx.Client) -> None:
    push(client, fare=[10.0, 4.0], city=["A", "B"])
    body = client.post(
        "/get-online-features", json={"feature_service": "fares", "entities": {"driver_id": [7], "amount": [5.0]}}
    )
    assert body.status_code == 200, body.text
    names = body.json()["metadata"]["feature_names"]
    assert names == ["driver_id", "amount", "fare_count_1h", "fare_mean_1h", "city"]


def test_pushing_twice_counts_once(client: httpx.Client) -> None:
    for _ in range(3):
        assert push(client, fare=[10.0, 4.0], city=["A", "B"]).status_code == 200
    asked = {"features": ["activity:fare_count_1h"], "entities": {"driver_id": [7]}}
    assert client.post("/get-online-features", json=asked).json()["results"][1]["values"] == [1]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/get-online-features", {"features": ["nobody:x"], "entities": {"driver_id": [1]}}, 404, "nobody"),
        ("/get-online-features", {"features": ["activity:fare"], "entities": {"driver_id": [1]}}, 404, "fare"),
        ("/get-online-features", {"features": ["activity"], "entities": {"driver_id": [1]}}, 400, "view:feature"),
        ("/get-online-features", {"feature_service": "fare", "entities": {"driver_id": [1]}}, 404, "fares"),
        ("/get-online-features", {"features": ["activity:city"], "entities": {"driver": [1]}}, 400, "driver_id"),
        ("/get-online-features", {"features": ["activity:city"], "entities": {"driver_id": []}}, 400, "no rows"),
        ("/get-online-features", {"features": ["activity:city"], "entities": {}}, 400, "entities is empty"),
        ("/get-online-features", {"features": ["activity:city"]}, 400, "entities"),
        ("/get-online-features", {"features": [], "entities": {"driver_id": [1]}}, 400, "no features"),
        ("/get-online-features", {"features": ["activity:city"], "entities": {"driver_id": [1.5]}}, 400, "driver_id"),
        ("/get-online-features", {"features": ["activity:city"], "entities": {"driver_id": [1], "b": []}}, 400, "length"),
        ("/get-online-features", {"feature_service": "fares", "entities": {"driver_id": [1]}}, 400, "amount"),
        ("/push", {"push_source_name": "trip", "df": {"driver_id": [1]}}, 404, "trips"),
        ("/push", {"push_source_name": "trips", "df": {"driver_id": [1]}}, 422, "lacks the column"),
        ("/push", {"push_source_name": "trips", "df": {"driver_id": [1]}, "to": "moon"}, 400, "moon"),
        ("/push", {"push_source_name": "trips", "df": {"driver_id": [1], "at": ["soon"], "fare": [1], "city": ["A"]}}, 422, "instant"),
        ("/push", {"push_source_name": "trips", "df": {"driver_id": [1], "at": [None], "fare": [1], "city": ["A"]}}, 422, "event time"),
        ("/push", {"push_source_name": "trips", "df": {"driver_id": [[1]], "at": [1], "fare": [1], "city": ["A"]}}, 422, "driver_id"),
        ("/push", {"push_source_name": "trips", "df": {"driver_id": [2**64], "at": [1], "fare": [1], "city": ["A"]}}, 422, "64 bits"),
        ("/push", {"push_source_name": "trips", "df": {"driver_id": [1], "at": [1], "fare": [1], "city": [5]}}, 422, "city"),
        ("/write-to-online-store", {"feature_view_name": "x", "df": {}}, 404, "activity"),
        ("/materialize", {"end_ts": "2024-01-01T00:00:00Z"}, 400, "start_ts"),
        ("/materialize-incremental", {"end_ts": "2024-01-01", "feature_views": ["x"]}, 404, "activity"),
    ],
)  # fmt: skip
def test_every_mistake_is_a_4xx_with_an_object(
    client: httpx.Client, path: str, body: Any, status: int, says: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert set(problem) == {"error", "detail"} and problem["error"]["code"].startswith("HF")
    assert says in answer.text
    assert "Traceback" not in answer.text


def test_a_string_key_where_integers_were_pushed_is_named(client: httpx.Client) -> None:
    push(client, fare=[10.0, 4.0], city=["A", "B"])
    asked = {"features": ["activity:city"], "entities": {"driver_id": ["7"]}}
    answer = client.post("/get-online-features", json=asked)
    assert answer.status_code == 400 and "driver_id" in answer.json()["detail"]


def test_what_is_no_json_or_no_address(client: httpx.Client) -> None:
    for content in (b"{", b"\xff", b"[" * 5000, b"null"):
        assert client.post("/push", content=content).status_code == 400
    assert client.get("/push").status_code == 405
    assert client.get("/nowhere").json()["error"]["code"] == "HF200"
    assert client.get("/health").status_code == 200


def test_limits(client: httpx.Client) -> None:
    rows = translate.MOST_ROWS + 1
    many = {"features": ["activity:city"], "entities": {"driver_id": list(range(rows))}}
    assert client.post("/get-online-features", json=many).status_code == 413
    large = client.post("/push", content=b" " * (routes.LIMITS.body + 1))
    assert large.status_code == 413 and large.json()["error"]["code"] == "HF440"


def test_materialize_is_passed_on(client: httpx.Client, calls: list[Any]) -> None:
    assert client.post("/materialize", json={"start_ts": iso(0), "end_ts": iso(5)}).json() is None
    client.post("/materialize-incremental", json={"end_ts": iso(HOUR), "feature_views": ["activity"]})
    assert calls == [(0, 5, None), (None, HOUR, ["activity"])]


def test_what_was_asked_is_counted(client: httpx.Client) -> None:
    push(client, fare=[10.0, 4.0], city=["A", "B"])
    asked = {"features": ["activity:city"], "entities": {"driver_id": [7, 8, 9]}}
    for _ in range(2):
        client.post("/get-online-features", json=asked)
    client.post("/get-online-features", json={**asked, "features": ["activity:town"]})
    client.get("/nowhere")
    lines = set(client.get("/metrics").text.splitlines())
    assert lines >= {
        'holdfast_requests_total{route="/get-online-features",status="200"} 2.0',
        'holdfast_requests_total{route="/get-online-features",status="404"} 1.0',
        'holdfast_requests_total{route="/push",status="200"} 1.0',
        'holdfast_requests_total{route="other",status="404"} 1.0',
        "holdfast_feature_rows_read_total 6.0",
        "holdfast_feature_rows_pushed_total 2.0",
        'holdfast_refused_total{code="HF200"} 2.0',
    }


def test_read_only(tmp_path: Path) -> None:
    with EmbeddedOnlineStore(tmp_path / "online") as online:
        server = routes.FeatureServer(online, routes.Definitions.of({"activity": activity}, {}), pusher=None)
        with listening(server) as client:
            refused = push(client, fare=[1.0, 1.0], city=["A", "B"])
            assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
            assert client.post("/materialize-incremental", json={}).status_code == 503


def test_a_guard_is_asked_first(tmp_path: Path) -> None:
    rules = access.Access(tokens=[access.of("hf_reader", role="read")], hosts=["features.example"])
    with EmbeddedOnlineStore(tmp_path / "online") as online:
        definitions = routes.Definitions.of({"activity": activity}, {})
        guarded = guard.guard(rules, featureserver.role_of)
        server = routes.FeatureServer(online, definitions, pusher=None, clock=lambda: NOW, guard=guarded)
        asked = {"features": ["activity:city"], "entities": {"driver_id": [7]}}
        token = {"authorization": "Bearer hf_reader"}
        with listening(server) as client:
            doors = [*(door for door in server._routes if door != ("GET", "/health")), ("POST", "/nowhere")]
            assert len(doors) > 6
            for method, path in doors:
                none = client.request(method, path, json=asked)
                assert none.status_code == 401 and none.headers["www-authenticate"] == "Bearer"
            assert client.get("/health").status_code == 200
            for _ in range(2):
                assert client.post("/get-online-features", json=asked, headers=token).status_code == 200
                assert client.post("/push", json=asked, headers=token).status_code == 403
                elsewhere = {**token, "host": "evil.example"}
                assert client.post("/get-online-features", json=asked, headers=elsewhere).status_code == 403
            here = {**token, "host": "features.example:6566"}
            assert client.post("/get-online-features", json=asked, headers=here).status_code == 200
            page = {**token, "origin": "https://evil.example"}
            assert client.post("/get-online-features", json=asked, headers=page).status_code == 403
            assert client.get("/metrics", headers=token).status_code == 200


def test_what_was_applied_a_moment_ago_is_found(tmp_path: Path) -> None:
    """An unknown name is looked for once more; what cannot be taken over leaves everything as it was."""
    with EmbeddedOnlineStore(tmp_path / "online") as online:
        waiting: list[Any] = []
        asks: list[int] = []

        def newer() -> routes.Definitions | None:
            asks.append(1)
            found = waiting.pop() if waiting else None
            if isinstance(found, Exception):
                raise found
            return found  # type: ignore[no-any-return]

        first = routes.Definitions.of({}, {})
        server = routes.FeatureServer(online, first, pusher=None, clock=lambda: NOW, newer=newer)
        asked = {"features": ["activity:city"], "entities": {"driver_id": [7]}}
        named = {"feature_service": "fares", "entities": {"driver_id": [7], "amount": [1.0]}}
        with listening(server) as client:
            assert client.post("/get-online-features", json=asked).status_code == 404
            # callers who name what is not there do not make us look each time
            for _ in range(50):
                client.post("/get-online-features", json=asked)
            assert len(asks) < 25
            server._looked = -1e9
            waiting.append(RuntimeError("half"))
            assert client.post("/get-online-features", json=asked).status_code == 404
            server._looked = -1e9
            waiting.append(routes.Definitions.of({"activity": activity}, {"fares": service}))
            assert client.post("/get-online-features", json=named).status_code == 200
            assert client.post("/get-online-features", json=asked).status_code == 200
            before = len(asks)
            assert client.post("/get-online-features", json=asked).status_code == 200 and len(asks) == before
