"""Bringing home what replicas elsewhere logged: predictions and labels of containers, from copies of their volumes.

A copy may be taken while its replica writes, and taken again: the ledger remembers how far each segment was read, and what
its bytes up to there were. Rows go into the service's own log as parts, sealed like those written here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from holdfast.core.errors import BadInput, Damaged, NotFound
from holdfast.core.records import Json, LabelRecord

if TYPE_CHECKING:
    from holdfast.monitoring.labels import LabelStore
    from holdfast.workspace import Workspace

COLLECTED = "log_collected"
# A replica begins a new segment at 8 MB; one group of answers may follow.
_LARGEST = 1 << 30
_LABELS_AT_ONCE = 50_000


class Taken(NamedTuple):
    """What a call brought home. ``files``: segments that held something new; ``problems``: what was left where it is, and
    why."""

    rows: int
    files: int
    labels: int
    problems: dict[str, str]


def collect(ws: Workspace, service: str, folders: Iterable[Path], *, at: int) -> Taken:
    """Take the predictions and labels of ``service`` that ``folders`` hold and this workspace has not: each is a container's
    ``.holdfast``, the ``predictions`` in it, or the service's folder in those.

    Raises:
        NotFound: a folder is not there, or holds nothing of this service.
        BadInput: a folder is this workspace's own.
        Damaged: a part of this workspace's own log is not what was sealed.
    """
    from holdfast.lifecycle import logbook
    from holdfast.monitoring.labels import LabelStore

    found = [_places(ws, folder, service) for folder in folders]
    rows = files = labels = 0
    problems: dict[str, str] = {}
    for logs, truths in found:
        for path in _segments(logs):
            try:
                fresh = _take(ws, service, path, at=at)
            except (Damaged, OSError) as problem:
                problems[str(path)] = _words(problem)
            else:
                rows += fresh
                files += fresh > 0
        if truths is not None:
            try:
                labels += _take_labels(LabelStore(truths), LabelStore(ws.path("labels", service)))
            except (Damaged, OSError) as problem:
                problems[str(truths)] = _words(problem)
    logbook.seal(ws, service, at=at)
    return Taken(rows, files, labels, problems)


def _places(ws: Workspace, folder: Path, service: str) -> tuple[Path | None, Path | None]:
    """Where below ``folder`` the service's log and labels are."""
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}", hint="copy it from the container first, e.g. with `docker cp`")
    logs = next((p for p in (folder / "predictions" / service, folder / service) if p.is_dir()), None)
    if logs is None and _segments(folder):
        logs = folder
    truths = folder / "labels" / service
    if logs is None and not truths.is_dir():
        raise NotFound(
            f"{folder} holds no predictions of {service!r}",
            hint="give a container's .holdfast, the predictions in it, or the service's folder in those",
        )
    if logs is not None and logs.resolve() == ws.path("predictions", service).resolve():
        raise BadInput(f"{folder} is this workspace's own", hint="give a folder copied from a container")
    return logs, truths if truths.is_dir() else None


def _segments(folder: Path | None) -> list[Path]:
    from holdfast.serving import segments

    return [] if folder is None else sorted(p for p in folder.glob(f"*{segments.SUFFIX}") if p.is_file())


def _take(ws: Workspace, service: str, path: Path, *, at: int) -> int:
    """Take what is new in one segment; the number of rows."""
    from holdfast.serving import predictions

    if path.stat().st_size > _LARGEST:
        raise Damaged("it is larger than any segment a replica writes")
    key = f"{service}/{path.stem}"
    known: Json = ws.ledger.get(COLLECTED, key) or {"bytes": 0, "sha256": "", "rows": 0}
    start = int(known["bytes"])
    data = path.read_bytes()
    if len(data) < start:
        return 0  # an older copy of what was collected
    if start and hashlib.sha256(data[:start]).hexdigest() != known["sha256"]:
        raise Damaged("it is not what it was when it was collected before")
    table, end = predictions.whole_frames(data, start)
    if table is None:
        return 0
    others = {s for s in table["service"].unique().to_pylist() if s != service}
    if others:
        raise Damaged(f"it holds predictions of {sorted(others)[0]!r}")
    # A part of this name holds these rows: a call that was killed after writing it finds it there.
    predictions.take_in(ws.path("predictions", service), f"{path.stem}-{start}-{end}.parquet", table)
    told = {
        "bytes": end,
        "sha256": hashlib.sha256(data[:end]).hexdigest(),
        "rows": int(known["rows"]) + table.num_rows,
    }
    with ws.ledger.transaction() as tx:
        tx.put(COLLECTED, key, told)
        tx.append("log.collected", subject=service, body={"segment": path.stem, **told}, at=at, actor=ws.actor)
    return int(table.num_rows)


def _take_labels(theirs: LabelStore, ours: LabelStore) -> int:
    """Add the labels that say something newer than what is known here; how many."""
    known = {row["prediction_id"]: row["at"] for row in ours.read().to_pylist()}
    fresh = [
        LabelRecord(prediction_id=row["prediction_id"], value=row["value"], at=row["at"], source="collected")
        for row in theirs.read().to_pylist()
        if row["at"] > known.get(row["prediction_id"], row["at"] - 1)
    ]
    for i in range(0, len(fresh), _LABELS_AT_ONCE):
        ours.append(fresh[i : i + _LABELS_AT_ONCE])
    return len(fresh)


def _words(problem: Damaged | OSError) -> str:
    return problem.message if isinstance(problem, Damaged) else (problem.strerror or str(problem))
