"""Applying definitions: the difference to what the ledger holds, checked, versioned, refused where it would break.

State table ``features``: ``view/<name>`` and ``service/<name>`` hold the current version, its definition, and every version
there was; a service also its read plan, which the feature server serves. State table ``live_features``: per service that
answers traffic ``{"model", "features": {view: version}}``, put there by whoever moves traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.core.definitions import Aggregation, Entity, FeatureService, FeatureView, Field, Project, Source
from holdfast.core.errors import Conflict
from holdfast.core.ports import Ledger, LedgerTransaction
from holdfast.core.records import Json
from holdfast.features import ondemand
from holdfast.features.lookup import compile_plan, plan_dtypes
from holdfast.features.windows import view_plan

TABLE = "features"
LIVE = "live_features"


def apply(ledger: Ledger, project: Project, *, at: int, actor: str) -> list[Json]:
    """Check all views and services of a project and record what changed, all or nothing.

    Returns the differences: ``{"kind", "name", "change": added|changed|removed, "before", "after", "details"}``.

    Raises:
        BadDefinition: a definition cannot work (types, on-demand functions that differ between many rows and one).
        Conflict: a feature that a live model uses would change its meaning or go away; the message names the models.
    """
    wanted = described(project)
    with ledger.transaction() as tx:
        stored = dict(tx.scan(TABLE))
        differences = compare(stored, wanted)
        live = dict(tx.scan(LIVE))
        _refuse_breaking(stored, wanted, differences, live)
        for difference in differences:
            key = f"{difference['kind']}/{difference['name']}"
            _store(tx, key, stored.get(key), wanted.get(key), at)
            body = {k: difference[k] for k in ("change", "before", "after")}
            tx.append(f"features.{difference['change']}", subject=key, body=body, at=at, actor=actor)
    return differences


def preview(ledger: Ledger, project: Project) -> list[Json]:
    """The differences ``apply`` would record now; nothing is recorded.

    Raises:
        As ``apply``.
    """
    wanted = described(project)
    stored = dict(ledger.scan(TABLE))
    differences = compare(stored, wanted)
    _refuse_breaking(stored, wanted, differences, dict(ledger.scan(LIVE)))
    return differences


def described(project: Project) -> dict[str, Json]:
    """Every view and service as it would be stored, checked.

    Raises:
        BadDefinition: a definition cannot work.
    """
    out: dict[str, Json] = {}
    services = list(project.feature_services.values())
    views = {**{v.name: v for s in services for v in s.views}, **project.views}
    for view in views.values():
        plan = view_plan(view)
        used = [s.name for s in services if any(v.name == view.name for v in s.views)]
        out[f"view/{view.name}"] = {
            "version": view.version, "spec": view.spec(), "columns": plan["columns"], "owner": view.owner,
            "description": view.description, "tags": dict(view.tags), "used_by": used, "source": view.source.name,
            "schedule": None if view.materialize is None else f"{view.materialize} {view.zone}", "fresh": view.fresh,
            "features": {f.name if isinstance(f, Field) else (f.name or f.column): f.description if isinstance(f, Field) else "" for f in view.features},
        }  # fmt: skip
    for service in services:
        _check_functions(service)
        out[f"service/{service.name}"] = {
            "version": service.version, "spec": service.spec(), "columns": service.columns(), "owner": service.owner,
            "description": service.description, "views": {v.name: v.version for v in service.views},
            "used_by": [m.name for m in project.models.values() if m.features is not None and m.features.name == service.name],
            "plan": compile_plan(service),
        }  # fmt: skip
    return out


def _check_functions(service: FeatureService) -> None:
    views = [view_plan(v) for v in service.views]
    key_types: dict[str, str] = {}
    for view in views:
        key_types.update(view["key_types"])
    shipped = [ondemand.compile_source(f) for f in service.on_demand]
    dtypes = plan_dtypes(views, shipped, service.request, key_types)
    for feature in service.on_demand:
        ondemand.check_same(feature, dtypes)


def compare(stored: Mapping[str, Json], wanted: Mapping[str, Json]) -> list[Json]:
    """What is added, changed, removed, in order of kind and name. Words (owner, description) count as a change too."""
    out: list[Json] = []
    for key in sorted({*stored, *wanted}):
        kind, name = key.split("/", 1)
        old, new = stored.get(key), wanted.get(key)
        if old is not None and old.get("removed"):
            old = None
        before, after = (old or {}).get("version"), (new or {}).get("version")
        if old is None and new is None:
            continue
        if old is not None and new is not None and all(old.get(k) == new[k] for k in new):
            continue
        change = "added" if old is None else "removed" if new is None else "changed"
        details = _details(old, new) if old and new else []
        out.append({"kind": kind, "name": name, "change": change, "before": before, "after": after, "details": details})
    return out


def _details(old: Json, new: Json) -> list[str]:
    out = []
    before, after = dict(map(tuple, _columns(old))), dict(map(tuple, _columns(new)))
    out += [f"+ {c}" for c in after if c not in before]
    out += [f"- {c}" for c in before if c not in after]
    meanings_before, meanings_after = meanings(old["spec"]), meanings(new["spec"])
    out += [f"~ {c}" for c in after if c in before and meanings_before.get(c) != meanings_after.get(c)]
    out += [
        f"~ {word}"
        for word in ("owner", "description", "tags", "used_by", "schedule", "fresh")
        if old.get(word) != new.get(word)
    ]
    return out


def _columns(stored: Json) -> list[Any]:
    return [c if isinstance(c, list | tuple) else (c, "") for c in stored["columns"]]


def meanings(spec: Json) -> dict[str, Any]:
    """Per feature column everything its values depend on; empty for services."""
    if spec["kind"] != "feature view":
        return {}
    view = from_spec(spec)
    source = {k: v for k, v in spec["source"].items() if k not in ("path", "url", "query")}
    shared = [spec["entities"], source, spec.get("keys", {})]
    out: dict[str, Any] = {}
    for feature in view.features:
        if isinstance(feature, Field):
            out[f"{view.name}__{feature.name}"] = [*shared, feature.dtype, feature.source_column, view.ttl]
        else:
            for name, function, window in feature.features():
                out[f"{view.name}__{name}"] = [*shared, feature.column, feature.where, function, window]
    return out


def _refuse_breaking(
    stored: Mapping[str, Json], wanted: Mapping[str, Json], differences: list[Json], live: Mapping[str, Json]
) -> None:
    for difference in differences:
        if difference["kind"] != "view" or difference["change"] == "added":
            continue
        name = difference["name"]
        users = sorted(
            {str(uses.get("model", service)) for service, uses in live.items() if name in uses.get("features", {})}
        )
        if not users:
            continue
        old, new = stored[f"view/{name}"], wanted.get(f"view/{name}")
        before = meanings(old["spec"])
        after = meanings(new["spec"]) if new else {}
        broken = [c for c in before if after.get(c) != before[c]]
        if broken:
            shown = ", ".join(broken[:4]) + (", …" if len(broken) > 4 else "")
            raise Conflict(
                f"{shown} would change, and {', '.join(users)} is live with it",
                hint=f"leave {name!r} as it is and add a view beside it (like {name}_v2); remove the old one when no live model uses it",
            )


def _store(tx: LedgerTransaction, key: str, old: Json | None, new: Json | None, at: int) -> None:
    versions = list((old or {}).get("versions", []))
    if new is None:
        tx.put(TABLE, key, {**(old or {}), "removed": True})
        return
    if all(v["version"] != new["version"] for v in versions):
        versions.append({"version": new["version"], "at": at, "spec": new["spec"]})
    tx.put(TABLE, key, {**new, "versions": versions})


def catalogue(ledger: Ledger, words: str = "") -> list[Json]:
    """What is applied, with owners, descriptions and users; ``words`` keeps what mentions all of them."""
    out = []
    live = ledger.scan(LIVE)
    for key, stored in ledger.scan(TABLE):
        if stored.get("removed"):
            continue
        kind, name = key.split("/", 1)
        users = (
            [str(uses.get("model", service)) for service, uses in live if name in uses.get("features", {})]
            if kind == "view"
            else []
        )
        entry = {
            "kind": kind,
            "name": name,
            **{k: stored.get(k) for k in ("version", "owner", "description", "columns", "used_by", "spec", "schedule")},
            "live": sorted(set(users)),
        }
        entry["versions"] = [v["version"] for v in stored.get("versions", [])]
        haystack = " ".join(
            map(
                str,
                (
                    name,
                    stored.get("owner"),
                    stored.get("description"),
                    stored.get("tags"),
                    stored.get("columns"),
                    stored.get("features"),
                ),
            )
        ).lower()
        if all(w in haystack for w in words.lower().split()):
            out.append(entry)
    return out


def live_views(ledger: Ledger, current: Mapping[str, FeatureView]) -> list[FeatureView]:
    """The current views and, beside them, the older versions that live models pin."""
    out = list(current.values())
    versions = {v.version for v in out}
    for _, uses in ledger.scan(LIVE):
        for name, version in uses.get("features", {}).items():
            if version in versions:
                continue
            stored = ledger.get(TABLE, f"view/{name}") or {}
            for known in stored.get("versions", []):
                if known["version"] == version:
                    out.append(from_spec(known["spec"]))
                    versions.add(version)
    return out


def from_spec(spec: Json) -> FeatureView:
    """The view a stored definition describes; its version is the stored one."""
    source = spec["source"]
    features: list[Field | Aggregation] = []
    for f in spec["features"]:
        if f["kind"] == "field":
            features.append(Field(f["name"], f["dtype"], f["column"]))
        else:
            features.append(Aggregation(f["column"], f["functions"], f["windows"], f["where"], f["name"]))
    return FeatureView(
        spec["name"],
        [Entity(e["name"], e["join_keys"]) for e in spec["entities"]],
        Source(
            source["name"], source["path"], source["timestamp"], source["arrival"], source["sequence"], source["schema"],
            source["url"], source["query"],
        ),
        features,
        spec["ttl"],
        keys=spec.get("keys", {}),
    )  # fmt: skip
