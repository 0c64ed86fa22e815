"""The feature server follows what is applied while it runs: all of it, with what was pushed before, and nothing that is not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.protocols.feast.listening import listening

from holdfast.core.errors import BadDefinition, Unavailable
from holdfast.core.identity import to_us
from holdfast.features import view as view_module
from holdfast.protocols.feast.routes import Definitions, FeatureServer
from holdfast.server import featureserver
from holdfast.workspace import Workspace

NOW = to_us("2024-03-01T12:00:00Z")
FIRST = """
import holdfast as hf
events = hf.Source("events", "data/events.parquet", timestamp="at", schema={"k": int, "x": float})
key = hf.Entity("k")
view = hf.FeatureView("view", [key], events, [hf.Field("x", float)])
plain = hf.FeatureService("plain", [view])
"""
SECOND = (
    FIRST
    + """
counts = hf.FeatureView("counts", [key], events, [hf.Aggregation("x", ["count", "sum"], ["1d"])])

@hf.on_demand
def doubled(amount, counts__x_sum_1d):
    return 2 * amount + counts__x_sum_1d

richer = hf.FeatureService("richer", [view, counts, doubled], request={"amount": float})
"""
)


def write(root: Path, definitions: str) -> None:
    (root / "definitions.py").write_text(definitions)


def apply(workspace: Workspace) -> list[Any]:
    return view_module.apply(workspace.ledger, workspace.project(), at=NOW, actor="t")


@contextmanager
def running(root: Path, *, read_only: bool = False) -> Iterator[tuple[Workspace, httpx.Client, Any]]:
    with Workspace.open(root) as workspace:
        server, pusher = featureserver.build(workspace, read_only=read_only)
        server._clock = lambda: NOW
        try:
            with listening(server) as client:
                yield workspace, client, server
        finally:
            if pusher is not None:
                pusher.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "holdfast.toml").touch()
    write(tmp_path, FIRST)
    return tmp_path


def push(client: httpx.Client, *values: float) -> int:
    columns = {"k": [1] * len(values), "at": [NOW - 1000 - i for i in range(len(values))], "x": list(values)}
    return client.post("/push", json={"push_source_name": "events", "df": columns}).status_code


def ask(client: httpx.Client, service: str, **request: Any) -> dict[str, Any] | int:
    entities = {"k": [1], **{name: [value] for name, value in request.items()}}
    body = {"feature_service": service, "entities": entities, "full_feature_names": True}
    answer = client.post("/get-online-features", json=body)
    if answer.status_code != 200:
        return answer.status_code
    found = answer.json()
    return {
        n: r["values"][0]
        for n, r in zip(found["metadata"]["feature_names"], found["results"], strict=True)
        if n not in entities
    }


def test_what_is_applied_is_served_with_what_was_pushed_before(root: Path) -> None:
    with running(root) as (workspace, client, server):
        apply(workspace)
        assert push(client, 3.0, 4.0) == 200
        assert ask(client, "plain") == {"view__x": 3.0}
        write(root, SECOND)
        assert ask(client, "richer", amount=1.0) == 404  # written, not applied
        apply(workspace)
        server._looked = -1e9
        wanted = {"view__x": 3.0, "counts__x_count_1d": 2, "counts__x_sum_1d": 7.0, "doubled": 9.0}
        assert ask(client, "richer", amount=1.0) == wanted
        assert push(client, 5.0) == 200
        assert ask(client, "richer", amount=1.0) == {**wanted, "counts__x_count_1d": 3, "counts__x_sum_1d": 12.0, "view__x": 5.0, "doubled": 14.0}  # fmt: skip
        by_reference = {"features": ["counts:x_count_1d"], "entities": {"k": [1]}}
        assert client.post("/get-online-features", json=by_reference).json()["results"][1]["values"] == [3]
        write(root, FIRST)
        apply(workspace)  # the service is taken away again
        renew(server)
        assert ask(client, "richer", amount=1.0) == 404 and ask(client, "plain") == {"view__x": 5.0}


def renew(server: Any) -> None:
    """What the server does each second by itself."""
    newer = server._newer()
    if newer is not None:
        server.definitions = newer


def test_what_is_refused_or_broken_is_not_served(root: Path) -> None:
    with running(root) as (workspace, client, server):
        apply(workspace)
        broken = SECOND.replace("return 2 * amount", "return len(amount) * amount")
        write(root, broken)
        with pytest.raises(BadDefinition):
            apply(workspace)
        renew(server)
        assert ask(client, "plain") == {"view__x": None} and ask(client, "richer", amount=1.0) == 404


def test_views_that_do_not_fit_what_was_pushed_leave_the_others_served(root: Path, caplog: Any) -> None:
    with running(root) as (workspace, client, server):
        apply(workspace)
        assert push(client, 3.5) == 200
        write(root, FIRST + 'odd = hf.FeatureView("odd", [key], events, [hf.Field("x", int)])\n')
        apply(workspace)
        server._looked = -1e9
        reference = {"features": ["odd:x"], "entities": {"k": [1]}}
        assert client.post("/get-online-features", json=reference).status_code == 404
        assert "cannot be taken over" in caplog.text and "3.5 is not an int64" in caplog.text
        assert push(client, 4.5) == 200 and ask(client, "plain") == {"view__x": 4.5}
        assert server._newer() is None  # not tried again until something else is applied
        write(root, FIRST + 'fine = hf.FeatureView("fine", [key], events, [hf.Field("x", float)])\n')
        apply(workspace)
        renew(server)
        reference["features"] = ["fine:x"]
        assert client.post("/get-online-features", json=reference).json()["results"][1]["values"] == [4.5]


def test_a_read_only_server_follows_too(root: Path) -> None:
    with running(root, read_only=True) as (workspace, client, server):
        apply(workspace)
        write(root, SECOND)
        apply(workspace)
        server._looked = -1e9
        assert ask(client, "richer", amount=1.0) == {"view__x": None, "counts__x_count_1d": 0, "counts__x_sum_1d": None, "doubled": None}  # fmt: skip


def test_other_changes_of_the_ledger_are_not_ours(root: Path) -> None:
    with Workspace.open(root) as workspace:
        apply(workspace)
        applied = featureserver.Applied(workspace)
        before = applied._seen
        assert applied.newer() is None
        workspace.ledger.append("note", subject="x", body={}, at=NOW)
        with workspace.ledger.transaction() as tx:
            tx.put("other", "x", {})
        assert applied.newer() is None and applied._seen == before


def holdfast(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "holdfast.cli.main", *words], cwd=root, capture_output=True, text=True, timeout=120
    )


def test_as_users_run_it(root: Path) -> None:
    """`features serve` in one terminal, `features apply` in another."""
    server = subprocess.Popen(
        [sys.executable, "-m", "holdfast.cli.main", "features", "serve", "--port", "0"],
        cwd=root, stderr=subprocess.PIPE, text=True, env={**os.environ, "HOLDFAST_ENV": ""},
    )  # fmt: skip
    try:
        assert server.stderr is not None
        address = server.stderr.readline().split()[-1]
        body = json.dumps({"feature_service": "richer", "entities": {"k": [1], "amount": [1.0]}}).encode()

        def status() -> int:
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(address + "/get-online-features", body), timeout=60
                ) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as problem:
                return problem.code

        assert status() == 404
        write(root, SECOND)
        done = holdfast(root, "features", "apply")
        assert done.returncode == 0, done.stderr
        assert status() == 200
        taken = holdfast(root, "features", "serve", "--read-only", "--port", address.rsplit(":", 1)[1])
        assert taken.returncode == 1 and "cannot listen" in taken.stderr and "--port" in taken.stderr
    finally:
        server.terminate()
        assert server.wait(20) == 0


def test_rows_the_store_did_not_take_are_brought_online_without_another_push(monkeypatch: pytest.MonkeyPatch) -> None:
    class Waiting:
        behind, full = True, False
        calls = 0

        def catch_up(self) -> None:
            self.calls += 1
            if self.calls == 1:
                raise Unavailable("the online store cannot be reached")
            self.behind = False
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(featureserver, "LOOK_EVERY", 0.01)
    server = FeatureServer(None, Definitions({}, {}), pusher=None)  # type: ignore[arg-type]
    waiting: Any = Waiting()
    asyncio.run(featureserver._serve(server, featureserver._listening("127.0.0.1", 0), waiting))
    assert waiting.calls == 2
