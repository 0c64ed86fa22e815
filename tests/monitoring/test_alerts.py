"""Incidents and pages: one thing is one incident and one page, whatever is seen and whoever dies."""

import http.server
import json
import os
import random
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.backends.ledger_sql import SqlLedger
from holdfast.core.errors import BadConfig, Conflict, NotFound
from holdfast.core.ports import Ledger
from holdfast.core.records import Report, Signal
from holdfast.monitoring import alerts, delivery, report
from holdfast.monitoring.alerts import Message


def made(end: int, outcome: str, kind: str = "drift", service: str = "s") -> Report:
    signals = [
        Signal(name="age", family="shape", statistic="ks", value=0.3, alarm=outcome == "alarm", direction="higher")
    ]
    built = report.build(
        kind, service, 1, end - 7, end, signals if outcome != "no data" else [], rows=0 if outcome == "no data" else 900
    )
    return msgspec.structs.replace(built, outcome=outcome)


def pages(ledger: Ledger) -> list[tuple[str, str]]:
    return [(m.event, m.title) for m in alerts.waiting(ledger)]


def test_one_thing_is_one_incident_and_one_page(ledger: Ledger) -> None:
    for end in (10, 20, 30):
        alerts.raise_for(ledger, made(end, "alarm"))
    [incident] = alerts.incidents(ledger, "s")
    assert (incident.seen, incident.opened, incident.last, incident.status) == (3, 10, 30, "open")
    assert "age higher" in incident.title
    assert [e for e, _ in pages(ledger)] == ["opened"]
    alerts.raise_for(ledger, made(30, "alarm"))
    assert alerts.incidents(ledger)[0].seen == 3
    alerts.raise_for(ledger, made(40, "ok"))
    assert alerts.incidents(ledger)[0].status == "resolved"
    assert [e for e, _ in pages(ledger)] == ["opened", "resolved"]
    alerts.raise_for(ledger, made(50, "ok"))
    alerts.raise_for(ledger, made(60, "alarm"))
    assert [i.status for i in alerts.incidents(ledger)] == ["resolved", "open"]
    assert [i.status for i in alerts.incidents(ledger, resolved=False)] == ["open"]


def test_kinds_and_services_are_apart(ledger: Ledger) -> None:
    alerts.raise_for(ledger, made(10, "alarm"))
    alerts.raise_for(ledger, made(10, "alarm", kind="performance"))
    alerts.raise_for(ledger, made(10, "alarm", service="t"))
    alerts.raise_for(ledger, made(20, "ok", kind="performance"))
    assert {(i.service, i.thing, i.status) for i in alerts.incidents(ledger)} == {
        ("s", "drift", "open"), ("s", "performance", "resolved"), ("t", "drift", "open"),
    }  # fmt: skip
    assert alerts.things(alerts.incidents(ledger, "s")) == ["drift", "performance"]


def test_silence_is_trouble_of_its_own_and_no_recovery(ledger: Ledger) -> None:
    alerts.raise_for(ledger, made(10, "alarm"))
    alerts.raise_for(ledger, made(20, "no data"))
    alerts.raise_for(ledger, made(30, "not enough evidence"))
    assert {(i.thing, i.status) for i in alerts.incidents(ledger)} == {
        ("drift", "open"),
        ("drift: no data", "resolved"),
    }


def test_calm_must_last_where_asked(ledger: Ledger) -> None:
    alerts.raise_for(ledger, made(10, "alarm"), calm=2)
    alerts.raise_for(ledger, made(20, "ok"), calm=2)
    assert alerts.incidents(ledger)[0].status == "open"
    alerts.raise_for(ledger, made(20, "ok"), calm=2)
    assert alerts.incidents(ledger)[0].status == "open"
    alerts.raise_for(ledger, made(30, "alarm"), calm=2)
    alerts.raise_for(ledger, made(40, "ok"), calm=2)
    assert alerts.incidents(ledger)[0].status == "open"
    alerts.raise_for(ledger, made(50, "ok"), calm=2)
    assert alerts.incidents(ledger)[0].status == "resolved"


def test_people(ledger: Ledger) -> None:
    incident = alerts.raise_thing(ledger, "s", "cycle", title="a cycle failed", text="see why", at=5)
    assert alerts.raise_thing(ledger, "s", "cycle", title="again", text="", at=6).id == incident.id
    seen = alerts.acknowledge(ledger, incident.id[:6], at=7, by="ann", note="mine")
    assert (seen.status, seen.by, seen.note) == ("acknowledged", "ann", "mine")
    assert alerts.raise_thing(ledger, "s", "cycle", title="again", text="", at=8).status == "acknowledged"
    closed = alerts.resolve(ledger, incident.id, at=9, by="ann")
    assert (closed.status, closed.resolved) == ("resolved", 9)
    for act in (alerts.resolve, alerts.acknowledge):
        with pytest.raises(Conflict):
            act(ledger, incident.id, at=10, by="ann")  # type: ignore[operator]
        with pytest.raises(NotFound):
            act(ledger, "nope", at=10, by="ann")  # type: ignore[operator]
    assert alerts.resolve_thing(ledger, "s", "cycle", at=11, by="x") is None
    assert len(pages(ledger)) == 2


@given(st.lists(st.sampled_from(["alarm", "ok", "no data", "not enough evidence"]), max_size=25), st.integers(1, 3))
@settings(derandomize=True, max_examples=25, deadline=None)
def test_any_history_pages_once_per_incident(
    tmp_path_factory: pytest.TempPathFactory, outcomes: list[str], calm: int
) -> None:
    ledger = SqlLedger(f"sqlite:///{tmp_path_factory.mktemp('l')}/l.db")
    for i, outcome in enumerate(outcomes):
        one = made(10 * (i + 1), outcome)
        alerts.raise_for(ledger, one, calm=calm)
        alerts.raise_for(ledger, one, calm=calm)  # a monitor that starts again
        still = [i.thing for i in alerts.incidents(ledger, resolved=False)]
        assert len(still) == len(set(still))
        if outcome == "alarm":
            assert "drift" in still
    found = alerts.incidents(ledger)
    sent = Counter((m.incident, m.event) for m in alerts.waiting(ledger))
    assert sent == Counter(
        [(i.id, "opened") for i in found] + [(i.id, "resolved") for i in found if i.status == "resolved"]
    )
    ledger.close()


# --- sending ----------------------------------------------------------------------------------------------------------


class Receiver:
    """A webhook that remembers what it got; ``status`` is what it answers."""

    def __init__(self) -> None:
        self.got: list[dict[str, object]] = []
        self.keys: list[str | None] = []
        self.status = 200
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.status == 200:
                    outer.got.append(json.loads(body))
                    outer.keys.append(self.headers.get("Idempotency-Key"))
                self.send_response(outer.status)
                if outer.status == 302:
                    self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook-secret"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_webhook_gets_each_message_once(ledger: Ledger, receiver: Receiver) -> None:
    alerts.raise_for(ledger, made(10, "alarm"))
    assert delivery.deliver(ledger, [receiver.url], holder="a") == (1, 0)
    assert delivery.deliver(ledger, [receiver.url], holder="a") == (0, 0)
    alerts.raise_for(ledger, made(20, "ok"))
    assert delivery.deliver(ledger, [receiver.url], holder="b") == (1, 0)
    assert [m["event"] for m in receiver.got] == ["opened", "resolved"]
    assert "age higher" in str(receiver.got[0]["text"])
    assert len(set(receiver.keys)) == 2
    assert alerts.waiting(ledger) == []


@pytest.mark.parametrize("status", [500, 404, 302])
def test_a_refusing_webhook_is_tried_again_and_fails_nothing(ledger: Ledger, receiver: Receiver, status: int) -> None:
    alerts.raise_for(ledger, made(10, "alarm"))
    receiver.status = status
    assert delivery.deliver(ledger, [receiver.url], holder="a") == (0, 1)
    [message] = alerts.waiting(ledger)
    assert message.tries == 1
    assert str(status) in message.error
    assert "hook-secret" not in message.error
    receiver.status = 200
    assert delivery.deliver(ledger, [receiver.url], holder="a") == (1, 0)


def test_one_dead_address_does_not_hold_up_the_other(ledger: Ledger, receiver: Receiver) -> None:
    dead = "http://user:pw-secret@127.0.0.1:9/x"
    alerts.raise_for(ledger, made(10, "alarm"))
    assert delivery.deliver(ledger, [dead, receiver.url], holder="a") == (1, 1)
    assert delivery.deliver(ledger, [dead, receiver.url], holder="a") == (0, 1)
    assert len(receiver.got) == 1
    stored = str(ledger.scan("outbox")) + str(ledger.read())
    assert "pw-secret" not in stored
    assert "hook-secret" not in stored


def test_a_services_messages_go_to_its_own_addresses(ledger: Ledger, receiver: Receiver) -> None:
    alerts.raise_for(ledger, made(10, "alarm", service="a"))
    alerts.raise_for(ledger, made(10, "alarm", service="b"))
    assert delivery.deliver(ledger, [receiver.url], holder="x", service="a") == (1, 0)
    assert [m["service"] for m in receiver.got] == ["a"]
    assert delivery.deliver(ledger, [], holder="x", service="a") == (0, 0)
    assert [m.service for m in alerts.waiting(ledger)] == ["b"]


def test_giving_up_is_written_down(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "TRIES", 2)
    alerts.raise_for(ledger, made(10, "alarm"))

    def broken(address: str, message: Message) -> None:
        raise RuntimeError("a sender's own defect")

    for _ in range(2):
        delivery.deliver(ledger, ["https://x"], holder="a", senders=broken)
    assert alerts.waiting(ledger) == []
    assert ledger.query(kind="alert.given-up")[0].body["error"].startswith("RuntimeError")


def test_without_addresses_nothing_leaves_and_nothing_piles_up(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("outbound traffic"))
    alerts.raise_for(ledger, made(10, "alarm"))
    assert delivery.deliver(ledger, [], holder="a") == (0, 0)
    assert alerts.waiting(ledger) == []


class _Smtp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        def say(text: str) -> None:
            self.wfile.write(text.encode() + b"\r\n")

        say("220 test")
        while line := self.rfile.readline().decode().strip():
            word = line.split()[0].upper()
            if word == "DATA":
                say("354 go")
                lines = []
                while (part := self.rfile.readline()) != b".\r\n":
                    lines.append(part.decode())
                self.server.mails.append("".join(lines))  # type: ignore[attr-defined]
                say("250 ok")
            elif word == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")


def test_mail() -> None:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Smtp)
    server.mails = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    message = Message(
        id="i-opened", incident="i", service="s", event="opened", title="drift\nBcc: evil@x", text="look", at=5
    )
    delivery.send(f"smtp://127.0.0.1:{server.server_address[1]}/?from=a@b.c&to=d@e.f", message)
    server.shutdown()
    server.server_close()
    [mail] = server.mails  # type: ignore[attr-defined]
    assert "Subject: drift Bcc: evil@x" in mail
    assert "\nBcc:" not in mail
    assert "Message-ID: <i-opened@holdfast>" in mail
    with pytest.raises(BadConfig):
        delivery.send("smtp://127.0.0.1", message)


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    message = Message(id="x", incident="i", service="s", event="opened", title="t", text="", at=5)
    with pytest.raises(BadConfig, match="NOT_SET"):
        delivery.send("env:NOT_SET", message)
    with pytest.raises(BadConfig, match="nonsense"):
        delivery.send("nonsense://x", message)
    monkeypatch.setenv("HOOK", "https://host.example/secret")
    assert delivery.resolve("env:HOOK") == "https://host.example/secret"
    assert delivery.shown("env:HOOK") == "env:HOOK"
    assert delivery.shown("https://u:p@host.example/secret") == "https://host.example"
    assert delivery.shown("slack://tokena/tokenb/tokenc") == "slack://…"
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(BadConfig, match="need Apprise"):
        delivery.send("slack://a/b/c", message)


_SENDER = """
import sys
from holdfast.backends.ledger_sql import SqlLedger
from holdfast.monitoring import delivery
ledger = SqlLedger(sys.argv[1])
delivery.LEASE_SECONDS = 0.2
print("go", flush=True)
while True:
    delivery.deliver(ledger, [sys.argv[2]], holder=sys.argv[3])
"""


def test_two_senders_and_kills_lose_no_page(tmp_path: Path, receiver: Receiver) -> None:
    url = f"sqlite:///{tmp_path}/l.db"
    ledger = SqlLedger(url)
    chance = random.Random(int(os.environ.get("HOLDFAST_SEED", "5")))

    def launch(i: int) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", _SENDER, url, receiver.url, f"s{i}"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    running = [launch(0), launch(1)]
    kills = 2
    for i in range(30):
        alerts.raise_for(ledger, made(10 * (2 * i + 1), "alarm"))
        alerts.raise_for(ledger, made(10 * (2 * i + 2), "ok"))
        if i in (10, 20):
            victim = running.pop(chance.randrange(2))
            victim.send_signal(signal.SIGKILL)
            victim.communicate()
            running.append(launch(i + 2))
    deadline = time.monotonic() + 60
    while alerts.waiting(ledger) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in running:
        process.kill()
        process.communicate()
    assert alerts.waiting(ledger) == []
    counts = Counter(m["id"] for m in receiver.got)
    assert len(counts) == 60
    # A kill between sending and writing it down may repeat that one message, under the same id.
    assert sum(c - 1 for c in counts.values()) <= kills
    ledger.close()
