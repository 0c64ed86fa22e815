"""``holdfast features``: apply, list, show, search, serve, push, materialize, verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.group import Group
from holdfast.cli.output import emit, json_option, progress, say, table

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.workspace import Workspace


@click.group(cls=Group)
def features() -> None:
    """Define features once; the same in training and serving."""


@features.command("apply")
@click.option("--dry-run", is_flag=True, help="Show the difference, or why it would be refused; record nothing.")
@json_option
def apply_(dry_run: bool, as_json: bool) -> None:
    """Check definitions.py and record what changed."""
    from holdfast.features import view
    from holdfast.lifecycle import live, scheduled
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace:
        project = workspace.project()
        live.refresh(workspace)
        scheduled.of(project)  # a schedule that cannot be read is told now, not at night
        if dry_run:
            found = view.preview(workspace.ledger, project)
        else:
            found = view.apply(workspace.ledger, project, at=workspace.clock.now(), actor=workspace.actor)

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
    from holdfast.core.identity import iso
    from holdfast.features import view
    from holdfast.lifecycle import scheduled
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        every = view.catalogue(workspace.ledger)
        ran = workspace.ledger.get(scheduled.STATE, name)
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
            if entry["schedule"]:
                last = (
                    "not yet run"
                    if ran is None
                    else f"{ran['outcome']} for {iso(ran['tick'])} {ran['reason']}".rstrip()
                )
                click.echo(f"  {'materialized':12} {entry['schedule']}: {last}")
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
    from holdfast.lifecycle import live
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace:
        rows = _read_rows(workspace, Path(file))
        with Pusher(workspace.home, workspace.online, live.views(workspace)) as pusher:
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


def _instant(text: str | None) -> int | None:
    from holdfast.core.identity import to_us

    return None if text is None else to_us(text, on_naive=lambda: say(f"{text} has no time zone: read as UTC"))


@features.command()
@click.argument("views", nargs=-1)
@click.option("--start", help="From this instant; left out, from where the last run stopped.")
@click.option("--end", help="To this instant, inclusive.  [default: now]")
@json_option
def materialize(views: tuple[str, ...], start: str | None, end: str | None, as_json: bool) -> None:
    """Bring files into the online store (all VIEWS when none is named). Stop it and run it again: it goes on."""
    from holdfast.core.identity import iso
    from holdfast.lifecycle import ingest
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace, progress("materialize", quiet=as_json) as report:
        upto = _instant(end)
        found = ingest.materialize(
            workspace,
            start=_instant(start),
            end=workspace.clock.now() if upto is None else upto,
            names=views or None,
            progress=report,
        )

    def text() -> None:
        table(
            ["view", "version", "rows", "entities", "chunks", "done before"],
            [[f["view"], f["version"][:12], *(f[k] for k in ("rows", "entities", "chunks", "skipped"))] for f in found],
        )
        for why in sorted({f["kept_out"] for f in found if f["kept_out"]}):
            say(f"kept out: {why}")
        for f in found:
            if not f["rows"] and not f["skipped"] and f["start"] is not None:
                say(
                    f"notice: the source of {f['view']!r} has no event from {iso(f['start'])} to {iso(f['end'])}; no value reaches further back"
                )

    emit(found, as_json=as_json, text=text)


@features.command("ingest")
@click.argument("sources", nargs=-1)
@json_option
def ingest_(sources: tuple[str, ...], as_json: bool) -> None:
    """Pull SOURCES (every query and pattern of the project by default), validate what is new and make it the current version."""
    from holdfast.core.errors import NotFound
    from holdfast.data import collect
    from holdfast.lifecycle import ingest
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace:
        known = workspace.project().sources
        for name in sources:
            if name not in known:
                raise NotFound.among("source", name, known)
        wanted = sources or [name for name, source in known.items() if collect.is_gathered(source)]
        found = [ingest.bring(workspace, known[name], at=workspace.clock.now()) for name in wanted]

    def text() -> None:
        if not found:
            say("the project has no source that is a query or a pattern; name the sources to bring in")
            return
        table(["source", "version", "rows", "bytes"], [[v.name, v.sha256[:12], v.rows, v.size] for v in found])

    emit(found, as_json=as_json, text=text)


@features.command()
@json_option
def rebuild(as_json: bool) -> None:
    """Empty the online store and fill it again: from the admitted files, then from every push that was ever acknowledged.

    The feature server must be stopped. Stopped half way, run it again: it starts anew.
    """
    from holdfast.server import featureserver
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace, progress("rebuild", quiet=as_json) as report:
        found = featureserver.rebuild(workspace, end=workspace.clock.now(), progress=report)

    emit(
        found,
        as_json=as_json,
        text=lambda: say(f"{found['views']} views filled from files, {found['pushes']} pushes replayed"),
    )


@features.command("import-feast")
@click.argument("repository", type=click.Path(exists=True, file_okay=False))
@click.option("--python", help="A Python that has Feast; the repository's modules run in it.  [default: python3]")
@click.option(
    "--output", "-o", default="definitions.py", show_default=True, help="The module to write; never overwritten."
)
@click.option(
    "--link", is_flag=True, help="Link the repository's data files into data/ where they are outside the project."
)
@json_option
def import_feast(repository: str, python: str | None, output: str, link: bool, as_json: bool) -> None:
    """Write the definitions of the Feast REPOSITORY as ours: entities, sources, feature views, services.

    What cannot be carried is listed, on-demand views with their source among it. Nothing of the repository is changed.
    """
    from pathlib import Path

    import msgspec

    from holdfast.core.project import find_root
    from holdfast.protocols.feast import importer

    root = find_root()
    target = (root / output).resolve()
    if target.suffix != ".py":
        raise click.UsageError("--output names a Python module, like definitions.py")
    importer.vacant(target)
    found = importer.read(Path(repository).resolve(), python or "python3")
    imported = importer.translate(found, Path(repository), root)
    importer.write(imported, target)
    linked = importer.link(imported, root) if link else []
    body = {**msgspec.to_builtins(imported), "module": str(target), "linked": linked}

    def text() -> None:
        for kind in ("entities", "sources", "views", "services"):
            click.echo(f"{len(body[kind]):4}  {kind}: {', '.join(body[kind]) or 'none'}")
        for title, entries in (("to do by hand", imported.left), ("carried, with another meaning", imported.notes)):
            if entries:
                click.secho(title, bold=True)
                for kind, name, why in entries:
                    click.echo(f"  {kind} {name}: {why}")
        for place, file in imported.links:
            click.echo(f"  {'linked' if place in linked else 'to link or copy'}: {place} <- {file}")
        say(f"written: {target.name}; look it through, then `holdfast features apply`")

    emit(body, as_json=as_json, text=text)


@features.command()
@click.argument("service")
@click.option("--spine", type=click.Path(exists=True, dir_okay=False), help="Rows to build for: parquet or CSV.")
@click.option("--timestamp", help="The spine's column that says when each row is asked.")
@click.option("--as-of", "as_of", help="All entities at this instant, instead of a spine.")
@click.option("--output", "-o", type=click.Path(dir_okay=False), required=True, help="Parquet file to write.")
def get(service: str, spine: str | None, timestamp: str | None, as_of: str | None, output: str) -> None:
    """Features of feature service SERVICE as known at each row's time, or of all entities at one time."""
    from pathlib import Path

    import pyarrow.parquet as pq

    from holdfast.lifecycle import vectors
    from holdfast.workspace import Workspace

    if (spine is None) == (as_of is None):
        raise click.UsageError("give either --spine FILE --timestamp COLUMN, or --as-of TIME")
    with Workspace.open() as workspace:
        rows = None if spine is None else _read_rows(workspace, Path(spine))
        found = vectors.historical(workspace, service, rows, timestamp=timestamp, at=_instant(as_of))
    pq.write_table(found, output)
    say(f"{found.num_rows} rows × {found.num_columns} columns in {output}")


@features.command()
@click.argument("service")
@click.option("--since", help="Predictions requested from this instant on.")
@click.option("--until", help="Predictions requested before this instant.")
@click.option(
    "--environment",
    type=click.Choice(["production", "staging"]),
    default="production",
    show_default=True,
    help="Whose predictions.",
)
@click.option("--tolerance", type=float, default=1e-9, show_default=True, help="Relative, for floating features.")
@json_option
def verify(
    service: str, since: str | None, until: str | None, environment: str, tolerance: float, as_json: bool
) -> int:
    """Recompute what SERVICE served as known at each request's time, and compare. Status 1 when anything is unequal."""
    from holdfast.lifecycle import served
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        found = served.verify(
            workspace,
            service,
            since=_instant(since),
            until=_instant(until),
            environment=environment,
            tolerance=tolerance,
        )
    names = ("feature", "rows", "equal", "stale", "missing", "unequal")

    def text() -> None:
        table(
            [*names, "null rate", "low", "high"], [[f[k] for k in (*names, "null_rate", "low", "high")] for f in found]
        )
        for entry in found:
            for example in entry["examples"]:
                where = f"{example['kind']} in {example['id']} at {example['request_time']}"
                click.echo(f"  {entry['feature']}: {where}: served {example['served']}, wanted {example['wanted']}")

    emit(found, as_json=as_json, text=text)
    if not found:
        say("no predictions with features in this range")
    return int(any(f["stale"] or f["missing"] or f["unequal"] for f in found))
