"""Experiments in the run store's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.backends.runs_search import EXPERIMENTS
from holdfast.backends.runs_shared import SharedTables
from holdfast.core.errors import Conflict, NotFound
from holdfast.core.tracking import Clause, Experiment, Order, View

VIEWS = {"active": " AND r.deleted IS NULL", "deleted": " AND r.deleted IS NOT NULL", "all": ""}
_EXPERIMENT = "SELECT r.id, r.name, r.artifact_uri, r.deleted, r.created, r.updated FROM experiments r"


class ExperimentTables(SharedTables):
    """The part of the run store that keeps experiments."""

    def create_experiment(
        self,
        name: str,
        *,
        at: int,
        artifact_uri: str | None = None,
        tags: Mapping[str, str] | None = None,
        experiment_id: str | None = None,
    ) -> Experiment:
        with self._db.transaction():
            if self._db.dialect == "postgresql":
                self._db.execute("LOCK TABLE experiments IN SHARE ROW EXCLUSIVE MODE")
            if self._db.execute("SELECT 1 FROM experiments WHERE name = ?", (name,)).fetchone():
                raise Conflict(
                    f"Experiment(name={name}) already exists.", hint="use the experiment there is, or another name"
                )
            if experiment_id is not None:
                number = experiment_number(experiment_id)
                self._db.execute(
                    "INSERT INTO experiments (id, name, artifact_uri, created, updated) VALUES (?, ?, ?, ?, ?)",
                    (number, name, artifact_uri or "", at, at),
                )
                if self._db.dialect == "postgresql":
                    self._db.execute(
                        "SELECT setval(pg_get_serial_sequence('experiments', 'id'), GREATEST((SELECT MAX(id) FROM "
                        "experiments), 1))"
                    )
            else:
                sql = "INSERT INTO experiments (name, artifact_uri, created, updated) VALUES (?, ?, ?, ?) RETURNING id"
                number = self._db.execute(sql, (name, artifact_uri or "", at, at)).fetchone()[0]
            if not artifact_uri:
                self._db.execute(
                    "UPDATE experiments SET artifact_uri = ? WHERE id = ?", (f"mlflow-artifacts:/{number}", number)
                )
            rows = [(number, k, v) for k, v in (tags or {}).items()]
            self._db.executemany("INSERT INTO experiment_tags (experiment, key, value) VALUES (?, ?, ?)", rows)
            return self.get_experiment(str(number))

    def get_experiment(self, experiment_id: str) -> Experiment:
        found = self._experiments(" AND r.id = ?", [experiment_number(experiment_id)])
        if not found:
            raise no_experiment(experiment_id)
        return found[0]

    def find_experiment(self, name: str) -> Experiment | None:
        found = self._experiments(" AND r.name = ?", [name])
        return found[0] if found else None

    def update_experiment(
        self,
        experiment_id: str,
        *,
        at: int,
        name: str | None = None,
        deleted: bool | None = None,
        tags: Mapping[str, str | None] | None = None,
    ) -> Experiment:
        number = experiment_number(experiment_id)
        with self._db.transaction():
            row = self._db.execute(
                f"SELECT deleted FROM experiments WHERE id = ?{self._for_update}", (number,)
            ).fetchone()
            if row is None:
                raise no_experiment(experiment_id)
            if name is not None:
                taken = self._db.execute("SELECT id FROM experiments WHERE name = ?", (name,)).fetchone()
                if taken and taken[0] != number:
                    raise Conflict(f"Experiment(name={name}) already exists.", hint="take another name")
                self._db.execute("UPDATE experiments SET name = ?, updated = ? WHERE id = ?", (name, at, number))
            if deleted is not None:
                self._db.execute(
                    "UPDATE experiments SET deleted = ?, updated = ? WHERE id = ?",
                    (at if deleted else None, at, number),
                )
                if deleted:
                    self._db.execute(
                        "UPDATE runs SET deleted = ? WHERE experiment = ? AND deleted IS NULL", (at, number)
                    )
                elif row[0] is not None:
                    # Runs that went with the experiment come back with it; those deleted before stay deleted.
                    self._db.execute(
                        "UPDATE runs SET deleted = NULL WHERE experiment = ? AND deleted = ?", (number, row[0])
                    )
            self._write_tags("experiment_tags", "experiment", number, tags or {})
            if tags:
                self._db.execute("UPDATE experiments SET updated = ? WHERE id = ?", (at, number))
            return self.get_experiment(experiment_id)

    def search_experiments(
        self,
        *,
        where: Sequence[Clause] = (),
        order: Sequence[Order] = (),
        view: View = "active",
        limit: int = 1000,
        token: str | None = None,
    ) -> tuple[list[Experiment], str | None]:
        ties = [("r.created", False), ("r.id", True)] if not order else [("r.id", False)]
        numbers, following = self._page(
            "experiments r", "r.id", EXPERIMENTS, where, order, ties, VIEWS[view], [], limit, token
        )
        by_number = {int(e.experiment_id): e for e in self._experiments_in(numbers)}
        return [by_number[n] for n in numbers if n in by_number], following

    def _experiments_in(self, numbers: Sequence[int]) -> list[Experiment]:
        rows = self._db.select_in(f"{_EXPERIMENT} WHERE r.id IN ({{in}})", numbers)
        return self._with_experiment_tags(rows)

    def _experiments(self, condition: str, values: list[Any]) -> list[Experiment]:
        return self._with_experiment_tags(self._db.execute(f"{_EXPERIMENT} WHERE 1 = 1{condition}", values).fetchall())

    def _with_experiment_tags(self, rows: Sequence[Any]) -> list[Experiment]:
        tags = self._grouped("experiment_tags", "experiment", [r[0] for r in rows])
        return [
            Experiment(
                experiment_id=str(r[0]),
                name=r[1],
                artifact_uri=r[2],
                lifecycle="active" if r[3] is None else "deleted",
                created=r[4],
                updated=r[5],
                tags=tags.get(r[0], {}),
            )
            for r in rows
        ]


def experiment_number(experiment_id: str) -> int:
    """The number of an experiment id.

    Raises:
        NotFound: it cannot be one.
    """
    if not experiment_id.isascii() or not experiment_id.isdigit() or len(experiment_id) > 18:
        raise no_experiment(experiment_id)
    return int(experiment_id)


def no_experiment(experiment_id: object) -> NotFound:
    """The error for an id that leads nowhere."""
    return NotFound(f"No Experiment with id={experiment_id} exists")
