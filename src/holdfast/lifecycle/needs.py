"""Who needs which dataset version: the services that answer traffic, registered models, runs, the current datasets.

What ``holdfast data gc`` asks before it removes anything; the strongest reason comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from holdfast.core.errors import NotFound
from holdfast.core.records import Json, ModelVersion, Release, TrainingSet
from holdfast.lifecycle import build, release
from holdfast.registry import versions
from holdfast.training import runs, script

if TYPE_CHECKING:
    from holdfast.workspace import Workspace


def of_data(ws: Workspace) -> Iterator[tuple[str, str]]:
    """(MD5 of a dataset version or of one file, who needs it in words)."""
    names = _admitted(ws)
    sets = {k: msgspec.convert(row, TrainingSet) for k, row in ws.ledger.scan(build.TRAINING_SETS)}
    registered = [v for model in versions.list_models(ws.ledger) for v in versions.list(ws.ledger, model.name)]
    found = list(_runs(ws))
    of_run = {run_id: training_set for run_id, training_set, _ in found}
    reads = {run_id: md5s for run_id, _, md5s in found}

    def under(version: ModelVersion) -> Iterable[str]:
        yield from _of_set(sets, names, version.training_set or of_run.get(version.run_id or ""))
        yield from reads.get(version.run_id or "", ())

    serving = _serving(ws)
    for version in sorted(registered, key=lambda v: (v.name, v.version) not in serving):
        services = serving.get((version.name, version.version))
        label = f"model {version.name}@{version.version}"
        who = f"{label}, which serves {services}" if services else f"registered {label}"
        for md5 in under(version):
            yield md5, who
    for run_id, training_set, md5s in found:
        for md5 in (*_of_set(sets, names, training_set), *md5s):
            yield md5, f"run {run_id}"
    for name, row in ws.ledger.scan("datasets"):
        current = row.get("current")
        if isinstance(current, dict) and current.get("md5"):
            yield str(current["md5"]), f"the current version of {name}"
        for member in row.get("members", []):
            yield str(member["md5"]), f"the current version of {name}"


def _admitted(ws: Workspace) -> dict[tuple[str, str], str]:
    """(source, SHA-256) → MD5 of every version that was let in."""
    found: dict[tuple[str, str], str] = {}
    after = 0
    while entries := ws.ledger.read(after=after, limit=1000):
        for entry in entries:
            if entry.kind == "dataset.admitted" and entry.body.get("md5"):
                found[entry.subject, str(entry.body.get("sha256"))] = str(entry.body["md5"])
        after = entries[-1].sequence
    return found


def _of_set(sets: dict[str, TrainingSet], names: dict[tuple[str, str], str], digest: str | None) -> Iterator[str]:
    record = sets.get(digest or "")
    for source, sha256 in record.datasets.items() if record is not None else ():
        md5 = names.get((source, sha256))
        if md5 is not None:
            yield md5


def _serving(ws: Workspace) -> dict[tuple[str, int], str]:
    found: dict[tuple[str, int], str] = {}
    for _, row in ws.ledger.scan(release.RELEASES):
        live = msgspec.convert(row, Release)
        for arm in (live.champion, live.challenger, live.shadow):
            if arm is not None:
                found.setdefault((live.model, arm.version), f"{live.service} ({live.environment})")
    return found


def _runs(ws: Workspace) -> Iterator[tuple[str, str | None, list[str]]]:
    """(run, its training set, MD5 of the files it read) of every run that is not deleted."""
    ids: list[str] = []
    token: str | None = None
    while True:
        page, token = ws.runs.search_experiments(limit=1000, token=token)
        ids += [one.experiment_id for one in page]
        if token is None:
            break
    for at in range(0, len(ids), 100):
        token = None
        while True:
            found, token = ws.runs.search_runs(ids[at : at + 100], limit=1000, token=token)
            for run in found:
                yield run.run_id, run.tags.get(runs.TRAINING_SET), _reads(ws, run.artifact_uri)
            if token is None:
                break


def _reads(ws: Workspace, artifact_uri: str) -> list[str]:
    root = artifact_uri.removeprefix("mlflow-artifacts:").lstrip("/")
    kept = ws.runs.get_artifact(f"{root}/{script.READS}")
    if kept is None:
        return []
    try:
        listed = msgspec.json.decode(ws.objects.get(kept.sha256), type=list[Json])
    except (NotFound, msgspec.MsgspecError):
        return []
    return [str(one[key]) for one in listed for key in ("version", "md5") if one.get(key)]
