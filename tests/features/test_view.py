"""Applying definitions: differences, versions, and what is refused because a live model uses it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from holdfast.backends.ledger_sql import SqlLedger
from holdfast.core import definitions as d
from holdfast.core.errors import BadDefinition, Conflict
from holdfast.features import ondemand, view

trips = d.Source("trips", "trips.parquet", timestamp="at")
driver = d.Entity("driver", ["driver_id"])
FACTOR = 2.5
LIMITS = {"low": 1.0, "high": float("inf")}


def helper(x: Any) -> Any:
    return np.minimum(x * FACTOR, LIMITS["high"])


def scaled(amount: Any, activity__fare_mean_1h: Any) -> Any:
    return helper(amount) / activity__fare_mean_1h


def centred(amount: Any) -> Any:
    return amount - np.nanmean(amount)


def lucky(amount: Any) -> Any:
    return amount * random.random()


def activity(windows: list[str], ttl: str | None = None, **more: Any) -> d.FeatureView:
    return d.FeatureView(
        "activity", [driver], trips, [d.Aggregation("fare", ["mean"], windows), d.Field("city", str)], ttl, **more
    )


def project(v: d.FeatureView, *functions: Any) -> d.Project:
    service = d.FeatureService("fares", [v, *(d.on_demand(f) for f in functions)], request={"amount": float})
    return d.Project([service])


@pytest.fixture
def ledger(tmp_path: Any) -> Any:
    store = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    yield store
    store.close()


def apply(ledger: Any, p: d.Project) -> list[tuple[str, str]]:
    return [(f["change"], f"{f['kind']} {f['name']}") for f in view.apply(ledger, p, at=1, actor="me")]


def test_added_changed_removed_and_nothing(ledger: Any) -> None:
    first = activity(["1h"])
    assert apply(ledger, project(first, scaled)) == [("added", "service fares"), ("added", "view activity")]
    assert apply(ledger, project(first, scaled)) == []
    wider = activity(["1h", "1d"])
    found = view.apply(ledger, project(wider, scaled), at=2, actor="me")
    assert [f["change"] for f in found] == ["changed", "changed"]
    assert found[1]["details"] == ["+ activity__fare_mean_1d"]
    assert apply(ledger, d.Project([])) == [("removed", "service fares"), ("removed", "view activity")]
    assert apply(ledger, project(wider, scaled)) == [("added", "service fares"), ("added", "view activity")]
    entry = next(e for e in view.catalogue(ledger) if e["kind"] == "view")
    assert entry["versions"] == [first.version, wider.version] and entry["used_by"] == ["fares"]
    assert len(ledger.query(kind="features.*")) == 8


def test_a_preview_records_nothing(ledger: Any) -> None:
    first = project(activity(["1h"]), scaled)
    wanted = [("added", "service fares"), ("added", "view activity")]
    for _ in range(2):
        assert [(f["change"], f"{f['kind']} {f['name']}") for f in view.preview(ledger, first)] == wanted
    assert ledger.scan(view.TABLE) == [] and ledger.query(kind="features.*") == []
    assert apply(ledger, first) == wanted and view.preview(ledger, first) == []
    with ledger.transaction() as tx:
        tx.put(view.LIVE, "shop", {"model": "m@1", "features": {"activity": activity(["1h"]).version}})
    with pytest.raises(Conflict, match="m@1"):
        view.preview(ledger, project(activity(["1d"])))


@pytest.mark.parametrize(
    "changed", [activity(["1d"]), activity(["1h"], ttl="1d"), d.FeatureView("activity", [d.Entity("driver", ["id"])], trips, activity(["1h"]).features)]
)  # fmt: skip
def test_a_breaking_change_of_a_live_feature_is_refused_and_names_the_model(
    ledger: Any, changed: d.FeatureView
) -> None:
    first = activity(["1h"])
    apply(ledger, project(first))
    with ledger.transaction() as tx:
        tx.put("live_features", "fraud", {"model": "fraud_detection@3", "features": {"activity": first.version}})
    with pytest.raises(Conflict, match="fraud_detection@3") as caught:
        apply(ledger, project(changed))
    assert "beside" in (caught.value.hint or "")
    with pytest.raises(Conflict):
        apply(ledger, d.Project([]))
    assert apply(ledger, project(activity(["1h", "1d"], owner="me"))) == [
        ("changed", "service fares"),
        ("changed", "view activity"),
    ]
    pinned = view.live_views(ledger, {"activity": activity(["1h", "1d"])})
    assert [v.version for v in pinned] == [activity(["1h", "1d"]).version, first.version]


def test_a_stored_definition_is_the_same_view() -> None:
    v = d.FeatureView(
        "v", [driver, d.Entity("b")], d.Source("s", "s.csv", timestamp="t", arrival="a", sequence="q", schema={"x": int}),
        [d.Aggregation("x", ["sum", "std"], ["90m"], where="x > 0", name="pos"), d.Field("y", bool, column="z")], "36h",
        keys={"b": "x % 7"},
    )  # fmt: skip
    again = view.from_spec(v.spec())
    assert again.version == v.version and again.keys == {"b": "x % 7"}


def test_another_expression_for_a_key_is_another_meaning(ledger: Any) -> None:
    def fares(sql: str) -> d.Project:
        made = d.FeatureView("fares", [d.Entity("route")], trips, [d.Field("city", str)], keys={"route": sql})
        return d.Project([made, d.FeatureService("by_route", [made])])

    apply(ledger, fares("lower(city)"))
    with ledger.transaction() as tx:
        tx.put("live_features", "fraud", {"model": "fraud@1", "features": {"fares": "v"}})
    with pytest.raises(Conflict, match="fraud@1"):
        apply(ledger, fares("upper(city)"))


@pytest.mark.parametrize(
    ("keys", "says"), [({"rout": "city"}, "none of its join keys"), ({"route": " "}, "expression"), ({"route": 7}, "7")]
)
def test_expressions_for_keys_that_are_none(keys: Any, says: str) -> None:
    with pytest.raises(BadDefinition, match=says):
        d.FeatureView("fares", [d.Entity("route")], trips, [d.Field("city", str)], keys=keys)


def test_functions_whose_rows_depend_on_each_other_or_on_chance_are_refused(ledger: Any) -> None:
    for function in (centred, lucky):
        with pytest.raises(BadDefinition, match=function.__name__):
            apply(ledger, project(activity(["1h"]), function))


def test_a_shipped_function_needs_nothing_of_its_module() -> None:
    shipped = ondemand.compile_source(d.on_demand(scaled))
    run = ondemand.Function(shipped)
    got = run({"amount": np.array([2.0, np.nan]), "activity__fare_mean_1h": np.array([5.0, 1.0])}, 2)
    assert got[0] == 1.0 and np.isnan(got[1])
    assert "tests." not in shipped["source"]


def test_functions_that_cannot_travel_are_named() -> None:
    def outer(factor: float) -> Any:
        def inner(amount: Any) -> Any:
            return amount * factor

        return inner

    with pytest.raises(BadDefinition, match="closure"):
        ondemand.compile_source(d.on_demand(outer(2.0)))
    with pytest.raises(BadDefinition, match="trips"):
        ondemand.compile_source(d.on_demand(uses_a_source))


def uses_a_source(amount: Any) -> Any:
    return amount * len(trips.name)


def test_text_cannot_be_summed() -> None:
    source = d.Source("s", "s.csv", timestamp="t", schema={"city": str})
    v = d.FeatureView("v", [driver], source, [d.Aggregation("city", ["sum"], ["1h"])])
    with pytest.raises(BadDefinition, match="sum of 'city'"):
        view.view_plan(v)
