"""The ledger's contract over SQLite and PostgreSQL, and what only these can go wrong with."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.backends import ledger_schema, ledger_sql
from holdfast.backends.ledger_sql import SqlLedger
from holdfast.core.errors import BadConfig, Damaged, Unavailable
from holdfast.testing.ledger import LedgerContract

POSTGRES = os.environ.get("HOLDFAST_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/test")


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path}/store/ledger.db"


@pytest.fixture
def postgres_url():
    psycopg = pytest.importorskip("psycopg")
    schema = f"ledger_{uuid.uuid4().hex}"
    try:
        connection = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        if os.environ.get("HOLDFAST_REQUIRE_SERVICES") == "1":
            raise
        pytest.skip(f"no PostgreSQL at {POSTGRES}: {error}")
    with connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        yield f"{POSTGRES}?options=-csearch_path%3D{schema}"
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


class TestSqlite(LedgerContract):
    @pytest.fixture
    def open_ledger(self, sqlite_url):
        return lambda: SqlLedger(sqlite_url)


@pytest.mark.postgres
class TestPostgres(LedgerContract):
    @pytest.fixture
    def open_ledger(self, postgres_url):
        return lambda: SqlLedger(postgres_url)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request):
    return request.getfixturevalue(f"{request.param}_url")


def raw(url: str):
    """A connection past the ledger, with the guards off, as a forger would have it."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        for name in ("no_update", "no_delete", "in_order"):
            connection.execute(f"DROP TRIGGER ledger_entries_{name}")
        return connection
    import psycopg

    connection = psycopg.connect(url, autocommit=True)
    connection.execute("DROP TRIGGER ledger_entries_no_change ON ledger_entries")
    connection.execute("ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_hash_key")
    return connection


FORGERIES = {
    "body": "UPDATE ledger_entries SET body = '{\"i\":99}' WHERE sequence = 3",
    "body, spelled otherwise": "UPDATE ledger_entries SET body = '{\"i\": 2}' WHERE sequence = 3",
    "body, unreadable": "UPDATE ledger_entries SET body = 'x' WHERE sequence = 3",
    "kind": "UPDATE ledger_entries SET kind = 'other' WHERE sequence = 3",
    "subject": "UPDATE ledger_entries SET subject = 'other' WHERE sequence = 3",
    "at": "UPDATE ledger_entries SET at = 0 WHERE sequence = 3",
    "actor": "UPDATE ledger_entries SET actor = 'eve' WHERE sequence = 3",
    "previous": "UPDATE ledger_entries SET previous = 'x' WHERE sequence = 3",
    "hash": "UPDATE ledger_entries SET hash = 'x' WHERE sequence = 3",
    "first gone": "DELETE FROM ledger_entries WHERE sequence = 1",
    "middle gone": "DELETE FROM ledger_entries WHERE sequence = 3",
    "renumbered": "UPDATE ledger_entries SET sequence = sequence - 1 WHERE sequence > 3",
    "one before the first": "INSERT INTO ledger_entries VALUES (0, 'k', 's', 0, '', '{}', '', 'h')",
    "one behind the last": "INSERT INTO ledger_entries VALUES (6, 'k', 's', 0, '', '{}', '', 'h')",
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_verify_finds_forgeries(url, forgery):
    ledger = SqlLedger(url)
    for i in range(5):
        ledger.append("k", subject="s", body={"i": i}, at=10 + i, actor="ann")
    assert ledger.verify() == 5
    connection = raw(url)
    if forgery == "renumbered":
        connection.execute(FORGERIES["middle gone"])
    connection.execute(FORGERIES[forgery])
    connection.close()
    with pytest.raises(Damaged):
        ledger.verify()
    ledger.close()


TAMPERED = {
    "t/a was edited": "UPDATE ledger_state SET value = '{\"v\":9}' WHERE key = 'a'",
    "t/b was taken out": "DELETE FROM ledger_state WHERE key = 'b'",
    "t/new was put in": "INSERT INTO ledger_state VALUES ('t', 'new', '{}')",
    "t/gone was put in": "INSERT INTO ledger_state VALUES ('t', 'gone', '{}')",
}


@pytest.mark.parametrize("named", TAMPERED)
def test_verify_names_a_row_that_was_changed_behind_the_ledgers_back(url, named):
    ledger = SqlLedger(url)
    for key in ("a", "b", "gone"):
        with ledger.transaction() as tx:
            tx.put("t", key, {"v": 1})
            tx.append("k", subject=key, body={}, at=1)
    with ledger.transaction() as tx:
        tx.put("t", "a", {"v": 2})
        tx.delete("t", "gone")
    assert ledger.verify() == 3
    ledger._database.execute(TAMPERED[named])
    with pytest.raises(Damaged, match=named):
        ledger.verify()
    ledger.close()


@pytest.mark.parametrize("forgery", ["edited", "cut off", "rewritten"])
def test_verify_finds_forged_changes(url, forgery):
    ledger = SqlLedger(url)
    for i in range(4):
        with ledger.transaction() as tx:
            tx.put("t", "k", {"i": i})
    tip = ledger.state_tip()
    assert tip[0] == 4 and ledger.verify(state=tip) == 0
    if url.startswith("sqlite"):
        for name in ("no_update", "no_delete"):
            ledger._database.execute(f"DROP TRIGGER ledger_changes_{name}")
    else:
        ledger._database.execute("DROP TRIGGER ledger_changes_no_change ON ledger_changes")
    if forgery == "edited":
        ledger._database.execute("UPDATE ledger_changes SET rows = ? WHERE number = 2", ('{"t":{"k":null}}',))
    else:
        # The forger takes the last change back and the row with it: sound in itself, but not what was anchored.
        ledger._database.execute("DELETE FROM ledger_changes WHERE number = 4")
        ledger._database.execute("UPDATE ledger_state SET value = ?", ('{"i":2}',))
        assert ledger.verify() == 0
    if forgery == "rewritten":
        with ledger.transaction() as tx:
            tx.put("t", "k", {"i": 99})
        assert ledger.verify() == 0
    with pytest.raises(Damaged):
        ledger.verify(state=tip)
    ledger.close()


def test_rows_from_before_changes_were_kept_are_where_the_chain_begins(url):
    ledger = SqlLedger(url)
    ledger._database.execute("INSERT INTO ledger_state VALUES ('t', 'old', '{}')")
    assert ledger.verify() == 0
    with ledger.transaction() as tx:
        tx.put("t", "new", {})
    assert ledger.verify() == 0
    ledger._database.execute("UPDATE ledger_state SET value = '[]' WHERE key = 'old'")
    with pytest.raises(Damaged, match="t/old was edited"):
        ledger.verify()
    ledger.close()


def test_an_end_cut_off_is_found_by_the_rows_it_changed(url):
    ledger = SqlLedger(url)
    for key in ("a", "b"):
        with ledger.transaction() as tx:
            tx.append("k", subject=key, body={}, at=1)
            tx.put("t", key, {"v": 1})
    connection = raw(url)
    connection.execute("DELETE FROM ledger_entries WHERE sequence = 2")
    connection.close()
    with pytest.raises(Damaged, match="ends at entry 1, but rows were changed at entry 2"):
        ledger.verify()
    ledger.close()


def test_verify_finds_swapped_entries_and_a_cut_end(url):
    ledger = SqlLedger(url)
    entries = [ledger.append("k", subject="s", body={"i": i}, at=i) for i in range(5)]
    connection = raw(url)
    connection.execute("DELETE FROM ledger_entries WHERE sequence = 5")
    assert ledger.verify() == 4
    with pytest.raises(Damaged, match="cut off"):
        ledger.verify(anchor=(5, entries[4].hash))
    connection.execute("UPDATE ledger_entries SET sequence = 100 WHERE sequence = 2")
    connection.execute("UPDATE ledger_entries SET sequence = 2 WHERE sequence = 3")
    connection.execute("UPDATE ledger_entries SET sequence = 3 WHERE sequence = 100")
    connection.close()
    with pytest.raises(Damaged):
        ledger.verify()
    ledger.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_entries SET at = 0",
        "DELETE FROM ledger_entries",
        "INSERT OR REPLACE INTO ledger_entries"
        " SELECT sequence, 'forged', subject, at, actor, body, previous, hash FROM ledger_entries",
        "INSERT INTO ledger_entries VALUES (9, 'k', 's', 0, '', '{}', '', 'h')",
    ],
)
def test_sqlite_refuses_to_change_entries(sqlite_url, statement):
    ledger = SqlLedger(sqlite_url)
    entry = ledger.append("k", subject="s", body={}, at=1)
    connection = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    with pytest.raises(sqlite3.Error, match="append-only"):
        connection.execute(statement)
    connection.close()
    assert ledger.read() == [entry]
    ledger.close()


@pytest.mark.postgres
@pytest.mark.parametrize(
    "statement", ["UPDATE ledger_entries SET at = 0", "DELETE FROM ledger_entries", "TRUNCATE ledger_entries"]
)
def test_postgres_refuses_to_change_entries(postgres_url, statement):
    import psycopg

    ledger = SqlLedger(postgres_url)
    entry = ledger.append("k", subject="s", body={}, at=1)
    with (
        psycopg.connect(postgres_url, autocommit=True) as connection,
        pytest.raises(psycopg.Error, match="append-only"),
    ):
        connection.execute(statement)
    assert ledger.read() == [entry]
    ledger.close()


OPEN_AND_APPEND = """
import sys
from holdfast.backends.ledger_sql import SqlLedger
ledger = SqlLedger(sys.argv[1])
ledger.append("started", subject=sys.argv[2], body={}, at=1)
ledger.close()
"""


def test_32_processes_open_an_empty_store_at_once(url):
    processes = [
        subprocess.Popen([sys.executable, "-c", OPEN_AND_APPEND, url, str(i)], stderr=subprocess.PIPE, text=True)
        for i in range(32)
    ]
    errors = [p.communicate()[1] for p in processes]
    assert [p.returncode for p in processes] == [0] * 32, next(e for e in errors if e)
    ledger = SqlLedger(url)
    assert ledger.verify() == 32
    assert {e.subject for e in ledger.read()} == {str(i) for i in range(32)}
    ledger.close()


LOADED = """
import sys
from holdfast.backends.ledger_sql import SqlLedger
ledger = SqlLedger(sys.argv[1])
ledger.append("k", subject="s", body={}, at=1)
print([m for m in ("alembic", "sqlalchemy") if m in sys.modules])
"""


def test_a_store_is_made_and_opened_without_schema_tools(url):
    for _ in ("made", "opened"):
        shown = subprocess.run([sys.executable, "-c", LOADED, url], capture_output=True, text=True, check=True)
        assert shown.stdout == "[]\n"


def tables(url: str) -> set[str]:
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    else:
        import psycopg

        connection = psycopg.connect(url)
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()").fetchall()
    connection.close()
    return {row[0] for row in found}


def test_a_failed_step_leaves_nothing(url, monkeypatch):
    broken = (*ledger_schema.STEPS, "CREATE TABLE one (a TEXT);\nSELECT nonsense FROM nowhere;")
    monkeypatch.setattr(ledger_sql, "STEPS", broken)
    with pytest.raises(Exception, match=r"nowhere|nonsense"):
        SqlLedger(url)
    monkeypatch.undo()
    assert tables(url) == set()
    ledger = SqlLedger(url)
    assert ledger.verify() == 0
    ledger.close()


def test_a_step_more_moves_a_store_on_and_its_entries_stay(url, monkeypatch):
    ledger = SqlLedger(url)
    entry = ledger.append("k", subject="s", body={}, at=1)
    ledger.close()
    monkeypatch.setattr(ledger_sql, "STEPS", (*ledger_schema.STEPS, "CREATE TABLE later (a TEXT {binary} NOT NULL);"))
    for _ in range(2):
        ledger = SqlLedger(url)
        assert ledger.read() == [entry] and ledger.verify() == 1
        ledger.close()
    assert "later" in tables(url)


def test_a_store_from_before_levels_were_counted_opens(url):
    ledger = SqlLedger(url)
    entry = ledger.append("k", subject="s", body={}, at=1)
    for table in ("ledger_schema", "ledger_changes"):
        ledger._database.execute(f"DROP TABLE {table}")
    ledger.close()
    ledger = SqlLedger(url)
    assert ledger.read() == [entry]
    ledger.append("k", subject="s", body={}, at=2)
    assert ledger.verify() == 2
    ledger.close()


def test_a_newer_store_is_refused_with_the_mend(url):
    ledger = SqlLedger(url)
    ledger._database.execute("UPDATE ledger_schema SET level = 99")
    ledger.close()
    with pytest.raises(BadConfig) as caught:
        SqlLedger(url)
    assert "upgrade" in (caught.value.hint or "")


def test_a_forked_child_gets_connections_of_its_own(url):
    ledger = SqlLedger(url)
    ledger.append("parent", subject="s", body={}, at=1)
    ledger.read()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ledger.append("child", subject="s", body={}, at=2)
            status = 0 if len(ledger.read()) == 2 else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    ledger.append("parent", subject="s", body={}, at=3)
    assert [e.kind for e in ledger.read()] == ["parent", "child", "parent"]
    assert ledger.verify() == 3
    ledger.close()


@pytest.mark.postgres
def test_a_restarted_server_is_no_error_for_the_next_call(postgres_url):
    import psycopg

    ledger = SqlLedger(postgres_url)
    ledger.append("k", subject="s", body={}, at=1)

    def cut() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a"
                " WHERE a.pid <> pg_backend_pid() AND a.query LIKE '%%ledger_%%' AND a.datname = current_database()"
                " AND a.pid = ANY(%s)",
                ([c.info.backend_pid for _, c in ledger._database._open],),
            )

    cut()
    assert len(ledger.read()) == 1
    cut()
    ledger.append("k", subject="s", body={}, at=2)
    assert ledger.verify() == 2
    ledger.close()


@pytest.mark.parametrize("url", ["", "ledger.db", "mysql://x/y", "sqlite:///", "sqlite://"])
def test_urls_that_lead_nowhere(url):
    with pytest.raises(BadConfig):
        SqlLedger(url)


def test_no_server(tmp_path):
    with pytest.raises(Unavailable) as caught:
        SqlLedger("postgresql://postgres:hunter2@127.0.0.1:1/test")
    assert "hunter2" not in str(caught.value)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((OSError, Unavailable)):
        SqlLedger(f"sqlite:///{tmp_path}/file/ledger.db")


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"this is text, not a database" * 100)
    with pytest.raises(Damaged):
        SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    assert (tmp_path / "ledger.db").read_bytes().startswith(b"this is text")


def test_acknowledged_writes_wait_for_the_disk(sqlite_url):
    ledger = SqlLedger(sqlite_url)
    with ledger._database.transaction():
        assert ledger._database.execute("PRAGMA synchronous").fetchone() == (2,)
        assert ledger._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    ledger.close()


def test_a_full_disk_is_told_and_leaves_the_ledger_whole(sqlite_url):
    ledger = SqlLedger(sqlite_url)
    ledger.append("k", subject="s", body={}, at=1)
    pages = ledger._database.execute("PRAGMA page_count").fetchone()[0]
    ledger._database.execute(f"PRAGMA max_page_count={pages + 1}").fetchall()
    with pytest.raises(OSError) as caught:
        ledger.append("k", subject="s", body={"text": "x" * 1_000_000}, at=2)
    assert caught.value.errno == errno.ENOSPC and "ledger.db" in str(caught.value.filename)
    assert ledger.verify() == 1
    ledger._database.execute(f"PRAGMA max_page_count={1 << 30}").fetchall()
    ledger.append("k", subject="s", body={"text": "x" * 1_000_000}, at=2)
    assert ledger.verify() == 2
    ledger.close()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.text(alphabet="ab/é\U0010ffff%_", max_size=4)
STEPS = st.lists(
    st.tuples(st.just("put"), KEYS, st.dictionaries(st.text(max_size=5), VALUES, max_size=3))
    | st.tuples(st.just("delete"), KEYS, st.none())
    | st.tuples(st.just("append"), KEYS, st.dictionaries(st.text(max_size=5), VALUES, max_size=3))
    | st.tuples(st.just("fail"), KEYS, st.none())
    | st.tuples(st.just("scan"), KEYS, st.none()),
    max_size=20,
)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(STEPS)
def test_the_ledger_does_what_a_table_and_a_list_do(steps):
    """Random transactions against the plainest model; one that fails changes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = SqlLedger(f"sqlite:///{folder}/ledger.db")
        table: dict[str, object] = {}
        entries: list[tuple[str, object]] = []
        for verb, key, value in steps:
            try:
                if verb == "scan":
                    assert ledger.scan("t", prefix=key) == sorted((k, v) for k, v in table.items() if k.startswith(key))
                    assert [e.subject for e in ledger.query(kind=f"{key}*")] == [
                        s for s, _ in entries if f"k{s}".startswith(key)
                    ]
                    continue
                with ledger.transaction() as tx:
                    if verb == "put":
                        tx.put("t", key, value)
                    elif verb == "delete":
                        tx.delete("t", key)
                    elif verb == "append":
                        tx.append(f"k{key}", subject=key, body=value, at=1)
                    else:
                        tx.put("t", key, {"undone": True})
                        tx.append("undone", subject=key, body={}, at=1)
                        raise ZeroDivisionError
            except ZeroDivisionError:
                continue
            if verb == "put":
                table[key] = value
            elif verb == "delete":
                table.pop(key, None)
            else:
                entries.append((key, value))
        assert dict(ledger.scan("t")) == table
        assert [(e.subject, e.body) for e in ledger.read()] == entries
        assert ledger.verify() == len(entries)
        ledger.close()


def test_a_row_put_as_it_is_is_no_change(url):
    ledger = SqlLedger(url)
    for value in (1, 1, 1, 2, 2, 1):
        with ledger.transaction() as tx:
            tx.put("t", "a", {"v": value})
    assert ledger._database.committed("SELECT count(*) FROM ledger_changes") == [(3,)]
    with ledger.transaction() as tx:
        tx.delete("t", "a")
        tx.put("t", "a", {"v": 1})
    assert ledger.verify() == 0 and ledger.get("t", "a") == {"v": 1}
    ledger.close()
