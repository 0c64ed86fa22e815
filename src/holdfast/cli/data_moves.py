"""The rest of ``holdfast data``: move, keep, compare and remake data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli import data_verbs
from holdfast.cli.data import paths, show
from holdfast.cli.data_verbs import repo_here
from holdfast.cli.output import emit, json_option, progress, say, table

if TYPE_CHECKING:
    from holdfast.data.gc import Referrers
    from holdfast.data.repository import Repository

remote_option = click.option("--remote", "-r", help="Name of the remote; the default one without it.")


def _repo_or_new() -> Repository:
    """As ``repo_here``; in a git work tree one is begun, as ``add`` does."""
    from holdfast.data import repository

    return repository.ensure(Path.cwd()) if repository.in_git(Path.cwd()) else repo_here()


@click.command()
@paths
@remote_option
@click.option("--verify", is_flag=True, help="Read every object back from the remote and hash it.")
@json_option
def push(targets: tuple[Path, ...], remote: str | None, verify: bool, as_json: bool) -> None:
    """Bring objects to the remote: members first, then the manifest that names them."""
    show(data_verbs.push(targets, remote=remote, verify=verify), as_json)


@click.command()
@paths
@remote_option
@json_option
def fetch(targets: tuple[Path, ...], remote: str | None, as_json: bool) -> None:
    """Bring objects from the remote into the cache, verified."""
    show(data_verbs.fetch(targets, remote=remote), as_json)


@click.command()
@paths
@remote_option
@click.option("--force", "-f", is_flag=True, help="Throw away changed files that are in no cache.")
@json_option
def pull(targets: tuple[Path, ...], remote: str | None, force: bool, as_json: bool) -> None:
    """Fetch, then check out. A target may be one file of a tracked folder."""
    show(data_verbs.pull(targets, remote=remote, force=force), as_json)


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

    What the workspace, any branch or tag, any run, registered or serving model needs stays, and who needs it is said.
    """
    from holdfast.core.errors import BadInput
    from holdfast.data import gc as sweeping

    repo, referrers = repo_here(), [_ledger_referrers()]
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
    """Runs, registered and serving models, and the current datasets of the project."""

    def find() -> Iterable[tuple[str, str]]:
        from holdfast.data import repository

        root = repository.project_at(Path.cwd())
        if root is None or not (root / ".holdfast").is_dir():
            return
        from holdfast.lifecycle import needs
        from holdfast.workspace import Workspace

        with Workspace.open(root, create=False) as workspace:
            yield from needs.of_data(workspace)

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
        done = scrubbing.scrub(repo_here(), repair=repair, remote=remote, also_remote=cloud, progress=report)

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

    found = logs.versions(repo_here(), target)
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

    found = diffs.between(repo_here(), target.absolute(), before, after, key=key)

    def text() -> None:
        for mark, names in (("+", found.added), ("~", found.changed), ("-", found.removed)):
            for name in names:
                click.echo(f"{mark} {name}")
        if found.table is not None:
            _show_table(found.table)
        if found.unread is not None:
            say(f"the rows were not compared: {found.unread}")
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
@click.option("--all-pipelines", "-P", is_flag=True, help="The stages of every dvc.yaml, not only of the one here.")
@click.option("--dry", is_flag=True, help="Say what would run.")
def repro(stages: tuple[str, ...], force: bool, single: bool, all_pipelines: bool, dry: bool) -> None:
    """Run the stages of dvc.yaml that changed, in order."""
    from holdfast.data import repro as running
    from holdfast.data import stages as declared

    repo = repo_here()
    found = [stage for file in declared.files(repo) for stage in declared.load(file, repo.root)]
    named = [] if all_pipelines else running.named_from(repo, Path.cwd(), found, stages)
    done = running.repro(repo, named, force=force, single=single, dry=dry, say=say)
    say(f"{len(done)} stages {'would run' if dry else 'done'}" if done else "nothing changed")


@click.command()
@json_option
def dag(as_json: bool) -> None:
    """The stages of dvc.yaml and what each needs."""
    from holdfast.data import repro as running
    from holdfast.data import stages

    repo = repo_here()
    found = running.order([s for file in stages.files(repo) for s in stages.load(file, repo.root)])
    needs = running.graph(found)

    def text() -> None:
        for stage in found:
            mine = needs[stage.address]
            click.echo(stage.address + (f" ← {', '.join(mine)}" if mine else ""))

    emit({stage.address: needs[stage.address] for stage in found}, as_json=as_json, text=text)


force_option = click.option("--force", "-f", is_flag=True, help="Overwrite what is in the way.")
out_option = click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="Where it goes; the same name without it."
)
no_download = click.option("--no-download", is_flag=True, help="Make the pointer only; `pull` brings the data.")


def _show_imported(found: Iterable[Any]) -> None:
    for one in found:
        version = one.md5[:8] if one.md5 else "not downloaded"
        click.echo(f"{one.path}: {version} from {one.origin}" + ("" if one.changed else ": unchanged"))


@click.command("import")
@click.argument("url")
@click.argument("path")
@out_option
@click.option("--rev", help="Branch, tag or commit; its default branch without it.")
@remote_option
@force_option
@no_download
@json_option
def import_(
    url: str, path: str, out: Path | None, rev: str | None, remote: str | None, force: bool, no_download: bool, as_json: bool
) -> None:  # fmt: skip
    """Track PATH of the git repository at URL: DVC's or Holdfast's data in it, or its own files.

    --remote names a remote of that repository, where not its default.
    """
    from holdfast.data import imports

    with progress(f"import {path}") as report:
        done = imports.from_repository(
            _repo_or_new(),
            url,
            path,
            out=out,
            rev=rev,
            remote=remote,
            force=force,
            download=not no_download,
            progress=report,
        )
    emit(vars(done), as_json=as_json, text=lambda: _show_imported([done]))


@click.command("import-url")
@click.argument("url")
@click.argument("out", required=False, type=click.Path(path_type=Path))
@force_option
@no_download
@json_option
def import_url(url: str, out: Path | None, force: bool, no_download: bool, as_json: bool) -> None:
    """Track a file of http(s), s3, gs, azure or remote://NAME/path, or a file or folder of this machine."""
    from holdfast.data import imports

    with progress(f"import {url}") as report:
        done = imports.from_url(_repo_or_new(), url, out=out, force=force, download=not no_download, progress=report)
    emit(vars(done), as_json=as_json, text=lambda: _show_imported([done]))


@click.command()
@paths
@click.option("--rev", help="Branch, tag or commit to follow from now on.")
@click.option("--dry-run", is_flag=True, help="Say what has changed; bring nothing.")
@force_option
@json_option
def update(targets: tuple[Path, ...], rev: str | None, dry_run: bool, force: bool, as_json: bool) -> None:
    """Bring imports (all, or TARGETS) to what their origin holds now."""
    from holdfast.data import imports

    with progress("update") as report:
        done = imports.update(repo_here(), targets, rev=rev, force=force, dry=dry_run, progress=report)

    def text() -> None:
        if dry_run:
            for one in done:
                click.echo(f"{one.path}: {'update available' if one.changed else 'unchanged'}")
        else:
            _show_imported(done)
        if not done:
            say("no imports here")

    emit([vars(one) for one in done], as_json=as_json, text=text)


@click.command()
@click.argument("targets", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--outs", is_flag=True, help="Delete the data in the workspace too.")
@click.option("--force", "-f", is_flag=True, help="Even data whose bytes are in no version.")
@json_option
def remove(targets: tuple[Path, ...], outs: bool, force: bool, as_json: bool) -> None:
    """Stop tracking TARGETS: their pointers go, the data stays.

    A file inside a tracked folder is taken out of the folder's next version, and out of the workspace.
    """
    from holdfast.data import members, snapshot
    from holdfast.data import remove as removing

    repo = repo_here()
    places = [snapshot.locate(Path.cwd(), target) for target in targets]
    inner = [place for place in places if place.suffix != ".dvc" and members.folder_of(repo, place) is not None]
    removed = removing.remove(repo, [p for p in places if p not in inner], outs=outs, force=force)
    changed = members.drop(repo, inner) if inner else []

    def text() -> None:
        for name in removed:
            click.echo(f"{name} removed")
        for one in changed:
            click.echo(
                f"{one.path}: {len(one.removed)} files dropped, now version {one.md5[:8]} with {one.files} files"
            )

    emit({"removed": removed, "changed": [one._asdict() for one in changed]}, as_json=as_json, text=text)


@click.command()
@click.option("--dvc-files", is_flag=True, help="Rewrite pointers and lock files too.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@json_option
def migrate(dvc_files: bool, dry_run: bool, as_json: bool) -> int:
    """Give the cache's objects of DVC 2.x their 3.x names; exit status 1 when a file could not be rewritten whole."""
    from holdfast.data import migrate as migrating

    with progress("migrate") as report:
        done = migrating.migrate(repo_here(), dvc_files=dvc_files, dry=dry_run, progress=report)

    def text() -> None:
        would = "would be " if dry_run else ""
        click.echo(f"{done.objects} objects {would}migrated, {len(done.files)} files {would}rewritten")
        for name, why in done.skipped.items():
            click.secho(f"left as it is: {name}: {why}; get it with `holdfast data pull`", err=True, fg="yellow")

    emit(vars(done), as_json=as_json, text=text)
    return 1 if done.skipped else 0


@click.command()
@paths
@json_option
def unprotect(targets: tuple[Path, ...], as_json: bool) -> None:
    """Make files that are linked to the cache (TARGETS, or all) writable files of their own, to edit them in place."""
    from holdfast.data import unprotect as unprotecting

    done = unprotecting.unprotect(repo_here(), targets)
    emit(done, as_json=as_json, text=lambda: click.echo(f"{len(done)} files are their own now"))


COMMANDS = {
    "import": import_,
    "import-url": import_url,
    "update": update,
    "remove": remove,
    "unprotect": unprotect,
    "migrate": migrate,
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
