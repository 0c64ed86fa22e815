"""`holdfast audit`: prove that the ledger is whole, show what is in it, anchor its end."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from holdfast.cli.group import Group
from holdfast.cli.output import emit, json_option, say, table

if TYPE_CHECKING:
    from holdfast.workspace import Workspace

ANCHORS = "anchors.jsonl"


@click.group(cls=Group)
def audit() -> None:
    """Verify the ledger's hash chain; show entries; anchor its end."""


@audit.command()
@click.option(
    "--anchor", "anchors", multiple=True, metavar="SEQUENCE:HASH", help="An anchor kept elsewhere. May be repeated."
)
@json_option
def verify(anchors: tuple[str, ...], as_json: bool) -> None:
    """Walk the whole chain. Exit 2 where an entry was edited, removed, reordered, or an anchored end cut off; where a row of
    the current state (models, stages, releases) is not what the chain of its changes says, which is named; and where a sealed
    part of a prediction log was altered or removed."""
    from holdfast.core.errors import Damaged
    from holdfast.lifecycle import logbook
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        kept = _kept(workspace)
        known = [*((a.sequence, a.hash) for a in kept), *(_parsed(a) for a in anchors)]
        newest = max(known, default=None)
        state = max(((a.changes, a.state) for a in kept if a.changes and a.state), default=None)
        count = workspace.ledger.verify(anchor=newest, state=state)
        for sequence, name in known:
            # The chain up to the newest anchor is proved; older anchors only have to lie on it.
            found = workspace.ledger.read(after=sequence - 1, limit=1)
            if not found or found[0].hash != name:
                raise Damaged(
                    f"ledger entry {sequence} is not the one that was anchored: the chain was rewritten",
                    hint="restore the ledger from a backup made before the anchor stopped matching",
                )
        parts = logbook.verify(workspace)

    def text() -> None:
        click.echo(f"{count} entries, each in its place, and the current rows as they say; {len(known)} anchors match")
        if any(parts):
            click.echo(
                f"prediction log: {parts.sound} sealed parts unaltered, {parts.merged} merged since, {parts.open} not sealed yet"
                + (f"; {parts.segments} segments still open, which no seal covers" if parts.segments else "")
            )

    told = {"entries": count, "anchors": len(known), "sound": True, "log_parts": parts._asdict()}
    emit(told, as_json=as_json, text=text)


@audit.command()
@click.argument("services", nargs=-1)
@json_option
def seal(services: tuple[str, ...], as_json: bool) -> None:
    """Put the digests of the prediction log's closed parts into the ledger now. The loop does so by itself."""
    from holdfast.lifecycle import logbook
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        folder = workspace.home / "predictions"
        names = services or (sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else ())
        found = {name: logbook.seal(workspace, name, at=workspace.clock.now()) for name in names}
    emit(
        found,
        as_json=as_json,
        text=lambda: click.echo(
            "\n".join(f"{n}: {k} new parts sealed" for n, k in found.items()) or "no predictions yet"
        ),
    )


@audit.command()
@click.option("--kind", help="Only this kind; may end in *.")
@click.option("--subject", help="Only this subject, e.g. fraud_detection@7.")
@click.option("--since", help="From this instant on, e.g. 2013-03-01T06:00:00Z.")
@click.option("--until", help="Before this instant.")
@click.option("--limit", "-n", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most so many.")
@click.option("--oldest", is_flag=True, help="Begin with the oldest instead of the newest.")
@json_option
def show(
    kind: str | None, subject: str | None, since: str | None, until: str | None, limit: int, oldest: bool, as_json: bool
) -> None:
    """Show entries of the ledger, newest first."""
    import msgspec

    from holdfast.core.identity import iso, to_us
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        entries = workspace.ledger.query(
            kind=kind,
            subject=subject,
            since=None if since is None else to_us(since, on_naive=lambda: say("notice: --since is read as UTC")),
            until=None if until is None else to_us(until, on_naive=lambda: say("notice: --until is read as UTC")),
            limit=limit,
            newest_first=not oldest,
        )
    rows = [(e.sequence, iso(e.at), e.kind, e.subject, e.actor, e.hash[:12]) for e in entries]
    emit(
        msgspec.to_builtins(entries),
        as_json=as_json,
        text=lambda: table(("#", "at", "kind", "subject", "actor", "hash"), rows),
    )


@audit.command()
@click.option(
    "--to",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also append the anchor to this file, on another disk or in git.",
)
@json_option
def anchor(to: Path | None, as_json: bool) -> None:
    """Note the sequence and hash of the last entry. From then on `audit verify` also finds a cut-off end.

    An anchor proves as much as the place it is kept in: write it where who can touch the ledger cannot.
    """
    import msgspec

    from holdfast.core.errors import NotFound
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        last = workspace.ledger.query(limit=1, newest_first=True)
        if not last:
            raise NotFound("the ledger has no entry to anchor yet", hint="do something first, e.g. `holdfast data add`")
        workspace.ledger.verify(anchor=(last[0].sequence, last[0].hash))
        changes, state = workspace.ledger.state_tip()
        value = {
            "sequence": last[0].sequence, "hash": last[0].hash, "at": workspace.clock.now(), "changes": changes, "state": state,
        }  # fmt: skip
        line = msgspec.json.encode(value) + b"\n"
        for path in (workspace.path(ANCHORS), *([to] if to else [])):
            _append(path, line)
    emit(value, as_json=as_json, text=lambda: click.echo(f"{value['sequence']}:{value['hash']}"))


def _append(path: Path, line: bytes) -> None:
    import os

    from holdfast.core.files import sync, sync_folder

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, line)
        sync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


class _Anchor(NamedTuple):
    sequence: int
    hash: str
    changes: int = 0
    state: str = ""


def _kept(workspace: Workspace) -> list[_Anchor]:
    import msgspec

    from holdfast.core.errors import Damaged

    try:
        lines = (workspace.home / ANCHORS).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    kept: list[_Anchor] = []
    for number, line in enumerate(lines, 1):
        try:
            value: Any = msgspec.json.decode(line)
            number, state = int(value.get("changes", 0)), str(value.get("state", ""))
            kept.append(_Anchor(int(value["sequence"]), str(value["hash"]), number, state))
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
            if number == len(lines):
                say(f"notice: the last line of {ANCHORS} is not whole and is passed over")
                continue
            raise Damaged(
                f"{ANCHORS}:{number} holds no anchor", hint="remove the line, or restore the file from a backup"
            ) from None
    return kept


def _parsed(text: str) -> tuple[int, str]:
    from holdfast.core.errors import BadInput

    found = re.fullmatch(r"(\d+):([0-9a-f]{64})", text.strip())
    if not found:
        raise BadInput(f"{text!r} is no anchor", hint="write SEQUENCE:HASH as `holdfast audit anchor` printed it")
    return int(found[1]), found[2]
