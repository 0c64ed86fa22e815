"""Faults in a challenger or shadow cost no caller anything and leave evidence; faults in a champion are told plainly."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.core.records import Arm, Package, Release
from holdfast.serving import journal
from holdfast.serving.journal import Journal
from holdfast.serving.model import Loaded
from holdfast.serving.predict import Options
from holdfast.serving.replica import Replica
from holdfast.serving.wire import Request, Response
from tests.serving.world import INPUTS, arm, fields

ROW = {"a": 0.5, "b": 0.25}
PACKAGE = Package(
    name="toy",
    format="onnx",
    task="binary",
    model_file="m",
    files={},
    inputs=fields(),
    request=fields(),
    outputs=[],
    classes=["no", "yes"],
)
Scores = Callable[[Any], Any]


class Model:
    def __init__(self, scores: Scores) -> None:
        self.scores = scores


class Switch:
    """A model that behaves until it is told not to, so that it passes its warm-up."""

    def __init__(self, fault: Scores) -> None:
        self.fault = fault
        self.on = False

    def __call__(self, matrix: Any) -> Any:
        return self.fault(matrix) if self.on else good(matrix)


def good(matrix: Any) -> Any:
    return np.full(len(matrix), 0.25)


def explode(matrix: Any) -> Any:
    raise RuntimeError("secret path /etc/shadow")


@contextmanager
def hanging() -> Iterator[Scores]:
    release = threading.Event()

    def hang(matrix: Any) -> Any:
        release.wait(60)
        return good(matrix)

    try:
        yield hang
    finally:
        release.set()


class Stage:
    """A replica with models made of functions, driven in process."""

    def __init__(self, folder: Path, models: Mapping[int, Scores], release: Release, **options: Any) -> None:
        self.folder = folder
        self.models = dict(models)
        self.release = release
        self.journal = Journal(folder, mode="buffered")
        self.replica = Replica(
            service="toy", environment="production", name="0", release=lambda: self.release, load=self.load, journal=self.journal,
            now=lambda: time.time_ns() // 1000, options=Options(**{"challenger_deadline": 0.3, "deadline": 2.0} | options),
        )  # fmt: skip

    def load(self, a: Arm) -> Loaded:
        return Loaded(version=a.version, content=a.content, package=PACKAGE, predictor=Model(self.models[a.version]))

    async def predict(self, n: int = 1, **headers: str) -> tuple[int, Any]:
        response = await self.respond(n, **headers)
        return response.status, json.loads(response.body)

    async def respond(self, n: int = 1, **headers: str) -> Response:
        """The answer as it goes over the wire."""
        lower = {f"x-holdfast-{k}".encode(): v.encode() for k, v in headers.items()}
        body = json.dumps({"rows": [ROW] * n}).encode()
        answer = self.replica.handle(Request("POST", b"/predict", "/predict", b"", lower, body))
        return answer if isinstance(answer, Response) else await answer

    def play(self, story: Callable[[Stage], Any]) -> list[dict[str, Any]]:
        """Run a story; the log after it."""

        async def run() -> None:
            watcher = asyncio.ensure_future(self.replica.watch())
            async with asyncio.timeout(60):
                while self.replica.predictions.state is None:
                    await asyncio.sleep(0.01)
                await story(self)
            watcher.cancel()
            await asyncio.to_thread(self.journal.close)

        asyncio.run(run())
        return list(journal.read(self.folder, since=None, until=None).to_pylist())


def release(sequence: int = 1, **arms: Arm) -> Release:
    made: dict[str, Any] = {"champion": arm(1, "c1")} | arms
    return Release(service="toy", environment="production", model="toy", sequence=sequence, salt="s", **made)


FAULTS: dict[str, Scores] = {
    "error": explode,
    "exit": lambda m: sys.exit(3),
    "nan": lambda m: np.full(len(m), np.nan),
    "too few": lambda m: np.zeros(len(m) + 1),
    "nonsense": lambda m: ["x"] * len(m),
    "none": lambda m: None,
}


@pytest.mark.parametrize("fault", [*FAULTS, "hang", "slow"])
def test_a_faulty_challenger_costs_nobody_and_is_evidence(tmp_path: Path, fault: str) -> None:
    with hanging() as hang:

        def slow(matrix: Any) -> Any:
            time.sleep(0.6)
            return good(matrix)

        bad = Switch({**FAULTS, "hang": hang, "slow": slow}[fault])
        stage = Stage(tmp_path, {1: good, 2: bad}, release(challenger=arm(2, "c2", 50.0)))

        async def story(stage: Stage) -> None:
            bad.on = True
            answers = await asyncio.gather(*(stage.predict(key=f"k{i}") for i in range(20)))
            assert all(status == 200 for status, _ in answers)
            assert {a["predictions"][0]["arm"] for _, a in answers} == {"champion"}
            assert all(a["predictions"][0]["output"] == "no" for _, a in answers)
            # What is not routed to it does not wait for it.
            text = stage.replica.render_metrics().decode()
            assert 'arm="challenger"' in text and "holdfast_model_failures_total" in text

        log = stage.play(story)
    failed = [r for r in log if r["arm"] == "challenger"]
    assert 3 <= len(failed) <= 17 and all(
        r["score"] is None and r["output"] is None and r["version"] == 2 for r in failed
    )
    assert len([r for r in log if r["arm"] == "champion"]) == 20


def test_a_hanging_challenger_is_bounded(tmp_path: Path) -> None:
    with hanging() as hang:
        bad = Switch(hang)
        stage = Stage(tmp_path, {1: good, 2: bad}, release(challenger=arm(2, "c2", 100.0)))

        async def story(stage: Stage) -> None:
            bad.on = True
            challenger = stage.replica.predictions.state.challenger  # type: ignore[union-attr]
            assert challenger is not None and challenger.batcher is not None
            challenger.batcher._limit = 8
            for _ in range(5):
                assert {s for s, _ in await asyncio.gather(*(stage.predict() for _ in range(20)))} == {200}
            assert challenger.batcher.queued <= 8

        stage.play(story)


@pytest.mark.parametrize("fault", [*FAULTS, "hang"])
def test_a_shadow_changes_no_answer(tmp_path: Path, fault: str) -> None:
    with hanging() as hang:
        bad = Switch({**FAULTS, "hang": hang}[fault])
        stage = Stage(tmp_path, {1: good, 2: bad}, release())

        async def story(stage: Stage) -> None:
            ids = [{"prediction-id": f"p{i}"} for i in range(10)]
            before = [await stage.respond(**h) for h in ids]
            stage.release = release(2, shadow=arm(2, "c2"))
            while stage.replica.predictions.state.shadow is None:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
            bad.on = True
            assert [await stage.respond(**h) for h in ids] == before  # status, every byte, every header
            if fault == "hang":
                batcher = stage.replica.predictions.state.shadow.batcher  # type: ignore[union-attr]
                batcher._limit = 4
                begun = time.monotonic()
                for h in ids * 20:
                    assert (await stage.predict(**h))[0] == 200
                assert time.monotonic() - begun < 30 and batcher.queued <= 10
                assert "holdfast_shadow_dropped_total 2" in stage.replica.render_metrics().decode()
            else:
                while bad.on and stage.replica.predictions.state.shadow.batcher.queued:  # type: ignore[union-attr]
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)

        log = stage.play(story)
    if fault != "hang":
        shadows = [r for r in log if r["arm"] == "shadow"]
        assert len(shadows) == 10 and {r["id"] for r in shadows} == {f"p{i}" for i in range(10)}
        assert all(r["score"] is None for r in shadows)


def test_a_good_shadow_is_logged_beside_the_answer(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {1: good, 2: lambda m: np.full(len(m), 0.75)}, release(shadow=arm(2, "c2")))

    async def story(stage: Stage) -> None:
        status, body = await stage.predict(n=3, **{"prediction-id": "q"})
        assert status == 200 and [p["score"] for p in body["predictions"]] == [0.25] * 3
        while stage.replica.predictions.state.shadow.batcher.queued:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)

    log = stage.play(story)
    assert {(r["id"], r["arm"], r["score"], r["output"]) for r in log} == {
        *((f"q-{i}", "champion", 0.25, "no") for i in range(3)),
        *((f"q-{i}", "shadow", 0.75, "yes") for i in range(3)),
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_champion_is_told_without_internals(tmp_path: Path, fault: str) -> None:
    bad = Switch(FAULTS[fault])
    stage = Stage(tmp_path, {1: bad}, release())

    async def story(stage: Stage) -> None:
        bad.on = True
        status, body = await stage.predict()
        assert status == 500 and body["error"]["code"] == "HF920"
        assert "shadow" not in json.dumps(body) and "Traceback" not in json.dumps(body)
        bad.on = False
        assert (await stage.predict())[0] == 200

    stage.play(story)


def test_a_slow_champion_is_batched_and_its_deadline_kept(tmp_path: Path) -> None:
    sizes: list[int] = []

    def slow(matrix: Any) -> Any:
        sizes.append(len(matrix))
        time.sleep(0.02)
        return matrix[:, 0]

    stage = Stage(tmp_path, {1: slow}, release())

    async def story(stage: Stage) -> None:
        sizes.clear()
        answers = await asyncio.gather(*(stage.predict() for _ in range(100)))
        assert {s for s, _ in answers} == {200}
        assert all(a["predictions"][0]["score"] == 0.5 for _, a in answers)
        # Whatever queued while a call ran went as one call.
        assert len(sizes) <= 10 and sum(sizes) == 100

    stage.play(story)


def test_a_champion_that_hangs_is_refused_not_waited_for(tmp_path: Path) -> None:
    with hanging() as hang:
        behaviour: dict[str, Scores] = {"now": lambda m: time.sleep(0.01) or good(m)}
        stage = Stage(tmp_path, {1: lambda m: behaviour["now"](m)}, release(), deadline=0.3)

        async def story(stage: Stage) -> None:
            behaviour["now"] = hang
            status, body = await stage.predict()
            assert (status, body["error"]["code"]) == (503, "HF921")

        stage.play(story)


def test_swaps_under_load_fail_nobody_and_rollback_needs_no_load(tmp_path: Path) -> None:
    loads: list[int] = []

    class Counting(Stage):
        def load(self, a: Arm) -> Loaded:
            loads.append(a.version)
            time.sleep(0.1)
            return super().load(a)

    stage = Counting(tmp_path, {v: (lambda m, v=v: np.full(len(m), v / 10)) for v in (1, 2, 3)}, release())

    async def story(stage: Stage) -> None:
        statuses: list[int] = []
        stop = False

        async def client() -> None:
            while not stop:
                status, body = await stage.predict()
                statuses.append(status)
                answer = body["predictions"][0]
                assert answer["score"] == answer["version"] / 10
                await asyncio.sleep(0)

        clients = [asyncio.ensure_future(client()) for _ in range(4)]
        for sequence, version in enumerate((2, 3, 2, 1, 3), start=2):
            stage.release = release(sequence, champion=arm(version, f"c{version}"))
            while stage.replica.predictions.state.release.sequence < sequence:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
        # A lower sequence (an old file put back) is ignored.
        stage.release = release(1, champion=arm(2, "c2"))
        await asyncio.sleep(0.5)
        assert (await stage.predict())[1]["predictions"][0]["version"] == 3
        stop = True
        await asyncio.gather(*clients)
        assert set(statuses) == {200} and len(statuses) > 50
        assert loads == [1, 2, 3]

    stage.play(story)


class HangingLoad(Stage):
    """Version 2 never finishes loading; ``gate`` lets its thread go at the end."""

    gate = threading.Event()

    def __init__(self, *given: Any, **options: Any) -> None:
        self.gate.clear()
        super().__init__(*given, **options)

    def load(self, a: Arm) -> Loaded:
        if a.version == 2:
            self.gate.wait(60)
        return super().load(a)


def test_a_version_that_hangs_while_it_loads_keeps_no_newer_release_waiting(tmp_path: Path) -> None:
    stage = HangingLoad(tmp_path, {v: (lambda m, v=v: np.full(len(m), v / 10)) for v in (1, 2, 3)}, release())

    async def story(stage: Stage) -> None:
        stage.release = release(2, challenger=arm(2, "c2", 50.0))
        await asyncio.sleep(0.5)
        assert (await stage.predict())[1]["predictions"][0]["version"] == 1
        stage.release = release(3, champion=arm(3, "c3"))
        while (await stage.predict())[1]["predictions"][0]["version"] != 3:
            await asyncio.sleep(0.01)
        stage.release = release(4)
        while (await stage.predict())[1]["predictions"][0]["version"] != 1:
            await asyncio.sleep(0.01)

    stage.play(story)
    stage.gate.set()


@pytest.mark.parametrize("how", ["hang", "exit"])
def test_a_challenger_that_does_not_load_is_evidence(tmp_path: Path, how: str) -> None:
    class Exiting(Stage):
        def load(self, a: Arm) -> Loaded:
            if a.version == 2:
                raise SystemExit(3)
            return super().load(a)

    kind = HangingLoad if how == "hang" else Exiting
    stage = kind(tmp_path, {1: good}, release(challenger=arm(2, "c2", 100.0)), load_deadline=0.2)

    async def story(stage: Stage) -> None:
        status, body = await stage.predict()
        assert status == 200 and body["predictions"][0]["arm"] == "champion"
        told = json.loads(stage.replica._show_release(Request("GET", b"/release", "/release", b"", {}, b"")).body)
        assert ("not loaded within" if how == "hang" else "SystemExit") in told["arms"]["challenger"]["problem"]

    log = stage.play(story)
    HangingLoad.gate.set()
    assert [r["score"] for r in log if r["arm"] == "challenger"] == [None]


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {1: lambda m: time.sleep(0.05) or good(m)}, release(), max_pending=4)

    async def story(stage: Stage) -> None:
        answers = await asyncio.gather(*(stage.predict() for _ in range(20)))
        codes = [a["error"]["code"] for s, a in answers if s == 503]
        assert codes and set(codes) == {"HF513"} and len(codes) + 4 <= 20
        assert (await stage.predict())[0] == 200

    stage.play(story)


def test_inputs_by_name_not_position(tmp_path: Path) -> None:
    assert INPUTS == ("a", "b")
    stage = Stage(tmp_path, {1: lambda m: m[:, 1]}, release())

    async def story(stage: Stage) -> None:
        body = b'{"rows":[{"b":0.25,"a":0.5}]}'
        answer = stage.replica.handle(Request("POST", b"/predict", "/predict", b"", {}, body))
        assert isinstance(answer, Response)
        assert json.loads(answer.body)["predictions"][0]["score"] == 0.25

    stage.play(story)


@pytest.mark.parametrize("balanced", [True, False])
def test_a_request_whose_replica_died_is_not_given_to_the_challenger_again(tmp_path: Path, balanced: bool) -> None:
    stage = Stage(tmp_path, {1: good, 2: good}, release(challenger=arm(2, "c2", 100.0)), balanced=balanced)

    async def story(stage: Stage) -> None:
        assert (await stage.predict())[1]["predictions"][0]["arm"] == "challenger"
        again = (await stage.predict(**{"retry": "1", "prediction-id": "p"}))[1]["predictions"][0]
        # Callers that reach a replica by themselves cannot speak against a challenger.
        assert again["arm"] == ("champion" if balanced else "challenger")

    log = stage.play(story)
    rows = sorted(((r["arm"], r["score"]) for r in log if r["id"] == "p"), key=str)
    assert rows == ([("challenger", None), ("champion", 0.25)] if balanced else [("challenger", 0.25)])


def test_who_comes_before_the_first_version_hears_what_becomes_of_it(tmp_path: Path) -> None:
    """Loading takes its time, or cannot be done: neither is told as if nothing had been deployed."""
    with hanging() as hang:
        stage = Stage(tmp_path, {1: hang, 3: good}, release())

        async def told(what: str) -> dict[str, Any]:
            async with asyncio.timeout(30):
                while True:
                    status, body = await stage.predict()
                    assert (status, body["error"]["code"]) == (503, "HF501")
                    if what in body["error"]["message"]:
                        return dict(body["error"])
                    await asyncio.sleep(0.01)

        async def run() -> None:
            assert "holdfast deploy" in (await told("no release is in force"))["hint"]
            watcher = asyncio.ensure_future(stage.replica.watch())
            assert "again" in (await told("version 1 is being loaded"))["hint"]
            stage.release = release(2, champion=arm(2, "c2"))
            assert "deploy" not in (await told("version 2 cannot be loaded"))["hint"]
            stage.release = release(3, champion=arm(3, "c3"))
            async with asyncio.timeout(30):
                while (await stage.predict())[0] != 200:
                    await asyncio.sleep(0.01)
            watcher.cancel()
            await asyncio.to_thread(stage.journal.close)

        asyncio.run(run())


def test_what_no_handler_foresaw_counts_as_an_error(tmp_path: Path) -> None:
    """The listener answers it with 500; the replica's metrics, which availability is taken from, have it too."""
    stage = Stage(tmp_path, {1: good}, release())

    def at_once(_: Request) -> Response:
        raise RuntimeError("unforeseen")

    async def later(_: Request) -> Response:
        raise RuntimeError("unforeseen")

    async def story(stage: Stage) -> None:
        for path, handler in (("/once", at_once), ("/later", later)):
            stage.replica.route("POST", path, handler)
            with pytest.raises(RuntimeError):
                await stage.replica.handle(Request("POST", path.encode(), path, b"", {}, b""))  # type: ignore[misc]
            text = stage.replica.render_metrics().decode()
            assert any(f'"{path}"' in line and "500" in line for line in text.splitlines()), text[:2000]

    stage.play(story)
