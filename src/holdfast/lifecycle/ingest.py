"""Sources come in, views go online: pulled, validated and versioned first, then materialized from what was admitted.

What was never admitted (a plain file of a project that does not version its data) is read as it lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.core.errors import BadData, NotFound
from holdfast.data import collect, quality
from holdfast.features.push import landed

if TYPE_CHECKING:
    from holdfast.core.definitions import FeatureView, Project, Source
    from holdfast.core.ports import Progress
    from holdfast.core.records import DatasetVersion, Json
    from holdfast.workspace import Workspace


def bring(ws: Workspace, source: Source, *, at: int) -> DatasetVersion:
    """Pull a source where it is a query, validate what is new, and make it the current version.

    Raises:
        BadData: what is new breaks the schema; it is set aside and the version before stays current.
        NotFound, Unavailable, BadConfig, BadDefinition: it cannot be read.
    """
    if collect.is_gathered(source):
        collect.pull(ws.root, source)
    place = collect.place_of(ws.root, source)
    return quality.admit(ws.root, ws.ledger, source.name, place, at=at, actor=ws.actor, source=source)


def files(ws: Workspace, source: Source, *, at: int) -> list[Path]:
    """The files that hold a source's rows, and what was pushed to it: the admitted version where there is one. A query that
    was never pulled is pulled and admitted now; the version it gives is what everything reads until the next one.

    Raises:
        NotFound: there is neither file nor push.
    """
    pushed = landed(ws.home, source.name)
    if quality.current(ws.ledger, source.name) is not None:
        return [*quality.members(ws.ledger, ws.root, source.name), *pushed]
    if source.path is None:
        bring(ws, source, at=at)
        return [*quality.members(ws.ledger, ws.root, source.name), *pushed]
    try:
        return [*collect.files(ws.root, source), *pushed]
    except NotFound:
        if not pushed:
            raise
        return list(pushed)


def tables(ws: Workspace, sources: Iterable[Source], *, at: int) -> dict[str, list[Path]]:
    """``files`` by source name."""
    return {source.name: files(ws, source, at=at) for source in sources}


def all_views(project: Project) -> dict[str, FeatureView]:
    """Every view of a project, those that only a service names included."""
    return {**{v.name: v for s in project.feature_services.values() for v in s.views}, **project.views}


def refresh(ws: Workspace, sources: Iterable[Source], *, at: int) -> dict[str, str]:
    """Bring in what is new of the sources that are queries or under admission; why, for those whose news were kept out."""
    kept_out: dict[str, str] = {}
    for source in sources:
        known = quality.current(ws.ledger, source.name)
        if source.path is not None and known is None:
            continue
        try:
            bring(ws, source, at=at)
        except BadData as error:
            if known is None:
                raise
            kept_out[source.name] = error.message
        except NotFound:
            if known is None or source.path is None:
                raise  # a path that is gone: the admitted version is in the cache
    return kept_out


def materialize(
    ws: Workspace, *, start: int | None, end: int, names: Sequence[str] | None = None, progress: Progress | None = None
) -> list[Json]:
    """Bring views (all by default), and beside each the older versions that live models pin, from their sources into the online
    store. Safe beside a running feature server. The current versions come first in the answer.

    Each view's entry says in ``kept_out`` why news of its source stayed out, or None.

    Raises:
        NotFound: no such view, or a source without data.
    """
    from holdfast.features import materialize as materializing
    from holdfast.features import view as view_module

    views = all_views(ws.project())
    for name in names or ():
        if name not in views:
            raise NotFound.among("feature view", name, views)
    chosen = [view for view in view_module.live_views(ws.ledger, views) if not names or view.name in names]
    sources = {
        v.source.name: v.source for v in reversed(chosen)
    }  # as the project has it: a stored one is without secrets
    kept_out = refresh(ws, sources.values(), at=end)
    found = materializing.run(
        ws.online, ws.engine, chosen, tables(ws, sources.values(), at=end), start=start, end=end, progress=progress
    )
    source_of = {v.name: v.source.name for v in chosen}
    return [{**entry, "kept_out": kept_out.get(source_of[entry["view"]])} for entry in found]
