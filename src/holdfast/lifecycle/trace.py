"""From one prediction back to data bytes and git commit: a walk along one chain of records, each naming the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.core.errors import NotFound
from holdfast.core.records import Json
from holdfast.lifecycle import build, loop, release

if TYPE_CHECKING:
    from holdfast.workspace import Workspace


def prediction(ws: Workspace, name: str) -> Json:
    """Everything a prediction rests on: the answer, release, version, verdict, run, training set, feature view versions,
    dataset hashes, git commit, and its label where it is known.

    Raises:
        NotFound: no log of this workspace has a prediction of this id.
    """
    from holdfast.monitoring.labels import LabelStore
    from holdfast.registry import versions
    from holdfast.serving import journal

    row = None
    for folder in sorted((ws.home / "predictions").glob("*")):
        table = journal.read(folder, since=None, until=None, environment=None, ids=[name])
        if table.num_rows:
            row = table.slice(0, 1).to_pylist()[0]
            break
    if row is None:
        raise NotFound(f"no prediction {name!r} in the log", hint="its id is in the answer of POST /predict")
    service = str(row["service"])
    history = release.history(ws.ledger, service, str(row["environment"]))
    served = [r for r in history if _arms(r, int(row["version"])) and r.at <= int(row["request_time"])]
    live = served[-1] if served else next((r for r in history if _arms(r, int(row["version"]))), None)
    model = live.model if live else service
    version = versions.get(ws.ledger, model, int(row["version"]))
    verdict = versions.verdict(ws.ledger, model, version.version)
    out: Json = {
        "prediction": {
            "id": row["id"],
            "service": service,
            "request_time": row["request_time"],
            "score": row["score"],
            "output": row["output"],
            "arm": row["arm"],
            "replica": row.get("replica"),
            "inputs": _prefixed(row, "inputs."),
            "features": _prefixed(row, "features."),
        },
        "release": {"sequence": live.sequence, "reason": live.reason, "at": live.at} if live else None,
        "version": {
            "name": model,
            "version": version.version,
            "content": version.content,
            "stage": version.stage,
            "source": version.source,
        },
        "verdict": {"outcome": verdict.outcome, "at": verdict.at, "evidence": verdict.evidence} if verdict else None,
    }
    truth = LabelStore(ws.home / "labels" / service).read()
    if truth.num_rows:
        import pyarrow.compute as pc

        known = truth.filter(pc.equal(truth["prediction_id"], name)).to_pylist()
        out["label"] = {"value": known[-1]["value"], "at": known[-1]["at"]} if known else None
    if version.run_id:
        out |= run_of(ws, version.run_id)
    if version.training_set:
        record = build.training_set(ws.ledger, version.training_set)
        out["training_set"] = {
            "digest": record.digest,
            "content": record.content,
            "rows": record.rows,
            "start": record.start,
            "end": record.end,
        }
        out["features"] = record.features
        out["datasets"] = _datasets(ws, record.datasets)
    return out


def run_of(ws: Workspace, run_id: str) -> Json:
    """The run a version came from, and its commit; of a run that an MLflow client logged what the client said of it."""
    from holdfast.training import runs

    try:
        tags = ws.runs.get_run(run_id).tags
    except NotFound:
        return {"run": {"id": run_id, "here": False}}
    run = runs.get(ws.runs, run_id)
    told = {"id": run.run_id, "here": True, "params": run.params, "seed": run.seed, "environment": run.environment}
    commit = run.code.get("commit") or tags.get("mlflow.source.git.commit")
    return {"run": told, "commit": {"hash": commit, "dirty": run.code.get("dirty")}}


def _datasets(ws: Workspace, hashes: dict[str, str]) -> dict[str, Json]:
    """Per source its version as the ledger admitted it: SHA-256, DVC's md5, size, files."""
    found: dict[str, Json] = {name: {"sha256": sha256} for name, sha256 in hashes.items()}
    for entry in ws.ledger.query(kind="dataset.admitted", limit=100_000):
        name = entry.subject
        inner = entry.body.get("version")
        version: Json = inner if isinstance(inner, dict) else entry.body
        if name in found and version.get("sha256") == hashes[name]:
            found[name] |= {k: version[k] for k in ("md5", "size", "files", "rows") if version.get(k) is not None}
            found[name]["admitted"] = entry.at
    return found


def _arms(candidate_release: Any, version: int) -> bool:
    arms = (candidate_release.champion, candidate_release.challenger, candidate_release.shadow)
    return any(arm is not None and arm.version == version for arm in arms)


def _prefixed(row: Json, prefix: str) -> Json:
    return {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix) and v is not None}


def cycle(ws: Workspace, name: str) -> Json:
    """Why a cycle ran, what each step came to, how it ended."""
    found = loop.find_cycle(ws.ledger, name)
    steps = {}
    for key, outcome in ws.ledger.scan("steps", prefix=f"cycle/{found.id}/"):
        steps[key.rpartition("/")[2]] = {k: v for k, v in outcome.items() if isinstance(v, str | int | float | bool)}
    moves = ws.ledger.query(kind="rollout.moved", subject=found.service, since=found.started, limit=100_000)
    history = [{k: v for k, v in e.body.items() if k != "id"} for e in moves if e.body["id"] == found.id]
    return {"cycle": msgspec.to_builtins(found), "steps": steps, "rollout": {"history": history} if history else None}
