"""Clauses and orders as parameterised SQL, and keyset page tokens. Values travel as parameters, keys of metrics, params
and tags too; attribute names are looked up in a table of ours."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from holdfast.backends.sql_database import Dialect, marks
from holdfast.core.errors import BadInput
from holdfast.core.identity import digest
from holdfast.core.tracking import Clause, Order

_SIMPLE = {"=", "!=", ">", ">=", "<", "<="}
Sql = tuple[str, list[Any]]


class Table:
    """How one kind of row is searched: its alias, attributes, and where its metrics, params and tags lie.

    ``related`` maps a clause kind to (table, its column that points here, our column it points at).
    """

    def __init__(
        self,
        attributes: Mapping[str, str],
        related: Mapping[str, tuple[str, str, str]],
        nullable: Sequence[str] = (),
        text: Sequence[str] = (),
    ) -> None:
        self.attributes = attributes
        self.related = related
        self.nullable = frozenset(nullable)
        self.text = frozenset(text)


RUNS = Table(
    {
        "run_id": "r.run_id",
        "name": "r.name",
        "user": "r.author",
        "status": "r.status",
        "artifact_uri": "r.artifact_uri",
        "started": "r.started",
        "ended": "r.ended",
    },
    {
        "metric": ("series", "run", "r.number"),
        "param": ("params", "run", "r.number"),
        "tag": ("tags", "run", "r.number"),
    },
    nullable=("ended",),
    text=("run_id", "name", "user", "status", "artifact_uri"),
)
EXPERIMENTS = Table(
    {
        "experiment_id": "CAST(r.id AS TEXT)",
        "number": "r.id",
        "name": "r.name",
        "created": "r.created",
        "updated": "r.updated",
    },
    {"tag": ("experiment_tags", "experiment", "r.id")},
    text=("experiment_id", "name"),
)
MODELS = Table(
    {
        "model_id": "r.model_id",
        "name": "r.name",
        "model_type": "r.type",
        "status": "r.status",
        "run_id": "r.run_id",
        "created": "r.created",
        "updated": "r.updated",
    },
    {
        "metric": ("model_metrics", "model_id", "r.model_id"),
        "param": ("model_params", "model_id", "r.model_id"),
        "tag": ("model_tags", "model_id", "r.model_id"),
    },
    nullable=("run_id",),
    text=("model_id", "name", "model_type", "status", "run_id"),
)


def where(
    table: Table, clauses: Sequence[Clause], dialect: Dialect, *, datasets: Sequence[tuple[str, str | None]] = ()
) -> Sql:
    """The conjunction of all clauses as SQL that starts with `` AND`` (empty for none)."""
    text, values = "", []
    # SQLite tries them in this order: what is equal to one value leaves fewer rows than what is above or below one.
    for clause in sorted(clauses, key=lambda c: (c.kind != "attribute", c.comparator != "=", c.kind == "metric")):
        part, parameters = _clause(table, clause, dialect, datasets)
        text += f" AND {part}"
        values += parameters
    if datasets and not any(c.kind == "metric" for c in clauses):
        # Without a metric to narrow, a row has to have been measured on one of the datasets at all.
        related, theirs, ours = table.related["metric"]
        among, more = _datasets(datasets)
        text += f" AND EXISTS (SELECT 1 FROM {related} x WHERE x.{theirs} = {ours} AND {among})"
        values += more
    return text, values


def _clause(table: Table, clause: Clause, dialect: Dialect, datasets: Sequence[tuple[str, str | None]]) -> Sql:
    if clause.kind == "attribute":
        column = table.attributes[clause.key]
        if clause.comparator in ("IS NULL", "IS NOT NULL"):
            return f"{column} {clause.comparator}", []
        return _compare(column, clause, dialect)
    if clause.kind == "dataset":
        column = {"name": "d.name", "digest": "d.digest", "context": "i.context"}[clause.key]
        test, values = _compare(column, clause, dialect)
        return (
            f"EXISTS (SELECT 1 FROM inputs i JOIN datasets d ON d.id = i.dataset WHERE i.run = r.number AND {test})",
            values,
        )
    related, theirs, ours = table.related[clause.kind]
    inner = f"SELECT 1 FROM {related} x WHERE x.{theirs} = {ours} AND x.key = ?"
    if clause.comparator == "IS NULL":
        return f"NOT EXISTS ({inner})", [clause.key]
    if clause.comparator == "IS NOT NULL":
        return f"EXISTS ({inner})", [clause.key]
    test, values = _compare("x.value", clause, dialect)
    if clause.kind == "metric":
        # NaN equals nothing and differs from everything.
        test = f"({test} OR x.nan = 1)" if clause.comparator == "!=" else f"{test} AND x.nan = 0"
    if clause.kind == "metric" and datasets:
        among, more = _datasets(datasets)
        test, values = f"{test} AND {among}", values + more
    return f"EXISTS ({inner} AND {test})", [clause.key, *values]


def _datasets(datasets: Sequence[tuple[str, str | None]]) -> Sql:
    parts, values = [], []
    for name, version in datasets:
        parts.append("(x.dataset_name = ?" + (")" if version is None else " AND x.dataset_digest = ?)"))
        values += [name] if version is None else [name, version]
    return "(" + " OR ".join(parts) + ")", values


def _compare(column: str, clause: Clause, dialect: Dialect) -> Sql:
    value = clause.value
    if clause.comparator in _SIMPLE:
        return f"{column} {clause.comparator} ?", [value]
    if clause.comparator in ("IN", "NOT IN") and isinstance(value, list):
        return f"{column} {clause.comparator} ({marks(len(value))})", list(value)
    escape = " ESCAPE ''" if dialect == "postgresql" else ""
    if clause.comparator == "LIKE":
        return f"{column} LIKE ?{escape}", [value]
    if clause.comparator == "ILIKE":
        if dialect == "postgresql":
            return f"{column} ILIKE ?{escape}", [value]
        return f"lower({column}) LIKE lower(?)", [value]
    raise BadInput(f"{clause.comparator} cannot be used here")


class Sort:
    """The sort of a search: joins it needs, its expressions (never null, so that a page can continue after any row),
    and the direction of each."""

    def __init__(self, table: Table, orders: Sequence[Order], ties: Sequence[tuple[str, bool]]) -> None:
        self.joins = ""
        self.join_values: list[Any] = []
        self.parts: list[tuple[str, bool]] = []
        for number, order in enumerate(orders):
            self._add(table, order, f"o{number}")
        seen = {expression for expression, _ in self.parts}
        self.parts += [tie for tie in ties if tie[0] not in seen]

    def _add(self, table: Table, order: Order, alias: str) -> None:
        if order.kind == "attribute":
            column = table.attributes[order.key]
            if order.key in table.nullable:
                empty = "''" if order.key in table.text else "0"
                self.parts.append((f"CASE WHEN {column} IS NULL THEN 1 ELSE 0 END", True))
                column = f"COALESCE({column}, {empty})"
            self.parts.append((column, order.ascending))
            return
        if order.kind == "dataset":
            field = {"name": "d.name", "digest": "d.digest", "context": "i.context"}[order.key]
            column = f"(SELECT MIN({field}) FROM inputs i JOIN datasets d ON d.id = i.dataset WHERE i.run = r.number)"
            self.parts += [
                (f"CASE WHEN {column} IS NULL THEN 1 ELSE 0 END", True),
                (f"COALESCE({column}, '')", order.ascending),
            ]
            return
        related, theirs, ours = table.related[order.kind]
        if related == "model_metrics":
            # The newest point of the series, narrowed to one dataset where asked.
            narrow, values = "", [order.key]
            if order.dataset_name is not None:
                narrow, values = " AND y.dataset_name = ?", [*values, order.dataset_name]
            if order.dataset_digest is not None:
                narrow, values = narrow + " AND y.dataset_digest = ?", [*values, order.dataset_digest]
            self.joins += (
                f" LEFT JOIN (SELECT z.model_id, z.value, z.nan FROM (SELECT y.model_id, y.value, y.nan, ROW_NUMBER() "
                f"OVER ("
                f"PARTITION BY y.model_id ORDER BY y.at DESC, y.step DESC, y.value DESC) AS place FROM model_metrics y "
                f"WHERE y.key = ?{narrow}) z WHERE z.place = 1) {alias} ON {alias}.model_id = r.model_id"
            )
            self.join_values += values
        else:
            self.joins += f" LEFT JOIN {related} {alias} ON {alias}.{theirs} = {ours} AND {alias}.key = ?"
            self.join_values.append(order.key)
        if order.kind == "metric":
            self.parts.append((f"CASE WHEN {alias}.value IS NULL THEN 2 WHEN {alias}.nan = 1 THEN 1 ELSE 0 END", True))
            self.parts.append((f"COALESCE({alias}.value, 0)", order.ascending))
        else:
            self.parts.append((f"CASE WHEN {alias}.value IS NULL THEN 1 ELSE 0 END", True))
            self.parts.append((f"COALESCE({alias}.value, '')", order.ascending))

    @property
    def columns(self) -> str:
        """The expressions as select columns ``k0, k1, …``."""
        return ", ".join(f"{expression} AS k{i}" for i, (expression, _) in enumerate(self.parts))

    @property
    def order_by(self) -> str:
        return ", ".join(f"{expression} {'ASC' if ascending else 'DESC'}" for expression, ascending in self.parts)

    def after(self, values: Sequence[Any]) -> Sql:
        """SQL for the rows that come after one with these sort values, starting with `` AND``."""
        options, parameters = [], []
        for place, (expression, ascending) in enumerate(self.parts):
            same = "".join(f"{self.parts[i][0]} = ? AND " for i in range(place))
            options.append(f"({same}{expression} {'>' if ascending else '<'} ?)")
            parameters += [*values[:place], values[place]]
        # The first key alone, so that an index on it can skip to the page.
        first, ascending = self.parts[0]
        return f" AND {first} {'>=' if ascending else '<='} ? AND ({' OR '.join(options)})", [values[0], *parameters]


# --- page tokens ------------------------------------------------------------------------------------------------------


def fingerprint(*parts: Any) -> str:
    """What a token belongs to: the same token with another query is refused."""
    return digest(msgspec.to_builtins(parts))[:12]


def write_token(query: str, values: Sequence[Any]) -> str:
    """A page token: where the last row of this page stands in the sort."""
    packed = [["f", v.hex()] if isinstance(v, float) else ["v", v] for v in values]
    return base64.urlsafe_b64encode(msgspec.json.encode([query, packed])).decode().rstrip("=")


def read_token(token: str, query: str, count: int) -> list[Any]:
    """The sort values in a token.

    Raises:
        BadInput: it is not one of ours, or belongs to another query.
    """
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        belongs, packed = msgspec.json.decode(raw, type=tuple[str, list[tuple[str, Any]]])
        values = [float.fromhex(v) if kind == "f" else v for kind, v in packed]
        usable = belongs == query and len(values) == count and all(isinstance(v, str | int | float) for v in values)
        usable = usable and not any(isinstance(v, int) and not -(2**63) <= v < 2**63 for v in values)
    except (ValueError, TypeError, OverflowError, binascii.Error, msgspec.DecodeError):
        usable = False
    if not usable:
        raise BadInput("Invalid page token", hint="pass back next_page_token unchanged, with the same filter and order")
    return values
