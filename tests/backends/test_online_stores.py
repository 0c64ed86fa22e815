"""LMDB and Redis fulfil one contract; what only one of them can do wrong is here too."""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from holdfast.backends import online_embedded, online_redis
from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.backends.online_redis import RedisOnlineStore
from holdfast.core.errors import Unavailable
from holdfast.testing.online_store import OnlineStoreContract, put, values

REDIS = os.environ.get("HOLDFAST_TEST_REDIS", "redis://127.0.0.1:6379/9")


def redis_or_skip(name: str = "") -> RedisOnlineStore:
    store = RedisOnlineStore(f"{REDIS}?prefix=test-{name or uuid4().hex}")
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

    def test_a_connection_the_server_closed_is_made_again(self, store: RedisOnlineStore) -> None:
        store.update([([b"a"], put(b"1"))])
        other = redis_or_skip()
        for _ in range(3):
            assert other._client.client_kill_filter(_id=store._client.client_id()) == 1
            assert values(store, b"a", b"b") == [b"1", None]

    def test_without_hiredis_it_is_the_same(self, store: RedisOnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
        keys = [bytes([i, 0, 13, 10]) for i in range(100)]
        store.update([([k], put(k)) for k in keys])
        monkeypatch.setitem(sys.modules, "hiredis", None)
        monkeypatch.setattr(store, "_pack", online_redis._packer())
        assert values(store, *keys) == keys

    def test_a_dead_server_is_the_users_turn(self) -> None:
        dead = RedisOnlineStore("redis://127.0.0.1:1/0", timeout=0.2)
        with pytest.raises(Unavailable, match="cannot be reached"):
            dead.meta_get("x")


def read_elsewhere(path: str) -> bytes | None:
    with EmbeddedOnlineStore(Path(path)) as store:
        return values(store, b"a")[0]


def _write_and_die(path: str) -> None:
    store = EmbeddedOnlineStore(Path(path))
    store.update([([bytes([i])], put(b"unsynced")) for i in range(50)])
    os._exit(9)


class TestAfterAPowerCut:
    """SIGKILL cannot show what the disk has lost, so the loss is made by hand: bytes of a store are as a cut may leave them."""

    def filled(self, folder: Path) -> Path:
        with EmbeddedOnlineStore(folder) as store:
            for i in range(60):
                store.update([([bytes([i, j])], put(bytes([i]) * 500)) for j in range(20)])
        return folder / "data.mdb"

    def test_a_store_that_was_synced_is_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.filled(tmp_path)
        monkeypatch.setattr(online_embedded, "_boot", lambda: "the next boot")
        with EmbeddedOnlineStore(tmp_path) as store:
            assert values(store, bytes([59, 19])) == [bytes([59]) * 500] and store.discarded == []

    def test_a_killed_writers_store_is_kept_in_the_same_boot_and_set_aside_in_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process = multiprocessing.get_context("spawn").Process(target=_write_and_die, args=(str(tmp_path),))
        process.start()
        process.join()
        assert process.exitcode == 9
        store = EmbeddedOnlineStore(tmp_path)
        assert values(store, bytes([49])) == [b"unsynced"] and store.discarded == []
        store.close()  # synced, for the killed one too
        with monkeypatch.context() as patch:
            patch.setattr(online_embedded, "_boot", lambda: "the next boot")
            with EmbeddedOnlineStore(tmp_path) as store:
                assert store.discarded == []
        process = multiprocessing.get_context("spawn").Process(target=_write_and_die, args=(str(tmp_path),))
        process.start()
        process.join()
        monkeypatch.setattr(online_embedded, "_boot", lambda: "the boot after")
        with EmbeddedOnlineStore(tmp_path) as store:
            assert len(store.discarded) == 1 and values(store, bytes([49])) == [None]
            store.made_good()
            assert store.discarded == []

    @pytest.mark.parametrize("seed", range(12))
    def test_a_torn_file_is_set_aside_at_open_or_told_when_read_and_kills_nobody(
        self, tmp_path: Path, seed: int
    ) -> None:
        """In a process of its own: a page that is not there would end it by a signal."""
        file, rng = self.filled(tmp_path), random.Random(seed)
        size = file.stat().st_size
        with file.open("r+b") as f:
            if seed % 3 == 0:
                f.truncate(rng.randrange(1, size))
            elif seed % 3 == 1:
                f.write(rng.randbytes(8192))  # both meta pages
            else:
                f.truncate(rng.randrange(1, size))
                f.truncate(size)  # the right length, and zeros where pages should be, which LMDB cannot see
                (tmp_path / "unsynced").mkdir(exist_ok=True)
                (tmp_path / "unsynced" / "1-1").write_text("an earlier boot")
        script = (
            "import sys; from pathlib import Path; from holdfast.backends.online_embedded import EmbeddedOnlineStore as S\n"
            "from holdfast.core.errors import Damaged\nfrom holdfast.testing.online_store import put, values\n"
            "s = S(Path(sys.argv[1])); told = bool(s.discarded)\n"
            "for i in range(60):\n  for j in range(20):\n"
            "    try: assert values(s, bytes([i, j])) in ([None], [bytes([i]) * 500])\n"
            "    except Damaged: told = True\n"
            "print('told' if told else 'whole')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, (done.returncode, done.stderr[-500:])
        assert done.stdout.strip() == "told"
