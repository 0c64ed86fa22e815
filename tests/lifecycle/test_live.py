"""What is in use: every arm that answers and the way back; apply refuses to break any of it and names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.core.identity import to_us
from holdfast.core.records import Arm, FileRef, Package, Release
from holdfast.features import view as views
from holdfast.features.lookup import Lookup, compile_plan
from holdfast.features.push import Pusher
from holdfast.lifecycle import ingest, live, release
from holdfast.registry import package
from holdfast.workspace import Workspace

from .project import holdfast

NOW = to_us("2024-03-01T12:00:00Z")
DEFINITIONS = """
import holdfast as hf
events = hf.Source("events", "data/events.parquet", timestamp="at", schema={"k": int, "x": float})
view = hf.FeatureView("view", [hf.Entity("k")], events, [hf.Field("x", FIELD), hf.Aggregation("x", ["count"], ["WINDOW"])],
    owner="ops", description="what happened")
plain = hf.FeatureService("plain", [view])

@hf.model("m", features=plain)
def train(data, params):
    return None
"""


def define(root: Path, *, window: str = "1d", field: str = "float") -> None:
    (root / "definitions.py").write_text(DEFINITIONS.replace("WINDOW", window).replace("FIELD", field))


def packed(ws: Workspace, name: str) -> str:
    """A package of what is defined now."""
    service = ws.project().feature_services["plain"]
    blob = ws.objects.put(name.encode())
    about = Package(
        name="m", format="onnx", task="binary", model_file="m.onnx", request=[], outputs=[], inputs=[], plan=compile_plan(service),
        features={v.name: v.version for v in service.views}, files={"m.onnx": FileRef(sha256=blob, size=1)},
    )  # fmt: skip
    return package.store(ws.objects, about)


def publish(ws: Workspace, sequence: int, **arms: Arm) -> None:
    now = Release(service="shop", model="m", environment="production", sequence=sequence, champion=None)
    now = msgspec.structs.replace(now, **arms)
    with ws.ledger.transaction() as tx:
        tx.put(release.RELEASES, "shop/production", msgspec.to_builtins(now))
        tx.append("release", subject="shop", body={"release": msgspec.to_builtins(now)}, at=NOW, actor="t")


def models(ws: Workspace) -> set[str]:
    return {uses["model"] for uses in live.refresh(ws).values()}


def test_every_arm_and_the_way_back_are_in_use(tmp_path: Path) -> None:
    define(tmp_path)
    with Workspace.open(tmp_path) as ws:
        one = Arm(version=1, content=packed(ws, "one"))
        define(tmp_path, window="2d")
        two = Arm(version=2, content=packed(ws, "two"))
        define(tmp_path, window="3d")
        three = Arm(version=3, content=packed(ws, "three"))
        publish(ws, 1, champion=one)
        assert models(ws) == {"m@1"}
        publish(ws, 2, champion=one, challenger=two, shadow=three)
        assert models(ws) == {"m@1", "m@2", "m@3"}
        publish(ws, 3, champion=two)
        assert models(ws) == {"m@1", "m@2"}  # one rollback away
        publish(ws, 4, champion=one)
        assert models(ws) == {"m@1", "m@2"}


def test_apply_refuses_to_break_what_an_arm_uses_and_names_the_models(tmp_path: Path) -> None:
    define(tmp_path)
    holdfast(tmp_path, "features", "apply")
    with Workspace.open(tmp_path) as ws:
        publish(
            ws,
            1,
            champion=Arm(version=1, content=packed(ws, "one")),
            challenger=Arm(version=4, content=packed(ws, "four")),
        )
    define(tmp_path, field="str")
    refused = holdfast(tmp_path, "features", "apply", check=False)
    assert refused.returncode == 1 and "view__x would change" in refused.stderr and "m@1, m@4 is live" in refused.stderr
    define(tmp_path, window="1d")
    wider = (tmp_path / "definitions.py").read_text().replace('["1d"]', '["1d", "7d"]')
    (tmp_path / "definitions.py").write_text(wider)
    assert "+ view__x_count_7d" in holdfast(tmp_path, "features", "apply").stdout  # more beside it is no break
    shown = holdfast(tmp_path, "features", "show", "view").stdout
    assert "m@1, m@4" in shown and "ops" in shown and "what happened" in shown and "view__x_count_7d" in shown
    assert "view" in holdfast(tmp_path, "features", "search", "happened", "ops").stdout
    assert "nothing found" in holdfast(tmp_path, "features", "search", "happened", "nobody").stderr


def test_versions_are_online_side_by_side(tmp_path: Path) -> None:
    """A push reaches the version that a live model pins and the one that is defined now."""
    define(tmp_path)
    holdfast(tmp_path, "features", "apply")
    with Workspace.open(tmp_path) as ws:
        old = compile_plan(ws.project().feature_services["plain"])
        publish(ws, 1, champion=Arm(version=1, content=packed(ws, "one")))
        wider = (tmp_path / "definitions.py").read_text().replace('["1d"]', '["1d", "7d"]')
        (tmp_path / "definitions.py").write_text(wider)
    holdfast(tmp_path, "features", "apply")
    with Workspace.open(tmp_path) as ws:
        live.refresh(ws)
        project = ws.project()
        new = compile_plan(project.feature_services["plain"])
        assert old["views"][0]["version"] != new["views"][0]["version"]
        with Pusher(ws.home, ws.online, views.live_views(ws.ledger, project.views)) as pusher:
            day = 86_400_000_000
            rows: list[dict[str, Any]] = [{"k": 1, "at": NOW - 2 * day, "x": 1.0}, {"k": 1, "at": NOW - 5, "x": 2.0}]
            pusher.push("events", rows, arrived=NOW)
        assert Lookup(old, ws.online).rows([{"k": 1}], at=[NOW]) == [{"view__x": 2.0, "view__x_count_1d": 1}]
        assert Lookup(new, ws.online).rows([{"k": 1}], at=[NOW]) == [
            {"view__x": 2.0, "view__x_count_1d": 1, "view__x_count_7d": 2}
        ]


def test_files_reach_the_version_a_live_model_pins(tmp_path: Path) -> None:
    """What a schedule or ``features materialize`` brings online is there for the live model too, not only for the newest
    definition."""
    define(tmp_path)
    holdfast(tmp_path, "features", "apply")
    (tmp_path / "data").mkdir(exist_ok=True)
    with Workspace.open(tmp_path) as ws:
        old = compile_plan(ws.project().feature_services["plain"])
        publish(ws, 1, champion=Arm(version=1, content=packed(ws, "one")))
        live.refresh(ws)
    wider = (tmp_path / "definitions.py").read_text().replace('["1d"]', '["1d", "7d"]')
    (tmp_path / "definitions.py").write_text(wider)
    holdfast(tmp_path, "features", "apply")
    at = pa.array([NOW - 9, NOW - 5]).cast(pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"k": [1, 1], "at": at, "x": [1.0, 2.0]}), tmp_path / "data" / "events.parquet")
    with Workspace.open(tmp_path) as ws:
        new = compile_plan(ws.project().feature_services["plain"])
        found = ingest.materialize(ws, start=None, end=NOW)
        assert [f["version"] for f in found] == [p["views"][0]["version"] for p in (new, old)]
        assert Lookup(old, ws.online).rows([{"k": 1}], at=[NOW]) == [{"view__x": 2.0, "view__x_count_1d": 2}]
        assert Lookup(new, ws.online).rows([{"k": 1}], at=[NOW])[0]["view__x_count_7d"] == 2
