"""No way into production without a verdict: every route, command and function, in every state, under a race, with -O.

The ordinary suite tries every door in worlds picked by a seed; the long test tries every door in every world.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.core.errors import HoldfastError, NotApproved
from holdfast.core.records import Arm, Release, Verdict
from holdfast.lifecycle import approval, release, rollouts, way_back
from holdfast.protocols.mlflow import app as mlflow
from holdfast.registry import pointers, versions
from holdfast.server import controlplane
from holdfast.serving import release_file
from holdfast.workspace import Workspace
from tests.security import doors, world

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: what is tried here is who gets through, not what survives a power cut."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    found = Path(tempfile.mkdtemp(dir=memory))
    yield found
    shutil.rmtree(found, ignore_errors=True)


@pytest.fixture
def ws(place: Path) -> Iterator[Workspace]:
    with world.make(place / "project") as opened:
        yield opened


def nothing_got_through(tried: doors.Tried) -> None:
    assert tried.through == []
    assert tried.surprises == []


def test_every_route_and_function(ws: Workspace, place: Path) -> None:
    for found in doors.everything(ws, place / "scratch", ("routes", "functions")).values():
        nothing_got_through(doors.attempt(ws, found, doors.PAIRS, each=1, seed=5))


def test_every_command(ws: Workspace, place: Path) -> None:
    """The commands that move something with all their options, the others once with what they need."""
    movers = ("models ", "approve", "release ", "deploy", "rollback", "check", "image", "import-mlflow", "loop")
    found = doors.everything(ws, place / "scratch", ("commands",))["commands"]
    chosen = [d for d in found if d.name.removeprefix("holdfast ").startswith(movers)]
    tried = doors.attempt(ws, chosen, doors.PAIRS, each=1, seed=7)
    assert tried.through == []


def test_the_same_doors_open_for_a_version_that_passed(ws: Workspace, place: Path) -> None:
    """The proof can fail: with a verdict, many of the same doors do lead into production."""
    kinds = doors.everything(ws, place / "scratch", ("routes", "functions"))
    led = []
    for found in kinds.values():
        led += doors.attempt(ws, found, [("approved", s) for s in world.SITUATIONS]).through
    names = {entry.split(" in approved")[0].split(" #")[0] for entry in led}
    assert {n for n in names if "transition-stage" in n} and {n for n in names if "registered-models/alias" in n}
    for function in (
        "pointers.move_stage",
        "pointers.move_alias",
        "rollouts.advance",
        "rollouts.end",
        "release.set_weight",
        "release.publish",
    ):
        assert any(function in n for n in names), (function, sorted(names))


def test_with_asserts_stripped(place: Path) -> None:
    """``python -O``: the checks are no asserts."""
    for tried in stripped(place, "1", "routes", "functions").values():
        assert tried["attempts"] > 50 and tried["through"] == []


def stripped(place: Path, *words: str) -> dict[str, Any]:
    """What a Python without asserts tried, by kind of door."""
    probe = subprocess.run([sys.executable, "-O", "-c", "assert False"], capture_output=True)
    assert probe.returncode == 0, "this Python keeps its asserts under -O"
    command = [sys.executable, "-O", "-m", "tests.security.doors", str(place), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_what_the_server_mounts_beside_the_table_is_enumerated(ws: Workspace) -> None:
    """A console mounted by default would be a door the proof does not see: then its routes belong into ``doors.routes``."""
    app: Any = controlplane.application(ws)
    assert app.inner.mounts == {}
    assert len(mlflow.ROUTES) >= 60


def test_an_answer_given_while_it_was_approved_moves_nothing_later(ws: Workspace) -> None:
    """A repeated request id is answered from the store; the effect is not repeated."""
    from starlette.testclient import TestClient

    http = TestClient(controlplane.application(ws), base_url="http://127.0.0.1:5000")  # type: ignore[arg-type]
    body = {"name": "fraud", "version": "2", "stage": "Production"}
    world.arm(ws, world.approved, "registered")

    def ask() -> Any:
        return http.post(
            "/api/2.0/mlflow/model-versions/transition-stage", json=body, headers={"X-Holdfast-Request-Id": "r"}
        )

    body["archive_existing_versions"] = True  # type: ignore[assignment]
    assert ask().status_code == 200 and world.arrived(ws, "registered")
    world.arm(ws, world.failing, "registered")
    assert ask().status_code == 200
    assert world.arrived(ws, "registered") == []


def test_a_release_file_by_another_hand_is_not_read(ws: Workspace) -> None:
    """Replicas read a signed projection: a file written without the store's key opens nothing."""
    world.arm(ws, world.failing, "registered")
    release.project_files(ws, "fraud")
    forged = Release(
        service="fraud", model="fraud", environment="production", sequence=99, champion=Arm(version=2, content=world.content(ws), weight=100.0)
    )  # fmt: skip
    target = release_file.path(ws.home / "releases", "fraud", "production")
    target.write_bytes(
        msgspec.json.encode(msgspec.structs.replace(forged, signature=release_file.sign(forged, b"k" * 32)))
    )
    with pytest.raises(HoldfastError):
        release_file.read(ws.home / "releases", "fraud", "production", ws.secret("release"))


def test_a_rollout_ends_when_its_approval_is_taken_back(ws: Workspace) -> None:
    """At its next tick the challenger has no traffic any more, and the reason says why."""
    world.arm(ws, world.approved, "in a rollout")
    service = ws.project().services["fraud"]
    world.arm(ws, world.waiver_over, "in a rollout")
    rollout = rollouts.advance(ws, service, now=ws.clock.now())
    live = release.current(ws.ledger, "fraud", "production")
    assert rollout is not None and rollout.status == "aborted" and "waiver" in rollout.reason
    assert live is not None and live.challenger is None and live.champion is not None and live.champion.version == 1


def test_no_image_of_a_version_that_is_not_approved(ws: Workspace, place: Path) -> None:
    world.arm(ws, world.failing, "registered")
    version = versions.get(ws.ledger, "fraud", 2)
    with pytest.raises(NotApproved, match="fail"):
        approval.require_version(ws, version, service="fraud", at=ws.clock.now())
    world.arm(ws, world.approved, "registered")
    approval.require_version(ws, version, service="fraud", at=ws.clock.now())


# --- races ------------------------------------------------------------------------------------------------------------


def race(ws: Workspace, *, rounds: int, seed: int) -> int:
    """Two threads: one gives and takes evidence, one pushes through the doors. Returns how many moves went through."""
    service = ws.project().services["fraud"]
    world.arm(ws, world.failing, "registered")
    held = world.content(ws)
    version = versions.get(ws.ledger, "fraud", 2)
    stop = threading.Event()
    start = len(ws.ledger.read(limit=1_000_000))
    terms = approval.terms_of(ws, service)

    def evidence() -> None:
        rng = random.Random(seed)
        while not stop.is_set():
            outcome = rng.choice(["pass", "fail", "not enough evidence"])
            row = msgspec.convert(world.verdict(version, outcome=outcome), Verdict)
            with suppress(HoldfastError):
                versions.attach_verdict(ws.ledger, row, at=ws.clock.now(), actor="gate")

    taker = threading.Thread(target=evidence)
    taker.start()
    rng = random.Random(seed + 1)
    try:
        for _ in range(rounds):
            now = ws.clock.now()
            moves = (
                lambda now=now: pointers.move_stage(ws.ledger, "fraud", 2, "Production", policy=terms, at=now, actor="m"),
                lambda now=now: pointers.move_stage(ws.ledger, "fraud", 2, "Staging", policy=terms, at=now, actor="m"),
                lambda now=now: pointers.move_alias(ws.ledger, "fraud", "champion", 2, policy=terms, at=now, actor="m"),
                lambda now=now: pointers.move_alias(ws.ledger, "fraud", "champion", 1, policy=terms, at=now, actor="m"),
                lambda now=now: rollouts.begin(ws, service, version, at=now),
                lambda now=now: rollouts.advance(ws, service, now=now),
                lambda now=now: rollouts.end(ws, service, "promote", at=now, reason="m"),
                lambda now=now: release.set_weight(ws, service, 100.0, at=now, reason="m"),
                lambda now=now: way_back.rollback(ws, "fraud", at=now, reason="m"),
            )  # fmt: skip
            with suppress(HoldfastError):
                rng.choice(moves)()
    finally:
        stop.set()
        taker.join()
    return _judge_chain(ws, held, start)


def _judge_chain(ws: Workspace, held: str, start: int) -> int:
    """Walk the chain in its order: at each move of the target into production, the newest verdict before it passed."""
    verdict, went, share = "fail", 0, -1.0
    after = start
    while entries := ws.ledger.read(after=after, limit=5000):
        for entry in entries:
            body = entry.body
            if entry.kind == "model.verdict" and body["content"] == held:
                verdict = body["outcome"]
            elif (entry.kind == "model.stage" and body["after"] == "Production") or (
                entry.kind == "model.alias" and body["alias"] == "champion"
            ):
                if body["content"] == held:
                    went += 1
                    assert verdict == "pass", entry
            elif entry.kind == "release" and body["release"]["environment"] == "production":
                held_by = {r: body["release"].get(r) or {} for r in ("champion", "challenger")}
                mine = {r: a["weight"] for r, a in held_by.items() if a.get("content") == held}
                now = 100.0 if "champion" in mine else mine.get("challenger", -1.0)
                if now > share:
                    went += 1
                    assert verdict == "pass", entry
                share = now
        after = entries[-1].sequence
    return went


def test_a_race_with_evidence_that_comes_and_goes(ws: Workspace) -> None:
    assert race(ws, rounds=400, seed=3) > 3


@pytest.mark.soak
def test_every_door_in_every_world(ws: Workspace, place: Path) -> None:
    for found in doors.everything(ws, place / "scratch", slow=True).values():
        tried = doors.attempt(ws, found, doors.PAIRS)
        assert tried.through == []


@pytest.mark.soak
def test_every_door_at_length_with_asserts_stripped(place: Path) -> None:
    """Routes and functions in every world; a command takes ten times as long, so each is tried in six."""
    found = stripped(place, "all", "routes", "functions") | stripped(place / "commands", "6", "commands")
    assert set(found) == set(doors.KINDS)
    for tried in found.values():
        assert tried["attempts"] > 2000 and tried["through"] == []


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(int(os.environ.get("HOLDFAST_SOAK_RACES", "20"))))
def test_many_races(ws: Workspace, seed: int) -> None:
    race(ws, rounds=1500, seed=seed)
