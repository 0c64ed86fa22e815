"""LMDB and Redis fulfil one contract; what only one of them can do wrong is here too."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.backends.online_redis import RedisOnlineStore
from holdfast.core.errors import Unavailable
from holdfast.testing.online_store import OnlineStoreContract, put, values

REDIS = os.environ.get("HOLDFAST_TEST_REDIS", "redis://127.0.0.1:6379/9")


def redis_or_skip() -> RedisOnlineStore:
    store = RedisOnlineStore(f"{REDIS}?prefix=test-{uuid4().hex}")
    try:
        store.meta_get("there?")
    except Unavailable as error:
        if os.environ.get("HOLDFAST_REQUIRE_SERVICES") == "1":
            raise
        pytest.skip(f"no Redis server: {error.message}")
    return store


class TestEmbedded(OnlineStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[EmbeddedOnlineStore]:
        with EmbeddedOnlineStore(tmp_path / "online") as store:
            yield store

    def test_other_processes_read_what_is_written(self, tmp_path: Path, store: EmbeddedOnlineStore) -> None:
        store.update([([b"a"], put(b"1"))])
        context = multiprocessing.get_context("spawn")
        with context.Pool(2) as pool:
            assert pool.map(read_elsewhere, [str(store.path)] * 2) == [b"1", b"1"]
            store.update([([b"a"], put(b"2"))])
            assert pool.map(read_elsewhere, [str(store.path)] * 2) == [b"2", b"2"]

    def test_a_full_map_grows(self, tmp_path: Path) -> None:
        with EmbeddedOnlineStore(tmp_path / "small", map_size=1 << 16) as small:
            for i in range(64):
                small.update([([bytes([i])], put(bytes(4096)))])
            assert values(small, *[bytes([i]) for i in range(64)]) == [bytes(4096)] * 64


@pytest.mark.redis
class TestRedis(OnlineStoreContract):
    @pytest.fixture
    def store(self) -> Iterator[RedisOnlineStore]:
        store = redis_or_skip()
        yield store
        store.drop(b"")

    def test_workspaces_do_not_see_each_other(self, store: RedisOnlineStore) -> None:
        other = redis_or_skip()
        store.update([([b"a"], put(b"1"))])
        assert values(other, b"a") == [None]
        assert list(other.scan(b"")) == []

    def test_a_dead_server_is_the_users_turn(self) -> None:
        dead = RedisOnlineStore("redis://127.0.0.1:1/0", timeout=0.2)
        with pytest.raises(Unavailable, match="cannot be reached"):
            dead.meta_get("x")


def read_elsewhere(path: str) -> bytes | None:
    with EmbeddedOnlineStore(Path(path)) as store:
        return values(store, b"a")[0]
