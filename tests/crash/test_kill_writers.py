"""kill -9 at random moments and at every file operation: what was acknowledged is there, and nothing is half there.

SIGKILL cannot prove fsync (the kernel keeps the pages); the order of fsync and rename and a disk that lies are tested
in tests/backends/test_objects.py.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable

import pytest

from holdfast.backends.ledger_sql import SqlLedger
from holdfast.backends.objects_local import LocalObjects
from holdfast.core import files
from holdfast.workspace import Workspace

POSTGRES = os.environ.get("HOLDFAST_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/test")

# Every acknowledged write is one line, written with one write(2), so that a killed process leaves whole lines.
WRITER = """
import os, sys, random, threading
from pathlib import Path
from holdfast.backends.ledger_sql import SqlLedger
from holdfast.backends.objects_local import LocalObjects

url, folder, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)

def acknowledge(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def appends():
    ledger = SqlLedger(url)
    while True:
        with ledger.transaction() as tx:
            n = (tx.get("counts", "n") or {"n": 0})["n"] + 1
            tx.put("counts", "n", {"n": n})
            entry = tx.append("counted", subject=str(n), body={"n": n, "text": "x" * chance.randrange(3000)}, at=n)
        acknowledge("entry", entry.sequence, entry.hash)

def puts():
    objects = LocalObjects(folder)
    source = folder.parent / f"source-{os.getpid()}"
    while True:
        data = chance.randbytes(chance.randrange(1, 400_000))
        if chance.random() < 0.5:
            acknowledge("object", objects.put(data))
        else:
            source.write_bytes(data)
            acknowledge("object", objects.put_file(source))

threading.Thread(target=appends, daemon=True).start()
puts()
"""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/ledger.db"
        return
    psycopg = pytest.importorskip("psycopg")
    schema = f"crash_{uuid.uuid4().hex}"
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


def kill_writer(url: str, folder, seed: int) -> list[list[str]]:
    """Run a writer, kill it at a moment drawn from ``seed``; what it had acknowledged by then."""
    chance = random.Random(seed)
    process = subprocess.Popen([sys.executable, "-c", WRITER, url, str(folder), str(seed)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    # One kill in four falls into the opening of the stores, the others among the writes of both.
    lines: list[bytes] = []
    if chance.random() < 0.25:
        time.sleep(chance.uniform(0, 0.4))
    else:
        while {line.split()[0] for line in lines} != {b"entry", b"object"}:
            lines.append(process.stdout.readline())
        time.sleep(chance.uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.read().splitlines(keepends=True)
    process.wait()
    return [line.decode().split() for line in lines if line.endswith(b"\n")]


def check(url: str, folder, acknowledged: list[list[str]]) -> int:
    ledger, objects = SqlLedger(url), LocalObjects(folder)
    entries: dict[int, str] = {}
    with ledger.transaction():
        pass  # a server may still be at the commit of the killed writer; this waits its turn
    count = ledger.verify()
    while page := ledger.read(after=len(entries)):
        entries.update((e.sequence, e.hash) for e in page)
    assert (ledger.get("counts", "n") or {"n": 0})["n"] == count == len(entries), "an entry without its state row"
    for words in acknowledged:
        if words[0] == "entry":
            assert entries[int(words[1])] == words[2], "an acknowledged entry is lost"
        else:
            assert objects.size(words[1]) == len(objects.get(words[1])), "an acknowledged object is lost"
    for name in objects.list():
        objects.get(name)  # raises Damaged for a half-written one
    ledger.close()
    return count


def run(url: str, tmp_path, seeds: range) -> None:
    acknowledged: list[list[str]] = []
    for seed in seeds:
        fresh = kill_writer(url, tmp_path / "objects", seed)
        acknowledged += fresh
        try:
            check(url, tmp_path / "objects", fresh)
        except Exception as error:
            raise AssertionError(f"after the kill of seed {seed}") from error
    count = check(url, tmp_path / "objects", acknowledged)
    kinds = {words[0] for words in acknowledged}
    assert kinds == {"entry", "object"} and count > 0, (
        "the writers were killed before they wrote: the test shows nothing"
    )


def test_nothing_acknowledged_is_lost(url, tmp_path):
    run(url, tmp_path, range(10))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_nothing_acknowledged_is_lost_in_hundreds_of_kills(url, tmp_path):
    run(url, tmp_path, range(1000, 1300))


OPERATIONS = ("open", "write", "fsync", "rename", "replace", "unlink", "mkdir", "link", "utime")


def dies_at(limit: int, when: str, work: Callable[[], object]) -> bool:
    """Do ``work`` in a forked child that kills itself before or after its ``limit``-th file operation; whether it did."""
    child = os.fork()
    if child == 0:
        calls = 0

        def deadly(real: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **named: object) -> object:
                nonlocal calls
                calls += 1
                now = calls == limit
                if now and when == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    return real(*arguments, **named)
                finally:
                    if now:
                        os.kill(os.getpid(), signal.SIGKILL)

            return call

        status = 1
        try:
            for name in OPERATIONS:
                setattr(os, name, deadly(getattr(os, name)))
            work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def die_at_every_operation(work: Callable[[], object], check: Callable[[], object]) -> None:
    for when in ("before", "after"):
        limit = 1
        while dies_at(limit, when, work):
            check()
            limit += 1
            assert limit < 500, "the work never came to its end"
        check()
        assert limit > 4, "the operations were not seen: the test shows nothing"


def test_objects_are_whole_whichever_operation_was_the_last(tmp_path):
    (tmp_path / "source").write_bytes(os.urandom(100_000))

    def work() -> None:
        objects = LocalObjects(tmp_path / "objects")
        objects.put(b"first" * 1000)
        objects.put_file(tmp_path / "source")
        objects.put(b"first" * 1000)

    def check() -> None:
        objects = LocalObjects(tmp_path / "objects")
        names = list(objects.list())
        for name in names:
            objects.get(name)
        for name in names:
            objects.delete(name)

    die_at_every_operation(work, check)


def test_a_key_is_whole_whichever_operation_was_the_last(tmp_path):
    keys = tmp_path / ".holdfast" / "keys"

    def check() -> None:
        first = Workspace.open(tmp_path).secret("k")
        assert len(first) == 32 and Workspace.open(tmp_path).secret("k") == first
        (keys / "k").unlink()

    die_at_every_operation(lambda: Workspace.open(tmp_path).secret("k"), check)


def test_a_replaced_file_is_old_or_new_whichever_operation_was_the_last(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def check() -> None:
        assert file.read_bytes() in (b"old", b"new" * 1000)
        file.write_bytes(b"old")

    die_at_every_operation(lambda: files.write(file, b"new" * 1000), check)
