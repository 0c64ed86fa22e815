"""Which versions of views are in use: by every arm that answers, and by the champion that a rollback would bring back.

Kept in the table ``live_features`` for whoever only has the ledger (``features.view``): what is in it may not be broken by
`holdfast features apply`, and is kept up to date online beside the current definitions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from holdfast.core.errors import NotFound
from holdfast.core.records import Arm, Json, Release
from holdfast.features import view
from holdfast.lifecycle import ingest, release

if TYPE_CHECKING:
    from holdfast.core.definitions import FeatureView
    from holdfast.workspace import Workspace


def features(ws: Workspace) -> dict[str, Json]:
    """Per arm ``{"model": name@version, "features": {name: version}}``, from the releases and the packages they name."""
    found: dict[str, Json] = {}
    for key, row in ws.ledger.scan(release.RELEASES):
        current = msgspec.convert(row, Release)
        arms: dict[str, Arm | None] = {
            "champion": current.champion,
            "challenger": current.challenger,
            "shadow": current.shadow,
        }
        if current.environment == "production":
            arms["before"] = _before(ws, current)
        for name, arm in arms.items():
            if arm is not None:
                uses = _uses(ws, arm)
                if uses:
                    found[f"{key}/{name}"] = {"model": f"{current.model}@{arm.version}", "features": uses}
    return found


def refresh(ws: Workspace) -> dict[str, Json]:
    """Bring the table up to what ``features`` says."""
    wanted = features(ws)
    with ws.ledger.transaction() as tx:
        known = dict(tx.scan(release.LIVE_FEATURES))
        for key in known.keys() - wanted.keys():
            tx.delete(release.LIVE_FEATURES, key)
        for key, uses in wanted.items():
            if known.get(key) != uses:
                tx.put(release.LIVE_FEATURES, key, uses)
    return wanted


def views(ws: Workspace) -> list[FeatureView]:
    """Every version of a view that pushes go to: those the project defines, and the older ones in use."""
    project_views = ingest.all_views(ws.project())
    refresh(ws)
    return view.live_views(ws.ledger, project_views)


def _before(ws: Workspace, current: Release) -> Arm | None:
    """The champion before the one that answers now."""
    for older, _ in release.champions_before(ws.ledger, current.service):
        if older.champion is not None and (
            current.champion is None or older.champion.content != current.champion.content
        ):
            return older.champion
    return None


def _uses(ws: Workspace, arm: Arm) -> dict[str, str]:
    from holdfast.registry import package

    try:
        return dict(package.load(ws.objects, arm.content).features)
    except NotFound:
        return {}  # its package was removed: nothing of it can answer again
