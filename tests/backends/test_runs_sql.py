"""The run store's tables as they move on, and what a search reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.protocols.mlflow.conftest import overrides as overrides  # either engine, or a skip

from holdfast.backends import runs_schema, runs_sql
from holdfast.backends.runs_sql import SqlRunStore
from holdfast.core.tracking import Clause, Metric, Order


@pytest.fixture
def url(overrides: dict[str, str], tmp_path: Path) -> str:
    return overrides.get("runs.url", f"sqlite:///{tmp_path}/runs.db")


def fill(store: SqlRunStore) -> list[str]:
    """Ten runs in experiment 0, the third of them deleted; their ids."""
    ids = [store.create_run("0", at=i, started=i).run_id for i in range(10)]
    for i, run_id in enumerate(ids):
        metrics = [Metric(key="loss", value=float(i % 5), at=i)]
        store.log_batch(run_id, metrics=metrics, params={"size": "small" if i % 2 else "large"})
    store.update_run(ids[2], at=99, deleted=True)
    return ids


def test_a_store_of_the_first_step_moves_on_and_finds_the_same(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_sql, "STEPS", runs_schema.STEPS[:1])
    store = SqlRunStore(url)
    ids = fill(store)

    def found(store: SqlRunStore) -> dict[str, list[str]]:
        views = ("active", "deleted", "all")
        return {view: [r.run_id for r in store.search_runs(["0"], view=view)[0]] for view in views}

    before = found(store)
    store.close()
    monkeypatch.undo()
    for _ in range(2):
        store = SqlRunStore(url)
        assert found(store) == before
        store.close()
    assert before["deleted"] == [ids[2]] and before["all"] == ids[::-1] and len(before["active"]) == 9


def test_a_search_reads_an_experiments_runs_from_the_index_alone(tmp_path: Path) -> None:
    store = SqlRunStore(f"sqlite:///{tmp_path}/runs.db")
    ids = fill(store)
    asked: list[tuple[str, list[object]]] = []
    execute = store._db.execute

    def watched(sql: str, parameters: list[object]) -> object:
        asked.append((sql, parameters))
        return execute(sql, parameters)

    store._db.execute = watched  # type: ignore[method-assign, assignment]
    large = Clause(kind="param", key="size", comparator="=", value="large")
    order = [Order(kind="metric", key="loss", ascending=False)]
    runs, _ = store.search_runs(["0"], where=[large], order=order, limit=3)
    assert [r.run_id for r in runs] == [ids[4], ids[8], ids[6]]
    plan = [row[3] for row in execute(f"EXPLAIN QUERY PLAN {asked[0][0]}", asked[0][1])]
    assert any("r USING COVERING INDEX runs_newest" in step for step in plan), plan
    # Its values are asked for by page, not by run.
    assert len(asked) == len({sql for sql, _ in asked}) < 10
    store.close()
