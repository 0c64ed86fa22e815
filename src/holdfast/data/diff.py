"""Two versions of a dataset beside each other: which files, and for tables which rows, columns and distributions."""

from __future__ import annotations

from pathlib import Path

import duckdb
import msgspec

from holdfast.core.errors import BadInput, NotFound
from holdfast.data import cache as caches
from holdfast.data import history, log, snapshot, tables
from holdfast.data.cache import Cache
from holdfast.data.pointers import Out
from holdfast.data.repository import Repository
from holdfast.data.tables import Table, quote


class Moved(msgspec.Struct, frozen=True):
    """How one column's distribution moved: missing share and, for numbers, mean and the largest gap between the two
    distribution functions (KS); for others the total variation over values."""

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


def between(
    repo: Repository, place: Path, before: str = "HEAD", after: str | None = None, *, key: str | None = None
) -> Diff:
    """Compare a tracked path at two revisions; without ``after`` with the workspace.

    Raises:
        NotFound: a revision does not track it, or its bytes are not in the cache.
        BadInput: the key is not a column of both.
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
    table = None
    if (added or removed or changed) and (stored := log.stored(cache, then)):
        from holdfast.data import names

        table = _tables(stored, [(n, p) for n, p in files_after if names.is_table(Path(n))], key)
    return Diff(str(place.relative_to(repo.root)), then.md5, name, added, removed, changed, table)


def _required(out: Out | None, place: Path, revision: str) -> Out:
    if out is None or out.md5 is None:
        raise NotFound(f"{place.name} is not tracked at {revision}", hint="see its versions with `holdfast data log`")
    return out


def _members(cache: Cache, out: Out) -> dict[str, str]:
    return cache.members(str(out.md5), legacy=out.legacy) if out.is_folder else {out.place.name: str(out.md5)}


def _tables(before: list[tuple[str, str]], after: list[tuple[str, str]], key: str | None) -> TableDiff | None:
    if not before or not after:
        return None
    with tables.connect() as connection:
        try:
            old = [tables.describe_as(connection, Path(p), n) for n, p in before]
            new = [tables.describe_as(connection, Path(p), n) for n, p in after]
            return _compare(connection, old, new, key)
        except duckdb.Error:
            return None


def _compare(connection: duckdb.DuckDBPyConnection, old: list[Table], new: list[Table], key: str | None) -> TableDiff:
    mine = {c: k for t in old for c, k in t.columns.items()}
    theirs = {c: k for t in new for c, k in t.columns.items()}
    a = tables.relation([t.path for t in old], text=old[0].text)
    b = tables.relation([t.path for t in new], text=new[0].text)
    both = [c for c in mine if c in theirs and mine[c] == theirs[c]]
    if key is not None and key not in both:
        raise BadInput(f"{key!r} is not a column of both versions", hint=f"columns of both: {', '.join(both[:8])}")
    rows = (
        int(tables.one(connection, f"SELECT count(*) FROM {a}")[0]),
        int(tables.one(connection, f"SELECT count(*) FROM {b}")[0]),
    )
    key = key or _key(connection, a, b, both, mine, rows)
    listed = ", ".join(quote(c) for c in both) or "1"
    changed = None
    if key is not None:
        k = quote(key)
        sql = (
            f"SELECT count(*) FILTER (WHERE x.h IS NULL), count(*) FILTER (WHERE y.h IS NULL), count(*) FILTER (WHERE x.h <> y.h) "
            f"FROM (SELECT {k} k, hash({listed}) h FROM {a}) x FULL JOIN (SELECT {k} k, hash({listed}) h FROM {b}) y ON x.k = y.k"
        )
        added, removed, changed = (int(n) for n in tables.one(connection, sql))
    else:
        sql = (
            f"SELECT coalesce(sum(greatest(m - n, 0)), 0), coalesce(sum(greatest(n - m, 0)), 0) FROM (SELECT h, sum(o) n, sum(w) m FROM "
            f"(SELECT hash({listed}) h, 1 o, 0 w FROM {a} UNION ALL SELECT hash({listed}), 0, 1 FROM {b}) GROUP BY h)"
        )
        added, removed = (int(n) for n in tables.one(connection, sql))
    return TableDiff(
        rows, added, removed, changed, [c for c in theirs if c not in mine], [c for c in mine if c not in theirs],
        {c: (mine[c], theirs[c]) for c in mine if c in theirs and mine[c] != theirs[c]},
        [_moved(connection, a, b, c, mine[c], rows) for c in both if mine[c] in ("int", "float", "string", "bool")], key,
    )  # fmt: skip


def _key(
    connection: duckdb.DuckDBPyConnection, a: str, b: str, both: list[str], kinds: dict[str, str], rows: tuple[int, int]
) -> str | None:
    """The first column that names each row once on both sides."""
    for column in both[:8]:
        if kinds[column] in ("int", "string") and all(
            int(tables.one(connection, f"SELECT count(DISTINCT {quote(column)}) FROM {side}")[0]) == count
            for side, count in ((a, rows[0]), (b, rows[1]))
        ):
            return column
    return None


def _moved(
    connection: duckdb.DuckDBPyConnection, a: str, b: str, column: str, kind: str, rows: tuple[int, int]
) -> Moved:
    q = quote(column)
    value = f"CASE WHEN isnan({q}) THEN NULL ELSE {q} END" if kind == "float" else q
    there = [int(tables.one(connection, f"SELECT count({value}) FROM {side}")[0]) for side in (a, b)]
    missing = tuple(1 - n / max(1, total) for n, total in zip(there, rows, strict=True))
    if not all(there):
        return Moved(column, (missing[0], missing[1]))
    mean = None
    if kind in ("int", "float"):
        found = [float(tables.one(connection, f"SELECT avg({value}) FROM {side}")[0]) for side in (a, b)]
        mean = (found[0], found[1])
        gap = "max(abs(f))"
        inner = "SELECT v, sum(sum(d)) OVER (ORDER BY v) f FROM both_sides GROUP BY v"
    else:
        gap = "sum(abs(f)) / 2"
        inner = "SELECT v, sum(d) f FROM both_sides GROUP BY v"
    sql = (
        f"WITH both_sides AS (SELECT {value} v, -1.0 / {there[0]} d FROM {a} WHERE {value} IS NOT NULL "
        f"UNION ALL SELECT {value}, 1.0 / {there[1]} FROM {b} WHERE {value} IS NOT NULL) SELECT {gap} FROM ({inner})"
    )
    return Moved(column, (missing[0], missing[1]), mean, round(float(tables.one(connection, sql)[0]), 6))
