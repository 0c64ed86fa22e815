"""Tracking calls reach the server exactly once and in order, through outages of the server and deaths of the spool."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from holdfast.core.errors import BadConfig, Conflict
from holdfast.training.spool import API, ARTIFACTS, REQUEST_ID, Spool
from holdfast.training.spool_server import SpoolServer


class Server:
    """A tracking server that does each request id once, and is away in every way a server can be.

    ``moods`` gives the next mood per write: ok, refuse (503), drop (no answer, nothing done), deaf (done, no answer).
    """

    def __init__(self, moods=lambda: "ok"):
        self.effects: list[tuple[str, str]] = []
        self.done: dict[str, bytes] = {}
        self.moods = moods
        self.httpd = None
        self.port = 0

    def start(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, status, body):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                if outer.httpd is None:
                    self.close_connection = True
                    return
                self.answer(200, json.dumps({"read": self.path, "effects": len(outer.effects)}).encode())

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode("latin-1")
                # A stopped server also drops the connections it had.
                mood = outer.moods() if outer.httpd is not None else "drop"
                if mood == "refuse":
                    self.answer(503, b"{}")
                    return
                if mood == "drop":
                    self.close_connection = True
                    return
                key = self.headers[REQUEST_ID]
                if key not in outer.done:
                    outer.effects.append((self.path, body))
                    outer.done[key] = json.dumps({"n": len(outer.effects)}).encode()
                if mood == "deaf":
                    self.close_connection = True
                    return
                if "invalid" in body:
                    self.answer(400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}')
                else:
                    self.answer(200, outer.done[key])

            do_PUT = do_POST

            def log_message(self, *arguments):
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.httpd.daemon_threads = True
        self.port = self.httpd.server_address[1]
        threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self):
        if self.httpd is not None:
            self.httpd.shutdown()
            self.httpd.server_close()
            self.httpd = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def server():
    made = Server().start()
    yield made
    made.stop()


@pytest.fixture
def spool(server, tmp_path):
    made = Spool(tmp_path / "spool" / "s.db", server.url, timeout=2)
    yield made
    made.close()


def post(spool, path, body, patience=0.0):
    return spool.handle(
        "POST", API + path, {"Content-Type": "application/json"}, json.dumps(body).encode(), patience=patience
    )


def log(spool, i):
    answer = post(spool, "runs/log-metric", {"run_id": "r", "key": "k", "value": i})
    assert answer.status == 200
    return i


def delivered(server):
    return [json.loads(body)["value"] for path, body in server.effects if path.endswith("log-metric")]


def test_while_the_server_answers_its_own_answer_comes_back(server, spool):
    assert json.loads(post(spool, "runs/log-metric", {"value": 1}).body) == {"n": 1}
    answer = post(spool, "runs/log-parameter", {"invalid": True})
    assert answer.status == 400 and b"INVALID_PARAMETER_VALUE" in answer.body
    assert spool.waiting == 0


def test_an_outage_is_bridged_in_order(server, spool):
    log(spool, 0)
    server.stop()
    for i in range(1, 30):
        log(spool, i)
    assert spool.waiting == 29 and delivered(server) == [0]
    server.start()
    assert spool.drain(30)
    log(spool, 30)
    assert delivered(server) == list(range(31))


@pytest.mark.parametrize("seed", range(4))
def test_exactly_once_and_in_order_through_every_way_of_being_away(tmp_path, seed):
    chance = random.Random(seed)
    server = Server(lambda: chance.choice(["ok", "ok", "refuse", "drop", "deaf"])).start()
    spool = Spool(tmp_path / "s.db", server.url, timeout=1)
    try:
        for i in range(60):
            log(spool, i)
            if chance.random() < 0.1:
                server.stop()
            if server.httpd is None and chance.random() < 0.3:
                server.start()
        if server.httpd is None:
            server.start()
        assert spool.drain(60)
        assert delivered(server) == list(range(60)), f"seed {seed}"
    finally:
        spool.close()
        server.stop()


WRITER = """
import json, os, sys, time
from pathlib import Path
from holdfast.training.spool import API, Spool
spool = Spool(Path(sys.argv[1]), sys.argv[2], timeout=2)
i = int(sys.argv[3])
while True:
    body = json.dumps({"run_id": "r", "key": "k", "value": i}).encode()
    assert spool.handle("POST", API + "runs/log-metric", {}, body, patience=0).status == 200
    os.write(1, f"{i}\\n".encode())
    i += 1
    time.sleep(0.003)
"""


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_a_killed_spool_loses_nothing_acknowledged(server, tmp_path, kills):
    """The killed one's journal is taken over; only its very last call, not acknowledged, may be there or not."""
    chance = random.Random(7)
    following, acknowledged = 0, []
    for _ in range(kills):
        if chance.random() < 0.5:
            server.stop()
        elif server.httpd is None:
            server.start()
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "s.db"), server.url, str(following)], stdout=subprocess.PIPE
        )
        first = writer.stdout.readline()
        time.sleep(chance.uniform(0, 0.2))
        writer.send_signal(signal.SIGKILL)
        lines = (first + writer.stdout.read()).decode().split("\n")[:-1]
        writer.wait()
        acknowledged += [int(line) for line in lines]
        following = acknowledged[-1] + 2  # the one in flight may or may not have been kept
    if server.httpd is None:
        server.start()
    spool = Spool(tmp_path / "s.db", server.url, timeout=2)
    assert spool.drain(60)
    spool.close()
    found = delivered(server)
    assert len(found) == len(set(found)), "something was done twice"
    assert found == sorted(found), "something was done out of order"
    assert set(acknowledged) <= set(found), "something acknowledged is lost"
    assert set(found) - set(acknowledged) <= {a + 1 for a in acknowledged}


def test_reads_see_the_writes_before_them(server, spool):
    server.stop()
    log(spool, 1)
    threading.Timer(0.3, server.start).start()
    answer = spool.handle("GET", API + "metrics/get-history?run_id=r", {}, b"", patience=30)
    assert json.loads(answer.body)["effects"] == 1


def test_a_known_run_is_answered_for_while_the_server_is_away(server, spool):
    spool.know_run({"info": {"run_id": "r", "status": "RUNNING"}, "data": {}})
    server.stop()
    answer = post(spool, "runs/update", {"run_id": "r", "status": "FINISHED", "end_time": 5})
    assert json.loads(answer.body)["run_info"]["status"] == "FINISHED"
    found = spool.handle("GET", API + "runs/get?run_id=r", {}, b"", patience=0)
    assert json.loads(found.body)["run"]["info"] == {"run_id": "r", "status": "FINISHED", "end_time": 5}


def test_a_run_can_begin_while_the_server_is_away(server, spool):
    server.stop()
    tags = [{"key": "holdfast.run_id", "value": "abc"}]
    answer = json.loads(post(spool, "runs/create", {"experiment_id": "0", "tags": tags}).body)
    assert answer["run"]["info"]["run_id"] == "abc"
    assert spool.handle("PUT", ARTIFACTS + "0/abc/artifacts/f", {}, b"bytes", patience=0).status == 200
    server.start()
    assert spool.drain(30)
    assert [path.rpartition("/")[2] for path, _ in server.effects] == ["create", "f"]


def test_what_only_the_server_can_answer_waits_and_then_says_so(server, spool):
    server.stop()
    assert post(spool, "registered-models/create", {"name": "m"}).status == 503
    threading.Timer(0.3, server.start).start()
    assert post(spool, "registered-models/create", {"name": "m"}, patience=30).status == 200


def test_what_the_server_refuses_later_is_kept_aside(server, spool, tmp_path):
    server.stop()
    assert post(spool, "runs/log-parameter", {"invalid": True}).status == 200
    log(spool, 1)
    server.start()
    assert spool.drain(30)
    assert delivered(server) == [1]
    assert [(target, status) for target, status, _ in spool.refused] == [(API + "runs/log-parameter", 400)]
    spool.close()
    assert (tmp_path / "spool" / "s.db").exists()


def test_an_empty_journal_leaves_no_file(server, tmp_path):
    spool = Spool(tmp_path / "s.db", server.url)
    log(spool, 1)
    with pytest.raises(Conflict):
        Spool(tmp_path / "s.db", server.url)
    spool.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "nonsense"])
def test_urls_that_lead_nowhere(tmp_path, url):
    with pytest.raises(BadConfig):
        Spool(tmp_path / "s.db", url)


def test_the_door_is_for_the_run_alone_and_hides_the_servers_token(server, tmp_path):
    spool = Spool(tmp_path / "s.db", server.url, token="the server's")
    with SpoolServer(spool, patience=0) as door:
        address = urlsplit(door.url)

        def ask(method, path, body=b"", token=door.token):
            connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
            connection.request(method, path, body=body, headers={"Authorization": f"Bearer {token}"} if token else {})
            response = connection.getresponse()
            found = response.status, response.read()
            connection.close()
            return found

        assert ask("POST", API + "runs/log-metric", b'{"value": 1}') == (200, b'{"n": 1}')
        for token in ("", "wrong", "the server's"):
            assert ask("POST", API + "runs/log-metric", b'{"value": 2}', token)[0] == 401
        assert ask("GET", API + "runs/search")[0] == 200
        assert door.token not in json.dumps(server.effects)
    spool.close()
    assert delivered(server) == [1]
