"""The index of artifact paths, and hard deletion. Bytes are objects; a path is a key, never a file name."""

from __future__ import annotations

from holdfast.backends.runs_shared import SharedTables
from holdfast.core.errors import Conflict
from holdfast.core.tracking import Artifact


class ArtifactTables(SharedTables):
    """The part of the run store that knows which bytes lie under which artifact path."""

    def put_artifact(self, path: str, *, sha256: str, size: int, at: int) -> None:
        with self._db.transaction():
            parents = [path[:i] for i, c in enumerate(path) if c == "/"]
            if parents and self._db.select_in("SELECT path FROM artifacts WHERE path IN ({in})", parents):
                raise Conflict(f"{path!r} lies under a path that is a file")
            if self._db.execute(
                "SELECT 1 FROM artifacts WHERE path >= ? AND path < ? LIMIT 1", (path + "/", path + "0")
            ).fetchone():
                raise Conflict(f"{path!r} is a folder")
            self._db.execute(
                "INSERT INTO artifacts (path, sha256, size, at) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (path) DO UPDATE SET sha256 = excluded.sha256, size = excluded.size, at = excluded.at",
                (path, sha256, size, at),
            )

    def get_artifact(self, path: str) -> Artifact | None:
        row = self._db.execute("SELECT path, sha256, size, at FROM artifacts WHERE path = ?", (path,)).fetchone()
        return Artifact(path=row[0], sha256=row[1], size=row[2], at=row[3]) if row else None

    def list_artifacts(self, prefix: str) -> list[Artifact]:
        # '0' is the character after '/': the range holds exactly what starts with "prefix/".
        condition, values = (" WHERE path >= ? AND path < ?", (prefix + "/", prefix + "0")) if prefix else ("", ())
        rows = self._db.execute(
            f"SELECT path, sha256, size, at FROM artifacts{condition} ORDER BY path", values
        ).fetchall()
        return [Artifact(path=r[0], sha256=r[1], size=r[2], at=r[3]) for r in rows]

    def delete_artifacts(self, path: str) -> int:
        with self._db.transaction():
            cursor = self._db.execute(
                "DELETE FROM artifacts WHERE path = ? OR (path >= ? AND path < ?)", (path, path + "/", path + "0")
            )
            return int(cursor.rowcount)

    def purge(self, *, before: int) -> list[str]:
        db = self._db
        with db.transaction():
            gone = [r[0] for r in db.execute("SELECT id FROM experiments WHERE deleted < ?", (before,)).fetchall()]
            runs = db.execute("SELECT number, experiment, run_id FROM runs WHERE deleted < ?", (before,)).fetchall()
            models = db.execute("SELECT model_id, experiment FROM models WHERE deleted < ?", (before,)).fetchall()
            runs += db.select_in("SELECT number, experiment, run_id FROM runs WHERE experiment IN ({in})", gone)
            models += db.select_in("SELECT model_id, experiment FROM models WHERE experiment IN ({in})", gone)
            folders = (
                [f"{e}/{run_id}" for _, e, run_id in runs]
                + [f"{e}/models/{m}" for m, e in models]
                + [str(e) for e in gone]
            )
            loose: set[str] = set()
            for folder in folders:
                loose.update(a.sha256 for a in self.list_artifacts(folder))
                self.delete_artifacts(folder)
            numbers = list({r[0] for r in runs})
            for n in numbers:
                db.execute("DELETE FROM points WHERE series IN (SELECT id FROM series WHERE run = ?)", (n,))
            for table in ("series", "params", "tags", "inputs", "model_inputs", "model_outputs"):
                db.executemany(f"DELETE FROM {table} WHERE run = ?", [(n,) for n in numbers])
            db.executemany("DELETE FROM runs WHERE number = ?", [(n,) for n in numbers])
            for table in ("model_params", "model_tags", "model_metrics", "models"):
                db.executemany(f"DELETE FROM {table} WHERE model_id = ?", [(m,) for m in {m[0] for m in models}])
            for table, column in (("experiment_tags", "experiment"), ("datasets", "experiment"), ("experiments", "id")):
                db.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(e,) for e in gone])
            db.execute("DELETE FROM requests WHERE at < ?", (before,))
            kept = {
                r[0]
                for r in db.select_in("SELECT DISTINCT sha256 FROM artifacts WHERE sha256 IN ({in})", sorted(loose))
            }
            return sorted(loose - kept)
