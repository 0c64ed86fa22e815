"""What no schema forbids and people should still see: columns that are almost keys, columns that give the label away, rows
that are in both the training and the test table.

Leakage is measured, not guessed from names: one column alone, cut into bins on one half of a sample, is scored on the other
half by the share of the label's variance it explains (for classes: Goodman and Kruskal's tau, the same on one-hot labels).
A key cannot score by learning rows by heart, because its values do not come again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from holdfast.core.errors import BadData, did_you_mean
from holdfast.core.records import Finding
from holdfast.data import tables
from holdfast.data.examples import EXAMPLES, examples, in_micros, plain
from holdfast.data.tables import quote

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

NEARLY = 0.98
"""From this share of values that come once on, a column is almost a key."""
PEEK = 20_000
EXACT = 2_000_000
COUNTED_AT_ONCE = 32
SAMPLE = 50_000
LEAKS = 0.9
"""Explained share of the label's variance from which one column alone is suspected."""
FEWEST = 10
BINS = 64
CLASSES = 20


# --- almost keys ------------------------------------------------------------------------------------------------------


def near_keys(
    connection: duckdb.DuckDBPyConnection, source: str, values: Mapping[str, str], rows: int, label: str
) -> list[Finding]:
    """Columns in which almost every value comes once, and some come again: a key that was broken, or a join that doubled rows.

    Args:
        source: a FROM item.
        values: column name → its SQL, of columns that are not declared unique and could be keys.
        rows: rows of ``source``.
        label: what the messages call it.
    """
    if rows < 100 or not values:
        return []
    # The first rows already show that most columns are none; only the rest are looked at whole.
    inner = ", ".join(f"{sql} AS {quote(name)}" for name, sql in values.items())
    connection.execute(f"CREATE OR REPLACE TEMP TABLE peeked AS SELECT {inner} FROM {source} LIMIT {PEEK}")
    left: dict[str, str] = {}
    for part in _few_at_once(values):
        listed = ", ".join(f"count({quote(n)}), count(DISTINCT {quote(n)})" for n in part)
        seen = tables.one(connection, f"SELECT {listed} FROM peeked")
        left |= {n: part[n] for at, n in enumerate(part) if seen[2 * at] and seen[2 * at + 1] >= NEARLY * seen[2 * at]}
    connection.execute("DROP TABLE peeked")
    for part in _few_at_once(left) if rows > EXACT else []:
        listed = ", ".join(f"count({sql}), approx_count_distinct({sql})" for sql in part.values())
        sketched = tables.one(connection, f"SELECT {listed} FROM {source}")
        # The sketch is off by a few per cent.
        for at, name in enumerate(part):
            if sketched[2 * at + 1] < 0.9 * sketched[2 * at]:
                del left[name]
    found = []
    for name, sql in left.items():
        there, distinct = tables.count_distinct(connection, f"SELECT {sql} AS key FROM {source}", rows)
        if not NEARLY * there <= distinct < there:
            continue
        again = f"SELECT {sql} AS {quote(name)}, count(*) AS times FROM {source} WHERE {sql} IS NOT NULL GROUP BY 1 HAVING count(*) > 1 LIMIT {EXAMPLES}"
        message = f"{label}: {name!r} is almost a key: {there - distinct} of {there} values repeat another; should it be one, say `unique: true`"
        found.append(
            Finding(
                check="near-unique",
                column=name,
                message=message,
                count=there - distinct,
                blocking=False,
                examples=examples(connection, again, None),
            )
        )
    return found


def _few_at_once(columns: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Columns in groups: each count of distinct values holds memory of its own, however few rows there are."""
    names = list(columns)
    for at in range(0, len(names), COUNTED_AT_ONCE):
        yield {name: columns[name] for name in names[at : at + COUNTED_AT_ONCE]}


# --- columns that say little ------------------------------------------------------------------------------------------

SPARSE = 0.05
"""From this share of missing values on, a column is worth a look even where the schema lets them in."""


def idle(
    connection: duckdb.DuckDBPyConnection, source: str, columns: Mapping[str, str], rows: int, label: str
) -> list[Finding]:
    """Columns that have one value in every row, none at all, or many missing ones, at a first look: a schema that was inferred
    from these very rows takes them for what is meant.

    Args:
        columns: name → kind, of the columns the schema has nothing against.
    """
    looked = [name for name, kind in columns.items() if kind not in ("nested", "bytes")]
    if rows < 2 or not looked:
        return []
    said = {
        name: f"CASE WHEN isnan({quote(name)}) THEN NULL ELSE {quote(name)} END"
        if columns[name] == "float"
        else quote(name)
        for name in looked
    }
    listed = ", ".join(f"count({sql}), count({sql}) > 0 AND min({sql}) = max({sql})" for sql in said.values())
    row = tables.one(connection, f"SELECT {listed} FROM {source}")
    found = []
    for at, name in enumerate(looked):
        there, single = int(row[2 * at]), bool(row[2 * at + 1])
        absent = rows - there
        if single and not absent:
            message = f"{label}: {name!r} has the same value in every row"
            found.append(Finding(check="constant", column=name, message=message, count=rows, blocking=False))
        elif absent >= SPARSE * rows:
            rest = ", and the rest is one value" if single else ""
            message = f"{label}: {absent} of {rows} values of {name!r} ({absent / rows:.2%}) are missing{rest}"
            shown = examples(connection, f"SELECT * FROM {source} WHERE {said[name]} IS NULL LIMIT {EXAMPLES}", name)
            found.append(
                Finding(check="missing", column=name, message=message, count=absent, blocking=False, examples=shown)
            )
    return found


MOSTLY = 0.9
"""From this share of cells that read as numbers or times on, a text column is one of those with strays in it."""


def strays(
    connection: duckdb.DuckDBPyConnection, source: str, columns: Sequence[str], label: str
) -> list[Finding]:  # fmt: skip
    """Text columns of which nearly every cell is a number or a time: a few cells made all of it text, and a feature of it
    is none that a model takes.

    Args:
        source: the table with its cells as they are written.
    """
    kinds = {"numbers": "DOUBLE", "times": "TIMESTAMP"}
    if not columns:
        return []
    counts = ", ".join(
        f"count({quote(c)}), " + ", ".join(f"count(TRY_CAST({quote(c)} AS {sql}))" for sql in kinds.values())
        for c in columns
    )
    row = tables.one(connection, f"SELECT {counts} FROM {source}")
    found = []
    for at, column in enumerate(columns):
        there, *fits = (int(n) for n in row[3 * at : 3 * at + 3])
        for (word, sql), fit in zip(kinds.items(), fits, strict=True):
            if MOSTLY * there <= fit < there:
                odd = f"{quote(column)} IS NOT NULL AND TRY_CAST({quote(column)} AS {sql}) IS NULL"
                message = (
                    f"{label}: {there - fit} of {there} values of {column!r} are no {word}, which makes all of it text"
                )
                shown = examples(connection, f"SELECT * FROM {source} WHERE {odd} LIMIT {EXAMPLES}", column)
                found.append(
                    Finding(
                        check="stray", column=column, message=message, count=there - fit, blocking=False, examples=shown
                    )
                )
                break
    return found


# --- leakage ----------------------------------------------------------------------------------------------------------


def leakage(data: Sequence[Path] | pa.Table, label: str, *, ignore: Sequence[str] = ()) -> list[Finding]:
    """Columns that give the label away.

    Args:
        data: table files, or an Arrow table.
        label: the label's column; rows without a label are passed over.
        ignore: columns that may know it (the label's own time, say).

    Raises:
        BadData: there is no such column, or the files cannot be read.
    """
    with tables.connect() as connection:
        source, kinds = _source(connection, data)
        if label not in kinds:
            raise BadData(f"there is no column {label!r}", hint=did_you_mean(label, kinds, kind="column"))
        names = [n for n, kind in kinds.items() if n != label and n not in ignore and kind not in ("nested", "bytes")]
        sample = _sample(connection, source, [label, *names], kinds, label)
    target, wrong = _target(in_micros(sample.select([label]))[label].to_pylist(), kinds[label])
    if wrong is not None:
        return [Finding(check="leakage", column=label, message=wrong, count=sample.num_rows, blocking=False)]
    found = []
    for name in names:
        score = _explained(_column(sample, name, kinds[name]), target)
        if score < LEAKS:
            continue
        message = f"{name!r} alone explains {score:.1%} of {label!r} on {sample.num_rows // 2:,} rows it was not fitted on: is it known at prediction time?"
        shown = [{name: plain(row[name]), label: plain(row[label])} for row in _varied(sample, name, label)]
        found.append(
            Finding(
                check="leakage", column=name, message=message, count=sample.num_rows, blocking=False, examples=shown
            )
        )
    return found


def _source(connection: duckdb.DuckDBPyConnection, data: Sequence[Path] | pa.Table) -> tuple[str, dict[str, str]]:
    if not isinstance(data, Sequence):
        connection.register("given", data)
        rows = connection.execute("DESCRIBE SELECT * FROM given").fetchall()
        return "given", {row[0]: tables.kind(row[1]) for row in rows}
    looked = [tables.describe(connection, file) for file in data]
    return tables.union(looked), {name: kind for table in reversed(looked) for name, kind in table.columns.items()}


def _sample(
    connection: duckdb.DuckDBPyConnection, source: str, names: Sequence[str], kinds: Mapping[str, str], label: str
) -> pa.Table:
    """At most about ``SAMPLE`` labelled rows, drawn evenly over the table, in random order."""
    wanted = f"{quote(label)} IS NOT NULL" + (f" AND NOT isnan({quote(label)})" if kinds[label] == "float" else "")
    try:
        rows = int(tables.one(connection, f"SELECT count(*) FROM {source} WHERE {wanted}")[0])
        part = f" AND random() < {1.0 * SAMPLE / rows!r}" if rows > SAMPLE else ""
        # One thread and a fixed seed: the same table gives the same findings.
        connection.execute("SET threads = 1")
        connection.execute("SELECT setseed(0.5)").fetchall()
        listed = ", ".join(quote(n) for n in names)
        # One row must not come before another by time: the halves are to be alike.
        sql = f"SELECT {listed} FROM (SELECT {listed} FROM {source} WHERE {wanted}{part}) ORDER BY random()"
        return connection.sql(sql).to_arrow_table()
    except duckdb.Error as error:
        raise BadData(f"the table cannot be read: {tables.brief(error)}") from None


def _target(values: list[Any], kind: str) -> tuple[np.ndarray[Any, Any], str | None]:
    """The label as columns of numbers (one a class, or itself), or why it cannot be judged."""
    import numpy as np

    distinct = sorted(set(values), key=str)
    none = np.zeros((0, 0))
    if len(distinct) < 2 or len(values) < 4 * FEWEST:
        return none, f"leakage cannot be judged: {len(values)} labelled rows with {len(distinct)} values"
    if kind in ("int", "float") and len(distinct) > CLASSES:
        return np.asarray(values, dtype=np.float64)[:, None], None
    if len(distinct) > CLASSES:
        return none, f"leakage cannot be judged: the label has {len(distinct)} classes, at most {CLASSES} are"
    place = {value: at for at, value in enumerate(distinct)}
    codes = np.asarray([place[v] for v in values])
    second = np.sort(np.bincount(codes))[::-1][1]
    if second < 2 * FEWEST:
        return (
            none,
            f"leakage cannot be judged: only {second} of {len(values)} rows looked at have another label than the most usual",
        )
    return np.eye(len(distinct))[codes], None


def _column(sample: pa.Table, name: str, kind: str) -> np.ndarray[Any, Any]:
    """Numbers with NaN for missing, or codes (strings, booleans) as negative-free integers of dtype int."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    column = sample[name]
    if kind in ("int", "float"):
        return np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    if kind in ("timestamp", "date", "time"):
        whole = (
            pc.cast(column, pa.timestamp("us"), safe=False)
            if kind != "time"
            else pc.cast(column, pa.time64("us"), safe=False)
        )
        return np.asarray(
            pc.cast(pc.cast(whole, pa.int64()), pa.float64(), safe=False).to_numpy(zero_copy_only=False),
            dtype=np.float64,
        )
    encoded = pc.cast(column, pa.string()).combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.asarray(codes, dtype=np.int64)


def _explained(column: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> float:
    """Share of the second half's label variance that bins of the first half explain."""
    import numpy as np

    half = len(column) // 2
    if column.dtype == np.int64:
        counts = np.bincount(column[:half] + 1, minlength=int(column.max()) + 2)
        often = np.where(counts >= 5, np.arange(len(counts)), len(counts))
        often[0] = 0  # missing is a value of its own
        bins = often[column + 1]
        many = len(counts) + 1
    else:
        there = ~np.isnan(column)
        first = column[:half][there[:half]]
        if not len(first):
            return 0.0
        parts = [np.quantile(first, np.linspace(0, 1, BINS + 1))]
        if target.shape[1] > 1:
            # A rare class has its place in the tails, where quantiles of all rows are too coarse.
            for one in range(target.shape[1]):
                mine = column[:half][there[:half] & (target[:half, one] == 1)]
                if len(mine):
                    parts.append(np.quantile(mine, np.linspace(0, 1, 17)))
        edges = np.unique(np.concatenate(parts))
        bins = np.where(there, 1 + np.searchsorted(edges, np.where(there, column, 0.0), side="left"), 0)
        many = len(edges) + 2
        # A bin the first half left empty belongs to its nearest neighbour.
        used = np.flatnonzero(np.bincount(bins[:half], minlength=many)[1:]) + 1
        nearest = used[np.abs(np.arange(many)[:, None] - used[None, :]).argmin(axis=1)]
        nearest[0] = 0
        bins = nearest[bins]
    total = np.bincount(bins[:half], minlength=many)
    mean = target[:half].mean(axis=0)
    error = spread = 0.0
    for one in range(target.shape[1]):
        sums = np.bincount(bins[:half], weights=target[:half, one], minlength=many)
        guess = np.where(total > 0, sums / np.maximum(total, 1), mean[one])
        error += float(((target[half:, one] - guess[bins[half:]]) ** 2).sum())
        spread += float(((target[half:, one] - target[half:, one].mean()) ** 2).sum())
    return 1.0 - error / spread if spread > 0 else 0.0


def _varied(sample: pa.Table, name: str, label: str) -> list[dict[str, Any]]:
    """A few rows with different labels."""
    seen: dict[str, dict[str, Any]] = {}
    for row in in_micros(sample.select([name, label]).slice(0, 2000)).to_pylist():
        seen.setdefault(str(row[label]), row)
        if len(seen) == EXAMPLES:
            break
    return list(seen.values())


# --- train and test ---------------------------------------------------------------------------------------------------


def overlap(
    train: Sequence[Path], test: Sequence[Path], *, key: Sequence[str] = (), ignore: Sequence[str] = ()
) -> list[Finding]:
    """Rows of the test table that are in the training table too.

    Args:
        key: columns whose values must not be in both (a customer, a time); then a repeat blocks. Without it whole rows are
            compared over the columns both have, and a repeat is told.
        ignore: columns that do not make a row another one (a row number).

    Raises:
        BadData: a column is not in both tables, or a file cannot be read.
    """
    with tables.connect() as connection:
        there, here = ([tables.describe(connection, file) for file in files] for files in (train, test))
        left = {name: kind for table in there for name, kind in table.columns.items()}
        right = {name: kind for table in here for name, kind in table.columns.items()}
        for name in key:
            if name not in left or name not in right:
                raise BadData(
                    f"the key {name!r} is not in both tables",
                    hint=did_you_mean(name, left if name not in left else right, kind="column"),
                )
        names = list(key) or [n for n in right if n in left and n not in ignore]
        if not names:
            raise BadData("the two tables have no column in common", hint="are these the right files?")
        a, b = tables.union(there), tables.union(here)
        try:
            return _overlapping(connection, a, b, names, left, right, blocking=bool(key))
        except duckdb.Error as error:
            raise BadData(f"a table cannot be read: {tables.brief(error)}") from None


def _overlapping(
    connection: duckdb.DuckDBPyConnection, train: str, test: str, names: Sequence[str], left: Mapping[str, str],
    right: Mapping[str, str], *, blocking: bool,
) -> list[Finding]:  # fmt: skip
    def named(kinds: Mapping[str, str]) -> str:
        # The same number must hash the same, whatever its width in either file.
        wide = {"int": "BIGINT", "float": "DOUBLE"}
        parts = []
        for name in names:
            both = {left[name], right[name]}
            cast = "DOUBLE" if both == {"int", "float"} else wide.get(kinds[name], "VARCHAR")
            parts.append(f"CAST({quote(name)} AS {cast})")
        return f"hash({', '.join(parts)})"

    mine, theirs = named(right), named(left)
    inner = f"SELECT {theirs} FROM {train} WHERE {theirs} IN (SELECT {mine} FROM {test})"
    rows = int(tables.one(connection, f"SELECT count(*) FROM {test}")[0])
    count = int(tables.one(connection, f"SELECT count(*) FROM {test} WHERE {mine} IN ({inner})")[0])
    if not count:
        return []
    shown = examples(connection, f"SELECT * FROM {test} WHERE {mine} IN ({inner}) LIMIT {EXAMPLES}", None)
    by = f"by {', '.join(names)}" if blocking else f"over {len(names)} columns"
    message = f"{count} of {rows} test rows ({count / rows:.2%}) are in the training table too, compared {by}"
    return [Finding(check="overlap", column=None, message=message, count=count, blocking=blocking, examples=shown)]
