"""Letting data in. A delivery is checked before anything downstream sees a row; one that fails is set aside and the version
before it stays current.

The ledger's table ``datasets`` holds, per source, the current version, its member files and what is in quarantine.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from holdfast.core.definitions import Source
from holdfast.core.errors import BadData, NotFound
from holdfast.core.identity import DAY, check_name
from holdfast.core.ports import Ledger, Progress
from holdfast.core.records import DatasetVersion, Finding, Record
from holdfast.data import cache as caches
from holdfast.data import names, repository, snapshot
from holdfast.data import schema as schemas
from holdfast.data.checks import Checked, run, without_examples
from holdfast.data.hashing import same_bytes
from holdfast.data.repository import Repository
from holdfast.data.schema import TableSchema
from holdfast.data.snapshot import Snapshot
from holdfast.data.tables import Table

TABLE = "datasets"
HISTORY = 24


class Member(Record, frozen=True):
    """One admitted file: its path inside the folder (or its name), both hashes, bytes, rows."""

    path: str
    md5: str
    sha256: str
    size: int
    rows: int | None = None


class Quarantined(Record, frozen=True):
    """One file that was kept out, under which schema, and why."""

    path: str
    sha256: str
    size: int
    schema: str
    at: int
    findings: list[Finding]


class Seen(Record, frozen=True):
    """One admitted delivery: when, and the instant of its newest row (µs)."""

    at: int
    newest: int


class Admitted(Record, frozen=True):
    """The row of a source in the ledger's table. ``history`` are row counts of earlier versions, ``deliveries`` how fresh
    each was; both oldest first."""

    current: DatasetVersion | None = None
    members: list[Member] = msgspec.field(default_factory=list)
    quarantined: list[Quarantined] = msgspec.field(default_factory=list)
    history: list[int] = msgspec.field(default_factory=list)
    deliveries: list[Seen] = msgspec.field(default_factory=list)


def check(
    path: Path,
    schema: TableSchema | Any,
    *,
    history: Sequence[int] | None = None,
    files: Sequence[Path] | None = None,
    at: int | None = None,
    survey: bool = False,
) -> list[Finding]:
    """Check the table at ``path`` (or only ``files`` of it) against a schema of ours or a pandera schema.

    ``history`` are the row counts of earlier deliveries; ``at`` is the instant freshness is judged at; with ``survey``
    constant and sparse columns are told even where the schema lets them in.

    Raises:
        BadData: there is no table to check.
    """
    chosen = list(files) if files is not None else names.tables_in(path)
    if not chosen:
        raise BadData(f"{path} holds no table to check", hint="parquet and CSV files can be checked")
    if isinstance(schema, TableSchema):
        base = path if path.is_dir() else None
        return run(chosen, schema, history=history or (), at=at, base=base, survey=survey).findings
    from holdfast.data import declared

    return declared.check(chosen, schema, base=path if path.is_dir() else None)


def state(ledger: Ledger, source_name: str) -> Admitted:
    """What the ledger knows of a source; empty when it was never admitted."""
    row = ledger.get(TABLE, source_name)
    return msgspec.convert(row, Admitted) if row is not None else Admitted()


def current(ledger: Ledger, source_name: str) -> DatasetVersion | None:
    """The admitted version of a source, or None."""
    return state(ledger, source_name).current


def members(ledger: Ledger, root: Path, source_name: str) -> list[Path]:
    """Exactly the files of the admitted version. One that was changed or removed in the workspace since is given back from
    the cache, under ``.holdfast/datasets``.

    Raises:
        NotFound: nothing was admitted, or an admitted file is in neither place.
    """
    row = state(ledger, source_name)
    if row.current is None:
        raise NotFound(f"no version of {source_name!r} was admitted", hint="admit one with `holdfast data add PATH`")
    place = snapshot.locate(root, Path(row.current.path))
    repo = repository.find(place.parent)
    whole = row.current.md5.endswith(".dir")
    now = snapshot.take(place, repo=repo).members if place.exists() and place.is_dir() == whole else {}
    return [
        _place_of(member, place / member.path if whole else place, now.get(member.path), repo, root, source_name)
        for member in row.members
    ]


def _place_of(member: Member, file: Path, now: str | None, repo: Repository | None, root: Path, source: str) -> Path:
    if now == member.md5:
        return file
    kept = root / ".holdfast" / "datasets" / source / member.md5 / Path(member.path).name
    if same_bytes(kept, member.md5):
        return kept
    cache = caches.of(repo) if repo else None
    if cache is None or not cache.has(member.md5):
        raise NotFound(
            f"{member.path} of {source!r} changed since it was admitted, and its bytes are not in the cache",
            hint="get them with `holdfast data pull`",
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    cache.link_into(cache.path(member.md5), str(kept), ("reflink", "hardlink", "copy"))
    return kept


# --- admission --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Delivery:
    """What is new at a path beside what was admitted."""

    taken: Snapshot
    fresh: list[str]
    kept: list[Member]
    aside: list[Quarantined]


def admit(
    root: Path,
    ledger: Ledger,
    source_name: str,
    path: Path,
    *,
    at: int,
    actor: str,
    source: Source | None = None,
    progress: Progress | None = None,
    tell: Callable[[list[Finding]], None] | None = None,
) -> DatasetVersion:
    """Check what is new at ``path`` and make it the current version of the source; only new bytes are read.

    A file that was set aside before is passed over until its bytes or the schema change. The schema is inferred at the first
    admission and kept beside the path; ``source`` may declare more of it. ``tell`` is given all findings, with example rows,
    before anything is decided.

    Raises:
        BadData: a blocking finding; the files are in quarantine and the version before stays current.
        NotFound, BadInput, Conflict: as ``snapshot.add``.
    """
    check_name(source_name, "dataset")
    started = time.perf_counter()
    place = snapshot.locate(root, path)
    repo = snapshot.repository_for(place)
    owner = snapshot.check_addable(repo, place)
    before = state(ledger, source_name)
    with repo.lock(wait=30):
        taken = snapshot.take(place, repo=repo, progress=progress)
        rules = _rules(place, source)
        delivery = _compare(taken, before, rules.key)
        if not delivery.fresh and before.current is not None and len(delivery.kept) == len(before.members):
            if delivery.aside != before.quarantined:  # a bad file was taken away, or the good one put back
                left = msgspec.structs.replace(before, quarantined=delivery.aside)
                with ledger.transaction() as tx:
                    tx.put(TABLE, source_name, msgspec.to_builtins(left))
                write_notice(root, source_name, left, place)
            return before.current
        checked = _check(place, delivery, rules, before, at, repo, is_folder=taken.is_folder)
        if tell is not None:
            tell(checked.findings)
        if any(f.blocking for f in checked.findings) or not (delivery.fresh or delivery.kept):
            raise _set_aside(root, ledger, source_name, delivery, rules, before, checked.findings, at, actor)
        everything = snapshot.take(place, repo=repo, keep=caches.of(repo), links=repo.links, progress=progress)
        _unchanged(everything, taken, delivery)
        rows = _rows(checked, place, taken.is_folder)
        fresh = [_member(everything, name, rows.get(name)) for name in delivery.fresh]
        listed = sorted([*delivery.kept, *fresh], key=lambda m: m.path)
        admitted = (
            snapshot.assembled(place, [(m.path, m.md5, m.sha256, m.size) for m in listed])
            if taken.is_folder
            else everything
        )
        key = _rules(place, source).key
        version = admitted.version(
            source_name, os.path.relpath(place, root), at=at, rows=_total(listed), schema=key or None
        )
        snapshot.commit(repo, admitted, owner)
        history = [*before.history, *([version.rows] if version.rows else [])][-HISTORY:]
        seen = [Seen(at=at, newest=checked.newest)] if checked.newest is not None else []
        after = Admitted(
            current=version, members=listed, quarantined=delivery.aside, history=history,
            deliveries=[*before.deliveries, *seen][-HISTORY:],
        )  # fmt: skip
        body = {
            "md5": version.md5, "sha256": version.sha256, "size": version.size, "files": version.files, "rows": version.rows,
            "schema": version.schema, "previous": before.current.sha256 if before.current else None,
            "new_files": [m.path for m in fresh][:100], "new_file_count": len(fresh), "checked_bytes": sum(m.size for m in fresh),
            "read_files": len(taken.fresh), "seconds": round(time.perf_counter() - started, 3), "findings": without_examples(checked.findings),
        }  # fmt: skip
        _record(root, ledger, source_name, after, "dataset.admitted", body, at, actor, place)
    return version


@dataclass(frozen=True)
class _Rules:
    """What a delivery must satisfy: the kept schema, and what the source declares."""

    schema: TableSchema | None
    declared: Any
    key: str


def _rules(place: Path, source: Source | None) -> _Rules:
    kept = schemas.load(place)
    return _Rules(kept, source.schema if source is not None else None, kept.version if kept is not None else "")


def _compare(taken: Snapshot, before: Admitted, key: str) -> _Delivery:
    known = {(m.path, m.sha256): m for m in before.members}
    aside = {(q.path, q.sha256): q for q in before.quarantined if q.schema == key}
    fresh, kept, still = [], [], []
    for name, sha256, _ in taken.triples:
        member, quarantined = known.get((name, sha256)), aside.get((name, sha256))
        if member is not None:
            kept.append(member)
        elif quarantined is not None:
            still.append(quarantined)
        else:
            fresh.append(name)
    # A bad file that was written over an admitted one does not take that one away.
    over = {q.path for q in still}
    kept += [m for m in before.members if m.path in over]
    return _Delivery(taken, fresh, kept, still)


def _check(
    place: Path, delivery: _Delivery, rules: _Rules, before: Admitted, at: int, repo: Repository, *, is_folder: bool
) -> Checked:
    files = [place / name if is_folder else place for name in delivery.fresh]
    files = [file for file in files if names.is_table(file)]
    if not files:
        return Checked([], {})
    if rules.schema is None:
        # First sight: there is nothing to hold it against but what was declared, and itself.
        return _first(place, files, rules, at)
    history = _history(delivery, before) if is_folder else before.history
    beside = (
        _beside(place, delivery, repo) if is_folder and any(c.unique for c in rules.schema.columns.values()) else []
    )
    checked = run(files, rules.schema, history=history, at=at, base=place if is_folder else None, beside=beside)
    found = [*checked.findings, *late(checked.newest, before.deliveries, at), *_declared(files, rules.declared, place)]
    return Checked(found, checked.rows, checked.newest, checked.oldest)


def _history(delivery: _Delivery, before: Admitted) -> list[int]:
    """Rows of a folder's earlier deliveries: of its files that stay, or, where one file takes another's place at each
    pull, of the versions before."""
    stays = [m.rows for m in delivery.kept if m.rows]
    if not stays and len(delivery.fresh) == 1 and len(before.members) == 1:
        return before.history
    return stays


def _beside(place: Path, delivery: _Delivery, repo: Repository) -> list[Table]:
    """The bytes of the tables that stay, wherever they are now; one that is nowhere here cannot be looked into."""
    now, cache = delivery.taken.members, caches.of(repo)
    over = set(delivery.fresh)
    found = []
    for member in delivery.kept:
        if member.path in over or not names.is_table(Path(member.path)):
            continue
        if now.get(member.path) == member.md5:
            found.append(Table(place / member.path, {}, names.is_text(member.path)))
        elif cache.has(member.md5):
            found.append(Table(Path(cache.path(member.md5)), {}, names.is_text(member.path)))
    return found


def late(newest: int | None, deliveries: Sequence[Seen], at: int) -> list[Finding]:
    """A delivery's freshness against the ones before it: no newer row than they had, or much older on arrival than any was.

    Args:
        newest: instant of its newest row (µs); None when it has no time column.
        at: when it arrived (µs).
    """
    if newest is None or not deliveries:
        return []
    most = max(d.newest for d in deliveries)
    if newest <= most:
        message = (
            f"the newest row is of {schemas.when(newest)}, no newer than the {schemas.when(most)} that was there before"
        )
        return [Finding(check="freshness", column=None, message=message, count=1, blocking=False)]
    # A backfill is old by intent and says nothing about how late news usually is.
    tops = list(itertools.accumulate((d.newest for d in deliveries), max))
    ages = [d.at - d.newest for d, top in zip(deliveries, tops, strict=True) if d.at > d.newest == top]
    age = at - newest
    if len(ages) >= 3 and age > 2 * max(ages):
        message = f"the newest row was {age / DAY:.1f} days old on arrival; in {len(ages)} deliveries before at most {max(ages) / DAY:.1f}"
        return [Finding(check="freshness", column=None, message=message, count=1, blocking=False)]
    return []


def _first(place: Path, files: list[Path], rules: _Rules, at: int) -> Checked:
    found = _declared(files, rules.declared, place)
    if any(f.blocking for f in found):
        return Checked(found, {})
    try:
        schema = schemas.infer(place, files=files)
    except BadData as error:
        return Checked(
            [*found, Finding(check="readable", column=None, message=error.message, count=1, blocking=True)], {}
        )
    checked = run(files, schema, at=at, base=place if place.is_dir() else None, survey=True)
    if not any(f.blocking for f in checked.findings):
        schemas.save(place, schema)
    return Checked([*found, *checked.findings], checked.rows, checked.newest, checked.oldest)


def _declared(files: list[Path], declared: Any, place: Path) -> list[Finding]:
    if declared is None:
        return []
    schema = schemas.declared(declared) if isinstance(declared, dict) else declared
    return check(place, schema, files=files)


def _set_aside(
    root: Path, ledger: Ledger, name: str, delivery: _Delivery, rules: _Rules, before: Admitted, findings: list[Finding], at: int, actor: str
) -> BadData:  # fmt: skip
    """Record the quarantine; the error to raise."""
    sizes = {path: (sha256, size) for path, sha256, size in delivery.taken.triples}
    key = rules.key
    new = [
        Quarantined(
            path=p,
            sha256=sizes[p][0],
            size=sizes[p][1],
            schema=key,
            at=at,
            findings=_of_file(findings, p, delivery.fresh),
        )
        for p in delivery.fresh
    ]
    after = msgspec.structs.replace(before, quarantined=[*delivery.aside, *new])
    body = {
        "files": [{"path": q.path, "sha256": q.sha256, "size": q.size} for q in new][:100], "file_count": len(new),
        "findings": without_examples(findings), "current": before.current.sha256 if before.current else None,
    }  # fmt: skip
    if new:
        _record(root, ledger, name, after, "dataset.quarantined", body, at, actor, delivery.taken.place)
    blocking = [f for f in findings if f.blocking] or [f for q in delivery.aside for f in q.findings if f.blocking]
    shown = "; ".join(f.message for f in blocking[:3]) + (
        f"; and {len(blocking) - 3} more" if len(blocking) > 3 else ""
    )
    stays = f"version {before.current.md5[:8]} stays current" if before.current else "no version is current"
    return BadData(
        f"{name}: kept out: {shown}; {stays}",
        hint=f"mend the data and deliver it again, or, if it is right, widen {schemas.file_for(delivery.taken.place).name} and run `holdfast data add` again",
    )


def _of_file(findings: list[Finding], path: str, fresh: list[str]) -> list[Finding]:
    """The findings that name a file; where only one file is new, all are its own."""
    return findings if len(fresh) == 1 else [f for f in findings if path in f.message] or findings


def _unchanged(everything: Snapshot, taken: Snapshot, delivery: _Delivery) -> None:
    """What is kept must be what was checked."""
    now, then = everything.members, taken.members
    moved = [name for name in delivery.fresh if now.get(name) != then.get(name)]
    if moved:
        raise BadData(
            f"{moved[0]} changed between its check and its admission", hint="wait until it is written, then run again"
        )


def _rows(checked: Checked, place: Path, is_folder: bool) -> dict[str, int]:
    return {os.path.relpath(path, place) if is_folder else path.name: count for path, count in checked.rows.items()}


def _member(taken: Snapshot, name: str, rows: int | None) -> Member:
    at = taken.index.paths.index(name)
    md5, sha256 = taken.index.digest(at)
    return Member(path=name, md5=md5, sha256=sha256, size=taken.sizes[at], rows=rows)


def _total(listed: Iterable[Member]) -> int | None:
    counts = [m.rows for m in listed if m.rows is not None]
    return sum(counts) if counts else None


def _record(
    root: Path, ledger: Ledger, name: str, after: Admitted, kind: str, body: dict[str, Any], at: int, actor: str, place: Path
) -> None:  # fmt: skip
    row = msgspec.to_builtins(after)
    with ledger.transaction() as tx:
        tx.put(TABLE, name, row)
        tx.append(kind, subject=name, body=body, at=at, actor=actor)
    write_notice(root, name, after, place)


# --- what status reads, without a ledger ------------------------------------------------------------------------------


def notices(root: Path) -> Path:
    """The folder of small files that tell the reading commands what the ledger decided."""
    return root / ".holdfast" / "datasets"


def write_notice(root: Path, name: str, row: Admitted, place: Path) -> None:
    """What is said of the dataset at ``place``, under the one name it has now: a source may have been renamed."""
    folder = notices(root)
    folder.mkdir(parents=True, exist_ok=True)
    path = os.path.relpath(place, root)
    for other in folder.glob("*.json"):
        if other.stem != name and _told_of(other) == path:
            other.unlink(missing_ok=True)
    quarantined = [
        {"path": q.path, "at": q.at, "why": [f.message for f in q.findings if f.blocking][:3]} for q in row.quarantined
    ]
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    temporary.write_bytes(
        msgspec.json.encode(
            {"name": name, "path": path, "md5": row.current.md5 if row.current else None, "quarantined": quarantined}
        )
    )
    temporary.replace(folder / f"{name}.json")


def _told_of(notice: Path) -> str | None:
    try:
        return str(msgspec.json.decode(notice.read_bytes())["path"])
    except (OSError, msgspec.MsgspecError, KeyError, TypeError):
        return None


def forget(root: Path, source_name: str) -> None:
    """Drop the copies that ``members`` made of admitted files; they are made again when needed."""
    shutil.rmtree(notices(root) / source_name, ignore_errors=True)
