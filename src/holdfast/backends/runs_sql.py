"""The run store on SQLite (WAL) or PostgreSQL. Metric points are clustered by series; everything is written by plain
parameterised statements. Speed matters here: a run's every metric passes through ``log_batch``."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from holdfast.backends.runs_artifacts import ArtifactTables
from holdfast.backends.runs_experiments import VIEWS, ExperimentTables, experiment_number, no_experiment
from holdfast.backends.runs_models import ModelTables
from holdfast.backends.runs_schema import STEPS
from holdfast.backends.runs_search import RUNS, fingerprint, read_token, write_token
from holdfast.backends.sql_database import Durability, open_database
from holdfast.backends.sql_schema import upgrade
from holdfast.core.errors import BadInput, Conflict, NotFound
from holdfast.core.records import Json
from holdfast.core.tracking import (
    Clause,
    DatasetInput,
    Metric,
    ModelOutput,
    Order,
    Point,
    Run,
    RunStatus,
    View,
)

RUN_NAME_TAG = "mlflow.runName"
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}\Z")


class SqlRunStore(ExperimentTables, ModelTables, ArtifactTables):
    """Fulfils ``core.ports.RunStore``. ``url`` as for ``sql_database.open_database``.

    On SQLite a killed process loses nothing acknowledged; with the default synchronous=NORMAL a power cut may lose the
    last moments; "full" closes that too, at an fsync a write.
    """

    def __init__(self, url: str, *, synchronous: Durability = "normal") -> None:
        self._db = open_database(url, durability=synchronous, setting="runs.url")
        upgrade(self._db, "runs", STEPS)

    def transaction(self) -> AbstractContextManager[None]:
        return self._db.transaction()

    def at_once(self) -> AbstractContextManager[bool]:
        return self._db.at_once()

    def tidy(self) -> None:
        self._db.tidy()

    def close(self) -> None:
        self._db.close()

    def remembered(self, request_id: str) -> bytes | None:
        if self._db.dialect == "postgresql" and self._db.in_transaction:
            # A second call with this id waits here until the first one has committed its answer. (SQLite has one writer.)
            self._db.execute("SELECT pg_advisory_xact_lock(hashtext(?))", (request_id,))
        row = self._db.execute("SELECT answer FROM requests WHERE id = ?", (request_id,)).fetchone()
        return bytes(row[0]) if row else None

    def remember(self, request_id: str, answer: bytes, *, at: int) -> None:
        self._db.execute("INSERT INTO requests (id, at, answer) VALUES (?, ?, ?)", (request_id, at, answer))

    # --- runs ---

    def create_run(
        self,
        experiment_id: str,
        *,
        at: int,
        name: str = "",
        user: str = "",
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
        started: int | None = None,
        status: RunStatus = "RUNNING",
    ) -> Run:
        number = experiment_number(experiment_id)
        if run_id is not None and not _RUN_ID.match(run_id):
            raise BadInput(f"Invalid run id: {run_id[:80]!r}", hint="letters, digits, - and _, at most 256")
        run_id = run_id or secrets.token_hex(16)
        with self._db.transaction():
            parent = self._db.execute(
                f"SELECT artifact_uri, deleted FROM experiments WHERE id = ?{self._for_share}", (number,)
            ).fetchone()
            if parent is None:
                raise no_experiment(experiment_id)
            if parent[1] is not None:
                raise BadInput(
                    f"The experiment {experiment_id} must be in the 'active' state. Current state is deleted."
                )
            if self._db.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone():
                raise Conflict(f"Run {run_id} already exists.")
            uri = f"{parent[0].rstrip('/')}/{run_id}/artifacts"
            began = at if started is None else started
            run = self._db.execute(
                "INSERT INTO runs (run_id, experiment, name, author, status, started, artifact_uri) VALUES (?, ?, ?, "
                "?, ?, ?, ?) RETURNING number",
                (run_id, number, name, user, status, began, uri),
            ).fetchone()[0]
            self._db.executemany(
                "INSERT INTO tags (run, key, value) VALUES (?, ?, ?)", [(run, k, v) for k, v in (tags or {}).items()]
            )
        return Run(
            run_id=run_id,
            experiment_id=str(number),
            name=name,
            user=user,
            status=status,
            started=began,
            ended=None,
            artifact_uri=uri,
            tags=dict(tags or {}),
        )

    def get_run(self, run_id: str) -> Run:
        rows = self._db.execute(f"{_RUN} WHERE r.run_id = ?", (run_id,)).fetchall()
        if not rows:
            raise _no_run(run_id)
        return self._with_data(rows)[0]

    def update_run(
        self,
        run_id: str,
        *,
        at: int,
        status: RunStatus | None = None,
        ended: int | None = None,
        name: str | None = None,
        deleted: bool | None = None,
    ) -> Run:
        with self._db.transaction():
            number = self._run_number(run_id, active=deleted is None)
            if status is not None:
                self._db.execute("UPDATE runs SET status = ? WHERE number = ?", (status, number))
            if ended is not None:
                self._db.execute("UPDATE runs SET ended = ? WHERE number = ?", (ended, number))
            if name is not None:
                self._db.execute("UPDATE runs SET name = ? WHERE number = ?", (name, number))
                self._write_tags("tags", "run", number, {RUN_NAME_TAG: name})
            if deleted is not None:
                self._db.execute("UPDATE runs SET deleted = ? WHERE number = ?", (at if deleted else None, number))
            return self.get_run(run_id)

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str | None] | None = None,
    ) -> None:
        with self._db.transaction():
            number = self._run_number(run_id, active=True)
            if params:
                self._write_params("params", "run", number, params, run_id)
            if metrics:
                self._write_metrics(number, metrics)
                self._write_model_metrics(run_id, [m for m in metrics if m.model_id])
            if tags:
                self._write_tags("tags", "run", number, tags)
                if tags.get(RUN_NAME_TAG) is not None:
                    self._db.execute("UPDATE runs SET name = ? WHERE number = ?", (tags[RUN_NAME_TAG], number))

    def _write_metrics(self, run: int, metrics: Sequence[Metric]) -> None:
        newest: dict[str, tuple[int, int, float, int]] = {}
        points: list[tuple[str, int, int, int, float]] = []
        # A batch holds a thousand points: plain operations only.
        for m in metrics:
            key, value, at, step, nan = m.key, m.value, m.at, m.step, 0
            if value != value:  # NaN
                value, nan = 0.0, 1
            points.append((key, at, step, nan, value))
            known_rank = newest.get(key)
            if known_rank is None or step > known_rank[0] or (step, at, value, nan) > known_rank:
                newest[key] = (step, at, value, nan)
        keys = sorted(newest)
        known = {
            r[1]: (r[0], (r[2], r[3], r[4], r[5]))
            for r in self._db.select_in(
                "SELECT id, key, step, at, value, nan FROM series WHERE run = ? AND key IN ({in})", keys, [run]
            )
        }
        updates = []
        ids: dict[str, int] = {}
        for key in keys:
            step, at, value, nan = newest[key]
            if key in known:
                ids[key], old = known[key]
                if newest[key] > old:
                    updates.append((step, at, value, nan, ids[key]))
            else:
                sql = "INSERT INTO series (run, key, value, nan, at, step) VALUES (?, ?, ?, ?, ?, ?) RETURNING id"
                ids[key] = self._db.execute(sql, (run, key, value, nan, at, step)).fetchone()[0]
        rows = [(ids[key], at, step, nan, value) for key, at, step, nan, value in points]
        self._db.insert_many("INSERT INTO points (series, at, step, nan, value) VALUES {} ON CONFLICT DO NOTHING", rows)
        self._db.executemany("UPDATE series SET step = ?, at = ?, value = ?, nan = ? WHERE id = ?", updates)

    def metric_history(
        self, run_id: str, key: str, *, limit: int = 25_000, token: str | None = None
    ) -> tuple[list[Point], str | None]:
        row = self._db.execute(
            "SELECT s.id FROM runs r LEFT JOIN series s ON s.run = r.number AND s.key = ? WHERE r.run_id = ?",
            (key, run_id),
        ).fetchone()
        if row is None:
            raise _no_run(run_id)
        if row[0] is None:
            return [], None
        condition, values = "", [row[0]]
        query = fingerprint("history", run_id, key)
        if token:
            condition = " AND (at, step, nan, value) > (?, ?, ?, ?)"
            values += read_token(token, query, 4)
        rows = self._db.execute(
            "SELECT at, step, CASE nan WHEN 0 THEN value END FROM points WHERE series = ?"
            f"{condition} ORDER BY at, step, nan, points.value LIMIT ?",
            [*values, limit + 1],
        ).fetchall()
        following = None
        if len(rows) > limit:
            at, step, value = rows[limit - 1]
            following = write_token(query, (at, step, int(value is None), value or 0.0))
            del rows[limit:]
        return [Point(at, step, math.nan if value is None else value) for at, step, value in rows], following

    def log_inputs(self, run_id: str, *, datasets: Sequence[DatasetInput] = (), models: Sequence[str] = ()) -> None:
        with self._db.transaction():
            number = self._run_number(run_id, active=True)
            experiment = self._db.execute("SELECT experiment FROM runs WHERE number = ?", (number,)).fetchone()[0]
            for d in datasets:
                self._db.execute(
                    "INSERT INTO datasets (experiment, name, digest, source_type, source, schema, profile) VALUES (?, "
                    "?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT (experiment, name, digest) DO NOTHING",
                    (experiment, d.name, d.digest, d.source_type, d.source, d.schema, d.profile),
                )
                dataset = self._db.execute(
                    "SELECT id FROM datasets WHERE experiment = ? AND name = ? AND digest = ?",
                    (experiment, d.name, d.digest),
                ).fetchone()[0]
                self._db.execute(
                    "INSERT INTO inputs (run, dataset, context, tags) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (number, dataset, d.tags.get("mlflow.data.context"), msgspec.json.encode(d.tags).decode()),
                )
            self._db.executemany(
                "INSERT INTO model_inputs (run, model_id) VALUES (?, ?) ON CONFLICT DO NOTHING",
                [(number, m) for m in models],
            )

    def log_outputs(self, run_id: str, models: Sequence[ModelOutput]) -> None:
        with self._db.transaction():
            number = self._run_number(run_id, active=True)
            sql = "INSERT INTO model_outputs (run, model_id, step) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
            self._db.executemany(sql, [(number, m.model_id, m.step) for m in models])

    def dataset_summaries(self, experiment_ids: Sequence[str], *, limit: int) -> list[Json]:
        numbers = [experiment_number(e) for e in experiment_ids]
        rows = self._db.select_in(
            "SELECT DISTINCT d.experiment, d.name, d.digest, i.context FROM inputs i JOIN datasets d ON d.id = i.dataset "
            "WHERE d.experiment IN ({in}) ORDER BY d.experiment, d.name, d.digest",
            numbers,
        )
        return [
            {
                "experiment_id": str(r[0]),
                "name": r[1],
                "digest": r[2],
                **({"context": r[3]} if r[3] is not None else {}),
            }
            for r in rows[:limit]
        ]

    def search_runs(
        self,
        experiment_ids: Sequence[str],
        *,
        where: Sequence[Clause] = (),
        order: Sequence[Order] = (),
        view: View = "active",
        limit: int = 1000,
        token: str | None = None,
    ) -> tuple[list[Run], str | None]:
        numbers = [experiment_number(e) for e in experiment_ids]
        if not numbers:
            return [], None
        ties = [("r.started", False), ("r.run_id", True)]
        page, following = self._page("runs r", "r.number", RUNS, where, order, ties, VIEWS[view], numbers, limit, token)
        rows = {r[0]: r for r in self._db.select_in(f"{_RUN} WHERE r.number IN ({{in}})", page)}
        return self._with_data([rows[n] for n in page if n in rows]), following

    def _with_data(self, rows: Sequence[Any]) -> list[Run]:
        numbers = [r[0] for r in rows]
        params = self._grouped("params", "run", numbers)
        tags = self._grouped("tags", "run", numbers)
        metrics: dict[int, list[Metric]] = {}
        for run, key, value, nan, at, step in self._db.select_in(
            "SELECT run, key, value, nan, at, step FROM series WHERE run IN ({in}) ORDER BY run, key", numbers
        ):
            metrics.setdefault(run, []).append(Metric(key=key, value=math.nan if nan else value, at=at, step=step))
        datasets: dict[int, list[DatasetInput]] = {}
        for r in self._db.select_in(
            "SELECT i.run, d.name, d.digest, d.source_type, d.source, d.schema, d.profile, i.tags FROM inputs i "
            "JOIN datasets d ON d.id = i.dataset WHERE i.run IN ({in}) ORDER BY i.run, i.dataset",
            numbers,
        ):
            datasets.setdefault(r[0], []).append(
                DatasetInput(
                    name=r[1],
                    digest=r[2],
                    source_type=r[3],
                    source=r[4],
                    schema=r[5],
                    profile=r[6],
                    tags=msgspec.json.decode(r[7]),
                )
            )
        used: dict[int, list[str]] = {}
        for run, model in self._db.select_in(
            "SELECT run, model_id FROM model_inputs WHERE run IN ({in}) ORDER BY run, model_id", numbers
        ):
            used.setdefault(run, []).append(model)
        made: dict[int, list[ModelOutput]] = {}
        for run, model, step in self._db.select_in(
            "SELECT run, model_id, step FROM model_outputs WHERE run IN ({in}) ORDER BY run, step", numbers
        ):
            made.setdefault(run, []).append(ModelOutput(model_id=model, step=step))
        return [
            Run(
                run_id=r[1],
                experiment_id=str(r[2]),
                name=r[3],
                user=r[4],
                status=r[5],
                started=r[6],
                ended=r[7],
                artifact_uri=r[8],
                lifecycle="active" if r[9] is None else "deleted",
                metrics=metrics.get(r[0], []),
                params=params.get(r[0], {}),
                tags=tags.get(r[0], {}),
                datasets=datasets.get(r[0], []),
                model_inputs=used.get(r[0], []),
                model_outputs=made.get(r[0], []),
            )
            for r in rows
        ]

    def _run_number(self, run_id: str, *, active: bool) -> int:
        """A run's number, its row locked to the end of the transaction."""
        row = self._db.execute(
            f"SELECT number, deleted FROM runs WHERE run_id = ?{self._for_update}", (run_id,)
        ).fetchone()
        if row is None:
            raise _no_run(run_id)
        if active and row[1] is not None:
            raise BadInput(
                f"The run {run_id} must be in the 'active' state. Current state is deleted.",
                hint="restore the run first",
            )
        return int(row[0])


_RUN = (
    "SELECT r.number, r.run_id, r.experiment, r.name, r.author, r.status, r.started, r.ended, r.artifact_uri, "
    "r.deleted FROM runs r"
)


def _no_run(run_id: str) -> NotFound:
    return NotFound(f"Run with id={run_id} not found")
