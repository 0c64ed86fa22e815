"""`holdfast features rebuild`: the online store is a cache; emptied, it comes back the same from files and journal."""

from __future__ import annotations

import json
from pathlib import Path

from holdfast.features.lookup import Lookup, compile_plan
from holdfast.workspace import Workspace

from .project import NOW, holdfast, make


def rows(root: Path) -> list[dict]:
    with Workspace.open(root) as ws:
        plan = compile_plan(ws.project().feature_services["churn_features"])
        return Lookup(plan, ws.online).rows([{"customer_id": k, "amount": 10.0} for k in range(1, 60)], at=[NOW] * 59)


def test_an_emptied_store_comes_back_the_same(tmp_path: Path) -> None:
    root = make(tmp_path / "churn")
    holdfast(root, "features", "apply")
    holdfast(root, "features", "materialize")
    pushed = {
        "event_id": 99_001,
        "customer_id": 7,
        "happened_at": "2026-02-19T23:00:00Z",
        "known_at": "2026-02-19T23:01:00Z",
        "amount": 5.0,
        "label": 0,
    }
    (root / "more.jsonl").write_text(json.dumps(pushed) + "\n")
    holdfast(root, "features", "push", "events", "more.jsonl")
    before = rows(root)
    assert any(row["activity__amount_count_7d"] for row in before)
    with Workspace.open(root) as ws:
        ws.online.clear()
    assert rows(root) != before
    said = json.loads(holdfast(root, "features", "rebuild", "--json").stdout)
    assert said == {"views": 1, "pushes": 1}
    assert rows(root) == before


def test_a_store_that_a_power_cut_tore_is_found_and_filled_again(tmp_path: Path) -> None:
    """The feature server does at its start what ``features rebuild`` does; the journal is the truth for what was pushed."""
    from holdfast.server import featureserver

    root = make(tmp_path / "churn")
    holdfast(root, "features", "materialize")
    pushed = {
        "event_id": 99_001,
        "customer_id": 7,
        "happened_at": "2026-02-19T23:00:00Z",
        "known_at": "2026-02-19T23:01:00Z",
        "amount": 5.0,
        "label": 0,
    }
    (root / "more.jsonl").write_text(json.dumps(pushed) + "\n")
    holdfast(root, "features", "push", "events", "more.jsonl")
    before = rows(root)
    with Workspace.open(root) as ws:
        assert featureserver.mend(ws) is None
        store = ws.online.path  # type: ignore[attr-defined]
    size = (store / "data.mdb").stat().st_size
    with (store / "data.mdb").open("r+b") as f:
        f.truncate(3 * 4096)
        f.truncate(size)
    (store / "unsynced").mkdir(exist_ok=True)
    (store / "unsynced" / "1-1").write_text("an earlier boot")
    with Workspace.open(root) as ws:
        assert featureserver.mend(ws) == {"views": 1, "pushes": 1}
        assert featureserver.mend(ws) is None
    assert rows(root) == before
