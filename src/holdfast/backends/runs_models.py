"""Logged models (what an MLflow 3 client makes before registering) in the run store's tables."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.backends.runs_search import MODELS
from holdfast.backends.runs_shared import SharedTables
from holdfast.core.errors import BadInput, NotFound
from holdfast.core.tracking import Clause, LoggedModel, Metric, ModelStatus, Order

_MODEL = (
    "SELECT r.model_id, r.experiment, r.name, r.artifact_uri, r.status, r.message, r.type, r.run_id, r.created, "
    "r.updated FROM models r"
)


class ModelTables(SharedTables):
    """The part of the run store that keeps logged models."""

    def create_model(
        self,
        experiment_id: str,
        *,
        at: int,
        name: str = "",
        model_type: str = "",
        run_id: str | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> LoggedModel:
        model_id = f"m-{secrets.token_hex(16)}"
        with self._db.transaction():
            number = int(experiment_id) if experiment_id.isdigit() and len(experiment_id) <= 18 else -1
            parent = self._db.execute(
                "SELECT artifact_uri, deleted FROM experiments WHERE id = ?", (number,)
            ).fetchone()
            if parent is None:
                raise NotFound(f"No Experiment with id={experiment_id} exists")
            if parent[1] is not None:
                raise BadInput(
                    f"The experiment {experiment_id} must be in the 'active' state. Current state is deleted."
                )
            self._db.execute(
                "INSERT INTO models (model_id, experiment, name, artifact_uri, status, message, type, run_id, created, "
                "updated) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    model_id,
                    number,
                    name,
                    f"{parent[0].rstrip('/')}/models/{model_id}/artifacts",
                    "PENDING",
                    "",
                    model_type,
                    run_id,
                    at,
                    at,
                ),
            )
            self._write_params("model_params", "model_id", model_id, params or {}, model_id)
            self._write_tags("model_tags", "model_id", model_id, tags or {})
            return self.get_model(model_id)

    def get_model(self, model_id: str) -> LoggedModel:
        rows = self._db.execute(f"{_MODEL} WHERE r.model_id = ? AND r.deleted IS NULL", (model_id,)).fetchall()
        if not rows:
            raise NotFound(f"Logged model with ID '{model_id}' not found.")
        return self._filled(rows)[0]

    def update_model(
        self,
        model_id: str,
        *,
        at: int,
        status: ModelStatus | None = None,
        deleted: bool | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str | None] | None = None,
    ) -> LoggedModel:
        with self._db.transaction():
            model = self.get_model(model_id)
            self._write_params("model_params", "model_id", model_id, params or {}, model_id)
            self._write_tags("model_tags", "model_id", model_id, tags or {})
            self._db.execute(
                "UPDATE models SET updated = ?, status = ? WHERE model_id = ?", (at, status or model.status, model_id)
            )
            after = self.get_model(model_id)
            if deleted:
                self._db.execute("UPDATE models SET deleted = ? WHERE model_id = ?", (at, model_id))
            return after

    def search_models(
        self,
        experiment_ids: Sequence[str],
        *,
        where: Sequence[Clause] = (),
        datasets: Sequence[tuple[str, str | None]] = (),
        order: Sequence[Order] = (),
        limit: int = 100,
        token: str | None = None,
    ) -> tuple[list[LoggedModel], str | None]:
        numbers = [int(e) for e in experiment_ids if e.isascii() and e.isdigit() and len(e) <= 18]
        if not numbers:
            return [], None
        ties = [("r.created", False), ("r.model_id", True)]
        view = " AND r.deleted IS NULL"
        page, following = self._page(
            "models r", "r.model_id", MODELS, where, order, ties, view, numbers, limit, token, datasets
        )
        rows = {r[0]: r for r in self._db.select_in(f"{_MODEL} WHERE r.model_id IN ({{in}})", page)}
        return self._filled([rows[m] for m in page if m in rows]), following

    def _write_model_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        for model_id in {m.model_id for m in metrics}:
            if not self._db.execute("SELECT 1 FROM models WHERE model_id = ?", (model_id,)).fetchone():
                raise NotFound(f"Logged model with ID '{model_id}' not found.")
        rows = []
        for m in metrics:
            nan = math.isnan(m.value)
            rows.append(
                (
                    m.model_id,
                    m.key,
                    m.at,
                    m.step,
                    int(nan),
                    0.0 if nan else m.value,
                    m.dataset_name or "",
                    m.dataset_digest or "",
                    run_id,
                )
            )
        self._db.executemany(
            "INSERT INTO model_metrics (model_id, key, at, step, nan, value, dataset_name, dataset_digest, run_id) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            rows,
        )

    def _filled(self, rows: Sequence[Any]) -> list[LoggedModel]:
        ids = [r[0] for r in rows]
        params = self._grouped("model_params", "model_id", ids)
        tags = self._grouped("model_tags", "model_id", ids)
        metrics: dict[str, list[Metric]] = {}
        for r in self._db.select_in(
            "SELECT model_id, key, at, step, nan, value, dataset_name, dataset_digest, run_id FROM model_metrics "
            "WHERE model_id IN ({in}) ORDER BY model_id, key, at, step",
            ids,
        ):
            metrics.setdefault(r[0], []).append(
                Metric(
                    key=r[1],
                    at=r[2],
                    step=r[3],
                    value=math.nan if r[4] else r[5],
                    dataset_name=r[6] or None,
                    dataset_digest=r[7] or None,
                    run_id=r[8] or None,
                    model_id=r[0],
                )
            )
        return [
            LoggedModel(
                model_id=r[0],
                experiment_id=str(r[1]),
                name=r[2],
                artifact_uri=r[3],
                status=r[4],
                status_message=r[5],
                model_type=r[6],
                run_id=r[7],
                created=r[8],
                updated=r[9],
                params=params.get(r[0], {}),
                tags=tags.get(r[0], {}),
                metrics=metrics.get(r[0], []),
            )
            for r in rows
        ]
