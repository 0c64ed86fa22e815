"""What the run store's parts share: one page of a sorted search, params that never change, tags that do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.backends.runs_search import Sort, fingerprint, read_token, where, write_token
from holdfast.backends.sql_database import Database
from holdfast.core.errors import BadInput
from holdfast.core.tracking import Clause, Order


class SharedTables:
    """Base of the parts of ``SqlRunStore``."""

    _db: Database

    def _page(
        self,
        source: str,
        number: str,
        table: Any,
        clauses: Sequence[Clause],
        orders: Sequence[Order],
        ties: Sequence[tuple[str, bool]],
        view: str,
        experiments: Sequence[int],
        limit: int,
        token: str | None,
        datasets: Sequence[tuple[str, str | None]] = (),
    ) -> tuple[list[Any], str | None]:
        """The keys of one page of rows in order, and the token of the next."""
        sort = Sort(table, orders, ties)
        query = fingerprint(source, list(clauses), list(orders), view, list(experiments), list(datasets))
        condition, values = where(table, clauses, self._db.dialect, datasets=datasets)
        if experiments:
            column = (
                f"r.experiment IN ({','.join(str(int(e)) for e in experiments)})"
                if len(experiments) > 1
                else "r.experiment = ?"
            )
            condition = f" AND {column}{condition}"
            values = ([experiments[0]] if len(experiments) == 1 else []) + values
        if token:
            more, more_values = sort.after(read_token(token, query, len(sort.parts)))
            condition, values = condition + more, values + more_values
        rows = self._db.execute(
            f"SELECT {number}, {sort.columns} FROM {source}{sort.joins} WHERE 1 = 1{view}{condition} ORDER BY "
            f"{sort.order_by} LIMIT ?",
            [*sort.join_values, *values, limit + 1],
        ).fetchall()
        following = write_token(query, rows[limit - 1][1:]) if len(rows) > limit else None
        return [r[0] for r in rows[:limit]], following

    def _write_params(self, table: str, column: str, owner: int | str, params: Mapping[str, str], shown: str) -> None:
        if not params:
            return
        known = dict(
            self._db.select_in(
                f"SELECT key, value FROM {table} WHERE {column} = ? AND key IN ({{in}})", sorted(params), [owner]
            )
        )
        changed = [(k, known[k], v) for k, v in params.items() if k in known and known[k] != v]
        if changed:
            key, old, new = changed[0]
            raise BadInput(
                f"Changing param values is not allowed. Param with key='{key}' was already logged with value='{old}' "
                f"for run ID='{shown}'. "
                f"Attempted logging new value '{new}'."
            )
        rows = [(owner, k, v) for k, v in params.items() if k not in known]
        self._db.executemany(f"INSERT INTO {table} ({column}, key, value) VALUES (?, ?, ?)", rows)

    def _write_tags(self, table: str, column: str, owner: int | str, tags: Mapping[str, str | None]) -> None:
        upsert = (
            f"INSERT INTO {table} ({column}, key, value) VALUES (?, ?, ?) ON CONFLICT ({column}, key) DO UPDATE SET "
            f"value = excluded.value"
        )
        self._db.executemany(upsert, [(owner, k, v) for k, v in tags.items() if v is not None])
        self._db.executemany(
            f"DELETE FROM {table} WHERE {column} = ? AND key = ?", [(owner, k) for k, v in tags.items() if v is None]
        )

    def _grouped(self, table: str, column: str, owners: Sequence[Any]) -> dict[Any, dict[str, str]]:
        found: dict[Any, dict[str, str]] = {}
        for owner, key, value in self._db.select_in(
            f"SELECT {column}, key, value FROM {table} WHERE {column} IN ({{in}}) ORDER BY {column}, key", owners
        ):
            found.setdefault(owner, {})[key] = value
        return found

    @property
    def _for_update(self) -> str:
        return " FOR UPDATE" if self._db.dialect == "postgresql" else ""

    @property
    def _for_share(self) -> str:
        return " FOR SHARE" if self._db.dialect == "postgresql" else ""
