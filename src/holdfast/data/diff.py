"""Two versions of a dataset beside each other: which files, and for tables which rows, columns and distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import msgspec

from holdfast.core.errors import BadInput, NotFound
from holdfast.data import cache as caches
from holdfast.data import dialect, history, log, snapshot, tables
from holdfast.data.cache import Cache
from holdfast.data.pointers import Out
from holdfast.data.repository import Repository
from holdfast.data.tables import quote


class Moved(msgspec.Struct, frozen=True):
    """How one column's distribution moved: missing share, the mean of numbers, and the largest gap between the two distribution
    functions (KS) of numbers and times; for others the total variation over values."""

    column: str
    missing: tuple[float, float]
    mean: tuple[float | None, float | None] | None = None
    distance: float | None = None


class TableDiff(msgspec.Struct, frozen=True):
    """Rows by key where one is known (``changed`` are rows of one key that differ), else whole rows."""

    rows: tuple[int, int]
    added: int
    removed: int
    changed: int | None
    columns_added: list[str]
    columns_removed: list[str]
    types_changed: dict[str, tuple[str, str]]
    moved: list[Moved]
    key: str | None = None


class Diff(msgspec.Struct, frozen=True):
    """Files added, removed and changed between two versions, and the table's difference where they are tables."""

    path: str
    before: str | None
    after: str | None
    added: list[str]
    removed: list[str]
    changed: list[str]
    table: TableDiff | None = None
    unread: str | None = None  # why tables of the two were not compared


def between(
    repo: Repository, place: Path, before: str = "HEAD", after: str | None = None, *, key: str | None = None
) -> Diff:
    """Compare a tracked path at two revisions; without ``after`` with the workspace.

    Raises:
        NotFound: a revision does not track it, or its bytes are not in the cache.
        BadInput: the key is not a column of both, or does not name a row.
    """
    cache = caches.of(repo)
    then = _required(history.at_revision(repo, before, place), place, before)
    old = _members(cache, then)
    if after is None:
        taken = snapshot.take(place, repo=repo, md5_only=True)
        new, name = taken.members, taken.md5
        files_after = [(p, str(place / p if taken.is_folder else place)) for p in sorted(new)]
    else:
        now = _required(history.at_revision(repo, after, place), place, after)
        new, name = _members(cache, now), str(now.md5)
        files_after = log.stored(cache, now)
    added, removed = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
    changed = sorted(p for p in new if p in old and new[p] != old[p])
    table, unread = None, None
    if (added or removed or changed) and (stored := log.stored(cache, then)):
        from holdfast.data import names

        try:
            table = _tables(stored, [(n, p) for n, p in files_after if names.is_table(Path(n))], key)
        except duckdb.Error as error:
            unread = _why([(n, Path(p)) for n, p in (*stored, *files_after) if names.is_text(n)], error)
    return Diff(str(place.relative_to(repo.root)), then.md5, name, added, removed, changed, table, unread)


def _required(out: Out | None, place: Path, revision: str) -> Out:
    if out is None or out.md5 is None:
        raise NotFound(f"{place.name} is not tracked at {revision}", hint="see its versions with `holdfast data log`")
    return out


def _members(cache: Cache, out: Out) -> dict[str, str]:
    return cache.members(str(out.md5), legacy=out.legacy) if out.is_folder else {out.place.name: str(out.md5)}


@dataclass(frozen=True)
class _Side:
    """One version's rows as a FROM item: how many, and the kind of every column."""

    source: str
    rows: int
    columns: dict[str, str]


def _tables(before: list[tuple[str, str]], after: list[tuple[str, str]], key: str | None) -> TableDiff | None:
    from holdfast.data import names

    if not before or not after:
        return None
    with tables.connect() as connection:
        for as_text in (False, True):
            try:
                old, new = _side(connection, before, as_text), _side(connection, after, as_text)
                apart = [
                    c for c, mine in old.columns.items()
                    if c in new.columns and mine != new.columns[c] and _alike(c, mine, new.columns[c])[1] == "string"
                ]  # fmt: skip
                if apart and not as_text and all(names.is_text(n) for n, _ in (*before, *after)):
                    # One stray cell makes a column of numbers or truth values text; the others are still what they were.
                    old = replace(old, source=_source(before, written=apart))
                    new = replace(new, source=_source(after, written=apart))
                return _compare(connection, old, new, key)
            except duckdb.Error:
                if as_text:
                    raise
                # CSV whose types do not hold to the end is compared as it is written
    return None


def _why(files: list[tuple[str, Path]], error: duckdb.Error) -> str:
    """What is wrong with the first of the text files that has an odd line, or what the engine says."""
    odd = ((name, dialect.odd_line(file, dialect.of(file))) for name, file in files)
    return next((f"{name}: {wrong}" for name, wrong in odd if wrong), None) or tables.brief(error)


def _source(files: list[tuple[str, str]], *, as_text: bool = False, written: Sequence[str] = ()) -> str:
    from holdfast.data import names

    text = [Path(p) for n, p in files if names.is_text(n)]
    rest = [Path(p) for n, p in files if not names.is_text(n)]
    read = [tables.relation(rest)] if rest else []
    read += [tables.relation(text, text=True, as_text=as_text, written=written)] if text else []
    return (
        read[0] if len(read) == 1 else "(" + " UNION ALL BY NAME ".join(f"SELECT * FROM {part}" for part in read) + ")"
    )


def _side(connection: duckdb.DuckDBPyConnection, files: list[tuple[str, str]], as_text: bool) -> _Side:
    from holdfast.data import names

    text = any(names.is_text(n) for n, _ in files)
    source = _source(files, as_text=as_text)
    described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    rows = int(tables.one(connection, f"SELECT count(*) FROM {source}")[0])
    # A CSV file without rows says nothing of its types.
    unknown = "null" if text and not rows else None
    return _Side(source, rows, {row[0]: unknown or tables.kind(row[1]) for row in described})


_AS = {"int": "HUGEINT", "float": "DOUBLE", "string": "VARCHAR", "timestamp": "TIMESTAMPTZ"}


def _alike(column: str, mine: str, theirs: str) -> tuple[str, str]:
    """A column as SQL and its kind, in a form that is the same on both sides where the value is: a number of another width,
    or one that was whole before, is no change."""
    if "null" in (mine, theirs):
        mine = theirs = theirs if mine == "null" else mine
    if mine == theirs:
        kind = mine
    elif {mine, theirs} == {"int", "float"}:
        kind = "float"
    elif {mine, theirs} == {"date", "timestamp"}:
        kind = "timestamp"
    else:
        kind = "string"
    return (f"CAST({quote(column)} AS {_AS[kind]})" if kind in _AS else quote(column)), kind


def _compare(connection: duckdb.DuckDBPyConnection, old: _Side, new: _Side, key: str | None) -> TableDiff:
    both = {c: _alike(c, old.columns[c], new.columns[c]) for c in old.columns if c in new.columns}
    if key is not None and key not in both:
        raise BadInput(
            f"{key!r} is not a column of both versions", hint=f"columns of both: {', '.join(list(both)[:8])}"
        )
    if key is not None:
        _refuse_repeats(connection, old, new, key, both[key][0])
    else:
        key = _key(connection, old, new, both)
    listed = ", ".join(sql for sql, _ in both.values()) or "1"
    changed = None
    if key is not None:
        k = both[key][0]
        sql = (
            f"SELECT count(*) FILTER (WHERE x.h IS NULL), count(*) FILTER (WHERE y.h IS NULL), count(*) FILTER (WHERE x.h <> y.h) "
            f"FROM (SELECT {k} k, hash({listed}) h FROM {old.source}) x "
            f"FULL JOIN (SELECT {k} k, hash({listed}) h FROM {new.source}) y ON x.k = y.k"
        )
        added, removed, changed = (int(n) for n in tables.one(connection, sql))
    else:
        sql = (
            f"SELECT coalesce(sum(greatest(m - n, 0)), 0), coalesce(sum(greatest(n - m, 0)), 0) FROM (SELECT h, sum(o) n, sum(w) m FROM "
            f"(SELECT hash({listed}) h, 1 o, 0 w FROM {old.source} UNION ALL SELECT hash({listed}), 0, 1 FROM {new.source}) GROUP BY h)"
        )
        added, removed = (int(n) for n in tables.one(connection, sql))
    mine, theirs = old.columns, new.columns
    return TableDiff(
        (old.rows, new.rows), added, removed, changed, [c for c in theirs if c not in mine], [c for c in mine if c not in theirs],
        {c: (mine[c], theirs[c]) for c in both if mine[c] != theirs[c] and "null" not in (mine[c], theirs[c])},
        [_moved(connection, old, new, c, sql, kind) for c, (sql, kind) in both.items() if kind not in ("bytes", "nested", "null")], key,
    )  # fmt: skip


def _refuse_repeats(connection: duckdb.DuckDBPyConnection, old: _Side, new: _Side, key: str, value: str) -> None:
    for side, word in ((old, "before"), (new, "after")):
        there = int(tables.one(connection, f"SELECT count(DISTINCT {value}) FROM {side.source}")[0])
        if there != side.rows:
            raise BadInput(
                f"{key!r} does not name a row: the version {word} has {side.rows} rows and {there} values of it",
                hint="name another column, or leave --key away: whole rows are compared then",
            )


def _key(connection: duckdb.DuckDBPyConnection, old: _Side, new: _Side, both: dict[str, tuple[str, str]]) -> str | None:
    """The column that names each row once on both sides; of several the one that finds most rows again."""
    best, most = None, -1
    for column, (value, kind) in list(both.items())[:8]:
        if kind in ("int", "string") and all(
            int(tables.one(connection, f"SELECT count(DISTINCT {value}) FROM {side.source}")[0]) == side.rows
            for side in (old, new)
        ):
            again = int(
                tables.one(
                    connection,
                    f"SELECT count(*) FROM (SELECT {value} k FROM {old.source}) x SEMI JOIN (SELECT {value} k FROM {new.source}) y ON x.k = y.k",
                )[0]
            )
            if again > most:
                best, most = column, again
    return best


def _moved(connection: duckdb.DuckDBPyConnection, old: _Side, new: _Side, column: str, value: str, kind: str) -> Moved:
    if kind == "float":
        value = f"CASE WHEN isnan({value}) THEN NULL ELSE {value} END"
    there = [int(tables.one(connection, f"SELECT count({value}) FROM {side.source}")[0]) for side in (old, new)]
    missing = tuple(1 - n / side.rows if side.rows else 0.0 for n, side in zip(there, (old, new), strict=True))
    if not all(there):
        return Moved(column, (missing[0], missing[1]))
    mean = None
    if kind in ("int", "float"):
        found = [
            float(tables.one(connection, f"SELECT avg(CAST({value} AS DOUBLE)) FROM {side.source}")[0])
            for side in (old, new)
        ]
        mean = (found[0], found[1])
    if kind in ("string", "bool"):
        gap = "sum(abs(f)) / 2"
        inner = "SELECT v, sum(d) f FROM both_sides GROUP BY v"
    else:
        gap = "max(abs(f))"
        inner = "SELECT v, sum(sum(d)) OVER (ORDER BY v) f FROM both_sides GROUP BY v"
    sql = (
        f"WITH both_sides AS (SELECT {value} v, -1.0 / {there[0]} d FROM {old.source} WHERE {value} IS NOT NULL "
        f"UNION ALL SELECT {value}, 1.0 / {there[1]} FROM {new.source} WHERE {value} IS NOT NULL) SELECT {gap} FROM ({inner})"
    )
    return Moved(column, (missing[0], missing[1]), mean, round(float(tables.one(connection, sql)[0]), 6))
