"""Runs in a Python that has Feast, as a script: what a Feast repository defines, as JSON. It imports nothing of Holdfast.

    python read_repository.py REPOSITORY ANSWER

ANSWER gets ``{"feast", "entities", "sources", "views", "on_demand", "services", "others"}`` or ``{"error": [kind, text]}``.
The repository's own modules are run, as ``feast apply`` runs them.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

os.environ.setdefault("FEAST_USAGE", "False")


def main(repository: str, answer: str) -> None:
    """Write the answer; an error is an answer too."""
    found: dict[str, Any]
    try:
        import feast  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        found = {"error": ["no feast", str(error)]}
    else:
        try:
            found = read(Path(repository).resolve(), str(feast.__version__))
        except BaseException as error:  # noqa: BLE001 - a repository may do anything, sys.exit included
            root = str(Path(repository).resolve())
            lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(root)]
            where = f"{Path(lines[-1].filename).name}:{lines[-1].lineno}: " if lines else ""
            found = {"error": ["broken", f"{where}{type(error).__name__}: {error}"]}
    Path(answer).write_text(json.dumps(found, default=str), encoding="utf-8")


def read(root: Path, version: str) -> dict[str, Any]:
    """Everything the repository defines."""
    from feast.repo_operations import parse_repo  # type: ignore[import-not-found,unused-ignore]

    os.chdir(root)
    sys.path.insert(0, str(root))
    contents = parse_repo(root)
    applied = _applied(root)
    sources: dict[str, Any] = {}
    views = [_view(v, sources, applied) for v in contents.feature_views]
    views += [{**_view(v, sources, applied), "stream": True} for v in contents.stream_feature_views]
    for source in contents.data_sources:
        _source(source, sources)
    return {
        "feast": version,
        "entities": [
            {"name": e.name, "join_key": e.join_key, "description": e.description or ""} for e in contents.entities
        ],
        "sources": sources,
        "views": views,
        "on_demand": [_on_demand(v) for v in contents.on_demand_feature_views],
        "services": [_service(s) for s in contents.feature_services],
        "others": [f"{type(x).__name__} {x.name}" for part in ("label_views", "permissions") for x in getattr(contents, part, [])],
    }  # fmt: skip


def _applied(root: Path) -> dict[str, Any]:
    """The views as the registry knows them, whose types Feast has inferred; empty where nothing was applied."""
    try:
        from feast import FeatureStore  # type: ignore[import-not-found,unused-ignore]

        store = FeatureStore(repo_path=str(root))
        return {v.name: v for v in store.list_feature_views()}
    except Exception:  # noqa: BLE001 - no registry, no access to it: the definitions must say it all
        return {}


def _source(source: Any, into: dict[str, Any]) -> str | None:
    if source is None:
        return None
    kind, batch = type(source).__name__, getattr(source, "batch_source", None)
    if batch is not None:
        name = _source(batch, into)
        if name is not None:
            into[name].setdefault("fed_by", []).append([kind, source.name])
        return name
    options = getattr(source, "file_options", None)
    form = type(getattr(options, "file_format", None)).__name__ if options is not None else ""
    entry = {
        "kind": kind, "name": source.name or getattr(source, "path", ""), "timestamp": source.timestamp_field or None,
        "created": source.created_timestamp_column or None, "mapping": dict(source.field_mapping or {}),
        "path": getattr(source, "path", None), "format": form, "description": source.description or "",
        "owner": source.owner or "", "query": _query(source), "fed_by": [],
    }  # fmt: skip
    into.setdefault(entry["name"], entry)
    return str(entry["name"])


def _query(source: Any) -> str | None:
    """What a source reads from a database, where it says so."""
    try:
        return str(source.get_table_query_string())
    except Exception:  # noqa: BLE001 - not every source has one
        return None


def _fields(fields: Any) -> list[list[str]]:
    return [[f.name, str(f.dtype), f.description or ""] for f in fields]


def _view(view: Any, sources: dict[str, Any], applied: dict[str, Any]) -> dict[str, Any]:
    features = view.features or (applied[view.name].features if view.name in applied else [])
    upstream = getattr(view, "source_views", None) or []
    transformation = getattr(view, "feature_transformation", None)
    return {
        "name": view.name, "entities": [e for e in view.entities if e != "__dummy"], "fields": _fields(features),
        "ttl": None if not view.ttl else view.ttl.total_seconds(), "source": _source(view.batch_source, sources) if not upstream else None,
        "stream_source": type(view.stream_source).__name__ if getattr(view, "stream_source", None) is not None else None,
        "views": [v.name for v in upstream], "aggregations": [str(a) for a in getattr(view, "aggregations", None) or []],
        "transformation": getattr(transformation, "udf_string", "") or "", "transformed": transformation is not None,
        "description": view.description or "", "owner": view.owner or "", "tags": dict(view.tags or {}), "stream": False,
    }  # fmt: skip


def _on_demand(view: Any) -> dict[str, Any]:
    transformation = view.feature_transformation
    requests = getattr(view, "source_request_sources", {}) or {}
    return {
        "name": view.name, "fields": _fields(view.features), "mode": str(view.mode), "description": view.description or "",
        "source": getattr(transformation, "udf_string", "") or "",
        "request": [f for r in requests.values() for f in _fields(r.schema)],
        "views": sorted(getattr(view, "source_feature_view_projections", {}) or {}),
    }  # fmt: skip


def _service(service: Any) -> dict[str, Any]:
    return {
        "name": service.name, "description": service.description or "", "owner": service.owner or "",
        "features": [
            {"view": p.name, "alias": p.name_alias, "keys": dict(p.join_key_map or {}), "fields": [f.name for f in p.features],
             "wanted": list(p.desired_features or [])}
            for p in service.feature_view_projections
        ],
    }  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
