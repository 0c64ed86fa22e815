"""Small requests of one turn of the event loop share a model call; each caller gets exactly its own answer all the same."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.serving.journal import Journal
from holdfast.serving.wire import Request, Response
from tests.serving.test_faults import Stage, release
from tests.serving.world import arm

sizes: list[int] = []


def first_input(matrix: Any) -> Any:
    sizes.append(len(matrix))
    return matrix[:, 0].copy()


def alone_only(matrix: Any) -> Any:
    if len(matrix) > 1 and (matrix[:, 0] == 0.99).any():
        raise RuntimeError("not in company")
    if matrix[0, 0] == 0.99:
        raise RuntimeError("not at all")
    return matrix[:, 0].copy()


async def ask(stage: Stage, value: Any, n: int = 1) -> tuple[int, Any]:
    body = json.dumps({"rows": [{"a": value, "b": i} for i in range(n)]}).encode()
    headers = {b"x-holdfast-prediction-id": f"v{value}-{n}".encode()}
    answer = stage.replica.handle(Request("POST", b"/predict", "/predict", b"", headers, body))
    try:
        response = answer if isinstance(answer, Response) else await answer
    except Exception as problem:
        return int(getattr(problem, "status", 500)), {}
    return response.status, json.loads(response.body)


def play(tmp_path: Path, model: Any, story: Any, *, mode: Any = "buffered", **arms: Any) -> list[dict[str, Any]]:
    stage = Stage(tmp_path, {1: model, 2: first_input}, release(**arms))
    if mode == "durable":
        stage.journal.close()
        stage.journal = Journal(tmp_path, mode=mode)
        stage.replica.journal = stage.replica.predictions.journal = stage.journal
    stage.replica.predictions.crowd = lambda: 64
    return stage.play(story)


@pytest.mark.parametrize("mode", ["buffered", "durable"])
def test_each_gets_its_own_answer_and_the_log_has_each_once(tmp_path: Path, mode: str) -> None:
    async def story(stage: Stage) -> None:
        sizes.clear()
        values = [round(i / 1000, 3) for i in range(300)]
        answers = await asyncio.gather(*(ask(stage, v, 1 + i % 3) for i, v in enumerate(values)))
        for i, (value, (status, body)) in enumerate(zip(values, answers, strict=True)):
            told = body["predictions"]
            assert status == 200 and [p["score"] for p in told] == [value] * (1 + i % 3)
            assert told[0]["id"].startswith(f"v{value}-") and all(p["logged"] for p in told)
        assert stage.replica.predictions.pending == 0
        assert max(sizes) > 64 and max(sizes) <= 300 and len(sizes) < 20

    log = play(tmp_path, first_input, story, mode=mode)
    assert len(log) == 600 and len({r["id"] for r in log}) == 600
    assert all(r["score"] == r["features.a"] == r["inputs.a"] for r in log)


def test_one_that_fails_fails_alone(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        answers = await asyncio.gather(*(ask(stage, v) for v in (0.1, 0.99, 0.2, "text", 0.3)))
        assert [status for status, _ in answers][::2] == [200, 200, 200]
        assert answers[1][0] >= 500 and 400 <= answers[3][0] < 500
        text = stage.replica.render_metrics().decode()
        assert 'holdfast_requests_total{route="/predict",status="200"} 3.0' in text

    log = play(tmp_path, alone_only, story)
    assert sorted(r["score"] for r in log) == [0.1, 0.2, 0.3]


def test_durable_answers_come_after_the_sync_and_say_when_it_failed(tmp_path: Path) -> None:
    synced: list[int] = []

    def failing(descriptor: int) -> None:
        synced.append(descriptor)
        raise OSError(28, "No space left on device")

    async def story(stage: Stage) -> None:
        answers = await asyncio.gather(*(ask(stage, round(i / 100, 2)) for i in range(20)))
        assert {s for s, _ in answers} == {200} and synced
        assert not any(p["logged"] for _, b in answers for p in b["predictions"])
        assert b"holdfast_unlogged_total 20.0" in stage.replica.render_metrics()
        assert stage.replica.predictions.pending == 0

    stage = Stage(tmp_path, {1: first_input}, release())
    stage.replica.predictions.crowd = lambda: 64
    stage.journal.close()
    stage.journal = Journal(tmp_path, mode="durable", sync=failing)
    stage.replica.journal = stage.replica.predictions.journal = stage.journal
    stage.play(story)


def test_a_shadow_gets_every_row_of_a_group(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        answers = await asyncio.gather(*(ask(stage, round(i / 100, 2)) for i in range(50)))
        assert {s for s, _ in answers} == {200}
        while stage.journal.written < 100:
            await asyncio.sleep(0.01)

    log = play(tmp_path, first_input, story, shadow=arm(2, "c2"))
    pairs: dict[str, list[Any]] = {}
    for row in log:
        pairs.setdefault(row["id"], []).append((row["arm"], row["score"]))
    assert len(pairs) == 50
    assert all(
        sorted(a for a, _ in p) == ["champion", "shadow"] and len({s for _, s in p}) == 1 for p in pairs.values()
    )


@pytest.mark.parametrize("callers", [0, 64])
def test_alone_or_in_company_the_answer_is_the_same(tmp_path: Path, callers: int) -> None:
    async def story(stage: Stage) -> None:
        stage.replica.predictions.crowd = lambda: callers
        answers = await asyncio.gather(*(ask(stage, v, 2) for v in (0.25, 0.5)))
        bare = [[(p["id"], p["score"], p["output"], p["arm"]) for p in b["predictions"]] for _, b in answers]
        assert bare == [
            [(f"v{v}-2-{i}", v, "yes" if v >= 0.5 else "no", "champion") for i in range(2)] for v in (0.25, 0.5)
        ]

    play(tmp_path, first_input, story)
