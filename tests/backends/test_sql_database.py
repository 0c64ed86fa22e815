"""The one way to speak SQL that the ledger and the run store share: nesting, threads, whole or nothing."""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from contextlib import suppress

import pytest

from holdfast.backends.sql_database import open_database
from holdfast.core.errors import BadConfig, HoldfastError, Unavailable

POSTGRES = os.environ.get("HOLDFAST_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/test")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request, tmp_path):
    if request.param == "sqlite":
        found = open_database(f"sqlite:///{tmp_path}/deep/er/store.db", durability="normal", setting="runs.url")
        found.execute("CREATE TABLE t (a INTEGER NOT NULL PRIMARY KEY, b TEXT)")
        yield found
        found.close()
        return
    psycopg = pytest.importorskip("psycopg")
    schema = f"sql_{uuid.uuid4().hex}"
    try:
        connection = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        if os.environ.get("HOLDFAST_REQUIRE_SERVICES") == "1":
            raise
        pytest.skip(f"no PostgreSQL at {POSTGRES}: {error}")
    with connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        url = f"{POSTGRES}?options=-csearch_path%3D{schema}"
        found = open_database(url, durability="normal", setting="runs.url")
        found.execute("CREATE TABLE t (a INTEGER NOT NULL PRIMARY KEY, b TEXT)")
        yield found
        found.close()
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


def rows(database):
    return sorted(r[0] for r in database.committed("SELECT a FROM t"))


def test_inner_blocks_join_the_outer_and_all_is_undone_together(database):
    with database.transaction():
        database.execute("INSERT INTO t (a) VALUES (?)", (1,))
        with database.transaction():
            database.execute("INSERT INTO t (a) VALUES (?)", (2,))
        assert rows(database) == []
        assert len(database.execute("SELECT a FROM t").fetchall()) == 2
    assert rows(database) == [1, 2]

    def outer_fails() -> None:
        with database.transaction():
            with database.transaction():
                database.execute("INSERT INTO t (a) VALUES (?)", (3,))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        outer_fails()
    assert rows(database) == [1, 2] and not database.in_transaction


def test_a_failed_inner_block_that_was_caught_spoils_the_whole(database):
    def inner_fails() -> None:
        with database.transaction():
            database.execute("INSERT INTO t (a) VALUES (?)", (1,))
            with suppress(ZeroDivisionError), database.transaction():
                raise ZeroDivisionError

    with pytest.raises(RuntimeError, match="nested"):
        inner_fails()
    assert rows(database) == []


def test_an_error_of_the_driver_is_told_and_the_connection_goes_on(database):
    database.execute("INSERT INTO t (a) VALUES (?)", (1,))

    def twice() -> None:
        with database.transaction():
            database.execute("INSERT INTO t (a) VALUES (?)", (2,))
            database.execute("INSERT INTO t (a) VALUES (?)", (1,))

    with pytest.raises(HoldfastError):
        twice()
    with database.transaction():
        database.executemany("INSERT INTO t (a, b) VALUES (?, ?)", [(n, "x") for n in range(3, 1500)])
    assert rows(database) == [1, *range(3, 1500)]
    assert len(database.select_in("SELECT a FROM t WHERE b = ? AND a IN ({in})", list(range(2000)), ["x"])) == 1497


def test_writers_of_threads_lose_nothing_and_dead_threads_hold_no_connection(database):
    def add() -> None:
        for _ in range(5):
            with database.transaction(exclusive="one at a time"):
                newest = database.execute("SELECT coalesce(max(a), 0) FROM t").fetchone()[0]
                database.execute("INSERT INTO t (a) VALUES (?)", (newest + 1,))

    for _ in range(3):
        threads = [threading.Thread(target=add) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert rows(database) == list(range(1, 91))
    late = threading.Thread(target=lambda: database.execute("SELECT 1").fetchall())
    late.start()
    late.join()
    assert len(database._open) <= 2


def test_an_exclusive_block_waits_for_the_other(database):
    entered, order = threading.Event(), []

    def second() -> None:
        entered.wait(10)
        with database.transaction(exclusive="x"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with database.transaction(exclusive="x"):
        entered.set()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_url_that_leads_nowhere_names_the_setting(tmp_path):
    for url in ("mysql://x/y", "", "store.db", "sqlite://", "sqlite:///"):
        with pytest.raises(BadConfig, match=r"runs\.url"):
            open_database(url, durability="normal", setting="runs.url")


def test_a_store_locked_by_another_process_can_be_tried_again_later(tmp_path, monkeypatch):
    from holdfast.backends import sql_sqlite

    monkeypatch.setattr(sql_sqlite, "BUSY_SECONDS", 0.05)
    database = open_database(f"sqlite:///{tmp_path}/store.db", durability="full", setting="ledger.url")
    database.execute("CREATE TABLE t (a INTEGER)")
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"), database.transaction():
        pass
    other.execute("ROLLBACK")
    with database.transaction():
        database.execute("INSERT INTO t (a) VALUES (1)")
    assert rows(database) == [1]
    database.close()


def test_what_begins_at_once_is_a_transaction_like_any(database):
    def fails() -> None:
        with database.at_once() as free:
            assert free == (database.dialect == "sqlite")
            with database.transaction():
                database.execute("INSERT INTO t (a) VALUES (?)", (1,))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert not database.in_transaction
    assert rows(database) == ([] if database.dialect == "sqlite" else [1])
    with database.at_once(), database.transaction():
        database.execute("INSERT INTO t (a) VALUES (?)", (2,))
    assert rows(database)[-1] == 2
    database.tidy()
    with database.transaction(), database.at_once() as free:
        assert not free


def test_nothing_begins_at_once_where_it_would_wait(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    database = open_database(url, durability="normal", setting="runs.url")
    database.execute("CREATE TABLE t (a INTEGER NOT NULL PRIMARY KEY, b TEXT)")
    elsewhere = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    elsewhere.execute("BEGIN IMMEDIATE")
    with database.at_once() as free:
        assert not free
    elsewhere.execute("COMMIT")
    # The thread's own waits are what they were.
    assert database.execute("PRAGMA busy_timeout").fetchone()[0] == 60_000
    held, told = threading.Event(), threading.Event()

    def writer() -> None:
        with database.transaction():
            held.set()
            told.wait(30)

    thread = threading.Thread(target=writer)
    thread.start()
    held.wait(30)
    with database.at_once() as free:
        assert not free
    told.set()
    thread.join()
    with database.at_once() as free:
        assert free
        database.execute("INSERT INTO t (a) VALUES (?)", (1,))
    assert rows(database) == [1] and elsewhere.execute("SELECT a FROM t").fetchall() == [(1,)]
    elsewhere.close()
    database.close()
    full = open_database(url, durability="full", setting="runs.url")
    with full.at_once() as free:
        assert not free
    full.close()


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
def test_many_rows_at_once_are_all_there_and_a_known_one_is_left_alone(database, count):
    database.insert_many("INSERT INTO t (a, b) VALUES {}", [(0, "known")])
    found = [(i, str(i)) for i in range(count)]
    database.insert_many("INSERT INTO t (a, b) VALUES {} ON CONFLICT DO NOTHING", [*found, *found[:3]])
    kept = sorted(tuple(r) for r in database.execute("SELECT a, b FROM t").fetchall())
    assert kept == [(0, "known"), *found[1:]]
