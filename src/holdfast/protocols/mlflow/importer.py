"""Bring in what an existing MLflow server holds, through its own API: experiments, runs with full metric histories,
artifacts it serves, registered models with their versions, stages, aliases and tags.

Ids and numbers are kept. Run again, it brings in only what is new. Approvals are asked of the gate like any other.
"""

# ruff: noqa: RUF012  (msgspec copies default lists for each record)
from __future__ import annotations

import http.client
import json
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote, urlencode, urlsplit

from holdfast.core.errors import BadInput, Conflict, NotApproved, NotFound, Unavailable
from holdfast.core.ports import Progress
from holdfast.core.records import FileRef, Json, Record
from holdfast.core.tracking import Metric, RunStatus
from holdfast.protocols.mlflow.artifacts import check_path, location
from holdfast.protocols.mlflow.context import Context
from holdfast.protocols.mlflow.wire import ProtocolError, number
from holdfast.registry import foreign, pointers, versions

_BATCH = 1000


class Imported(Record, frozen=True, kw_only=True):
    """What came in, and what did not with the reason."""

    experiments: int = 0
    runs: int = 0
    metrics: int = 0
    artifacts: int = 0
    models: int = 0
    versions: int = 0
    notes: list[str] = []


class Remote:
    """Another MLflow server's API. Credentials in the URL are sent as basic authentication."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput(f"{url!r} is no server's address", hint="write it like http://127.0.0.1:5000")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=120)
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if parts.username:
            secret = b64encode(f"{parts.username}:{parts.password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {secret}"

    def call(self, method: str, path: str, body: Json | None = None, /, **query: Any) -> Json:
        """One call of the API.

        Raises:
            Unavailable: it cannot be reached, or refuses.
        """
        asked = f"{self._prefix}/api/2.0/{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
        response = self._send(method, asked, None if body is None else json.dumps(body))
        data = response.read()
        if response.status != 200:
            raise Unavailable(f"the server answered {response.status} to {path}: {data[:200].decode(errors='replace')}")
        found: Json = json.loads(data)
        return found

    def pages(self, method: str, path: str, key: str, body: Json) -> Iterator[Json]:
        """All rows of a paged search."""
        token: str | None = None
        while True:
            asked = {**body, **({"page_token": token} if token else {})}
            page = self.call(method, path, asked) if method == "POST" else self.call(method, path, **asked)
            yield from page.get(key, [])
            token = page.get("next_page_token")
            if not token:
                return

    def download(self, path: str, target: Path) -> int:
        """One artifact's bytes into a file; how many."""
        asked = f"{self._prefix}/api/2.0/mlflow-artifacts/artifacts/{quote(path)}"
        response = self._send("GET", asked, None)
        if response.status != 200:
            response.read()
            raise Unavailable(f"the server answered {response.status} to artifact {path!r}")
        size = 0
        with target.open("wb") as f:
            while piece := response.read(1 << 20):
                size += f.write(piece)
        return size

    def _send(self, method: str, path: str, body: str | None) -> http.client.HTTPResponse:
        try:
            self._connection.request(method, path, body, self._headers)
            return self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise Unavailable(f"the MLflow server cannot be reached: {error}", hint="is the address right?") from error


class Importer:
    """One import from ``remote`` into the stores of ``context``."""

    def __init__(self, context: Context, remote: Remote, *, progress: Progress) -> None:
        self.ctx = context
        self.remote = remote
        self.progress = progress
        self.counts: dict[str, int] = dict.fromkeys(
            ("experiments", "runs", "metrics", "artifacts", "models", "versions"), 0
        )
        self.notes: list[str] = []

    def run(self) -> Imported:
        """Bring everything in."""
        for kind in ("ACTIVE_ONLY", "DELETED_ONLY"):
            for found in self.remote.pages(
                "POST", "mlflow/experiments/search", "experiments", {"view_type": kind, "max_results": 1000}
            ):
                self._experiment(found)
        for found in self.remote.pages(
            "GET", "mlflow/registered-models/search", "registered_models", {"max_results": 100}
        ):
            self._model(found)
        return Imported(**self.counts, notes=self.notes)

    def _experiment(self, found: Json) -> None:
        runs, at = self.ctx.runs, int(found.get("creation_time", 0)) * 1000
        tags = {t["key"]: t.get("value", "") for t in found.get("tags", [])}
        try:
            mine = runs.get_experiment(found["experiment_id"])
            if mine.name != found["name"] and found["experiment_id"] != "0":
                self.notes.append(f"experiment {found['experiment_id']} is another one here ({mine.name!r}); left out")
                return
        except NotFound:
            try:
                runs.create_experiment(found["name"], at=at, tags=tags, experiment_id=found["experiment_id"])
            except Conflict:
                self.notes.append(f"experiment {found['name']!r} has another id here; left out")
                return
            self.counts["experiments"] += 1
        query = {"experiment_ids": [found["experiment_id"]], "run_view_type": "ALL", "max_results": 1000}
        for run in self.remote.pages("POST", "mlflow/runs/search", "runs", query):
            self._run(run)
        if found.get("lifecycle_stage") == "deleted":
            runs.update_experiment(found["experiment_id"], at=self.ctx.now(), deleted=True)

    def _run(self, found: Json) -> None:
        info, data, runs = found["info"], found.get("data", {}), self.ctx.runs
        run_id = info["run_id"]
        try:
            runs.get_run(run_id)
            return
        except NotFound:
            pass
        # All that takes the network comes first; the run then appears whole, so an import cut off starts it again.
        histories = [self._history(run_id, m["key"]) for m in data.get("metrics", [])]
        source = location(info.get("artifact_uri", ""))
        if source is None:
            self.notes.append(f"the artifacts of run {run_id} are not served by that server; left out")
        files = self._files(source) if source is not None else {}
        status: Any = info.get("status", "FINISHED")
        with runs.transaction():
            made = runs.create_run(
                info["experiment_id"],
                at=self.ctx.now(),
                run_id=run_id,
                name=info.get("run_name", ""),
                user=info.get("user_id", ""),
                started=int(info.get("start_time", 0)) * 1000,
                status=status if status in get_args(RunStatus) else "FINISHED",
                tags={t["key"]: t.get("value", "") for t in data.get("tags", [])},
            )
            runs.log_batch(run_id, params={p["key"]: p.get("value", "") for p in data.get("params", [])})
            for points in histories:
                for start in range(0, len(points), _BATCH):
                    runs.log_batch(run_id, metrics=points[start : start + _BATCH])
            ended = int(info["end_time"]) * 1000 if info.get("end_time") else None
            runs.update_run(run_id, at=self.ctx.now(), ended=ended)
            target = location(made.artifact_uri)
            for name, ref in files.items() if target is not None else ():
                runs.put_artifact(f"{target}/{name}", sha256=ref.sha256, size=ref.size, at=self.ctx.now())
            if info.get("lifecycle_stage") == "deleted":
                runs.update_run(run_id, at=self.ctx.now(), deleted=True)
        self.counts["metrics"] += sum(map(len, histories))
        self.counts["runs"] += 1
        self.progress(self.counts["runs"], None, info.get("run_name") or run_id)

    def _history(self, run_id: str, key: str) -> list[Metric]:
        points: list[Metric] = []
        query = {"run_id": run_id, "metric_key": key, "max_results": 25_000}
        for p in self.remote.pages("GET", "mlflow/metrics/get-history", "metrics", query):
            at, step = int(p.get("timestamp", 0)) * 1000, int(p.get("step", 0))
            points.append(Metric(key=key, value=number("value", p.get("value", 0.0)), at=at, step=step))
        return points

    def _files(self, root: str) -> dict[str, FileRef]:
        """Every file under an artifact path of the other server, its bytes now in our store."""
        found: dict[str, FileRef] = {}
        folders = [""]
        while folders:
            folder = folders.pop()
            inner = "/".join(p for p in (root, folder) if p)
            for entry in self.remote.call("GET", "mlflow-artifacts/artifacts", path=inner).get("files", []):
                name = "/".join(p for p in (folder, entry["path"]) if p)
                try:
                    check_path(name)
                except ProtocolError:
                    self.notes.append(f"artifact {name!r} has a name that is refused; left out")
                    continue
                if entry.get("is_dir"):
                    folders.append(name)
                    continue
                with tempfile.TemporaryDirectory() as scratch:
                    path = Path(scratch) / "bytes"
                    size = self.remote.download(f"{root}/{name}", path)
                    found[name] = FileRef(sha256=self.ctx.objects.put_file(path), size=size)
                self.counts["artifacts"] += 1
        return found

    def _model(self, found: Json) -> None:
        ledger, name, at = self.ctx.ledger, found["name"], int(found.get("creation_timestamp", 0)) * 1000
        tags = {t["key"]: t.get("value", "") for t in found.get("tags", [])}
        try:
            versions.create_model(
                ledger, name, at=at, actor=self.ctx.actor, description=found.get("description", ""), tags=tags
            )
            self.counts["models"] += 1
        except Conflict:
            pass
        quoted = name.replace("'", "''")
        query = {"filter": f"name = '{quoted}'", "max_results": 1000}
        rows = list(self.remote.pages("GET", "mlflow/model-versions/search", "model_versions", query))
        for row in sorted(rows, key=lambda r: int(r["version"])):
            self._version(name, row)
        for alias in found.get("aliases", []):
            self._approve(name, int(alias["version"]), alias=alias["alias"])

    def _version(self, name: str, row: Json) -> None:
        number_, ledger = int(row["version"]), self.ctx.ledger
        if number_ <= versions.get_model(ledger, name).last:
            return
        content = self._content(name, row)
        try:
            versions.create(
                ledger,
                name,
                number=number_,
                content=content,
                run_id=row.get("run_id") or None,
                source=row.get("source", ""),
                tags={t["key"]: t.get("value", "") for t in row.get("tags", [])},
                description=row.get("description", ""),
                at=int(row.get("creation_timestamp", 0)) * 1000,
                actor=self.ctx.actor,
            )
        except Conflict:
            return
        self.counts["versions"] += 1
        if row.get("current_stage", "None") != "None":
            self._approve(name, number_, stage=row["current_stage"])

    def _content(self, name: str, row: Json) -> str:
        asked = {"name": name, "version": row["version"]}
        uri = self.remote.call("GET", "mlflow/model-versions/get-download-uri", **asked).get("artifact_uri", "")
        if uri.startswith("models:/m-"):
            model = self.remote.call("GET", f"mlflow/logged-models/{uri.removeprefix('models:/')}")
            uri = model["model"]["info"]["artifact_uri"]
        root = location(uri)
        files = self._files(root) if root is not None else {}
        if not files:
            self.notes.append(
                f"the bytes of {name}@{row['version']} are not served by that server; only its source is kept"
            )
            return foreign.elsewhere(self.ctx.objects, row.get("source", ""))
        return foreign.pin(self.ctx.objects, files)

    def _approve(self, name: str, version: int, *, stage: str | None = None, alias: str | None = None) -> None:
        ctx, policy, reason = self.ctx, self.ctx.policy(name), "imported"
        try:
            if stage is not None:
                pointers.move_stage(
                    ctx.ledger,
                    name,
                    version,
                    stage,
                    policy=policy,
                    at=ctx.now(),
                    actor=ctx.actor,
                    reason=reason,
                    archive_existing=False,
                )
            if alias is not None:
                pointers.move_alias(
                    ctx.ledger,
                    name,
                    alias,
                    version,
                    policy=policy,
                    at=ctx.now(),
                    actor=ctx.actor,
                    reason=reason,
                    protected=ctx.protected,
                )
        except (NotApproved, Conflict, BadInput, NotFound) as error:
            self.notes.append(error.message)
