"""The prediction log under the ledger's seal: each compacted part's digest is in the chain, and stays accounted for.

Sealing is the control plane's: it compacts what is closed, records the SHA-256 of every new part, and merges small parts
only after they proved to be what was sealed. Parts that a crash left unsealed are sealed the next time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.core.errors import Damaged
from holdfast.core.identity import file_sha256
from holdfast.core.records import Json

if TYPE_CHECKING:
    from holdfast.workspace import Workspace

PARTS = "log_parts"


class Checked(NamedTuple):
    """What the seals say: parts that are as sealed, parts merged into others since, parts not sealed yet, and segments
    that are no parts yet and that nothing here vouches for."""

    sound: int
    merged: int
    open: int
    segments: int


def seal(ws: Workspace, service: str, *, at: int) -> int:
    """Compact the service's closed segments and put the digests of new parts into the ledger; how many were new.

    Raises:
        Damaged: a part is not what was sealed; nothing is merged then.
    """
    from holdfast.serving import predictions

    folder = ws.home / "predictions" / service
    if not folder.is_dir():
        return 0

    def merging(target: Path, sources: list[Path]) -> None:
        for path in sources:
            _check(path, sealed[path.name])
        _record(ws, service, [target], at=at)

    predictions.compact(folder, merge=False)
    sealed = dict(_sealed(ws, service))
    new = [p for p in predictions.parts(folder) if p.name not in sealed]
    _record(ws, service, new, at=at)
    sealed = dict(_sealed(ws, service))
    predictions.merge(folder, before_removal=merging)
    return len(new)


def verify(ws: Workspace, service: str | None = None) -> Checked:
    """Hash every sealed part again.

    Raises:
        Damaged: one was altered, or is gone without having been merged into another sealed part.
    """
    from holdfast.serving import predictions

    sound = merged = unsealed = segments = 0
    root = ws.home / "predictions"
    services = {key.partition("/")[0] for key, _ in ws.ledger.scan(PARTS)}
    if root.is_dir():
        services |= {p.name for p in root.iterdir() if p.is_dir()}
    for name in sorted(services if service is None else {service}):
        sealed = _sealed(ws, name)
        covered = {source for body in sealed.values() for source in body["sources"]}
        present = {p.name: p for p in predictions.parts(root / name)} if (root / name).is_dir() else {}
        for part, body in sealed.items():
            path = present.get(part)
            if path is not None:
                _check(path, body)
                sound += 1
            elif part in covered:
                merged += 1
            else:
                raise Damaged(
                    f"the prediction log of {name!r} has lost part {part} ({body['rows']} rows)",
                    hint=f"restore {root / name / part} from a backup",
                )
        unsealed += len(set(present) - set(sealed))
        segments += len(predictions.unclosed(root / name)) if (root / name).is_dir() else 0
    return Checked(sound, merged, unsealed, segments)


def _sealed(ws: Workspace, service: str) -> dict[str, Json]:
    return {key.partition("/")[2]: body for key, body in ws.ledger.scan(PARTS, prefix=f"{service}/")}


def _record(ws: Workspace, service: str, paths: list[Path], *, at: int) -> None:
    from holdfast.serving import predictions

    if not paths:
        return
    bodies: list[tuple[str, dict[str, Any]]] = []
    for path in paths:
        about = predictions.about(path)
        bodies.append((path.name, {"sha256": file_sha256(path), "bytes": path.stat().st_size, **about}))
    with ws.ledger.transaction() as tx:
        for name, body in bodies:
            if tx.get(PARTS, f"{service}/{name}") is None:
                tx.put(PARTS, f"{service}/{name}", body)
                tx.append("log.sealed", subject=service, body={"part": name, **body}, at=at, actor=ws.actor)


def _check(path: Path, body: Json) -> None:
    if file_sha256(path) != body["sha256"]:
        raise Damaged(
            f"part {path.name} of the prediction log was altered after it was sealed",
            hint=f"restore {path} from a backup; its SHA-256 was {body['sha256']}",
        )
