"""``holdfast features``: apply, list, show, search, serve, push, materialize, verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.output import emit, json_option, say, table

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.workspace import Workspace


@click.group()
def features() -> None:
    """Define features once; the same in training and serving."""


@features.command("apply")
@json_option
def apply_(as_json: bool) -> None:
    """Check definitions.py and record what changed."""
    from holdfast.features import view
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace:
        found = view.apply(workspace.ledger, workspace.project(), at=workspace.clock.now(), actor=workspace.actor)

    def text() -> None:
        if not found:
            click.echo("nothing changed")
        for difference in found:
            click.echo(f"{difference['change']:8}  {difference['kind']} {difference['name']}")
            for line in difference["details"]:
                click.echo(f"          {line}")

    emit(found, as_json=as_json, text=text)


@features.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The catalogue: views and services, owners, users."""
    _catalogue("", as_json)


@features.command()
@click.argument("words", nargs=-1, required=True)
@json_option
def search(words: tuple[str, ...], as_json: bool) -> None:
    """What mentions all WORDS in a name, description, owner, tag or column."""
    _catalogue(" ".join(words), as_json)


def _catalogue(words: str, as_json: bool) -> None:
    from holdfast.features import view
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        entries = view.catalogue(workspace.ledger, words)

    def text() -> None:
        if not entries:
            say("nothing found" if words else "nothing is applied yet: run `holdfast features apply`")
            return
        rows = [
            [e["kind"], e["name"], len(e["columns"]), e["version"][:12], e["owner"] or None, ", ".join(e["used_by"]) or None,
             ", ".join(e["live"]) or None, e["description"] or None]
            for e in entries
        ]  # fmt: skip
        table(["kind", "name", "features", "version", "owner", "used by", "live", "description"], rows)

    emit(entries, as_json=as_json, text=text)


@features.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """One view or service: its features, definition and versions."""
    from holdfast.core.errors import NotFound
    from holdfast.features import view
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        every = view.catalogue(workspace.ledger)
    found = [e for e in every if e["name"] == name]
    if not found:
        raise NotFound.among("feature view or service", name, [e["name"] for e in every])

    def text() -> None:
        for entry in found:
            click.secho(f"{entry['kind']} {entry['name']}", bold=True)
            for word in ("description", "owner", "version"):
                if entry[word]:
                    click.echo(f"  {word:12} {entry[word]}")
            click.echo(f"  {'used by':12} {', '.join(entry['used_by']) or 'nobody'}")
            click.echo(f"  {'live':12} {', '.join(entry['live']) or 'no'}")
            click.echo(f"  {'versions':12} {', '.join(v[:12] for v in entry['versions'])}")
            for column in entry["columns"]:
                click.echo("  " + ("  ".join(column) if isinstance(column, list) else str(column)))

    emit(found, as_json=as_json, text=text)


@features.command()
@click.option("--host", help="Address to listen on; anything but loopback needs a token.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port.  [default: 6566]")
@click.option("--read-only", is_flag=True, help="Answer reads; refuse pushes.")
def serve(host: str | None, port: int | None, read_only: bool) -> None:
    """The feature server (Feast's HTTP interface): reads, pushes, materialization. Runs until told to stop."""
    from holdfast.server import featureserver
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace:
        featureserver.run(workspace, host=host, port=port, read_only=read_only)


@features.command()
@click.argument("source")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
def push(source: str, file: str) -> None:
    """Push the rows of FILE (parquet, CSV, JSON lines) to SOURCE; nothing else may be pushing meanwhile."""
    from pathlib import Path

    from holdfast.features.push import Pusher
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace:
        rows = _read_rows(workspace, Path(file))
        with Pusher(workspace.home, workspace.online, list(workspace.project().views.values())) as pusher:
            count = pusher.push(source, rows, arrived=workspace.clock.now())
    say(f"{count} rows pushed to {source}")


def _read_rows(workspace: Workspace, path: Path) -> Any:
    if path.suffix in (".json", ".jsonl", ".ndjson"):
        import msgspec

        from holdfast.core.errors import BadData

        try:
            return msgspec.json.Decoder(dict[str, Any]).decode_lines(path.read_bytes())
        except msgspec.MsgspecError as error:
            raise BadData(f"{path.name}: {error}", hint="one JSON object per line") from None
    reader = "read_csv" if path.suffix in (".csv", ".tsv", ".gz") else "read_parquet"
    from holdfast.features.source_sql import text

    return workspace.engine.query(f"SELECT * FROM {reader}({text(str(path))})")
