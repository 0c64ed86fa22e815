"""The rest of ``holdfast data``: move, keep, compare and remake data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.output import emit, json_option, progress, say, table

if TYPE_CHECKING:
    from holdfast.data.gc import Referrers
    from holdfast.data.repository import Repository

paths = click.argument("targets", nargs=-1, type=click.Path(path_type=Path))
remote_option = click.option("--remote", "-r", help="Name of the remote; the default one without it.")


def _repo() -> Repository:
    from holdfast.data import repository

    return repository.require(Path.cwd())


@click.command()
@paths
@remote_option
@click.option("--verify", is_flag=True, help="Read every object back from the remote and hash it.")
@json_option
def push(targets: tuple[Path, ...], remote: str | None, verify: bool, as_json: bool) -> None:
    """Bring objects to the remote: members first, then the manifest that names them."""
    from holdfast.data import transfer

    with progress("push") as report:
        moved = transfer.push(_repo(), targets, remote=remote, verify=verify, progress=report)
    emit(
        vars(moved),
        as_json=as_json,
        text=lambda: click.echo(f"{moved.objects} objects pushed, {moved.already} were there"),
    )


@click.command()
@paths
@remote_option
@json_option
def fetch(targets: tuple[Path, ...], remote: str | None, as_json: bool) -> None:
    """Bring objects from the remote into the cache, verified."""
    from holdfast.data import transfer

    with progress("fetch") as report:
        moved = transfer.fetch(_repo(), targets, remote=remote, progress=report)
    emit(
        vars(moved),
        as_json=as_json,
        text=lambda: click.echo(f"{moved.objects} objects fetched, {moved.already} were here"),
    )


@click.command()
@paths
@remote_option
@click.option("--force", "-f", is_flag=True, help="Throw away changed files that are in no cache.")
@json_option
def pull(targets: tuple[Path, ...], remote: str | None, force: bool, as_json: bool) -> None:
    """Fetch, then check out. A target may be one file of a tracked folder."""
    from holdfast.data import transfer

    with progress("pull") as report:
        moved, done = transfer.pull(_repo(), targets, remote=remote, force=force, progress=report)
    value = {"fetched": vars(moved), "placed": vars(done)}
    emit(value, as_json=as_json, text=lambda: click.echo(f"{moved.objects} objects fetched, {done.files} files placed"))


@click.command()
@click.argument("versions", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@click.option("--all-commits", is_flag=True, help="Keep what any commit needs, not only branches and tags.")
@click.option("--cloud", is_flag=True, help="Sweep the remote too.")
@remote_option
@json_option
def gc(
    versions: tuple[str, ...], dry_run: bool, all_commits: bool, cloud: bool, remote: str | None, as_json: bool
) -> None:
    """Remove objects nobody needs, or the named VERSIONS if nobody needs them.

    What the workspace, any branch or tag, or an admitted dataset version of the ledger needs stays.
    """
    from holdfast.core.errors import BadInput
    from holdfast.data import gc as sweeping

    repo, referrers = _repo(), [_ledger_referrers()]
    if versions and dry_run:
        raise BadInput(
            "--dry-run is for sweeping everything", hint="without it, a version that is needed is refused anyway"
        )
    if versions:
        swept = sweeping.forget(repo, versions, referrers=referrers, all_commits=all_commits)
    else:
        swept = sweeping.collect(
            repo, referrers=referrers, all_commits=all_commits, dry_run=dry_run, cloud=cloud, remote=remote
        )

    def text() -> None:
        click.echo(
            f"{len(swept.removed)} objects {'would be ' if dry_run else ''}removed ({swept.bytes} bytes), {swept.kept} kept"
        )
        for who, count in sorted(swept.needed_by.items()):
            click.echo(f"  {count} needed by {who}")

    emit(vars(swept), as_json=as_json, text=text)


def _ledger_referrers() -> Referrers:
    """Every dataset version that was ever admitted: a run, a model or a release may rest on it."""

    def find() -> Iterable[tuple[str, str]]:
        from holdfast.data import repository
        from holdfast.workspace import Workspace

        root = repository.project_at(Path.cwd())
        if root is None or not (root / ".holdfast").is_dir():
            return
        with Workspace.open(root, create=False) as workspace:
            after = 0
            while entries := workspace.ledger.read(after=after, limit=1000):
                for entry in entries:
                    if entry.kind == "dataset.admitted" and entry.body.get("md5"):
                        yield str(entry.body["md5"]), f"the ledger ({entry.subject}, entry {entry.sequence})"
                after = entries[-1].sequence
            for name, row in workspace.ledger.scan("datasets"):
                for member in row.get("members", []):
                    yield str(member["md5"]), f"the current version of {name}"

    return find


@click.command()
@click.option("--repair", is_flag=True, help="Replace damaged objects by good bytes from the remote or the workspace.")
@click.option("--cloud", is_flag=True, help="Read the remote's objects too.")
@remote_option
@json_option
def scrub(repair: bool, cloud: bool, remote: str | None, as_json: bool) -> int:
    """Read every stored byte and compare it with its name; exit status 1 while damage remains."""
    from holdfast.data import scrub as scrubbing

    with progress("scrub") as report:
        done = scrubbing.scrub(_repo(), repair=repair, remote=remote, also_remote=cloud, progress=report)

    def text() -> None:
        for bad in done.bad:
            click.echo(
                f"damaged: {bad.md5}: {'mended from ' + bad.repaired_from if bad.repaired_from else 'not mended'}"
            )
            for label in bad.affects:
                click.echo(f"    needed by {label}")
        click.echo(f"{done.objects} objects read, {len(done.bad)} damaged")

    emit(done, as_json=as_json, text=text)
    return 1 if any(bad.repaired_from is None for bad in done.bad) else 0


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@json_option
def log(target: Path, as_json: bool) -> None:
    """The versions one tracked path has had: when, who, rows, columns, size."""
    from holdfast.core.identity import iso
    from holdfast.data import log as logs

    found = logs.versions(_repo(), target)
    rows = [(e.md5[:8], iso(e.at), e.author, e.files, e.rows, e.columns, e.size, e.subject) for e in found]
    headers = ["version", "at", "who", "files", "rows", "columns", "bytes", "commit"]
    emit(found, as_json=as_json, text=lambda: table(headers, rows))


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.argument("before", default="HEAD")
@click.argument("after", required=False)
@click.option("--key", help="Column that names a row, to tell changed rows from added and removed ones.")
@json_option
def diff(target: Path, before: str, after: str | None, key: str | None, as_json: bool) -> None:
    """What changed in TARGET between two revisions (BEFORE: HEAD; AFTER: the workspace)."""
    from holdfast.data import diff as diffs

    found = diffs.between(_repo(), target.absolute(), before, after, key=key)

    def text() -> None:
        for mark, names in (("+", found.added), ("~", found.changed), ("-", found.removed)):
            for name in names:
                click.echo(f"{mark} {name}")
        if found.table is not None:
            _show_table(found.table)
        if not (found.added or found.changed or found.removed):
            click.echo("the same")

    emit(found, as_json=as_json, text=text)


def _show_table(found: Any) -> None:
    by = f" by {found.key}" if found.key else ""
    click.echo(
        f"rows {found.rows[0]} → {found.rows[1]}: {found.added} added, {found.removed} removed"
        + (f", {found.changed} changed{by}" if found.changed is not None else "")
    )
    for word, names in (("added", found.columns_added), ("removed", found.columns_removed)):
        if names:
            click.echo(f"columns {word}: {', '.join(names)}")
    for name, (then, now) in found.types_changed.items():
        click.echo(f"type of {name}: {then} → {now}")
    rows = [(m.column, m.distance, *(m.mean or (None, None)), *m.missing) for m in found.moved]
    table(["column", "distance", "mean before", "mean after", "missing before", "missing after"], rows)


@click.command()
@click.argument("stages", nargs=-1)
@click.option("--force", "-f", is_flag=True, help="Run even what did not change.")
@click.option("--single", "-s", is_flag=True, help="Only the named stages, not what they need.")
@click.option("--dry", is_flag=True, help="Say what would run.")
def repro(stages: tuple[str, ...], force: bool, single: bool, dry: bool) -> None:
    """Run the stages of dvc.yaml that changed, in order."""
    from holdfast.data import repro as running

    done = running.repro(_repo(), stages, force=force, single=single, dry=dry, say=say)
    say(f"{len(done)} stages {'would run' if dry else 'done'}" if done else "nothing changed")


@click.command()
@json_option
def dag(as_json: bool) -> None:
    """The stages of dvc.yaml and what each needs."""
    from holdfast.data import repro as running
    from holdfast.data import stages

    repo = _repo()
    found = running.order([s for file in stages.files(repo) for s in stages.load(file, repo.root)])
    needs = running.graph(found)

    def text() -> None:
        for stage in found:
            click.echo(f"{stage.name}" + (f" ← {', '.join(needs[stage.name])}" if needs[stage.name] else ""))

    emit({stage.name: needs[stage.name] for stage in found}, as_json=as_json, text=text)


COMMANDS = {
    "push": push,
    "fetch": fetch,
    "pull": pull,
    "gc": gc,
    "scrub": scrub,
    "log": log,
    "diff": diff,
    "repro": repro,
    "dag": dag,
}
